"""Histories as of a moment, from checkpoints: in order, late, told again, of one instant, with holes: as refolded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from ledger import Ledger
from ledger.events import Asked, BalanceEventImported, Event
from projections import Balances, checkpoints
from projections.checkpoints import Checkpoints
from projections.history import HistoryRow
from projections.history_upto import ChainSpanRow, EndedRow, HistoryUpto
from projections.tables import Ordered, Table
from tests.scripted import MAIN, VENUE, delta, feed, imported, said, says, snapshot
from tests.test_as_of import SECOND_NS, Counted, T, differences

MS = 1_000_000
Page = list[tuple[str, Event]]


def _pages(dice: Random, account: str, asset: str, mode: str) -> list[Page]:
    """A history as it is told: pages newest first or not, that overlap, some late, some never."""
    total, time_ns, rows = 0, T, Page()
    memo = asset == "B" and dice.random() < 0.4
    for number in range(dice.randint(0, 60)):
        time_ns += dice.choice((0, 0, 1, 2, 400)) * MS
        amount = dice.choice((-2, -1, 0, 0, 1, 1, 2))
        total += amount
        row = imported(
            time_ns,
            str(amount),
            str(total),
            cause=dice.choice(("trade", "trade", "withdraw", "deposit")),
            pending=dice.choice((None, None, "0")),
            asset=asset,
            memo=memo,
            key=f"{account}{asset}{number}",
        )
        rows.append((account, row))
    pages, at, most = list[Page](), 0, dice.choice((1, 2, 3, 5, 9))
    while at < len(rows):
        size = dice.randint(1, most)
        page = rows[max(at - dice.randint(0, 2), 0) : at + size]
        at += size
        if dice.random() > 0.12:
            pages.append(page[::-1] if dice.random() < 0.4 else page)
    if mode == "newest first":
        pages.reverse()
    elif mode == "anyhow":
        dice.shuffle(pages)
    elif mode == "some late":
        for place in range(len(pages)):
            if dice.random() < 0.2:
                pages.insert(min(len(pages) - 1, place + dice.randint(1, 6)), pages.pop(place))
    return pages


def _frames(dice: Random) -> list[Page]:
    """Pages of several histories in turn, and between them, or within, what the account is said to hold."""
    accounts = [MAIN, "scripted:main/0"][: dice.randint(1, 2)]
    mode = dice.choice(("in order", "in order", "newest first", "some late", "some late", "anyhow"))
    told = [_pages(dice, account, asset, mode) for account in accounts for asset in "AB"]
    frames = list[Page]()
    while any(told):
        frame = [*dice.choice([pages for pages in told if pages]).pop(0)]
        if dice.random() < 0.15 and any(told):
            frame += dice.choice([pages for pages in told if pages]).pop(0)
        if dice.random() < 0.25:
            newest_ns = max(
                event.time_ns or 0 for _, event in frame if isinstance(event, BalanceEventImported)
            )
            held = {asset: str(dice.randint(-1, 3)) for asset in "AB" if dice.random() < 0.7}
            time_ns = newest_ns + dice.choice((-400, 0, 0, 1)) * MS
            stated = (dice.choice(accounts), dice.choice((delta, snapshot))(time_ns, held))
            if dice.random() < 0.3:
                frame.insert(dice.randint(0, len(frame)), stated)
            else:
                frames.append([stated])
        frames.append(frame)
    return frames


def tell(ledger: Ledger, seed: int, between: Callable[[], object] = lambda: None) -> None:
    """A random history, in some sessions of two logins."""
    dice, clock, number = Random(seed), T + SECOND_NS, 0
    frames = _frames(dice)
    while frames:
        number += 1
        login = dice.choice(("main", "main", "b"))
        intake = ledger.intake(VENUE, login, session=f"s{number}", opened_ns=clock)
        for _ in range(min(dice.randint(1, 30), len(frames))):
            clock += dice.choice((0, 1, 300)) * MS
            asked = Asked("GET", clock) if dice.random() < 0.1 else None
            payload = b"garbage %d" % clock if dice.random() < 0.02 else said(*frames.pop(0))
            intake.receive_all([(payload, clock, asked)])
        if dice.random() < 0.6:
            intake.close("end", clock)
        between()


@pytest.mark.few
@pytest.mark.parametrize("seed", range(24))
def test_as_of_any_moment_of_a_history_however_it_came_the_answer_is_that_of_a_refold(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "EVENTS_APART", (1, 3, 8)[seed % 3])
    with Ledger() as ledger:
        kept, dice = Checkpoints(ledger), Random(seed)

        def between() -> None:
            if dice.random() < 0.5:
                kept.subscription.catch_up()

        tell(ledger, seed, between)
        assert [] == differences(ledger, dice, most=60)


def test_a_reader_whose_history_is_behind_or_is_none_answers_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables of the history may be made anew while checkpoints stay; or be of another version."""
    monkeypatch.setattr(checkpoints, "EVENTS_APART", 4)
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, *(says(imported(each, "1", str(each + each // 20))) for each in range(1, 60)))
        balances = Balances(ledger)
        balances.at(1)
        expected = balances.at(21, MAIN).rows()
        assert "rows that change USDC by 1 are missing" in expected[0].reason
        forgetting = [
            ("DELETE FROM history", [()]),
            ("UPDATE projection_positions SET position=0 WHERE name='history'", [()]),
        ]
        ledger.write(forgetting)
        with Ledger(path, read_only=True) as reader:
            assert expected == Balances(reader).at(21, MAIN).rows()
        assert expected == balances.at(21, MAIN).rows()
        ledger.write([("UPDATE projection_positions SET version=-1 WHERE name='history'", [()])])
        with Ledger(path, read_only=True) as reader:
            assert expected == Balances(reader).at(21, MAIN).rows()


def test_how_many_events_are_folded_does_not_grow_with_a_history() -> None:
    def folded(rows: int) -> int:
        with Ledger() as ledger:
            feed(ledger, *(says(imported(T + each, "1", str(each))) for each in range(1, rows)))
            counted = Counted(ledger)
            balances = Balances(counted)  # type: ignore[arg-type]
            balances.at(1)
            counted.events = 0
            assert "proven" == balances.at(700, MAIN)[MAIN]["USDC"].completeness
            assert 700 - 1 == balances.at(700, MAIN)[MAIN]["USDC"].total
            return counted.events

    assert folded(1_000) <= folded(3_000) + checkpoints.EVENTS_APART <= 4 * checkpoints.EVENTS_APART


def test_rows_are_those_up_to_a_version_and_an_instant_ends_as_it_did_then() -> None:
    with Ledger() as ledger:
        feed(ledger, *(says(imported(each, "1", str(each))) for each in (10, 20, 20, 30, 15, 5)))
        Balances(ledger).gaps.rows()
        spans = Table(None, "spans", ChainSpanRow, key=2)
        ends = Ordered(None, "ends", EndedRow, key=4)
        for since, version in ((4, 4), (8, 3)):
            ends.put(EndedRow(MAIN, "USDC", 20, since, version))
        upto = HistoryUpto(ledger, spans, ends)
        assert () == upto.before(MAIN, "USDC", 99)
        assert ([], None) == (list(upto.beginning(MAIN, "USDC", 0)), upto.end(MAIN, "USDC", 20))
        spans.put(ChainSpanRow(MAIN, "USDC", 10, 30))
        upto.reach(MAIN, 5)

        def places(rows: object) -> list[tuple[int, int]]:
            return [(row.time_ns, row.version) for row in rows if isinstance(row, HistoryRow)]  # type: ignore[attr-defined]

        assert [(30, 5), (20, 4)] == places(upto.before(MAIN, "USDC", 99))
        assert [(20, 4), (20, 3)] == places(upto.before(MAIN, "USDC", 30))
        assert [(10, 2)] == places(upto.before(MAIN, "USDC", 20))
        assert [(10, 2), (20, 3), (20, 4), (30, 5)] == places(upto.beginning(MAIN, "USDC", 0))
        assert [(20, 3), (20, 4), (30, 5)] == places(upto.beginning(MAIN, "USDC", 11))
        assert 4 == upto.end(MAIN, "USDC", 20)
        upto.reach(MAIN, 8)
        spans.put(ChainSpanRow(MAIN, "USDC", 5, 30))
        assert 3 == upto.end(MAIN, "USDC", 20)
        assert [(30, 5), (20, 4)] == places(upto.before(MAIN, "USDC", 99))
        upto.reach(MAIN, 2)
        spans.put(ChainSpanRow(MAIN, "USDC", 10, 10))
        assert [(10, 2)] == places(upto.before(MAIN, "USDC", 99)) == places(upto.before(MAIN, "USDC", 15))
