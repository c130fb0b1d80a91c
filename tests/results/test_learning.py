"""Which strategies are marked as not learned, or as still learning."""

from __future__ import annotations

import numpy as np
import pytest

from scarcity_ray.inference.mean_gain import mean_gain
from scarcity_ray.results.learning import not_learned, still_falling

ROUNDS = np.arange(60)
NOISE = np.random.default_rng(0).standard_normal((50, 60))


def test_a_loss_that_has_come_to_rest_does_not_fall() -> None:
    assert not still_falling(2 * np.exp(-ROUNDS / 8) + 0.3)
    assert not still_falling(np.full(60, 0.7))
    assert not still_falling([0.5])
    assert not still_falling([0.5, 0.6, np.nan])


def test_a_loss_that_was_cut_off_falls() -> None:
    assert still_falling(2 - ROUNDS / 60)
    assert still_falling(2 * np.exp(-ROUNDS / 40))
    assert still_falling([2.0, 1.5])
    assert still_falling([np.inf, 2.0, 1.5, 1.2])


def test_noise_alone_is_rarely_taken_for_a_fall() -> None:
    assert np.mean([still_falling(1 + 0.1 * noise) for noise in NOISE]) <= 0.04
    assert np.mean([still_falling(2 * np.exp(-ROUNDS / 8) + 0.05 * noise) for noise in NOISE]) <= 0.04
    assert np.mean([still_falling(2 - ROUNDS / 60 + 0.02 * noise) for noise in NOISE]) >= 0.9


@pytest.mark.parametrize(
    ("task", "metric", "loss", "gains", "marked"),
    [
        ("regression", "rmse", 18.0, [1.0, 1.2], True),
        ("regression", "mae", 8.9, [-1.0, -1.1], False),
        ("regression", "rmse", None, [1.0, 1.2], True),
        ("regression", "rmse", float("inf"), [1.0, 1.2], True),
        ("classification", "accuracy", 0.9, [-0.2, -0.21, -0.2], True),
        ("classification", "auc", 0.9, [-0.2, 0.21, 0.2], False),
        ("classification", "log_loss", 0.9, [-0.2, -0.21, -0.2], False),
    ],
)
def test_what_did_not_learn_is_told_by_its_loss_or_by_the_guess(task, metric, loss, gains, marked) -> None:
    over = mean_gain([gains], keep_rows=True)
    assert not_learned(task, metric, [loss, 0.9], [1.0, 1.0], over) is marked
    assert not not_learned(task, metric, [loss], [None], over)
