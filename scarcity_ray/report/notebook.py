"""What a notebook shows: the final table as HTML, and one output that changes while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from scarcity_ray.report.final_table import final_table
from scarcity_ray.report.verdict import verdict

_REFRESH_SECONDS = 0.3


class Cell:
    """Lines of text in the output of a notebook's cell: those that stay, and below them one that changes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._shown = float("-inf")
        self._handle: Any = None

    def show(self, line: str = "", *, at_once: bool = False) -> None:
        """Shows all lines, and `line` below them; at most a few times a second, unless at_once."""
        if not at_once and time.monotonic() < self._shown + _REFRESH_SECONDS:
            return
        from IPython.display import HTML, display  # only notebooks have it

        self._shown = time.monotonic()
        text = "\n".join(filter(None, [*self.lines, line]))
        content = HTML(f"<pre>{escape(text)}</pre>")
        if self._handle is None:
            self._handle = display(content, display_id=True)
        else:
            self._handle.update(content)


def as_html(directory: Path, summary: Mapping[str, Any] | None) -> str:
    """The final table and the verdict of a run; where it has not ended, that it has not."""
    if summary is None:
        return f"<p>The run in <code>{escape(str(directory))}</code> has not ended, or was cut short.</p>"
    words = escape(" ".join(verdict(summary).split()))
    return f"{_table(final_table(summary))}<p>{words}</p><p>All numbers are in <code>{escape(str(directory))}</code>.</p>"


def _table(table: Table) -> str:
    """A table of rich as a table of HTML."""
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    head = _row([column.header for column in table.columns], "th", [])
    bold = [index for index, row in enumerate(table.rows) if "bold" in str(row.style or "")]
    body = "".join(_row(cells, "td", [0] if place in bold else []) for place, cells in enumerate(rows))
    return f"<table><caption>{escape(str(table.title))}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[Any], tag: str, strong: Sequence[int]) -> str:
    words = [escape(" ".join((cell.plain if isinstance(cell, Text) else str(cell)).split())) for cell in cells]
    shown = [f"<strong>{word}</strong>" if place in strong else word for place, word in enumerate(words)]
    return "<tr>" + "".join(f"<{tag}>{word}</{tag}>" for word in shown) + "</tr>"
