"""MetaLearner: keeps the history of insights, describes each round, and runs a strategy's server half that learns from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scarcity_ray.core.exchange import Aggregate, RoundContext, ServerState, ServerUpdate
from scarcity_ray.core.history import History
from scarcity_ray.core.insights import SCHEMA, Rejection, Sent, merge, validate_insights
from scarcity_ray.core.schedule import RoundPlan
from scarcity_ray.core.selection import Heard, State
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.problem import Problem

_log = logging.getLogger(f"{__name__}.MetaLearner")

KEPT_BYTES = 256 << 20
"""The most a round's insights may hold for their payload to be written down with them."""

DESCRIBED = ("uncertainty", "mean_grad", "loss_improvement")
"""The columns that a round's summary describes."""


def describe(ids: NDArray[np.int64], values: NDArray[Any]) -> dict[str, Any]:
    """What a column was like over the clients of a round: mean, std (of these clients, not an estimate), the quantiles
    0.1, 0.5 and 0.9 (linear between values), and the ids of who lies more than one std above (high) or below (low)."""
    numbers = values.astype(np.float64)
    if not len(numbers):
        return {"mean": None, "std": None, "quantiles": None, "high": [], "low": []}
    mean, std = float(numbers.mean()), float(numbers.std())
    quantiles = np.quantile(numbers, (0.1, 0.5, 0.9)).tolist()
    high, low = ids[numbers > mean + std], ids[numbers < mean - std]
    return {"mean": mean, "std": std, "quantiles": quantiles, "high": high.tolist(), "low": low.tolist()}


def updated(strategy: Strategy, context: RoundContext, state: ServerState, aggregate: Aggregate) -> ServerUpdate:
    """What the server half makes of a round. Raises TypeError where it is no ServerUpdate."""
    update: object = strategy.server_update(context, state, aggregate)
    if not isinstance(update, ServerUpdate):
        raise TypeError(f"{strategy.title}: server_update returned {type(update).__name__}, not a ServerUpdate")
    return update


class MetaLearner:
    """Learns across clients and rounds, from insights alone.

    Without a strategy it keeps the history and describes each round. With one whose server half runs here, it also makes the
    strategy's update. problem: what the strategy learns; only clients of its population may send insights (anybody without one).
    run: the scenario's name; any where empty. put, get: an object store's, see History.
    """

    def __init__(
        self,
        strategy: Strategy | None = None,
        problem: Problem | None = None,
        run: str = "",
        put: Callable[[Any], Any] | None = None,
        get: Callable[[Any], Any] | None = None,
    ) -> None:
        self._put, self._get = put, get
        self.set_strategy(strategy, problem, run)

    def set_strategy(self, strategy: Strategy | None = None, problem: Problem | None = None, run: str = "") -> None:
        """Starts a strategy, with an empty history. Raises ValueError for a strategy without a problem."""
        if strategy is not None and problem is None:
            raise ValueError("a strategy learns for a problem: give the MetaLearner both")
        self.strategy, self.problem, self.run = strategy, problem, run
        self.insight_history = History(self._put, self._get)
        self._selection = None if strategy is None or strategy.learns_for_selection != "insights" else strategy.selects
        self._outlook: State = {} if self._selection is None or problem is None else self._selection.start(problem.population)

    def load_state_dict(self, history: dict[int, pa.RecordBatch]) -> None:
        """Takes the insights of earlier rounds, as it kept them then."""
        for round, batch in sorted(history.items()):
            self._add(round, batch)

    def outlook(self) -> State:
        """What the strategy's selection has learned of the clients from the history; empty where none learns from it."""
        return self._outlook

    def _add(self, round: int, batch: pa.RecordBatch) -> None:
        """Adds a round's insights to the history, and learns for the selection from them."""
        self.insight_history.add(round, batch)
        if self._selection is not None:
            ids, rows, loss = (batch[name].to_numpy() for name in ("client_id", "num_samples", "loss_before"))
            heard = Heard(round, ids, rows, loss.astype(np.float64), np.full(len(ids), np.nan), batch)
            self._outlook = self._selection.learned(self._outlook, heard)

    def aggregate(self, insights: pa.RecordBatch | Iterable[Any], round: int | None = None) -> ServerUpdate:
        """Validates a round's insights, keeps the good ones, and returns what is learned from the history with them.

        insights: a record batch, or by hand a list of dicts with the fields of an insight. round: theirs, and one with
        another is refused; without it they are filed under the next round, whatever they say.
        The update's summary: round, insights and rejected (counts), rejections (client id and reason of each), and for
        each column of DESCRIBED what `describe` says; then what the strategy adds. No malformed insight raises.
        """
        return self.learn(insights, round)[0]

    def learn(
        self,
        insights: pa.RecordBatch | Iterable[Any],
        round: int | None = None,
        state: ServerState | None = None,
        aggregate: Aggregate | None = None,
        plan: RoundPlan | None = None,
    ) -> tuple[ServerUpdate, pa.RecordBatch, list[Rejection]]:
        """As `aggregate`; also the insights that were kept, by client id (without payload where it is past KEPT_BYTES), and
        why others were not.

        insights: also a list of Sent, each of which may hold insights of its own clients alone. state: the server's; the strategy's
        first if left out. aggregate: of the round's uploads, without history. plan: the round's.
        """
        history = self.insight_history
        number = max(history.rounds, default=0) + 1 if round is None else round
        known = payload = None
        if self.strategy is not None and self.problem is not None:
            payload = self.strategy.payload(self.problem, number)
        if self.problem is not None:
            known = range(self.problem.population)
        several = isinstance(insights, list) and len(insights) > 0 and all(isinstance(one, Sent) for one in insights)
        sent: Iterable[Sent] = insights if several else [Sent(known, insights)]
        found = [validate_insights(one.insights, payload=payload, run=self.run or None, round=round, clients=one.clients) for one in sent]
        good, rejections = merge(batch for batch, _ in found), [rejection for _, refused in found for rejection in refused]
        if round is None:
            place = good.schema.get_field_index("round")
            good = good.set_column(place, good.schema.field(place), pa.array(np.full(len(good), number, dtype=np.int32)))
        self._add(number, good)

        summary: dict[str, Any] = {"round": number, "insights": len(good), "rejected": len(rejections), "rejections": rejections}
        summary |= {name: describe(good["client_id"].to_numpy(), good[name].to_numpy()) for name in DESCRIBED}
        for client, reason in rejections:
            _log.warning("round %d: the insight of client %s is rejected: %s", number, client, reason)
        mean, std, high, low = (summary["uncertainty"][name] for name in ("mean", "std", "high", "low"))
        spread = "" if mean is None else f"; uncertainty {mean:.3f} +- {std:.3f}, high for {len(high)} clients, low for {len(low)}"
        _log.info("round %d: %d insights, %d rejected%s", number, len(good), len(rejections), spread)

        update = ServerUpdate(state or ServerState())
        if self.strategy is not None and self.problem is not None and self.strategy.server_half == "meta_learner":
            before = self.strategy.init_server(self.problem) if state is None else state
            context = RoundContext(self.problem, number, plan)
            update = updated(self.strategy, context, before, replace(aggregate or Aggregate(), history=history))
        kept = good if good.nbytes <= KEPT_BYTES else good.select(SCHEMA.names)
        return replace(update, summary={**summary, **update.summary}), kept, rejections
