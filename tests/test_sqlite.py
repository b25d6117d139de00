"""A ledger in a SQLite file: durable settings on every connection, one writer, and errors that say what failed.

Every file here is a real one. Where the machine is made to fail, it fails for real too: a limit on the size of files or
on their number, a killed process.
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
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from ledger import (
    Closed,
    Conflict,
    Ledger,
    LedgerBusy,
    NoSuchLedger,
    ReadOnly,
    StoreError,
)
from ledger.sqlite import (
    READERS_KEPT_MAX,
    TABLES,
    WAL_RESET_BUG,
    SQLite,
    StoreWarning,
    _Plain,
    _Pool,
    _Readers,
)
from ledger.store import EventMapper, Store
from projections import Balances
from tests.test_store import ACCOUNT, contents, event, fill

ROOT = Path(__file__).parent.parent


def sqlite(store: Store) -> SQLite:
    """The database of a store that is in a file."""
    assert isinstance(store._engine, SQLite)
    return store._engine


def readers_of(store: Store) -> _Readers:
    """What a store in a file is read with."""
    found = sqlite(store)._readers
    assert found is not None
    return found


def looked(store: Store) -> None:
    """Look at one moment of it."""
    with store.view():
        pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


# Append and read ---------------------------------------------------------------------------------------------------


def test_positions_stay_what_they_are_when_the_file_is_vacuumed(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 3, "b:2")
        with pytest.raises(Conflict):
            fill(store, 1, 9, "b:2")
        fill(store, 1, 3, "a:1")
        before = store.all_events()
    with closing(sqlite3.connect(path)) as other:
        other.execute("VACUUM")
    with closing(Store(path)) as store:
        assert before == store.all_events()
        fill(store, 4, 4, "a:1")
        assert 7 == store.all_events()[-1].position


# When the machine fails --------------------------------------------------------------------------------------------


@contextmanager
def limit(what: int, soft: int) -> Generator[None]:
    """A limit of the operating system on this process, for the length of the block."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@pytest.mark.parametrize("size", [100, 3_000_000], ids=["at the commit", "before the commit"])
def test_a_full_disk_is_a_store_error_and_the_next_append_has_the_next_version(path: Path, size: int) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 2)
        before = contents(store)
        with (
            limit(resource.RLIMIT_FSIZE, path.with_name("ledger.db-wal").stat().st_size),
            pytest.raises(StoreError, match=r"ledger\.db: ") as caught,
        ):
            store.append([event(3)], [("s", 1, b"x" * size)])
        assert StoreError is caught.type
        assert before == contents(store)
        fill(store, 3, 4)
        assert [1, 2, 3, 4] == [each.version for each in store.events(ACCOUNT)]
    with closing(Store(path, read_only=True)) as store:
        assert [1, 2, 3, 4] == [each.version for each in store.events(ACCOUNT)]


def test_a_file_at_its_greatest_size_is_a_store_error_and_can_be_read(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 2)
        pool = sqlite(store)._datastore.pool
        for connection in pool._pool:
            connection.cursor().execute("PRAGMA max_page_count=1")
        with pytest.raises(StoreError, match="full"):
            store.append([event(3)], [("s", 1, b"x" * 100_000)])
        assert [1, 2] == [each.version for each in store.events(ACCOUNT)]
        for connection in pool._pool:
            connection.cursor().execute("PRAGMA max_page_count=1000000")
        fill(store, 3, 3)


@pytest.mark.parametrize("is_writer", [True, False])
def test_a_connection_that_cannot_be_made_is_a_store_error_and_blocks_nobody_after(
    path: Path, is_writer: bool
) -> None:
    with closing(Store(path)) as store:
        pool = sqlite(store)._datastore.pool
        with ExitStack() as taken:
            while pool.num_in_pool:
                taken.callback(pool.put_connection, pool.get_connection())
            ask: Callable[[], object] = (lambda: fill(store, 1, 1)) if is_writer else (lambda: looked(store))
            with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(StoreError, match="unable to open"):
                ask()
        fill(store, 1, 1)
        assert [1] == [each.version for each in store.events(ACCOUNT)]
        assert (0, 0, 0) == (pool._num_readers, pool._num_writers, pool.num_in_use)


def test_who_cannot_be_given_a_connection_to_read_with_is_told_and_the_next_one_can(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 1)
        readers = readers_of(store)
        taken = [readers.take() for _ in range(READERS_KEPT_MAX + 2)]
        with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(StoreError, match="unable to open"):
            store.all_events()
        assert 1 == len(store.all_events())
        for each in taken:
            readers.put(each)
        assert READERS_KEPT_MAX == len(readers._idle)
        assert 1 == len(store.all_events())


def test_a_query_that_runs_while_the_ledger_is_closed_leaves_no_connection_open(path: Path) -> None:
    with closing(Store(path)) as store:
        readers = readers_of(store)
        reading = readers.take()
    assert (1,) == reading.execute("SELECT 1").fetchone()
    readers.put(reading)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        reading.execute("SELECT 1")
    assert [] == readers._idle
    with pytest.raises(Closed):
        store.all_events()


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_stored_in_a_file_that_is_somewhere_else_until_it_is_back(
    path: Path, tmp_path: Path, replaced: bool
) -> None:
    with closing(Store(path)) as store, sqlite(store).following() as wait:
        fill(store, 1, 3)
        before = store.all_events()
        path.rename(tmp_path / "away.db")
        if replaced:
            path.write_bytes(b"")
        for work in (lambda: fill(store, 4, 5), lambda: sqlite(store).write([]), lambda: wait(0.0)):
            with pytest.raises(StoreError, match="moved, removed or replaced while it was open"):
                work()
        assert before == store.all_events()
        (tmp_path / "away.db").rename(path)
        fill(store, 4, 5)
        after = store.all_events()
        assert 5 == len(after)
    with closing(Store(path, read_only=True)) as store:
        assert after == store.all_events()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("made_anew", [False, True])
def test_nothing_is_stored_in_a_log_that_somebody_removed_and_what_is_in_it_is_kept(
    path: Path, tmp_path: Path, made_anew: bool, linked: bool
) -> None:
    """Who takes `-wal` for rubbish: what is committed to it then is gone with the process, if that is killed."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with closing(Store(link if linked else path)) as store:
        fill(store, 1, 3)
        before = store.all_events()
        log = Path(f"{path}-wal")
        log.unlink()
        if made_anew:
            log.touch()
        for _ in range(2):
            with pytest.raises(StoreError, match=r"ledger\.db-wal was removed while it was open"):
                fill(store, 4, 5)
        assert before == store.all_events()
    with closing(Store(path)) as store:
        assert before == store.all_events()
        fill(store, 4, 5)
        assert 5 == len(store.all_events())


def test_no_transaction_is_open_while_a_run_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.store.PAGE_EVENTS_MAX", 3)
    with closing(Store(path)) as store:
        fill(store, 1, 3)
        runs = store.runs(None)
        next(runs)
        fill(store, 4, 103)
        assert [(0, 0, 0)] == [
            (busy, log - done, done - log)
            for busy, log, done in store.select("PRAGMA wal_checkpoint(PASSIVE)")
        ]
        assert 100 == sum(len(run) for run in runs)


def test_a_damaged_file_is_a_store_error(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 500)
    damaged = bytearray(path.read_bytes())
    damaged[8192:] = b"\xa5" * (len(damaged) - 8192)
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="malformed"), closing(Store(path, read_only=True)) as store:
        store.all_events()


# Durable by default ------------------------------------------------------------------------------------------------


def settings_of(store: Store, count: int) -> set[tuple[str, int]]:
    """Journal mode and synchronous of so many connections at once."""
    pool, found = sqlite(store)._datastore.pool, set[tuple[str, int]]()
    with ExitStack() as taken:
        for _ in range(count):
            connection = pool.get_connection()
            taken.callback(pool.put_connection, connection)
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode")
            mode = cursor.fetchone()[0]
            cursor.execute("PRAGMA synchronous")
            found.add((mode, cursor.fetchone()[0]))
        for _ in range(count):
            reader = readers_of(store).take()
            taken.callback(readers_of(store).put, reader)
            ((mode,), (synchronous,)) = (
                reader.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")
            )
            found.add((mode, synchronous))
    return found


class Lax(_Plain):
    """A connection of a SQLite that was built to be fast."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=OFF")


class Deaf(Lax):
    """One that does not do what it is told."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if sql == "PRAGMA synchronous=FULL" else sql, *args)


class NoWal(_Plain):
    """One on a file system where WAL cannot be had."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return super().execute(
            "PRAGMA journal_mode=DELETE" if sql == "PRAGMA journal_mode=WAL" else sql, *args
        )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[_Plain]], None]:
    """Use another kind of connection."""
    connect = sqlite3.connect

    def use(kind: type[_Plain]) -> None:
        monkeypatch.setattr(
            sqlite3, "connect", lambda *args, **kwargs: connect(*args, **{**kwargs, "factory": kind})
        )

    return use


def test_every_connection_is_wal_and_synchronous_full_whatever_the_build(
    path: Path, built: Callable[[type[_Plain]], None]
) -> None:
    built(Lax)
    with closing(Store(path)) as writer, closing(Store(path, read_only=True)) as reader:
        fill(writer, 1, 1)
        assert {("wal", 2)} == settings_of(writer, 7)
        assert {("wal", 2)} == settings_of(reader, 7)
    with closing(Store(path, read_only=True)) as reader:
        assert {("wal", 2)} == settings_of(reader, 2)


def test_a_setting_that_is_refused_is_an_error_and_no_ledger(
    path: Path, built: Callable[[type[_Plain]], None]
) -> None:
    built(Deaf)
    for where in (path, None):
        with pytest.raises(StoreError, match="synchronous=FULL was refused"):
            Store(where)
    built(NoWal)
    with pytest.raises(StoreError, match="journal mode is delete, not wal"):
        Store(path)


def test_a_copy_that_is_not_in_wal_mode_can_be_read_and_a_writer_puts_it_into_wal(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 1)
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as other:
        other.execute("VACUUM INTO ?", (str(copy),))
    with closing(Store(copy, read_only=True)) as store:
        assert [1] == [each.version for each in store.events(ACCOUNT)]
        assert b"frame 1" == store.evidence(ACCOUNT, 1)
    with closing(Store(copy)) as store:
        assert {("wal", 2)} == settings_of(store, 2)
        assert [1] == [each.version for each in store.events(ACCOUNT)]


HOSTILE = {
    "PERSISTENCE_MODULE": "eventsourcing.popo",
    "INFRASTRUCTURE_FACTORY": "eventsourcing.popo:POPOFactory",
    "SQLITE_DBNAME": "elsewhere.db",
    "SQLITE_LOCK_TIMEOUT": "nonsense",
    "SQLITE_SINGLE_ROW_TRACKING": "nonsense",
    "ORIGINATOR_ID_TYPE": "uuid",
    "CREATE_TABLE": "no",
    "MAPPER_TOPIC": "nonsense:Mapper",
    "TRANSCODER_TOPIC": "nonsense:Transcoder",
    "COMPRESSOR_TOPIC": "zlib",
    "CIPHER_TOPIC": "eventsourcing.cipher:AESCipher",
    "CIPHER_KEY": "nonsense",
    "IS_SNAPSHOTTING_ENABLED": "yes",
    "POSTGRES_DBNAME": "elsewhere",
}


@pytest.mark.parametrize("prefix", ["", "LEDGER_", "STORE_"])
def test_the_environment_redirects_nothing_and_changes_no_byte(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in HOSTILE.items():
        monkeypatch.setenv(prefix + name, value)
    with closing(Store(path)) as store:
        fill(store, 1, 2)
        state = msgspec.msgpack.encode(event(2).event)
        assert [(ACCOUNT, 2, "SessionOpened", state)] == store.select(
            "SELECT * FROM stored_events WHERE originator_version=2"
        )
        assert [1, 2] == [each.originator_version for each in sqlite(store)._recorder.select_events(ACCOUNT)]
    assert ["ledger.db", "ledger.db.writer"] == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize(
    "name", [":memory:", "mode=memory", "a?mode=ro", "a#b", "100%", "a b", "é😀", "file:x", "x&cache=shared"]
)
def test_a_ledger_is_in_the_file_it_was_given_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "mode=ro").mkdir()
    monkeypatch.chdir(tmp_path / "mode=ro")
    for path in (Path(name), tmp_path / "mode=ro" / name):
        with closing(Store(path)) as store:
            fill(store, store.head() + 1, store.head() + 1)
            assert {("wal", 2)} == settings_of(store, 2)
    assert sorted([name, f"{name}.writer"]) == sorted(os.listdir())
    with closing(Store(Path(name), read_only=True)) as store:
        assert 2 == store.head()


# The same table as stock eventsourcing -----------------------------------------------------------------------------


@contextmanager
def stock(path: Path) -> Generator[SQLiteApplicationRecorder]:
    datastore = SQLiteDatastore(str(path), originator_id_type="text")
    try:
        yield SQLiteApplicationRecorder(datastore)
    finally:
        datastore.close()


def assert_stock_reads_the_same(store: Store, path: Path, accounts: Sequence[str]) -> None:
    with stock(path) as recorder:
        assert store.head() == recorder.max_notification_id()
        for account in accounts:
            ours = [EventMapper().to_stored_event(each) for each in store.events(account)]
            assert ours == recorder.select_events(account)
            assert ours[::-1][:1] == recorder.select_events(account, desc=True, limit=1)
        notifications = recorder.select_notifications(1, 10)
        assert store.all_events() == [EventMapper().to_domain_event(each) for each in notifications]
        assert [4, 5] == [each.id for each in recorder.select_notifications(4, 2)]


def test_stock_eventsourcing_reads_our_file_while_we_write_and_after(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 3, "a:1")
        fill(store, 1, 2, "a:2")
        assert_stock_reads_the_same(store, path, ["a:1", "a:2"])
        fill(store, 4, 4, "a:1")
        assert_stock_reads_the_same(store, path, ["a:1", "a:2"])
    with closing(Store(path, read_only=True)) as store:
        assert_stock_reads_the_same(store, path, ["a:1", "a:2"])


def test_what_stock_eventsourcing_appends_is_read_by_us(path: Path) -> None:
    with closing(Store(path)) as store:
        fill(store, 1, 1)
    with stock(path) as recorder:
        recorder.insert_events([EventMapper().to_stored_event(event(2))])
    with closing(Store(path)) as store:
        assert [1, 2] == [each.version for each in store.events(ACCOUNT)]


def test_our_recorder_answers_as_the_stock_one_does(path: Path, tmp_path: Path) -> None:
    """Insert, select and notify, call by call on both."""
    a, b = (StoredEvent("a:1", version, f"topic-{version}", b"state") for version in (1, 2))
    c = StoredEvent("a:2", 1, "topic-1", b"")

    def calls(recorder: SQLiteApplicationRecorder) -> list[object]:
        return [
            recorder.max_notification_id(),
            recorder.insert_events([]),
            recorder.insert_events([a, b]),
            recorder.insert_events([c]),
            recorder.select_events("a:1"),
            recorder.select_events("a:1", gt=1),
            recorder.select_events("a:1", lte=1, desc=True, limit=1),
            recorder.select_notifications(None, 10),
            recorder.select_notifications(2, 10, topics=["topic-1"]),
            recorder.select_notifications(1, 10, stop=2, inclusive_of_start=False),
            recorder.max_notification_id(),
        ]

    with stock(tmp_path / "stock.db") as recorder:
        recorder.create_table()
        expected = calls(recorder)
    with closing(Store(path)) as store:
        assert expected == calls(sqlite(store)._recorder)


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
    monkeypatch.setattr("ledger.sqlite.BUSY_TIMEOUT_S", 0)
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
    monkeypatch.setattr("ledger.sqlite.fcntl", fcntl)
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


def test_a_pool_of_connections_is_still_the_stock_one_with_what_we_lean_on() -> None:
    """Names of eventsourcing's own that `_Pool` gives a turn back with."""
    pool = _Pool(db_name="file:unused?mode=memory")
    with closing(pool):
        assert (0, 0) == (pool._num_readers, pool._num_writers)
        assert not pool._writer_lock.locked()


def test_a_query_that_was_interrupted_holds_no_snapshot_while_its_error_is_told(path: Path) -> None:
    """A reader that stays keeps the write-ahead log from starting anew, and what is read next from being new."""

    def strike(text: bytes) -> str:
        if text == b"b":
            raise KeyboardInterrupt
        return text.decode()

    engine = SQLite(path, read_only=False)
    with closing(engine):
        engine.write(
            [("CREATE TABLE some (t TEXT)", [()]), ("INSERT INTO some VALUES (?)", [("a",), ("b",), ("c",)])]
        )
        assert engine._readers is not None
        reader = engine._readers.take()
        reader.text_factory = strike
        engine._readers.put(reader)
        with pytest.raises(KeyboardInterrupt) as held:
            engine.select("SELECT t FROM some")
        engine.write([("INSERT INTO some VALUES (?)", [("d",)])])
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert held.value.__traceback__ is not None
