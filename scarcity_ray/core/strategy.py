"""What a strategy is: a frozen settings class of pure methods, a server half and a client half written for k clients at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.aggregation import AnyAggregator
from scarcity_ray.core import insights as core_insights
from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.federation import Federation, Shards
from scarcity_ray.core.registry import Part, Registry
from scarcity_ray.core.spec import SpecError
from scarcity_ray.models import AnyModel
from scarcity_ray.scarcity.answer import Answer, Late
from scarcity_ray.schedules import AnySchedule, Uniform
from scarcity_ray.selection import AnySelection, Selection, named
from scarcity_ray.training.flops import TRAINED, activations, forward_flops
from scarcity_ray.training.local import Local, LocalOverrides
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task
from scarcity_ray.uplink import AnyTransform
from scarcity_ray.uplink.pipeline import Pipeline

FloatArray = NDArray[np.float64]
STALEST = 10
"""Rounds after which a late update counts no more: so many older states are kept."""


class Strategy(Part):
    """What every strategy may set, and what it may do.

    In the methods, state is the server's (ServerState), broadcast what clients have received of it (ServerState.received), client
    the state of k clients, `[k, ...]` each.
    """

    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$", description="how tables call it; its kind if left out")] = None
    rounds: Annotated[int | None, Field(ge=1, description="communication rounds; the scenario's if left out")] = None
    local: Annotated[LocalOverrides | None, Field(description="local training; what is left out is the scenario's")] = None
    model: Annotated[AnyModel | None, Field(description="the model; the scenario's if left out")] = None
    schedule: Annotated[AnySchedule, Field(description="who takes part in a round, and with how much work")] = Uniform()
    insights: Annotated[bool, Field(description="clients send an insight each round, 52 bytes, and the MetaLearner keeps the history")] = (
        False
    )

    uplink: Annotated[list[AnyTransform], Field(description="what changes clients' updates before they are added up, in order")] = Field(
        default_factory=list
    )
    aggregation: Annotated[
        Literal["mean"] | AnyAggregator, Field(description="mean: the exact weighted mean; or an aggregator that sees each client's update")
    ] = "mean"

    server_half: ClassVar[Literal["server", "meta_learner"]] = "server"
    """Where `server_update` runs. In the MetaLearner it has the history, and clients always send insights."""

    sends: ClassVar[str] = ""
    receives: ClassVar[str] = ""
    """What goes up from a client, and what comes down to it, in words for README's table."""

    reveals: ClassVar[str] = ""
    """What those who see a client's messages could learn of its rows, in words for report.html."""

    optimizers: ClassVar[tuple[str, ...]] = ("sgd", "adam")
    """Those of local training with which it works."""

    exact_sums: ClassVar[bool] = False
    """Whether the server half needs the exact means of what clients sent, so that neither `uplink` nor `aggregation` may change them."""

    reads_versions: ClassVar[bool] = False
    """Whether the client half takes `broadcast` with a row for each client, `[k, ...]`: then clients of several versions train together."""

    newest_only: ClassVar[bool] = False
    """Whether what clients send is about the newest state alone, so that no schedule may start them from an older one."""

    keeps_moves: ClassVar[bool] = False
    """Whether the server keeps a sum of what clients keep, so that what they send must count in full."""

    # -- the server half ---------------------------------------------------------------------------------------------

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        """The state before round 1. prepared: the state that the rounds of `preparation` ended with."""
        raise NotImplementedError(f"{self.title} does not define init_server")

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        """The state after a round."""
        raise NotImplementedError(f"{self.title} does not define server_update")

    def with_experts(self, update: ServerUpdate, heads: Mapping[int, Tensor]) -> ServerState:
        """The state of an update, once the Experts that it names have fitted. heads: what each returned, `[features + 1, outputs]`."""
        return update.state

    # -- the client half ---------------------------------------------------------------------------------------------

    def init_client(self, problem: Problem) -> State:
        """What one client keeps between rounds, as it is before its first; empty where it keeps nothing."""
        return {}

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        """The round's work of the k clients of a task."""
        raise NotImplementedError(f"{self.title} does not define client_update")

    def receive(self, task: Task, broadcast: State, client: State) -> State:
        """The new state of k clients that have received a delivered state (ServerUpdate.deliver)."""
        return client

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        """The rows to test: `global` `[1, P]`, the same for all, `personal` `[k, P]`, each client's own; neither while there is none.

        Where there are both, personal models are reported, and the global one beside them.
        """
        raise NotImplementedError(f"{self.title} does not define eval_models")

    def adaptation(self, local: Local, samples: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Local steps `[clients]` that clients with so many training rows take in `adapt`; None where clients do not adapt."""
        return None

    def adapt(self, task: Task, broadcast: State, client: State) -> State:
        """What k clients find out by themselves before they are tested: `eval_models` gets it as client. Nothing is sent or kept."""
        return client

    def experts_of(self, client: State) -> Tensor | None:
        """The expert of each client, int64 `[k]`, by what `adapt` found; None where there are no experts."""
        return client.get("expert")

    # -- what is sent ------------------------------------------------------------------------------------------------

    def uploads(self, problem: Problem, state: ServerState) -> State:
        """One client's value of each upload, as an example of its shape and type: as it is broadcast, unless overridden.

        An upload has the name of what it updates in the state. Where that has one more dimension, it has a row for each expert.
        """
        return state.broadcast if self.server_half == "server" else {}

    def client_weights(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """What clients with so many training rows count in an average, `[n]`."""
        return samples.astype(np.float64)

    def weight_limit(self, name: str, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """The most that clients with so many training rows, `[n]`, may weigh in the upload of that name."""
        return self.client_weights(samples)

    def weights(self, task: Task) -> Tensor:
        """What each of k clients counts in an average, `[k, 1]`."""
        return task.samples

    def payload(self, problem: Problem, round: int) -> Mapping[str, int]:
        """The payload columns of a round's insights, name -> numbers in it; empty for the scalar part alone."""
        return {}

    def traffic(self, problem: Problem, up: NDArray[np.int64], down: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes up and down of clients `[n]` in a round. up, down: those of what is sent, packed."""
        return up, down

    def setup_traffic(self, federation: Federation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes up and down of each client before round 1, `[clients]`: what preparing the data cost."""
        return federation.uplink_bytes, federation.downlink_bytes

    def first_client_state(self, problem: Problem, state: ServerState) -> State:
        """All that one client keeps, as it is before its first round: `init_client`, and the memory of uplink transforms."""
        pipeline = Pipeline(self.uplink, problem, self.uploads(problem, state), state.broadcast)
        return {**self.init_client(problem), **pipeline.init_memory()}

    # -- the model and the data --------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The name in tables and files."""
        return self.name or self.kind_title

    @property
    def sends_insights(self) -> bool:
        """Whether clients send insights: it needs a MetaLearner, and leaves rows in the insight table."""
        return self.insights or self.server_half == "meta_learner" or self.learns_for_selection == "insights"

    @property
    def selects(self) -> Selection | None:
        """The rule that selects clients by what the server knows of them; None where its schedule draws them."""
        return None

    @property
    def learns_for_selection(self) -> str:
        """What clients send for it: loss, insights, or nothing."""
        return "" if self.selects is None else self.selects.learns

    def said_bytes(self, problem: Problem, round: int) -> int:
        """Bytes of what a client says beside its uploads in a round: its insight, and its loss where clients are selected by it."""
        insight = core_insights.wire_bytes(self.payload(problem, round)) if self.sends_insights else 0
        return insight + 4 * (self.learns_for_selection == "loss")

    @property
    def ends_early(self) -> bool:
        """Whether it ends by itself once there is nothing more to learn (`ServerUpdate.done`), so that `rounds` is only a limit."""
        return False

    @property
    def saves_adapted(self) -> bool:
        """Whether clients' models are saved as `adapt` leaves them, even where clients keep nothing between rounds."""
        return False

    @property
    def gradients(self) -> float:
        """Gradients that a local step takes."""
        return 1.0

    @property
    def extra_passes(self) -> float:
        """Forward passes of all of a client's rows in a round, beside its steps. An insight's two losses are not among them."""
        return 0.0

    @property
    def most_experts(self) -> int:
        """How many Expert actors may fit its models; 0 where none do."""
        return 0

    def problem(self, problem: Problem) -> Problem:
        """The problem this strategy's rows of parameters belong to: the scenario's, unless it brings its own model."""
        return problem

    def refused(self, problem: Problem, federation: Federation) -> list[SpecError]:
        """What of its settings cannot work with the problem or the rows, said before anything starts. problem: what `problem` returned.

        Fields are named from the strategy's own; those of `local` are the scenario's where it sets none.
        """
        local, found = problem.local, list[SpecError]()
        if local.optimizer not in self.optimizers:
            message = f"{self.kind_title} needs steps that add up gradients: use {' or '.join(self.optimizers)}"
            found.append(SpecError(("local", "optimizer"), local.optimizer, message))
        if self.exact_sums and self.uplink:
            message = f"{self.kind_title} computes with exact sums of what clients send, and a transform would change them: leave it out"
            found.append(SpecError(("uplink",), [one.kind_title for one in self.uplink], message))
        if self.exact_sums and self.aggregation != "mean":
            message = f"{self.kind_title} computes with exact sums of what clients send: use mean"
            found.append(SpecError(("aggregation",), self.aggregation.kind_title, message))
        return found

    def preparation(self, problem: Problem) -> tuple[Strategy, Problem, int] | None:
        """A strategy, its problem, and how many of its rounds come before this strategy's own; None for none."""
        return None

    def trains_on(self, train: Shards) -> Shards:
        """The shards that take part: the clients' own, unless the strategy has clients of its own making."""
        return train

    def sampled(self, population: int) -> int:
        """How many of the clients take part in a round."""
        return population

    def planned_steps(self, problem: Problem, state: ServerState) -> NDArray[np.int64]:
        """Local steps of each client in the next round, `[clients]`; a schedule may plan fewer."""
        return problem.local.steps_for(problem.samples)

    @property
    def answer(self) -> Answer:
        """How its rounds meet scarcity: whom it waits for, and how long."""
        return Answer()

    def flops(self, problem: Problem, state: ServerState, round: int, ids: NDArray[np.int64], steps: NDArray[np.int64]) -> FloatArray:
        """Floating-point operations of clients `[n]` for so many local steps of a round, float64 `[n]`: those of passes of rows through
        the model, three for each row of a minibatch. Operations on models alone do not count."""
        samples = problem.samples[ids]
        passes = TRAINED * self.gradients * problem.local.rows_for(samples, steps) + (self.extra_passes + 2 * self.sends_insights) * samples
        return passes * float(forward_flops(problem.module, problem.shape))

    def memory(self, problem: Problem) -> int:
        """Bytes that a client's work needs: model, gradient, what it keeps and what the optimiser keeps, and a minibatch's activations."""
        kept = sum(value.numel() for value in self.init_client(problem).values()) + problem.layout.num_parameters * (
            2 + (2 if problem.local.optimizer == "adam" else problem.local.momentum > 0)
        )
        return 4 * (kept + problem.local.batch_size * activations(problem.module, problem.shape))

    def view(self, problem: Problem, state: ServerState, shards: Shards) -> Shards:
        """The rows as this strategy's model reads them (its features); the same rows unless it has a representation."""
        return shards

    def module(self, problem: Problem, state: ServerState) -> torch.nn.Module:
        """A torch module that the strategy's saved tensors load into."""
        return problem.module

    def saved(self, problem: Problem, state: ServerState) -> dict[str, Tensor]:
        """The server's part of `models/NAME.safetensors`, by torch's own names and shapes; empty where it has no model."""
        return {}


class SampledStrategy(Strategy):
    """A strategy in which a sample of the clients takes part in each round: without replacement, by seed and round."""

    fraction: Annotated[float | None, Field(gt=0, le=1, description="share of the clients sampled a round; 1 if left out")] = None
    clients_per_round: Annotated[int | None, Field(ge=1, description="clients sampled a round, in place of a fraction")] = None
    weighted: Annotated[bool, Field(description="average by training samples; false: each client counts the same")] = True
    selection: Annotated[
        AnySelection, Field(description="which of the clients that are there take part, by what the server knows of them")
    ] = "uniform"
    over_selection: Annotated[
        float, Field(ge=1, le=10, description="with scarcity: clients selected for each one needed; the first to come are taken")
    ] = 1.0
    round_interval: Annotated[
        float,
        Field(ge=0, le=1e9, description="with scarcity: seconds from the start of a round to that of the next, at least"),
    ] = 0.0
    round_deadline: Annotated[
        float | None, Field(gt=0, le=1e9, description="with scarcity: seconds after which a round waits for nobody; null: for all")
    ] = None
    late: Annotated[
        Late,
        Field(
            description="with a round_deadline, clients that would miss it: drop, their work is lost; partial, they do the steps for which "
            "there is time; stale, their work counts in a later round, divided by the root of 1 + rounds late"
        ),
    ] = "drop"
    minimum_reports: Annotated[
        float, Field(ge=0, le=1, description="with scarcity: a round with a smaller share of the clients it needs is void")
    ] = 0.0

    @property
    def answer(self) -> Answer:
        """As its settings say."""
        stalest = STALEST if self.late == "stale" else 0
        return Answer(self.over_selection, self.round_interval, self.round_deadline, self.late, self.minimum_reports, stalest)

    @property
    def selects(self) -> Selection | None:
        """As `selection` says."""
        return named(self.selection)

    def sampled(self, population: int) -> int:
        """`clients_per_round`, or max(1, round(fraction x population)), halves up."""
        if self.clients_per_round is not None:
            return self.clients_per_round
        return population if self.fraction is None else max(1, math.floor(self.fraction * population + 0.5))

    def client_weights(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """Training rows, or 1 where each client counts the same."""
        return samples.astype(np.float64) if self.weighted else np.ones(len(samples))

    def weights(self, task: Task) -> Tensor:
        """The same of the k clients of a task, `[k, 1]`."""
        return task.samples if self.weighted else torch.ones_like(task.samples)


def too_steep(field: str, weight: float, local: Local, step: str = "local.lr") -> list[SpecError]:
    """Refuses a proximal term of such a weight where a local step would overshoot what it pulls to: lr (weight + weight_decay) >= 1.

    step: the field of the step size, for the message.
    """
    if not weight or local.optimizer == "adam" or local.lr * (weight + local.weight_decay) < 1:
        return []
    most = 1 / local.lr - local.weight_decay
    bound = f"it has to be below {most:g}" if most > 0 else f"no {field} is small enough beside a weight_decay of {local.weight_decay:g}"
    return [SpecError((field,), weight, f"with steps of {local.lr:g} {bound}: use a smaller {field} or a smaller {step}")]


STRATEGIES: Registry[Strategy] = Registry("strategy", Strategy)
