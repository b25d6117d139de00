"""A ledger in a SQLite file: what fails is told, nothing is stored where nobody finds it, and what was read stays.

Every file here is a real one. Where the machine is made to fail, it fails for real too: a limit on the size of files.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ledger import (
    Conflict,
    StoreError,
)
from ledger.sqlite import SQLite
from ledger.sqlite_recorder import Readers
from ledger.store import Store
from tests.test_store import ACCOUNT, contents, event, fill

ROOT = Path(__file__).parent.parent


def sqlite(store: Store) -> SQLite:
    """The database of a store that is in a file."""
    assert isinstance(store._engine, SQLite)
    return store._engine


def readers_of(store: Store) -> Readers:
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
        writer = sqlite(store)._writer()
        writer.execute("PRAGMA max_page_count=1")
        with pytest.raises(StoreError, match="full"):
            store.append([event(3)], [("s", 1, b"x" * 100_000)])
        assert [1, 2] == [each.version for each in store.events(ACCOUNT)]
        writer.execute("PRAGMA max_page_count=1000000")
        fill(store, 3, 3)


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
