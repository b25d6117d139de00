"""Feeds kept live: they connect again, obey, give a wrong login up, and take no other with them."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from importlib import import_module
from typing import Final

import anyio
import pytest

from ledger import BadLogin, Ledger, Lost, Rejected
from ledger.events import SessionClosed, SessionOpened
from ledger.intake import Arrival
from ledger.store import Store
from ledger.venue import Begun, Conversation, Ready, Request, Wait, ask
from tests.blast import Peer, Server
from tests.test_session import Speaking, events, numbered, payloads, until
from tests.wired import ended, quiet, wired
from transports import Feed, Inbox, live

KEEPING: Final = import_module("transports.live")


def speaking(*wires: object, account: str = "main") -> Feed:
    return Feed(Speaking(), account, login=Speaking.Login(), connect=wired(*wires))  # type: ignore[arg-type]


async def test_a_feed_connects_again_and_goes_on() -> None:
    frames = numbered(30)
    with Ledger() as ledger:
        feed = speaking(
            ended(*frames[:10]), Lost("connection refused"), ended(*frames[10:20]), quiet(*frames[20:])
        )
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 30)
            assert running.health()[0].state == "live"
            assert running.health()[0].reconnects == 3
        assert frames == payloads(ledger)
        assert 3 == len(events(ledger, SessionOpened)) == len(events(ledger, SessionClosed))


@pytest.mark.few(0)
async def test_a_rejected_login_is_tried_three_times_then_given_up_and_the_others_run_on() -> None:
    asked: list[float] = []

    class Refusing(Speaking):
        def converse(self, login: object, begun: Begun, /) -> Conversation:
            asked.append(time.monotonic())
            if asked:
                raise Rejected("HTTP 401 to the upgrade of wss://venue.example/private")
            yield from ()

    with Ledger() as ledger:
        refused = Feed(Refusing(), "wrong", login=Speaking.Login(), connect=wired())
        well = speaking(quiet(*numbered(3)))
        async with live(ledger, refused, well) as running:
            await until(lambda: running.health()[0].state == "refused")
            await anyio.sleep(0.3)
            first, second = running.health()
            assert (first.reason, len(asked)) == ("HTTP 401 to the upgrade of wss://venue.example/private", 3)
            assert second.state == "live"
        assert ["refused", "stopped"] == [each.state for each in running.health()]
        assert 3 == len(payloads(ledger))


@pytest.mark.few(0)
async def test_rejections_count_in_a_row_only() -> None:
    no = Rejected("HTTP 403")
    with Ledger() as ledger:
        feed = speaking(no, no, ended(*numbered(1)), no, no, quiet(*numbered(1, 2)))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 2, seconds=20)
            assert running.health()[0].state == "live"


@pytest.mark.few(0)
async def test_a_login_that_was_right_before_may_be_refused_for_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KEEPING, "HEALTHY_S", 0.0)
    monkeypatch.setattr(KEEPING, "REJECTED_S", 0.01)
    monkeypatch.setattr(KEEPING, "BACKOFF_S_MAX", 0.02)
    no = Rejected("HTTP 403")
    with Ledger() as ledger:
        async with live(ledger, speaking(ended(*numbered(1)), *[no] * 7, quiet(*numbered(1, 2)))) as running:
            await until(lambda: running.health()[0].frames == 2)
            assert running.health()[0].state == "live"
        monkeypatch.setattr(KEEPING, "REJECTED_S_MAX", 0.0)
        async with live(
            ledger, speaking(ended(*numbered(2, 3)), *[no] * 7, quiet(*numbered(3, 4)))
        ) as running:
            with anyio.fail_after(5):
                await running.ended()
            assert ("refused", 3) == (running.health()[0].state, running.health()[0].reconnects)


async def test_a_login_that_is_refused_after_the_upgrade_is_a_rejected_login_too() -> None:
    unauthorized = [ended() for _ in range(3)]
    for wire in unauthorized:
        wire.inbox = Inbox()
        wire.inbox.end(Rejected("closed by the venue: 4401 unauthorized"))
    with Ledger() as ledger:
        async with live(ledger, speaking(*unauthorized)) as running:
            with anyio.fail_after(5):
                await running.ended()
            assert ("refused", 2) == (running.health()[0].state, running.health()[0].reconnects)
        assert 3 == len(events(ledger, SessionClosed))


async def test_a_venue_that_asks_to_be_left_alone_is_left_alone() -> None:
    with Ledger() as ledger:
        feed = speaking(Lost("HTTP 429", retry_after_s=0.5), quiet(*numbered(1)))
        began = time.monotonic()
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 1)
        assert time.monotonic() - began >= 0.5


async def test_a_request_that_is_put_off_by_the_venue_is_the_reason_until_it_is_answered() -> None:
    def script(peer: Peer) -> None:
        for status in ("200 OK", "429 Too Many Requests", "200 OK"):
            peer.read_head()
            peer.answer(status, "Retry-After: 1800", body=numbered(1)[0])
        peer.wait_for_end()

    def converse(_: Begun) -> Conversation:
        request = Request(server.http + "/history?account=x")
        yield from ask(request)
        yield Ready()
        yield from ask(request)
        yield Wait(0.2)
        yield from ask(request)
        yield Wait(10)

    with Server(script) as server, Ledger() as ledger:
        feed = Feed(Speaking(converse), login=Speaking.Login())
        async with live(ledger, feed):
            await until(lambda: feed.health.reason == "HTTP 429 to GET /history, Retry-After 1800 s")
            await until(lambda: feed.health.frames == 2 and not feed.health.reason)


async def test_the_pauses_are_jittered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []

    def uniform(low: float, high: float) -> float:
        bounds.append(high)
        assert low == 0
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    with Ledger() as ledger:
        async with live(ledger, speaking()) as running:
            await until(lambda: running.health()[0].reconnects >= 9)
    assert [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] == bounds[:9]


async def test_a_bad_login_ends_its_feed_at_once() -> None:
    class Wrong(Speaking):
        def converse(self, login: object, begun: Begun, /) -> Conversation:
            if begun.now_ns:
                raise BadLogin("private_key is not one")
            yield from ()

    with Ledger() as ledger:
        async with live(ledger, Feed(Wrong(), login=Speaking.Login(), connect=wired())) as running:
            with anyio.fail_after(5):
                await running.ended()
            assert ("refused", "private_key is not one") == (
                running.health()[0].state,
                running.health()[0].reason,
            )


async def test_two_feeds_of_one_account_are_refused() -> None:
    with Ledger() as ledger, pytest.raises(BadLogin, match="two feeds of one account: speaking:main"):
        async with live(ledger, speaking(), speaking()):
            pytest.fail("must not run")


@pytest.mark.parametrize("raised", [None, ValueError("the host's own")])
async def test_a_ledger_is_patient_again_when_its_feeds_have_ended(
    raised: ValueError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float | None] = []
    monkeypatch.setattr(Ledger, "give_up_at", lambda _, moment, who: told.append(moment))
    with Ledger() as ledger, suppress(ValueError):
        async with live(ledger):
            if raised is not None:
                raise raised
    assert [False, True] == [moment is None for moment in told]


async def test_feeds_that_have_ended_lift_no_deadline_of_others_in_the_same_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float | None] = []
    monkeypatch.setattr(Store, "give_up_at", lambda _, moment: told.append(moment))
    with Ledger() as ledger:
        async with live(ledger, speaking(), drain_s=50) as first:
            async with live(ledger, speaking(account="other"), drain_s=10):
                first.stop()
                (until_first,) = told
            _, until_second, left = told
            assert None not in (until_first, until_second)
            assert left == until_first != until_second
        assert None is told[-1]


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    error = ValueError("the host's own")

    async def body(ledger: Ledger) -> None:
        async with live(ledger, speaking(quiet(*numbered(5)))) as running:
            await until(lambda: running.health()[0].frames == 5)
            raise error

    with Ledger() as ledger:
        with pytest.raises(ValueError, match="the host's own") as raised:
            await body(ledger)
        assert raised.value is error
        assert 5 == len(payloads(ledger))
        assert ["stopped"] == [closed.cause for closed in events(ledger, SessionClosed)]


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio itself takes it out of its loop
@pytest.mark.parametrize("left", [None, ValueError("the host's own")])
async def test_an_interrupt_that_strikes_a_feed_comes_out_as_it_is(
    anyio_backend: str, left: ValueError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = quiet(*numbered(5))

    async def struck() -> list[Arrival]:
        if wire.inbox.full:
            raise KeyboardInterrupt
        return await wire.inbox.take()

    monkeypatch.setattr(wire, "receive", struck)

    async def body(ledger: Ledger) -> None:
        async with live(ledger, speaking(wire)) as running:
            await until(lambda: running.health()[0].frames == 5)
            monkeypatch.setattr("transports.connection.INBOX_FRAMES_MAX", 0)
            wire.inbox.put(*numbered(1, 6))
            try:
                await anyio.sleep_forever()
            finally:
                if left is not None:
                    raise left

    with Ledger() as ledger:
        with anyio.fail_after(5), pytest.raises(KeyboardInterrupt):
            await body(ledger)
        assert 6 == len(payloads(ledger))
        assert ["stopped"] == [closed.cause for closed in events(ledger, SessionClosed)]


async def test_an_account_is_released_when_its_feed_has_ended_not_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else what takes the lease next, in the same process, would lose it to the release."""
    released: list[str] = []

    def release(_: Ledger, account: str) -> None:
        time.sleep(0.05)
        released.append(account)

    monkeypatch.setattr(Ledger, "release", release)
    with Ledger() as ledger:
        async with live(ledger, speaking(quiet(*numbered(5)))) as running:
            running.stop()
            await running.ended()
            assert ["speaking:main"] == released


async def test_without_feeds_there_is_nothing_to_wait_for() -> None:
    with Ledger() as ledger:
        async with live(ledger) as running:
            assert [] == running.health()
            with anyio.fail_after(1):
                await running.ended()
