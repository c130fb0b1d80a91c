"""Tables on a console that may be narrow: no number is cut, and no word of a name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

_FEWEST = 12
"""Characters that a name has at least, where it has as many."""


def print_table(console: Console, table: Table, names: int = 1) -> None:
    """Prints a table whole, or in parts, one below the other, where the console has no room for all columns side by side.

    names: its first columns, which say what a row is; each part has them. They may take several lines, all others are printed whole.
    """
    for place, part in enumerate(in_parts(console, table, names)):
        if place:
            console.print()
        console.print(part, highlight=False)


def in_parts(console: Console, table: Table, names: int = 1) -> list[Table]:
    """Tables with the rows of one, as many of its columns each as the console has room for, one at least; the first has the title.

    names: as for `print_table`.
    """
    space = table.padding[1] + table.padding[3] + (table.box is not None)
    whole = [space + _whole(console, column) for column in table.columns]
    least = [min(wide, space + _least(console, column)) for wide, column in zip(whole[:names], table.columns, strict=False)]
    parts: list[list[int]] = []
    room = 0
    for place in range(names, len(whole)):
        if not parts or whole[place] > room:
            parts.append([])
            room = console.width - sum(least)
        parts[-1].append(place)
        room -= whole[place]
    found: list[Table] = []
    for places in parts:
        left, widths = console.width - sum(least) - sum(whole[place] for place in places), {}
        for place in range(names):
            more = max(0, min(left, whole[place] - least[place]))
            left, widths[place] = left - more, least[place] + more - space
        found.append(_part(table, [*range(names), *places], widths, titled=not found))
    return found


def _part(table: Table, places: Sequence[int], widths: Mapping[int, int], *, titled: bool) -> Table:
    """Some columns of a table. widths: of those that may take several lines."""
    part = copy.copy(table)
    part.columns, part.rows, part.title = [], [], table.title if titled else None
    for place in places:
        column, width = table.columns[place], widths.get(place)
        wrapped = {"overflow": "fold", "width": width} if width is not None else {"no_wrap": True, "min_width": column.min_width}
        part.add_column(column.header, justify=column.justify, **wrapped)
    for row, cells in zip(table.rows, zip(*(table.columns[place].cells for place in places), strict=True), strict=True):
        part.add_row(*cells, style=row.style, end_section=row.end_section)
    return part


def _whole(console: Console, column: Column) -> int:
    """The width in which nothing in a column takes a line more than it has."""
    wide = console.options.update(width=10_000)
    return max(column.min_width or 0, *(Measurement.get(console, wide, cell).maximum for cell in (column.header, *column.cells)))


def _least(console: Console, column: Column) -> int:
    """The width in which no word of a name is cut; long words have a third of the console."""
    words = max(Measurement.get(console, console.options, cell).minimum for cell in (column.header, *column.cells))
    return max(_FEWEST, min(words, console.width // 3))
