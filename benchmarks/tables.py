"""How tables look: a row is a line; in a narrow window, where a line would be cut, a record of several.

Knows rows and the window; knows no figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDE: Final = 140
"""From here on a table is a table: names and notes are folded within their columns."""
ENDLESS: Final = 10_000
GAP: Final = "   "
INDENT: Final = 4


class Fitted(Table):
    """A table of texts. What does not fit a narrow window is told row by row: under the first cell the others, each
    with the name of its column, none of them cut."""

    def __init__(self, title: str) -> None:
        super().__init__(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        needed = Measurement.get(console, options.update(max_width=ENDLESS), self).maximum
        if needed <= width or width >= WIDE:
            yield from super().__rich_console__(console, options)
            return
        yield Text(str(self.title), style="bold")
        cells = zip(*([str(cell) for cell in column.cells] for column in self.columns), strict=True)
        for row, (first, *others) in zip(self.rows, cells, strict=True):
            style = row.style or ""
            yield from (Text(line, style=style) for line in _record(first, self._named(others), width))

    def _named(self, cells: Iterable[str]) -> list[str]:
        """The cells with something in them, under the names of their columns; numbers stand below each other."""
        named: list[str] = []
        for column, cell in zip(self.columns[1:], cells, strict=True):
            if cell:
                wide = max(map(len, map(str, column.cells))) if column.justify == "right" else 0
                named.append(f"{column.header} {cell:>{wide}}".lstrip())
        return named


def _record(first: str, others: list[str], width: int) -> Iterator[str]:
    """Some lines: one, if all fits it; else what is first, and the others below it, as many in a line as fit."""
    whole = GAP.join([first, *others])
    if len(whole) <= width:
        yield whole
        return
    margin = " " * (len(first) - len(first.lstrip()))
    yield from _wrapped(first.lstrip(), margin, width)
    margin += " " * INDENT
    line = ""
    for each in others:
        longer = GAP.join(filter(None, (line, each)))
        if line and len(margin + longer) > width:
            yield from _wrapped(line, margin, width)
            longer = each
        line = longer
    yield from _wrapped(line, margin, width)


def _wrapped(line: str, margin: str, width: int) -> list[str]:
    return wrap(line, width, initial_indent=margin, subsequent_indent=f"{margin}  ", break_on_hyphens=False)
