"""What a strategy is: a frozen settings class of pure methods, written for one client and run for a chunk of them.

A state is a flat dict of tensors. A client's part of a state is a row: for k clients `[k, ...]`, without it `[...]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.registry import Part, Registry
from scarcity_ray.models import AnyModel
from scarcity_ray.schedules import AnySchedule, Uniform
from scarcity_ray.training.local import Local, LocalOverrides
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

State = Mapping[str, Tensor]
Uploads = Mapping[str, tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]]
"""What k clients send into the sums: name -> (value `[k, ...]`, weight `[k, 1]`).

Where the server has a row for each of several experts, a third says whose mean each client's value enters: int64 `[k]`.
"""


class Strategy(Part):
    """What every strategy may set."""

    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$", description="how tables call it; its kind if left out")] = None
    rounds: Annotated[int | None, Field(ge=1, description="communication rounds; the scenario's if left out")] = None
    local: Annotated[LocalOverrides | None, Field(description="local training; what is left out is the scenario's")] = None
    model: Annotated[AnyModel | None, Field(description="the model; the scenario's if left out")] = None

    schedule: Annotated[AnySchedule, Field(description="who takes part in a round, and with how much work")] = Uniform()

    @property
    def title(self) -> str:
        """The name in tables and files."""
        return self.name or self.kind_title

    @property
    def most_experts(self) -> int:
        """How many Expert actors may fit its models; 0 where none do."""
        return 0

    def problem(self, problem: Problem) -> Problem:
        """The problem this strategy's rows of parameters belong to: the scenario's, unless it brings its own model."""
        return problem

    def trains_on(self, train: Shards) -> Shards:
        """The shards that take part: the clients' own, unless the strategy has clients of its own making."""
        return train

    def setup_traffic(self, federation: Federation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes up and down of each client before round 1, `[clients]`: what preparing the data cost."""
        return federation.uplink_bytes, federation.downlink_bytes

    def sampled(self, population: int) -> int:
        """How many of the clients take part in a round."""
        return population

    def planned_steps(self, problem: Problem, server: Any) -> NDArray[np.int64]:
        """Local steps of each client in the next round, `[clients]`; a schedule may plan fewer."""
        return problem.local.steps_for(problem.samples)

    def memory(self, problem: Problem) -> State:
        """What one client keeps between rounds, as it is before its first; empty where it keeps nothing."""
        return {}

    def view(self, problem: Problem, server: Any, shards: Shards) -> Shards:
        """The rows as this strategy's model reads them (its features); the same rows unless it has a representation.

        server, here and below: what the server half holds, a state or guidance.
        """
        return shards

    def module(self, problem: Problem, server: Any) -> torch.nn.Module:
        """A torch module that the strategy's saved tensors load into."""
        return problem.module

    def saved(self, problem: Problem, server: Any) -> dict[str, Tensor]:
        """The server's part of `models/NAME.safetensors`, by torch's own names and shapes; empty where it has no model."""
        return {}


class WeightStrategy(Strategy):
    """A strategy whose clients send sums of rows (weights, control variates) through the Server."""

    adapts: ClassVar[bool] = False
    """Whether clients `adapt` before they are tested."""

    def total_weight(self, samples: NDArray[np.int64]) -> float:
        """The sum of the weights of a cohort whose clients hold that many training rows, `[clients]`."""
        return float(samples.sum())

    def start(self, problem: Problem) -> State:
        """The server's state before round 1."""
        raise NotImplementedError

    def update(self, task: Task, server: State, mine: State) -> tuple[Uploads, State]:
        """The client half for the k clients of a task: what they send, and their new memory (`[k, ...]` each)."""
        raise NotImplementedError

    def aggregate(self, server: State, mean: State) -> State:
        """The server half: `mean` is the weighted mean of each upload over the clients of the round."""
        raise NotImplementedError

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Local steps that clients with so many training rows, `[clients]`, take in `adapt`."""
        return np.zeros_like(samples)

    def adapt(self, task: Task, server: State, mine: State) -> State:
        """What k clients find out by themselves before they are tested: `answer` gets it in place of `mine`.

        Nothing is sent, and nothing kept.
        """
        return mine

    def experts_of(self, mine: State) -> Tensor | None:
        """The expert of each client, int64 `[k]`, by what `adapt` found; None where there are no experts."""
        return None

    def answer(self, server: State, mine: State) -> Tensor:
        """The rows to evaluate: `[1, P]` for all clients, or `[k, P]`, each client's own."""
        raise NotImplementedError

    def traffic(self, problem: Problem) -> tuple[int, int]:
        """Bytes that each client of a round sends up, and that go down to it."""
        raise NotImplementedError


class SampledStrategy(WeightStrategy):
    """A strategy that meets a sample of its clients each round: without replacement, by seed and round."""

    fraction: Annotated[float | None, Field(gt=0, le=1, description="share of the clients sampled a round; 1 if left out")] = None
    clients_per_round: Annotated[int | None, Field(ge=1, description="clients sampled a round, in place of a fraction")] = None
    weighted: Annotated[bool, Field(description="average by training samples; false: each client counts the same")] = True

    def sampled(self, population: int) -> int:
        """`clients_per_round`, or max(1, round(fraction x population)), halves up."""
        if self.clients_per_round is not None:
            return self.clients_per_round
        return population if self.fraction is None else max(1, math.floor(self.fraction * population + 0.5))

    def total_weight(self, samples: NDArray[np.int64]) -> float:
        """Training rows, or clients where each counts the same."""
        return float(samples.sum() if self.weighted else len(samples))

    def weights(self, task: Task) -> Tensor:
        """What each of k clients counts in an average, `[k, 1]`."""
        return task.samples if self.weighted else torch.ones_like(task.samples)


@dataclass(frozen=True)
class Guidance:
    """What goes down to the clients of an insight round. Arrays are NumPy: actors without torch handle them.

    shared: the same for every client (a seed, a head). each: `[clients, ...]` a value per client id (numbers of steps).
    shared_bytes, each_bytes: the packed length of both, counted for each client it is sent to. kept: what the server
    half keeps to itself, to be saved: it is sent to nobody.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    shared_bytes: int = 0
    each_bytes: int = 0
    kept: Mapping[str, Any] = field(default_factory=dict)

    def sent(self) -> Guidance:
        """The part that clients see."""
        return replace(self, kept={})

    @property
    def size(self) -> int:
        """Bytes that go down to one client."""
        return self.shared_bytes + self.each_bytes


@dataclass(frozen=True)
class Lesson:
    """What the MetaLearner made of the history after a round.

    summary: the round's statistics (see MetaLearner.aggregate). guidance: what it tells the clients next. experts:
    what each Expert (by id, from 0) is to fit, the arguments of `Expert.fit`. clients: what tables are to say of each
    client, column -> `[clients]` (NaN of whom nothing is known). learned: what summary.json is to say of it.
    deliver: the guidance goes down at the end of this round, not with the next one's beginning. done: it does, and the
    strategy ends: there is nothing more to learn.
    """

    summary: Mapping[str, Any]
    guidance: Guidance
    experts: Mapping[int, tuple[Any, ...]] = field(default_factory=dict)
    clients: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    learned: Mapping[str, Any] = field(default_factory=dict)
    deliver: bool = False
    done: bool = False


class InsightStrategy(Strategy):
    """A strategy whose clients send insights: no weights of a client go up, and no data."""

    def planned_steps(self, problem: Problem, server: Any) -> NDArray[np.int64]:
        """Those that the guidance says; 0 where it says none."""
        steps: NDArray[np.int64] = server.each.get("steps", np.zeros_like(problem.samples))
        return steps

    def preparation(self, problem: Problem) -> tuple[WeightStrategy, Problem, int] | None:
        """A strategy of weights, its problem, and how many of its rounds come before the insights; None for none."""
        return None

    def open(self, problem: Problem, prepared: State | None = None) -> Guidance:
        """The guidance of the first round of insights. prepared: the state that the preparation ended with."""
        raise NotImplementedError

    def payload(self, problem: Problem, round: int) -> Mapping[str, int]:
        """The payload columns of a round's insights, name -> numbers in it; empty for the scalar part alone."""
        raise NotImplementedError

    def act(self, task: Task, guidance: Guidance, mine: State) -> tuple[Mapping[str, Tensor], State]:
        """The client half: the payload's columns (`[k, ...]` each, empty for the scalar part alone), and new memory."""
        raise NotImplementedError

    def learn(self, problem: Problem, history: Any, round: int) -> Lesson:
        """The MetaLearner's half: from the history (see actors.meta_learner.History) to a lesson."""
        raise NotImplementedError

    def instruct(self, lesson: Lesson, heads: Mapping[int, Any], before: Guidance) -> Guidance:
        """The guidance to deliver, once the Experts named in the lesson have fitted (`heads`: what each returned).

        before: what clients have been told so far.
        """
        return lesson.guidance

    def receive(self, task: Task, guidance: Guidance, mine: State) -> State:
        """What k clients make of delivered guidance: their new memory."""
        return mine

    def answer(self, guidance: Guidance, mine: State) -> Tensor | None:
        """The rows to evaluate, `[1, P]` or `[k, P]`; None while there is no model yet."""
        raise NotImplementedError


STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy)
