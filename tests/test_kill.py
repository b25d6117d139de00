"""`kill -9` in the middle of `ingest`: what was acknowledged is there, and feeding the files again doubles nothing.

Each round forks a process that runs the real command line on a real SQLite file and kills it at a random moment. A line
the command printed is an acknowledgement: all of that file is stored.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import pytest

import ledger.cli
from ledger import Ledger
from ledger.appender import Appender
from ledger.intake import Intake
from ledger.store import Store
from projections import Balances, Fills, Orders

ROUNDS = 100
FILES = 24
FRAMES = 12
U = "5066154a102ee037390c5236f78db23239b49c5748d3d349f3ccf04b55534458"


def frames(file: int) -> list[str]:
    """A file of DeltaDeFi frames: balances that only their place can tell apart, orders and fills with ids."""
    made: list[str] = []
    for at in range(FRAMES):
        number = file * FRAMES + at
        if at % 2:
            row = {"asset": "ada", "asset_unit": "", "free": f"{number}.{number}", "locked": "0"}
            made.append(json.dumps({"type": "Account", "sub_type": "balance", "balance": [row]}))
            continue
        fill = {
            "id": f"f-{number}",
            "order_id": f"o-{number}",
            "execution_price": 1,
            "filled_amount": f"{number}.5",
            "fee_unit": "lovelace",
            "fee_amount": "0",
            "role": "taker",
            "counter_party_order_id": "x",
            "create_time": 1755747761,
        }
        order = {
            "order_id": f"o-{number}",
            "status": "fully_filled",
            "symbol": "ADAUSDM",
            "orig_qty": "10",
            "executed_qty": "10",
            "side": "buy",
            "price": 1,
            "type": "limit",
            "fee_charged": "0",
            "fee_unit": "lovelace",
            "executed_price": 1,
            "slippage": "0",
            "create_time": 1755747489,
            "update_time": 1755747490,
            "fills": [fill],
        }
        data = [{"orders": [order], "order_filling_records": []}]
        made.append(json.dumps({"type": "Account", "sub_type": "trading_history", "data": data}))
    return made


def forked_ingest(db: Path, files: list[Path], sabotage: Callable[[], None] | None) -> tuple[int, TextIO]:
    """Start `accountledger ingest` in a forked process; its id, and what it prints."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child's life is not measured
        try:
            sys.stdout = os.fdopen(writer, "w")
            if sabotage is not None:
                sabotage()
            ledger.cli.main(["ingest", "--db", str(db), "deltadefi", "main", *map(str, files)])
        except SystemExit as done:
            os._exit(int(done.code or 0))
        finally:
            os._exit(70)
    os.close(writer)
    return pid, os.fdopen(reader)


def finish(pid: int, printed: TextIO) -> list[str]:
    """Wait for the process; the lines it printed whole."""
    with printed:
        lines = [line for line in printed if line.endswith("\n")]
    os.waitpid(pid, 0)
    return lines


def file_of(line: str) -> str:
    """The file that a line acknowledges."""
    return line.split(":")[1].split()[-1]


def contents(db: Path) -> tuple[object, ...]:
    """What a reader sees, and how many events of each kind there are, but for our own numbering."""
    with Ledger(db, read_only=True) as opened:
        balances = [(row.asset_id, row.total) for row in Balances(opened).rows()]
        orders = [row.order_id for row in Orders(opened).rows()]
        fills = [(row.fill_id, row.quantity) for row in Fills(opened).rows()]
    with closing(sqlite3.connect(db)) as store:
        counted = store.execute(
            "SELECT topic, count(*) FROM stored_events GROUP BY topic ORDER BY topic"
        ).fetchall()
    return balances, orders, fills, counted


def violations(place: Path, rounds: int, seed: int, sabotage: Callable[[], None] | None = None) -> list[str]:
    """Kill `rounds` ingests at random moments; what was found wrong."""
    chance = random.Random(seed)
    files: list[Path] = []
    for number in range(FILES):
        files.append(place / f"{number:02d}.ndjson")
        files[-1].write_text("".join(f"{frame}\n" for frame in frames(number)))
    started = time.monotonic()
    finish(*forked_ingest(place / "clean.db", files, None))
    whole = time.monotonic() - started
    expected = contents(place / "clean.db")

    found: list[str] = []
    for number in range(rounds):
        db = place / f"{number}.db"
        pid, printed = forked_ingest(db, files, sabotage)
        lines: list[str] = []
        if number % 2:  # at any moment, or as soon as some files are acknowledged
            time.sleep(chance.uniform(0, whole))
        else:
            lines = [printed.readline() for _ in range(chance.randint(1, FILES // 2))]
        os.kill(pid, signal.SIGKILL)
        lines += finish(pid, printed)
        if lines:
            found += [f"round {number}: {each}" for each in lost(db, list(map(file_of, lines)))]
        finish(*forked_ingest(db, files, sabotage))
        found += [f"round {number}: {each}" for each in holes(db)]
        if contents(db) != expected:
            found.append(f"round {number}: the files fed again give another ledger")
        for left in place.glob(f"{number}.db*"):
            left.unlink()
    return found


def lost(db: Path, acknowledged: list[str]) -> list[str]:
    """The fills of acknowledged files that are not stored."""
    if not db.exists():
        return [f"{name} was acknowledged and there is no ledger" for name in acknowledged]
    with Ledger(db, read_only=True) as opened:
        stored = {row.fill_id for row in Fills(opened).rows()}
    wanted = {
        f"f-{int(Path(name).stem) * FRAMES + at}": name for name in acknowledged for at in range(0, FRAMES, 2)
    }
    return [
        f"{fill} of {name} was acknowledged and is gone"
        for fill, name in wanted.items()
        if fill not in stored
    ]


def holes(db: Path) -> list[str]:
    """Accounts whose versions are not 1, 2, 3, ..."""
    with closing(sqlite3.connect(db)) as store:
        sql = "SELECT originator_id, count(*), min(originator_version), max(originator_version) FROM stored_events"
        rows = store.execute(f"{sql} GROUP BY 1").fetchall()
    return [
        f"versions of {name} have holes" for name, count, first, last in rows if (first, last) != (1, count)
    ]


def test_after_100_kills_nothing_acknowledged_is_lost_and_nothing_is_doubled(tmp_path: Path) -> None:
    assert [] == violations(tmp_path, ROUNDS, seed=1)


def acknowledge_before_storing() -> None:
    """Planted defect: events wait in memory until the process is about to end."""
    waiting: list[Callable[[], object]] = []
    append, close = Store.append, Store.close

    def later(self: Store, *batch: Any) -> Any:
        waiting.append(lambda: append(self, *batch))
        return batch[2]

    def flush(self: Store) -> None:
        for each in waiting:
            each()
        close(self)

    Store.append = later  # type: ignore[assignment,method-assign]
    Store.close = flush  # type: ignore[method-assign]


def forget_the_place() -> None:
    """Planted defect: a session read again is not recognised, neither at once nor when the database refuses it."""

    def never(self: Intake, name: str, value: object) -> None:
        object.__setattr__(self, name, 0 if name == "_resumed_ordinal" else value)

    Intake.__setattr__ = never  # type: ignore[assignment,method-assign]
    Appender.known_places = lambda self, frames: frozenset()  # type: ignore[method-assign]


@pytest.mark.parametrize("sabotage", [acknowledge_before_storing, forget_the_place])
def test_the_kill_harness_sees_a_planted_defect(tmp_path: Path, sabotage: Callable[[], None]) -> None:
    assert [] != violations(tmp_path, 6, seed=2, sabotage=sabotage)
