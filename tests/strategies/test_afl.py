"""AFL against scikit-learn's ridge on the pooled rows, for any way of dealing them to clients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.insight_rounds import IDENTITY, classes, insight_server, mlp
from helpers.played import federation, shards
from helpers.scenarios import scenario
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.linear_model import Ridge
from torch import nn

from scarcity_ray import simulate
from scarcity_ray.actors.server import Server
from scarcity_ray.core.federation import Federation
from scarcity_ray.core.spec import SpecError
from scarcity_ray.runtime.plan import prepare
from scarcity_ray.scenario import ScenarioError, parse
from scarcity_ray.strategies.afl import Afl

ROWS, WIDTH, CLASSES = 90, 6, 3
DEALS = ["iid", "by_class", "one_client", "with_empty_clients", "a_row_each"]


def pooled(task: str, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of features of unequal sizes, none about 0; a third class that is rare."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((ROWS, WIDTH)) * np.logspace(-0.5, 0.5, WIDTH) + rng.standard_normal(WIDTH)).astype(np.float32)
    score = x @ rng.standard_normal((WIDTH, 2)) + 0.5 * rng.standard_normal((ROWS, 2))
    if task == "regression":
        return x, score.astype(np.float32)
    return x, np.digitize(score[:, 0], np.quantile(score[:, 0], [0.5, 0.9])).astype(np.int64)


def dealt(x: NDArray[Any], y: NDArray[Any], deal: str) -> Federation:
    """The same rows in another order and company."""
    order = np.random.default_rng(1).permutation(ROWS)
    counts = {"iid": [30] * 3, "one_client": [ROWS], "with_empty_clients": [0, 50, 0, 39, 1, 0], "a_row_each": [1] * ROWS}.get(deal)
    if counts is None:
        key = y if y.ndim == 1 else np.digitize(y[:, 0], np.quantile(y[:, 0], [0.5, 0.9]))
        order, counts = np.argsort(key, kind="stable"), np.bincount(key).tolist()
    return federation(shards(x[order], y[order], counts))


def played(held: Federation, company: int = 99, **settings: Any) -> tuple[Server, dict[str, Any]]:
    """After the one round; and what it has learned."""
    module = nn.Linear(held.shape[0], held.outputs)
    made = insight_server(Afl.model_validate({"representation": IDENTITY, **settings}), held, module, company)
    result = made.run_insight_round()
    assert result.done
    return made, dict(result.learned)


def scores(made: Server, learned: dict[str, Any]) -> NDArray[np.float64]:
    """The head before its scale, `[features + 1, outputs]`."""
    head = made.state.broadcast["head"].double() * learned.get("scale", 1.0)
    return np.asarray(head)


def oracle(x: NDArray[Any], y: NDArray[Any], strength: float) -> NDArray[np.float64]:
    """scikit-learn's ridge on all rows, its intercept last."""
    z = np.eye(CLASSES)[y] if y.ndim == 1 else y.astype(np.float64)
    ridge = Ridge(alpha=strength, solver="svd").fit(x.astype(np.float64), z)
    return np.vstack([ridge.coef_.T, ridge.intercept_])


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


# -- the head ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("strength", [0.0, 0.3, 25.0])
def test_any_deal_gives_scikit_learns_ridge_of_the_pooled_rows(task: str, strength: float) -> None:
    x, y = pooled(task)
    wanted = oracle(x, y, strength)
    for deal in DEALS:
        assert distance(scores(*played(dealt(x, y, deal), strength=strength)), wanted) < 1e-6, deal


def test_each_clients_gamma_adds_up_to_k_gamma() -> None:
    """AFL's law of aggregation: the sum of (C_k + gamma I) and of F_k^T Z_k, here for centred features in place of an intercept."""
    (x, y), gamma = pooled("regression"), 0.7
    for deal in ("iid", "by_class", "with_empty_clients"):
        held = dealt(x, y, deal)
        f, z = (part.astype(np.float64) - part.mean(0, dtype=np.float64) for part in (held.train.x, held.train.y))
        clients = [held.train.rows(client) for client in range(held.clients)]
        gram = sum(f[rows].T @ f[rows] + gamma * np.eye(WIDTH) for rows in clients)
        law = np.linalg.solve(np.asarray(gram), np.asarray(sum(f[rows].T @ z[rows] for rows in clients)))
        assert distance(scores(*played(held, strength=held.clients * gamma))[:-1], law) < 1e-6


@pytest.mark.parametrize("strength", [0.0, 1e-20, 1e-9])
def test_without_a_strength_dependent_features_have_the_shortest_head(strength: float) -> None:
    """As AFL's after its last step: a copy of a feature shares its slope, and a feature that never changes has none."""
    x, y = pooled("classification")
    wide = np.hstack([x, x[:, :1], np.full((ROWS, 1), 3.0, dtype=np.float32)])
    for deal in DEALS:
        head = scores(*played(dealt(wide, y, deal), strength=strength))
        assert distance(head, oracle(wide, y, 0.0)) < 1e-5
        np.testing.assert_allclose(head[0], head[WIDTH], rtol=1e-4)
        assert np.abs(head[WIDTH + 1]).max() < 1e-6


def test_auto_is_the_strength_by_which_left_out_clients_are_predicted_best() -> None:
    x, y = pooled("regression")
    held = dealt(x, y, "iid")
    made, learned = played(held)
    assert distance(scores(made, learned), oracle(x, y, learned["strength"])) < 1e-6

    def left_out(strength: float) -> float:
        error = 0.0
        for client in range(held.clients):
            rows = np.zeros(ROWS, dtype=bool)
            rows[held.train.rows(client)] = True
            head = oracle(held.train.x[~rows], held.train.y[~rows], strength)
            error += float(np.square(held.train.x[rows] @ head[:-1] + head[-1] - held.train.y[rows]).sum())
        return error

    best = left_out(learned["strength"])
    assert all(best <= left_out(learned["strength"] * other) for other in (1e-3, 0.1, 0.4, 2.5, 10.0, 1e3))


# -- norms and probabilities -----------------------------------------------------------------------------------------------


def test_column_norms_divide_each_classs_slopes_and_intercept_by_the_slopes_norm() -> None:
    x, y = pooled("classification")
    plain = oracle(x, y, 2.0)
    norms = np.linalg.norm(plain[:-1], axis=0)
    assert norms.max() > 1.2 * norms.min()
    for deal in DEALS:
        head = scores(*played(dealt(x, y, deal), strength=2.0, column_norms=True))
        assert distance(head, plain / norms * norms.mean()) < 1e-6, deal  # one common factor is the scale's


def test_a_class_that_nobody_has_keeps_scores_of_zero() -> None:
    held = classes()  # class 3 is nobody's
    for norms in (True, False):
        made = insight_server(Afl.model_validate({"representation": IDENTITY, "column_norms": norms}), held, mlp())
        made.run_insight_round()
        head = made.state.broadcast["head"]
        assert torch.isfinite(head).all()
        assert not head[:, 3].any()
        assert head[:, :3].any(0).all()


@pytest.mark.parametrize("settings", [{}, {"strength": 1.0}, {"strength": 0.0}, {"column_norms": True}])
@pytest.mark.parametrize("clients", [1, 9])
def test_probabilities_are_those_of_the_best_scale(settings: dict[str, Any], clients: int) -> None:
    """On unseen rows the log-loss is near that of the best of all scales."""
    rng = np.random.default_rng(3)
    centres, y, z = rng.standard_normal((3, WIDTH)), rng.integers(0, 3, 270), rng.integers(0, 3, 2700)
    train, test = ((centres[c] + rng.standard_normal((len(c), WIDTH))).astype(np.float32) for c in (y, z))
    held = federation(shards(train, y, [270 // clients] * clients))
    made, learned = played(held, **({"strength": 1.0} if clients == 1 else {}) | settings)
    logits = torch.from_numpy(test @ scores(made, learned)[:-1] + scores(made, learned)[-1])

    def loss(scale: float) -> float:
        return float(nn.functional.cross_entropy(logits / scale, torch.from_numpy(z)))

    assert loss(learned["scale"]) < 1.04 * min(loss(scale) for scale in np.logspace(-3, 1, 200))


@pytest.mark.parametrize("strength", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fewer_rows_than_features_give_finite_heads(rows: int, strength: float) -> None:
    x, y = pooled("classification")
    held = replace(federation(shards(x[:rows], y[:rows], [rows])), outputs=CLASSES)
    made, learned = played(held, strength=strength)
    assert torch.isfinite(made.state.broadcast["head"]).all()
    assert 0 < learned["scale"] <= 10


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", [{"experts": 1}, {"max_experts": 2}, {"personal": False}, {"differences": "slopes"}, {"router": "gate"}, {"forgetting": 0.5}]
)
def test_settings_of_several_or_personal_heads_are_unknown(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Afl.model_validate(setting)
    with pytest.raises(ScenarioError, match=f"{next(iter(setting))} is not a field of afl"):
        parse(scenario(strategies=[{"kind": "afl", **setting}]))


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf"), "least"])
def test_strengths_that_are_none_are_refused(strength: Any) -> None:
    with pytest.raises(ValidationError):
        Afl(strength=strength)


def test_norms_of_classes_are_refused_for_a_regression(tmp_path: Path) -> None:
    data = {"source": {"kind": "diabetes"}, "clients": 4, "partition": {"kind": "iid"}}
    content = scenario(data=data, strategies=[{"kind": "fed_avg"}, {"kind": "afl", "column_norms": True}])
    with pytest.raises(SpecError, match=r"norms are of classes, and a regression has none; allowed: false") as caught:
        prepare(parse(content), tmp_path)
    assert (caught.value.field, caught.value.value) == (("strategies", 1, "column_norms"), True)


@pytest.mark.parametrize("counts", [[ROWS], [0, ROWS, 0]])
def test_auto_is_refused_where_only_one_client_has_rows(counts: list[int]) -> None:
    held = federation(shards(*pooled("classification"), counts))
    with pytest.raises(SpecError, match="auto leaves one client out, and needs two that have rows") as caught:
        played(held)
    assert (caught.value.field, caught.value.value) == (("strength",), "auto")


# -- bits, bytes, files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"column_norms": True}, {"strength": 0.0}, {"representation": {"kind": "random_fourier", "features": 24}}]
)
def test_the_same_bits_in_any_company(settings: dict[str, Any]) -> None:
    heads = []
    for company in (1, 2, 99):
        made = insight_server(Afl.model_validate({"representation": IDENTITY, **settings}), classes(), mlp(), company)
        while not made.run_insight_round().done:
            pass
        heads.append(made.state.broadcast["head"])
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(("representation", "up", "down"), [
    (IDENTITY, 52 + 4 * (7 * 8 // 2 - 1 + 7 * 4), 4 * 7 * 4),
    ({"kind": "trunk"}, 52 + 4 * (9 * 10 // 2 - 1 + 9 * 4), 8 + 4 * 9 * 4),
    ({"kind": "random_fourier", "features": 10}, 52 + 4 * 7 + 52 + 4 * (11 * 12 // 2 - 1 + 11 * 4), 12 + 4 * 11 * 4),
])  # fmt: skip
def test_bytes_are_the_moments_up_and_one_head_down(representation: dict[str, Any], up: int, down: int) -> None:
    made = insight_server(Afl.model_validate({"representation": representation}), classes(), mlp())
    while not made.run_insight_round().done:
        pass
    assert made.traffic.uplink.tolist() == [up] * 5
    assert made.traffic.downlink.tolist() == [down] * 5


def test_saved_modules_reproduce_the_answers_and_the_summary_says_what_was_learned(tmp_path: Path) -> None:
    strategies = [{"kind": "afl"}, {"kind": "afl", "name": "fed3r", "strength": 0.01, "column_norms": True, "representation": IDENTITY}]
    results = simulate(scenario(strategies=strategies), out=tmp_path / "run")
    test, table = prepare(parse(scenario(strategies=strategies)), tmp_path).federation.test, results.frame("clients")
    for name in ("afl", "fed3r"):
        module = results.model(name)
        for client in (0, 3):
            with torch.no_grad():
                answers = module(torch.from_numpy(test.x[test.rows(client)]))
            said = table[(table.strategy == name) & (table.client_id == client)].iloc[-1]
            loss = nn.functional.cross_entropy(answers, torch.from_numpy(test.y[test.rows(client)]))
            assert float(loss) == pytest.approx(said.test_loss, rel=1e-4)
    told = results.summary["strategies"]["fed3r"]
    assert (told["strength"], told["clients"]) == (0.01, 12)
    assert told["scale"] > 0


def test_one_client_alone_is_a_run(tmp_path: Path) -> None:
    data = {"source": {"kind": "digits"}, "clients": 1, "partition": {"kind": "iid"}}
    results = simulate(scenario(data=data, strategies=[{"kind": "afl", "strength": 1.0}]), out=tmp_path / "run")
    assert results.summary["strategies"]["afl"]["test_accuracy"] > 0.9
