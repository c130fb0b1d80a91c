from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scarcity_ray.core import tables
from scarcity_ray.results.hashing import ResultHash

LOSS = [0.5, None, 0.25, 4.0, None, -1.0]


def rows(loss, text=None, train_seconds=0.0):
    size = len(loss)
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * size), pa.float32()), 2)
    columns = {"loss": pa.array(loss, pa.float64()), "text": text or ["ab"] * size, "pairs": pairs, "duration": [train_seconds] * size}
    batch = pa.record_batch(columns)
    return with_field(batch, tables.column("duration", pa.float64(), "seconds", "measured", wall_clock=True))


def with_field(batch, field):
    """The batch with a column as a schema declares it."""
    return pa.record_batch(batch.columns, schema=batch.schema.set(batch.schema.get_field_index(field.name), field))


def digest(*batches, tensors=None):
    found = ResultHash()
    for batch in batches:
        found.rows("rounds", batch)
    found.tensors(tensors or {})
    return found.hexdigest()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, len(LOSS)), max_size=5))
def test_the_hash_does_not_depend_on_how_rows_are_batched(cuts):
    whole = rows(LOSS)
    edges = [0, *sorted(cuts), len(LOSS)]
    pieces = [whole.slice(start, stop - start) for start, stop in pairwise(edges)]
    assert digest(*pieces) == digest(whole)


def test_the_hash_depends_on_every_value():
    found = {
        digest(rows([1.0, None])),
        digest(rows([None, 1.0])),
        digest(rows([1.0, 1.0])),
        digest(rows([1.0, np.nextafter(1.0, 2)])),
        digest(rows([1.0, None], text=["a", "bab"])),
        digest(rows([1.0, None], text=["ab", "ba"])),
        digest(rows([1.0])),
        digest(),
    }
    assert len(found) == 8


def test_rows_that_were_on_disk_count_as_before(tmp_path):
    values = {"bytes": pa.array([[1.0], None, []], pa.list_(pa.float32())), "deep": [[[1], [2, 3]], None, []]}
    fixed = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.field("item", pa.float32(), nullable=False), 2))
    before = pa.table({**values, "fixed": fixed})
    for options in ({}, {"store_schema": False}, {"use_compliant_nested_type": False}):
        pq.write_table(before, tmp_path / "rows.parquet", **options)
        (after,) = pq.read_table(tmp_path / "rows.parquet").to_batches()
        if "store_schema" not in options:
            assert digest(after) == digest(*before.to_batches())
        lists = ["bytes", "deep"]
        assert digest(after.select(lists)) == digest(*before.select(lists).to_batches())


def test_the_order_of_rows_counts_and_wall_clock_does_not():
    assert digest(rows([1.0]), rows([2.0])) != digest(rows([2.0]), rows([1.0]))
    assert digest(rows([1.0], train_seconds=3.0)) == digest(rows([1.0], train_seconds=4.0))


def test_simulated_time_counts():
    field = tables.column("clock_seconds", pa.float64(), "seconds", "a simulated clock")
    one, two = (with_field(pa.record_batch({"clock_seconds": [value]}), field) for value in (1.0, 2.0))
    assert digest(one) != digest(two)


LATER = [None, None, 0.5, None, 0.25, None]


def later(values, hashed):
    """Rows of before, with a column that was added since."""
    field = tables.column("later", pa.float64(), "", "added later", nullable=True, hashed=hashed)
    return rows(LOSS).append_column(field, pa.array(values, pa.float64()))


@pytest.mark.parametrize("hashed", ["unless_null", "no"])
def test_a_later_column_without_values_changes_no_hash(hashed):
    assert digest(later([None] * 6, hashed)) == digest(rows(LOSS))
    assert (digest(later(LATER, hashed)) == digest(rows(LOSS))) == (hashed == "no")


@given(st.lists(st.integers(0, len(LOSS)), max_size=5), st.integers(1, 3))
def test_the_hash_of_a_later_column_does_not_depend_on_how_rows_are_batched(cuts, together):
    whole = later(LATER, "unless_null")
    edges = [0, *sorted(cuts), len(LOSS)]
    found = ResultHash()
    for count, (start, stop) in enumerate(pairwise(edges)):
        found.rows("rounds", whole.slice(start, stop - start))
        if count % together == 0:
            found.hexdigest()  # settles what waits
    assert found.hexdigest() == digest(whole)


def test_every_value_and_null_of_a_later_column_counts():
    changed = [LATER, [None, *LATER[2:], None], [0.0, *LATER[1:]], [*LATER[:-1], 1.0], [None, 0.5, None, None, 0.25, None]]
    assert len({digest(later(values, "unless_null")) for values in changed}) == len(changed)


def test_what_lies_under_a_null_does_not_count():
    def hidden(value):
        return pa.record_batch(
            [pa.Array.from_buffers(pa.float64(), 1, [pa.py_buffer(b"\0"), pa.py_buffer(np.float64(value).tobytes())])], ["loss"]
        )

    assert digest(hidden(1.0)) == digest(hidden(2.0))


def test_tensors_count_by_name_type_shape_and_bytes_and_not_by_order():
    one = {"a": torch.zeros(2, 3), "b": torch.tensor(1.0)}
    assert digest(tensors=one) == digest(tensors=dict(reversed(one.items())))
    changed = [
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.float64)},
        {"a": torch.zeros(2, 3) - 0.0 * torch.ones(2, 3) + 1e-45},
        {"c": torch.tensor(1.0)},
    ]
    assert len({digest(tensors=one), *(digest(tensors=one | change) for change in changed)}) == 5


def test_a_view_and_its_copy_have_the_same_hash():
    table = torch.arange(6.0).view(2, 3)
    assert digest(tensors={"w": table.T}) == digest(tensors={"w": table.T.contiguous()})


def test_a_single_number_counts_the_same_with_any_stride():
    far = torch.empty_strided((1,), (6,)).fill_(2.0)
    assert digest(rows(LOSS), tensors={"bias": far}) == digest(rows(LOSS), tensors={"bias": torch.full((1,), 2.0)})
