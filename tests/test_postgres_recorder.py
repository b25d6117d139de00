"""The library's own cases for a recorder in PostgreSQL, run on ours; the stock one beside it; and how URLs are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest import TestCase
from uuid import uuid4

import pytest
from eventsourcing.persistence import IntegrityError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)
from psycopg.conninfo import conninfo_to_dict

from ledger import Ledger, StoreError
from ledger.postgres_recorder import Datastore, Recorder, place_of
from ledger.store import EventMapper, Store
from tests.test_sqlite_recorder import join_readers
from tests.test_store import ACCOUNT, event
from tests.test_store import fill as append


class _OnServer(TestCase):
    """A recorder of ours in a schema of its own."""

    @pytest.fixture(autouse=True)
    def _placed(self, new_schema: str) -> Iterator[None]:
        schema = new_schema.rpartition("%3D")[2]
        with closing(Datastore(new_schema, schema, read_only=False)) as self._datastore:
            yield
            join_readers()

    def create_recorder(self) -> Recorder:
        recorder = Recorder(self._datastore)
        recorder.create_table()
        return recorder

    def new_originator_id(self) -> str:
        return f"bitopro:{uuid4()}"


class OurRecorder(_OnServer, ApplicationRecorderTestCase[Recorder]):
    """Inserting, selecting, conflicts, notifications, readers beside writers."""


class NotificationsOfOurRecorder(_OnServer, NonInterleavingNotificationIDsBaseCase):
    """Two writers at once: no event's position is within another's transaction."""

    insert_num = 500


def forgets_one(append: Callable[..., int]) -> Callable[..., int]:
    def worse(self: Recorder, connection: Any, rows: Any) -> int:
        del rows.events[-4:], rows.seals[-1:]
        return append(self, connection, rows)

    return worse


def misnumbers(append: Callable[..., int]) -> Callable[..., int]:
    return lambda *args: append(*args) + 1


@pytest.mark.parametrize("plant", [forgets_one, misnumbers])
def test_the_cases_find_a_recorder_that_forgets_or_misnumbers(
    new_schema: str, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Recorder, "append", plant(Recorder.append))
    case = OurRecorder("test_insert_select")
    with closing(Datastore(new_schema, new_schema.rpartition("%3D")[2], read_only=False)) as case._datastore:
        found = case.run()
    assert found is not None
    assert found.failures or found.errors


def stock(url: str) -> PostgresApplicationRecorder:
    """The library's recorder on the same tables."""
    found: Any = conninfo_to_dict(url)
    return PostgresApplicationRecorder(
        PostgresDatastore(
            found["dbname"],
            found.get("host", ""),
            found.get("port", ""),
            found.get("user", ""),
            found.get("password", ""),
            schema=found["options"].partition("search_path=")[2],
            originator_id_type="text",
        )
    )


def stored(version: int) -> StoredEvent:
    return EventMapper().to_stored_event(event(version))


def test_the_stock_recorder_reads_what_ours_wrote_and_ours_what_the_stock_one_wrote(new_schema: str) -> None:
    with closing(Store(new_schema)) as store:
        append(store, 1, 3)
        other = stock(new_schema)
        with closing(other.datastore):
            assert [stored(version) for version in (1, 2, 3)] == other.select_events(ACCOUNT)
            assert [4] == other.insert_events([stored(4)])
            with pytest.raises(IntegrityError):
                other.insert_events([stored(4)])
            append(store, 5, 6)
            assert [7] == other.insert_events([stored(7)])
            append(store, 8, 8)
            assert store.head() == other.max_notification_id()
            mixed = other.select_notifications(1, 20)
        assert list(range(1, 9)) == [each.version for each in store.events(ACCOUNT)]
        assert [each.position for each in store.all_events()] == [each.id for each in mixed]


def test_a_name_tells_the_place_and_no_password() -> None:
    assert "postgresql://me@host:5433/money" == place_of(
        "postgresql://me:secret@host:5433/money?sslmode=require"
    )
    assert "postgresql:///" == place_of("postgresql://")
    assert "postgresql://h/d (mine)" == place_of(
        "postgres://h/d?password=secret&options=-csearch_path%3Dmine"
    )


def test_no_environment_redirects_a_ledger(new_schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGOPTIONS"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("POSTGRES_DBNAME", "elsewhere")
    with Ledger(new_schema) as ledger:
        assert 0 == ledger.position()
    with pytest.raises(
        StoreError
    ) as told:  # libpq's own default: a socket of this machine, the user's own database
        Ledger("postgresql:///?connect_timeout=2")
    assert "elsewhere" not in str(told.value)
