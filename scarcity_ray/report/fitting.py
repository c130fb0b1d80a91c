"""Tables on a console that may be narrow: no number is cut, and no word of a name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

_FEWEST, _LONG = 12, 20
"""Characters that a name has at least, where it has as many, and of a word that is cut only where a number has no room beside it."""


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

    table: without lines around it. names: as for `print_table`.
    """
    line = int(table.box is not None)
    space = table.padding[1] + table.padding[3] + line
    room_for_all = console.width + (line if table.pad_edge else space)  # there is less space at the edges
    whole = [space + _whole(column) for column in table.columns]
    if sum(whole) <= room_for_all:
        return [table]
    least = [
        min(wide, space + _least(column, max(_LONG, console.width // 3)))
        for wide, column in zip(whole[:names], table.columns, strict=False)
    ]
    while sum(least) > room_for_all - max(whole[names:]) and max(least) > _FEWEST:
        least[least.index(max(least))] -= 1
    parts: list[list[int]] = []
    room = 0
    for place in range(names, len(whole)):
        if not parts or whole[place] > room:
            parts.append([])
            room = room_for_all - sum(least)
        parts[-1].append(place)
        room -= whole[place]
    found: list[Table] = []
    for places in parts:
        left, widths = room_for_all - sum(least) - sum(whole[place] for place in places), {}
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


def _whole(column: Column) -> int:
    """The width in which nothing in a column takes a line more than it has."""
    return max(column.min_width or 0, *(cell_len(line) for text in _texts(column) for line in text.split("\n")))


def _least(column: Column, longest: int) -> int:
    """The width in which no word of a name is cut. longest: characters that a long word has."""
    return max(_FEWEST, min(longest, max(cell_len(word) for text in _texts(column) for word in ["", *text.split()])))


def _texts(column: Column) -> list[str]:
    return [cell.plain if isinstance(cell, Text) else str(cell) for cell in (column.header, *column.cells)]
