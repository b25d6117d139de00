"""eventsourcing's own test cases for an application's recorder, run on ours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import TestCase
from uuid import uuid4

import pytest
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)

from ledger.sqlite import Recorder, _Datastore


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
        self._datastore = _Datastore(f"{(Path(self._folder.name) / 'ledger.db').as_uri()}?mode=rwc")

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
