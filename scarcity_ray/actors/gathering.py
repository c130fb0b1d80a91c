"""From the reports of a round to the aggregate that the server half gets: exact sums, or an aggregator over single updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scarcity_ray.actors.report import Report
from scarcity_ray.actors.validation import rows_of
from scarcity_ray.core.aggregation import Aggregator
from scarcity_ray.core.exchange import Aggregate, ServerState
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.training.problem import Problem
from scarcity_ray.training.rows import Rows
from scarcity_ray.training.sums import Sums
from scarcity_ray.uplink.pipeline import Pipeline


def aggregate(
    strategy: Strategy,
    problem: Problem,
    state: ServerState,
    round: int,
    reports: Sequence[Report],
    totals: Mapping[str, float],
    heard: tuple[float, int],
) -> Aggregate:
    """What the clients of a round sent, as one: the same bits for any grouping of the clients.

    totals: the sum of all weights of the round for each upload; the reports' weights are shares of it. heard: share and count of the
    clients that were heard, see Aggregate.
    """
    sums, rows = Sums(), Rows()
    for report in reports:
        sums += report.sums
        rows += report.rows
    uploads, held = strategy.uploads(problem, state), {**state.broadcast, **state.private}
    several = rows_of(uploads, state)
    like = {name: held.get(name, torch.zeros_like(one)) for name, one in uploads.items()}
    pipeline = Pipeline(strategy.uplink, problem, uploads, state.broadcast) if strategy.uplink else None
    mean = {}
    for name, old in like.items():
        encoded = pipeline is not None and name in pipeline.packings
        if isinstance(strategy.aggregation, Aggregator):
            mean[name] = _combined(strategy.aggregation, rows, name, old, several, pipeline if encoded else None, round)
        elif pipeline is not None and encoded:
            mean[name] = pipeline.moved(name, old, pipeline.decoded(name, sums.mean(name), round)) if name in sums.names else old
        else:
            mean[name] = sums.means({name: old})[name]
    weight = {name: shares * totals[name] for name, shares in (sums.weights() | rows.weights(several)).items()}
    if pipeline is not None:
        weight = {name: pipeline.unpacked_weights(name, one) if name in pipeline.packings else one for name, one in weight.items()}
    return Aggregate(mean, weight, *heard)


def _combined(
    aggregator: Aggregator, rows: Rows, name: str, old: Tensor, several: Mapping[str, int], pipeline: Pipeline | None, round: int
) -> Tensor:
    """What an aggregator makes of the clients' values of an upload; of their decoded deltas where they come through a pipeline."""

    def combine(values: Tensor, weights: Tensor) -> Tensor:
        given = values if pipeline is None else pipeline.decoded(name, values, round)
        made: object = aggregator.combine(given, weights)
        if not isinstance(made, Tensor) or made.shape != given.shape[1:] or not torch.isfinite(made).all():
            found = f"a tensor {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            wanted = f"finite numbers {list(given.shape[1:])}"
            raise ValueError(f"aggregation {type(aggregator).__name__}: combine made {found} of {name}, not {wanted}")
        return made

    if pipeline is None:
        return rows.combined(name, combine, old, name in several)
    size = pipeline.packings[name].size
    nothing = old.new_zeros((several[name], size) if name in several else size)
    return pipeline.moved(name, old, rows.combined(name, combine, nothing, name in several))
