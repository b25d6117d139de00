"""One conversation: what it asks for is done in order, what comes is durable before it is heard, nothing is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct

from ledger import Frame, LeaseLost, Ledger, Lost, Recorded, Rejected, StoreError, Tally
from ledger.events import BalanceDelta, FrameQuarantined, SessionClosed, SessionOpened, Statement
from ledger.intake import Arrival, Intake
from ledger.store import Store
from ledger.venue import (
    Action,
    Begun,
    Conversation,
    Endpoint,
    Heard,
    Hide,
    Listen,
    Open,
    Ready,
    Remember,
    Said,
    Secret,
    Send,
    Wait,
    listen,
)
from projections import Balances
from projections.coverage import Coverages
from tests import scripted
from tests.scripted import delta, says
from tests.wired import Wire, ended, quiet, wired
from transports import Feed, Health, TapeWriter, frames_of, live, open_recording, play, replay, session

ACCOUNT = "speaking:main"
ENDPOINT = Endpoint(
    "wss://venue.example/private?api_key=canary-in-the-query", (("Signature", "canary-header"),)
)


class Speaks:
    """A venue whose conversation is the test's; its frames are scripted events. Without a login."""

    NAME = "speaking"

    def __init__(self, converse: Callable[[Begun], Conversation] | None = None) -> None:
        self._converse = converse or (lambda _: only_open())

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        return [(ACCOUNT, event) for _, event in scripted.decode(frame)]

    def converse(self, login: Any, begun: Begun, /) -> Conversation:
        return self._converse(begun)


class Speaking(Speaks):
    """The same, with one."""

    class Login(Struct, frozen=True, kw_only=True):
        key: Secret = Secret("canary-key-of-test")
        url: str = ""


def only_open() -> Conversation:
    yield Open(ENDPOINT)
    yield Ready()
    while True:
        yield from listen()


def numbered(count: int, first: int = 1) -> list[bytes]:
    return [says(delta(None, {"ADA": str(number)})) for number in range(first, first + count)]


def events(ledger: Ledger, kind: type = object, account: str = ACCOUNT) -> list[Any]:
    return [each.event for each in ledger.replay(account) if isinstance(each.event, kind)]


def payloads(ledger: Ledger, account: str = ACCOUNT) -> list[bytes]:
    """The frames of the account's events, in the order they were stored."""
    return [found for each in ledger.replay(account) if (found := ledger.evidence(each)) is not None]


async def until(done: Callable[[], bool], seconds: float = 5) -> None:
    with anyio.fail_after(seconds):
        while not done():
            await anyio.sleep(0.002)


async def test_frames_are_stored_in_the_order_they_came_and_the_end_says_why() -> None:
    frames = numbered(1000)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(ended(*frames)))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].state == "waiting")
        assert frames == payloads(ledger)
        (closed,) = events(ledger, SessionClosed)
        assert (closed.cause, closed.frames, closed.recorded) == (
            "closed by the venue: 1001 going away",
            1000,
            1000,
        )
        health = running.health()[0]
        assert (health.frames, health.recorded, health.state) == (1000, 1000, "stopped")


async def test_a_frame_is_in_the_ledger_before_the_conversation_hears_of_it() -> None:
    heard: list[tuple[bytes, int]] = []
    frames = numbered(60)
    with Ledger() as ledger:

        def converse(_: Begun) -> Conversation:
            yield Open(ENDPOINT)
            while True:
                frame = yield from listen()
                heard.append((frame.payload, len(payloads(ledger))))

        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(ended(*frames)))
        async with live(ledger, feed):
            await until(lambda: len(heard) == 60)
    assert frames == [payload for payload, _ in heard]
    assert all(stored >= number for number, (_, stored) in enumerate(heard, 1))


async def test_a_conversation_does_one_thing_after_the_other() -> None:
    did: list[object] = []

    def converse(begun: Begun) -> Conversation:
        did.append((begun.account, begun.memory))
        yield Open(ENDPOINT)
        yield Send(b"login")
        frame = yield from listen()
        did.append(frame.payload)
        yield Send(b"subscribe")
        yield Ready()
        yield Wait(0.01)
        yield Send(b"after the wait")
        yield Remember(b"7")

    (hello,) = numbered(1)
    wire = quiet(hello)
    with Ledger() as ledger:
        feed = Feed(Speaking(converse), "desk", login=Speaking.Login(), connect=wired(wire))
        async with live(ledger, feed):
            await until(lambda: len(did) == 3)
    assert [b"login", b"subscribe", b"after the wait"] == wire.sent
    assert [("desk", b""), hello, ("desk", b"7")] == did[:3]


async def test_who_listens_for_so_long_is_told_that_nothing_came_and_goes_on_listening() -> None:
    heard: list[object] = []
    (frame,) = numbered(1)
    wire = quiet()

    def converse(_: Begun) -> Conversation:
        yield Open(ENDPOINT)
        yield Ready()
        while True:
            heard.append((yield Listen(0.02)))

    with Ledger() as ledger:
        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(wire))
        async with live(ledger, feed):
            await until(lambda: len(heard) > 1)
            assert {None} == set(heard)
            wire.inbox.put(frame)
            await until(lambda: any(heard))
    assert [frame] == [each.payload for each in heard if isinstance(each, Heard)]


async def test_frames_that_come_while_a_conversation_waits_are_stored_and_not_heard() -> None:
    heard: list[bytes] = []
    frames = numbered(3)
    wire = quiet(frames[0])

    def converse(_: Begun) -> Conversation:
        yield Open(ENDPOINT)
        yield Wait(0.1)
        while True:
            heard.append((yield from listen()).payload)

    with Ledger() as ledger:
        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(wire))
        async with live(ledger, feed):
            await until(lambda: len(payloads(ledger)) == 1)
            wire.inbox.put(frames[1])
            await anyio.sleep(0.15)
            wire.inbox.put(frames[2])
            await until(lambda: bool(heard))
        assert frames == payloads(ledger)
    assert frames[2:] == heard


async def test_what_a_conversation_remembers_is_given_to_the_next_also_after_a_restart(
    tmp_path: Path,
) -> None:
    given: list[bytes] = []

    def converse(begun: Begun) -> Conversation:
        given.append(begun.memory)
        yield Remember(b"%d" % (int(begun.memory or b"0") + 1))
        yield Open(ENDPOINT)

    restarts: list[int] = []
    for _ in range(2):
        with Ledger(tmp_path / "a.db") as ledger:
            feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(quiet(), quiet()))
            before = len(given)
            restarts.append(before)
            async with live(ledger, feed):
                await until(lambda: len(given) >= before + 3)  # noqa: B023
    assert [b"", b"1", b"2"] == given[:3]
    at = restarts[1]  # what the last conversation before it asked to be remembered may have been too late
    assert int(given[at]) - int(given[at - 1]) in (0, 1)
    assert [b"%d" % (int(given[at]) + more) for more in range(3)] == given[at : at + 3]


async def test_what_was_received_is_stored_when_the_feed_is_stopped() -> None:
    frames = numbered(2000)
    wire = quiet(*frames)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(wire))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames > 0)
            running.stop("stopped: because of a test")
        assert frames == payloads(ledger)
        (closed,) = events(ledger, SessionClosed)
        assert (closed.cause, closed.frames) == ("stopped: because of a test", 2000)


async def test_cancelling_the_host_loses_nothing_either() -> None:
    frames = numbered(1000)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*frames)))
        with anyio.CancelScope() as scope:
            async with live(ledger, feed) as running:
                await until(lambda: running.health()[0].frames > 0)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert frames == payloads(ledger)
        assert ["stopped"] == [closed.cause for closed in events(ledger, SessionClosed)]


class Failing:
    """A store that fails so many times when it is appended to, before or after it stored what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, *, after: bool = False) -> None:
        self.times = times
        append = Store.append

        def fails(store: Store, *args: Any) -> Any:
            if self.times and any(isinstance(each.event, BalanceDelta) for each in args[0]):
                self.times -= 1
                if after:
                    append(store, *args)
                raise StoreError("the disk is full, says the test")
            return append(store, *args)

        monkeypatch.setattr(Store, "append", fails)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_store_that_fails_is_tried_again_and_each_frame_is_stored_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: bool
) -> None:
    monkeypatch.setattr(session, "STORE_RETRY_S", 0.005)
    failing = Failing(monkeypatch, 3, after=after)
    frames = numbered(600)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*frames)), tapes=tmp_path)
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 600)
            assert running.health()[0].reason == ""
        assert failing.times == 0
        assert frames == payloads(ledger)
        assert 1 == len(events(ledger, SessionOpened)) == len(events(ledger, SessionClosed))
    (tape,) = tmp_path.iterdir()
    assert frames == list(frames_of(tape))


async def test_a_feed_is_not_live_while_the_store_fails_and_live_again_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "STORE_RETRY_S", 0.005)
    failing = Failing(monkeypatch, 1_000_000)
    write = Store.write

    def writes(store: Store, *args: Any) -> None:
        if failing.times or not feed.health.frames:
            raise StoreError("the disk is full, says the test")
        write(store, *args)

    def converse(_: Begun) -> Conversation:
        yield Open(ENDPOINT)
        yield Ready()
        yield Wait(0.03)
        yield Remember(b"while the store fails")
        yield Wait(0.01)
        remembered.set()
        while True:
            yield from listen()

    remembered = threading.Event()
    feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(quiet(*numbered(5))))
    with Ledger() as ledger:
        monkeypatch.setattr(Store, "write", writes)
        async with live(ledger, feed):
            await until(lambda: feed.health.state == "waiting")
            assert "the store: the disk is full, says the test" == feed.health.reason
            await anyio.sleep(0.06)
            assert "waiting" == feed.health.state
            failing.times = 0
            await until(remembered.is_set)
            assert ("live", "", 5) == (feed.health.state, feed.health.reason, feed.health.frames)


async def test_frames_that_cannot_be_stored_in_time_are_counted_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "STORE_RETRY_S", 0.005)
    Failing(monkeypatch, 1_000_000)
    seen: list[Health] = []

    async def run(ledger: Ledger) -> None:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*numbered(10))))
        async with live(ledger, feed, drain_s=0.05) as running:
            await until(lambda: "disk is full" in running.health()[0].reason)
            running.stop()
            await running.ended()
            seen.extend(running.health())

    with Ledger() as ledger:
        with pytest.raises(StoreError, match="10 frames were received and are not stored"):
            await run(ledger)
        assert seen[0].unstored == 10
        assert seen[0].reason == "10 frames received are not stored: the disk is full, says the test"


async def test_a_venue_that_does_not_accept_us_in_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "READY_S", 0.05)

    def converse(_: Begun) -> Conversation:
        yield Open(ENDPOINT)
        while True:
            yield from listen()

    with Ledger() as ledger:
        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(quiet()))
        async with live(ledger, feed):
            await until(lambda: bool(events(ledger, SessionClosed)))
        assert events(ledger, SessionClosed)[0].cause == "the venue did not accept us within 0 s"


async def test_a_silent_connection_is_pinged_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PING_S", 0.02)
    monkeypatch.setattr(session, "DEAD_S", 100.0)
    wire = quiet()
    wire.silent = 50.0
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(wire))
        async with live(ledger, feed):
            await until(lambda: wire.pings >= 2)
            assert [] == events(ledger, SessionClosed)
            wire.silent = 123.0
            await until(lambda: bool(events(ledger, SessionClosed)))
        assert events(ledger, SessionClosed)[0].cause == "not a byte for 123 s"


@pytest.mark.parametrize(("silent_s", "heard_s"), [(0, 50), (31, 19), (45, 10), (3600, 10)])
async def test_nobody_listened_since_the_last_byte_of_a_connection_that_is_lost(
    silent_s: float, heard_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened at 0 s, a frame at 10 s, found out at 50 s."""
    monkeypatch.setattr(session, "PING_S", 0.02)
    clock = [1_790_000_000_000_000_000]
    start_ns = clock[0]
    wire = Wire(lambda: clock[0])
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(wire), now_ns=lambda: clock[0])
        async with live(ledger, feed):
            await until(lambda: feed.health.state == "live")
            clock[0] = start_ns + 10 * 1_000_000_000
            wire.inbox.put(says(delta(None, {"ADA": "1"})))
            await until(lambda: feed.health.frames == 1)
            clock[0] = start_ns + 50 * 1_000_000_000
            wire.silent = silent_s
            wire.inbox.end(Lost("reset"))
            await until(lambda: bool(events(ledger, SessionClosed)))
        (closed,) = events(ledger, SessionClosed)
        assert start_ns + heard_s * 1_000_000_000 == closed.source.received_ns
        (row,) = Coverages(ledger).rows(ACCOUNT)
        assert start_ns + heard_s * 1_000_000_000 == row.until_ns


async def test_a_defect_of_a_conversation_is_told_by_its_kind_and_place_and_costs_no_frame(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    frames = numbered(5)

    def converse(_: Begun) -> Generator[Action, Said, None]:
        yield Open(ENDPOINT)
        yield from listen()
        raise KeyError("canary-of-a-defect")

    with Ledger() as ledger:
        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(quiet(*frames)))
        async with live(ledger, feed):
            await until(lambda: bool(events(ledger, SessionClosed)))
        assert frames == payloads(ledger)
        cause = events(ledger, SessionClosed)[0].cause
    assert cause.startswith("a defect: KeyError in test_session.py:")
    assert "canary" not in caplog.text + cause


async def test_secrets_are_taken_out_of_frames_causes_and_tapes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = (b"canary-key-of-test", b"canary-header", b"canary-hidden")
    frames = [b'{"echo":"%s"}' % word for word in said]

    def converse(_: Begun) -> Conversation:
        yield Hide("canary-hidden")
        yield Open(ENDPOINT)
        for _word in said:
            yield from listen()
        raise Lost("it said canary-hidden and canary-key-of-test")

    with Ledger(tmp_path / "a.db") as ledger:
        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(quiet(*frames)), tapes=tmp_path)
        async with live(ledger, feed) as running:
            await until(lambda: bool(events(ledger, SessionClosed)))
            told = repr((running.health(), feed, ENDPOINT, Speaking.Login()))
        assert [b'{"echo":"[redacted]"}'] * 3 == payloads(ledger)
        assert 3 == len(events(ledger, FrameQuarantined))
    for path in tmp_path.iterdir():
        assert b"canary" not in path.read_bytes(), path.name
    assert "canary" not in told + caplog.text


async def test_a_clock_that_goes_back_does_not_make_what_is_said_late() -> None:
    clock = iter([10_000, 9_000, 8_000])
    now = scripted.RECEIVED_NS

    def backwards() -> int:
        return now + next(clock, 1_000)

    frames = numbered(3)
    wire = Wire(backwards)
    for frame in frames:
        wire.inbox.put(frame)
    wire.inbox.end(Lost("over"))
    with Ledger() as ledger:
        with ledger.intake(Speaking(), "main", opened_ns=now + 50_000, now_ns=lambda: now + 50_000):
            pass
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(wire), now_ns=lambda: now)
        async with live(ledger, feed):
            await until(lambda: len(payloads(ledger)) == 3)
        times = [each.event.source.received_ns for each in ledger.replay(ACCOUNT)]
    assert sorted(times) == times


async def test_frames_read_late_do_not_make_what_is_said_late_where_the_clock_was_ahead() -> None:
    class Later(Speaking):
        def decode(self, frame: Frame, /) -> Sequence[Statement]:
            return []

    now, ahead = scripted.RECEIVED_NS, scripted.RECEIVED_NS + 60 * 1_000_000_000
    wire = Wire(lambda: now)
    wire.inbox.put(says(delta(None, {"ADA": "2"})))
    with Ledger() as ledger:
        with ledger.intake(Speaking(), "main", opened_ns=now, now_ns=lambda: now) as intake:
            intake.receive_all([(b"\xff", now)] * 3)
        with ledger.intake(Speaking(), "main", opened_ns=ahead, now_ns=lambda: ahead) as intake:
            intake.receive(says(delta(None, {"ADA": "1"})))
        for version in (2, 3, 4):
            assert "known" == ledger.retry([Later()], ACCOUNT, version, now_ns=lambda: now).result
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(wire), now_ns=lambda: now)
        async with live(ledger, feed):
            await until(lambda: feed.health.frames == 1)
        assert ["2"] == [row.total for row in Balances(ledger).rows(ACCOUNT)]


async def test_a_tape_read_back_gives_the_same_events_as_the_live_feed(tmp_path: Path) -> None:
    frames = [*numbered(20), b"not readable", *numbered(20, 21)]
    with Ledger() as ledger, Ledger() as again:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(ended(*frames)), tapes=tmp_path)
        async with live(ledger, feed):
            await until(lambda: bool(events(ledger, SessionClosed)))
        (tape,) = tmp_path.iterdir()
        with open_recording(tape) as recording:
            assert ("speaking", "main") == (recording.venue, recording.account)
            with again.intake(
                Speaking(), "main", session=recording.session, opened_ns=recording.opened_ns
            ) as intake:
                play(recording, intake)

        def said(found: Ledger) -> list[Recorded]:
            return list(found.replay(ACCOUNT))

        assert said(ledger) == said(again)
        assert payloads(ledger) == payloads(again)


async def test_a_rejection_carries_no_frame_and_leaves_no_session() -> None:
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(Rejected("HTTP 401")))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].state == "waiting")
            assert running.health()[0].reason == "HTTP 401"
        assert [] == events(ledger)


async def test_what_came_before_the_session_could_be_opened_is_stored_all_the_same() -> None:
    frames = numbered(3)
    with Ledger() as ledger:
        opening = ledger.intake
        begun = threading.Event()

        def slow(*args: Any, **more: Any) -> Any:
            begun.set()
            time.sleep(0.05)
            return opening(*args, **more)

        ledger.intake = slow  # type: ignore[method-assign]
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*frames)))
        async with live(ledger, feed) as running:
            await until(begun.is_set)
            running.stop()
        assert frames == payloads(ledger)


def test_what_was_heard_is_shown_without_its_bytes() -> None:
    assert "canary" not in repr(Send(b"canary")) + repr(Hide("canary")) + repr(ENDPOINT)
    assert Heard(b"x", 1) == Heard(b"x", 1)


async def test_a_store_that_fails_at_the_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [StoreError("disk I/O error, once")]

    def last(ledger: Ledger, account: str) -> Recorded | None:
        if failures:
            raise failures.pop()
        return None

    monkeypatch.setattr(Ledger, "last", last)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*numbered(2))))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 2)


async def test_a_tape_that_cannot_be_ended_ends_no_feed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TapeWriter, "close", full)
    with Ledger() as ledger:
        feed = Feed(
            Speaking(),
            login=Speaking.Login(),
            connect=wired(ended(*numbered(2)), quiet(*numbered(2, 3))),
            tapes=tmp_path,
        )
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 4)
        assert 2 == len(events(ledger, SessionClosed))


async def test_what_cannot_be_stored_for_any_reason_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append = Store.append

    def out_of_memory(store: Store, *args: Any) -> Any:
        if any(isinstance(each.event, BalanceDelta) for each in args[0]):
            raise MemoryError
        return append(store, *args)

    monkeypatch.setattr(Store, "append", out_of_memory)
    seen: list[Health] = []

    async def run(ledger: Ledger) -> None:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*numbered(10))))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].unstored == 10)
            seen.extend(running.health())

    with Ledger() as ledger, pytest.raises(StoreError, match="10 frames were received and are not stored"):
        await run(ledger)
    assert "speaking:main: 10 frames received are not stored: a defect: MemoryError" == caplog.messages[-1]


async def test_what_was_lost_with_the_lease_is_told_at_the_end_though_the_feed_was_live_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append = Store.append
    feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*numbered(10)), quiet()))

    def lost(store: Store, *args: Any) -> Any:
        if any(isinstance(each.event, BalanceDelta) for each in args[0]):
            raise LeaseLost("another process feeds it")
        return append(store, *args)

    monkeypatch.setattr(Store, "append", lost)
    why = "10 frames received are not stored: another process feeds it"

    async def run(ledger: Ledger) -> None:
        async with live(ledger, feed):
            await until(lambda: (feed.health.state, feed.health.reconnects) == ("live", 1))
            assert ("", why) == (feed.health.reason, feed.health.loss)

    with Ledger() as ledger, pytest.raises(StoreError, match="10 frames were received and are not stored"):
        await run(ledger)
    assert ("stopped", why, 10, 1) == (
        feed.health.state,
        feed.health.reason,
        feed.health.unstored,
        feed.health.reconnects,
    )


async def test_a_clock_behind_that_of_who_fed_meanwhile_does_not_make_what_is_said_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, lease = Store.append, Ledger.lease
    now, ahead = scripted.RECEIVED_NS, scripted.RECEIVED_NS + 60 * 1_000_000_000
    leases: list[str] = []

    def refused(store: Store, *args: Any) -> Any:
        if len(leases) == 1 and any(isinstance(each.event, BalanceDelta) for each in args[0]):
            raise LeaseLost("another process feeds it")
        return append(store, *args)

    def had_by_another(ledger: Ledger, account: str) -> bool:
        leases.append(account)
        if len(leases) == 2:
            with ledger.intake(Speaking(), "main", opened_ns=ahead, now_ns=lambda: ahead) as intake:
                intake.receive(says(delta(None, {"ADA": "2"})))
        return lease(ledger, account)

    monkeypatch.setattr(Store, "append", refused)
    monkeypatch.setattr(Ledger, "lease", had_by_another)
    wires = [Wire(lambda: now), Wire(lambda: now)]
    for wire, amount in zip(wires, ("1", "3"), strict=True):
        wire.inbox.put(says(delta(None, {"ADA": amount})))
    feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(*wires), now_ns=lambda: now)

    async def run(ledger: Ledger) -> None:
        async with live(ledger, feed):
            await until(lambda: feed.health.frames == 1)

    with Ledger() as ledger:
        with pytest.raises(StoreError, match="1 frames were received and are not stored"):
            await run(ledger)
        assert ["3"] == [row.total for row in Balances(ledger).rows(ACCOUNT)]


@pytest.mark.parametrize(("frames_max", "bytes_max"), [(2, 1 << 20), (1 << 20, 2)])
async def test_no_batch_that_is_tried_again_has_more_frames_or_bytes_than_a_commit(
    monkeypatch: pytest.MonkeyPatch, frames_max: int, bytes_max: int
) -> None:
    """The last one is whole: a frame is never cut."""
    frames = numbered(5)
    monkeypatch.setattr(session, "BATCH_FRAMES_MAX", frames_max)
    monkeypatch.setattr(session, "BATCH_BYTES_MAX", bytes_max * len(frames[0]))
    batches: list[list[bytes]] = []
    straight = Intake.receive_all

    def receive_all(intake: Intake, arrivals: Iterable[Arrival]) -> Tally:
        batch = list(arrivals)
        batches.append([arrival[0] for arrival in batch])
        return straight(intake, batch)

    monkeypatch.setattr(Intake, "receive_all", receive_all)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*frames)))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 5)
        assert frames == payloads(ledger)
    assert [frames[:2], frames[2:4], frames[4:]] == batches


async def test_a_clock_that_was_ahead_once_signs_no_login_of_tomorrow() -> None:
    told: list[int] = []
    now = scripted.RECEIVED_NS

    def converse(begun: Begun) -> Conversation:
        told.append(begun.now_ns)
        yield Open(ENDPOINT)

    with Ledger() as ledger:
        with ledger.intake(Speaking(), "main", opened_ns=2 * now, now_ns=lambda: 2 * now):
            pass
        feed = Feed(Speaking(converse), login=Speaking.Login(), connect=wired(quiet()), now_ns=lambda: now)
        async with live(ledger, feed):
            await until(lambda: bool(told))
    assert now == told[0]


async def test_a_recording_that_is_over_is_not_played_again(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"not readable\n" * 3)
    with Ledger() as ledger:
        async with live(ledger, Feed(Speaking(), connect=replay(path))) as running:
            with anyio.fail_after(5):
                await running.ended()
            assert ("stopped", "end", 3) == (
                running.health()[0].state,
                running.health()[0].reason,
                running.health()[0].frames,
            )
        assert 1 == len(events(ledger, SessionOpened))


async def test_a_store_that_stored_and_then_answers_nothing_is_asked_again_and_nothing_is_doubled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither whether it was stored nor what the last one was can be read back when it fails."""
    monkeypatch.setattr(session, "STORE_RETRY_S", 0.005)
    failing = Failing(monkeypatch, 1, after=True)
    last_ordinal = Store.last_ordinal

    def unreadable(store: Store, name: str) -> int:
        if not failing.times:
            raise StoreError("disk I/O error, says the test")
        return last_ordinal(store, name)

    monkeypatch.setattr(Store, "last_ordinal", unreadable)
    frames = numbered(300)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*frames)))
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 300)
        assert frames == payloads(ledger)
        assert 1 == len(events(ledger, SessionClosed))


async def test_a_conversation_that_is_not_on_tape_says_so_also_when_it_is_live(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TapeWriter, "frames", full)
    with Ledger() as ledger:
        feed = Feed(Speaking(), login=Speaking.Login(), connect=wired(quiet(*numbered(3))), tapes=tmp_path)
        async with live(ledger, feed) as running:
            await until(lambda: running.health()[0].frames == 3)
            assert ("live", "No space left on device") == (
                running.health()[0].state,
                running.health()[0].untaped,
            )
        assert "No space left on device" == running.health()[0].untaped
