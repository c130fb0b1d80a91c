"""The line, its errors and its crossing against statsmodels, and Fieller's interval against its definition on a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from scarcity_ray.inference.break_even import break_even


def clients(slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Forty clients of 3 to 300 rows, of which those with 32 gain nothing; small ones scatter more."""
    draw = np.random.default_rng(seed)
    rows = np.exp(draw.uniform(np.log(3), np.log(300), 40)).round()
    return rows, slope * (np.log2(rows) - 5) + draw.normal(size=40) / np.sqrt(rows)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_line_and_interval_are_those_of_the_textbooks(margin: float) -> None:
    rows, gain = clients(-0.2)
    found = break_even(np.append(rows, [0, 9]), np.append(gain, [5.0, math.nan]), margin=margin)
    assert found is not None
    model = sm.OLS(gain, sm.add_constant(np.log2(rows))).fit(cov_type="HC3", use_t=True)
    (a, b), (low, high) = model.params, model.conf_int()[1]
    assert found[:3] == pytest.approx((b, low, high))
    assert found.rows == pytest.approx(2 ** ((margin - a) / b))
    x = np.linspace(0, 12, 200_001)
    error = np.sqrt(np.einsum("in,ij,jn->n", np.stack([np.ones_like(x), x]), model.cov_params(), np.stack([np.ones_like(x), x])))
    inside = 2 ** x[np.abs(a + b * x - margin) <= stats.t.ppf(0.975, 38) * error]
    assert (found.low, found.high) == pytest.approx((inside.min(), inside.max()), rel=1e-3)
    assert (found.at_fewest, found.at_most) == pytest.approx((a + b * np.log2(rows.min()), a + b * np.log2(rows.max())))


def test_without_a_sure_slope_there_is_no_size() -> None:
    found = break_even(*clients(0.0))
    assert found is not None
    assert found.slope_low < 0 < found.slope_high
    assert math.isnan(found.rows)
    assert math.isnan(found.low)


@pytest.mark.parametrize("rows", [[3, 5, 9] * 3, [4, 8] * 10])
def test_few_clients_or_sizes_say_nothing(rows: list[int]) -> None:
    assert break_even(rows, np.linspace(0, 1, len(rows))) is None


def test_the_interval_holds_the_size_as_often_as_it_says() -> None:
    found = [break_even(*clients(-0.4, seed)) for seed in range(400)]
    assert 0.92 <= np.mean([one is not None and one.low <= 32 <= one.high for one in found]) <= 0.98
