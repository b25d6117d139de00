"""Pacifica live: a history is walked page by page, within the credits; every row comes once, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Final

import anyio
import pytest

from ledger import Ledger
from ledger.events import BalanceEventImported, FrameQuarantined, SessionClosed
from ledger.venues import pacifica
from projections import Gaps, History
from tests.exchanges import Pacifica
from tests.exchanges.pacifica import HISTORY
from tests.test_venues_live import PATIENCE_S, anyio_backend, events, feed_of, quick, until, until_agreed
from transports import live

__all__ = ["anyio_backend", "quick"]

ROOT: Final = Path(__file__).parent.parent
ROWS: Final = 1000


@pytest.fixture(autouse=True)
def polled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is a fifth of a second, and so is the pause between two polls."""
    monkeypatch.setattr(pacifica, "POLL_S", 0.2)
    monkeypatch.setattr(pacifica, "WINDOW_NS", 200_000_000)


@pytest.fixture
def exchange() -> Generator[Pacifica]:
    with Pacifica(window_s=0.15) as exchange:
        for number in range(ROWS):
            exchange.add_row(f"{number % 7}.0{number % 10}", ("trade", "funding", "deposit")[number % 3])
        yield exchange


def told(ledger: Ledger) -> list[tuple[str, str, str, int]]:
    """The rows as they are recorded, oldest first."""
    rows: list[BalanceEventImported] = events(ledger, BalanceEventImported)
    return sorted((row.amount, row.balance, row.cause, row.time_ns or 0) for row in rows)


async def until_rows(ledger: Ledger, count: int) -> None:
    """Wait until so many rows are recorded; looks seldom, for it looks at all of them."""
    deadline = time.monotonic() + PATIENCE_S
    while len(told(ledger)) != count:
        assert time.monotonic() < deadline, (len(told(ledger)), count)
        await anyio.sleep(0.1)


def held(exchange: Pacifica) -> list[tuple[str, str, str, int]]:
    with exchange.lock:
        return sorted(
            (row.amount, row.balance, row.event_type, row.created_at * 1_000_000) for row in exchange.rows
        )


def assert_whole(ledger: Ledger, exchange: Pacifica) -> None:
    """Every row exactly once, in an order in which the balances follow, and nothing missing."""
    assert held(exchange) == told(ledger)
    assert not Gaps(ledger).rows()
    assert [row.balance for row in exchange.rows] == [row.balance for row in History(ledger).rows()]
    assert not events(ledger, FrameQuarantined)


async def test_a_first_import_has_every_row_once_also_those_added_while_pages_are_turned(
    exchange: Pacifica,
) -> None:
    added: list[int] = []

    def add() -> None:
        if len(added) < 30:
            added.extend(exchange.add_row("0.5").created_at for _ in range(3))

    exchange.between_pages = add
    with Ledger() as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: len(added) == 30)
            await until_rows(ledger, ROWS + 30)
            await until_agreed(ledger, exchange)
            assert "live" == running.health()[0].state
        assert_whole(ledger, exchange)
        assert exchange.too_many <= 1
        assert {"100"} == {each.query["limit"] for each in exchange.requests if each.path == HISTORY}


async def test_new_rows_are_there_within_a_poll_and_nothing_is_told_twice(exchange: Pacifica) -> None:
    with Ledger() as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until_rows(ledger, ROWS)
            for number in range(3):
                exchange.add_row(f"{number}.25", "trade")
                began = time.monotonic()
                await until_agreed(ledger, exchange)
                assert time.monotonic() - began < 5 * pacifica.POLL_S
            walks = len(exchange.requests)
            await until(lambda: len(exchange.requests) >= walks + 3)
            assert 0 == running.health()[0].reconnects
        assert_whole(ledger, exchange)
        # Each poll is one page: the first, without a cursor.
        assert ["cursor" in each.query for each in exchange.requests[walks:]] == [False] * len(
            exchange.requests[walks:]
        )


@pytest.mark.few(0)
async def test_the_credits_are_kept_to() -> None:
    with Pacifica(budget=36, window_s=1.0, page_max=10) as exchange, Ledger() as ledger:
        for _ in range(45):
            exchange.add_row("1")
        async with live(ledger, feed_of(exchange)) as running:
            await until_rows(ledger, 45)
            assert 1 <= exchange.too_many <= 3
            assert ("live", 0) == (running.health()[0].state, running.health()[0].reconnects)
        assert_whole(ledger, exchange)


async def test_no_more_is_asked_in_a_window_than_it_has_credits_for(
    exchange: Pacifica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacifica, "WINDOW_NS", 60_000_000_000)
    exchange.window_s = 60.0
    with Ledger() as ledger:
        async with live(ledger, feed_of(exchange)):
            await until(lambda: len(exchange.requests) == 8)
            await anyio.sleep(0.3)
        assert (8, 0) == (len(exchange.requests), exchange.too_many)
        assert 800 == len(events(ledger, BalanceEventImported))


@pytest.mark.few(0)
@pytest.mark.parametrize("said", [None, "", "nonsense"])
async def test_too_many_requests_are_waited_out_whatever_the_venue_says_of_it(
    said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacifica, "POLL_S", 60.0)
    with Pacifica(budget=12, window_s=0.5, page_max=10) as exchange, Ledger() as ledger:
        exchange.retry_after = said
        for _ in range(15):
            exchange.add_row("1")
        async with live(ledger, feed_of(exchange)) as running:
            await until_rows(ledger, 15)
            assert 1 <= exchange.too_many <= 2  # a walk of several pages is followed by another
            assert 0 == running.health()[0].reconnects
        assert_whole(ledger, exchange)


async def test_a_key_is_a_header_of_every_request_and_allows_more(exchange: Pacifica) -> None:
    exchange.api_key = "test-pacifica-key"
    exchange.budget = 0
    with Ledger() as ledger:
        async with live(ledger, feed_of(exchange, key="test-pacifica-key")):
            await until_rows(ledger, ROWS)
        assert {"test-pacifica-key"} == {each.headers.get("pf-api-key") for each in exchange.requests}
        assert all("test-pacifica-key" not in each.target for each in exchange.requests)
        assert_whole(ledger, exchange)


async def test_an_import_that_was_stopped_is_finished_by_the_next(exchange: Pacifica, tmp_path: Path) -> None:
    pages: list[int] = []
    exchange.between_pages = lambda: pages.append(1)
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: running.health()[0].frames >= 2)
            running.stop("enough")
            await running.ended()
        assert 100 < len(told(ledger)) < ROWS
        assert ["enough"] == [each.cause for each in events(ledger, SessionClosed)]
    for _ in range(50):
        exchange.add_row("2")
    with Ledger(path) as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until_rows(ledger, ROWS + 50)
            await until_agreed(ledger, exchange)
        assert_whole(ledger, exchange)


async def test_a_connection_that_breaks_in_the_middle_of_an_import_leaves_no_hole(exchange: Pacifica) -> None:
    pages: list[int] = []

    def break_off() -> None:
        pages.append(1)
        if len(pages) in (3, 7):
            exchange.refuse(2, 503)

    exchange.between_pages = break_off
    with Ledger() as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until_rows(ledger, ROWS)
            assert running.health()[0].reconnects >= 2
        assert_whole(ledger, exchange)


IMPORTING: Final = """
import sys, anyio
from ledger import Ledger
from ledger.venues import pacifica
from transports import Feed, live

async def main():
    with Ledger(sys.argv[1]) as ledger:
        async with live(ledger, Feed(pacifica, sys.argv[3], rest_url=sys.argv[2])) as running:
            await running.ended()

anyio.run(main)
"""


@pytest.mark.sqlite
async def test_an_import_that_was_killed_is_finished_by_the_next(exchange: Pacifica, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    pages: list[int] = []
    turned, on = threading.Event(), threading.Event()

    def stall() -> None:
        pages.append(1)
        if len(pages) == 4:
            turned.set()
            on.wait(5)

    exchange.between_pages = stall
    process = subprocess.Popen(  # noqa: ASYNC220 - it is to be killed, by its number, and waited for in a thread
        [sys.executable, "-c", IMPORTING, str(path), exchange.http, exchange.account],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        await until(turned.is_set, 20)
    finally:
        process.send_signal(signal.SIGKILL)
        await anyio.to_thread.run_sync(process.wait)
        on.set()
    with Ledger(path) as ledger:
        assert 300 == len(told(ledger))
        assert not events(ledger, SessionClosed)
        async with live(ledger, feed_of(exchange)):
            await until_rows(ledger, ROWS)
            await until_agreed(ledger, exchange)
        assert_whole(ledger, exchange)


async def test_equal_rows_both_count_however_often_they_are_told() -> None:
    with Pacifica() as exchange, Ledger() as ledger:
        exchange.add_row("5")
        for _ in range(2):
            for amount in ("1", "-1"):
                exchange.add_row(amount, at_ms=exchange.rows[0].created_at + 1)
        async with live(ledger, feed_of(exchange)):
            await until(lambda: len(exchange.requests) >= 3)
            exchange.add_row("-1", at_ms=exchange.rows[-1].created_at)
            await until_agreed(ledger, exchange)
        assert_whole(ledger, exchange)
        assert Decimal(4) == exchange.balance


async def test_a_wallet_without_a_history_is_live_and_its_first_row_is_told() -> None:
    with Pacifica() as exchange, Ledger() as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: "live" == running.health()[0].state)
            exchange.add_row("3", "deposit")
            await until_rows(ledger, 1)  # the account's own balance may say so before
            await until_agreed(ledger, exchange)
        assert_whole(ledger, exchange)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_in_the_middle_of_polling_is_no_end_where_it_passes(status: int) -> None:
    with Pacifica() as exchange, Ledger() as ledger:
        exchange.add_row("3", "deposit")
        async with live(ledger, feed_of(exchange)) as running:
            await until_agreed(ledger, exchange)
            requests = len(exchange.requests)
            await until(lambda: len(exchange.requests) > requests + 2)  # the account has said what it holds
            exchange.refuse(2, status)
            exchange.add_row("4")
            await until_agreed(ledger, exchange)
            await until(lambda: "live" == running.health()[0].state)  # which is said when the row is durable
            assert 2 == running.health()[0].reconnects
