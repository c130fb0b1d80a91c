"""What a run is measured by: the settings of `evaluation` against its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scarcity_ray.core.federation import Federation
from scarcity_ray.core.metrics import HEADLINES, Metric, headline
from scarcity_ray.core.spec import SpecError
from scarcity_ray.metrics import measures, predictions, scores
from scarcity_ray.scenario import Evaluation

if TYPE_CHECKING:
    from scarcity_ray.runtime.plan import RunPlan


def metrics_of(evaluation: Evaluation, federation: Federation) -> tuple[tuple[Metric, ...], list[SpecError]]:
    """The metrics of a run, and what of the settings does not suit its data."""
    positive, errors = _positive(evaluation, federation)
    errors += [*_unsuited(evaluation, federation), *_too_many(evaluation, federation)]
    metrics = measures(
        federation.task,
        federation.outputs,
        metric=evaluation.metric,
        thresholds=evaluation.thresholds,
        sensitivity_at=evaluation.sensitivity_at,
        positive=positive,
        scores=_score_bytes(evaluation, federation) <= scores.MOST_BYTES,
        validation=bool(federation.validation.counts.any()),
    )
    return metrics, errors


def described(plan: RunPlan) -> str:
    """What the plan says of the metrics."""
    evaluation, federation, shown = plan.scenario.evaluation, plan.federation, plan.headline()
    words = [f"{shown.short} decides"]
    if evaluation.margin:
        words.append(f"a gain below {evaluation.margin:g} counts as none")
    if federation.task == "classification" and federation.outputs == 2:
        labels, positive = _labels(federation), _positive(evaluation, federation)[0]
        words.append(f"the positive class is {labels[positive]} (the other: {labels[1 - positive]})")
    if federation.task == "classification" and (needed := _score_bytes(evaluation, federation)) > scores.MOST_BYTES:
        words.append(f"no AUC, which would take {needed / 2**20:,.0f} MiB")
    return "; ".join(words)


def _labels(federation: Federation) -> Sequence[Any]:
    """The classes' labels, in the order of the classes."""
    known = None if federation.encoding is None else federation.encoding.classes
    return range(federation.outputs) if known is None else known


def _positive(evaluation: Evaluation, federation: Federation) -> tuple[int, list[SpecError]]:
    """The positive class of two, and what is wrong with the label that was given."""
    label, field = evaluation.positive, ("evaluation", "positive")
    if label is None:
        return 1, []
    if federation.task == "regression" or federation.outputs != 2:
        found = "numbers to predict" if federation.task == "regression" else f"{federation.outputs} classes"
        return 1, [SpecError(field, label, f"only two classes have a positive one, and these data have {found}: leave it out")]
    labels = _labels(federation)
    # A label of the table may be a number or a word where YAML has the other.
    places = [place for place, one in enumerate(labels) if str(one).casefold() == str(label).casefold()]
    places = [place for place in places if str(labels[place]) == str(label)] or places
    if len(places) != 1:
        return 1, [SpecError(field, label, f"no class has that label; allowed: {labels[0]} or {labels[1]}")]
    return places[0], []


def _unsuited(evaluation: Evaluation, federation: Federation) -> list[SpecError]:
    """What is wrong with the metric that is to decide, and with the target's."""
    found = [] if evaluation.metric is None else _unknown(("evaluation", "metric"), evaluation.metric, evaluation, federation)
    for name in evaluation.target or {}:
        field = ("evaluation", "target")
        found += (errors := _unknown(field, name, evaluation, federation))
        if not errors and headline(federation.task, name).metric.at_last:
            found.append(SpecError(field, name, "it is measured after the last round alone, so nothing shows when it was reached"))
    return found


def _unknown(field: tuple[str, ...], name: str, evaluation: Evaluation, federation: Federation) -> list[SpecError]:
    """What is wrong with a metric by its name."""
    task = federation.task
    allowed = [one for one in HEADLINES[task] if one != "r2" or federation.outputs == 1]
    if name not in allowed:
        targets = f" with {federation.outputs} targets" if federation.outputs > 1 and task == "regression" else ""
        return [SpecError(field, name, f"it does not suit a {task}{targets}; allowed: {', '.join(allowed[:-1])} or {allowed[-1]}")]
    needed = _score_bytes(evaluation, federation)
    if name == "auc" and needed > scores.MOST_BYTES:
        message = (
            f"the scores of all test rows take {needed / 2**20:,.0f} MiB, and at most {scores.MOST_BYTES / 2**20:,.0f} MiB are gathered: "
            f"test fewer clients (evaluation.clients); without that limit: {', '.join(one for one in allowed if one != 'auc')}"
        )
        return [SpecError(field, name, message)]
    return []


def _too_many(evaluation: Evaluation, federation: Federation) -> list[SpecError]:
    """Predictions of more rows than are gathered."""
    needed = _tested(evaluation, federation) * predictions.row_bytes(federation.outputs, federation.task)
    if not evaluation.predictions or needed <= scores.MOST_BYTES:
        return []
    message = (
        f"the answers to all test rows take {needed / 2**20:,.0f} MiB, and at most {scores.MOST_BYTES / 2**20:,.0f} MiB are gathered: "
        "test fewer clients (evaluation.clients), or leave it out"
    )
    return [SpecError(("evaluation", "predictions"), True, message)]


def _score_bytes(evaluation: Evaluation, federation: Federation) -> int:
    """What the scores of the test rows of all tested clients take, at most."""
    return _tested(evaluation, federation) * scores.row_bytes(federation.outputs)


def _tested(evaluation: Evaluation, federation: Federation) -> int:
    """The most test rows that the tested clients can have."""
    counts = np.sort(federation.test.counts)
    tested = counts if evaluation.clients == "all" else counts[max(len(counts) - evaluation.clients, 0) :]
    return int(tested.sum())
