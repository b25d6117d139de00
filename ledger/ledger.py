"""The façade: conversations begin here, and events are replayed and verified. Knows the store; knows no socket.

What a conversation takes in, `ledger.intake` says; what is written when, `ledger.appender`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from ledger.account import Recorded
from ledger.appender import Appender
from ledger.decoding import decoded, late_statement, released, storable
from ledger.errors import NoSuchLedger
from ledger.events import LATE, FrameQuarantined
from ledger.findings import Finding, damage_of
from ledger.intake import BATCH_FRAMES_MAX, Intake
from ledger.notes import Checkpoint
from ledger.rows import Cell, Change, Lease, Once, Rows, Wait
from ledger.seal import Sealed
from ledger.store import READERS, Store, is_url
from ledger.store import recorded as read
from ledger.venue import Frame, Venue
from ledger.verify import Reader, stand, verify
from ledger.view import View

FILE_SESSION: Final = "file-"
"""How the session of a recording that has neither a name nor times of its own begins (`Ledger.session_of`)."""


class Retried(Struct, frozen=True):
    """What became of a quarantined frame that was decoded again. `result`: `read` (so many new events), `known` (it can
    be read and says nothing new; it is quarantined no longer), `stays` (it cannot be read, for that reason)."""

    result: str
    events: int
    reason: str


class Ledger:
    """A ledger in memory (`Ledger()`), in a SQLite file (`Ledger("ledger.db")`), or in a PostgreSQL database
    (`Ledger("postgresql://user@host/database")`, of the extra `accountledger[postgres]`); a context manager.

    To a file one process writes at a time, to a database any number, an account each; any number may read with
    `read_only=True`. Raises NoSuchLedger, LedgerBusy, Corrupt, StoreError; Unfinished for what a copy was begun into
    and not finished, unless `unfinished` is said: who copies on, or verifies it.

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
        self._appender: Final = Appender(self._store)
        self._leases: dict[str, Lease] = {}
        self._ends: dict[object, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, when the commit under way is done. Idempotent."""
        self._appender.close()

    @property
    def name(self) -> str:
        """The file the ledger is in, its URL without the password, or `memory`."""
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
        ledger already are then known by their place. `opened_ns` is when it began, if not now. Raises BadLogin for an
        `account` that is empty, too long, not printable or holds a "/".
        """
        session = str(session or secrets.token_hex(12))
        lease = self._leases.get(f"{venue.NAME}:{account}")
        return Intake(self._appender, venue, account, session, opened_ns, now_ns, lease)

    def replay(
        self, account: str | None = None, *, after: int = 0, upto: int | None = None
    ) -> Iterator[Recorded]:
        """Every stored event in order: of one account (its full id, `venue:label`; `after` and `upto` are versions),
        or of all accounts in the order they were appended (`after` and `upto` are positions). Raises Corrupt on an
        event that cannot be read."""
        return chain.from_iterable(self.runs(account, after=after, upto=upto))

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
        last = self._store.last_ordinal(session)
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
        """Everything wrong with the events, frames and keys that are stored: changed, missing, or decoded otherwise by
        the venue modules given (of the others the frames are not decoded again). Empty where all is well. Reads the
        whole ledger as of now. What projections stored is compared by `accountledger verify`.

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
        (`Source.late_ns`); where that is nothing new, that it is quarantined no longer (`FrameReleased`). Again and
        again changes nothing more. `account` is the full id, `venue:label`. Raises ValueError where that event is no
        quarantined frame.
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
        damage = damage_of(source.evidence, payload)
        if payload is None or damage is not None or venue is None:
            return Retried("stays", 0, damage or "no venue module")
        frame = Frame.of(source, account, payload)
        said = storable(venue, frame, decoded(venue, frame), self._store.check)
        for _, event in said:
            if isinstance(event, FrameQuarantined):
                return Retried("stays", 0, event.reason)
        late_ns = now_ns()  # one for all: they are of one frame
        late = [late_statement(each, number, late_ns) for number, each in enumerate(said, 1)]
        _, new = self._appender.record([(None, late)])
        if not new and not any(event.key.startswith(LATE) for _, event in late):  # else it was read before
            self._appender.record([(None, [released(recorded, late_ns)])])
        return Retried("read" if new else "known", new, reason)

    def view(self) -> AbstractContextManager[View]:
        """One moment of the whole ledger, row by row as it is stored. For who copies it (`ledger.copying`)."""
        return self._store.view()

    def unfinished(self) -> str | None:
        """The name of the ledger of which this one is an unfinished copy; None where it is none."""
        return self._store.unfinished()

    def take(self, rows: Rows) -> None:
        """Store rows as they are, in one transaction: those that follow in the ledger that this one is a copy of."""
        self._appender.take(rows)

    def last(self, account: str) -> Recorded | None:
        """The last event of an account (its full id, `venue:label`); None where it has none."""
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
        """Take the right to feed an account (its full id, `venue:label`), unless another process has it: what an intake
        opened then records raises LeaseLost should another process have it by then, or have had it since, for good. It
        ends with `release` and with the process; a connection that broke costs nothing if nobody else took it
        meanwhile. In a file it is had at once: one process writes. Raises ValueError for a label alone."""
        lease = self._store.lease(_full(account))
        if lease is None:
            return False
        self._leases[account] = lease
        return True

    def release(self, account: str) -> None:
        """Let another process feed an account (its full id, `venue:label`). Raises ValueError for a label alone."""
        self._leases.pop(_full(account), None)
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
        self._appender.write(statements, once)


def _full(account: str) -> str:
    """A full id, as it is. A lease of a label alone would bind no intake."""
    if ":" not in account:
        raise ValueError(f"{account!r} is no full id of an account: `venue:label` is, as in `Intake.account`")
    return account


def _read(stored: Sealed) -> Recorded:
    return read(stored.account, stored.version, stored.topic, stored.state, stored.position)


_READER: Final = Reader(READERS, _read)
