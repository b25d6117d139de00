"""A disk that is slow, bursts, and frames that cannot be read: nothing is dropped, memory is bounded, pings are
answered, and nothing waits for what it need not wait for.

`python -m tests.test_slow_disk` prints how soon the frame after an unreadable one is stored: the median of 200.
"""

from __future__ import annotations

import errno
import json
import os
import re
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from anyio import to_thread

from ledger import Ledger
from ledger.events import BalanceEventImported, SessionClosed, SessionOpened
from ledger.intake import BATCH_BYTES_MAX
from ledger.store import Store
from ledger.venues import bitopro, deltadefi, pacifica
from ledger.wire import parse_time, time_text
from projections import Balances, Fills, Gaps
from tests.exchanges import BitoPro, DeltaDefi, Pacifica
from transports import Feed, frames_of, live

COMMIT_S: Final = 1.0
"""How long each commit is held."""
FRAME_BYTES: Final = 60_000
FRAMES: Final = 250
PACE_S: Final = 0.01
PONG_S: Final = 0.5
INBOX_BYTES: Final = 2 * 1024 * 1024
"""The bound of the inbox where memory is measured: a tenth of what is sent."""
MARGIN_BYTES: Final = 2 * 1024 * 1024
"""Beside the inbox and the batch in the worker: the queue of the library, frames half read."""
OURS: Final = ("*/transports/*", "*/websockets/*", "*/trio_websocket/*")
"""Whose memory frames are received in. The exchange, in the same process, uses none of these."""
TRIALS: Final = 200
BITOPRO: Final = "bitopro:main"
DELTADEFI: Final = "deltadefi:main"


def bitopro_feed(exchange: BitoPro) -> Feed:
    return Feed(
        bitopro, identity=exchange.identity, key=exchange.key, secret=exchange.secret, url=exchange.ws
    )


def deltadefi_feed(exchange: DeltaDefi) -> Feed:
    return Feed(deltadefi, key=exchange.api_key, url=exchange.ws, rest_url=exchange.http)


def held(monkeypatch: pytest.MonkeyPatch, seconds: float, commits: list[float] | None = None) -> None:
    """Every commit takes so much longer; when each began is put into `commits`."""
    append = Store.append

    def slow(store: Store, events: Sequence[Any], evidence: Sequence[Any], *rest: Any) -> Any:
        if commits is not None:
            commits.append(time.monotonic())
        if evidence:
            time.sleep(seconds)
        return append(store, events, evidence, *rest)

    monkeypatch.setattr(Store, "append", slow)


def stuck(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No commit ends before the event is set."""
    go_on = threading.Event()
    append = Store.append

    def wait(store: Store, events: Sequence[Any], evidence: Sequence[Any], *rest: Any) -> Any:
        if evidence:
            go_on.wait(20)
        return append(store, events, evidence, *rest)

    monkeypatch.setattr(Store, "append", wait)
    return go_on


def payloads(ledger: Ledger, account: str) -> list[bytes]:
    """The frames of an account, in the order they were stored, each once however many events it made."""
    found: dict[tuple[str, int], bytes] = {}
    for each in ledger.replay(account):
        payload = ledger.evidence(each)
        if payload is not None:
            found[each.event.source.session, each.event.source.ordinal] = payload
    return list(found.values())


async def until(done: Callable[[], bool], seconds: float = 20) -> None:
    with anyio.fail_after(seconds):
        while not done():
            await anyio.sleep(0.001)


def large(number: int) -> str:
    """A message of 60 KB that cannot be read, and is kept all the same."""
    return json.dumps({"event": f"UNKNOWN-{number}", "filler": "x" * FRAME_BYTES})


@pytest.mark.few(0)
async def test_a_held_commit_holds_neither_pings_nor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pongs: list[float] = []
    commits: list[float] = []
    over = threading.Event()
    sent = [large(number) for number in range(FRAMES)]

    def ping(exchange: BitoPro) -> None:
        while not over.is_set():
            pongs.append(exchange.ping(5))
            time.sleep(0.05)

    with BitoPro(ping_every_s=None) as exchange, Ledger() as ledger:
        exchange.set("BTC", "1.5")
        async with live(ledger, bitopro_feed(exchange)) as running, anyio.create_task_group() as tasks:
            await until(lambda: running.health()[0].frames == 1)
            held(monkeypatch, COMMIT_S, commits)
            tasks.start_soon(to_thread.run_sync, ping, exchange)
            for message in sent:
                exchange.send_all(message)
                await anyio.sleep(PACE_S)
            at_the_end = running.health()[0].frames
            await until(lambda: running.health()[0].frames == FRAMES + 1)
            over.set()
            assert at_the_end < FRAMES, "the disk was not slow"
            assert running.health()[0].reconnects == 0
        assert [each.encode() for each in sent] == payloads(ledger, BITOPRO)[1:]
    assert 3 <= len(commits)
    assert len(pongs) >= 20
    assert max(pongs) < PONG_S, f"a pong took {max(pongs):.3f} s"


async def test_what_waits_for_the_disk_is_bounded_and_the_venue_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transports.connection.INBOX_BYTES_MAX", INBOX_BYTES)
    with BitoPro(ping_every_s=None) as exchange, Ledger() as ledger:
        async with live(ledger, bitopro_feed(exchange)) as running:
            await until(lambda: running.health()[0].frames == 1)
            go_on = stuck(monkeypatch)
            sent = [large(number) for number in range(400)]
            tracemalloc.start()
            try:
                for message in sent:
                    exchange.send_all(message)
                (served,) = exchange.live
                left = -1
                while left != (left := len(served._out)):  # until nothing more is taken off it
                    await anyio.sleep(0.3)
                filters = [tracemalloc.Filter(True, each) for each in OURS]
                traces = tracemalloc.take_snapshot().filter_traces(filters)
            finally:
                tracemalloc.stop()
                go_on.set()
            await until(lambda: running.health()[0].frames == 401)
            assert running.health()[0].reconnects == 0
        assert [each.encode() for each in sent] == payloads(ledger, BITOPRO)[1:]
    assert left > 5 * FRAME_BYTES, "the venue did not have to wait"
    ours = sum(each.size for each in traces.statistics("filename"))
    assert FRAME_BYTES < ours < INBOX_BYTES + BATCH_BYTES_MAX + MARGIN_BYTES, f"{ours / 1e6:.1f} MB"


async def test_a_store_that_gives_no_answer_is_told_until_it_gives_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transports.session.STALLED_S", 0.3)
    monkeypatch.setattr("transports.session.PING_S", 0.4)  # and so it is looked each tenth of a second
    with BitoPro() as exchange, Ledger() as ledger:
        async with live(ledger, bitopro_feed(exchange)) as running:
            await until(lambda: running.health()[0].frames == 1)
            await anyio.sleep(1)
            assert ("live", "") == (running.health()[0].state, running.health()[0].reason)
            go_on = stuck(monkeypatch)
            exchange.set("BTC", "2.5")
            await until(lambda: running.health()[0].state == "waiting")
            assert re.fullmatch(r"the store: no answer for \d+ s", running.health()[0].reason)
            go_on.set()
            await until(lambda: running.health()[0].frames == 2)
            await until(lambda: running.health()[0].state == "live")
            assert "" == running.health()[0].reason
            assert 0 == running.health()[0].reconnects


async def test_the_silence_after_which_a_connection_is_given_up_counts_as_one_in_which_nobody_listened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transports.session.PING_S", 0.2)
    monkeypatch.setattr("transports.session.DEAD_S", 0.8)
    with BitoPro() as exchange, Ledger() as ledger:
        async with live(ledger, bitopro_feed(exchange)) as running:
            await until(lambda: running.health()[0].frames == 1)
            exchange.go_silent()
            silent_ns = time.time_ns()
            exchange.set("BTC", "2.5")
            await until(lambda: any(row.total == "2.5" for row in Balances(ledger).rows(BITOPRO)))
        closed, *_ = (each.event for each in ledger.replay(BITOPRO) if isinstance(each.event, SessionClosed))
        assert re.match("not a byte for", closed.cause)
        assert closed.source.received_ns < silent_ns + 300_000_000
        blind, *_ = Gaps(ledger).rows(BITOPRO)
        assert "blind" == blind.kind
        assert time_text(closed.source.received_ns) == blind.start
        assert parse_time(blind.end) - parse_time(blind.start) > 500_000_000


async def test_a_store_that_gives_no_answer_is_told_of_a_feed_that_only_polls_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transports.session.STALLED_S", 0.3)
    monkeypatch.setattr("ledger.venues.pacifica.POLL_S", 0.5)
    with Pacifica() as exchange, Ledger() as ledger:
        exchange.add_row("1.25")
        feed = Feed(pacifica, exchange.account, rest_url=exchange.http)
        async with live(ledger, feed):
            await until(lambda: feed.health.frames == 2)  # its history, and its account
            go_on = stuck(monkeypatch)
            exchange.add_row("2.5")
            await until(lambda: feed.health.state == "waiting")
            assert re.fullmatch(r"the store: no answer for \d+ s", feed.health.reason)
            go_on.set()
            await until(lambda: feed.health.state == "live")
            assert ("", 0) == (feed.health.reason, feed.health.reconnects)
        assert 2 == len([each for each in ledger.replay() if isinstance(each.event, BalanceEventImported)])


@pytest.mark.sqlite
async def test_a_feed_of_which_nothing_waits_for_the_store_does_not_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transports.session.STALLED_S", 0.3)
    monkeypatch.setattr("transports.session.PING_S", 0.4)
    with BitoPro() as exchange, DeltaDefi() as other, Ledger() as ledger:
        async with live(ledger, bitopro_feed(exchange), deltadefi_feed(other)) as running:
            await until(lambda: all(each.frames for each in running.health()))
            go_on = stuck(monkeypatch)
            exchange.set("BTC", "2.5")
            await until(lambda: running.health()[0].state == "waiting")
            await anyio.sleep(0.5)
            assert ["waiting", "live"] == [each.state for each in running.health()]
            go_on.set()
            await until(lambda: running.health()[0].state == "live")


@pytest.mark.parametrize(("count", "pace_s", "commit_s"), [(1000, 0.0, 0.0), (500, 0.002, 0.005)])
async def test_a_burst_is_stored_whole_and_in_order(
    count: int, pace_s: float, commit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BitoPro() as exchange, Ledger() as ledger:
        async with live(ledger, bitopro_feed(exchange)) as running:
            await until(lambda: running.health()[0].frames == 1)
            held(monkeypatch, commit_s)
            for number in range(count):
                exchange.set("BTC", f"{number}.00000001")
                if pace_s:
                    await anyio.sleep(pace_s)
            await until(lambda: running.health()[0].frames == count + 1)
            health = running.health()[0]
        (served,) = exchange.connections
        assert [str(each).encode() for each in served.sent] == payloads(ledger, BITOPRO)
        assert (health.recorded, health.duplicates, health.quarantined) == (count + 1, 0, 0)
        assert Balances(ledger)[BITOPRO]["BTC"].total == Balances(ledger)[BITOPRO]["BTC"].available
        assert [row.total for row in Balances(ledger).rows(BITOPRO)] == [f"{count - 1}.00000001"]


async def test_three_thousand_fills_at_once_are_stored() -> None:
    with DeltaDefi() as exchange, Ledger() as ledger:
        async with live(ledger, deltadefi_feed(exchange)) as running:
            await until(lambda: running.health()[0].frames == 1)
            fills = [fill for _ in range(150) for fill in exchange.push_fills(20)]
            await until(lambda: running.health()[0].frames == 3001)
            health = running.health()[0]
        assert len(fills) == 3000
        assert fills == [each.fill_id for each in sorted(Fills(ledger).rows(), key=lambda row: row.version)]
        (served,) = exchange.connections
        assert [str(each).encode() for each in served.sent] == payloads(ledger, DELTADEFI)[1:]
        assert (health.recorded, health.duplicates, health.quarantined) == (3001, 0, 0)


async def test_a_tape_without_room_costs_no_frame_and_the_next_conversation_has_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fsync, failures = os.fsync, [1]

    def full(handle: int) -> None:
        if failures:
            failures.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with BitoPro() as exchange, Ledger() as ledger:
        feed = Feed(
            bitopro,
            identity=exchange.identity,
            key=exchange.key,
            secret=exchange.secret,
            url=exchange.ws,
            tapes=tmp_path,
        )
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 1)
            assert [] == list(tmp_path.iterdir())
            exchange.close_all(1001, "")
            await until(lambda: running.health()[0].frames == 2)
        (tape,) = tmp_path.iterdir()
        assert 2 == running.health()[0].recorded + running.health()[0].duplicates
        assert 1 == len(list(frames_of(tape)))


async def test_the_frame_after_an_unreadable_one_is_stored_at_once() -> None:
    with BitoPro() as exchange, Ledger() as ledger:
        took_s = await after_unreadable(exchange, ledger, 20)
        (closed,) = [each.event for each in ledger.replay() if isinstance(each.event, SessionClosed)]
        assert 1 == sum(isinstance(each.event, SessionOpened) for each in ledger.replay())
        assert (closed.frames, closed.recorded, closed.quarantined) == (41, 21, 20)
    assert max(took_s) < 1, took_s


async def after_unreadable(exchange: BitoPro, ledger: Ledger, trials: int) -> list[float]:
    """How long the frame after an unreadable one took, from its sending to the disk (s); each trial on its own."""
    took_s: list[float] = []
    async with live(ledger, bitopro_feed(exchange)) as running:
        await until(lambda: running.health()[0].frames == 1)
        for number in range(trials):
            before = running.health()[0].frames
            exchange.send_all('{"event":"ACCOUNT_BALANCE","data":' + "[" * (number + 1))
            began = time.perf_counter()
            exchange.set("BTC", f"{number}.1")
            with anyio.fail_after(5):
                while running.health()[0].frames < before + 2:
                    await anyio.sleep(0.0002)
            took_s.append(time.perf_counter() - began)
        assert running.health()[0].reconnects == 0
    return took_s


def measure(loop: str, folder: str) -> list[float]:
    """The same on one event loop, into a file."""
    with BitoPro() as exchange, Ledger(f"{folder}/{loop}.db") as ledger:
        return anyio.run(after_unreadable, exchange, ledger, TRIALS, backend=loop)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        for each in ("asyncio", "trio"):
            ms = sorted(1000 * took for took in measure(each, place))
            sys.stdout.write(
                f"{each}: median {statistics.median(ms):.2f} ms, most {ms[-1]:.2f} ms of {len(ms)}\n"
            )
