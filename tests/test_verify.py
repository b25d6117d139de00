"""Verify: what was changed is found, and named; what was not raises no alarm."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import pytest

from ledger import Ledger, verify
from ledger.account import Recorded
from ledger.errors import BadNote, Corrupt, LedgerError, StoreError
from ledger.events import TOPICS
from ledger.notes import Checkpoint, new_key, opened
from ledger.verify import Finding, first_bad
from tests import scripted, tampering
from tests.scripted import MAIN, delta, feed, fill, said, says, snapshot
from tests.tampering import LATE, LATER, VENUES, Place, Subject, names, resealed, spoken

T: Final = tampering.T
Case = Callable[[Random], str | None]


@pytest.fixture(scope="module")
def subject() -> Generator[Subject]:
    """A clean store; in memory where the machine has such a file system."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Subject(Path(folder) / "a.db")


CASES: Final = {
    "bit_of_the_file": 2000,
    "bit_of_a_cell": 1300,
    "swap": 500,
    "tail": 300,
    "middle": 400,
    "note": 300,
    "backup": 200,
}
"""How many of each kind are tried: 5,000."""


def wrong(subject: Subject, kind: str, count: int, seed: int = 4) -> list[str]:
    """What verify gets wrong in so many cases of a kind."""
    random = Random(f"{kind} {seed}")
    case: Case = getattr(subject, kind)
    return [said for _ in range(count) if (said := case(random)) is not None]


def test_five_thousand_are_tried() -> None:
    assert 5000 == sum(CASES.values())


def test_the_store_that_is_tampered_with_has_every_kind_of_event(subject: Subject) -> None:
    subject.write()
    assert [] == subject.verify(subject.checkpoint)
    with Ledger(subject.path, read_only=True) as ledger:
        recorded = list(ledger.replay())
    assert set(TOPICS) == {type(each.event).__name__ for each in recorded}
    assert {True, False} == {bool(each.event.key) for each in recorded}
    assert any(each.event.source.late_ns for each in recorded)
    assert len({each.account for each in recorded}) > 5


@pytest.mark.parametrize("kind", CASES)
def test_every_change_is_found_and_the_first_bad_event_is_named(subject: Subject, kind: str) -> None:
    assert [] == wrong(subject, kind, CASES[kind])
