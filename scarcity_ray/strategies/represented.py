"""Strategies whose clients send one message about the features of their rows, from which a linear head is made.

What comes before it: a representation that needs a bandwidth takes a round (a survey up, a seed and the bandwidth down) or
two (then a pilot, see ensemble.pilot), a trunk may be trained by rounds of FedAvg. See ensemble.representation.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.history import History
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.ensemble import pilot
from scarcity_ray.ensemble.heads import linear_head, represented
from scarcity_ray.ensemble.moments import Moments, Packing
from scarcity_ray.ensemble.representation import (
    Automatic,
    Identity,
    RandomFourier,
    Representation,
    Trunk,
    bandwidth,
    centre,
    far,
    features,
    fourier,
    survey,
)
from scarcity_ray.scarcity.answer import Answer
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.strategies.revealed import MOMENTS
from scarcity_ray.training.flops import counts
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task

_FARTHEST = 10.0  # times as far from 0 as from each other inputs may lie without a centre


class Represented(Strategy):
    """Each such strategy defines the message, its length, and what is learned from all messages.

    The broadcast by name, 4 bytes a number: bandwidth (after a survey, with the seed: 8 and 4 bytes), centre (where inputs lie far from 0),
    or trunk (its weights, where they are not the seed's); then what the strategy adds. What a client has received before is not sent again.
    """

    server_half: ClassVar[Literal["meta_learner"]] = "meta_learner"
    column: ClassVar[str]
    """The payload column of its message."""

    fewest: ClassVar[int] = 1
    """Messages that it needs to learn anything, where there are as many clients."""
    chooses: ClassVar[bool] = False
    """Whether it can choose among the blocks of `{kind: auto}`."""

    representation: Annotated[Representation, Field(description="the fixed features that heads are linear in")] = RandomFourier()
    refresh: Annotated[
        float,
        Field(gt=0, le=1, description="with scarcity: share of the clients whose messages a round waits for; then all is learned again"),
    ] = 0.25

    def numbers(self, problem: Problem) -> int:
        """The length of a message."""
        raise NotImplementedError

    def message(self, problem: Problem, f: Tensor, y: Tensor) -> Tensor:
        """What a client with features `[n, width]` says of its rows: float32 `[numbers]`."""
        raise NotImplementedError

    def trusted(self, surveys: NDArray[np.float32], samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`[k]`, which of the clients that sent surveys `[k, d + 1]` have a say in the bandwidth: all."""
        return np.ones(len(surveys), dtype=bool)

    def learned(
        self, problem: Problem, state: ServerState, ids: NDArray[np.int64], samples: NDArray[np.int64], rows: NDArray[np.float32]
    ) -> ServerUpdate:
        """What is learned from the messages `[k, numbers]`, k at least 1, of clients `ids [k]` with `samples [k]` training rows."""
        raise NotImplementedError

    # -- the model ---------------------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> Problem:
        """A linear head on the representation; its shape stays that of the clients' inputs.

        Raises SpecError for a representation that the strategy cannot choose.
        """
        if isinstance(self.representation, Automatic) and not self.chooses:
            message = "only sf_hfe compares inputs with waves; allowed here: identity, random_fourier, trunk"
            raise SpecError(("representation", "kind"), "auto", message)
        width = self.representation.width(problem)
        made = make_problem(
            linear_head(width, problem.outputs),
            local=problem.local,
            task=problem.task,
            outputs=problem.outputs,
            shape=(width,),
            samples=problem.samples,
            groups=problem.groups,
            seed=problem.seed,
        )
        return replace(made, shape=problem.shape, base=problem)

    def width(self, problem: Problem) -> int:
        """Features of a row."""
        return int(problem.layout.slices[0].shape[1])

    def known(self, broadcast: State) -> bool:
        """Whether the representation is."""
        return not self.representation.asked or ("bandwidth" if fourier(self.representation) else "centre") in broadcast

    def mapping(self, problem: Problem, broadcast: State) -> nn.Module:
        """The representation, `[n, *shape] -> [n, width]`, which is not trained."""
        assert problem.base is not None
        return self.representation.module(problem.base, broadcast).requires_grad_(False)

    def view(self, problem: Problem, state: ServerState, shards: Shards) -> Shards:
        """Each row's features; zeros while the representation is not yet known (the head is zero then as well)."""
        width = self.width(problem)
        if not self.known(state.broadcast):
            return Shards(np.broadcast_to(np.float32(0), (len(shards.x), width)), shards.y, shards.starts)
        return features(self.mapping(problem, state.broadcast), shards, width)

    def module(self, problem: Problem, state: ServerState) -> nn.Module:
        """Representation and head, `[n, *shape] -> [n, outputs]`."""
        return represented(self.mapping(problem, state.broadcast), self.width(problem), problem.outputs)

    def flops(
        self, problem: Problem, state: ServerState, round: int, ids: NDArray[np.int64], steps: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Of a survey two for each number; of a pilot's and the strategy's message the features of each row, and what is made of them."""
        samples, inputs = problem.samples[ids].astype(np.float64), math.prod(problem.shape)
        (column,) = self.payload(problem, round)
        if column == "survey":
            return 2 * inputs * samples
        if column == "pilot":
            return len(pilot.MULTIPLES) * samples * (2 * inputs * pilot.FEATURES + of_moments(pilot.FEATURES + 1, problem.outputs))
        return self.made_of(problem, samples) + self.feature_flops(problem, state, samples)

    def feature_flops(self, problem: Problem, state: ServerState, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Operations from inputs to features, of clients with so many rows."""
        return samples * float(counts(self.mapping(problem, state.broadcast), problem.shape)[0])

    def made_of(self, problem: Problem, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Operations from features to the message, of clients with so many rows: a sum of features."""
        return samples * self.width(problem)

    def memory(self, problem: Problem) -> int:
        """A row's features, and sums of their products, float64."""
        return 8 * (self.width(problem) + 1) ** 2

    # -- rounds ------------------------------------------------------------------------------------------------------

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        """As Strategy.refused, and inputs far from 0 as features."""
        found, spec = super().refused(problem, federation), self.representation
        if isinstance(spec, Identity) and not spec.centre and len(federation.train.x):
            rows = federation.train.x.reshape(len(federation.train.x), -1)
            away, apart = float(np.square(rows.mean(0, dtype=np.float64)).sum()), float(rows.var(0, dtype=np.float64).sum())
            if away > _FARTHEST**2 * apart > 0:
                why = f"inputs lie {math.sqrt(away / apart):,.0f} times as far from 0 as from each other, and their moments lose that"
                found.append(SpecError(("representation", "centre"), False, f"{why}: set it to true, or standardise the inputs"))
        return found

    @property
    def answer(self) -> Answer:
        """It waits for clients that have not sent yet, where they send once."""
        whole = isinstance(self.representation, Automatic)  # features are chosen once, from the answers of all that came
        return Answer(collects=(1.0 if whole else self.refresh) if self.ends_early else None, message=self.column, until_heard=True)

    def planned_steps(self, problem: Problem, state: ServerState) -> NDArray[np.int64]:
        """No training."""
        return np.zeros_like(problem.samples)

    def preparation(self, problem: Problem) -> tuple[Strategy, Problem, int] | None:
        """FedAvg on the whole model, where the trunk is to be trained."""
        rounds = self.representation.rounds
        if not rounds:
            return None
        assert problem.base is not None
        return FedAvg(schedule=self.schedule), problem.base, rounds

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        """A trunk's weights, or a seed (8 bytes); the others need nothing before the first messages.

        Raises SpecError for weights that cannot be read.
        """
        if not isinstance(self.representation, Trunk):
            return ServerState(new_bytes=8 if fourier(self.representation) and not self.representation.asked else 0)
        assert problem.base is not None
        if self.representation.weights is None and prepared is None:
            return ServerState(new_bytes=8)
        row = self.representation.load(problem.base) if prepared is None else prepared.broadcast["x"]
        return ServerState({"trunk": row}, new_bytes=problem.base.bytes)

    def payload(self, problem: Problem, round: int) -> dict[str, int]:
        """First what the representation needs to know (a survey, a pilot), then the message."""
        asked = self.representation.asked
        if round > len(asked):
            return {self.column: self.numbers(problem)}
        return {"survey": {"survey": math.prod(problem.shape) + 1}, "pilot": {"pilot": pilot.numbers(problem)}}[asked[round - 1]]

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        """Sums over each client's rows (as they are, not their features)."""
        if not self.known(broadcast):
            if "spread" not in broadcast:
                return ClientResult(payload={"survey": torch.stack([survey(task.rows(i)[0]) for i in range(task.k)])})
            spread = float(broadcast["spread"])
            return ClientResult(payload={"pilot": torch.stack([pilot.message(task.problem, spread, *task.rows(i)) for i in range(task.k)])})
        to_features, rows = self.mapping(task.problem, broadcast), []
        for i in range(task.k):
            x, y = task.rows(i)
            rows.append(self.message(task.problem, to_features(x), y))
        return ClientResult(payload={self.column: torch.stack(rows)})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        """From surveys the representation, from messages what the strategy makes of them."""
        problem, history = context.problem, aggregate.history
        (column,) = self.payload(problem, context.round)
        ids, samples, rows = messages(history, context.round, column)
        if not len(rows):
            return ServerUpdate(replace(state, new_bytes=0))
        if column == self.column and self.ends_early:
            ids, samples, rows = all_messages(history, len(self.representation.asked) + 1, context.round, column)
        if column == self.column and len(ids) < min(self.fewest, problem.population):
            return ServerUpdate(replace(state, new_bytes=0))
        if column == "survey":
            trusted = self.trusted(rows, samples)
            return ServerUpdate(self._surveyed_state(problem, state, rows[trusted], samples[trusted]))
        if column == "pilot":
            who, surveyed, surveys = messages(history, context.round - 1, "survey")
            trusted = self.trusted(surveys, surveyed)
            heard = ~np.isin(ids, who[~trusted])
            best = bandwidth(surveys[trusted], surveyed[trusted])
            if heard.sum() > 1:  # one could not be left out
                best = pilot.best(problem, best, rows[heard], samples[heard])
            return ServerUpdate(extended(state, {"bandwidth": _scalar(best)}, 4))
        return to_be_continued(self.learned(problem, state, ids, samples, rows), context)

    def _surveyed_state(
        self, problem: Problem, state: ServerState, surveys: NDArray[np.float32], samples: NDArray[np.int64]
    ) -> ServerState:
        """With what surveys say: the centre of inputs that are features themselves and lie far from 0, and a bandwidth with the seed."""
        middle = torch.from_numpy(centre(surveys, samples).astype(np.float32))
        waves = fourier(self.representation)
        if waves is None:
            return extended(state, {"centre": middle}, middle.nbytes)
        name = "bandwidth" if self.representation.asked[-1] == "survey" else "spread"
        new: dict[str, Tensor] = {name: _scalar(bandwidth(surveys, samples))}
        if waves.beside(math.prod(problem.shape)) and far(surveys, samples):
            new["centre"] = middle
        return extended(state, new, 8 + 4 + (middle.nbytes if "centre" in new else 0))


class SendsMoments(Represented):
    """Each client's message is the moments of its rows, packed (see ensemble.moments)."""

    reveals: ClassVar[str] = MOMENTS

    column: ClassVar[str] = "moments"

    def packing(self, problem: Problem) -> Packing:
        """How a client's moments travel."""
        return Packing(self.width(problem) + 1, problem.outputs, problem.task)

    def numbers(self, problem: Problem) -> int:
        return self.packing(problem).size

    def message(self, problem: Problem, f: Tensor, y: Tensor) -> Tensor:
        return self.packing(problem).pack(Moments.of(f, y, problem.task, problem.outputs))

    def made_of(self, problem: Problem, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """The moments' products, and in advance the solve of an own head: 2 r^2 width + r^3 / 3 with r = min(rows, width)."""
        width = self.packing(problem).width
        rank = np.minimum(samples, width)
        return samples * of_moments(width, problem.outputs) + rank**2 * (2 * width + rank / 3)


def of_moments(width: int, outputs: int) -> int:
    """Operations of a row's moments: half of the products of features, as the other half is the same, and those with the targets."""
    return width**2 + 2 * width * outputs


def extended(state: ServerState, broadcast: State, new_bytes: int) -> ServerState:
    """A state whose broadcast has more, or newer, values: new_bytes of them go down."""
    return ServerState({**state.broadcast, **broadcast}, state.each, state.private, new_bytes)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def to_be_continued(update: ServerUpdate, context: RoundContext) -> ServerUpdate:
    """The update, which goes down to all clients, but does not end the strategy while clients may yet send."""
    more = context.plan is not None and context.plan.more
    return replace(update, deliver=update.deliver or update.done, done=update.done and not more)


def all_messages(
    history: History | None, first: int, last: int, column: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """As `messages`, of all rounds from the first to the last that have the column, in which each client sends once at most."""
    assert history is not None
    there = [round for round in history.rounds if first <= round <= last and column in history.query(rounds=round, clients=[]).column_names]
    parts = [messages(history, round, column) for round in there]
    ids, samples, rows = (np.concatenate([part[place] for part in parts if len(part[0])]) for place in range(3))
    order = np.argsort(ids)
    return ids[order], samples[order], rows[order]


def messages(history: History | None, round: int, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Of a round's messages by rising client id: who `[k]`, training rows of each `[k]`, and the payload `[k, size]`."""
    assert history is not None
    table = history.query(rounds=round, columns=["client_id", "num_samples", column])
    ids, samples = (table[name].to_numpy().astype(np.int64) for name in ("client_id", "num_samples"))
    values = table[column].combine_chunks().flatten().to_numpy()
    return ids, samples, values.reshape(len(samples), -1) if len(samples) else np.zeros((0, 0), dtype=np.float32)
