"""Router: a table of rules, the highest score, the k best, and all by their weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import softmax

from scarcity_ray.ensemble.router import Router

ROWS = st.lists(st.lists(st.floats(allow_nan=False), min_size=3, max_size=3), min_size=1)
FINITE = st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=5)


def answerable(scores: list[list[float]]) -> bool:
    return all(max(row) > -np.inf for row in scores)


# -- by rule ---------------------------------------------------------------------------------------------------------


def test_it_constructs_alone_and_knows_nobody() -> None:
    router = Router(num_experts=3)
    assert router.table == {}
    with pytest.raises(KeyError, match="no expert is assigned to 4"):
        router.lookup([4])


def test_a_table_gives_each_client_its_expert() -> None:
    router = Router(3, {0: 2, 5: 1})
    router.assign({5: 0, 9: 1})
    assert router.lookup([5, 0, 9, 0]).tolist() == [0, 2, 1, 2]
    assert router.lookup(np.array([9, 5])).tolist() == [1, 0]
    assert router.lookup([]).tolist() == []
    assert router.lookup([9]).dtype == np.int64
    router.table[0] = 7  # a copy
    assert router.table == {0: 2, 5: 0, 9: 1}
    with pytest.raises(KeyError, match=r"to 1, 2, 3, 4, 6, \.\.\."):
        router.lookup(np.arange(8))


def test_a_rule_may_go_by_any_hashable_tag() -> None:
    router = Router(3, {"north": 2, ("ward", 4): 1, None: 0})
    assert router.lookup([("ward", 4), "north", None]).tolist() == [1, 2, 0]
    with pytest.raises(KeyError, match="no expert is assigned to 'south'"):
        router.lookup(["north", "south", "south"])


@pytest.mark.parametrize("expert", [3, -1])
def test_an_unknown_expert_is_refused_and_nothing_entered(expert: int) -> None:
    router = Router(3)
    with pytest.raises(ValueError, match=f"2 cannot have expert {expert}: there are experts 0 to 2"):
        router.assign({1: 0, 2: expert})
    assert router.table == {}


def test_experts_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        Router(3, {0: 0.5})  # type: ignore[dict-item]  # on purpose
    assert Router(3, {np.int64(4): np.int64(2)}).table == {4: 2}


def test_no_router_without_experts() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Router(0)


# -- by scores -------------------------------------------------------------------------------------------------------


def test_the_highest_score_answers_and_the_lowest_id_of_equals() -> None:
    assert Router(3).route([[0, 2, 1], [1, 1, 1], [-np.inf, -5, -5], [0, np.inf, 3]]).tolist() == [1, 0, 1, 1]
    assert Router(3).route(np.zeros((0, 3))).tolist() == []
    assert Router(2).route([[1, 0]]).dtype == np.int64


def by_each_way(scores: Any, router: Router) -> None:
    """Raises what each way of reading scores raises, if all raise the same."""
    messages = set()
    for way in (router.route, router.weights, lambda given: router.top(given, 1)):
        with pytest.raises(ValueError, match="scores") as error:
            way(scores)
        messages.add(str(error.value))
    (message,) = messages
    raise ValueError(message)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 4), (1, 2, 3), ()])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a router of 3 takes \[n, 3\]"):
        by_each_way(np.zeros(shape), Router(3))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 1 are not all numbers \(NaN\); the same holds for 1 more rows"):
        by_each_way([[0, 1], [np.nan, 1], [0, np.nan]], Router(2))


def test_a_row_that_no_expert_can_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="row 2 are all -inf: no expert can answer"):
        by_each_way([[0, 1], [-np.inf, 1], [-np.inf, -np.inf]], Router(2))


@given(ROWS)
def test_it_is_the_best_expert_of_each_row(scores: list[list[float]]) -> None:
    assume(answerable(scores))
    chosen = Router(3).route(scores).tolist()
    assert all(row[best] == max(row) and max(row) not in row[:best] for row, best in zip(scores, chosen, strict=True))


def test_the_k_best_come_by_falling_score_with_the_softmax_over_them() -> None:
    ids, weights = Router(4).top([[0, 3, 1, 2], [5, 5, 5, 5], [0, -np.inf, -np.inf, -np.inf]], 2)
    assert ids.tolist() == [[1, 3], [0, 1], [0, 1]]
    assert weights == pytest.approx(np.array([softmax([3, 2]), [0.5, 0.5], [1, 0]]))


@given(ROWS, st.integers(1, 3), st.floats(1e-3, 1e3))
def test_weights_sum_to_one_and_only_the_k_best_have_any(scores: list[list[float]], k: int, temperature: float) -> None:
    assume(answerable(scores))
    router = Router(3)
    weights, (ids, _) = router.weights(scores, k, temperature), router.top(scores, k)
    assert weights.sum(1) == pytest.approx(1)
    assert weights.min() >= 0
    assert all(not row[expert] for row, kept in zip(weights, ids, strict=True) for expert in range(3) if expert not in kept)
    assert (weights.max(1) == weights[np.arange(len(weights)), router.route(scores)]).all()


@given(FINITE, st.floats(0.1, 10))
def test_soft_weights_are_the_softmax_of_tempered_scores(scores: list[list[float]], temperature: float) -> None:
    assert Router(4).weights(scores, temperature=temperature) == pytest.approx(softmax(np.array(scores) / temperature, axis=1))


def test_extreme_scores_leave_numbers() -> None:
    weights = Router(3).weights([[np.inf, np.inf, 3], [1e308, -1e308, 0], [-np.inf, -1e308, -1e308]], temperature=1e-3)
    assert weights.tolist() == [[0.5, 0.5, 0], [1, 0, 0], [0, 0.5, 0.5]]


@pytest.mark.parametrize("k", [0, 4])
def test_more_experts_than_there_are_cannot_be_chosen(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}; it must be from 1 to 3"):
        Router(3).top([[0, 1, 2]], k)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_a_temperature_is_above_zero(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        Router(2).weights([[0, 1]], temperature=temperature)


# -- load ------------------------------------------------------------------------------------------------------------


def test_load_is_the_share_of_inputs_of_each_expert() -> None:
    router = Router(3)
    assert router.load([0, 2, 2, 2]).tolist() == [0.25, 0, 0.75]
    assert router.load([[0.5, 0.5, 0], [0, 1, 0]]).tolist() == [0.25, 0.75, 0]
    assert np.isnan(router.load([])).all()
    assert np.isnan(router.load(np.zeros((0, 3)))).all()


@given(FINITE)
def test_load_of_choices_is_that_of_their_one_hot_weights(scores: list[list[float]]) -> None:
    router = Router(4)
    assert router.load(router.route(scores)) == pytest.approx(router.load(router.weights(scores, k=1)))
    assert router.load(router.weights(scores)).sum() == pytest.approx(1)


@pytest.mark.parametrize("routed", [[0, 3], [0.0, 1.0], [[0.5, 0.5]], [[[1, 0, 0]]]])
def test_a_load_of_something_else_is_refused(routed: Any) -> None:
    with pytest.raises(ValueError, match=r"load takes ids \[n\] below 3, or weights \[n, 3\]"):
        Router(3).load(routed)
