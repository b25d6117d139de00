"""What conversations remember from one session to the next, on every database."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger import Ledger
from ledger.memory import changed_memories, memory_of, remember, remembered, row_of

NAMES = ("bitopro:main", "a:\x00'\"\u00e9")


def test_a_ledger_that_nobody_conversed_with_remembers_nothing() -> None:
    with Ledger() as ledger:
        assert (b"", [], []) == (memory_of(ledger, "a:b"), remembered(ledger), changed_memories(ledger))


def test_an_account_remembers_what_it_was_told_last_and_no_other_does(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        remember(ledger, [row_of(name, b"first") for name in NAMES])
        remember(ledger, [row_of(NAMES[1], b"\x00\xff")])
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert [b"first", b"\x00\xff", b""] == [memory_of(ledger, name) for name in (*NAMES, "a:c")]
        assert {row_of(NAMES[0], b"first"), row_of(NAMES[1], b"\x00\xff")} == set(remembered(ledger))
        assert [] == changed_memories(ledger)


@pytest.mark.parametrize("change", ["memory=?", "digest=?"])
def test_a_memory_that_was_changed_is_forgotten_and_told(change: str) -> None:
    with Ledger() as ledger:
        remember(ledger, [row_of(name, b"first") for name in NAMES])
        ledger.write([(f"UPDATE feed_memories SET {change} WHERE account=?", [(b"second", NAMES[0])])])
        assert [NAMES[0]] == changed_memories(ledger)
        assert [b"", b"first"] == [memory_of(ledger, name) for name in NAMES]


def test_a_memory_of_another_account_is_none() -> None:
    with Ledger() as ledger:
        _, memory, digest = row_of(NAMES[0], b"first")
        remember(ledger, [(NAMES[1], memory, digest)])
        assert b"" == memory_of(ledger, NAMES[1])
