"""What a user should know of a table before a run: pure functions of its columns, and the sentences that say what they find.

Each looks at no more than 5,000 rows, drawn at random by a fixed seed where there are more: 257 columns take half a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from scarcity_ray.core.randomness import stream
from scarcity_ray.data.pool import Categorical, Column, Pool, Task

_ROWS = 5_000  # looked at; the standard error of a share of .995 is then .001
_FEWEST = 20  # rows, below which anything may be chance
_CODES = 20  # distinct values, up to which a column named as an identifier may be a code for a category
_CLASSES = 20  # of a whole-number label that nobody has called classes; more are likely to be an amount
_TOLD = 0.995  # share of rows from which a column tells the class
_SKEWED = 0.95  # share of the largest class from which naming it always is nearly as good
_OTHERS = 10  # rows of other classes, below which a column may fit them by chance
_EXPLAINED = 0.99  # share of the variance from which a column tells a number
_SHOWN = 3  # examples in a sentence
_NAMED = 5  # clients in a sentence
_IDENTIFIER = re.compile(r"(?:.*[^a-zA-Z])?(?i:id|uuid|guid)|.*[a-z](?:Id|ID|Uuid|UUID|Guid|GUID)")


def remarks(pool: Pool, task_said: bool) -> tuple[str, ...]:
    """A sentence for each thing in a table that may mislead: what, why it matters, and what to do. None for rows that came as one array.

    task_said: whether the user says if the label is classes or a number.
    """
    if not isinstance(pool.x, tuple):
        return ()
    columns: dict[str, Column] = {}
    for (name, _), column in zip(pool.inputs, pool.x, strict=True):
        columns.setdefault(name, column)
    found = [
        f"{name} looks like an identifier: what is learned of one of its values helps with no other row{_cost(columns[name])}; leave it "
        "out of `features`"
        for name in identifiers(columns)
    ]
    found += [
        f"{name} alone tells the label {pool.label} ({how}): if it is known only after the label, every gain is too good; then leave it "
        "out of `features`"
        for name, how in telling(columns, pool.y, pool.task).items()
    ]
    found += _misspelt(pool, columns)
    if not task_said and pool.outputs > _CLASSES and all(type(value) is int for value in pool.classes or ("",)):
        found.append(
            f"the label {pool.label} is learned as {pool.outputs:,} classes, because it holds whole numbers: say `task: regression` if it "
            "is an amount, or `task: classification`"
        )
    return tuple(found)


def left_out(names: Sequence[str] | None, kept: NDArray[np.int64], clients: int, minimum: int) -> list[str]:
    """A sentence that names clients with too few rows, where some of them are left out. kept: ids of the others."""
    gone = np.setdiff1d(np.arange(clients), kept)
    if not len(gone):
        return []
    named = ", ".join(str(one) if names is None else names[one] for one in gone[:_NAMED].tolist()) + (", ..." if len(gone) > _NAMED else "")
    hold, are = ("holds", "is") if len(gone) == 1 else ("hold", "are")
    return [f"{len(gone):,} of {clients:,} clients {hold} fewer than {minimum:,} rows and {are} left out: {named}"]


def of_split(field: str, name: str, column: Column, client: NDArray[np.int64], tested: NDArray[np.bool_]) -> list[str]:
    """What a split by a column cannot do. column, client, tested: `[rows]`; tested: whether a row is for testing."""
    found, counts = [], np.bincount(client)
    codes = np.unique(column.codes if isinstance(column, Categorical) else column, return_inverse=True)[1]
    of, owner = np.divmod(np.unique(codes * len(counts) + client), len(counts))  # each value of each client
    single = int(((np.bincount(owner) == 1) & (counts > 1)).sum())
    if tested.any() and single:
        found.append(f"{single:,} of {len(counts):,} clients have no test rows, as all their rows have one value of {name}")
    shared = int((np.bincount(of) > 1).sum())
    if field == "by" and shared:
        found.append(
            f"{shared:,} of {int(codes.max()) + 1:,} values of {name} occur with several clients, so one may train on what another is "
            "tested on: if they mean the same thing, gains are too good"
        )
    return found


def identifiers(columns: Mapping[str, Column]) -> list[str]:
    """The columns that name a row, a person or a case, rather than describe it, by name. columns: `[rows]` each; numbers may be NaN.

    Text with fewer than two rows a word; whole numbers that all differ and leave out fewer than they name, as a running number does; and
    whole numbers or text of more than 20 values whose name ends in id, uuid or guid. Nothing is said of fewer than 20 rows.
    """
    return [name for name, column in columns.items() if _identifies(name, column)]


def telling(columns: Mapping[str, Column], label: NDArray[Any], task: Task) -> dict[str, str]:
    """The columns that tell the label nearly perfectly on their own, and how well, in words.

    columns: `[rows]` each; numbers may be NaN. label: classes `[rows]`, or numbers `[rows]` or `[rows, 1]`.
    A number is told from R^2 = .99: Pearson's, Spearman's, or of text that of its words' means, adjusted for their number. A class is told
    from 99.5 % of the rows, where the largest class has less than 95 %: by the value (another row with it has to be there), or by the place
    in the order of values (two of the four nearest rows have the class).
    """
    rows = _some_rows(len(label))
    y: NDArray[Any] = np.asarray(label).reshape(len(label))[rows]
    if task == "classification":
        y = np.unique(y, return_inverse=True)[1]
        largest = np.bincount(y).max(initial=0)
        if len(y) - largest < _OTHERS or largest >= _SKEWED * len(y):
            return {}
    found = {}
    for name, column in columns.items():
        text = isinstance(column, Categorical)
        values: NDArray[Any] = column.codes[rows] if isinstance(column, Categorical) else column[rows]
        known = values >= 0 if text else np.isfinite(values)
        if known.sum() < max(_FEWEST, _TOLD * len(y)):
            continue
        values, told = values[known], np.asarray(y[known])
        if task == "regression":
            share = _group_r2(values, told) if text else _monotone_r2(values, told)
            if share >= _EXPLAINED:
                found[name] = f"R² {share:.3f}"
        else:
            share = max(_told_by_value(values, told), 0.0 if text else _told_by_place(values, told))
            if share >= _TOLD:
                found[name] = f"right in {share:.1%} of rows"
    return found


def alike(words: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of words that differ only in capitals and spaces, in sorted order."""
    groups: dict[str, list[str]] = {}
    for word in words:
        groups.setdefault("".join(word.split()).casefold(), []).append(word)
    return [tuple(sorted(group)) for _, group in sorted(groups.items()) if len(group) > 1]


def _identifies(name: str, column: Column) -> bool:
    named = _IDENTIFIER.fullmatch(name) is not None
    if isinstance(column, Categorical):
        rows, distinct = len(column.codes), len(column.words)
        return rows >= _FEWEST and (2 * distinct > rows or (named and distinct > _CODES))
    known = column[np.isfinite(column)]
    some = known[_some_rows(len(known))]
    if len(known) < _FEWEST or (some != np.floor(some)).any():
        return False
    distinct = len(np.unique(some))
    running = distinct == len(some) and float(np.ptp(known)) < 2 * len(known)
    return running or (named and distinct > _CODES)


def _cost(column: Column) -> str:
    """What a text column costs."""
    return f", and its {len(column.words):,} words are as many inputs of the model" if isinstance(column, Categorical) else ""


def _misspelt(pool: Pool, columns: Mapping[str, Column]) -> Iterator[str]:
    """A sentence for the clients, the classes and each text column of which some names differ only in capitals and spaces."""
    named: dict[str, Iterable[object]] = {f"clients of {pool.client}": pool.names or (), f"classes of {pool.label}": pool.classes or ()}
    named |= {f"words of {name}": column.words for name, column in columns.items() if isinstance(column, Categorical)}
    for what, values in named.items():
        same = [" and ".join(f"'{word}'" for word in group) for group in alike(value for value in values if isinstance(value, str))]
        if same:
            some = "; ".join(same[:_SHOWN]) + ("; ..." if len(same) > _SHOWN else "")
            yield f"{what} differ by capitals or spaces alone, and count as different: {some}; write them alike in the table"


@lru_cache
def _some_rows(rows: int) -> NDArray[np.int64]:
    """The rows that are looked at, in random order, the same for the same number of rows: all, or 5,000."""
    return stream(0, "remarked rows").choice(rows, min(rows, _ROWS), replace=False)


def _told_by_value(values: NDArray[Any], y: NDArray[np.int64]) -> float:
    """Share of rows that have their value's most frequent class, of a value that several rows have."""
    codes = np.unique(values, return_inverse=True)[1]
    counts = np.bincount(codes)
    pairs, times = np.unique(codes * (int(y.max()) + 1) + y, return_counts=True)
    most = np.zeros(len(counts), dtype=np.int64)
    np.maximum.at(most, pairs // (int(y.max()) + 1), times)
    return float(most[counts > 1].sum() / len(y))


def _told_by_place(values: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Share of rows that have the class of two of the four rows next to them in the order of values. Equal values keep
    their order, a random one."""
    order = np.argsort(values, kind="stable")
    ordered = np.concatenate([[-1, -1], y[order], [-1, -1]])
    same = sum((ordered[2 + step : len(ordered) - 2 + step] == y[order]).astype(np.int64) for step in (-2, -1, 1, 2))
    return float((np.asarray(same) >= 2).mean())


def _monotone_r2(values: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The larger of Pearson's and Spearman's squared correlations; 0 where one of both does not vary."""
    if not (np.ptp(values) > 0 and np.ptp(y) > 0):
        return 0.0
    pairs = ((values, y), (rankdata(values), rankdata(y)))
    return max(float(np.corrcoef(*pair)[0, 1] ** 2) for pair in pairs)


def _group_r2(codes: NDArray[np.int32], y: NDArray[np.float64]) -> float:
    """R^2 of the words' means, adjusted for their number: 0 or less where words explain no more than as many random ones do."""
    words = np.unique(codes, return_inverse=True)[1]
    counts = np.bincount(words)
    left = len(y) - len(counts)
    if left <= 0 or not np.ptp(y) > 0:
        return 0.0
    within = float(((y - (np.bincount(words, y) / counts)[words]) ** 2).sum())
    return 1 - (within / left) / float(((y - y.mean()) ** 2).sum() / (len(y) - 1))
