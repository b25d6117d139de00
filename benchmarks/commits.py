"""The least that durability costs: bare SQLite commits of one frame each, in a file of their own, WAL and FULL.

Knows SQLite, and the rows of a ledger; measures how long each commit takes (ms).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.frames import START_MS, bitopro_balance
from benchmarks.pusher import ENTRIES
from benchmarks.rows import Batch, Fresh, Raw
from ledger import Ledger
from ledger.venues import bitopro

FRAME: Final = "bare SQLite commit"
PACED: Final = "bare SQLite commit, at this pace"
ROWS: Final = "bare SQLite commit of a ledger's rows"
COMMITS_MAX: Final = 250
"""At once."""


def commits(kind: str, number: int, pause_s: float, folder: Path) -> list[float]:
    """How long each of so many commits took (ms).

    FRAME keeps the bytes in one table, one after the other: nothing durable is cheaper. ROWS keeps what a ledger would,
    in its tables. PACED is FRAME again, but each waits for its time, as frames do: meanwhile processor and disk rest.
    """
    with TemporaryDirectory(dir=folder) as place:
        if kind == ROWS:
            with Ledger(Path(place) / "like.db") as like, closing(Raw(Path(place) / "bare.db", like)) as raw:
                opening, *batches = rows(min(number, COMMITS_MAX))
                raw.insert(opening)
                rest = iter(batches)
                return _timed(lambda: raw.insert(next(rest)), len(batches), 0.0)
        with closing(_file(Path(place) / "bare.db")) as file:
            frame = (bitopro_balance(1, ENTRIES),)
            insert = "INSERT INTO frames VALUES (?)"
            return _timed(lambda: file.execute(insert, frame), number, pause_s if kind == PACED else 0.0)


@cache
def rows(number: int) -> list[Batch]:
    """What a ledger stores of a session's opening, and then of each of so many frames."""
    with Ledger() as ledger:
        fresh = Fresh(ledger)
        with ledger.intake(bitopro, "main", session="benchmark", opened_ns=START_MS * 1_000_000) as intake:
            found = [fresh.take()]
            for n in range(number):
                intake.receive(bitopro_balance(n, ENTRIES), (START_MS + n) * 1_000_000)
                found.append(fresh.take())
    return found


def _file(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA journal_mode=WAL")
    file.execute("PRAGMA synchronous=FULL")
    file.execute("CREATE TABLE frames (payload BLOB NOT NULL)")
    return file


def _timed(commit: Callable[[], object], number: int, pause_s: float) -> list[float]:
    took: list[float] = []
    due_s = time.monotonic()
    for _ in range(number):
        due_s = max(due_s + pause_s, time.monotonic() - 0.005)
        if pause_s:
            time.sleep(max(0.0, due_s - time.monotonic()))
        start_ns = time.monotonic_ns()
        commit()
        took.append((time.monotonic_ns() - start_ns) / 1e6)
    return took
