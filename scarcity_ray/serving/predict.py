"""Predicts new rows with a saved model of a run: predictions and probabilities; of an ensemble, expert weights and uncertainty too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.core.federation import Encoding
from scarcity_ray.data.encoding import columns, encode, file_name
from scarcity_ray.data.table import TableError
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.mixture import Mixture
from scarcity_ray.results.rebuild import of_metadata
from scarcity_ray.results.results import Results, RunError
from scarcity_ray.serving.clients import Clients

Rows: TypeAlias = pa.Table | str | Path
"""Rows in memory, or a Parquet, CSV or tab-separated file."""


class OptionError(ValueError):
    """An option does not fit the model, the run or another option."""


class UnknownClient(OptionError):
    """The client did not take part, and no labelled rows were given to make a head for it."""


def predict(
    results: Results,
    table: Rows,
    *,
    model: str | None = None,
    client: str | int | None = None,
    labelled: Rows | None = None,
    top: int | None = None,
    keep: Sequence[str] = (),
) -> pa.Table:
    """One row of predictions for each row of the table, in the same order. Nothing is trained. A label column is not read.

    First the columns `keep` of the table, unchanged: with their types, or as text where the table is a text file. prediction: the
    label, as the table writes labels. probability_LABEL: probability of each class. An ensemble adds expert_K: the weight of expert
    K; and uncertainty_shared, uncertainty_disagreement: the uncertainty that the experts have in common, and their disagreement;
    in nats for classes, as standard deviations in the label's unit for targets. An ensemble's probabilities are calibrated.
    The schema's metadata say who answered (answered_by), and which rows had missing values or new words (notes, a list in JSON).

    model: a saved model's name; if left out, the run's only ensemble, or the model of its only strategy.
    client: the client whose rows these are, by its name in the user's data, or by its id where the data name no clients. Its own
    head or model predicts; where one model serves all clients, that one does. Without a client, an ensemble's router chooses the
    `top` experts of each row, or weighs all of them (None).
    labelled: labelled rows of a client that did not take part, whatever client they name. The ensemble makes a head from these
    rows alone. The uncertainty contains the posterior variance of this head.

    Raises TableError for rows that cannot be read, and for rows that are both to be predicted and labelled; UnknownClient, with the
    nearest name, for a client that did not take part (or was unlearned) where `labelled` is missing; OptionError for options that do
    not fit; RunError if the run has no such model, or has none that serves all clients where `client` is missing.
    """
    name = _the_model(results, model)
    encoding = results.encoding(name)
    ensemble = results.ensemble(name) if results.is_ensemble(name) else None
    known = _client(results, name, encoding, ensemble, client, labelled)
    if top is not None and (ensemble is None or client is not None or labelled is not None):
        raise OptionError("--top is for an ensemble's router, which chooses experts where neither --client nor --labelled is given")
    rows = encode(table, encoding, labels=False)
    x, notes = torch.from_numpy(rows.x), rows.notes
    kept = columns(table, list(dict.fromkeys(keep)))
    whose = "" if client is None else f" for client {client}"
    if ensemble is None:
        answers, by = _by_model(results, name, encoding, x, known, whose)
    elif labelled is not None:
        own, y, more = _labelled(labelled, encoding, table, x)
        notes += tuple(f"labelled rows: {note}" for note in more)
        answers = _by_ensemble(encoding, *ensemble.answer(ensemble.features(x), *ensemble.join(own, y)))
        by = f"a new head{whose}, made from {len(y):,} labelled rows"
    elif known is not None:
        answers, by = _by_ensemble(encoding, *_by_own_head(results, name, ensemble, x, known)), f"the head of client {client}"
    else:
        answers = _by_ensemble(encoding, *ensemble.predict(x, top=None if top is None else min(top, len(ensemble.heads))))
        by = "the router"
    return _beside(kept, answers, file_name(table)).replace_schema_metadata({"answered_by": by, "notes": json.dumps(notes)})


def _the_model(results: Results, asked: str | None) -> str:
    names = results.models
    if not names or (asked is not None and asked not in names):
        missing = "no models" if asked is None else f"no model {asked!r} (it has {', '.join(names) or 'none'})"
        raise RunError(f"{results.directory} has {missing}: a strategy that learns no model saves none, nor does a run before its end")
    if asked is not None:
        return asked
    ensembles = [name for name in names if results.is_ensemble(name)]
    choice = ensembles or names
    if len(choice) > 1:
        kind = "ensembles" if ensembles else "models"
        raise RunError(f"{results.directory} has several {kind} ({', '.join(choice)}): name one of them (--model)")
    strategies = results.scenario.get("strategies")
    if not ensembles and not (isinstance(strategies, list) and len(strategies) == 1):
        raise RunError(f"{results.directory} has no ensemble among several strategies: to predict with {choice[0]}, name it (--model)")
    return choice[0]


def _client(
    results: Results, model: str, encoding: Encoding, ensemble: Ensemble | None, client: str | int | None, labelled: Rows | None
) -> int | None:
    """The id of a client that took part; None for one that joins by labelled rows, or if no client is named."""
    if labelled is not None and ensemble is None:
        raise OptionError(f"{model} is no ensemble, and makes no head from labelled rows: leave --labelled out, or name another --model")
    if client is None:
        return None
    clients = Clients(results, encoding, results.client_ids(model) if ensemble is None else ensemble.client_id.tolist())
    known = clients.find(client)
    if known is not None and labelled is not None:
        raise OptionError(f"client {client} took part in {results.directory}, and its own head predicts: leave --labelled out")
    if known is None and labelled is None:
        hint = "give it labelled rows (--labelled), or leave --client out" if ensemble else "leave --client out"
        raise UnknownClient(f"{clients.unknown(client)}. For a client that did not take part, {hint}")
    return known


def _by_ensemble(encoding: Encoding, mixture: Mixture, weights: Tensor) -> dict[str, Any]:
    found = _answers(mixture.mean, encoding) | {f"expert_{k}": column.numpy() for k, column in enumerate(weights.T)}
    for part in ("shared", "disagreement"):
        value = getattr(mixture, part)
        found[f"uncertainty_{part}"] = (value if encoding.classes else encoding.label_scale * value[:, 0].sqrt()).numpy()
    return found


def _by_own_head(results: Results, name: str, ensemble: Ensemble, x: Tensor, known: int) -> tuple[Mixture, Tensor]:
    """With the posterior covariance of the head where the client's moments were kept."""
    moments = results.moments(name, known)
    expert, head = ensemble.of_client(known)
    covariance = None if moments is None else ensemble.own_head(expert, moments)[1]
    return ensemble.answer(ensemble.features(x), expert, head, covariance)


def _labelled(rows: Rows, encoding: Encoding, table: Rows, x: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Inputs and labels, one row at least, and notes on them. table, x: the rows to be predicted, and their inputs.

    Raises TableError as `predict` does: for the same file, or for several rows whose inputs are those of the table, in order.
    """
    read = encode(rows, encoding)
    inputs, y = read.x, read.y
    if y is None:
        raise TableError(file_name(rows), encoding.label, None, "the table has no such column, and a new head is made from labels")
    if not len(y):
        raise TableError(file_name(rows), None, None, "the table has no rows, and a new head is made from one at least")
    own = torch.from_numpy(inputs)
    files = not isinstance(rows, pa.Table) and not isinstance(table, pa.Table)
    if (files and Path(rows).samefile(table)) or (len(x) > 1 and torch.equal(own, x)):
        raise TableError(file_name(rows), None, None, "its rows are those to be predicted: give labelled rows that are not among them")
    return own, torch.from_numpy(y), read.notes


def _by_model(results: Results, name: str, encoding: Encoding, x: Tensor, known: int | None, whose: str) -> tuple[dict[str, Any], str]:
    """By the one model of all clients, or by a client's own; and who predicts, in words."""
    module = results.model(name, client=known)
    with torch.no_grad():
        outputs = module(x).double()
    tensors, metadata = results.saved(name)
    strategy, problem = of_metadata(metadata, np.ones(2, dtype=np.int64))
    steps = strategy.adaptation(problem.local, problem.samples)
    own = "client_id" in tensors  # saved as it was tested
    before = "" if own or steps is None or not steps.any() else ", without the local steps by which clients adapt it"
    return _answers(outputs.softmax(1) if encoding.classes else outputs, encoding), f"model {name}{whose}{before}"


def _answers(mean: Tensor, encoding: Encoding) -> dict[str, NDArray[Any] | pa.Array]:
    """mean: probabilities `[n, classes]`, or standardised targets `[n, 1]`."""
    if encoding.classes is None:
        return {"prediction": mean[:, 0].numpy() * encoding.label_scale + encoding.label_mean}
    labels = pa.array([encoding.classes[place] for place in mean.argmax(1).tolist()], pa.array(encoding.classes).type)
    return {"prediction": labels} | {f"probability_{label}": mean[:, place].numpy() for place, label in enumerate(encoding.classes)}


def _beside(kept: pa.Table, predictions: dict[str, Any], file: str) -> pa.Table:
    """The columns of both. Raises TableError if both have one of the same name."""
    for name in kept.column_names:
        if name in predictions:
            raise TableError(file, name, None, "the predictions have a column of that name too: rename it in the table to keep it")
    return pa.table(dict(zip(kept.column_names, kept.columns, strict=True)) | predictions)
