"""Where events are kept: appended, and read again. Joins the events to the database that holds them.

Knows events and their seals; knows no venue and no rule. What a database is, `ledger.rows.Engine` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from eventsourcing.persistence import Mapper, StoredEvent, Transcoder

from ledger.account import Account, Keyed, Recorded
from ledger.errors import Closed, Corrupt, ReadOnly, StoreError, Unfinished, Unstorable
from ledger.events import TOPICS, Event, FillRecorded, ids, keyed_ns, numbers, opened_key
from ledger.rows import Cell, Change, Engine, Evidence, Lease, Once, Rows, Wait
from ledger.seal import Sealed, genesis, leaf, seal
from ledger.sqlite import SQLite
from ledger.view import View

PAGE_EVENTS_MAX: Final = 500
"""Read at once: rows of more do not stay in the cache until they are decoded."""
RUN_EVENTS_MAX: Final = 50
"""Decoded at once where all are read: so many stay in the processor's cache, a page of them does not."""
URLS: Final = ("postgresql://", "postgres://")
"""How the place of a ledger in PostgreSQL begins."""
_URL: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")
"""How any URL begins, also one that somebody made a Path of: what is one is no file, and may hold a password."""

_PAYLOAD: Final = "CASE typeof(payload) WHEN 'blob' THEN payload ELSE CAST(quote(payload) AS BLOB) END"
"""The bytes of a frame. Of what somebody made a text or a number, which only a file lets in, those that SQL would write
it with: a text of the same bytes is another frame, too."""

UTF8_BYTES_MAX: Final = 4
"""Of one character."""
_LONG_TEXT: Final = (b"\xda", b"\xdb")
"""What a text of more than 255 bytes begins with in msgpack."""

NUMBER_MAX: Final = (1 << 63) - 1
"""Of the numbers that a database holds."""
_MAYBE_WIDE: Final = re.compile(rb"\xcf[\x80-\xff]").search
"""Finds what a number beyond that begins with in msgpack; it may be part of something else."""

_encode = msgspec.msgpack.Encoder().encode
_topics: Final[dict[type[Event], str]] = {cls: topic for topic, cls in TOPICS.items()}
READERS: Final = {topic: msgspec.msgpack.Decoder(cls).decode for topic, cls in TOPICS.items()}
"""What makes an event of a stored state, by topic; raises one of many errors where the state is damaged."""
_UNREADABLE: Final = (KeyError, msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError)
"""What reading a stored row raises where its topic or its state is damaged."""


class EventMapper(Mapper[str]):
    """Recorded events to stored ones and back: positional msgpack, the topic from a closed table."""

    def __init__(self) -> None:
        super().__init__(transcoder=_NoTranscoder())

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        event = domain_event.event
        return StoredEvent(domain_event.account, domain_event.version, _topics[type(event)], _encode(event))

    def to_domain_event(self, stored_event: StoredEvent) -> Recorded:
        return recorded(
            str(stored_event.originator_id),
            stored_event.originator_version,
            stored_event.topic,
            stored_event.state,
            getattr(stored_event, "id", 0),
        )


def recorded(account: str, version: int, topic: str, state: bytes, position: int) -> Recorded:
    """A stored row as the event it is. Raises Corrupt where it cannot be read."""
    if type(account) is not str or type(version) is not int:
        raise Corrupt(f"position {position}: its row is damaged")
    try:
        return Recorded(account, version, READERS[topic](state), position)
    except KeyError:
        raise Corrupt(f"{account} version {version}: unknown topic {topic!r}") from None
    except _UNREADABLE as error:
        raise Corrupt(f"{account} version {version}: {topic} cannot be read: {error}") from None


def _decoded(rows: Sequence[Any]) -> list[Recorded]:
    read = READERS
    try:
        found = [
            Recorded(account, version, read[topic](state), position)
            for account, version, topic, state, position in rows
            if type(account) is str and type(version) is int
        ]
    except _UNREADABLE:
        found = []
    if len(found) == len(rows):
        return found
    return [recorded(*row) for row in rows]  # one by one, to say which it is


class _NoTranscoder(Transcoder):
    def encode(self, obj: Any) -> bytes:
        raise NotImplementedError("events are encoded by msgspec")

    def decode(self, data: bytes) -> Any:
        raise NotImplementedError("events are decoded by msgspec")


def is_url(place: str) -> bool:
    """Whether a place is a URL, and not a file."""
    return _URL.match(place) is not None


def engine_of(place: str | Path | None, *, read_only: bool) -> Engine:
    """The database at a place: a file, the URL of a PostgreSQL database, or None for memory. Raises StoreError for any
    other URL, and says nothing of what is in it."""
    if isinstance(place, str) and is_url(place):
        if not place.startswith(URLS):
            raise StoreError("not the URL of a PostgreSQL database: postgresql://user@host:port/database")
        try:
            from ledger.postgres import Postgres
        except ImportError as error:
            if "psycopg" not in f"{error.name} {error}":
                raise
            raise StoreError("PostgreSQL needs psycopg: pip install 'accountledger[postgres]'") from error
        return Postgres(place, read_only=read_only)
    return SQLite(None if place is None else Path(place), read_only=read_only)


class _Elsewhere:
    """In the place of a database that another process has open. Whatever is asked of it raises Closed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine  # kept: to let go of it would close it
        self._name = engine.name

    def __getattr__(self, _: str) -> Any:
        raise Closed(f"{self._name}: opened by another process, before it forked; open it anew in this one")

    def close(self) -> None:
        """Nothing is open here."""

    def release(self, name: str) -> None:
        """Nothing is held here."""


class Store:
    """One ledger's storage: append and read. Thread-safe for any number of readers beside one writer.

    `place` is a file, the URL of a PostgreSQL database, or None for memory. Raises NoSuchLedger, LedgerBusy or
    StoreError; Unfinished, unless `unfinished` ones are wanted, too.
    """

    def __init__(
        self, place: str | Path | None, *, read_only: bool = False, unfinished: bool = False
    ) -> None:
        self.read_only: Final = read_only
        self._engine = engine_of(place, read_only=read_only)
        self.name: Final = self._engine.name
        self.in_file: Final = self._engine.FILE
        self._payload: Final = _PAYLOAD if self.in_file else "payload"
        self._mapper: Final = EventMapper()
        try:
            if not unfinished and (source := self.unfinished()) is not None:
                raise Unfinished(
                    f"{self.name}: an unfinished copy of {source}: copy again, and it goes on where it stopped"
                )
        except BaseException:
            self.close()
            raise

    def unfinished(self) -> str | None:
        """The ledger of which this is an unfinished copy; None where it is none."""
        return self._engine.unfinished()

    def close(self) -> None:
        """Close every connection and let the next writer in."""
        self._engine.close()

    def leave(self) -> None:
        """In a process that was forked from the one that opened it: use nothing of it, close nothing of it."""
        self._engine.leave()
        self._engine = cast("Engine", _Elsewhere(self._engine))

    def append(
        self,
        events: Sequence[Recorded],
        evidence: Sequence[Evidence],
        before: Mapping[str, bytes] | None = None,
        committing: Callable[[], object] = lambda: None,
        lease: Lease | None = None,
    ) -> dict[str, bytes]:
        """Store events, their seals, their natural keys and the frames they were made from: all of it, durably, or
        nothing. `before` are the seals that the accounts go on from, if known; the new ones are returned. `committing`
        is called when all that is left to do is the commit.

        Raises Conflict where an account was appended to by somebody else, LeaseLost where `lease` is another's, or
        was since.
        """
        if self.read_only:
            raise ReadOnly(f"{self.name}: opened with read_only=True")
        heads = dict(before or {each.account: self.account(each.account).seal for each in events})
        rows = Rows(evidence=list(chain.from_iterable(evidence)))
        for each in events:
            account, version, event = each.account, each.version, each.event
            topic, state = _topics[type(event)], _encode(event)
            heads[account] = head = seal(heads[account], leaf(version, topic, state))
            self._refuse(account, event, state)
            rows.events += (account, version, topic, state)
            rows.seals.append(head)
            if event.key:
                rows.keys += (account, keyed_ns(event), event.key)
        self._engine.insert(rows, committing, lease)
        return heads

    def take(self, rows: Rows) -> None:
        """Store rows as they are, with the seals they have: another store's. All of it, durably, or nothing. Raises
        Unstorable, naming the event, for an id that is too long for this database."""
        if self.read_only:
            raise ReadOnly(f"{self.name}: opened with read_only=True")
        if self._engine.ID_BYTES_MAX is not None:
            cells: Any = rows.events
            for account, version, topic, state in zip(*[iter(cells)] * 4, strict=True):
                try:
                    self._refuse_long_ids(account, READERS[topic](state), state)
                except Unstorable as error:
                    raise Unstorable(f"{error} ({account} version {version})") from None
        self._engine.insert(rows, lambda: None)

    def check(self, account: str, event: Event) -> None:
        """Raise whatever it is that keeps an event from being stored and read back."""
        stored = self._mapper.to_stored_event(Recorded(account.encode().decode(), 1, event))
        self._refuse(account, event, stored.state)
        self._mapper.to_domain_event(stored)

    def _refuse(self, account: str, event: Event, state: bytes) -> None:
        """Raise Unstorable for what the database cannot hold, here or in a projection: a number, or an id."""
        if _MAYBE_WIDE(state) is not None and (most := max(numbers(event))) > NUMBER_MAX:
            raise Unstorable(f"a number out of range: {most}; a database takes {NUMBER_MAX}")
        self._refuse_long_ids(account, event, state)

    def _refuse_long_ids(self, account: str, event: Event, state: bytes) -> None:
        """Raise Unstorable for an id that an index of the database cannot hold, here or in a projection."""
        most = self._engine.ID_BYTES_MAX
        if most is None or (len(state) <= most and len(account) <= most // UTF8_BYTES_MAX):
            return
        if len(account) <= most // UTF8_BYTES_MAX and not any(mark in state for mark in _LONG_TEXT):
            return
        for text in (account, *ids(event)):
            if (size := len(text.encode())) > most:
                raise Unstorable(f"an id of {size} bytes; this database takes {most}")

    def events(self, account: str, *, after: int = 0, upto: int | None = None) -> list[Recorded]:
        """The next page of an account's events after version `after`, at most PAGE_EVENTS_MAX of them."""
        return _decoded(self._page(account, after, upto))

    def all_events(self, *, after: int = 0, upto: int | None = None) -> list[Recorded]:
        """The next page of all accounts' events after position `after`, in the order they were appended."""
        return _decoded(self._page(None, after, upto))

    def runs(
        self, account: str | None, *, after: int = 0, upto: int | None = None
    ) -> Iterator[list[Recorded]]:
        """Every event of an account, or of all, after a version or position: some at a time. Also what is appended
        meanwhile, unless it is of later than `upto`."""
        place = 4 if account is None else 1
        while rows := self._page(account, after, upto):
            for start in range(0, len(rows), RUN_EVENTS_MAX):
                yield _decoded(rows[start : start + RUN_EVENTS_MAX])
            after = rows[-1][place]
            if after == upto:
                return

    def _page(self, account: str | None, after: int, upto: int | None) -> list[Any]:
        """Rows as they are stored."""
        position = self._engine.POSITION
        columns = f"originator_id, originator_version, topic, state, {position}"
        if account is None:
            where = f"{position}>? AND {position}<=? ORDER BY {position}"
        else:
            where = "originator_id=? AND originator_version>? AND originator_version<=? ORDER BY originator_version"
        of = () if account is None else (account,)
        last = 1 << 62 if upto is None else upto
        sql = f"SELECT {columns} FROM stored_events WHERE {where} LIMIT ?"
        return self.select(sql, (*of, after, last, PAGE_EVENTS_MAX))

    def known(self, account: str, events: Sequence[Event]) -> set[Keyed]:
        """Those of the events' natural keys, each with its instant, that are recorded already. For who writes: one
        thread at a time."""
        return set(self._engine.known(account, [(keyed_ns(event), event.key) for event in events]))

    def fills(self, account: str, after: int, upto: int) -> list[FillRecorded]:
        """The fills of an account after a version, up to another."""
        sql = (
            f"SELECT originator_id, originator_version, topic, state, {self._engine.POSITION} FROM stored_events "
            "WHERE originator_id=? AND originator_version>? AND originator_version<=? AND topic=? "
            "ORDER BY originator_version"
        )
        rows = self.select(sql, (account, after, upto, _topics[FillRecorded]))
        return [cast("FillRecorded", each.event) for each in _decoded(rows)]

    def has_session(self, account: str, session: str) -> bool:
        """Whether the opening of a session is recorded of an account."""
        sql = "SELECT 1 FROM natural_keys WHERE account=? AND at_ns=0 AND key=?"
        return bool(self.select(sql, (account, opened_key(session))))

    def last_version(self, account: str) -> int:
        """The version of an account's last event; 0 where it has none."""
        sql = "SELECT max(originator_version) FROM stored_events WHERE originator_id=?"
        return self.select(sql, (account,))[0][0] or 0

    def account(self, name: str) -> Account:
        """An account as far as its stored events brought it."""
        head = self.select(
            f"{self._engine.EVENTS} WHERE originator_id=? ORDER BY originator_version DESC LIMIT 1", (name,)
        )
        newest_ns = self.select("SELECT max(at_ns) FROM natural_keys WHERE account=?", (name,))
        version, sealed = (head[0][1], head[0][5]) if head else (0, None)
        return Account(name, version, newest_ns[0][0] or 0, sealed or self._made(name))

    def _made(self, account: str) -> bytes:
        """The seal that an account's last event ought to have; where it is gone, verify says so."""
        made, after = genesis(account), 0
        while page := self.sealed(account, after=after):
            for each in page:
                made = each.seal or seal(made, leaf(each.version, each.topic, each.state))
            after = page[-1].version
        return made

    def evidence(self, session: str, ordinal: int) -> bytes | None:
        """The raw bytes of a frame, or None where no event was made of it."""
        sql = f"SELECT {self._payload} FROM evidence WHERE session=? AND ordinal=?"
        rows = self.select(sql, (session, ordinal))
        return rows[0][0] if rows else None

    def evidence_between(self, session: str, first: int, last: int) -> dict[int, bytes]:
        """The raw bytes kept of a session's frames `first` to `last`, by ordinal."""
        sql = f"SELECT ordinal, {self._payload} FROM evidence WHERE session=? AND ordinal BETWEEN ? AND ?"
        return dict(self.select(sql, (session, first, last)))

    def last_ordinal(self, session: str) -> int:
        """The last frame of a session that an event was made of; 0 where there is none."""
        rows = self.select("SELECT max(ordinal) FROM evidence WHERE session=?", (session,))
        return rows[0][0] or 0

    def head(self) -> int:
        """The position of the last event; 0 in an empty ledger."""
        return self.select(f"SELECT max({self._engine.POSITION}) FROM stored_events")[0][0] or 0

    def select(self, sql: str, params: Sequence[Cell] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, whole: no read transaction stays open."""
        return self._engine.select(sql, params)

    def give_up_at(self, moment: float | None) -> None:
        """Try what may pass again until then at most; None: as long as ever."""
        self._engine.give_up_at(moment)

    def lease(self, name: str) -> Lease | None:
        """Take the right to something that one process does at a time; None where another has it."""
        if self.read_only:
            raise ReadOnly(f"{self.name}: opened with read_only=True")
        return self._engine.lease(name)

    def keep(self, lease: Lease) -> None:
        """See that a lease is ours still. Raises LeaseLost where another process has it, or had it since."""
        self._engine.keep(lease)

    def release(self, name: str) -> None:
        """Let another process have it."""
        self._engine.release(name)

    @contextmanager
    def following(self) -> Generator[Wait]:
        """What waits until something may have been appended since it was asked last, by any process."""
        with self._engine.following() as wait:
            yield wait

    def columns(self, table: str) -> set[str]:
        """The names of a table's columns; none where there is no such table."""
        return self._engine.columns(table)

    def definition(self, table: str) -> list[tuple[Any, ...]]:
        """How a table, and what belongs to it, is defined."""
        return self._engine.definition(table)

    @contextmanager
    def view(self) -> Generator[View]:
        """One moment of the whole store. Raises Unsealed where it is older than seals and opened to read only."""
        with self._engine.view() as view:
            yield view

    def sealed(self, account: str, *, after: int = 0, upto: int | None = None) -> list[Sealed]:
        """The next page of an account's events after version `after`, as they are stored, with their seals."""
        last = 1 << 62 if upto is None else upto
        where = "WHERE originator_id=? AND originator_version>? AND originator_version<=?"
        rows = self.select(
            f"{self._engine.EVENTS} {where} ORDER BY originator_version LIMIT ?",
            (account, after, last, PAGE_EVENTS_MAX),
        )
        return [Sealed(*row) for row in rows]

    def write(self, changes: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """Run statements, each with many rows of parameters, in one transaction. For projections' own tables. Those
        of `once` must change one row each, else nothing is done and Overtaken is raised."""
        if self.read_only:
            raise ReadOnly(f"{self.name}: opened with read_only=True")
        self._engine.write(changes, once)
