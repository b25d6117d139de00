"""A conversation with a venue, taken in: frame by frame, from its opening to its closing.

A frame is durable before `receive` returns. Knows a venue's shape and the order of frames; knows no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from operator import index
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

from ledger.appender import Appender, Done, Taken, Tally
from ledger.decoding import decoded, storable
from ledger.errors import Closed, Conflict, LedgerError, Unstorable
from ledger.events import Asked, SessionClosed, SessionOpened, Source, Statement, opened_key
from ledger.rows import Lease
from ledger.venue import Frame, Venue, check_label

BATCH_FRAMES_MAX: Final = 256
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
LABEL_CHARS_MAX: Final = 1000
"""More than a feed's: a server has a bound of its own (500 bytes), which says how long an id is."""

Arrival: TypeAlias = tuple[bytes, int] | tuple[bytes, int, Asked | None]
"""A frame's raw bytes, when they came (ns since the epoch, UTC), and the request they answer, if any."""


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
        appender: Appender,
        venue: Venue,
        account: str,
        session: str,
        opened_ns: int | None,
        now_ns: Callable[[], int],
        lease: Lease | None,
    ) -> None:
        check_label(venue.NAME, account, LABEL_CHARS_MAX)
        self._appender = appender
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
        self._resumed_ordinal = appender.store.last_ordinal(session)
        self._unsure_ordinal = 0
        """The last frame that was to be recorded: whether those up to it are stored is known where `_ordinal` is."""
        key = opened_key(session)
        opened = SessionOpened(self._source(now_ns() if opened_ns is None else opened_ns), key)
        if self._resumed_ordinal and not appender.store.has_session(self.account, session):
            raise Conflict(
                f"{appender.store.name}: session {session} is recorded of another login than {self.account}: "
                "two recordings share one session name. Give this one a name of its own"
            )
        self._lease: Final = lease
        self._record([(None, [(self.account, opened)])])

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
                        under_way = full, self._appender.record_aside(full.taken, self._lease).result
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
            self._appender.store.keep(self._lease)

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
        return self._appender.record(taken, lease=self._lease)

    def _decoded(self, frames: Sequence[Frame]) -> _Batch:
        fresh = frames
        if frames[0].ordinal <= max(self._resumed_ordinal, self._unsure_ordinal):
            known = self._appender.known_places(frames)
            fresh = [frame for frame in frames if frame.ordinal not in known]
        # Whatever interrupts us: given again, it is looked for first.
        self._unsure_ordinal = frames[-1].ordinal
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
            check = self._appender.store.check
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
