"""What is written: each fact once, durable before it counts, whatever the disk or another writer does.

Most tests run on a ledger in memory and on one in a SQLite file: both must behave alike.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sqlite3
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger import (
    Conflict,
    Frame,
    Ledger,
    StoreError,
    Tally,
)
from ledger.appender import ACCOUNTS_CACHED_MAX
from ledger.events import (
    FillRecorded,
    Statement,
)
from ledger.intake import BATCH_FRAMES_MAX
from projections import Balances
from tests.plain import MAIN, Plain, T, arrivals, assert_whole, feed, keys, topics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Ledger]:
    with Ledger(None if request.param == "memory" else tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def venue() -> Plain:
    return Plain()


# Once ----------------------------------------------------------------------------------------------------------------


def test_the_same_fact_again_is_refused_in_the_batch_in_the_session_and_in_another(ledger: Ledger) -> None:
    assert Tally(2, 1, 1, 0, 0) == feed(ledger, "s-1", "fill:1", "fill:1")
    assert Tally(1, 0, 1, 0, 0) == feed(ledger, "s-2", "fill:1")
    assert ["fill:1"] == keys(ledger)
    assert_whole(ledger)


def test_a_fact_is_refused_however_old_and_across_a_restart(path: Path) -> None:
    many = [f"fill:{number}" for number in range(600)]
    for session in ("s-1", "s-2"):
        with Ledger(path) as ledger:
            feed(ledger, session, *many, *many[:1])
            assert many == keys(ledger)
            assert_whole(ledger)


def test_keys_of_any_text_are_known_again(ledger: Ledger) -> None:
    class Exact(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            source, key = frame.source(self.NAME, ""), frame.payload.decode()
            return [(frame.account, FillRecorded(source, key, "f", "o", "S", "buy", "1", "2"))]

    odd = ["a\0b", "a", '"', "é😀", "\\u0000", " ", "k" * (ledger._store._engine.ID_BYTES_MAX or 5_000)]
    later = [f"later-{number}" for number in range(600)]
    feed(ledger, "s-1", *odd, *later, venue=Exact())
    assert Tally(len(odd), 0, len(odd), 0, 0) == feed(ledger, "s-2", *odd, venue=Exact())
    assert [*odd, *later] == keys(ledger)


def test_the_same_words_without_a_key_are_two_statements(ledger: Ledger) -> None:
    assert Tally(2, 2, 0, 0, 0) == feed(ledger, "s", "state", "state")


def test_evidence_is_stored_once_and_byte_equal_whatever_was_made_of_it(ledger: Ledger) -> None:
    odd = " fill:1 fill:2 @b fill:1  state \r\n\t"
    feed(ledger, "s-1", odd, "ping", "fill:1", "bad \0\x7f")
    assert [("s-1", 1, odd.encode()), ("s-1", 4, b"bad \0\x7f")] == ledger.select(
        "SELECT session, ordinal, payload FROM evidence ORDER BY ordinal"
    )
    for each in ledger.replay():
        if each.event.source.ordinal == 1 and each.event.source.evidence:
            assert odd.encode() == ledger.evidence(each)
    assert (None, None) == (ledger.frame_bytes("s-1", 2), ledger.frame_bytes("s-9", 1))
    assert ledger.evidence(next(ledger.replay())) is None


# When the store fails ------------------------------------------------------------------------------------------------


@contextmanager
def failing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, stored: bool, error: type[StoreError] = StoreError
) -> Generator[None]:
    """Appends fail: before anything is stored, or after it was (the answer is what is lost)."""
    append = ledger._store.append

    def fails(*args: Any) -> None:
        if stored:
            append(*args)
        raise error("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(ledger._store, "append", fails)
        yield


def test_an_account_advances_only_after_the_commit(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.intake(venue, "main") as intake:
        intake.receive(b"fill:1")
        account = ledger._appender._accounts[MAIN]
        before = account.version
        assert 2 == before
        with failing(ledger, monkeypatch, stored=False), pytest.raises(StoreError):
            intake.receive(b"fill:2")
        assert before == ledger._appender._accounts[MAIN].version == account.version
        assert (1, 1) == (intake.tally.frames, intake.tally.recorded)
        intake.receive(b"fill:2")
        assert before + 1 == ledger._appender._accounts[MAIN].version == list(ledger.replay(MAIN))[-1].version
    assert_whole(ledger)


@pytest.mark.parametrize("stored", [True, False], ids=["stored after all", "not stored"])
@pytest.mark.parametrize("text", ["fill:1", "state:1", "state", "bad", "fill:1 @b state"])
def test_a_retry_after_a_store_error_stores_exactly_once(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, text: str, stored: bool
) -> None:
    with ledger.intake(venue, "main", session="s") as intake:
        intake.receive(b"state")
        with failing(ledger, monkeypatch, stored=stored), pytest.raises(StoreError, match="the disk is gone"):
            intake.receive(text.encode(), T)
        intake.receive(text.encode(), T)
        intake.receive(b"state")
    with Ledger() as other:
        feed(other, "s", "state", text, "state")
        assert topics(other) == topics(ledger)
        assert keys(other) == keys(ledger)
    tally = intake.tally
    assert (3, 3) == (tally.frames, tally.recorded + tally.duplicates + tally.quarantined)
    assert_whole(ledger)


def test_a_batch_that_failed_can_be_given_again_whole(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["state", "ping", "fill:1", "bad", "state", "ping"]
    for stored in (True, False):
        with ledger.intake(venue, "main", session=f"s-{stored}") as intake:
            with failing(ledger, monkeypatch, stored=stored), pytest.raises(StoreError):
                intake.receive_all(arrivals(*texts))
            intake.receive_all(arrivals(*texts))
    assert ["", "fill:1", "", "", "", "", ""] == keys(ledger)
    assert_whole(ledger)


def test_a_closing_that_failed_can_be_tried_again(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stored in (True, False):
        intake = ledger.intake(venue, "main")
        with failing(ledger, monkeypatch, stored=stored), pytest.raises(StoreError):
            intake.close()
        intake.close()
        intake.close()
    assert ["SessionOpened", "SessionClosed"] * 2 == topics(ledger)


@pytest.mark.sqlite
def test_a_full_disk_loses_nothing_that_is_given_again(path: Path, venue: Plain) -> None:
    with Ledger(path) as ledger, ledger.intake(venue, "main", session="s") as intake:
        intake.receive(b"fill:1")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("ledger.db-wal").stat().st_size, before[1]))
        try:
            for payload in (b"fill:2", b"fill:2" + b" " * 2_000_000):
                with pytest.raises(StoreError, match=r"ledger\.db"):
                    intake.receive(payload)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert Tally(1, 1, 0, 0, 0) == intake.receive(b"fill:2")
        intake.receive(b"fill:3")
    with Ledger(path, read_only=True) as ledger:
        assert ["fill:1", "fill:2", "fill:3"] == keys(ledger)
        assert_whole(ledger)


# Another writer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No writer lock can be had, so two writers meet (the SQLite here is said to survive it)."""
    monkeypatch.setattr("ledger.sqlite_file.fcntl", None)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))


@pytest.mark.usefixtures("unlocked")
def test_whoever_appended_first_their_events_are_taken_in_and_ours_follow(path: Path, venue: Plain) -> None:
    with Ledger(path) as one, Ledger(path) as other:
        with one.intake(venue, "main") as ours, other.intake(venue, "main") as theirs:
            for number in range(4):
                assert 1 == ours.receive(b"fill:%d" % number).recorded
                assert 1 == theirs.receive(b"fill:%d" % number).duplicates
                assert 1 == theirs.receive(b"state").recorded
        assert ["fill:0", "", "fill:1", "", "fill:2", "", "fill:3", ""] == keys(one)
        assert list(one.replay()) == list(other.replay())
        assert_whole(one)


@pytest.mark.usefixtures("unlocked")
def test_two_writers_at_full_speed_lose_and_double_nothing(path: Path, venue: Plain) -> None:
    Ledger(path).close()
    lost: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with Ledger(path) as ledger, ledger.intake(Plain(), "main") as intake:
                for number in range(40):
                    while True:
                        try:
                            intake.receive(f"fill:both-{number} state:{name}-{number}".encode())
                            break
                        except Conflict:  # after so many tries it is the caller's to go on
                            continue
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == lost
    with Ledger(path, read_only=True) as ledger:
        found = keys(ledger)
        assert sorted(set(found)) == sorted(found)
        assert 120 == len(found)
        assert_whole(ledger)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_conflict_is_tried_again_so_many_times(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    append, tries = ledger._store.append, list[int]()

    def conflicts(*args: Any) -> Any:
        tries.append(1)
        if len(tries) <= failures:
            raise Conflict("somebody was first")
        return append(*args)

    with ledger.intake(venue, "main") as intake:
        monkeypatch.setattr(ledger._store, "append", conflicts)
        assert 1 == intake.receive(b"fill:1").recorded
    assert ["fill:1"] == keys(ledger)


def test_a_conflict_without_end_is_told_and_the_frame_can_be_given_again(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.intake(venue, "main") as intake:
        with failing(ledger, monkeypatch, stored=False, error=Conflict), pytest.raises(Conflict):
            intake.receive(b"fill:1")
        assert 1 == intake.receive(b"fill:1").recorded
    assert_whole(ledger)


def test_one_ledger_is_written_by_many_conversations_in_many_threads(ledger: Ledger) -> None:
    failures: list[BaseException] = []

    def converse(name: str) -> None:
        try:
            with ledger.intake(Plain(), name) as intake:
                for number in range(25):
                    intake.receive(f"fill:{number} @shared fill:{number} state:{name}-{number}".encode())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=converse, args=(f"login-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert 25 + 6 * 25 == len(keys(ledger, "plain:shared"))
    assert [25] * 6 == [len(keys(ledger, f"plain:login-{number}")) for number in range(6)]
    assert_whole(ledger)


def test_a_ledger_is_read_from_other_threads_while_it_is_written(ledger: Ledger, venue: Plain) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        seen = 0
        try:
            while not done.is_set() or not seen:
                found = list(ledger.replay(MAIN))
                assert list(range(1, len(found) + 1)) == [each.version for each in found]
                assert seen <= len(found)
                seen = len(found)
                assert found[-1].event.source.evidence == b"" or b"state" == ledger.evidence(found[-1])
                assert ledger.position() >= seen
        except BaseException as error:
            failures.append(error)

    with ledger.intake(venue, "main") as intake:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            intake.receive(b"state")
        done.set()
        for thread in threads:
            thread.join()
    assert [] == failures


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("again", [False, True], ids=["new", "seen before"])
def test_so_many_accounts_are_remembered_and_no_more(ledger: Ledger, again: bool) -> None:
    texts = [f"@{number} fill:1" for number in range(ACCOUNTS_CACHED_MAX + 300)]
    feed(ledger, "s-1", *texts)
    if again:
        feed(ledger, "s-2", *texts)
        with ledger.intake(Plain(), "main", session="s-3") as intake:
            intake.receive_all(arrivals(*texts))
            assert len(ledger._appender._accounts) <= ACCOUNTS_CACHED_MAX
    assert len(ledger._appender._accounts) <= ACCOUNTS_CACHED_MAX
    assert len(texts) == len(ledger.select("SELECT 1 FROM stored_events WHERE topic='FillRecorded'"))


def test_an_account_forgotten_is_known_again_with_its_version_and_keys(ledger: Ledger) -> None:
    feed(ledger, "s-1", "fill:1", "state:1")
    ledger._appender._accounts.clear()
    assert Tally(3, 1, 2, 0, 0) == feed(ledger, "s-2", "state:1", "fill:1", "fill:2")
    assert_whole(ledger)


# Closing, and forking ------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_closing_waits_for_the_commit_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(path) as ledger:
        intake = ledger.intake(Plain(), "main", session="s", opened_ns=T, now_ns=lambda: T)
        append, under_way, go_on = ledger._store.append, threading.Event(), threading.Event()
        outcome: list[object] = []

        def slow(*args: Any) -> Any:
            under_way.set()
            go_on.wait(10)
            return append(*args)

        def receive() -> None:
            try:
                outcome.append(intake.receive(b"fill:1").recorded)
            except BaseException as error:
                outcome.append(error)

        monkeypatch.setattr(ledger._store, "append", slow)
        writer, closer = threading.Thread(target=receive), threading.Thread(target=ledger.close)
        writer.start()
        under_way.wait(10)
        closer.start()
        closer.join(0.05)
        go_on.set()
        writer.join()
        closer.join()
        assert [1] == outcome
    with closing(sqlite3.connect(path)) as stored:
        assert [(1,)] == stored.execute(
            "SELECT count(*) FROM stored_events WHERE topic='FillRecorded'"
        ).fetchall()


def told_in_a_fork(work: Callable[[], object]) -> str:
    """The error that some work ends with in a process forked from this one; empty where it ends without."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads that are not there in the child
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        said = ""
        try:
            work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    assert (child, 0) == os.waitpid(child, 0)
    return text


def test_a_process_forked_from_ours_cannot_use_the_ledger_and_costs_it_nothing(
    ledger: Ledger, venue: Plain
) -> None:
    """As of a server that forks its workers: two processes on one connection read each other's answers."""
    balances = Balances(ledger)
    with ledger.intake(venue, "main") as intake:
        intake.receive_all(arrivals("state:1"))
        tries: list[Callable[[], object]] = [
            lambda: intake.receive(b"state:2"),
            lambda: intake.receive_all([(b"state:2", T)] * (BATCH_FRAMES_MAX + 1)),
            lambda: list(ledger.replay()),
            lambda: balances.rows(),
            lambda: list(ledger.verify()),
            lambda: ledger.lease(MAIN),
        ]
        with ledger._appender._writing():  # as while another thread commits
            for work in tries:
                assert re.match("Closed: .*: opened by another process", told_in_a_fork(work))
            assert "" == told_in_a_fork(ledger.close)
        intake.receive_all(arrivals("state:3"))
    assert ["state:1", "state:3"] == keys(ledger)
    assert [] == list(ledger.verify([venue]))
