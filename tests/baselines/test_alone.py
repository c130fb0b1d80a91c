"""A client at its best alone, and the guess, against scikit-learn and NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scenarios import scenario
from sklearn.metrics import accuracy_score, log_loss

from scarcity_ray import simulate
from scarcity_ray.baselines.alone import alone
from scarcity_ray.baselines.features import own_features
from scarcity_ray.baselines.measure import alone_predictions, baselines, guesses
from scarcity_ray.ensemble.representation import RandomFourier
from scarcity_ray.metrics.tested_rows import TestedRowsStat
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import ScenarioError, parse
from scarcity_ray.strategies.sf_hfe import SfHfe
from scarcity_ray.training.evaluate import gathered

RNG = np.random.default_rng(0)


def test_a_clear_line_is_found_and_noise_leaves_the_mean() -> None:
    x = RNG.standard_normal((30, 3))
    found = alone(x, x[:, :1] * 2 + 1, x, "regression", 1, {})
    assert found.chosen == "inputs"
    np.testing.assert_allclose(found.outputs, x[:, :1] * 2 + 1, atol=1e-2)
    y = RNG.standard_normal((6, 1))
    nothing = alone(np.ones((6, 2)), y, np.ones((3, 2)), "regression", 1, {})
    assert nothing.chosen == "constant"
    np.testing.assert_allclose(nothing.outputs, np.full((3, 1), y.mean()))


def test_class_shares_have_half_a_row_added() -> None:
    found = alone(np.ones((5, 2)), np.array([0, 0, 0, 2, 2]), np.ones((1, 2)), "classification", 3, {})
    np.testing.assert_allclose(np.exp(found.outputs), [[3.5 / 6.5, 0.5 / 6.5, 2.5 / 6.5]])


def test_probabilities_are_no_surer_than_the_rows_allow() -> None:
    x = np.concatenate([np.full((4, 1), -1.0), np.full((4, 1), 1.0)]) + 0.01 * RNG.standard_normal((8, 1))
    y = np.repeat([0, 1], 4)
    found = alone(x, y, x, "classification", 2, {})
    shares = np.exp(found.outputs)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares.argmax(1) == y).all()
    assert shares.max() <= 8.5 / 9  # eight rows, and half a row of each class


def test_features_of_a_strategy_are_taken_where_they_predict_better() -> None:
    x = RNG.uniform(-2, 2, (40, 1))
    y = np.square(x) - 1

    def squares(own: np.ndarray) -> object:
        return lambda new: np.concatenate([new, np.square(new)], 1)

    assert alone(x, y, x, "regression", 1, {}).chosen == "constant"
    found = alone(x, y, x, "regression", 1, {"squares": squares})  # type: ignore[dict-item]
    assert found.chosen == "squares"
    np.testing.assert_allclose(found.outputs, y, atol=0.05)


def test_a_client_has_inputs_beside_its_waves_where_a_strategy_has_them() -> None:
    own, seen = RNG.standard_normal((30, 3)), {}
    for inputs in (True, False):
        representation = RandomFourier(features=24, inputs=inputs, bandwidth=2.0)
        seen[inputs] = own_features([SfHfe(representation=representation)], 5)["sf_hfe"](own)(own)
        module = representation.waves(3, 5, 2.0)
        np.testing.assert_allclose(seen[inputs], module(torch.from_numpy(own).float()).numpy(), atol=1e-5)
    np.testing.assert_allclose(seen[True][:, 21:], own * (0.5 / 3**0.5), rtol=1e-6)


def test_what_lies_far_outside_is_not_extrapolated() -> None:
    x = np.linspace(0, 1, 12)[:, None]
    found = alone(x, x, np.array([[2.5], [1e6], [-1e6]]), "regression", 1, {})
    assert found.outputs[0, 0] == pytest.approx(2.5, abs=0.01)  # a line goes on for a while
    assert np.abs(found.outputs).max() < 3
    both = np.hstack([x, x + 0.01 * RNG.standard_normal(x.shape)])
    found = alone(both, x, np.array([[1e6, -1e6], [-1e6, 1e6]]), "regression", 1, {})
    assert np.abs(found.outputs).max() < 2


def test_one_row_is_a_constant_and_none_has_no_answer() -> None:
    one = alone(np.ones((1, 2)), np.array([1]), np.zeros((2, 2)), "classification", 2, {})
    assert one.chosen == "constant"
    np.testing.assert_allclose(np.exp(one.outputs), [[0.25, 0.75]] * 2)
    assert np.isnan(alone(np.ones((0, 2)), np.zeros(0, dtype=np.int64), np.zeros((2, 2)), "classification", 2, {}).outputs).all()


def test_its_metrics_are_those_of_scikit_learn_and_no_other_client_matters(tmp_path: Path) -> None:
    read = parse(scenario())
    plan = prepare(read, tmp_path)
    federation, ids = plan.federation, np.arange(12)
    problem = plan.problems["fed_avg"]
    found = baselines(problem, federation, read.strategies, ids)
    alone_ones = list(alone_predictions(problem, federation, {}, ids))
    for i in (0, 7):
        (single,) = alone_predictions(problem, federation, {}, ids[i : i + 1])
        assert np.array_equal(single, alone_ones[i])
    stats, guessed = found["guess"].stats, list(guesses(problem, federation, ids))
    for i in range(12):
        y = federation.test.y[federation.test.rows(i)]
        assert stats["accuracy"].values()[i] == pytest.approx(accuracy_score(y, guessed[i].argmax(1)))
        assert stats["loss"].values()[i] == pytest.approx(log_loss(y, np.exp(guessed[i]), labels=range(10)))
    counts = np.bincount(federation.train.y, minlength=10) + 0.5
    np.testing.assert_allclose(np.exp(guessed[0][0]), counts / counts.sum())
    rows = gathered(found["guess"].stats, TestedRowsStat)
    assert rows is not None
    assert rows.by_client()[1].mean() == pytest.approx(stats["accuracy"].pooled())


def test_they_are_in_the_tables_and_the_summary_and_no_strategy_has_their_names(tmp_path: Path) -> None:
    results = simulate(scenario(repeats=2, strategies=[{"kind": "local_only"}]), out=tmp_path / "run")
    entries = results.summary["strategies"]
    assert list(entries) == ["guess", "alone", "local_only"]
    assert results.summary["alone"] == "alone"
    assert set(results.frame("rounds")["strategy"]) == {"local_only"}
    clients = results.frame("clients")
    assert clients[clients.strategy == "alone"].groupby("seed").size().tolist() == [12, 12]
    assert entries["guess"]["uplink_bytes_per_client"] == 40
    with pytest.raises(ScenarioError, match="that name is a baseline's"):
        parse(scenario(strategies=[{"kind": "fed_avg", "name": "Alone"}]))
