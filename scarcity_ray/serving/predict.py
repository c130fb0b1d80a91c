"""Predicts new rows with a run's ensemble: predictions, probabilities, expert weights and uncertainty."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from scarcity_ray.core.federation import Encoding
from scarcity_ray.data.encoding import encode
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.mixture import Mixture
from scarcity_ray.results.results import Results, RunError


class UnknownClient(ValueError):
    """The client did not take part, and there are no labelled rows to make a head for it."""


def predict(
    results: Results,
    table: pa.Table | str | Path,
    *,
    model: str | None = None,
    client: str | int | None = None,
    labelled: pa.Table | str | Path | None = None,
    top: int | None = None,
) -> pa.Table:
    """One row of predictions for each row of the table, in the same order.

    prediction: the label, as the table writes labels. probability_LABEL: calibrated probability of each class. expert_K:
    the weight of expert K. uncertainty_shared, uncertainty_disagreement: the uncertainty that the experts have in common,
    and their disagreement; in nats for classes, as standard deviations in the label's unit for targets.

    model: the ensemble's name, if the run has several. client: the client whose rows these are, by its name in the user's
    data or by its id; its own head predicts. A client that did not take part gets a new head, made from labelled rows
    (`labelled`, or else the table itself); nothing is retrained. Without a client, the router chooses the `top` experts of
    each row, or weighs all of them.

    Raises TableError for rows that cannot be read, UnknownClient, and RunError if the run has no such ensemble.
    """
    name = _the_ensemble(results) if model is None else model
    ensemble, encoding = results.ensemble(name), results.encoding(name)
    x, _, _ = encode(table, encoding, labels=False)
    if client is None:
        mixture, weights = ensemble.predict(torch.from_numpy(x), top=None if top is None else min(top, len(ensemble.heads)))
        by = "the router"
    else:
        mixture, weights, by = _of_client(results, name, ensemble, encoding, x, client, table if labelled is None else labelled)
    return _table(mixture, weights.numpy(), encoding).replace_schema_metadata({"answered_by": by})


def write_predictions(results: Results, table: Path, out: Path, **options: Any) -> tuple[int, str]:
    """Writes predictions for a file's rows to a Parquet file, complete or not at all. Returns their number and a few words on
    which head or experts predicted."""
    found = predict(results, table, **options)
    draft = out.with_name(f".{out.name}.new")
    draft.unlink(missing_ok=True)  # if somebody left a link under this name, do not write through it
    try:
        pq.write_table(found, draft)
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
    names = [name for name in found.column_names if name.startswith("expert_")]
    shares = [pc.mean(found[name]).as_py() for name in names] if found.num_rows else []
    weights = ", ".join(f"expert {k} {share:.0%}" for k, share in enumerate(shares))
    return found.num_rows, f"made by {found.schema.metadata[b'answered_by'].decode()} ({weights or 'no rows'})"


def _the_ensemble(results: Results) -> str:
    names = [name for name in results.models if results.is_ensemble(name)]
    if not names:
        raise RunError(f"{results.directory} has no ensemble; it has {', '.join(results.models) or 'no models'}")
    if len(names) > 1:
        raise RunError(f"{results.directory} has several ensembles ({', '.join(names)}): name one of them")
    return names[0]


def _of_client(
    results: Results, model: str, ensemble: Ensemble, encoding: Encoding, x: NDArray[np.float32], client: str | int, rows: Any
) -> tuple[Mixture, torch.Tensor, str]:
    f = ensemble.features(torch.from_numpy(x))
    known = client_id(encoding, ensemble, client)
    if known is not None:
        moments = results.moments(model, known)
        expert, head = ensemble.of_client(known)
        covariance = None if moments is None else ensemble.own_head(expert, moments)[1]
        return *ensemble.answer(f, expert, head, covariance), f"the head of client {client}"
    own, y, _ = encode(rows, encoding)
    if y is None:
        missing = f"client {client} did not take part, and its rows have no column {encoding.label}, which a new head needs"
        raise UnknownClient(f"{missing}: leave --client out (then the router chooses experts), or give its labelled rows")
    joined = ensemble.join(torch.from_numpy(own), torch.from_numpy(y))
    return *ensemble.answer(f, *joined), f"a new head for client {client}, made from {len(y):,} labelled rows"


def client_id(encoding: Encoding, ensemble: Ensemble, client: str | int) -> int | None:
    """The id of a client, given by its name in the user's data or by its id; None if it did not take part."""
    if encoding.clients is None:
        found = int(client) if str(client).isdecimal() and len(str(client)) < 19 else None
    else:
        found = encoding.clients.index(str(client)) if str(client) in encoding.clients else None
    return found if found in ensemble.client_id.tolist() else None  # a client that was unlearned is no longer in the list


def _table(mixture: Mixture, weights: NDArray[np.float64], encoding: Encoding) -> pa.Table:
    columns: dict[str, Any] = {}
    if encoding.classes is None:
        columns["prediction"] = mixture.mean[:, 0].numpy() * encoding.label_scale + encoding.label_mean
        unit = encoding.label_scale
        uncertain = {name: unit * getattr(mixture, name)[:, 0].sqrt().numpy() for name in ("shared", "disagreement")}
    else:
        columns["prediction"] = pa.array([encoding.classes[place] for place in mixture.mean.argmax(1).tolist()])
        columns |= {f"probability_{label}": mixture.mean[:, place].numpy() for place, label in enumerate(encoding.classes)}
        uncertain = {name: getattr(mixture, name).numpy() for name in ("shared", "disagreement")}
    columns |= {f"expert_{k}": weights[:, k] for k in range(weights.shape[1])}
    return pa.table(columns | {f"uncertainty_{name}": values for name, values in uncertain.items()})
