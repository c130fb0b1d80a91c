"""Splits each client's own rows into training, validation and test rows: by chance, or by what a column says."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import Self

from scarcity_ray.core.randomness import hash64
from scarcity_ray.core.spec import Spec
from scarcity_ray.data.pool import Categorical, Column

TRAIN, VALIDATION, TEST = 0, 1, 2


class Split(Spec):
    """What decides which of a client's rows are for testing, instead of chance: one column of the table.

    The mean gain over clients needs no rows that are independent; the error of a single client's gain counts its rows as if they were.
    """

    by: Annotated[str | None, Field(description="column, as of patients: a client's rows with the same value stay together")] = None
    time: Annotated[
        str | None,
        Field(description="column of numbers or dates: a client trains on early rows, and late ones test; equal times stay together"),
    ] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.by is None) == (self.time is None):
            raise ValueError("name one column: {by: COLUMN} or {time: COLUMN}")
        return self

    @property
    def column(self) -> tuple[str, str]:
        """The field that names the column, and its name."""
        return ("time", self.time) if self.by is None and self.time is not None else ("by", self.by or "")


def split_sizes(counts: NDArray[np.int64], test_fraction: float, validation_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of test and validation rows of clients with `counts` rows: the fractions of each, rounded half up.

    A client keeps at least one training row. If rounding leaves none, the validation part is reduced first, then the test part.
    """
    # in floating point a half such as .29 x 50 can come out slightly lower: the small term corrects this
    test, validation = (np.floor(counts * fraction + 0.5 + 1e-9).astype(np.int64) for fraction in (test_fraction, validation_fraction))
    test = np.minimum(test, counts - 1)
    return test, np.minimum(validation, counts - 1 - test)


def split(
    counts: NDArray[np.int64], ids: NDArray[np.int64], test_fraction: float, validation_fraction: float, seed: int
) -> NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for each row, `[rows]`, of clients `ids` with `counts` rows, one client after the other.

    A client's split depends on the seed, its id and its number of rows alone.
    """
    part = np.full(int(counts.sum()), TRAIN, dtype=np.int8)
    test, validation = split_sizes(counts, test_fraction, validation_fraction)
    if not (test.any() or validation.any()):
        return part
    client = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts)
    drawn = np.lexsort((hash64(seed, "split", ids[client], place), client))  # each client's rows in random order
    part[drawn[place < (test + validation)[client]]] = VALIDATION
    part[drawn[place < test[client]]] = TEST
    return part


def split_groups(
    counts: NDArray[np.int64],
    ids: NDArray[np.int64],
    column: Column,
    test_fraction: float,
    validation_fraction: float,
    seed: int | None,
) -> NDArray[np.int8]:
    """As `split`, but a client's rows with the same value in `column`, `[rows]`, stay together.

    seed: of the order in which a client's values go, first to the test part, then to validation. None: the largest values are for testing
    and the next ones for validation, and all seeds give the same split.
    Values are added to a part while its number of rows comes nearer to its fraction, so it misses that by at most half of one value's
    rows. A client keeps at least one value for training; one with a single value has no other rows.
    A client's split depends on its own rows, its id and the seed alone.
    """
    test, validation = split_sizes(counts, test_fraction, validation_fraction)
    client = np.repeat(np.arange(len(counts)), counts)
    values = column.codes if isinstance(column, Categorical) else column
    order = np.lexsort((values, client))
    starts = _changes(client[order], values[order])
    group = np.empty(len(client), dtype=np.int64)  # of each row: ascending by client, then by value
    group[order] = np.cumsum(starts) - 1
    owner, sizes = client[order][starts], np.bincount(group)
    first = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(counts)))[:-1]])
    place = np.arange(len(owner)) - first[owner]
    drawn = np.lexsort((-place if seed is None else hash64(seed, "split", ids[owner], place), owner))
    after = np.cumsum(sizes[drawn]) - np.repeat(np.cumsum(counts) - counts, np.bincount(owner, minlength=len(counts)))
    halfway = 2 * after - sizes[drawn]  # twice the rows of the client before the middle of the group
    last = np.append(owner[1:] != owner[:-1], True)
    tested = (halfway <= 2 * test[owner]) & ~last
    begin = np.bincount(owner[tested], sizes[drawn][tested], minlength=len(counts)).astype(np.int64)
    validated = (halfway <= 2 * (begin + validation)[owner]) & ~last & ~tested
    part = np.empty(len(owner), dtype=np.int8)
    part[drawn] = np.where(tested, TEST, np.where(validated, VALIDATION, TRAIN))
    return part[group]


def _changes(*sorted_by: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True for the first of equal neighbours, `[rows]`."""
    found = np.ones(len(sorted_by[0]), dtype=np.bool_)
    found[1:] = np.any([array[1:] != array[:-1] for array in sorted_by], axis=0)
    return found
