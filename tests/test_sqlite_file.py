"""A ledger's file: one process writes to it at a time, and nothing else is taken for one.

Every file here is a real one, and so are the processes.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from ledger import Corrupt, Ledger, LedgerBusy, NoSuchLedger, ReadOnly, StoreError
from ledger.sqlite_file import TABLES, WAL_RESET_BUG, StoreWarning
from ledger.store import Store
from projections import Balances
from tests.test_events import GOLDEN, load
from tests.test_sqlite import limit
from tests.test_store import ACCOUNT, fill

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


# One writer, many readers ------------------------------------------------------------------------------------------


WRITER = """
import sys
from pathlib import Path
from ledger.store import Store
from tests.test_store import fill
store = Store(Path(sys.argv[1]))
print("open", flush=True)
for version, _ in enumerate(sys.stdin, store.head() + 1):
    fill(store, version, version)
    print(version, flush=True)
store.close()
print("closed", flush=True)
sys.stdin.close()
"""


class Process:
    """Another process that writes to the ledger, one event each time it is asked."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert "open" == self._said()

    def write(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._said())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._process.__exit__(None, None, None)

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def versions(path: Path) -> list[int]:
    """As a reader sees them."""
    with closing(Store(path, read_only=True)) as store:
        return [each.version for each in store.events(ACCOUNT)]


def test_a_second_process_may_read_but_not_write_until_the_first_closes(path: Path) -> None:
    with closing(Process(path)) as other:
        assert 1 == other.write()
        with pytest.raises(LedgerBusy, match=rf"ledger\.db: process {other.pid} is writing .*read_only=True"):
            Store(path)
        assert [1] == versions(path)
        with closing(Store(path, read_only=True)) as reader:
            for version in (2, 3):
                assert version == other.write()
                assert version == reader.head()
        with pytest.raises(LedgerBusy, match=f"process {other.pid} "):
            Store(path)
    with closing(Store(path)) as store:
        fill(store, 4, 4)
    assert [1, 2, 3, 4] == versions(path)


@pytest.mark.parametrize("shared_memory_lost", [False, True])
def test_what_a_killed_writer_had_committed_is_read_at_once_and_written_on(
    path: Path, shared_memory_lost: bool
) -> None:
    with closing(Process(path)) as other:
        assert [1, 2, 3] == [other.write() for _ in range(3)]
        other.kill()
    assert 0 < path.with_name("ledger.db-wal").stat().st_size
    if shared_memory_lost:  # as after a loss of power
        path.with_name("ledger.db-shm").unlink()
    assert [1, 2, 3] == versions(path)
    with closing(Store(path, read_only=True)) as reader, closing(Store(path)) as writer:
        fill(writer, 4, 4)
        assert 4 == reader.head()
    assert [1, 2, 3, 4] == versions(path)


def test_a_second_writer_in_the_same_process_is_refused_until_the_first_closes(path: Path) -> None:
    with closing(Store(path)):
        with pytest.raises(LedgerBusy, match=f"process {os.getpid()} "):
            Store(path)
        with closing(Store(path, read_only=True)):
            pass
        with pytest.raises(LedgerBusy):  # neither a refused writer nor a reader frees what is held
            Store(path)
    Store(path).close()


def test_a_ledger_that_was_forgotten_is_closed_and_keeps_nobody_out(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger = Ledger(path)
        assert [] == list(ledger.replay())
        Balances(ledger).rows()
        del ledger
        gc.collect()
        Ledger(path).close()
    assert [path.name, f"{path.name}.writer"] == sorted(each.name for each in path.parent.iterdir())


def test_a_process_forked_from_the_writer_does_not_keep_the_next_one_out(path: Path) -> None:
    reading, writing = os.pipe()
    hearing, telling = os.pipe()
    with Ledger(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads that are not there in the child
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.write(telling, b"!")
            os.read(reading, 1)  # as long as we are there
            os._exit(0)
        assert b"!" == os.read(hearing, 1)  # it has begun
        with pytest.raises(LedgerBusy):
            Ledger(path)
    try:
        Ledger(path).close()
    finally:
        for each in (writing, reading, hearing, telling):
            os.close(each)
        os.waitpid(child, 0)


def test_a_ledger_reached_by_another_name_is_the_same_ledger(tmp_path: Path, path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link.db").symlink_to(path)
    with closing(Store(path)) as store:
        fill(store, 1, 1)
        with pytest.raises(LedgerBusy):
            Store(tmp_path / "folder/link.db")
        with pytest.raises(LedgerBusy):
            Store(tmp_path / "folder/../ledger.db")
    with closing(Store(tmp_path / "folder/link.db")) as store:
        assert 1 == store.head()
        with pytest.raises(LedgerBusy):
            Store(path)


def test_who_holds_the_ledger_may_fail_to_be_written_down(path: Path) -> None:
    path.with_name("ledger.db.writer").symlink_to("/dev/full")
    for _ in range(2):
        with closing(Store(path)) as store:
            fill(store, store.head() + 1, store.head() + 1)


def test_a_failed_opening_leaves_nobody_out(path: Path) -> None:
    with limit(resource.RLIMIT_FSIZE, 0), pytest.raises(StoreError):
        Store(path)
    Store(path).close()


# Only a ledger -----------------------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def other_program(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode={mode}")
        other.execute("CREATE TABLE places (url TEXT)")
        other.execute("CREATE TABLE stored_events (a, b, c, d)")
        other.commit()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_bytes(b"a letter, not a ledger" * 400), "file is not a database"),
        (lambda path: path.write_bytes(b"short"), "file is not a database"),
        (
            lambda path: other_program(path, "DELETE"),
            "lacks the tables evidence, natural_keys, stored_events",
        ),
        (lambda path: other_program(path, "WAL"), "lacks the tables"),
        (Path.mkdir, "not a file"),
        (os.mkfifo, "not a file"),
    ],
    ids=["a text", "a short text", "a database", "a database in WAL mode", "a folder", "a pipe"],
)
def test_something_else_is_no_ledger_and_stays_as_it_was(
    tmp_path: Path, path: Path, make: Callable[[Path], object], why: str, read_only: bool
) -> None:
    make(path)
    before = tree(tmp_path)
    with pytest.raises(NoSuchLedger, match=rf"ledger\.db: not a ledger \(.*{why}"):
        Store(path, read_only=read_only)
    left = tree(tmp_path)  # SQLite itself may leave its two empty files beside a database in WAL mode
    assert before == {name: content for name, content in left.items() if not name.endswith(("-wal", "-shm"))}


def changed(path: Path, *statements: str) -> dict[str, bytes]:
    """What is in the folder of a SQLite file after these."""
    with closing(sqlite3.connect(path)) as other:
        for statement in statements:
            other.execute(statement)
        other.commit()
    return tree(path.parent)


LOST = [
    "evidence",
    "natural_keys",
    "stored_events",
    "evidence, natural_keys",
    "evidence, seals",
    "seals, stored_events",
]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("lost", LOST)
def test_a_ledger_that_lost_tables_is_damaged_and_names_just_those(
    path: Path, lost: str, read_only: bool
) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 1)
    drops = [f"DROP TABLE {name}" for name in lost.split(", ")]
    before = changed(path, *drops, "VACUUM")  # nothing speaks of them any more
    with pytest.raises(Corrupt, match=rf"a damaged ledger \(it lost the tables {lost}\)$"):
        Store(path, read_only=read_only)
    assert before["ledger.db"] == tree(path.parent)["ledger.db"]


def test_a_ledger_that_never_had_seals_did_not_lose_them(path: Path) -> None:
    load(GOLDEN / "v0.2.0.sql", path)
    changed(path, "DROP TABLE evidence", "VACUUM")
    with pytest.raises(Corrupt, match=r"\(it lost the tables evidence\)$"):
        Store(path)


@pytest.mark.parametrize("read_only", [True, False])
def test_of_another_programs_tables_only_those_are_told_that_it_lacks(path: Path, read_only: bool) -> None:
    """Stock eventsourcing has the table of events, just as it is here."""
    stock = SQLiteApplicationRecorder(SQLiteDatastore(str(path), originator_id_type="text"))
    stock.create_table()
    stock.datastore.close()
    before = changed(path, "CREATE TABLE seals (animal TEXT)")
    with pytest.raises(NoSuchLedger, match=r"not a ledger \(it lacks the tables evidence, natural_keys\)$"):
        Store(path, read_only=read_only)
    assert before["ledger.db"] == tree(path.parent)["ledger.db"]


@pytest.mark.parametrize("read_only", [True, False])
def test_there_is_no_ledger_where_there_is_no_folder(tmp_path: Path, read_only: bool) -> None:
    with pytest.raises(NoSuchLedger, match="there is no"):
        Store(tmp_path / "nowhere/ledger.db", read_only=read_only)
    assert [] == os.listdir(tmp_path)


def test_a_reader_makes_no_ledger(tmp_path: Path, path: Path) -> None:
    with pytest.raises(NoSuchLedger, match="there is no ledger here"):
        Store(path, read_only=True)
    assert [] == os.listdir(tmp_path)
    path.touch()
    with pytest.raises(NoSuchLedger, match="not a ledger"):
        Store(path, read_only=True)
    assert b"" == path.read_bytes()


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    with closing(Store(path)) as store:
        fill(store, 1, 1)
    assert [1] == versions(path)


def killed(path: Path, sql: Iterable[str]) -> None:
    """A SQLite file as a process leaves it that ran this and was killed."""
    script = (
        "import sqlite3, os, sys\n"
        "store = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "store.execute('PRAGMA cache_size=1')\n"
        f"for sql in {list(sql)!r}: store.execute(sql)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30)


def cut_off(path: Path, sql: Iterable[str]) -> None:
    """A SQLite file with a transaction that was cut off, and a journal to roll it back with."""
    killed(path, sql)
    assert path.with_name(f"{path.name}-journal").stat().st_size


MUCH = "INSERT INTO much SELECT hex(zeroblob(2000)) FROM json_each('[1,2,3,4,5,6,7,8,9]')"


def test_a_ledger_killed_while_it_was_made_is_made_again(path: Path) -> None:
    cut_off(path, ["BEGIN", "CREATE TABLE much (text)", MUCH, MUCH])
    with pytest.raises(NoSuchLedger):
        Store(path, read_only=True)
    with closing(Store(path)) as store:
        fill(store, 1, 1)
        assert {*TABLES, "seals"} == {
            row[0] for row in store.select("SELECT name FROM sqlite_master WHERE type='table'")
        }
    assert [1] == versions(path)


def test_another_programs_killed_transaction_does_not_make_its_file_ours(path: Path) -> None:
    cut_off(path, ["CREATE TABLE much (text)", MUCH, "BEGIN", MUCH, MUCH])
    with pytest.raises(NoSuchLedger, match="lacks the tables"):
        Store(path)
    with closing(sqlite3.connect(path)) as other:
        assert [(9,)] == other.execute("SELECT count(*) FROM much").fetchall()
        assert [("delete",)] == other.execute("PRAGMA journal_mode").fetchall()


def test_what_another_program_left_in_its_log_stays_there(tmp_path: Path, path: Path) -> None:
    """A connection that may write would move it into the file when it closes."""
    killed(path, ["PRAGMA journal_mode=WAL", "CREATE TABLE much (text)", MUCH])
    before = tree(tmp_path)
    assert before["ledger.db-wal"]
    for read_only in (True, False):
        with pytest.raises(NoSuchLedger, match="lacks the tables"):
            Store(path, read_only=read_only)
    assert [before[name] for name in ("ledger.db", "ledger.db-wal")] == [
        tree(tmp_path)[name] for name in ("ledger.db", "ledger.db-wal")
    ]


def test_a_file_that_somebody_keeps_locked_is_a_store_error_not_a_missing_ledger(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.sqlite_file.BUSY_TIMEOUT_S", 0)
    Store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="locked") as caught:
            Store(path)
    assert StoreError is caught.type
    Store(path).close()


def test_who_has_to_end_waits_no_longer_for_a_lock_than_until_then(path: Path) -> None:
    with (
        closing(Store(path)) as store,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
    ):
        fill(store, 1, 1)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        store.give_up_at(began + 0.1)
        for number in (2, 3):
            with pytest.raises(StoreError, match="locked"):
                fill(store, number, number)
        assert 0.1 <= time.monotonic() - began < 1
        store.give_up_at(None)
        threading.Timer(0.3, other.rollback).start()
        fill(store, 2, 2)  # as patient as ever


def test_a_reader_writes_nothing(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 1)
    with closing(Store(path, read_only=True)) as store:
        with pytest.raises(ReadOnly, match=r"ledger\.db: opened with read_only=True"):
            fill(store, 2, 2)
        with pytest.raises(ReadOnly):
            store.write([("CREATE TABLE mine (n)", [()])])
        with pytest.raises(StoreError, match="readonly"):
            store.select("DELETE FROM stored_events RETURNING 1")
    assert [1] == versions(path)


# No lock to be had -------------------------------------------------------------------------------------------------


NO_FCNTL = None


def refuse(error: int) -> SimpleNamespace:
    """A file system that knows no locks."""

    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    return SimpleNamespace(LOCK_EX=2, LOCK_NB=4, flock=flock)


def warned(path: Path | None, *, read_only: bool = False) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(
            "always", StoreWarning
        )  # what else the collector finds just now is of another test
        Ledger(path, read_only=read_only).close()
    return caught


@pytest.mark.parametrize("fcntl", [NO_FCNTL, refuse(errno.ENOLCK), refuse(errno.EOPNOTSUPP)])
@pytest.mark.parametrize(
    ("version", "dangerous"),
    [((3, 6, 23), 0), ((3, 7, 0), 1), ((3, 40, 1), 1), ((3, 51, 2), 1), ((3, 51, 3), 0), ((4, 0, 0), 0)],
)
def test_where_two_writers_could_meet_a_sqlite_with_the_wal_reset_bug_is_warned_of(
    path: Path, monkeypatch: pytest.MonkeyPatch, fcntl: object, version: tuple[int, int, int], dangerous: int
) -> None:
    monkeypatch.setattr("ledger.sqlite_file.fcntl", fcntl)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    caught = warned(path)
    assert dangerous == len(caught)
    for warning in caught:
        assert StoreWarning is warning.category
        assert f"{path}: no writer lock" in str(warning.message)
        assert "WAL-reset bug (fixed in 3.51.3)" in str(warning.message)
        assert Path(__file__).samefile(warning.filename)  # where the caller opened it
    assert [] == warned(path, read_only=True)
    assert [] == warned(None)


def test_where_there_is_a_lock_nothing_is_warned_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in WAL_RESET_BUG:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        assert [] == warned(path)


def test_a_lock_file_that_cannot_be_made_is_a_store_error(path: Path) -> None:
    path.with_name("ledger.db.writer").mkdir()
    with pytest.raises(StoreError, match=r"ledger\.db: Is a directory"):
        Store(path)
