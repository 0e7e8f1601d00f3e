"""The parts a page is made of; ``page.html`` knows how to draw each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Column:
    """One column of a table; ``note`` is a second, smaller line of its head."""

    label: str
    numeric: bool = True
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell; ``order`` is the number to sort by where the text does not tell it."""

    text: str
    order: float | None = None
    series: str = ""
    share: float | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row names the row."""

    ident: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    strong: frozenset[int] = frozenset()
    sortable: bool = True
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Panel:
    """One chart, drawn once or in the sizes of ``charts.sizes``: wide, medium and narrow."""

    drawings: tuple[Markup, ...]
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """One or several charts under one caption."""

    ident: str
    caption: str
    panels: Sequence[Panel]
    title: str = ""
    legend: Markup | None = None
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Text:
    """A paragraph; ``missing`` marks the statement that something is not there."""

    text: str
    missing: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Text to print as it is, such as a recipe."""

    label: str
    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Details:
    """Blocks behind a summary that opens them."""

    summary: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "details"


Block = Table | Figure | Text | Code | Details


@dataclass(frozen=True)
class Section:
    """One section of the page: a heading, what was found in a sentence or two, the evidence."""

    ident: str
    title: str
    lead: str
    blocks: Sequence[Block]
