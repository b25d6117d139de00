"""Checkpoints of accounts: the same however they are made, no larger than they need be, none where none would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from ledger import Ledger, StoreError
from ledger.wire import time_text
from projections import Balances, History, checkpoints, compare
from projections.checkpoints import CheckpointRow, Checkpoints
from projections.tables import Database
from tests import scripted
from tests.scripted import MAIN, RECEIVED_NS, delta, feed, imported, says, snapshot
from tests.test_as_of import script

SEEDS = (1, 2, 5, 6, 7, 9, 10, 11, 13, 14, 15)


def kept(projection: Checkpoints) -> list[list[msgspec.Struct]]:
    return [list(table.rows()) for table in projection.tables]


def states(projection: Checkpoints, account: str = MAIN) -> list[CheckpointRow]:
    found: list[CheckpointRow] = list(projection.tables[0].rows(account))
    return found


def made(ledger: Ledger, database: Database | None = None) -> Checkpoints:
    projection = Checkpoints(ledger, database)
    projection.subscription.catch_up()
    return projection


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVENTS_APART", 4)


def test_there_is_one_each_so_many_events_of_an_account() -> None:
    with Ledger() as ledger:
        feed(ledger, *(says(delta(each, {"A": "1"})) for each in range(1, 10)))
        feed(
            ledger,
            *(says(delta(each, {"A": "1"}), account="scripted:b") for each in range(1, 6)),
            session="s2",
        )
        found = made(ledger)
        assert [4, 8, 12] == [row.version for row in states(found)]
        assert [4] == [row.version for row in states(found, "scripted:b")]
        positions = {each.version: each.position for each in ledger.replay(MAIN)}
        assert [(row.version, positions[row.version]) for row in states(found)] == [
            (row.version, row.position) for row in states(found)
        ]
        assert [4, 8, 12] == [found.last(MAIN, position) for position in (5, 8, ledger.position())]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_checkpoint_says_what_its_events_come_to(seed: int) -> None:
    """Folded from the first event on, an account alone."""
    with Ledger() as ledger:
        script(ledger, seed)
        found = made(ledger)
        rows = [row for row in found.tables[0].rows() if isinstance(row, CheckpointRow)]
        assert rows
        for row in rows:
            fresh, restored = found.folds(), found.folds()
            fresh.apply(list(ledger.replay(row.account, upto=row.version)))
            fresh.settle()
            fresh.let_go(row.account, row.version)
            restored.restore(row.account, row.version, found.states(row.account, row.version))
            assert fresh.whole() == restored.whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_they_are_the_same_however_the_events_come(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go; batch by batch, of other processes, with few folds remembered."""
    dice, path = Random(seed), tmp_path / "a.db"
    with Ledger(path) as ledger, monkeypatch.context() as patched:
        patched.setattr(checkpoints, "FOLDS_KEPT_MAX", seed % 2)
        patched.setattr(checkpoints, "RECENT_EVENTS_MAX", seed % 7)
        of = [Checkpoints(ledger), Checkpoints(ledger)]
        script(ledger, seed, lambda: dice.choice(of).subscription.catch_up())
        dice.choice(of).subscription.catch_up()
    with Ledger(path) as ledger, Ledger() as scratch:
        fresh = Checkpoints(ledger, scratch)
        fresh.subscription.catch_up()
        assert [] == list(compare(made(ledger), fresh))
        assert kept(fresh)[0]


def test_no_event_is_read_again_that_was_just_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger() as ledger:
        for number, account in enumerate(("scripted:main", "scripted:other")):
            said = [says(delta(each, {"A": str(each)}), account=account) for each in range(1, 50)]
            feed(ledger, *said, session=f"s{number}")
        found = Checkpoints(ledger)
        with monkeypatch.context() as patched:
            patched.setattr(ledger, "replay", None)
            patched.setattr(found._history.subscription, "catch_up", None)
            found.subscription.catch_up()
        with Ledger() as scratch:
            assert [] == list(compare(found, made(ledger, scratch)))
        assert {"scripted:main", "scripted:other"} == {row.account for row in found.tables[0].rows()}


def test_histories_that_are_stored_behind_are_brought_first(tmp_path: Path) -> None:
    """The frame before a checkpoint is judged after it, beside rows that were imported before; what held them is gone,
    and of what is folded then nothing is imported."""
    first = says(*(imported(each, "1", str(each), asset="P") for each in (1, 2, 3)))
    second = says(*(imported(each, "1", str(each + 5), asset="P") for each in (4, 5, 6, 7)))
    later = [says(delta(each, {"A": "1"})) for each in range(31, 50)]
    with Ledger(tmp_path / "a.db") as ledger, ledger.intake(scripted.VENUE, "main", session="s1") as intake:
        intake.receive_all([(frame, RECEIVED_NS) for frame in (first, second)])
        made(ledger)
        intake.receive_all([(frame, RECEIVED_NS) for frame in later])
        History(ledger).subscription.reset()
        found = made(ledger)
        with Ledger() as scratch:
            assert [] == list(compare(found, made(ledger, scratch)))


def test_after_a_write_that_failed_they_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger() as ledger:
        feed(ledger, *(says(delta(each, {"A": str(each)})) for each in range(1, 10)))
        projection = made(ledger)
        feed(ledger, *(says(delta(each, {"B": str(each)})) for each in range(11, 20)), session="s2")

        def fails(*_: object) -> None:
            raise StoreError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(ledger._store, "write", fails)
            with pytest.raises(StoreError):
                projection.subscription.catch_up()
        projection.subscription.catch_up()
        with Ledger() as scratch:
            fresh = Checkpoints(ledger, scratch)
            fresh.subscription.catch_up()
            assert [] == list(compare(projection, fresh))


def test_what_is_kept_does_not_grow_with_what_did_not_change() -> None:
    """Many assets, of which one moves: a whole state now and then, between them what changed."""
    with Ledger() as ledger:
        many = {f"C{each}": "1" for each in range(40)}
        feed(
            ledger, says(snapshot(1, many)), *(says(delta(each, {"C0": str(each)})) for each in range(2, 400))
        )
        rows = states(made(ledger))
        wholes = [row for row in rows if row.whole == row.version]
        assert 3 <= len(wholes) < len(rows) / 10
        assert max(len(row.state) for row in rows if row not in wholes) < len(rows[0].state) / 10
        assert all(row.changed_bytes < row.whole_bytes for row in rows)
        assert sum(len(row.state) for row in rows) <= 2 * sum(len(row.state) for row in wholes)


def test_an_account_whose_history_is_imported_has_them_too_and_its_rows_are_in_none() -> None:
    with Ledger() as ledger:
        rows = [says(imported(each, "1", str(each), asset="P")) for each in range(1, 200)]
        feed(ledger, *rows[:100])
        feed(ledger, *rows[100:], session="s2")
        found = states(made(ledger))
        assert [*range(4, 204, 4)] == [row.version for row in found]
        assert max(len(row.state) for row in found[25:]) <= 1.3 * max(len(row.state) for row in found[10:20])


def test_memo_rows_are_in_none() -> None:
    with Ledger() as ledger:
        rows = [says(imported(each, "1", str(each), asset="P", memo=True)) for each in range(1, 20)]
        feed(ledger, *rows)
        found = states(made(ledger))
        assert [4, 8, 12, 16, 20] == [row.version for row in found]
        assert max(len(row.state) for row in found) <= len(found[0].state) + 10


def test_where_memo_rows_are_of_something_held_its_history_counts() -> None:
    """A gap in it is a gap of the balance: it is folded from the first event."""
    with Ledger() as ledger:
        rows = [imported(each, "1", str(each), asset="A", memo=True) for each in (1, 2, 9, 10)]
        feed(ledger, *map(says, rows), *(says(delta(each, {"A": "10"})) for each in range(11, 20)))
        for moment in (9, time_text(15)):
            found = Balances(ledger).at(moment, MAIN)[MAIN]["A"]
            assert ("gap", "rows that change A by 6 are missing from its history (found at version 4)") == (
                found.completeness,
                found.reason,
            )


def test_times_are_found_by_what_was_reached_and_what_came_late() -> None:
    with Ledger() as ledger:
        times = [10, 20, 30, 40, 50, 15, 60, 70, 80, 90, 100]
        feed(ledger, *(says(delta(each, {"A": "1"})) for each in times), received_ns=5)
        found = made(ledger)
        ever = 1 << 62
        spans = [(row.version, row.reached_ns, row.said_ns) for row in found.tables[1].rows(MAIN)]
        assert [(4, 30, 10), (8, 60, None), (12, 100, 70)] == spans
        assert [(8, 15, 15)] == [
            (row.version, row.least_ns, row.said_ns) for row in found.tables[2].rows(MAIN)
        ]
        assert [0, 4, 4, 8, 12] == [
            found.before(MAIN, ever, ever, time_ns, ever) for time_ns in (29, 30, 59, 99, 100)
        ]
        assert [[], [8]] == [found.late(MAIN, 4, 12, time_ns, ever) for time_ns in (14, 15)]
        assert [(12, 70)] == found.heard(MAIN, 4, 12, 60)


def test_written_rows_are_not_remembered() -> None:
    """Memory does not grow with how many there are."""
    with Ledger() as ledger:
        projection = Checkpoints(ledger)
        for number in range(10):
            times = range(100 * number + 1, 100 * number + 100)
            feed(ledger, *(says(delta(each, {"A": "1"})) for each in times), session=f"s{number}")
            projection.subscription.catch_up()
        remembered: Sequence[Any] = [
            row for table in projection.tables for rows in table._cache.values() for row in rows
        ]
        assert len(remembered) <= 3 * 26
