"""eventsourcing's own test cases for an application's recorder, run on ours; and connections, each of them durable."""

from __future__ import annotations

import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import TestCase
from uuid import uuid4

import msgspec
import pytest
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)

from ledger import Closed, StoreError
from ledger.sqlite_recorder import READERS_KEPT_MAX, Connection, Datastore, Pool, Recorder
from ledger.store import EventMapper, Store
from tests.test_sqlite import limit, looked, readers_of, sqlite
from tests.test_store import ACCOUNT, event, fill


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def join_readers() -> None:
    """The library leaves its readers running; sqlite3 crashes where a connection is closed that one still uses."""
    for thread in threading.enumerate():
        if "read_continuously" in thread.name:
            thread.join(10)


class _OnFile(TestCase):
    """A recorder of ours on a file of its own."""

    def setUp(self) -> None:
        super().setUp()
        self._folder = TemporaryDirectory()
        self._datastore = Datastore(f"{(Path(self._folder.name) / 'ledger.db').as_uri()}?mode=rwc")

    def tearDown(self) -> None:
        join_readers()
        self._datastore.close()
        self._folder.cleanup()
        super().tearDown()

    def create_recorder(self) -> Recorder:
        recorder = Recorder(self._datastore)
        recorder.create_table()
        return recorder

    def new_originator_id(self) -> str:
        return f"bitopro:{uuid4()}"


class OurRecorder(_OnFile, ApplicationRecorderTestCase[Recorder]):
    """Inserting, selecting, conflicts, notifications, readers beside writers."""


class NotificationsOfOurRecorder(_OnFile, NonInterleavingNotificationIDsBaseCase):
    """Two writers at once: no event's position is within another's transaction."""

    insert_num = 500


def _forgets_one(insert: Callable[..., Any]) -> Callable[..., Any]:
    def worse(self: Recorder, c: Any, stored_events: Any, **rest: Any) -> Any:
        return insert(self, c, stored_events[:1], **rest)

    return worse


def _numbers_backwards(insert: Callable[..., Any]) -> Callable[..., Any]:
    def worse(self: Recorder, c: Any, stored_events: Any, **rest: Any) -> Any:
        return insert(self, c, stored_events, **rest)[::-1]

    return worse


@pytest.mark.parametrize("plant", [_forgets_one, _numbers_backwards])
def test_the_cases_find_a_recorder_that_forgets_or_misnumbers(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Recorder, "_insert_events", plant(Recorder._insert_events))
    found = OurRecorder("test_insert_select").run()  # without threads, which a failure would leave behind
    assert found is not None
    assert found.failures or found.errors


# When no connection can be made --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_writer", [True, False])
def test_a_connection_that_cannot_be_made_is_a_store_error_and_blocks_nobody_after(
    path: Path, is_writer: bool
) -> None:
    with closing(Store(path)) as store:
        pool = sqlite(store)._datastore.pool
        with ExitStack() as taken:
            while pool.num_in_pool:
                taken.callback(pool.put_connection, pool.get_connection())
            ask: Callable[[], object] = (lambda: store.write([])) if is_writer else (lambda: looked(store))
            with limit(resource.RLIMIT_NOFILE, 3), pytest.raises(StoreError, match="unable to open"):
                ask()
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


def test_a_pool_of_connections_is_still_the_stock_one_with_what_we_lean_on() -> None:
    """Names of eventsourcing's own that `Pool` gives a turn back with."""
    pool = Pool(db_name="file:unused?mode=memory")
    with closing(pool):
        assert (0, 0) == (pool._num_readers, pool._num_writers)
        assert not pool._writer_lock.locked()


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
        readers = [readers_of(store).take() for _ in range(count)]
        for each in [sqlite(store)._writer(), *readers]:
            ((mode,), (synchronous,)) = (
                each.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")
            )
            found.add((mode, synchronous))
        for each in readers:
            readers_of(store).put(each)
    return found


class Lax(Connection):
    """A connection of a SQLite that was built to be fast."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=OFF")


class Deaf(Lax):
    """One that does not do what it is told."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if sql == "PRAGMA synchronous=FULL" else sql, *args)


class NoWal(Connection):
    """One on a file system where WAL cannot be had."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return super().execute(
            "PRAGMA journal_mode=DELETE" if sql == "PRAGMA journal_mode=WAL" else sql, *args
        )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Connection]], None]:
    """Use another kind of connection."""
    connect = sqlite3.connect

    def use(kind: type[Connection]) -> None:
        monkeypatch.setattr(
            sqlite3, "connect", lambda *args, **kwargs: connect(*args, **{**kwargs, "factory": kind})
        )

    return use


def test_every_connection_is_wal_and_synchronous_full_whatever_the_build(
    path: Path, built: Callable[[type[Connection]], None]
) -> None:
    built(Lax)
    with closing(Store(path)) as writer, closing(Store(path, read_only=True)) as reader:
        fill(writer, 1, 1)
        assert {("wal", 2)} == settings_of(writer, 7)
        assert {("wal", 2)} == settings_of(reader, 7)
    with closing(Store(path, read_only=True)) as reader:
        assert {("wal", 2)} == settings_of(reader, 2)


def test_a_setting_that_is_refused_is_an_error_and_no_ledger(
    path: Path, built: Callable[[type[Connection]], None]
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
