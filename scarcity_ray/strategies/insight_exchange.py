"""Insight exchange: every client keeps its own model, and learns from the others only how much it should train."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor

from scarcity_ray.core.exchange import Aggregate, ClientResult, RoundContext, ServerState, ServerUpdate, State
from scarcity_ray.core.strategy import STRATEGIES, Strategy
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.task import Task

_BYTES = 4  # a number of steps on the wire, int32


def allocate(total: int, weights: ArrayLike, minimum: int = 1) -> NDArray[np.int64]:
    """Whole numbers that sum to `total`, at least `minimum` each, the rest in proportion to `weights` `[n]`.

    Largest remainders (Hamilton's method): whole parts first, what is left one by one to the largest fractions; of equal
    fractions the larger weight goes first, then the lower index. So what a client gets does not depend on the order of
    the clients, except among clients of equal weight. Weights that are all 0 share equally.
    Raises ValueError for a total below `minimum` each, and for weights that are negative or not finite.
    """
    shares = np.asarray(weights, dtype=np.float64)
    spare = total - minimum * len(shares)
    if spare < 0:
        raise ValueError(f"{total} steps are too few for {len(shares)} clients of at least {minimum}")
    if not np.all(np.isfinite(shares) & (shares >= 0)):
        raise ValueError("weights have to be finite and at least 0")
    if not len(shares):
        return np.zeros(0, dtype=np.int64)
    largest = shares.max()
    shares = shares / largest if largest > 0 else np.ones_like(shares)
    quotas = spare * (shares / math.fsum(shares))  # fsum: the same for any order of the clients
    whole: NDArray[np.int64] = np.floor(quotas).astype(np.int64)
    first = np.lexsort((np.arange(len(shares)), -shares, whole - quotas))
    whole[first[: spare - int(whole.sum())]] += 1
    whole += minimum
    return whole


def appetite(steps: NDArray[Any], improvement: NDArray[Any]) -> NDArray[np.float64]:
    """What a client gains from training more, from what it gained: a of `gain = a log(1 + steps)`, 0 where it lost.

    Under these diminishing returns the total gain of steps that sum to a fixed number is largest where `1 + steps` is
    proportional to a: the derivative a / (1 + steps) is then the same for all. Dealing the steps beyond the first in
    proportion to a comes close to it.
    """
    rate: NDArray[np.float64] = np.maximum(improvement.astype(np.float64), 0.0) / np.log1p(np.maximum(steps, 1))
    return rate


@STRATEGIES.register
class InsightExchange(Strategy):
    """The seed's Stage 3. A round: each client's number of local steps goes down (4 bytes), it trains its own model that
    much, and one insight, its scalar part, goes up. No weights move either way.

    Next round's steps of each client follow its appetite, a mean over its last `window` insights, under a
    fixed total: the steps that all clients would take by the local training's own settings. The losses of an insight
    are over validation rows where a client has some, so that an overfit client falls back to one step.
    """

    kind: Literal["insight_exchange"] = "insight_exchange"
    sends: ClassVar[str] = "one insight of 52 bytes, each round; no weights"
    receives: ClassVar[str] = "its number of local steps, 4 bytes"
    reveals: ClassVar[str] = (
        "how many rows it has, and how well a model fits them before and after its training; no row, and nothing of an input"
    )
    guide: Annotated[bool, Field(description="deal out the steps by what each client gains; false: as local training says")] = True
    window: Annotated[int, Field(ge=1, description="rounds of a client's own history that its steps follow")] = 3

    server_half: ClassVar[Literal["meta_learner"]] = "meta_learner"

    def init_client(self, problem: Problem) -> State:
        """A personal model, from the common initial one."""
        return {"row": problem.row}

    def init_server(self, problem: Problem, prepared: ServerState | None = None) -> ServerState:
        """The steps of local training's own settings."""
        return _state(problem.local.steps_for(problem.samples))

    def planned_steps(self, problem: Problem, state: ServerState) -> NDArray[np.int64]:
        return state.each["steps"].numpy()

    def client_update(self, task: Task, broadcast: State, client: State) -> ClientResult:
        """Local steps from the client's own model; the scalar part of the insight alone goes up."""
        return ClientResult(state={"row": task.local_sgd(client["row"])})

    def server_update(self, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
        """Next round's steps; the summary gains `steps`: the fewest and most of a client, and their total."""
        steps = context.problem.local.steps_for(context.problem.samples)
        if self.guide:
            assert aggregate.history is not None
            recent = (context.round - self.window + 1, context.round)
            steps = _guided(steps, aggregate.history.query(rounds=recent, columns=_READ))
        summary = {"steps": {"fewest": int(steps.min()), "most": int(steps.max()), "total": int(steps.sum())}}
        return ServerUpdate(_state(steps), summary=summary)

    def eval_models(self, broadcast: State, client: State) -> dict[str, Tensor]:
        return {"personal": client["row"]}


_READ = ("client_id", "steps", "loss_improvement")


def _guided(uniform: NDArray[np.int64], recent: Any) -> NDArray[np.int64]:
    """uniform: steps by local training's own settings, `[clients]`; recent: a table of the last insights' _READ."""
    ids, taken, improvement = (recent[name].to_numpy() for name in _READ)
    # Added in the order of the history, so that the sums have the same bits in every run.
    insights = np.bincount(ids, minlength=len(uniform))
    gains = np.bincount(ids, weights=appetite(taken, improvement), minlength=len(uniform))
    heard = insights > 0
    steps: NDArray[np.int64] = uniform.copy()  # a client whose insights were refused keeps its own
    steps[heard] = allocate(int(uniform[heard].sum()), gains[heard] / insights[heard])
    return steps


def _state(steps: NDArray[np.int64]) -> ServerState:
    return ServerState(each={"steps": torch.from_numpy(steps)}, new_bytes=_BYTES)
