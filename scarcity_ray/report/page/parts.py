"""What a page is made of: panels with paragraphs, figures, tables and lists. The template knows these and nothing of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from scarcity_ray.report.page.charts.svg import WIDE


@dataclass(frozen=True)
class Column:
    """words: whether its cells are words, at the left, and not numbers, at the right. code: whether they are for machines."""

    head: str
    words: bool = False
    code: bool = False


@dataclass(frozen=True)
class Table:
    """rows: cells as text, one for each column; the first is the row's head. strong: places of rows that are bold. note: below it."""

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A chart. key: unique in the page. description: what it shows, for those who do not see it too. table: the same numbers. width,
    height: in CSS pixels. ranks: where the client of each rank stands (see `page.js`, mark): pixels of the first and of the last end, the
    line's two ends across, and whether ranks go upwards (1) or to the right (0); empty where clients have no places."""

    kind: ClassVar[str] = "figure"
    key: str
    title: str
    description: str
    chart: Markup
    table: Table
    height: float
    width: float = WIDE
    note: str = ""
    ranks: str = ""

    @property
    def half(self) -> bool:
        """Whether there is room for another one beside it."""
        return self.width < WIDE


@dataclass(frozen=True)
class Points:
    """A list: a word that says what each is about, and sentences."""

    kind: ClassVar[str] = "points"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Lines for a shell, or a file. folded: whether it opens on demand."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Links:
    """A table whose last column the reader's own link fills in. bytes: of each row."""

    kind: ClassVar[str] = "links"
    table: Table
    bytes: Sequence[float]


@dataclass(frozen=True)
class Finder:
    """Where the reader looks up one client. sites: the content of the page's JSON block."""

    kind: ClassVar[str] = "finder"
    sites: Mapping[str, Any]
    what: str


Part = Table | Figure | Points | Code | Links | Finder


@dataclass(frozen=True)
class Panel:
    """A section of the page. key: its address in it. words: paragraphs before the parts."""

    key: str
    title: str
    words: Sequence[str] = ()
    parts: Sequence[Part] = field(default_factory=tuple)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to say, so that it is left out."""
        return not self.words and not self.parts
