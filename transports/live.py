"""Feeds kept live: one conversation after the other, until they are stopped or their venue refuses them.

Knows feeds and when to try again; one that ends takes no other with it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import anyio
from anyio import CancelScope

from ledger.account import Recorded
from ledger.errors import (
    BadLogin,
    ConversationError,
    Corrupt,
    LeaseLost,
    LedgerError,
    ReadOnly,
    Rejected,
    StoreError,
)
from ledger.ledger import Ledger
from transports.connection import interrupt_in, leaves
from transports.feed import Feed, Health, log
from transports.session import DRAIN_S, STORE_RETRY_S, Session, Stopping
from transports.writer import Writer

BACKOFF_S: Final = 0.25
BACKOFF_S_MAX: Final = 30.0
PAUSE_S: Final = 0.05
"""The least pause between two attempts: no nonce is made twice in one millisecond."""
HEALTHY_S: Final = 30.0
"""How long a conversation must have been live for the next backoff to begin anew, and its login to be known for right
(s)."""
REJECTIONS_MAX: Final = 3
REJECTED_S_MAX: Final = 3600.0
"""How long a login may be refused that was known for right (s): a venue that restarts rejects everybody."""
STANDBY_S: Final = 1.0
"""How often a standby asks whether the account is to be fed by it now (s)."""
REJECTED_S: Final = 1.0
"""The least pause after a rejection (s), times their number in a row: a venue that restarts rejects everybody."""


class Live:
    """Feeds that run: how they are, and how to stop them."""

    def __init__(self, ledger: Ledger, feeds: Sequence[Feed], drain_s: float, writer: Writer) -> None:
        self._ledger = ledger
        self._feeds = feeds
        self._writer = writer
        """One thread writes; not one of those the host's own work may use up."""
        self._stopping = Stopping(drain_s)
        self._scopes: list[CancelScope] = []
        self._running = len(feeds)
        self._ended = anyio.Event()
        if not feeds:
            self._ended.set()

    def health(self) -> list[Health]:
        """How each feed is, in the order they were given. From any thread."""
        return [feed.health for feed in self._feeds]

    def stop(self, cause: str = "stopped") -> None:
        """Stop them: what was received is stored within the deadline, and `SessionClosed` says `cause`."""
        self._stopping.begin(cause)
        self._ledger.give_up_at(self._stopping.deadline, self)
        for scope in self._scopes:
            scope.cancel()

    async def ended(self) -> None:
        """Return when every feed has ended: stopped, or refused by its venue."""
        await self._ended.wait()

    async def _run(self, feed: Feed) -> None:
        try:
            with CancelScope() as scope:
                self._scopes.append(scope)
                if self._stopping.deadline is None:
                    await _keep(feed, self._ledger, self._writer, self._stopping)
        except LedgerError as error:
            feed.note(state="failed", reason=str(error))
        except Exception as error:  # its text may hold anything: its kind is told
            log.error("%s: a defect: %s", feed.name, type(error).__name__)
            feed.note(state="failed", reason=f"a defect: {type(error).__name__}")
        finally:
            health = feed.health
            if health.state not in ("refused", "failed", "stopped"):
                reason = health.loss or self._stopping.cause
                if health.state == "standby":
                    reason = f"{reason}; stood by: another process feeds it"
                elif not health.session and health.reason:
                    reason = f"{reason}; never live: {health.reason}"
                feed.note(state="stopped", reason=reason, standby=health.state == "standby")
            await self._writer.ask(partial(_release, feed, self._ledger)).done()  # before it is taken again
            self._running -= 1
            if not self._running:
                self._ended.set()


@asynccontextmanager
async def live(ledger: Ledger, *feeds: Feed, drain_s: float = DRAIN_S) -> AsyncGenerator[Live]:
    """Run feeds into a ledger while the body runs, in the event loop of the caller (trio or asyncio).

    A feed that ends takes no other with it. On the way out what was received is stored, for `drain_s` at most. Raises
    BadLogin where two feeds are of one account, and ReadOnly; at the end StoreError where frames that were received are
    not stored.
    """
    if ledger.read_only:
        raise ReadOnly(f"{ledger.name}: feeds need a ledger that is not opened read_only")
    names = [feed.name for feed in feeds]
    if len(set(names)) != len(names):
        raise BadLogin(f"two feeds of one account: {', '.join(sorted(names))}")
    raised: BaseException | None = None
    try:
        with Writer() as writer:
            running = Live(ledger, feeds, drain_s, writer)
            try:
                async with anyio.create_task_group() as tasks:
                    for feed in feeds:
                        tasks.start_soon(running._run, feed, name=feed.name)
                    try:
                        yield running
                    except BaseException as error:
                        raised = error
                        raise
                    finally:
                        running.stop()
            finally:
                ledger.give_up_at(None, running)  # it may outlive its feeds
    except BaseExceptionGroup as group:
        interrupt = interrupt_in(group)
        if interrupt is not None and (raised is None or interrupt not in leaves(raised)):
            raised = interrupt  # it struck a feed
        if raised is None or isinstance(raised, anyio.get_cancelled_exc_class()):
            raise
    if raised is not None:
        raise raised  # as it was, not in a group
    lost = sum(feed.health.unstored for feed in feeds)
    if lost:
        raise StoreError(f"{ledger.name}: {lost} frames were received and are not stored; the log says why")


def _backoff_s(attempts: int) -> float:
    """Full jitter: anything up to a bound that doubles (AWS Architecture Blog, "Exponential Backoff And Jitter")."""
    return random.uniform(0, min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** min(attempts, 16)))


def _last_heard(ledger: Ledger, account: str) -> Recorded | None:
    """The last event of an account but those of frames that were read late: they say when those came, long ago."""
    last = ledger.last(account)
    while last is not None and last.event.source.late_ns is not None:
        last = next(ledger.replay(account, after=last.version - 2, upto=last.version - 1), None)
    return last


async def _last(feed: Feed, ledger: Ledger, writer: Writer) -> Recorded | None:
    """The last event of the account that was heard; a store that fails now may not fail the next time."""
    while True:
        try:
            return await writer.do(partial(_last_heard, ledger, feed.name))
        except Corrupt:
            raise
        except StoreError as error:
            feed.note(state="waiting", reason=f"the store: {error}")
        await anyio.sleep(STORE_RETRY_S)


async def _stand_by(feed: Feed, ledger: Ledger, writer: Writer) -> None:
    """Return when the account is ours to feed; another process may feed it, until it ends."""
    while True:
        try:
            if await writer.do(partial(ledger.lease, feed.name)):
                return
            feed.note(state="standby", reason="another process feeds this account")
        except ReadOnly:
            raise
        except StoreError as error:
            feed.note(state="waiting", reason=f"the store: {error}")
        await anyio.sleep(STANDBY_S)


def _release(feed: Feed, ledger: Ledger) -> None:
    """Let another process feed the account; that the store cannot be reached now is no matter: the lease ends too."""
    with suppress(LedgerError):
        ledger.release(feed.name)


async def _keep(feed: Feed, ledger: Ledger, writer: Writer, stopping: Stopping) -> None:
    """Be live until cancelled, or until the venue has refused the login three times in a row; where it had accepted it
    before, for an hour."""
    feed.begin(None)
    await _stand_by(feed, ledger, writer)
    feed.begin(await _last(feed, ledger, writer))
    attempts = rejections = 0
    accepted, rejected_at = False, 0.0
    while True:
        feed.note(state="connecting")
        session = Session(feed, ledger, writer, stopping)
        error = await session.run()
        if isinstance(error, LeaseLost):
            log.warning("%s: %s", feed.name, error)
            await _stand_by(feed, ledger, writer)
            feed.go_on_from(await _last(feed, ledger, writer))
            feed.note(reconnects=feed.health.reconnects + 1)
            continue
        if session.ready_at is not None and anyio.current_time() - session.ready_at >= HEALTHY_S:
            attempts = rejections = 0
            accepted = True
        if isinstance(error, Rejected):
            rejected_at = rejected_at if rejections else anyio.current_time()
            rejections += 1
        elif session.ready_at is not None:
            rejections = 0
        passing = accepted and anyio.current_time() - rejected_at < REJECTED_S_MAX
        if (rejections >= REJECTIONS_MAX and not passing) or not isinstance(error, ConversationError):
            refused = isinstance(error, Rejected | BadLogin)
            feed.note(state="refused" if refused else "failed", reason=feed.health.loss or str(error))
            return
        if error.final:
            feed.note(state="stopped", reason=feed.health.loss or str(error))
            return
        rejected_s = min(rejections * REJECTED_S, BACKOFF_S_MAX)
        pause_s = max(PAUSE_S, error.retry_after_s, _backoff_s(attempts), rejected_s)
        attempts += 1
        feed.note(state="waiting", reason=str(error))
        log.info("%s: connects again in %.1f s", feed.name, pause_s)
        await anyio.sleep(pause_s)
        feed.note(reconnects=feed.health.reconnects + 1)
