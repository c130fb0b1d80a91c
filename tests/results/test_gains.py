"""What clients' gains say together, against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scarcity_ray.core.metrics import headline
from scarcity_ray.inference.multiple import holm
from scarcity_ray.results.gains import Gains, SeedGains, compared, describe_best

RNG = np.random.default_rng(5)
CLIENTS = np.arange(30)


def gains(values: np.ndarray, errors: float | np.ndarray = 0.05, validation: np.ndarray | None = None, bound: float = np.inf) -> Gains:
    table = np.broadcast_to(values, (3, len(values)))
    rows = np.full(len(values), 20)
    seen = np.full(len(values), np.nan) if validation is None else validation
    return Gains.of([SeedGains(np.arange(len(values)), rows, table, np.broadcast_to(errors, table.shape), seen)], True, bound)


def test_the_next_client_is_never_known_better_than_the_mean() -> None:
    errors = np.where(CLIENTS < 2, 0.001, 1.0)  # two clients say all, by their weight in random effects
    found = gains(0.05 + errors * RNG.standard_normal(30), errors).describe()
    assert found["next_low"] <= found["low"]
    assert found["next_high"] >= found["high"]


def test_no_gain_of_a_share_is_beyond_1() -> None:
    values = np.where(CLIENTS % 2, 0.9, -0.9)
    assert gains(values).describe()["next_high"] > 1
    found = gains(values, bound=1.0).describe()
    assert (found["next_low"], found["next_high"]) == (-1.0, 1.0)
    few = np.array([1.0, 1.0, 0.0])
    assert gains(few).describe()["high"] > 1
    bounded = gains(few, 0.3, bound=1.0)
    found, each = bounded.describe(), bounded.shrunk()
    assert found["high"] == found["by_row"]["high"] == found["next_high"] == 1.0
    assert gains(few, 0.3).shrunk().high.max() > 1
    assert each.high.max() == 1.0
    assert compared({"a": bounded, "b": gains(few * 0, bound=1.0)})[0]["gain"]["high"] == 1.0


def test_validation_rows_choose_where_there_are_some() -> None:
    better, other = 0.3 + 0.05 * RNG.standard_normal(30), 0.2 + 0.05 * RNG.standard_normal(30)
    best = describe_best({"a": gains(better), "b": gains(other)}, None)
    assert best is not None
    assert (best["strategies"], best["chosen_on"]) == (["a"], "halves of the test rows")
    # Validation rows like b more, so b it is, and its gain is that on all test rows with its plain interval.
    best = describe_best({"a": gains(better, validation=better * 0), "b": gains(other, validation=other * 0 + 1)}, None)
    assert best is not None
    assert (best["strategies"], best["chosen_on"]) == (["b"], "validation rows")
    assert best["gain"] == gains(other).describe()


def test_a_seeds_validation_is_higher_where_the_strategy_is_better() -> None:
    shown = headline("regression")
    columns = {"client_id": [0, 1], "num_test": [3, 3], "validation_loss": np.array([4.0, 9.0])}
    columns |= {f"gain{half}{part}": np.zeros(2) for half in ("", "_0", "_1") for part in ("", "_error")}
    assert SeedGains.of(columns, shown).validation.tolist() == [-2.0, -3.0]
    del columns["validation_loss"]
    assert np.isnan(SeedGains.of(columns, shown).validation).all()


def test_pairs_are_compared_by_a_t_test_and_adjusted_for_all_of_them() -> None:
    # Normal gains without a long tail: the test is nearly Student's paired one.
    parts = {
        name: gains(level + 0.1 * stats.norm.ppf((RNG.permutation(30) + 0.5) / 30))
        for name, level in zip("abc", (0.3, 0.25, 0.0), strict=True)
    }
    found = compared(parts)
    assert [{one["better"], one["worse"]} for one in found] == [{"a", "b"}, {"a", "c"}, {"b", "c"}]
    for one in found:
        difference = parts[one["better"]].gains[0, 0] - parts[one["worse"]].gains[0, 0]
        assert one["gain"]["mean"] == pytest.approx(difference.mean())
        assert one["gain"]["mean"] >= 0
        assert one["p_value"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, rel=0.5)
        assert (one["p_value"] < 0.05) == (one["gain"]["low"] > 0)
    assert [one["p_holm"] for one in found] == pytest.approx(holm([one["p_value"] for one in found]).tolist())
    assert compared({"a": parts["a"]}) == []
