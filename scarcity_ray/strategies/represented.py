"""Strategies whose clients send one message about the features of their rows, from which a linear head is made.

What comes before it: a representation that needs a bandwidth takes a round (a survey up, a seed and the bandwidth down) or
two (then a pilot, see ensemble.pilot), a trunk may be trained by rounds of FedAvg. See ensemble.representation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from scarcity_ray.core.federation import Shards
from scarcity_ray.core.strategy import Guidance, InsightStrategy, Lesson, State, WeightStrategy
from scarcity_ray.ensemble import pilot
from scarcity_ray.ensemble.heads import linear_head, represented
from scarcity_ray.ensemble.representation import RandomFourier, Representation, Trunk, bandwidth, features, survey
from scarcity_ray.strategies.fed_avg import FedAvg
from scarcity_ray.training.problem import Problem, make_problem
from scarcity_ray.training.task import Task


class Represented(InsightStrategy):
    """What a message is, how long, and what is learned from all of them, each such strategy says itself.

    Guidance by name, 4 bytes a number: bandwidth (after a survey, with the seed: 8 and 4 bytes), or trunk (its weights, where
    they are not the seed's); then what the strategy adds. What a client was told before is not sent again.
    """

    column: ClassVar[str]
    """The payload column of its message."""

    representation: Annotated[Representation, Field(description="the fixed features that heads are linear in")] = RandomFourier()

    def numbers(self, problem: Problem) -> int:
        """The length of a message."""
        raise NotImplementedError

    def message(self, problem: Problem, f: Tensor, y: Tensor) -> Tensor:
        """What a client with features `[n, width]` says of its rows: float32 `[numbers]`."""
        raise NotImplementedError

    def lesson(self, problem: Problem, ids: NDArray[np.int64], samples: NDArray[np.int64], rows: NDArray[np.float32]) -> Lesson:
        """What is learned from the messages `[k, numbers]`, k at least 1, of clients `ids [k]` with `samples [k]` training rows."""
        raise NotImplementedError

    # -- the model ---------------------------------------------------------------------------------------------------

    def problem(self, problem: Problem) -> Problem:
        """A linear head on the representation; its shape stays that of the clients' inputs."""
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

    def known(self, guidance: Guidance) -> bool:
        """Whether the representation is."""
        return not self.representation.asked or "bandwidth" in guidance.shared

    def mapping(self, problem: Problem, guidance: Guidance) -> nn.Module:
        """The representation, `[n, *shape] -> [n, width]`, which is not trained."""
        assert problem.base is not None
        return self.representation.module(problem.base, guidance.shared).requires_grad_(False)

    def view(self, problem: Problem, server: Any, shards: Shards) -> Shards:
        """Each row's features; zeros while the representation is not yet known (the head is zero then as well)."""
        width = self.width(problem)
        if not self.known(server):
            return Shards(np.broadcast_to(np.float32(0), (len(shards.x), width)), shards.y, shards.starts)
        return features(self.mapping(problem, server), shards, width)

    def module(self, problem: Problem, server: Any) -> nn.Module:
        """Representation and head, `[n, *shape] -> [n, outputs]`."""
        return represented(self.mapping(problem, server), self.width(problem), problem.outputs)

    # -- rounds ------------------------------------------------------------------------------------------------------

    def preparation(self, problem: Problem) -> tuple[WeightStrategy, Problem, int] | None:
        """FedAvg on the whole model, where the trunk is to be trained."""
        rounds = self.representation.rounds
        if not rounds:
            return None
        assert problem.base is not None
        return FedAvg(schedule=self.schedule), problem.base, rounds

    def open(self, problem: Problem, prepared: State | None = None) -> Guidance:
        """A trunk's weights, or a seed (8 bytes); nothing has to be said of the others before the first messages.

        Raises SpecError for weights that cannot be read.
        """
        if not isinstance(self.representation, Trunk):
            return Guidance(shared_bytes=8 if isinstance(self.representation, RandomFourier) and not self.representation.asked else 0)
        assert problem.base is not None
        if self.representation.weights is None and prepared is None:
            return Guidance(shared_bytes=8)
        row = self.representation.load(problem.base) if prepared is None else prepared["x"]
        return Guidance({"trunk": row.numpy()}, shared_bytes=problem.base.bytes)

    def payload(self, problem: Problem, round: int) -> dict[str, int]:
        """First what the representation needs to know (a survey, a pilot), then the message."""
        asked = self.representation.asked
        if round > len(asked):
            return {self.column: self.numbers(problem)}
        return {"survey": {"survey": math.prod(problem.shape) + 1}, "pilot": {"pilot": pilot.numbers(problem)}}[asked[round - 1]]

    def act(self, task: Task, guidance: Guidance, mine: State) -> tuple[Mapping[str, Tensor], State]:
        """Sums over each client's rows (as they are, not their features); no training."""
        if not self.known(guidance):
            spread = guidance.shared.get("spread")
            if spread is None:
                return {"survey": torch.stack([survey(task.rows(i)[0]) for i in range(task.k)])}, mine
            return {"pilot": torch.stack([pilot.message(task.problem, spread, *task.rows(i)) for i in range(task.k)])}, mine
        to_features, rows = self.mapping(task.problem, guidance), []
        for i in range(task.k):
            x, y = task.rows(i)
            rows.append(self.message(task.problem, to_features(x), y))
        return {self.column: torch.stack(rows)}, mine

    def learn(self, problem: Problem, history: Any, round: int) -> Lesson:
        """From surveys the representation, from messages what the strategy makes of them."""
        (column,) = self.payload(problem, round)
        ids, samples, rows = messages(history, round, column)
        if not len(rows):
            return Lesson({}, Guidance())
        if column == "survey":
            name = "bandwidth" if self.representation.asked[-1] == "survey" else "spread"
            return Lesson({}, Guidance({name: bandwidth(rows, samples)}, shared_bytes=8 + 4))
        if column == "pilot":
            _, surveyed, surveys = messages(history, round - 1, "survey")
            return Lesson({}, Guidance({"bandwidth": pilot.best(problem, bandwidth(surveys, surveyed), rows, samples)}, shared_bytes=4))
        return self.lesson(problem, ids, samples, rows)

    def instruct(self, lesson: Lesson, heads: Mapping[int, Any], before: Guidance) -> Guidance:
        """What is known so far."""
        return replace(lesson.guidance, shared={**before.shared, **lesson.guidance.shared})


def messages(history: Any, round: int, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Of a round's messages by rising client id: who `[k]`, training rows of each `[k]`, and the payload `[k, size]`."""
    table = history.query(rounds=round, columns=["client_id", "num_samples", column])
    ids, samples = (table[name].to_numpy().astype(np.int64) for name in ("client_id", "num_samples"))
    values = table[column].combine_chunks().flatten().to_numpy()
    return ids, samples, values.reshape(len(samples), -1) if len(samples) else np.zeros((0, 0), dtype=np.float32)
