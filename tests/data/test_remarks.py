"""What is said of a table: columns that name rows, columns that give the label away, names spelt in two ways."""

from __future__ import annotations

import numpy as np
import pytest

from scarcity_ray.data.pool import Categorical, Pool
from scarcity_ray.data.remarks import alike, identifiers, remarks, telling

RNG = np.random.default_rng(5)
ROWS = 2000
NOISE = RNG.standard_normal(ROWS)


def text(words):
    used, codes = np.unique(words, return_inverse=True)
    return Categorical(codes.astype(np.int32), tuple(used.tolist()))


def test_columns_that_name_a_row_are_found_and_amounts_are_not():
    columns = {
        "number": RNG.permutation(ROWS) + 7.0,
        "remark": text([f"w{i // 2 * (i % 3 > 0)}x{i}" for i in range(ROWS)]),
        "patientId": RNG.integers(0, 300, ROWS).astype(float),
        "case_id": text([f"c{i % 400}" for i in range(ROWS)]),
        "income": RNG.choice(10**6, ROWS, replace=False).astype(float),
        "age": RNG.integers(0, 90, ROWS).astype(float),
        "paid": RNG.integers(0, 500, ROWS).astype(float),  # ends in id, but is a word
        "treatment_id": RNG.integers(0, 4, ROWS).astype(float),
        "town": text([f"t{i % 400}" for i in range(ROWS)]),
        "weight": NOISE,
        "lacking": np.where(NOISE > 0, NOISE, np.nan),
    }
    assert identifiers(columns) == ["number", "remark", "patientId", "case_id"]
    assert identifiers({"number": np.arange(19.0)}) == []


@pytest.mark.parametrize(("right", "said"), [(0.999, True), (0.98, False)])
def test_a_column_that_tells_the_class_is_found_by_its_value_and_by_its_place(right, said):
    y = RNG.choice([0, 1, 2], ROWS, p=[0.7, 0.2, 0.1])
    shown = np.where(RNG.random(ROWS) < right, y, (y + 1) % 3)
    columns = {
        "word": text(np.array(["b", "c", "a"])[shown]),
        "code": np.array([3.0, 900.0, 14.0])[shown] + 1000 * RNG.integers(0, 10, ROWS),  # values mean nothing but themselves
        "amount": 10 * shown + RNG.random(ROWS),
        "noise": NOISE,
        "rows": text([f"r{i}" for i in range(ROWS)]),  # each row its own word: nothing is told of another
    }
    assert list(telling(columns, y, "classification")) == (["word", "code", "amount"] if said else [])
    assert telling({"amount": y * 1.0}, np.where(np.arange(ROWS) < 60, 0, 1), "classification") == {}  # 97 % are of one class


def test_a_column_that_tells_a_number_is_found_if_the_relation_rises_or_is_of_words():
    y = RNG.standard_normal((ROWS, 1))
    place = np.floor(20 * y[:, 0])
    columns = {
        "line": -3 * y[:, 0] + 0.1 * NOISE,
        "curve": np.exp(5 * y[:, 0]),
        "near": y[:, 0] + 0.15 * NOISE,  # R^2 is .978
        "word": text([str(value) for value in place]),
        "rows": text([f"r{i // 2}" for i in range(ROWS)]),
        "constant": np.ones(ROWS),
    }
    found = telling(columns, y, "regression")
    assert list(found) == ["line", "curve", "word"]
    assert found["line"] == f"R² {np.corrcoef(columns['line'], y[:, 0])[0, 1] ** 2:.3f}"


def test_chance_tells_nothing_in_small_tables():
    for seed in range(200):
        draw = np.random.default_rng(seed)
        rows = int(draw.integers(20, 120))
        columns = {"number": draw.standard_normal(rows), "word": text(draw.integers(0, rows // 3, rows).astype(str))}
        assert telling(columns, draw.random(rows) < 0.1, "classification") == {}
        assert telling(columns, draw.standard_normal(rows), "regression") == {}


def test_the_sentences_name_what_is_wrong_and_what_to_do():
    y, words = RNG.integers(0, 30, ROWS), np.array(["ward", "Ward ", "home"])[RNG.integers(0, 3, ROWS)]
    pool = Pool((NOISE, text(words)), y, "classification", 30, inputs=(("weight", 1), ("place", 1)), classes=tuple(range(30)), label="days")
    spelt, amount = remarks(pool, task_said=False)
    assert "words of place" in spelt
    assert "'Ward ' and 'ward'" in spelt
    assert "days is learned as 30 classes" in amount
    assert "`task: regression`" in amount
    assert remarks(pool, task_said=True) == (spelt,)
    assert alike(["Yes", "yes", "no", "St. Mary", "st.mary"]) == [("St. Mary", "st.mary"), ("Yes", "yes")]
