"""The façade: take frames in, replay events. Knows accounts, venues' shape and the store; knows no socket.

A frame is durable before `receive` returns: decode, record, one commit per batch, then the accounts advance.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from hashlib import sha256
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias
from weakref import WeakSet

from msgspec import Struct

from ledger.account import Account, Draft, Recorded
from ledger.decoding import decoded, late_statement, storable
from ledger.errors import Closed, Conflict, LedgerError, NoSuchLedger, Unstorable
from ledger.events import (
    Asked,
    Event,
    FillRecorded,
    FrameQuarantined,
    SessionClosed,
    SessionOpened,
    Source,
    Statement,
    opened_key,
)
from ledger.findings import Finding
from ledger.firsts import Firsts
from ledger.notes import Checkpoint
from ledger.retold import told_again
from ledger.rows import Cell, Change, Evidence, Lease, Once, Rows, Wait
from ledger.seal import Sealed
from ledger.store import READERS, Store, is_url
from ledger.store import recorded as read
from ledger.venue import Frame, Venue
from ledger.verify import Reader, stand, verify
from ledger.view import View

BATCH_FRAMES_MAX: Final = 256
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
ACCOUNTS_CACHED_MAX: Final = 1024
CONFLICTS_MAX: Final = 50
CONFLICT_S: Final = 0.02
"""How long one waits at most who lost an account's next version to another twice."""
FILE_SESSION: Final = "file-"
"""How the session of a recording that has neither a name nor times of its own begins (`Ledger.session_of`)."""

Arrival: TypeAlias = tuple[bytes, int] | tuple[bytes, int, Asked | None]
"""A frame's raw bytes, when they came (ns since the epoch, UTC), and the request they answer, if any."""


class Tally(Struct):
    """What became of the frames: `frames` = `recorded` + `duplicates` + `control` + `quarantined`."""

    frames: int = 0
    recorded: int = 0
    duplicates: int = 0
    control: int = 0
    quarantined: int = 0

    def count(self, first: Recorded | None, statements: Sequence[Statement]) -> None:
        """Count one frame: the first of what was new of it, and what it said."""
        self.frames += 1
        if not statements:
            self.control += 1
        elif first is None:
            self.duplicates += 1
        elif isinstance(first.event, FrameQuarantined):
            self.quarantined += 1
        else:
            self.recorded += 1


class Retried(Struct, frozen=True):
    """What became of a quarantined frame that was decoded again. `result`: `read` (so many new events), `known` (it can
    be read and says nothing new), `stays` (it cannot be read, for that reason)."""

    result: str
    events: int
    reason: str


Taken: TypeAlias = tuple[Frame | None, Sequence[Statement]]
"""A frame and what it says; no frame for the records of a session itself."""
Done: TypeAlias = tuple[Tally, int]
"""What became of the frames of a batch, and how many of their statements were new."""


class Ledger:
    """A ledger in memory (`Ledger()`) or in a SQLite file (`Ledger("ledger.db")`); a context manager.

    One process writes at a time; any number may read with `read_only=True`. Raises NoSuchLedger, LedgerBusy; Unfinished
    for what a copy was begun into and not finished, unless `unfinished` is said: who copies on, or verifies it.

    It is of the process that opened it: in one that was forked since it raises Closed, and has to be opened anew.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, read_only: bool = False, unfinished: bool = False
    ) -> None:
        if path is not None and not os.fspath(path):
            raise NoSuchLedger(
                "the name of the ledger is empty: give a file, or postgresql://user@host/database"
            )
        place = path if path is None or is_url(str(path)) else Path(path)
        self._store: Final = Store(
            place if place is None else str(place), read_only=read_only, unfinished=unfinished
        )
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._firsts: Final = Firsts(self._store.fills, self._store.last_version)
        self._leases: dict[str, Lease] = {}
        self._ends: dict[object, float] = {}
        self._writing = threading.Lock()
        self._aside = ThreadPoolExecutor(1, f"{self.name} commits")  # no thread before it is used
        self._open = True
        _opened.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, when the commit under way is done. Idempotent."""
        with self._writing:
            self._open = False
            self._store.close()
        self._aside.shutdown()

    def _leave(self) -> None:
        """In a process that was forked from ours: connections cannot be shared, and other threads are not there."""
        self._writing = threading.Lock()
        self._aside = ThreadPoolExecutor(1)
        self._store.leave()

    @property
    def name(self) -> str:
        """The file the ledger is in, or `memory`."""
        return self._store.name

    @property
    def read_only(self) -> bool:
        """Whether the ledger was opened to read only."""
        return self._store.read_only

    def intake(
        self,
        venue: Venue,
        account: str,
        *,
        session: str | None = None,
        opened_ns: int | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> Intake:
        """Begin a conversation with a venue for the login called `account`; records its opening.

        Give `session` when the conversation is a recording that has a name of its own: frames of it that are in the
        ledger already are then known by their place. `opened_ns` is when it began, if not now.
        """
        return Intake(self, venue, account, str(session or secrets.token_hex(12)), opened_ns, now_ns)

    def replay(
        self, account: str | None = None, *, after: int = 0, upto: int | None = None
    ) -> Iterator[Recorded]:
        """Every stored event in order: of one account (`after` and `upto` are versions), or of all accounts in the
        order they were appended (`after` and `upto` are positions). Raises Corrupt on an event that cannot be read."""
        for run in self.runs(account, after=after, upto=upto):
            yield from run

    def runs(
        self, account: str | None = None, *, after: int = 0, upto: int | None = None
    ) -> Iterator[Sequence[Recorded]]:
        """What `replay` gives, some events at a time."""
        return self._store.runs(account, after=after, upto=upto)

    def session_of(self, account: str, frames: Callable[[], Iterable[bytes]]) -> str:
        """A name for a recording that has none of its own: the same whenever it is read, also when it has grown since,
        or is cut short. `account` is the full id, `frames` gives its frames anew each time it is called.

        Two recordings that begin alike get one name as long as one is the beginning of the other.
        """
        first = next(iter(frames()), b"")
        digest = sha256(account.encode() + b"\0" + first).hexdigest()
        stem = f"{FILE_SESSION}{digest[:24]}"
        number = 1
        while self._store.has_session(account, f"{stem}-{number}") and not self._agrees(
            f"{stem}-{number}", frames()
        ):
            number += 1
        return f"{stem}-{number}"

    def _agrees(self, session: str, frames: Iterable[bytes]) -> bool:
        """Whether frames and a session are the same as far as both go."""
        last = self._last_ordinal(session)
        stored: dict[int, bytes] = {}
        for ordinal, payload in enumerate(frames, 1):
            if ordinal > last:
                break
            if ordinal % BATCH_FRAMES_MAX == 1:
                stored = self._store.evidence_between(session, ordinal, ordinal + BATCH_FRAMES_MAX - 1)
            if stored.get(ordinal, payload) != payload:
                return False
        return True

    def evidence(self, recorded: Recorded) -> bytes | None:
        """The raw bytes of the frame an event was made from; None for the records of a session itself."""
        source = recorded.event.source
        return self.frame_bytes(source.session, source.ordinal) if source.evidence else None

    def frame_bytes(self, session: str, ordinal: int) -> bytes | None:
        """The raw bytes of a session's frame; None where no event was made from it."""
        return self._store.evidence(session, ordinal)

    def sealed(self, account: str, *, after: int = 0, upto: int | None = None) -> Iterator[Sealed]:
        """The events of an account as they are stored, with their seals (`ledger.seal`), in order."""
        while page := self._store.sealed(account, after=after, upto=upto):
            yield from page
            after = page[-1].version

    def verify(
        self,
        venues: Iterable[Venue] = (),
        *,
        checkpoints: Sequence[Checkpoint] = (),
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Finding]:
        """Everything wrong with what is stored: changed, missing, or decoded otherwise by the venue modules given (of
        the others the frames are not decoded again). Empty where all is well. Reads the whole ledger as of now.

        `checkpoints`: what was signed before (`ledger.notes.opened` checks the signature). `advance` is told how many
        more events were checked.
        """
        with self._store.view() as view:
            yield from verify(view, _READER, self._store.check, venues, checkpoints, advance)

    def checkpoint(
        self, origin: str, before: Sequence[Checkpoint] = (), advance: Callable[[int], None] = lambda _: None
    ) -> Checkpoint:
        """Where every account stands, to be signed and kept elsewhere (`ledger.notes.PrivateKey.sign`).

        All that is stored is read and hashed again first. Raises Corrupt where anything is wrong with it, or where it
        does not go on from the checkpoints `before`: what is signed once cannot be taken back.
        """
        with self._store.view() as view:
            return stand(view, _READER, origin, before, advance)

    def retry(
        self,
        venues: Iterable[Venue],
        account: str,
        version: int,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> Retried:
        """Decode a quarantined frame again, with the venue modules given: what can be read now is recorded, marked late
        (`Source.late_ns`). Again and again changes nothing. Raises ValueError where that event is no quarantined frame.
        """
        recorded = next(iter(self._store.events(account, after=version - 1, upto=version)), None)
        if recorded is None or not isinstance(recorded.event, FrameQuarantined):
            raise ValueError(f"{account} version {version} is no quarantined frame")
        source, reason = recorded.event.source, recorded.event.reason
        near = self._store.all_events(after=recorded.position - 2, upto=recorded.position + 1)
        others = [each.event.source for each in near if each.position != recorded.position]
        place = (source.session, source.ordinal, source.evidence, None)
        if any((each.session, each.ordinal, each.evidence, each.late_ns) == place for each in others):
            return Retried("stays", 0, "the rest of this frame was recorded when it came")
        payload = self._store.evidence(source.session, source.ordinal)
        venue = next((venue for venue in venues if source.venue == venue.NAME), None)
        if payload is None or venue is None:
            return Retried("stays", 0, "no venue module" if payload is not None else "the frame is gone")
        frame = Frame.of(source, account, payload)
        said = storable(venue, frame, decoded(venue, frame), self._store.check)
        for _, event in said:
            if isinstance(event, FrameQuarantined):
                return Retried("stays", 0, event.reason)
        late_ns = now_ns()  # one for all: they are of one frame
        late = [late_statement(each, number, late_ns) for number, each in enumerate(said, 1)]
        _, new = self._record([(None, late)])
        return Retried("read" if new else "known", new, reason)

    def view(self) -> AbstractContextManager[View]:
        """One moment of the whole ledger, row by row as it is stored. For who copies it (`ledger.copying`)."""
        return self._store.view()

    def unfinished(self) -> str | None:
        """The name of the ledger of which this one is an unfinished copy; None where it is none."""
        return self._store.unfinished()

    def take(self, rows: Rows) -> None:
        """Store rows as they are, in one transaction: those that follow in the ledger that this one is a copy of."""
        with self._writing:
            if not self._open:
                raise Closed(f"{self.name}: the ledger is closed")
            self._accounts.clear()
            self._store.take(rows)

    def last(self, account: str) -> Recorded | None:
        """The last event of an account; None where it has none."""
        version = self._store.last_version(account)
        return next(iter(self._store.events(account, after=version - 1)), None) if version else None

    def position(self) -> int:
        """The position of the last event; 0 in an empty ledger."""
        return self._store.head()

    def select(self, sql: str, params: Sequence[Cell] = ()) -> list[tuple[Cell, ...]]:
        """Rows of a query. For projections, which keep their tables in the same database."""
        return self._store.select(sql, params)

    def give_up_at(self, moment: float | None, who: object = None) -> None:
        """Where a server that is away is asked again, or a lock on the file waited for, do so until `moment`
        (`time.monotonic`) at most, then raise StoreError; None: as long as ever. For who has to end by then: of several
        the earliest moment counts, until they say None. From any thread."""
        if moment is None:
            self._ends.pop(who, None)
        else:
            self._ends[who] = moment
        self._store.give_up_at(min([*self._ends.values()], default=None))

    def lease(self, account: str) -> bool:
        """Take the right to feed an account, unless another process has it: what an intake opened then records raises
        LeaseLost should another process have it by then, or have had it since, for good. It ends with `release` and
        with the process; a connection that broke costs nothing if nobody else took it meanwhile. In a file it is had at
        once: one process writes."""
        lease = self._store.lease(account)
        if lease is None:
            return False
        self._leases[account] = lease
        return True

    def release(self, account: str) -> None:
        """Let another process feed an account."""
        self._leases.pop(account, None)
        self._store.release(account)

    @contextmanager
    def following(self) -> Generator[Wait]:
        """What waits until something may have been appended since it was asked last, by any process: called with the
        seconds it waits at most, it says whether to look."""
        with self._store.following() as wait:
            yield wait

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        return self._store.columns(table)

    def definition(self, table: str) -> list[tuple[Cell, ...]]:
        """How a table, and what belongs to it, is defined: rows to compare, in the words of its database."""
        return self._store.definition(table)

    @property
    def in_file(self) -> bool:
        """Whether the ledger is in a file, or in memory; not on a server."""
        return self._store.in_file

    def write(self, statements: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """Statements, each with many rows of parameters, in one transaction. For projections' own tables. `once` are
        statements that must change one row each: where one does not, nothing is done and Overtaken raised."""
        with self._writing:
            self._store.write(statements, once)

    def _last_ordinal(self, session: str) -> int:
        return self._store.last_ordinal(session)

    def _known_places(self, frames: Sequence[Frame]) -> Set[int]:
        """The ordinals whose frame is stored. A place is known by its bytes: one that left none is read again. Raises
        Conflict where the bytes are others, because two recordings share a session's name."""
        if not frames:
            return frozenset()
        first, last = frames[0], frames[-1]
        stored = self._store.evidence_between(first.session, first.ordinal, last.ordinal)
        for frame in frames:
            if stored.get(frame.ordinal, frame.payload) != frame.payload:
                raise Conflict(
                    f"{self.name}: frame {frame.ordinal} of session {frame.session} is recorded with other bytes: "
                    "two recordings share one session name. Give this one a name of its own"
                )
        return stored.keys()

    def _record(
        self,
        frames: Sequence[Taken],
        committing: Callable[[], object] = lambda: None,
        lease: Lease | None = None,
    ) -> Done:
        """Record the statements of a batch in one commit; what was recorded before is refused. `committing` is called
        when all that is left to do is the commit. Raises LeaseLost where `lease` is another process's, or was since."""
        with self._writing:
            if not self._open:
                raise Closed(f"{self.name}: the ledger is closed")
            stored: Set[int] = frozenset()
            for conflicts in range(CONFLICTS_MAX):
                try:
                    return self._append(frames, committing, lease, stored)
                except Conflict:  # somebody else appended first: take their events in, try again
                    self._accounts.clear()
                    if conflicts:  # not all at once again
                        time.sleep(random.uniform(0, CONFLICT_S))
                    stored = self._known_places([frame for frame, _ in frames if frame is not None])
            return self._append(frames, committing, lease, stored)

    def _record_aside(self, frames: Sequence[Taken], lease: Lease | None) -> Future[Done]:
        """Record a batch; back when all that is left to do is the commit, which goes on in a thread of its own: the
        disk needs no interpreter. The result says when it is durable."""
        committing = threading.Event()
        try:
            done = self._aside.submit(self._record, frames, committing.set, lease)
        except RuntimeError:
            if self._open:  # the interpreter is ending
                raise
            raise Closed(f"{self.name}: the ledger is closed") from None
        done.add_done_callback(lambda _: committing.set())
        committing.wait()
        return done

    def _append(
        self,
        frames: Sequence[Taken],
        committing: Callable[[], object],
        lease: Lease | None,
        stored: Set[int],
    ) -> Done:
        """Of the frames those `stored`, by their ordinals, came to be so meanwhile."""
        drafts = self._drafts(frames)
        tally = Tally()
        events: list[Recorded] = []
        evidence: list[Evidence] = []
        for frame, statements in frames:
            if frame is not None and frame.ordinal in stored:
                tally.frames += 1
                tally.duplicates += 1
                continue
            first: Recorded | None = None
            for account, event in statements:
                recorded = drafts[account].record(event)
                if recorded is not None:
                    events.append(recorded)
                    first = first or recorded
            if frame is not None:
                tally.count(first, statements)
                if first is not None:
                    evidence.append((frame.session, frame.ordinal, frame.payload))
        if events:
            before = {account: draft.before for account, draft in drafts.items()}
            heads = self._store.append(events, evidence, before, committing, lease)
            for account, draft in drafts.items():
                draft.settle(heads[account])
                self._accounts.move_to_end(account)
            self._firsts.remember(events)
        while len(self._accounts) > ACCOUNTS_CACHED_MAX:
            self._accounts.popitem(last=False)
        return tally, len(events)

    def _drafts(self, frames: Sequence[Taken]) -> dict[str, Draft]:
        suspects: dict[str, list[Event]] = {}
        accounts: dict[str, Account] = {}
        for _, statements in frames:
            for name, event in statements:
                account = accounts.get(name)
                if account is None:
                    account = accounts[name] = self._account(name)
                if account.may_know(event):
                    suspects.setdefault(name, []).append(event)
        return {
            name: self._draft(account, suspects[name]) if name in suspects else Draft(account, frozenset())
            for name, account in accounts.items()
        }

    def _draft(self, account: Account, suspects: Sequence[Event]) -> Draft:
        """What is known already of the events that may be; and of fills, what was told first."""
        known = self._store.known(account.id, suspects)
        if not known:
            return Draft(account, known)
        retold = [each for each in suspects if type(each) is FillRecorded and (0, each.key) in known]
        firsts = self._firsts.of(account.id, {each.key for each in retold})
        others = [told_again(firsts[each.key], each) for each in retold if each.key in firsts]
        if otherwise := [each for each in others if each is not None]:
            known |= self._store.known(account.id, otherwise)
        return Draft(account, known, firsts)

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._store.account(name)
        return account


_opened: Final[WeakSet[Ledger]] = WeakSet()


def _forked() -> None:
    for each in _opened:
        each._leave()


if hasattr(os, "register_at_fork"):  # not off POSIX
    os.register_at_fork(after_in_child=_forked)


def _read(stored: Sealed) -> Recorded:
    return read(stored.account, stored.version, stored.topic, stored.state, stored.position)


_READER: Final = Reader(READERS, _read)


class _Batch(NamedTuple):
    """Frames to be recorded in one commit: how many they are, the last one's place, and what those say that are not
    recorded already."""

    frames: int
    last_ordinal: int
    taken: list[tuple[Frame, Sequence[Statement]]]


class Intake:
    """One conversation with a venue, from its opening to its closing; a context manager. Numbers the frames.

    Not for several threads at once: a conversation has one order.
    """

    def __init__(
        self,
        ledger: Ledger,
        venue: Venue,
        account: str,
        session: str,
        opened_ns: int | None,
        now_ns: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._venue = venue
        self._now_ns = now_ns
        self._closed = False
        self._ordinal = 0
        self._conversation = session
        self._names: Callable[[bytes], str | None] | None = getattr(venue, "conversation", None)
        self.account: Final = f"{venue.NAME}:{account}"
        self.session: Final = session
        self.tally: Final = Tally()
        self.fresh = 0
        """How many statements of its frames the ledger did not know before."""
        self._resumed_ordinal = ledger._last_ordinal(session)
        self._unsure_ordinal = 0
        """The last frame that was to be recorded: whether those up to it are stored is known where `_ordinal` is."""
        key = opened_key(session)
        opened = SessionOpened(self._source(now_ns() if opened_ns is None else opened_ns), key)
        if self._resumed_ordinal and not ledger._store.has_session(self.account, session):
            raise Conflict(
                f"{ledger.name}: session {session} is recorded of another login than {self.account}: "
                "two recordings share one session name. Give this one a name of its own"
            )
        self._lease: Final = ledger._leases.get(self.account)
        ledger._record([(None, [(self.account, opened)])], lease=self._lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(f"error: {type(error).__name__}")
        except LedgerError:  # the first error is the one to tell
            self._closed = True

    def receive(self, payload: bytes, received_ns: int | None = None) -> Tally:
        """Take one frame in; returns when it is durable. `received_ns` is when it came, if not now.

        A frame that cannot be read is quarantined, not raised. Raises StoreError where nothing could be stored.
        """
        return self.receive_all([(payload, self._now_ns() if received_ns is None else received_ns)])

    def receive_all(self, arrivals: Iterable[Arrival]) -> Tally:
        """Take many frames in, in batches of one commit each (by count and bytes); returns when all are durable.

        Of a sequence, a batch is decoded while the one before it is committed; an iterator is asked for more only when
        what it gave before is durable.
        """
        if self._closed:
            raise Closed(f"{self.account}: this intake is closed")
        tally = Tally()
        batch: list[Frame] = []
        size, ordinal = 0, self._ordinal
        under_way: tuple[_Batch, Callable[[], Done]] | None = None
        ahead = isinstance(arrivals, Sequence)
        try:
            for payload, received_ns, *asked in arrivals:
                ordinal += 1
                batch.append(self._frame(payload, ordinal, received_ns, asked[0] if asked else None))
                size += len(payload)
                if len(batch) == BATCH_FRAMES_MAX or size >= BATCH_BYTES_MAX:
                    full, batch, size = self._decoded(batch), [], 0  # while the one before it is committed
                    if under_way is not None:
                        before, under_way = under_way, None
                        self._recorded(*before, tally)
                    if ahead:
                        under_way = full, self._ledger._record_aside(full.taken, self._lease).result
                    else:
                        self._recorded(full, partial(self._record, full.taken), tally)
        finally:  # what came before `arrivals` failed is not lost
            try:
                last = self._decoded(batch) if batch else None
            finally:
                if under_way is not None:
                    self._recorded(*under_way, tally)
            if last is not None:
                self._recorded(last, partial(self._record, last.taken), tally)
        return tally

    def keep(self) -> None:
        """See that the account is still ours to feed, where the intake was opened under a lease (`Ledger.lease`). For
        who receives nothing for long. Raises LeaseLost."""
        if self._lease is not None:
            self._ledger._store.keep(self._lease)

    def _frame(self, payload: bytes, ordinal: int, received_ns: int, asked: Asked | None) -> Frame:
        payload = memoryview(payload).tobytes()  # a copy of what may be a buffer; of a text TypeError
        if self._names is not None:
            with suppress(Exception):  # a frame that cannot be read names no conversation
                self._conversation = self._names(payload) or self._conversation
        at_ns = index(received_ns)  # of a float TypeError: what is stored would not be read again
        return Frame(self.account, self.session, ordinal, at_ns, payload, self._conversation, asked)

    def close(self, cause: str = "end", closed_ns: int | None = None) -> None:
        """End the conversation and record why; `closed_ns` is when it ended, if not now. Idempotent."""
        if self._closed:
            return
        if self._ordinal < self._resumed_ordinal:
            self._closed = True
            return  # the beginning of a recording that is known further than this: it did not end here
        t = self.tally
        closed = SessionClosed(
            self._source(self._now_ns() if closed_ns is None else closed_ns),
            f"session:{self.session}:closed:{self._ordinal}",
            cause,
            t.frames,
            t.recorded,
            t.duplicates,
            t.control,
            t.quarantined,
        )
        self._record([(None, [(self.account, closed)])])
        self._closed = True

    def _record(self, taken: Sequence[Taken]) -> Done:
        return self._ledger._record(taken, lease=self._lease)

    def _decoded(self, frames: Sequence[Frame]) -> _Batch:
        fresh = frames
        if frames[0].ordinal <= max(self._resumed_ordinal, self._unsure_ordinal):
            known = self._ledger._known_places(frames)
            fresh = [frame for frame in frames if frame.ordinal not in known]
        self._unsure_ordinal = frames[
            -1
        ].ordinal  # whatever interrupts us: given again, it is looked for first
        return _Batch(
            len(frames), frames[-1].ordinal, [(frame, decoded(self._venue, frame)) for frame in fresh]
        )

    def _recorded(self, batch: _Batch, record: Callable[[], Done], tally: Tally) -> None:
        """Count a batch, once `record` says that it is durable."""
        try:
            done, new = record()
        except Exception as error:
            if isinstance(error, LedgerError) and not isinstance(error, Unstorable):
                raise
            # The venue module made what cannot be stored: find its frame, keep the others.
            check = self._ledger._store.check
            checked = [(frame, storable(self._venue, frame, said, check)) for frame, said in batch.taken]
            done, new = self._record(checked)
        self.fresh += new
        self._ordinal = batch.last_ordinal
        for each in (tally, self.tally):
            each.frames += batch.frames
            each.recorded += done.recorded
            each.duplicates += done.duplicates + batch.frames - len(batch.taken)
            each.control += done.control
            each.quarantined += done.quarantined

    def _source(self, at_ns: int) -> Source:
        return Source(self._venue.NAME, "session", self.session, self._ordinal, index(at_ns), b"")
