"""Prototypes against NumPy and scikit-learn, and payloads that are no good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.insight_rounds import COUNTS, IDENTITY, LOCAL, by_hand, classes, insight_server, mlp, personal, sent
from helpers.played import federation, server, shards
from helpers.scenarios import scenario
from sklearn.neighbors import NearestCentroid
from torch import nn

from scarcity_ray import simulate
from scarcity_ray.core.insights import wire_bytes
from scarcity_ray.core.spec import SpecError
from scarcity_ray.core.strategy import Strategy
from scarcity_ray.ensemble.class_means import ClassMeans, linear_head
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import parse
from scarcity_ray.strategies import FedAvg, GradientExchange, Prototypes
from scarcity_ray.training.evaluate import evaluate


def test_clients_send_class_means_and_numbers_of_rows() -> None:
    held = classes()
    result = insight_server(Prototypes.model_validate({"representation": IDENTITY}), held, mlp()).run_insight_round()
    for client, message in enumerate(sent(result, "prototypes").reshape(5, 4, 7)):
        x, y = (part[held.train.rows(client)] for part in (held.train.x.astype(np.float64), held.train.y))
        for c in range(4):
            mean = x[y == c].mean(0) if (y == c).any() else np.zeros(6)
            assert message[c] == pytest.approx(np.append(mean, (y == c).sum()), rel=1e-6)


def test_one_head_for_all_is_the_nearest_centroid_of_the_pooled_rows() -> None:
    held = classes(apart=0.7)
    strategy = Prototypes.model_validate({"representation": IDENTITY, "personal": False})
    made = insight_server(strategy, held, mlp())
    result = made.run_insight_round()
    assert result.done
    row = strategy.eval_models(made.state.broadcast, {})["global"]
    x = torch.from_numpy(held.test.x)
    scores = made.problem.learner.scores(row, x[None])[0]
    assert torch.isfinite(scores).all()
    centroids = NearestCentroid().fit(held.train.x.astype(np.float64), held.train.y)
    assert np.array_equal(scores.argmax(1).numpy(), centroids.predict(held.test.x))
    # Log-odds of two classes: the difference of squared distances over twice the temperature.
    distance = ((held.test.x[:, None] - centroids.centroids_) ** 2).sum(2)
    odds = (distance[:, :1] - distance) / (2 * float(made.state.broadcast["temperature"]))
    assert (scores[:, :3] - scores[:, :1]).numpy() == pytest.approx(odds, rel=1e-3, abs=1e-3)


def test_a_class_that_nobody_has_is_possible_and_never_chosen() -> None:
    held = classes()
    for own in (True, False):
        strategy = Prototypes.model_validate({"representation": IDENTITY, "personal": own})
        made = insight_server(strategy, held, mlp())
        made.run_insight_round()
        theta = personal(made) if own else strategy.eval_models(made.state.broadcast, {})["global"]
        stranger = shards(held.test.x, np.full(len(held.test.x), 3), COUNTS)
        loss, accuracy = evaluate(made.problem, theta, stranger, np.arange(5))
        assert np.all(loss > 50)
        assert np.all(np.isfinite(loss))
        assert not accuracy.any()


@pytest.mark.parametrize(("settings", "up", "down"), [
    ({"representation": IDENTITY}, 52 + 4 * 28, 4 * (24 + 4 + 3)),
    ({"representation": IDENTITY, "personal": False}, 52 + 4 * 28, 4 * (24 + 4 + 1)),
    ({"representation": {"kind": "trunk"}}, 52 + 4 * 36, 8 + 4 * (32 + 4 + 3)),
    ({"representation": {"kind": "random_fourier", "features": 10}}, 104 + 4 * 7 + 4 * 44, 12 + 4 * (40 + 4 + 3)),
])  # fmt: skip
def test_bytes_are_those_of_the_messages(settings: dict[str, Any], up: int, down: int) -> None:
    """Up: for each class a mean and a number, and once a survey. Down: what the representation needs, means, shares, one or
    three numbers."""
    strategy = Prototypes.model_validate(settings)
    made = insight_server(strategy, classes(), mlp())
    while not made.run_insight_round().done:
        assert strategy.representation.asked
    assert made.traffic.uplink.tolist() == [up] * 5
    assert made.traffic.downlink.tolist() == [down] * 5


@pytest.mark.parametrize("representation", [IDENTITY, {"kind": "random_fourier", "features": 24}, {"kind": "trunk"}])
def test_the_same_bits_in_any_company(representation: dict[str, Any]) -> None:
    strategy = Prototypes.model_validate({"representation": representation})
    rows = []
    for company in (1, 2, 99):
        made = insight_server(strategy, classes(), mlp(), company)
        while not made.run_insight_round().done:
            pass
        rows.append(personal(made))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_a_trunk_may_be_trained_first() -> None:
    strategy = Prototypes.model_validate({"representation": {"kind": "trunk", "rounds": 2}})
    held, module = classes(), mlp()
    made = insight_server(strategy, held, module)
    for round in (1, 2, 3):
        made.run_ordered_round(round, np.arange(5), True)
    trained = server(FedAvg(), held, module, LOCAL)
    for _ in range(2):
        trained.run_round()
    assert torch.equal(made.state.broadcast["trunk"], trained.state.broadcast["x"])
    size = 4 * (6 * 8 + 8 + 8 * 4 + 4)
    assert made.traffic.uplink[0] == 2 * size + wire_bytes({"prototypes": 36})
    assert made.traffic.downlink[0] == 3 * size + 4 * (32 + 4 + 3)


def test_own_heads_are_posterior_means_and_class_probabilities() -> None:
    known = ClassMeans(torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double(), torch.tensor([0.75, 0.25]).double(), 0.5, 0.2, 4.0)
    own = torch.tensor([[2.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    trust = 3 * 0.2 / (1 + 3 * 0.2)
    mean = np.array([[1 + trust, 2 - 2 * trust], [3.0, -1.0]])
    shares = np.array([(3 + 4 * 0.75) / 7, 4 * 0.25 / 7])
    head = linear_head(known, own).numpy()
    assert head[:2] == pytest.approx(mean.T / 0.5)
    assert head[2] == pytest.approx(np.log(shares) - (mean**2).sum(1) / (2 * 0.5))


def test_own_heads_pay_where_clients_differ_and_cost_nothing_where_they_do_not() -> None:
    gain = {}
    for shift in (0.0, 2.0):
        held, found = classes([3, 4, 6, 8, 12, 17] * 4, seed=5, apart=1.2, shift=shift), {}
        for own in (True, False):
            made = insight_server(Prototypes.model_validate({"representation": IDENTITY, "personal": own}), held, mlp())
            found[own] = made.run_insight_round().row["test_accuracy"]
        gain[shift] = found[True] - found[False]
    assert gain[2.0] > 0.15
    assert gain[0.0] > -0.02


def test_prototypes_are_refused_for_a_regression() -> None:
    rng = np.random.default_rng(0)
    held = federation(shards(rng.standard_normal((6, 3)), rng.standard_normal((6, 1)), [3, 3]))
    with pytest.raises(SpecError, match="prototypes are means of classes, and a regression has none"):
        insight_server(Prototypes(), held, nn.Linear(3, 1))


def test_saved_modules_reproduce_the_answers(tmp_path: Any) -> None:
    strategies = [
        {"kind": "prototypes", "name": "own"},
        {"kind": "prototypes", "name": "one", "personal": False, "representation": IDENTITY},
    ]
    results = simulate(scenario(strategies=strategies), out=tmp_path / "run")
    table = results.frame("clients")
    test = prepare(parse(scenario(strategies=strategies)), tmp_path).federation.test
    for name, client in (("own", 3), ("one", None)):
        with torch.no_grad():
            scores = results.model(name, client)(torch.from_numpy(test.x[test.rows(3)]))
        said = table[(table.strategy == name) & (table.client_id == 3)].iloc[-1]
        assert float((scores.argmax(1).numpy() == test.y[test.rows(3)]).mean()) == pytest.approx(said.test_accuracy)


# -- payloads that are no good --------------------------------------------------------------------------------------------


def _not_finite(rows: np.ndarray) -> np.ndarray:
    rows[1, 3] = np.nan
    return rows


def _huge(rows: np.ndarray) -> np.ndarray:
    rows[1, 0] = 1e35
    return rows


@pytest.mark.parametrize("spoil", [_not_finite, _huge])
@pytest.mark.parametrize("strategy", [Prototypes.model_validate({"representation": IDENTITY}), GradientExchange(dimensions=10)])
def test_the_gate_keeps_a_bad_payload_out_of_what_is_learned(strategy: Strategy, spoil: Any) -> None:
    held = classes([9, 9, 9])
    update, _ = by_hand(strategy, held, mlp(), spoil)
    assert [client for client, _ in update.summary["rejections"]] == [1]
    theta = strategy.eval_models(update.state.broadcast, {})["global"]
    assert torch.isfinite(theta).all()

    def drop(rows: np.ndarray) -> np.ndarray:
        rows[1] = np.inf
        return rows

    other = by_hand(strategy, held, mlp(), drop)[0].state
    assert all(torch.equal(value, other.broadcast[name]) for name, value in update.state.broadcast.items())


@pytest.mark.parametrize("count", [-3.0, 1.5, 40.0])
def test_numbers_of_rows_that_cannot_be_true_are_left_out(count: float) -> None:
    def lie(rows: np.ndarray) -> np.ndarray:
        rows[0, 6] = count
        return rows

    strategy = Prototypes.model_validate({"representation": IDENTITY})
    update = by_hand(strategy, classes([9, 9, 9]), mlp(), lie)[0]
    assert update.learned["left_out"] == [0]
    assert torch.isfinite(update.state.broadcast["means"]).all()
    assert float(update.state.broadcast["shares"].sum()) == pytest.approx(1)


def test_payloads_of_another_length_are_refused() -> None:
    strategy = Prototypes.model_validate({"representation": IDENTITY})
    update = by_hand(strategy, classes([9, 9]), mlp(), lambda rows: rows[:, :-1])[0]
    assert update.summary["rejected"] == 2
    assert not update.state.broadcast
