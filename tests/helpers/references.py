"""Metrics by scikit-learn and plain NumPy, from classes and probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, confusion_matrix, roc_auc_score, roc_curve

Reference = Callable[[np.ndarray, np.ndarray], float]
"""Of classes `[n]` and probabilities `[n, classes]`; NaN where there is no value."""


def two_classed(function: Reference) -> Reference:
    return lambda y, p: function(y, p) if len(set(y.tolist())) == 2 else float("nan")


def matrix(y: np.ndarray, p: np.ndarray, threshold: float, positive: int) -> np.ndarray:
    return confusion_matrix(y == positive, p[:, positive] >= threshold, labels=[False, True])


def sensitivity(threshold: float, positive: int) -> Reference:
    def value(y: np.ndarray, p: np.ndarray) -> float:
        (_, _), (missed, found) = matrix(y, p, threshold, positive)
        return found / (missed + found) if missed + found else float("nan")

    return value


def specificity(threshold: float, positive: int) -> Reference:
    def value(y: np.ndarray, p: np.ndarray) -> float:
        (kept, flagged), (_, _) = matrix(y, p, threshold, positive)
        return kept / (kept + flagged) if kept + flagged else float("nan")

    return value


def net_benefit(threshold: float, positive: int) -> Reference:
    def value(y: np.ndarray, p: np.ndarray) -> float:
        (_, false), (_, true) = matrix(y, p, threshold, positive)
        return (true - false * threshold / (1 - threshold)) / len(y)

    return value


def at_sensitivity(least: float, positive: int) -> Reference:
    def value(y: np.ndarray, p: np.ndarray) -> float:
        false, true, _ = roc_curve(y == positive, np.log(p[:, positive]) - np.log(p[:, 1 - positive]), drop_intermediate=False)
        return float((1 - false)[true >= least - 1e-9].max())

    return two_classed(value)


def calibration_error(y: np.ndarray, p: np.ndarray) -> float:
    confidence, hit = p.max(1), p.argmax(1) == y
    place = np.minimum((confidence * 15).astype(int), 14)
    return sum(abs(confidence[place == one].mean() - hit[place == one].mean()) * (place == one).mean() for one in set(place.tolist()))


def slope(y: np.ndarray, p: np.ndarray) -> float:
    odds = np.log(p[:, 1]) - np.log(p[:, 0])
    ones, others = odds[y == 1], odds[y == 0]
    if not len(ones) or not len(others) or ones.min() >= others.max() or others.min() >= ones.max():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(odds[:, None], y)
    return float(fit.coef_[0, 0])


def one_versus_rest(y: np.ndarray, p: np.ndarray) -> float:
    there = [one for one in range(p.shape[1]) if 0 < (y == one).sum() < len(y)]
    return float(np.mean([roc_auc_score(y == one, p[:, one]) for one in there])) if there else float("nan")


def brier(y: np.ndarray, p: np.ndarray) -> float:
    return float(brier_score_loss(y, p, labels=list(range(p.shape[1])), scale_by_half=p.shape[1] == 2))


def balanced(y: np.ndarray, p: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(balanced_accuracy_score(y, p.argmax(1)))


def of_two(positive: int, thresholds: tuple[float, ...]) -> dict[str, Reference]:
    """Two classes; specificity at a sensitivity of 0.9."""
    found: dict[str, Reference] = {
        "balanced_accuracy": balanced,
        "brier": brier,
        "calibration_error": calibration_error,
        "calibration_in_the_large": lambda y, p: (y == positive).mean() - p[:, positive].mean(),
        "auc": two_classed(lambda y, p: roc_auc_score(y, np.log(p[:, 1]) - np.log(p[:, 0]))),
        "calibration_slope": slope,
        "specificity_at_sensitivity_0_9": at_sensitivity(0.9, positive),
    }
    for threshold in thresholds:
        for kind in (sensitivity, specificity, net_benefit):
            found[f"{kind.__name__}_at_{threshold}".replace(".", "_")] = kind(threshold, positive)
    return found


def of_more(classes: int) -> dict[str, Reference]:
    """More than two classes."""
    assert classes > 2
    return {"balanced_accuracy": balanced, "brier": brier, "calibration_error": calibration_error, "auc": one_versus_rest}
