"""One column of a table: numbers, words, dates or yes and no, read batch by batch in training, and in the same way in prediction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scarcity_ray.data.pool import Categorical, Column

NO_VALUE = "no value"
"""The word of rows without a value, in brackets: in so many that no word of the column is the same."""

_TRUTH = ({"no": 0.0, "yes": 1.0}, {"n": 0.0, "y": 1.0}, {"false": 0.0, "true": 1.0})
_DOTTED = re.compile(r"\s*(\d{1,2})\.(\d{1,2})\.(\d{4})\s*")
_FIRST_DAY = date(1970, 1, 1)
_MICROSECONDS = 86_400e6  # of a day


class Reader:
    """A column that is read batch by batch: numbers as float64 (dates as days since 1970-01-01, NaN if missing), or text as codes (-1 if
    missing)."""

    def __init__(self, name: str, text: bool) -> None:
        self.name = name
        self.text = text
        self.places: dict[str, int] = {}
        self.declared = False  # the table says itself that these are categories
        self.parts: list[NDArray[Any]] = []

    def add(self, column: pa.Array) -> None:
        """Adds one batch."""
        if not self.text:
            self.parts.append(
                days(column) if holds_dates(column.type) else column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            )
            return
        if pa.types.is_dictionary(column.type):
            column, self.declared = column.dictionary_decode(), True
        column = column.cast(pa.string()).dictionary_encode()
        places = [self.places.setdefault(word, len(self.places)) for word in column.dictionary.to_pylist()]
        self.parts.append(np.array([*places, -1], dtype=np.int32)[column.indices.fill_null(-1).to_numpy(zero_copy_only=False)])

    def join(self) -> None:
        """Joins all batches into one array."""
        self.parts = [np.concatenate(self.parts)] if self.parts else [np.empty(0, dtype=np.int32 if self.text else np.float64)]

    def as_truth(self) -> bool:
        """Turns a joined column of yes and no, in any case, into 1 and 0; False, and nothing is done, for another one."""
        return self._turned(truth)

    def as_days(self) -> bool:
        """Turns a joined column of dates written as 31.5.2024 into days; False, and nothing is done, for another one."""
        return self._turned(dotted_days)

    def _turned(self, turn: Any) -> bool:
        values = turn(self.places) if self.text and not self.declared else None
        if values is None:
            return False
        self.parts, self.text = [np.array([*values, np.nan])[self.parts[0]]], False
        return True

    def missing(self) -> NDArray[np.bool_]:
        """True for the rows of the joined column without a value, `[rows]`."""
        return self.parts[0] < 0 if self.text else ~np.isfinite(self.parts[0])

    def values(self, keep: NDArray[np.bool_] | None) -> Column:
        """The kept rows of the joined column (None: all). The words of a text column are those of the kept rows, in sorted order; last, if
        rows lack a value, one that says so."""
        column = self.parts[0] if keep is None else self.parts[0][keep]
        if not self.text:
            return column if np.isfinite(column).all() else np.where(np.isfinite(column), column, np.nan)
        used, codes = np.unique(column, return_inverse=True)
        lacking = int(len(used) > 0 and used[0] < 0)
        words = list(self.places)
        ranked = sorted(range(lacking, len(used)), key=lambda place: _rank(words[used[place]]))
        order = np.empty(len(used), dtype=np.int32)
        order[[*ranked, *range(lacking)]] = np.arange(len(used), dtype=np.int32)
        found = tuple(words[used[place]] for place in ranked)
        return Categorical(order[codes], (*found, no_value(found)) if lacking else found, bool(lacking))


def holds_dates(kind: pa.DataType) -> bool:
    """Whether values of a type are days, or days and times."""
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def days(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Days since 1970-01-01, with their fraction, NaN where there is none. Times with a zone count in UTC."""
    stamps = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)))
    whole: NDArray[np.float64] = stamps.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return whole / _MICROSECONDS


def day(number: float) -> str:
    """The date of a number of days since 1970-01-01, as 2024-05-31."""
    return (_FIRST_DAY + timedelta(days=int(np.floor(number)))).isoformat()


def day_number(text: str) -> int:
    """Days from 1970-01-01 to a date, as 2024-05-31."""
    return (date.fromisoformat(text) - _FIRST_DAY).days


def dotted_days(words: Iterable[str]) -> list[float] | None:
    """Days since 1970-01-01 of dates written as 31.5.2024; None if any word is none."""
    found = []
    for word in words:
        parts = _DOTTED.fullmatch(word)
        try:
            found.append(float((date(int(parts[3]), int(parts[2]), int(parts[1])) - _FIRST_DAY).days) if parts else np.nan)
        except ValueError:  # there is no such day
            return None
        if np.isnan(found[-1]):
            return None
    return found or None


def days_of_text(column: pa.ChunkedArray) -> NDArray[np.float64] | None:
    """Days since 1970-01-01 of dates written as text, as 2024-05-31, 2024-05-31 10:30 or 31.5.2024; None if any value is none."""
    words = pc.unique(column).drop_null()
    found = dotted_days(words.to_pylist())
    if found is None:
        try:
            found = days(pc.utf8_trim_whitespace(words).cast(pa.timestamp("us"))).tolist()
        except pa.ArrowInvalid:
            return None
    places: NDArray[np.int64] = pc.index_in(column, value_set=words).fill_null(-1).to_numpy()
    return np.array([*found, np.nan])[places]


def truth(words: Iterable[str]) -> list[float] | None:
    """1 and 0 of the words yes and no (or y and n, true and false), in any case; None if there are other words, or one of the two alone."""
    plain = [word.strip().casefold() for word in words]
    return next(([pair[word] for word in plain] for pair in _TRUTH if set(plain) == set(pair)), None)


def truth_of(word: str) -> float | None:
    """1 or 0 of a single word, as `truth`; None for another one."""
    return next((pair[plain] for pair in _TRUTH if (plain := word.strip().casefold()) in pair), None)


def no_value(words: Sequence[str]) -> str:
    """A word for rows without one, that is not among `words`."""
    word = f"({NO_VALUE})"
    while word in words:
        word = f"({word})"
    return word


def _rank(word: str) -> tuple[bool, int, str]:
    """The sort key of a word: whole numbers by value, then other words by spelling. So 2 and 10 as text have the order of numbers."""
    number = re.fullmatch(r"-?[0-9]{1,18}", word)
    return (number is None, int(word) if number else 0, word)
