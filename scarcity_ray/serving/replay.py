"""What a strategy learned from clients' messages, learned again from the kept messages of the other clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from scarcity_ray.actors.expert import Expert
from scarcity_ray.core.computing import COMPUTING_VERSION
from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, State
from scarcity_ray.core.history import History
from scarcity_ray.core.insights import of_table
from scarcity_ray.ensemble.class_means import ClassMeans, linear_head
from scarcity_ray.ensemble.ensemble import Ensemble
from scarcity_ray.ensemble.heads import head_state
from scarcity_ray.results.results import ENSEMBLE, Results
from scarcity_ray.results.screened import named
from scarcity_ray.strategies.prototypes import Prototypes
from scarcity_ray.strategies.represented import Represented
from scarcity_ray.strategies.sf_hfe import SfHfe
from scarcity_ray.training.problem import Problem

REPRESENTATION = "representation."


class CannotReplay(ValueError):
    """Why a model cannot be learned again from what the run has kept."""


@dataclass(frozen=True)
class Replayed:
    """A model as the other clients' messages give it.

    tensors: all of its file. columns: of the clients table by round, name -> `[clients]`. learned: what summary.json says of it.
    stays: what of the client is still in it, a sentence each.
    """

    tensors: dict[str, Tensor]
    columns: dict[int, Mapping[str, NDArray[Any]]]
    learned: dict[str, Any]
    stays: list[str]


def replay(results: Results, name: str, client: int) -> Replayed:
    """A saved model of sf_hfe, afl or prototypes, learned again round by round without the messages of one client.

    The representation is the saved one: the other clients' messages were made with it. A client's own head is made from its newest
    message; one that never sent a message gets the head of its expert, or of all clients.
    Raises CannotReplay; RunError for files that are not what a run leaves.
    """
    tensors, metadata = results.saved(name)
    whose = [("strategy", "=", str(metadata["title"])), ("seed", "=", int(metadata["seed"]))]
    sent = results.table("insights", filters=whose)
    served = [tensors[key].numpy() for key in (f"{ENSEMBLE}client_id", "client_id") if key in tensors]
    ids = np.concatenate([sent["client_id"].to_numpy(), *served])
    strategy, problem = results.strategy(name, max(2, int(ids.max(initial=0)) + 1))
    ensemble = f"{ENSEMBLE}heads" in tensors
    if not isinstance(strategy, SfHfe if ensemble else Represented):
        raise TypeError(f"{strategy.kind_title} makes no such model from messages")
    if (version := results.environment.get("computing")) != COMPUTING_VERSION:
        raise CannotReplay(
            f"its messages are of version {version} of what computes, and this is {COMPUTING_VERSION}: unlearn with the version that ran it"
        )
    if strategy.representation.rounds:
        raise CannotReplay(f"its trunk was trained by {strategy.representation.rounds} rounds of fed_avg in which the client took part")
    rounds = sorted(set(results.table("rounds", ["round"], whose)["round"].to_pylist()))
    history, state, columns, learned = History(), ServerState(), {}, {}
    for round, batch in _without(sent, rounds, strategy, problem, client):
        history.add(round, batch)
        update = strategy.server_update(RoundContext(problem, round), state, Aggregate(history=history))
        state = strategy.with_experts(update, {k: Expert(k).fit(*order) for k, order in update.experts.items()})
        if update.learned:
            columns[round], learned = update.clients, dict(update.learned)
    made = strategy.saved(problem, state)
    if not made:
        raise CannotReplay("no other client has sent what it is learned from")
    stays = _bandwidth(name, made, tensors) if strategy.representation.asked else []
    stays += _choice(name, learned)
    made |= {key: value for key, value in tensors.items() if key.startswith(REPRESENTATION)}
    if isinstance(strategy, SfHfe):
        made |= _of_ensemble(results.ensemble(name), strategy, problem, history, made, client)
    elif isinstance(strategy, Prototypes) and "client_id" in tensors:
        others = tensors["client_id"][tensors["client_id"] != client]
        made |= {"client_id": others} | head_state(_own_means(problem, state.broadcast, history, strategy.column, others.tolist()))
    names = results.encoding(name).clients
    return Replayed(made, columns, named(learned, lambda who: str(who) if names is None else names[who]), stays)


def _without(
    sent: pa.Table, rounds: list[int], strategy: Represented, problem: Problem, client: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The other clients' messages of each round. Raises CannotReplay where they are not there, or are too few to learn from."""
    for round in rounds:
        payload = strategy.payload(problem, round)
        rows = sent.filter(pc.equal(sent["round"], round))
        if any(name not in rows.column_names or rows[name].null_count for name in payload):
            raise CannotReplay("its clients' messages were not kept: they were more than a run writes down")
        others = rows.filter(pc.not_equal(rows["client_id"], client))
        if len(others) == 1:
            raise CannotReplay(f"a single other client sent a message in round {round}, and at least 2 are needed")
        yield round, of_table(others, payload)


def _bandwidth(name: str, made: State, saved: State) -> list[str]:
    """Says what bandwidth or centre stays, where the other clients' surveys and pilots give another one than was used."""
    places = [f"{REPRESENTATION}centre" in part for part in (made, saved)]
    said = []
    if all(places) and not torch.equal(*(part[f"{REPRESENTATION}centre"] for part in (made, saved))):
        said.append(
            f"models/{name}.safetensors: the mean of its inputs, to which the client's survey contributed. The other clients' messages "
            "were made with it"
        )
    if f"{REPRESENTATION}frequencies" not in made:
        return said
    new, old = (part[f"{REPRESENTATION}frequencies"] for part in (made, saved))
    if torch.equal(new, old):
        return said
    ratio = float((new.norm() / old.norm()).double())
    return [
        *said,
        f"models/{name}.safetensors: the bandwidth of its Fourier features, to which the client's survey contributed. The other "
        f"clients' messages were made with it; without the client it would be {1 / ratio:.4g} times as large",
    ]


def _choice(name: str, learned: Mapping[str, Any]) -> list[str]:
    """Says that a choice of features stays: who answered the trial did so with heads to which all clients contributed."""
    if "representation" not in learned:
        return []
    return [
        f"models/{name}.safetensors: the choice of its features, {learned['representation']['chosen']}. The other clients' answers chose "
        "again, but they came from heads to which the client contributed"
    ]


def _of_ensemble(ensemble: Ensemble, strategy: SfHfe, problem: Problem, history: History, made: State, client: int) -> dict[str, Tensor]:
    """The clients of an ensemble without one of them, and their own heads where they have some."""
    stays = ensemble.client_id[ensemble.client_id != client]
    members = made[f"{ENSEMBLE}expert_id"][stays]
    found = {f"{ENSEMBLE}client_id": stays, f"{ENSEMBLE}expert_id": members}
    if ensemble.personal is None:
        return found
    relearned = Ensemble.of(ensemble.representation, ensemble.task, {**made, **found})
    packing, newest = strategy.packing(problem), history.latest("num_samples", strategy.column)
    place, own = {who: i for i, who in enumerate(newest["client_id"].tolist())}, []
    for who, k in zip(stays.tolist(), members.tolist(), strict=True):
        head = relearned.heads[k]
        if strategy.personal and who in place:
            mine = slice(place[who], place[who] + 1)
            moments = packing.unpack(newest[strategy.column][mine], newest["num_samples"][mine].astype(np.int64))
            head = relearned.own_head(k, moments)[0]
        own.append(head / relearned.scale[k])
    return found | {"client_id": stays} | head_state(torch.stack(own))


def _own_means(problem: Problem, broadcast: State, history: History, column: str, clients: list[int]) -> Tensor:
    """The heads `[clients, width + 1, classes]` that clients make from their own class means and those of all."""
    means, shares = broadcast["means"].double(), broadcast["shares"].double()
    known = ClassMeans(means, shares, *(float(broadcast[name]) for name in ("temperature", "differ", "loyalty")))
    newest = history.latest(column)
    sent = dict(
        zip(newest["client_id"].tolist(), torch.tensor(newest[column]).reshape(-1, problem.outputs, means.shape[1] + 1), strict=True)
    )
    nothing = torch.zeros(problem.outputs, means.shape[1] + 1)
    return torch.stack([linear_head(known, sent.get(who, nothing)) for who in clients])
