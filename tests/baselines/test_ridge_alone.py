"""Ridge alone, against scikit-learn with each row left out in turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from scarcity_ray.baselines.ridge_alone import STRENGTHS, constant, ridge


def squares_of(x: np.ndarray) -> float:
    """The mean of the non-zero squared singular values of the centred rows."""
    values = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    return float(values[values > 1e-10 * values.max()].mean())


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(2, 9), features=st.integers(1, 20), outputs=st.integers(1, 3), seed=st.integers(0, 99))
def test_it_is_the_ridge_that_predicts_left_out_rows_best(rows: int, features: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, new = rng.standard_normal((rows, features)), rng.standard_normal((5, features))
    y = x[:, :1] + 0.5 * rng.standard_normal((rows, outputs))
    losses = []
    for strength in STRENGTHS:
        errors = []
        for i in range(rows):
            others = np.arange(rows) != i
            model = Ridge(alpha=strength * squares_of(x), solver="svd").fit(x[others], y[others])
            errors.append(y[i] - model.predict(x[i : i + 1]).reshape(-1))
        losses.append(np.square(errors).mean())
    found = ridge(x, y, new)
    assert found is not None
    best = int(np.flatnonzero(np.array(losses) <= min(losses) * (1 + 1e-6))[-1])
    assert found.loss == pytest.approx(losses[best], rel=1e-4)
    model = Ridge(alpha=STRENGTHS[best] * squares_of(x), solver="svd").fit(x, y)
    np.testing.assert_allclose(found.predictions, model.predict(new).reshape(5, outputs), rtol=1e-4, atol=1e-6)


def test_a_constant_is_the_mean_and_its_left_out_rows_have_the_mean_of_the_others() -> None:
    y = np.array([[1.0], [4.0], [7.0]])
    found = constant(y, 2)
    assert found.predictions.tolist() == [[4.0], [4.0]]
    assert found.residuals.ravel().tolist() == [1 - 5.5, 4 - 4.0, 7 - 2.5]
    assert constant(y[:1], 1).loss == np.inf


def test_features_that_say_nothing_make_no_ridge() -> None:
    assert ridge(np.ones((4, 3)), np.arange(4.0)[:, None], np.ones((2, 3))) is None
    assert ridge(np.ones((1, 3)), np.ones((1, 1)), np.ones((2, 3))) is None


def test_more_strength_never_beats_the_best_and_a_clear_signal_needs_little() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 3))
    y = x @ rng.standard_normal((3, 1)) + 1
    found = ridge(x, y, x)
    assert found is not None
    np.testing.assert_allclose(found.predictions, y, atol=2e-3)
    assert found.loss < 1e-5 < constant(y, 1).loss
