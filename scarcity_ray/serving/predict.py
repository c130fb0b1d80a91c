"""New rows through a run's ensemble: predictions, probabilities, who answered, and how uncertain that is."""

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
    """A client that did not take part, and has no labelled rows to make a head from either."""


def predict(
    results: Results,
    table: pa.Table | str | Path,
    *,
    model: str | None = None,
    client: str | int | None = None,
    labelled: pa.Table | str | Path | None = None,
    top: int | None = None,
) -> pa.Table:
    """A row for each of the table's, in its order.

    prediction: the label in the table's own terms. probability_LABEL: of each class, calibrated. expert_K: the weight with
    which expert K answered. uncertainty_shared, uncertainty_disagreement: what the experts that answered share, and what
    they disagree on; in nats for classes, as standard deviations in the label's unit for targets.

    model: the ensemble's name, where the run has several. client: whose rows they are, by its name in the user's data or
    by its id: its own head answers. A client that did not take part gets a head of its own from rows with labels:
    `labelled`, or the table's own; nothing is retrained. Without a client the router sends each row to its `top`
    experts, or to all by their weight.

    Raises TableError for rows that cannot be read, UnknownClient, RunError where the run has no such ensemble.
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
    """Predicts a file's rows into a Parquet file, whole or not at all; how many they are, and in a few words who answered."""
    found = predict(results, table, **options)
    draft = out.with_name(f".{out.name}.new")
    draft.unlink(missing_ok=True)  # never through a link that somebody left under this name
    try:
        pq.write_table(found, draft)
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
    names = [name for name in found.column_names if name.startswith("expert_")]
    shares = [pc.mean(found[name]).as_py() for name in names] if found.num_rows else []
    asked = ", ".join(f"expert {k} {share:.0%}" for k, share in enumerate(shares))
    return found.num_rows, f"answered by {found.schema.metadata[b'answered_by'].decode()} ({asked or 'no rows'})"


def _the_ensemble(results: Results) -> str:
    names = [name for name in results.models if results.is_ensemble(name)]
    if len(names) != 1:
        found = f"several ({', '.join(names)}): name one of them" if names else f"none; it has {', '.join(results.models) or 'no models'}"
        raise RunError(f"{results.directory} has {'' if names else 'no ensemble: '}{found}")
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
        told = f"client {client} did not take part, and there is no column {encoding.label} to make a head of its own from"
        raise UnknownClient(f"{told}: leave --client out (the router answers), or give its labelled rows")
    joined = ensemble.join(torch.from_numpy(own), torch.from_numpy(y))
    return *ensemble.answer(f, *joined), f"a new head for client {client}, made from {len(y):,} labelled rows"


def client_id(encoding: Encoding, ensemble: Ensemble, client: str | int) -> int | None:
    """The id of a client by its name in the user's data, or by the id itself; None for one that did not take part."""
    if encoding.clients is None:
        found = int(client) if str(client).isdecimal() and len(str(client)) < 19 else None
    else:
        found = encoding.clients.index(str(client)) if str(client) in encoding.clients else None
    return found if found in ensemble.client_id.tolist() else None  # one that was unlearned is not known any more


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
