"""Subscriptions: every event is folded exactly once, whatever fails, stops or goes on beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from ledger import Ledger, ReadOnly, Recorded, StoreError, store
from ledger.events import FillRecorded
from projections import (
    Accounts,
    Balances,
    Difference,
    Fills,
    Gaps,
    Projection,
    Subscription,
    catch_up,
    compare,
    follow,
    subscription,
)
from projections.subscription import frame_of
from projections.tables import Cell, Change, Database, Once, Table
from tests.scripted import MAIN, VENUE, delta, fault, feed, fill, said, says, snapshot


class CountRow(Struct):
    account: str
    count: int = 0
    last: int = 0


class Counts:
    """How many events an account has: an event folded twice, or not at all, shows. `seen` is what was applied."""

    name = "counts"

    def __init__(self, ledger: Ledger, database: Database | None = None, *, version: int = 1) -> None:
        database = ledger if database is None else database
        self.version: Final = version
        self.seen: list[int] = []
        self.failing_at = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self._rows = Table(database, "counts", CountRow, key=1)
        self.tables: Final[Sequence[Table[Any]]] = (self._rows,)
        self.subscription: Final = Subscription(ledger, self, database)

    def apply(self, recorded: Recorded) -> None:
        self.meanwhile()
        row = self._rows.get(recorded.account) or CountRow(recorded.account)
        row.count += 1
        self._rows.put(row)
        if len(self.seen) + 1 == self.failing_at:
            self.failing_at = 0
            raise ZeroDivisionError("planted")
        row.last = recorded.version
        self._rows.put(row)
        self.seen.append(recorded.position)

    def counts(self) -> dict[str, tuple[int, int]]:
        return {row.account: (row.count, row.last) for row in self._rows.rows()}


def truth(ledger: Ledger) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for recorded in ledger.replay():
        found[recorded.account] = (found.get(recorded.account, (0, 0))[0] + 1, recorded.version)
    return found


def stored(path: Path) -> tuple[list[tuple[Cell, ...]], list[tuple[Cell, ...]]]:
    """The rows and the positions that another program finds in the file."""
    with Ledger(path, read_only=True) as ledger:
        return (
            ledger.select("SELECT account, count, last FROM counts ORDER BY account"),
            ledger.select("SELECT version, position FROM projection_positions WHERE name='counts'"),
        )


def fills(*numbers: int, account: str = MAIN) -> list[bytes]:
    return [says(fill(f"f{number}", number), account=account) for number in numbers]


@pytest.mark.sqlite
def test_rows_and_position_are_written_in_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
        counts = Counts(ledger)
        counts.subscription.catch_up()
        before = stored(path)
        ledger.write(
            [
                (
                    "CREATE TRIGGER planted BEFORE UPDATE ON projection_positions "
                    "BEGIN SELECT RAISE(ABORT, 'planted'); END",
                    [()],
                )
            ]
        )
        feed(ledger, *fills(3), session="s2")
        with pytest.raises(StoreError, match="planted"):
            counts.subscription.catch_up()
        assert before == stored(path)


@pytest.mark.sqlite
def test_what_a_failed_write_lost_is_folded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        counts = Counts(ledger)
        feed(ledger, *fills(1, 2), said(("scripted:other", fill("x", 1))))
        plant = "CREATE TRIGGER planted BEFORE INSERT ON counts WHEN NEW.account='scripted:other'"
        ledger.write([(f"{plant} BEGIN SELECT RAISE(ABORT, 'planted'); END", [()])])
        with pytest.raises(StoreError, match="planted"):
            counts.subscription.catch_up()
        assert ([], [(1, 0)]) == stored(path)
        assert 0 == counts.subscription.position
        ledger.write([("DROP TRIGGER planted", [()])])
        feed(ledger, *fills(3), session="s2")
        counts.subscription.catch_up()
        assert truth(ledger) == counts.counts()
        assert [(account, *rest) for account, rest in sorted(truth(ledger).items())] == stored(path)[0]


@pytest.mark.parametrize("read_only", [False, True])
def test_an_event_whose_fold_failed_halfway_is_folded_once(tmp_path: Path, read_only: bool) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *fills(1, 2, 3))
    with Ledger(tmp_path / "a.db", read_only=read_only) as ledger:
        counts = Counts(ledger)
        counts.failing_at = 3
        with pytest.raises(ZeroDivisionError):
            counts.subscription.catch_up()
        counts.subscription.catch_up()
        assert truth(ledger) == counts.counts()


def test_who_was_overtaken_takes_nothing_back() -> None:
    """One has folded some and not written it; another folds more and writes. What the first has is of an earlier place:
    written now, the rows that only the other touched would be folded again."""
    with Ledger() as ledger:
        slow, quick = Counts(ledger), Counts(ledger)
        feed(ledger, *fills(1, 2))
        for recorded in ledger.replay():
            slow.subscription.apply(recorded)
        feed(ledger, *fills(3, account="scripted:other"), session="s2")
        quick.subscription.catch_up()
        slow.subscription.flush()
        assert quick.subscription.position == slow.subscription.position
        slow.subscription.catch_up()
        assert truth(ledger) == slow.counts() == Counts(ledger).counts()


class Fragile:
    """A database whose writes fail when told so: before anything is written, or when all of it is."""

    read_only = False
    in_file = True

    def __init__(self, ledger: Ledger, failures: Iterator[str]) -> None:
        self._ledger = ledger
        self._failures = failures

    def select(self, sql: str, params: Sequence[Cell] = (), /) -> list[tuple[Cell, ...]]:
        return self._ledger.select(sql, params)

    def columns(self, table: str, /) -> set[str]:
        return self._ledger.columns(table)

    def write(self, statements: Iterable[Change], once: Sequence[Once] = (), /) -> None:
        failure = next(self._failures, "none")
        if failure == "before":
            raise StoreError("planted")
        self._ledger.write(statements, once)
        if failure == "after":
            raise StoreError("planted: but it was written")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    failures=st.lists(st.sampled_from(["none", "before", "after"]), max_size=8),
    script=st.lists(st.sampled_from(["feed", "feed", "catch up", "restart"]), max_size=12),
)
def test_any_failing_writes_and_restarts_count_every_event_once(
    failures: list[str], script: list[str]
) -> None:
    with Ledger() as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscription, "BATCH_EVENTS_MAX", 3)
        Counts(ledger)
        database = Fragile(ledger, iter(["none", *failures]))
        counts = Counts(ledger, database)
        for number, step in enumerate(script):
            if step == "feed":
                feed(ledger, *fills(1, 2), *fills(3, account=f"scripted:{number}"), session=f"s{number}")
                continue
            try:
                if step == "restart":
                    counts = Counts(ledger, database)
                else:
                    counts.subscription.catch_up()
            except StoreError:
                continue
        counts = Counts(ledger)
        counts.subscription.catch_up()
        assert truth(ledger) == counts.counts()


def test_a_restarted_projection_folds_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
        first = Counts(ledger)
        first.subscription.catch_up()
        assert [1, 2, 3, 4] == first.seen  # two fills between an opening and a closing
    with Ledger(path) as ledger:
        feed(ledger, *fills(3), session="s2")
        second = Counts(ledger)
        second.subscription.catch_up()
        assert [5, 6, 7] == second.seen
        assert truth(ledger) == second.counts()
        second.subscription.catch_up()
        assert [5, 6, 7] == second.seen


def test_a_reader_folds_the_rest_in_memory_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
        Counts(ledger).subscription.catch_up()
        feed(ledger, *fills(3), session="s2")
    before = stored(path)
    with Ledger(path, read_only=True) as ledger:
        counts = Counts(ledger)
        counts.subscription.catch_up()
        assert [5, 6, 7] == counts.seen
        assert truth(ledger) == counts.counts()
    assert before == stored(path)


def test_a_reader_needs_no_stored_projection(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
    with Ledger(path, read_only=True) as ledger:
        counts = Counts(ledger)
        counts.subscription.catch_up()
        assert truth(ledger) == counts.counts()
        assert set() == ledger.columns("counts") | ledger.columns("projection_positions")


def test_a_reader_beside_a_writer_folds_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        writer = Counts(ledger)
        feed(ledger, *fills(1))
        writer.subscription.catch_up()
        with Ledger(path, read_only=True) as beside:
            reader = Counts(beside)
            for number in range(2, 6):
                feed(ledger, *fills(number), session=f"s{number}")
                if number % 2 == 0:
                    writer.subscription.catch_up()
                reader.subscription.catch_up()
                assert truth(ledger) == reader.counts()


def test_a_reader_that_is_overtaken_while_it_folds_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1))
        writer = Counts(ledger)
        writer.subscription.catch_up()
        feed(ledger, *fills(2), session="s2")
        with Ledger(path, read_only=True) as beside:
            reader = Counts(beside)
            reader.meanwhile = writer.subscription.catch_up
            reader.subscription.catch_up()
            assert truth(ledger) == reader.counts()


def test_two_projections_of_one_name_count_every_event_once() -> None:
    with Ledger() as ledger:
        one, other = Counts(ledger), Counts(ledger)
        for number, counts in enumerate((one, other, other, one, other)):
            feed(ledger, *fills(number), session=f"s{number}")
            counts.subscription.catch_up()
            assert truth(ledger) == counts.counts()


class CountsOfFills(Counts):
    """The same name, another fold, other columns."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger, version=2)

    def apply(self, recorded: Recorded) -> None:
        if isinstance(recorded.event, FillRecorded):
            super().apply(recorded)


def test_rows_of_another_version_are_folded_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
        Counts(ledger).subscription.catch_up()
        newer = CountsOfFills(ledger)
        assert ([], [(2, 0)]) == stored(path)
        newer.subscription.catch_up()
        assert ([(MAIN, 2, 3)], [(2, 4)]) == stored(path)


def test_a_place_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *fills(1, 2))
        Counts(ledger).subscription.catch_up()
        ledger.write([("UPDATE projection_positions SET position=position-1", [()])])
        counts = Counts(ledger)
        counts.subscription.catch_up()
        assert ledger.position() == len(counts.seen)
        assert truth(ledger) == counts.counts()


def test_the_places_that_an_older_version_wrote_are_gone_on_from(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *fills(1, 2))
        Counts(ledger).subscription.catch_up()
        before = ledger.position()
        ledger.write(
            [
                ("ALTER TABLE projection_positions DROP COLUMN digest", [()]),
            ]
        )
        feed(ledger, *fills(3), session="s2")
        counts = Counts(ledger)
        counts.subscription.catch_up()
        assert ledger.position() - before == len(counts.seen)
        assert truth(ledger) == counts.counts()


def test_the_columns_of_another_version_may_be_others(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        older = Counts(ledger)
        ledger.write([("DROP TABLE counts", [()]), ("CREATE TABLE counts (account TEXT, colour TEXT)", [()])])
        ledger.write([("UPDATE projection_positions SET version=0 WHERE name=?", [(older.name,)])])
        feed(ledger, *fills(1))
        newer = Counts(ledger)
        newer.subscription.catch_up()
        assert truth(ledger) == newer.counts()


def test_a_reader_of_another_version_folds_in_memory_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
        Counts(ledger).subscription.catch_up()
    before = stored(path)
    with Ledger(path, read_only=True) as ledger:
        newer = CountsOfFills(ledger)
        newer.subscription.catch_up()
        assert {MAIN: (2, 3)} == newer.counts()
    assert before == stored(path)


def test_a_reader_whose_rows_become_another_versions_folds_in_memory_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1, 2))
        Counts(ledger).subscription.catch_up()
        with Ledger(path, read_only=True) as beside:
            reader = Counts(beside)
            CountsOfFills(ledger).subscription.catch_up()
            feed(ledger, *fills(3), session="s2")
            reader.subscription.catch_up()
            assert truth(ledger) == reader.counts()


def test_several_projections_catch_up_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger() as ledger:
        feed(ledger, *fills(1, 2))
        ahead = Counts(ledger)
        ahead.subscription.catch_up()
        feed(ledger, *fills(3), session="s2")
        behind = Fills(ledger)
        monkeypatch.setattr(subscription, "BATCH_EVENTS_MAX", 3)
        progress: list[int] = []
        catch_up(ledger, [ahead, behind], progress=progress.append)
        assert [3, 3, 1] == progress  # seven events, read once
        assert [1, 2, 3, 4, 5, 6, 7] == ahead.seen
        assert truth(ledger) == ahead.counts()
        assert ["f1", "f2", "f3"] == [row.fill_id for row in behind.rows()]
        assert [7, 7] == [each.subscription.position for each in (ahead, behind)]


def test_a_catch_up_goes_no_further_than_it_is_told() -> None:
    with Ledger() as ledger:
        feed(ledger, *fills(1, 2, 3))
        counts = Counts(ledger)
        progress: list[int] = []
        catch_up(ledger, [counts], upto=3, progress=progress.append)
        assert [1, 2, 3] == counts.seen
        assert [(1, 3)] == ledger.select("SELECT version, position FROM projection_positions")
        catch_up(ledger, [counts], upto=2, progress=progress.append)
        catch_up(ledger, [counts], progress=progress.append)
        assert [1, 2, 3, 4, 5] == counts.seen
        assert [3, 2] == progress


@pytest.mark.parametrize("begin", [catch_up, follow], ids=["catch_up", "follow"])
def test_who_catches_up_stops_after_the_batch_at_hand_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch, begin: Callable[..., None]
) -> None:
    monkeypatch.setattr(subscription, "BATCH_EVENTS_MAX", 3)
    with Ledger() as ledger:
        feed(ledger, *fills(*range(1, 9)))
        counts, stop = Counts(ledger), threading.Event()
        begin(ledger, [counts], stop=stop, progress=lambda _: stop.set())
        assert [1, 2, 3] == counts.seen
        assert [(1, 3)] == ledger.select("SELECT version, position FROM projection_positions")
        catch_up(ledger, [counts], stop=threading.Event())
        assert [*range(1, 11)] == counts.seen
        assert truth(ledger) == counts.counts()


def test_nothing_new_is_no_progress() -> None:
    with Ledger() as ledger:
        progress: list[int] = []
        catch_up(ledger, [Counts(ledger)], progress=progress.append)
        catch_up(ledger, [], progress=progress.append)
        assert [] == progress


def test_a_reset_projection_folds_everything_again() -> None:
    with Ledger() as ledger:
        feed(ledger, *fills(1, 2), says(fault(1, "7"), fault(2, "7"), fault(4, "7")))
        counts, gaps = Counts(ledger), Gaps(ledger)
        expected = gaps.rows()
        counts.subscription.catch_up()
        ledger.write([("UPDATE counts SET count=99", [()])])
        for each in (counts, gaps):
            each.subscription.reset()
            each.subscription.catch_up()
        assert truth(ledger) == counts.counts()
        assert ["3"] == [gap.missing for gap in expected]
        assert expected == gaps.rows() == Gaps(ledger).rows()


def test_a_reader_cannot_be_reset(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *fills(1))
        Counts(ledger).subscription.catch_up()
    with Ledger(path, read_only=True) as ledger:
        counts = Counts(ledger)
        with pytest.raises(ReadOnly):
            counts.subscription.reset()
        counts.subscription.catch_up()
        assert truth(ledger) == counts.counts()


# Projections that judge whole frames


class Frames(Counts):
    """How many frames an account has, counted when each is over."""

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self.pending: list[Recorded] = []
        self.settled: list[tuple[int, ...]] = []
        self.failing = False
        super().__init__(ledger, database)

    def apply(self, recorded: Recorded) -> None:
        if self.pending and frame_of(self.pending[0].event) != frame_of(recorded.event):
            self.settle()
        self.pending.append(recorded)

    def settle(self) -> None:
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        row = self._rows.get(pending[0].account) or CountRow(pending[0].account)
        row.count, row.last = row.count + 1, pending[-1].version
        self._rows.put(row)
        if self.failing:
            self.failing = False
            raise ZeroDivisionError("planted")
        self.settled.append(tuple(each.version for each in pending))

    def forget(self) -> None:
        self.pending = []


THREE = [says(fill("a", 1), fill("b", 1), fill("c", 1)), says(fill("d", 1), fill("e", 1)), says(fill("f", 1))]
FRAMES = [(1,), (2, 3, 4), (5, 6), (7,), (8,)]


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_a_frame_is_settled_once_and_whole_however_large_the_batches(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(subscription, "BATCH_EVENTS_MAX", batch)
    with Ledger() as ledger:
        feed(ledger, *THREE)
        frames = Frames(ledger)
        progress: list[int] = []
        catch_up(ledger, [frames], progress=progress.append)
        assert FRAMES == frames.settled
        assert {MAIN: (5, 8)} == frames.counts()
        assert 8 == sum(progress)
        assert [(1, 8)] == ledger.select("SELECT version, position FROM projection_positions")


def test_a_reader_settles_the_last_frame_too(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *THREE)
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        frames = Frames(ledger)
        frames.subscription.catch_up()
        assert FRAMES == frames.settled


def test_a_frame_whose_settling_failed_is_folded_again() -> None:
    with Ledger() as ledger:
        feed(ledger, *THREE)
        frames = Frames(ledger)
        frames.failing = True
        with pytest.raises(ZeroDivisionError):
            frames.subscription.catch_up()
        assert (0, []) == (frames.subscription.position, frames.pending)
        frames.subscription.catch_up()
        assert {MAIN: (5, 8)} == frames.counts()


def test_a_frame_at_hand_is_forgotten_when_its_events_will_be_folded_again() -> None:
    with Ledger() as ledger:
        feed(ledger, *THREE)
        frames = Frames(ledger)
        frames.subscription.apply(next(ledger.replay(after=1, upto=2)))
        assert [2] == [each.version for each in frames.pending]
        frames.subscription.reset()
        frames.subscription.catch_up()
        assert {MAIN: (5, 8)} == frames.counts()


# Projections that fold many events at once


class Runs(Counts):
    """Counts what it is given when it is settled."""

    def __init__(self, ledger: Ledger, database: Database | None = None) -> None:
        self.pending: list[Recorded] = []
        super().__init__(ledger, database)

    def apply_all(self, run: Sequence[Recorded]) -> None:
        self.pending += run
        if len(self.seen) + len(self.pending) >= self.failing_at > 0:
            self.failing_at = 0
            raise ZeroDivisionError("planted")

    def settle(self) -> None:
        for recorded in self.pending:
            self.apply(recorded)
        self.pending = []

    def forget(self) -> None:
        self.pending = []


@pytest.mark.parametrize("run", [1, 2, 3, 100])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_events_in_runs_are_given_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch, batch: int, run: int
) -> None:
    monkeypatch.setattr(subscription, "BATCH_EVENTS_MAX", batch)
    monkeypatch.setattr(store, "RUN_EVENTS_MAX", run)
    with Ledger() as ledger, Ledger() as one, Ledger() as other:
        feed(ledger, *THREE)
        runs, frames, ahead = Runs(ledger), Frames(ledger, one), Counts(ledger, other)
        catch_up(ledger, [ahead], upto=5)
        catch_up(ledger, [runs], upto=4)
        progress: list[int] = []
        catch_up(ledger, [runs, frames, ahead], progress=progress.append)
        assert [list(range(1, 9))] * 2 == [runs.seen, ahead.seen]
        assert truth(ledger) == runs.counts() == ahead.counts()
        assert FRAMES == frames.settled
        assert 8 == sum(progress)


@pytest.mark.parametrize("failing_at", range(1, 9))
def test_a_run_whose_fold_failed_is_folded_once(monkeypatch: pytest.MonkeyPatch, failing_at: int) -> None:
    monkeypatch.setattr(subscription, "BATCH_EVENTS_MAX", 3)
    with Ledger() as ledger:
        feed(ledger, *THREE)
        runs = Runs(ledger)
        runs.failing_at = failing_at
        with pytest.raises(ZeroDivisionError):
            runs.subscription.catch_up()
        assert [] == runs.pending
        runs.subscription.catch_up()
        assert truth(ledger) == runs.counts()


def test_balances_are_the_same_however_large_the_batches_and_the_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Ledger() as ledger:
        frames = [says(delta(at, {"AB"[at % 2]: str(at)}), fill(f"f{at}", at)) for at in range(40)]
        feed(ledger, says(snapshot(1, {"A": "1", "B": "2"})), *frames, says(delta(3, {"B": "9"})))
        found: list[object] = []
        for batch, run in ((1, 1), (7, 3), (7, 50), (1_000, 50)):
            monkeypatch.setattr(subscription, "BATCH_EVENTS_MAX", batch)
            monkeypatch.setattr(store, "RUN_EVENTS_MAX", run)
            with Ledger() as scratch:
                found.append(Balances(ledger, scratch).rows())
        assert [found[0]] * 4 == found
        assert found[0]


# Comparing with a fold from zero


def differences(ledger: Ledger, account: str | None = None) -> list[Difference]:
    """What a fold from zero, kept elsewhere, makes otherwise than what is stored."""
    with Ledger() as scratch:
        kept: list[Projection] = [Accounts(ledger), Balances(ledger), Fills(ledger)]
        fresh: list[Projection] = [
            Accounts(ledger, scratch),
            Balances(ledger, scratch),
            Fills(ledger, scratch),
        ]
        catch_up(ledger, kept)
        catch_up(ledger, fresh)
        pairs = zip(kept, fresh, strict=True)
        return [found for one, other in pairs for found in compare(one, other, account)]


@pytest.fixture
def two_accounts(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "a.db") as ledger:
        for account in (MAIN, "scripted:other"):
            frames = [says(snapshot(1, {"A": "1", "B": "2"}), account=account), *fills(1, 2, account=account)]
            feed(ledger, *frames, session=account)
        yield ledger


def test_a_fold_from_zero_equals_what_is_stored(two_accounts: Ledger) -> None:
    assert [] == differences(two_accounts)


@pytest.mark.parametrize(
    ("plant", "table", "stored_side", "folded_side"),
    [
        ("UPDATE fill_rows SET price='0.6' WHERE fill_id='f1'", "fill_rows", "0.6", "0.5"),
        ("UPDATE balances SET total='1.0' WHERE asset_id='A'", "balances", "1.0", "1"),
        ("UPDATE balances SET held=0 WHERE asset_id='B'", "balances", "2", "2"),
        ("DELETE FROM fill_rows WHERE fill_id='f2'", "fill_rows", None, "0.5"),
        ("DELETE FROM fill_rows WHERE fill_id='f1'", "fill_rows", None, "0.5"),
        (
            "INSERT INTO fill_rows (account,fill_id,{0}) SELECT account,'f0',{0} FROM fill_rows "
            "WHERE fill_id='f1'",
            "fill_rows",
            "0.5",
            None,
        ),
        (
            "INSERT INTO fill_rows (account,fill_id,{0}) SELECT account,'f9',{0} FROM fill_rows "
            "WHERE fill_id='f1'",
            "fill_rows",
            "0.5",
            None,
        ),
        ("UPDATE fill_rows SET fill_id='g' WHERE fill_id='f1'", "fill_rows", None, "0.5"),
    ],
)
def test_a_planted_difference_is_found_in_each_account(
    two_accounts: Ledger, plant: str, table: str, stored_side: str | None, folded_side: str | None
) -> None:
    assert [] == differences(two_accounts)
    columns = sorted(two_accounts.columns("fill_rows") - {"account", "fill_id"})
    two_accounts.write([(plant.format(", ".join(columns)), [()])])
    found = differences(two_accounts)
    moved = "fill_id='g'" in plant  # a row of another key is one too many and one too few
    assert (4 if moved else 2) == len(found)
    assert {table} == {difference.table for difference in found}
    assert (stored_side, folded_side) == (amount(found[0].stored), amount(found[0].folded))
    assert found[0].stored != found[0].folded
    only_main = differences(two_accounts, MAIN)
    assert found[: len(found) // 2] == only_main


def amount(row: Struct | None) -> str | None:
    found = None if row is None else getattr(row, "price", None) or getattr(row, "total", None)
    return None if found is None else str(found)


def test_differences_come_in_key_order_and_a_missing_table_is_a_difference(two_accounts: Ledger) -> None:
    assert [] == differences(two_accounts)
    two_accounts.write([("DELETE FROM accounts", [()])])
    found = differences(two_accounts)
    assert [(None, MAIN), (None, "scripted:other")] == [
        (each.stored, getattr(each.folded, "account", None)) for each in found
    ]


def test_a_pages_first_half_is_not_lost_on_a_reader_beside_the_writer(tmp_path: Path) -> None:
    """A whole statement in two pages; the reader opened between them, the writer folded the second page first."""
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        writer = Balances(ledger)
        with ledger.intake(VENUE, "main", session="s1") as intake:
            intake.receive(says(snapshot(1, {"A": "1"}, part="7", more=True)))
            writer.rows()
            with Ledger(path, read_only=True) as beside:
                reader = Balances(beside)
                intake.receive(says(snapshot(2, {"B": "2"}, part="7")))
                intake.receive(says(delta(3, {"C": "3"})))
                writer.rows()
                assert ["A", "B", "C"] == [row.asset for row in reader.rows()]
                assert writer.rows() == reader.rows()
