"""Router: a fixed table, and the highest score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scarcity_ray.router import Router


def test_it_constructs_alone_and_knows_nobody() -> None:
    router = Router(num_experts=3)
    assert router.table == {}
    with pytest.raises(KeyError, match="no expert is assigned to client 4"):
        router.lookup([4])


def test_a_table_gives_each_client_its_expert() -> None:
    router = Router(3, {0: 2, 5: 1})
    router.assign({5: 0, 9: 1})
    assert router.lookup([5, 0, 9, 0]).tolist() == [0, 2, 1, 2]
    assert router.lookup([]).tolist() == []
    assert router.lookup(9) == 1
    router.table[0] = 7  # a copy
    assert router.table == {0: 2, 5: 0, 9: 1}
    with pytest.raises(KeyError, match=r"client 1, 2, 3, 4, 6, \.\.\."):
        router.lookup(range(8))


@pytest.mark.parametrize("expert", [3, -1])
def test_an_unknown_expert_is_refused_and_nothing_entered(expert: int) -> None:
    router = Router(3)
    with pytest.raises(ValueError, match=f"client 2 cannot have expert {expert}: there are experts 0 to 2"):
        router.assign({1: 0, 2: expert})
    assert router.table == {}


def test_ids_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        Router(3, {0: 0.5})  # type: ignore[dict-item]  # on purpose
    assert Router(3, {np.int64(4): np.int64(2)}).table == {4: 2}


def test_no_router_without_experts() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Router(0)


def test_the_highest_score_answers_and_the_lowest_id_of_equals() -> None:
    assert Router(3).route([[0, 2, 1], [1, 1, 1], [-np.inf, -5, -5], [0, np.inf, 3]]).tolist() == [1, 0, 1, 1]
    assert Router(3).route(np.zeros((0, 3))).tolist() == []
    assert Router(2).route([[1, 0]]).dtype == np.int64


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 4), (1, 2, 3), ()])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a router of 3 takes \[n, 3\]"):
        Router(3).route(np.zeros(shape))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1"):
        Router(2).route([[0, 1], [np.nan, 1], [0, np.nan]])


@given(st.lists(st.lists(st.floats(allow_nan=False), min_size=3, max_size=3), min_size=1))
def test_it_is_the_best_expert_of_each_row(scores: list[list[float]]) -> None:
    chosen = Router(3).route(scores).tolist()
    assert all(row[best] == max(row) and max(row) not in row[:best] for row, best in zip(scores, chosen, strict=True))
