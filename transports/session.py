"""One conversation with a venue: what it asks for is done, what comes is stored, and only then does it hear of it.

Knows connections, time and the ledger's intake; knows no venue: what to say is the conversation's (`ledger.venue`),
what a frame means is the ledger's. What arrived while the last commit ran is the next commit: no timer is needed.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup
from msgspec.structs import replace

from ledger.errors import (
    BadTape,
    Conflict,
    ConversationError,
    Corrupt,
    LeaseLost,
    LedgerError,
    Lost,
    ReadOnly,
    Rejected,
    StoreError,
)
from ledger.events import Asked
from ledger.intake import BATCH_BYTES_MAX, BATCH_FRAMES_MAX, Arrival, Intake
from ledger.ledger import Ledger
from ledger.memory import memory_of, remember, row_of
from ledger.venue import (
    Action,
    Ask,
    Conversation,
    Endpoint,
    Heard,
    Hide,
    Listen,
    Open,
    Ready,
    Remember,
    Reply,
    Request,
    Said,
    Send,
    Wait,
    origin_of,
)
from transports import http
from transports.connection import Connection, interrupt_in, leaves
from transports.feed import Feed, Health, log
from transports.redaction import Redaction
from transports.tape import TapeWriter
from transports.writer import Work, Writer

PING_S: Final = 15.0
"""Silence after which the venue is pinged (s)."""
DEAD_S: Final = 30.0
"""Silence after which a connection is given up (s)."""
READY_S: Final = 10.0
"""How long a venue may take to accept us once connected (s)."""
DRAIN_S: Final = 5.0
"""How long a stopping feed may take to store what it received (s)."""
STALLED_S: Final = 5.0
"""How long the store may take for an answer before it is said that it gives none (s)."""
STORE_RETRY_S: Final = 0.2
STORE_RETRY_S_MAX: Final = 5.0
KEEP_S: Final = 1.0
"""How often it is looked whether the account is still ours to feed (s)."""

T = TypeVar("T")


class Stopping:
    """Whether feeds are to stop, why, and until when they may store what they have."""

    def __init__(self, drain_s: float = DRAIN_S) -> None:
        self._drain_s = drain_s
        self.cause = "stopped"
        self.deadline: float | None = None

    def begin(self, cause: str | None = None) -> None:
        """From now on; the first cause counts."""
        if self.deadline is None:
            self.cause = cause or self.cause
            self.deadline = time.monotonic() + self._drain_s

    @property
    def over(self) -> bool:
        """Whether the time is up. From any thread."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class Session:
    """One conversation of a feed, from login to end."""

    def __init__(self, feed: Feed, ledger: Ledger, writer: Writer, stopping: Stopping) -> None:
        self._feed = feed
        self._ledger = ledger
        self._writer = writer
        self._stopping = stopping
        self._redaction = Redaction(feed.secrets)
        self._name: Final = secrets.token_hex(12)
        self._intake: Intake | None = None
        self._tape: TapeWriter | None = None
        self._connection: Connection | None = None
        self._asking: dict[str, http.HttpConnection] = {}
        self._unstored: deque[Arrival] = deque()
        self._taped = 0
        self._storing = threading.Lock()
        self._before: Health | None = None
        """How the feed was before the store failed; None where it does not fail."""
        self._waiting = 0
        """How many of ours wait for the store."""
        self._heard: deque[Heard] = deque()
        self._listening = False
        self._awake = anyio.Event()
        self._idle = anyio.Event()
        self._opened_at: float | None = None
        self._heard_ns = 0
        """When the venue was heard last, by our opening and by its frames (ns since the epoch)."""
        self.ready_at: float | None = None

    async def run(self) -> LedgerError:
        """Converse to the end, which is returned. Only cancellation is raised; in either case nothing that was received
        is given up before the deadline."""
        error: LedgerError | None = None
        try:
            error = await self._run_to_the_end()
            return error
        finally:
            if error is None:
                self._stopping.begin()
            with CancelScope(shield=True):
                await self._finish(self._stopping.cause if error is None else str(error))

    async def _run_to_the_end(self) -> LedgerError:
        try:
            async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
                stack.callback(tasks.cancel_scope.cancel)
                tasks.start_soon(self._watch_store)
                if not self._ledger.in_file:
                    tasks.start_soon(self._keep)
                await self._converse(tasks, stack)
        except BaseExceptionGroup as group:
            return self._told(group)
        except Exception as error:
            return self._told(error)
        return Lost("the conversation is over")

    def _told(self, error: BaseException) -> LedgerError:
        """The one error to tell of several: a defect before all, then what the ledger raises on purpose."""
        if (interrupt := interrupt_in(error)) is not None:
            raise interrupt
        errors = [each for each in leaves(error) if isinstance(each, Exception)]
        known = [each for each in errors if isinstance(each, LedgerError)]
        foreign = [each for each in errors if not isinstance(each, LedgerError)]
        if not errors:
            raise error
        if foreign:  # its text may hold anything, a secret too: its kind and its place are told
            trace = foreign[0].__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = (
                ""
                if trace is None
                else f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            )
            log.error("%s: a defect: %s%s", self._feed.name, type(foreign[0]).__name__, place)
            return Lost(f"a defect: {type(foreign[0]).__name__}{place}")
        told = next((each for each in known if not isinstance(each, Lost)), known[0])
        if isinstance(told, ConversationError):
            kind = Rejected if isinstance(told, Rejected) else Lost
            why = self._redaction.text(str(told))
            told = kind(why, retry_after_s=told.retry_after_s, final=told.final)
        return told

    async def _converse(self, tasks: TaskGroup, stack: AsyncExitStack) -> None:
        """Do what the conversation asks for, one thing after the other."""
        memory = await self._in_thread(partial(memory_of, self._ledger, self._feed.name))
        conversation = self._feed.converse(memory)
        stack.callback(_close, conversation)
        # Where a venue signs with a library that takes long to import, it does so now: not on the host's event loop.
        action = await self._writer.do(partial(next, conversation, None))
        while action is not None:
            said = await self._do(action, tasks, stack)
            try:
                action = conversation.send(said)
            except StopIteration:
                return

    async def _do(self, action: Action, tasks: TaskGroup, stack: AsyncExitStack) -> Said:
        if isinstance(action, Listen):
            return await self._next_heard(action.seconds)
        if not isinstance(action, Send | Ready | Remember | Hide):
            self._stop_listening()
        if isinstance(action, Open):
            await self._open(action.endpoint, tasks, stack)
        elif isinstance(action, Send):
            if self._connection is None:
                raise Lost("nothing is open to send on")
            self._listening = True  # for the answer, which may be here before the next action is
            await self._connection.send(action.payload)
        elif isinstance(action, Ask):
            return await self._ask(action.request, stack)
        elif isinstance(action, Wait):
            if action.reason:
                self._feed.note(reason=self._redaction.text(action.reason))
            await anyio.sleep(action.seconds)
        elif isinstance(action, Ready):
            self.ready_at = anyio.current_time()
            self._before = None
            self._feed.note(state="live", reason="")
        elif isinstance(action, Hide):
            self._redaction.add(action.text)
        else:
            await self._in_thread(partial(self._remember, action.memory))
        return None

    # Connections ---------------------------------------------------------------------------------------------------

    async def _open(self, endpoint: Endpoint, tasks: TaskGroup, stack: AsyncExitStack) -> None:
        self._redaction.add_headers(endpoint.headers)
        self._connection = connection = await stack.enter_async_context(self._feed.connect()(endpoint))
        stack.callback(tasks.cancel_scope.cancel)  # the pump ends before the connection does
        await self._in_thread(self._begin)
        self._opened_at = anyio.current_time()
        self._listening = True
        tasks.start_soon(self._pump, connection)
        tasks.start_soon(self._watch, connection)

    async def _pump(self, connection: Connection) -> None:
        """Store what comes; what is stored is heard. Nothing more is taken while the conversation digests."""
        while True:
            await self._store(await connection.receive())

    async def _watch(self, connection: Connection) -> None:
        """Tell a dead connection from a quiet one, by its last byte; and a venue that does not accept us."""
        pinged_at = anyio.current_time()
        while True:
            await anyio.sleep(min(1.0, PING_S / 4, READY_S / 4))
            now = anyio.current_time()
            if self.ready_at is None and self._opened_at is not None and now - self._opened_at > READY_S:
                raise Lost(f"the venue did not accept us within {READY_S:.0f} s")
            silent_s = connection.silent_s()
            if silent_s >= DEAD_S:
                raise Lost(f"not a byte for {silent_s:.0f} s")
            if silent_s >= PING_S and now - pinged_at >= PING_S:
                pinged_at = now
                await connection.ping()

    async def _ask(self, request: Request, stack: AsyncExitStack) -> Reply:
        self._redaction.add_headers(request.headers)
        asked_ns = self._feed.now_ns()
        try:
            reply = await (await self._asker(request, stack)).ask(request)
        except Lost as error:
            return Reply(0, self._redaction.text(str(error)).encode(), time.time_ns())
        if request.kept and 200 <= reply.status < 300:
            asked = Asked(self._redaction.text(request.line), asked_ns)
            self._unstored.append(self._received((reply.body, self._feed.now_ns(), asked)))
            fresh = 0
            with CancelScope(shield=True):
                await self._in_thread(self._begin)
                intake = self._intake
                assert intake is not None
                before = intake.fresh
                await self._in_thread(self._store_all)
                fresh = intake.fresh - before
            reply = replace(reply, fresh=fresh)
            if self.ready_at is not None:
                self._feed.note(reason="")
        elif request.kept:  # the conversation may wait for long before it asks again, as it was told to
            asked_to_wait = f", Retry-After {reply.retry_after_s:.0f} s" if reply.retry_after_s else ""
            line = self._redaction.text(request.line).partition("?")[0]
            self._feed.note(reason=f"HTTP {reply.status} to {line}{asked_to_wait}")
        return reply

    async def _asker(self, request: Request, stack: AsyncExitStack) -> http.HttpConnection:
        origin = origin_of(request.url)
        if origin not in self._asking:
            connecting = http.connect(Endpoint(origin), tls=self._feed.tls)
            self._asking[origin] = await stack.enter_async_context(connecting)
        return self._asking[origin]

    # What is heard -------------------------------------------------------------------------------------------------

    async def _next_heard(self, seconds: float | None) -> Heard | None:
        with anyio.move_on_after(seconds):
            while not self._heard:
                self._listening = True
                self._idle.set()
                self._awake = anyio.Event()
                await self._awake.wait()
        return self._heard.popleft() if self._heard else None

    def _stop_listening(self) -> None:
        """What comes from now on, the conversation does not want to hear."""
        self._listening = False
        self._heard.clear()
        self._idle.set()

    async def _hear(self, arrivals: Sequence[Arrival]) -> None:
        if self._listening:
            self._heard.extend(Heard(arrival[0], arrival[1]) for arrival in arrivals)
            self._idle = anyio.Event()
            self._awake.set()
            await self._idle.wait()

    # What is stored ------------------------------------------------------------------------------------------------

    async def _store(self, arrivals: Sequence[Arrival]) -> None:
        """Store a batch, whatever is cancelled meanwhile; then let it be heard."""
        stored = [self._received(arrival) for arrival in arrivals]
        self._unstored.extend(stored)
        asked = self._writer.ask(self._store_all)  # before all else: its thread wakes up while we prepare
        with CancelScope(shield=True):
            await self._in_thread(self._store_all, asked)
        await self._hear(stored)

    def _received(self, arrival: Arrival) -> Arrival:
        payload, received_ns, *asked = arrival
        payload = self._redaction(payload)
        if getattr(self._connection, "session", None) is None:  # a recording's times are its own
            received_ns = self._feed.stamp(received_ns)
        self._heard_ns = max(self._heard_ns, received_ns)
        return (payload, received_ns, asked[0] if asked else None)

    async def _in_thread(self, work: Callable[[], T], asked: Work[T] | None = None) -> T:
        """Do what needs the store, in the writer's thread, or wait for what was `asked` of it. A store that fails is
        tried again, until there is no time left: what was received is not given up, nothing more received meanwhile."""
        pause_s = STORE_RETRY_S
        while True:
            self._waiting += 1
            try:
                done = await (self._writer.do(work) if asked is None else asked.done())
                self._note_store(None)
                return done
            except StoreError as error:
                asked = None
                self._note_store(error)
                if self._stopping.over or isinstance(error, ReadOnly | Conflict | Corrupt | LeaseLost):
                    raise
                log.warning("%s: the store fails, is tried again: %s", self._feed.name, error)
            finally:
                self._waiting -= 1
            until = anyio.current_time() + pause_s
            while anyio.current_time() < until and not self._stopping.over:  # noqa: ASYNC110
                await anyio.sleep(min(0.1, pause_s))
            pause_s = min(pause_s * 2, STORE_RETRY_S_MAX)

    async def _watch_store(self) -> None:
        """Tell that the store gives no answer, where we wait for one."""
        while True:
            await anyio.sleep(min(1.0, STALLED_S / 4))
            if self._waiting and (busy_s := self._writer.busy_s()) >= STALLED_S:
                if self._before is None:
                    log.warning("%s: the store gives no answer", self._feed.name)
                self._note_store(StoreError(f"no answer for {busy_s:.0f} s"))

    async def _keep(self) -> None:
        """Find out that another process feeds the account, also where nothing comes that could not be stored."""
        while True:
            await anyio.sleep(KEEP_S)
            if self._intake is not None:
                await self._in_thread(self._intake.keep)

    def _note_store(self, failed: StoreError | None) -> None:
        """Say that nothing can be stored, and nobody knows what becomes of the connection; or that all is as before."""
        before = self._before
        if failed is not None:
            self._before = before or self._feed.health
            self._feed.note(state="waiting", reason=f"the store: {failed}")
        elif before is not None:
            self._before = None
            if self._feed.health.state == "waiting":
                self._feed.note(state=before.state, reason=before.reason)

    def _begin(self) -> None:
        """Open the intake, and the tape; once."""
        with self._storing:
            if self._intake is not None:
                return
            feed = self._feed
            session = getattr(self._connection, "session", None) or self._name
            opened_ns = getattr(self._connection, "opened_ns", None)
            opened_ns = feed.now_ns() if opened_ns is None else opened_ns
            intake = self._ledger.intake(
                feed.venue, feed.account, session=session, opened_ns=opened_ns, now_ns=feed.now_ns
            )
            self._heard_ns = max(self._heard_ns, opened_ns)
            feed.note(session=intake.session)
            if feed.tapes is not None:
                self._begin_tape(feed.tapes, intake.session, opened_ns)
            self._intake = intake

    def _begin_tape(self, folder: Path, session: str, opened_ns: int) -> None:
        path = folder / _tape_name(self._feed.name, session, opened_ns)
        if path.exists():  # a recording played again
            path = path.with_suffix(f".{secrets.token_hex(4)}.tape")
        try:
            self._tape = TapeWriter(
                path,
                venue=self._feed.venue.NAME,
                account=self._feed.account,
                session=session,
                opened_ns=opened_ns,
            )
        except (OSError, BadTape) as error:
            self._give_up_tape(error)

    def _give_up_tape(self, error: OSError | BadTape) -> None:
        """A tape that cannot be written keeps nothing from the ledger: the conversation goes on without it."""
        why = f"{getattr(error, 'strerror', None) or error}"
        log.error("%s: not recorded on tape: %s", self._feed.name, why)
        self._feed.note(untaped=why)
        if self._tape is not None:
            self._tape.abandon()
        self._tape = None

    def _store_all(self) -> None:
        """Store what is waiting, a commit a batch. One thread at a time; what is stored is no longer waiting."""
        with self._storing:
            assert self._intake is not None
            while batch := self._next_batch():
                self._record_on_tape(batch)
                tally = self._intake.receive_all(batch)
                self._taped = 0
                for _ in batch:
                    self._unstored.popleft()
                self._feed.count(tally, batch[-1][1])
                if self._stopping.over:
                    return

    def _record_on_tape(self, batch: Sequence[Arrival]) -> None:
        """Before anything else is done with them; what was tried before is there already."""
        if self._tape is None:
            return
        try:
            self._tape.frames(batch[self._taped :])
            self._taped = len(batch)
        except (OSError, BadTape) as error:
            self._give_up_tape(error)

    def _next_batch(self) -> list[Arrival]:
        """What the intake stores in one commit: tried again, it is known by its place, also where it was stored after
        all and nobody said so."""
        batch: list[Arrival] = []
        size = 0
        for arrival in self._unstored.copy():
            batch.append(arrival)
            size += len(arrival[0])
            if len(batch) == BATCH_FRAMES_MAX or size >= BATCH_BYTES_MAX:
                break
        return batch

    async def _finish(self, cause: str) -> None:
        """Store what was received and not stored yet, and say why it ended."""
        if self._connection is None and self._intake is None and not self._unstored:
            return  # nobody ever answered
        why = "no time was left"
        ended_ns = self._feed.now_ns()
        try:
            if self._connection is not None:
                leftovers = self._connection.leftovers()
                self._unstored.extend(leftovers)  # counted, whatever is wrong with them
                received = [self._received(arrival) for arrival in leftovers]
                for _ in leftovers:
                    self._unstored.pop()
                self._unstored.extend(received)
                # What the venue said after its last byte nobody knows: until then we listened, and no longer.
                ended_ns -= round(self._connection.silent_s() * 1_000_000_000)
            await self._in_thread(self._begin)
            await self._in_thread(self._store_all)
            await self._in_thread(partial(self._close, cause, ended_ns))
        except LedgerError as error:
            why = str(error)
        except Exception as error:  # its text may hold anything: its kind is told
            why = f"a defect: {type(error).__name__}"
            log.error("%s: %s at the end of a conversation", self._feed.name, why)
        if self._unstored:
            self._feed.lose(len(self._unstored), why)

    def _close(self, cause: str, ended_ns: int) -> None:
        with self._storing:
            assert self._intake is not None
            closed_ns = max(ended_ns, self._heard_ns)
            self._intake.close(cause, closed_ns)
            if self._tape is not None:
                try:
                    self._tape.close(closed_ns, cause)
                except (OSError, BadTape) as error:
                    self._give_up_tape(error)

    def _remember(self, memory: bytes) -> None:
        remember(self._ledger, [row_of(self._feed.name, memory)])


def _close(conversation: Conversation) -> None:
    """End a conversation; what it does about it is no concern of ours."""
    try:
        conversation.close()
    except Exception as error:
        log.error("a conversation does not end well: %s", type(error).__name__)


def _tape_name(name: str, session: str, opened_ns: int) -> str:
    """A file name that sorts by time, of characters that every file system takes."""
    stem, place = (
        "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in text)
        for text in (name[:100], session[:12])
    )
    return f"{stem}-{opened_ns // 1_000_000_000}-{place}.tape"
