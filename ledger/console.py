"""How rows look: a table for people, one JSON array for programs, a bar for the patient.

Knows rows and the terminal; knows no ledger.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ledger.wire import time_text

PIPE_WIDTH: Final = 10_000
"""Where nobody's window ends, nothing is broken over lines: tables stay greppable."""
TABLE_ROWS_MAX: Final = 1_000
ID_CHARS_MAX: Final = 22
TEXT_CHARS_MAX: Final = 160


class _Piped(Console):
    """A console that does not end the program where nobody reads any more: the command line does."""

    def on_broken_pipe(self) -> None:
        raise


# What venues and users say is shown as it is: no `[tag]` and no `:word:` in it means anything.
out = _Piped(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

# fmt: off
NUMBERS: Final = frozenset({
    "total", "available", "locked", "staked", "pending", "price", "quantity", "executed", "quote_quantity",
    "executed_quote", "average_price", "fee", "amount", "balance", "version", "position", "ordinal", "sequence",
    "evidence_bytes", "events", "rows", "differences", "frames", "recorded", "duplicates", "control", "quarantined",
    "reconnects", "lag", "expected", "stated", "difference", "expected_version", "stated_version", "age_s",
})
IDS: Final = frozenset({
    "asset_id", "order_id", "fill_id", "counter_order_id", "session", "evidence_sha256", "reference", "fee_asset",
})
TIMES: Final = frozenset({"time", "received", "created", "updated", "first_received", "last_received"})
NAMES: Final = frozenset({"account", "feed"})
# fmt: on
_LONG: Final = re.compile(r"\w{17,}")


def fields(row: msgspec.Struct) -> dict[str, Any]:
    """A row by field name; a time in ns (`*_ns`) becomes an ISO-8601 text."""
    found: dict[str, Any] = {}
    for name, encoded in zip(row.__struct_fields__, row.__struct_encode_fields__, strict=True):
        value = getattr(row, name)
        if name.endswith("_ns"):
            found[encoded.removesuffix("_ns")] = None if value is None else time_text(value)
        else:
            found[encoded] = value
    return found


def show(rows: Iterable[dict[str, Any]], *, as_json: bool, what: str) -> None:
    """Print rows: as one JSON array, whole; or as a table of the first TABLE_ROWS_MAX, ids and texts shortened."""
    if as_json:
        _show_json(rows)
        return
    shown: list[dict[str, Any]] = []
    more = 0
    for row in rows:
        if len(shown) < TABLE_ROWS_MAX:
            shown.append(row)
        else:
            more += 1
    if not shown:
        print(f"no {what}")
        return
    show_table(shown)
    if more:
        print(f"and {more} more {what}: --json prints them all")


def show_table(rows: list[dict[str, Any]], title: str | None = None) -> None:
    """Print rows as a table; in a window too narrow for it one below the other: no amount is ever broken or cut."""
    made = table(rows, title)
    if (
        out.is_terminal
        and Measurement.get(out, out.options.update(max_width=PIPE_WIDTH), made).maximum > out.width
    ):
        _show_records(rows, title)
    else:
        out.print(made)


def _show_records(rows: list[dict[str, Any]], title: str | None) -> None:
    if title is not None:
        out.print(title, style="bold", soft_wrap=True)
    width = max(len(name) for name in rows[0])
    for row in rows:
        out.rule(style="dim")
        for name, value in row.items():
            if value is not None:
                out.print(Text.assemble((f"{name:>{width}}  ", "dim"), _cell(name, value)), soft_wrap=True)


def table(rows: list[dict[str, Any]], title: str | None = None) -> Table:
    """Rows as a table; columns with nothing in them are left out."""
    names = [name for name in rows[0] if any(row.get(name) is not None for row in rows)]
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False
    )
    for name in names:
        made.add_column(name, justify="right" if name in NUMBERS else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(name, row.get(name)) for name in names))
    return made


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Generator[Callable[[int], None]]:
    """A bar on standard error while something long runs; nothing where nobody looks."""
    if total == 0 or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


def _show_json(rows: Iterable[dict[str, Any]]) -> None:
    separator = "["
    for row in rows:
        sys.stdout.write(f"{separator}\n{msgspec.json.encode(row).decode()}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def shortened(name: str) -> str:
    """The name of an account with its long words, which are addresses, cut in the middle."""
    return _LONG.sub(lambda word: f"{word[0][:6]}…{word[0][-4:]}", name)


def _cell(name: str, value: object) -> str | Text:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = msgspec.json.encode(_said(value)).decode()
    text = str(value)
    if out.is_terminal:  # people get what fits a window; a pipe gets every character
        if name in TIMES:
            return text[:19].replace("T", " ")
        if name in NAMES:
            text = shortened(text)
    if name in IDS and len(text) > ID_CHARS_MAX:
        text = f"{text[:8]}…{text[-4:]}"
    elif len(text) > TEXT_CHARS_MAX:
        text = f"{text[:TEXT_CHARS_MAX]}…"
    cell = printable(text)
    return Text(cell, "red") if name == "completeness" and text.startswith("!") else cell


def _said(value: Any) -> Any:
    """What an event says, without what it does not say."""
    if isinstance(value, dict):
        pairs: dict[str, Any] = value
        return {
            key: _said(part) for key, part in pairs.items() if key != "key" and part not in (None, [], False)
        }
    if isinstance(value, list):
        parts: list[Any] = value
        return [_said(part) for part in parts]
    return value


def printable(text: str) -> str:
    """A venue's text as a terminal may see it: no control character gets through."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
