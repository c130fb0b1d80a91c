"""The metrics that every run has, one family a file. Each registers itself, so a new one is a new file here."""

from __future__ import annotations

from collections.abc import Sequence

from scarcity_ray.core.metrics import METRICS, Metric, headline, suited
from scarcity_ray.metrics.decisions import NetBenefit, Sensitivity, Specificity
from scarcity_ray.metrics.scores import SCORES, SpecificityAtSensitivity

METRICS.collect(__name__)

__all__ = ["METRICS", "measures"]


def measures(
    task: str,
    outputs: int,
    *,
    metric: str | None = None,
    thresholds: Sequence[float] = (),
    sensitivity_at: float | None = None,
    positive: int = 1,
    scores: bool = True,
    validation: bool = False,
) -> tuple[Metric, ...]:
    """The metrics of a run: those that are registered, then those that its settings ask for.

    outputs: classes, or targets a row. metric: the name of the one that decides; it is measured at every evaluation. thresholds,
    sensitivity_at: probabilities of the positive class, and a sensitivity; both are for two classes. positive: which of the
    two (0 or 1). scores: whether metrics that need the scores of all rows are measured. validation: whether there are validation
    rows; the metric that decides and those that are no details are then measured on them too.
    """
    found: list[Metric] = [one.seen_from(positive) for one in METRICS]
    for threshold in dict.fromkeys(thresholds):
        found += [kind(threshold, positive) for kind in (Sensitivity, Specificity, NetBenefit)]
    if sensitivity_at is not None:
        found.append(SpecificityAtSensitivity(sensitivity_at, positive))
    kept = [one for one in suited(found, task, outputs) if scores or one.statistic != SCORES]
    kept = [one.at_every_evaluation() if one.name == metric else one for one in kept]
    decides = headline(task, metric).metric.name
    also = [one.on_validation_rows() for one in kept if one.name == decides or not one.detail] if validation else []
    return (*kept, *also)
