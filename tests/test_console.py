"""How rows look: shortened and escaped for people, whole for programs."""

from __future__ import annotations

import json
import sys
from io import StringIO

import pytest
from msgspec import Struct
from rich.console import Console

from ledger import console
from ledger.console import TABLE_ROWS_MAX, fields, printable, progress, show, show_table


class Row(Struct, rename={"start": "from"}):
    start: str
    total: str
    seen_ns: int | None


def test_a_row_is_shown_by_its_outside_names_and_its_times_as_text() -> None:
    assert {"from": "a", "total": "1.50", "seen": "2001-09-09T01:46:40Z"} == fields(Row("a", "1.50", 10**18))
    assert {"from": "a", "total": "1", "seen": None} == fields(Row("a", "1", None))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_is_one_array_whatever_the_count(capsys: pytest.CaptureFixture[str], count: int) -> None:
    rows = [{"total": f"{n}.0"} for n in range(count)]
    show(iter(rows), as_json=True, what="rows")
    assert rows == json.loads(capsys.readouterr().out)


def test_a_table_is_bounded_and_says_how_many_more_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    show(({"n": str(n)} for n in range(TABLE_ROWS_MAX + 7)), as_json=False, what="rows")
    printed = capsys.readouterr().out.splitlines()
    assert TABLE_ROWS_MAX + 2 == len(printed)
    assert "and 7 more rows: --json prints them all" == printed[-1]


def test_nothing_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    show([], as_json=False, what="gaps")
    assert "no gaps\n" == capsys.readouterr().out


def test_amounts_are_never_shortened_and_ids_are(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"order_id": "a" * 40, "total": "9" * 60}], as_json=False, what="rows")
    printed = capsys.readouterr().out
    assert "aaaaaaaa…aaaa" in printed
    assert "9" * 60 in printed


def test_control_characters_are_written_out() -> None:
    assert "plain é 😀" == printable("plain é 😀")
    assert "\\x1b[31m\\n\\u202e" == printable("\x1b[31m\n\u202e")


@pytest.mark.parametrize("width", [20, 200])
def test_what_looks_like_markup_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    hostile = r"[bold]a[/x]\[red] :key:"
    out = console.out
    monkeypatch.setattr(out, "_force_terminal", True)
    monkeypatch.setattr(out, "_color_system", None)
    monkeypatch.setattr(out, "_width", width)
    show_table([{"asset": hostile, "completeness": f"! {hostile}"}], title=hostile)
    assert 3 == capsys.readouterr().out.count(hostile)
    out.print(hostile, soft_wrap=True)
    assert f"{hostile}\n" == capsys.readouterr().out


def test_in_a_window_too_narrow_for_the_table_rows_become_records_and_no_amount_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"account": "cascade:0x" + "a" * 40, "total": "9" * 60, "time": "2026-01-02T03:04:05.678Z"}
    for width, lines in {200: 2, 50: 4}.items():
        monkeypatch.setattr(console, "out", Console(force_terminal=True, width=width, color_system=None))
        show([row], as_json=False, what="rows")
        printed = capsys.readouterr().out
        assert lines == len(printed.splitlines()), width
        assert "9" * 60 in printed
        assert "2026-01-02 03:04:05" in printed
        assert "cascade:0xaaaa…aaaa" in printed


def test_a_pipe_gets_every_character_of_names_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"account": "cascade:0x" + "a" * 40, "time": "2026-01-02T03:04:05.678901234Z"}
    show([row], as_json=False, what="rows")
    assert [*row.values()] == capsys.readouterr().out.splitlines()[1].split()


def test_an_event_is_shown_by_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"event": {"key": "k", "balances": [{"asset": "A", "total": None}]}}], as_json=False, what="rows")
    assert '{"balances":[{"asset":"A"}]}' in capsys.readouterr().out


class Looked(StringIO):
    """A terminal, or none."""

    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


@pytest.mark.parametrize(
    ("tty", "total", "shown"), [(True, 3, True), (True, None, True), (True, 0, False), (False, 3, False)]
)
def test_a_bar_is_shown_where_somebody_looks_and_there_is_something_to_wait_for(
    monkeypatch: pytest.MonkeyPatch, tty: bool, total: int | None, shown: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", looked := Looked(tty=tty))
    with progress("copying", total) as advance:
        advance(1)
    assert shown == looked.getvalue().startswith("\x1b[?25l")  # the cursor is hidden while it is drawn
    assert shown or not looked.getvalue()
