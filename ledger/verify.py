"""Whether a store still says what it was told: every seal, frame, key and decoding checked again.

Knows a view of the store, seals and checkpoints; knows no venue but those it is given. One pass in the order of
positions; its memory grows with the number of accounts and sessions only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from itertools import starmap
from typing import Any, Final, TypeAlias

from msgspec import Struct

from ledger.account import Recorded
from ledger.errors import Corrupt, StoreError
from ledger.events import TOPICS, Event, Source, keyed_ns
from ledger.findings import Finding
from ledger.notes import Checkpoint, Head
from ledger.redecode import Again, Told
from ledger.seal import Sealed, Tree, genesis, leaf, seal
from ledger.venue import Venue
from ledger.view import FrameRow, Kept, Row, View

STEP_EVENTS: Final = 1_000
TOPIC_CHARS_MAX: Final = 64

_NAMED: Final = {topic: bytes([len(topic)]) + topic.encode() for topic in TOPICS}
"""Each topic as it is hashed."""

Checker: TypeAlias = Callable[[str, Event], None]
"""Raises where an event cannot be stored and read back."""
Advance: TypeAlias = Callable[[int], None]
"""Is told how many more events were checked."""


class Reader(Struct, frozen=True):
    """How stored events are read: `decoders`, by topic, may raise anything; `read` raises Corrupt with a reason."""

    decoders: Mapping[str, Callable[[bytes], Event]]
    read: Callable[[Sealed], Recorded]


def verify(
    view: View,
    reader: Reader,
    check: Checker,
    venues: Iterable[Venue] = (),
    checkpoints: Sequence[Checkpoint] = (),
    advance: Advance = lambda _: None,
) -> Iterator[Finding]:
    """Everything wrong with a store, in the order of positions; then what is gone from its end, and of its file.

    `checkpoints` are trusted: check their signatures first.
    """
    again = Again(view, named, check) if (named := {venue.NAME: venue for venue in venues}) else None
    return _found(view, reader, Chain(), again, [_Against(each) for each in checkpoints], advance)


def stand(
    view: View,
    reader: Reader,
    origin: str,
    before: Sequence[Checkpoint] = (),
    advance: Advance = lambda _: None,
) -> Checkpoint:
    """Where a store stands, verified in the same pass. Raises Corrupt where anything is wrong with it, or where it does
    not go on from the checkpoints `before`."""
    chain, tree = Chain(), _Growth()
    beside: list[_Beside] = [*map(_Against, before), tree]
    with closing(_found(view, reader, chain, None, beside, advance)) as found:
        for finding in found:
            raise Corrupt(f"{view.name}: not signed: {finding.sentence()}")
    heads = {account: Head(head.version, head.seal) for account, head in chain.heads.items()}
    return Checkpoint(origin, tree.tree.size, tree.tree.root(), heads)


def _found(
    view: View,
    reader: Reader,
    chain: Chain,
    again: Again | None,
    beside: Sequence[_Beside],
    advance: Advance,
) -> Generator[Finding]:
    try:
        with view.inspected() as problems:
            yield from _verify(view, reader, chain, again, beside, advance)
            yield from (Finding("file", problem) for problem in problems())
    except StoreError as error:  # SQLite itself cannot read on
        yield Finding("file", f"after this position it cannot be read: {error}", position=chain.position)


def _verify(
    view: View,
    reader: Reader,
    chain: Chain,
    again: Again | None,
    beside: Sequence[_Beside],
    advance: Advance,
) -> Iterator[Finding]:
    """The ordinary event, of which all is right, costs no object but itself: whatever is not plainly so is looked at
    again by the rooms below, which find the words for it."""
    keys, frames = _Keys(view), _Frames(view)
    source: Source | None = None
    """The source of the frame whose events are being read; below, the first of them, and all if decoded again."""
    first: Row = ("", 0, "", b"", 0, None)
    events: list[Recorded] = []
    whole = True
    unread = False
    """Whether an event that cannot be read came after the last one that can: it may be the first of a frame."""
    for count, row in enumerate(view.events(), 1):
        if not count % STEP_EVENTS:
            advance(STEP_EVENTS)
        event = chain.follows(row, reader.decoders)
        right = True
        if event is None:
            recorded, wrong = taken(Sealed(*row), reader, chain)
            yield from wrong
            whole = whole and not wrong
            right = not wrong
            event = None if recorded is None else recorded.event
            sealed: Any = row[5]
            if not isinstance(sealed, bytes | None):
                row = (*row[:5], None)
        for each in beside:
            yield from each.check(row)
        if event is None:
            keys.unreadable += 1
            unread = True
            continue
        if event.key:
            keys.add(row[0], event)
        mine = event.source
        if again is not None:
            again.opened(row[0], event)
        if source is None or mine.ordinal != source.ordinal or not is_one_frame(mine, source):
            if source is not None:
                payload = frames.take(source)
                if payload is None or again is not None:
                    told = Told(source, first[0], first[1], first[4], events, whole)
                    yield from _frame(told, payload, frames, again)
            source, first, whole, events = mine if mine.evidence else None, row, right and not unread, []
            frames.unread = frames.unread or unread
        unread = False
        if again is not None:
            events.append(Recorded(row[0], row[1], event, row[4]))
    gone = [*(found for each in beside for found in each.end(chain.heads)), *chain.end(view)]
    if source is not None:
        told = Told(source, first[0], first[1], first[4], events, whole and not gone)
        yield from _frame(told, frames.take(source), frames, again)
    yield from gone
    if again is not None:
        yield from again.left()
    frames.unread = frames.unread or unread
    yield from frames.end()
    yield from keys.end(reader)


def taken(stored: Sealed, reader: Reader, chain: Chain) -> tuple[Recorded | None, list[Finding]]:
    """The next event, if it can be read, and what is wrong with it or between it and the one before it."""
    if not _sound(stored):
        return None, list(chain.skip(stored))
    wrong = list(chain.check(stored))
    try:
        return reader.read(stored), wrong
    except Corrupt as why:
        return None, [*wrong, Finding("event", str(why), stored.account, stored.version, stored.position)]


def is_one_frame(one: Source, other: Source) -> bool:
    """Whether events with these sources were made of one frame, in the same go."""
    return (
        one.ordinal == other.ordinal
        and one.evidence == other.evidence
        and one.session == other.session
        and one.late_ns == other.late_ns
    )


def _sound(stored: Any) -> bool:
    """Whether a row holds what such a row can hold: damage may have changed even its types."""
    return (
        isinstance(stored.account, str)
        and isinstance(stored.version, int)
        and isinstance(stored.topic, str)
        and isinstance(stored.state, bytes)
        and isinstance(stored.seal, bytes | None)
        and stored.version >= 0
        and len(stored.topic) < TOPIC_CHARS_MAX
    )


def _frame(told: Told, payload: bytes | None, frames: _Frames, again: Again | None) -> Iterator[Finding]:
    """What is wrong with a frame; `payload` are its bytes, where they are known to be right."""
    if again is not None:
        again.retried(told)
    if payload is None:
        payload = yield from frames.check(told)
    if again is not None and payload is not None and told.whole:
        yield from again.check(told, payload)


class Standing(Struct):
    """The version of an account's last event so far, and its seal."""

    version: int
    seal: bytes


class Chain:
    """The seals: each event's from the one before it in its account."""

    def __init__(self) -> None:
        self.heads: dict[str, Standing] = {}
        self.position = 0
        self._made: dict[str, bytes] = {}
        """What a damaged seal ought to have been, by account: the event after it may rest on either."""

    def follows(self, row: Row, decoders: Mapping[str, Callable[[bytes], Event]]) -> Event | None:
        """Take the next event where all is right with it; else nothing is taken, and `check` finds out what it is."""
        account, version, topic, state, position, sealed = row
        try:
            event = decoders[topic](state)
            head = self.heads[account]
            # `seal` and `leaf` written out, for every event passes here
            hashed = sha256(version.to_bytes(9, "big") + _NAMED[topic] + state).digest()
            made = sha256(b"\x01" + head.seal + hashed).digest()
        except Exception:
            return None
        if made != sealed or version != head.version + 1 or position != self.position + 1 or self._made:
            return None
        self.position = position
        head.version = version
        head.seal = made
        return event

    def check(self, stored: Sealed) -> Iterator[Finding]:
        """Take the next event, whatever is wrong with it."""
        account, version, position = stored.account, stored.version, stored.position
        if position != self.position + 1:
            reason = f"positions {self.position + 1} to {position - 1} are gone"
            yield Finding("missing", reason, position=self.position + 1)
        self.position = position
        head = self.heads.get(account) or Standing(0, genesis(account))
        made = seal(head.seal, leaf(version, stored.topic, stored.state))
        if version != head.version + 1:
            reason = f"version {version} follows {head.version}: what was between is gone, or elsewhere"
            if head.version:
                yield Finding("missing", reason, account, head.version + 1, position)
            else:  # perhaps another's, whose name was changed
                yield Finding("missing", f"of {account}, {reason}", position=position)
        elif stored.seal is None:
            yield Finding("seal", "its seal is gone", account, version, position)
        elif stored.seal != made:
            other = self._made.pop(account, None)
            if other is None or stored.seal != seal(other, leaf(version, stored.topic, stored.state)):
                yield Finding("seal", "not the event that was sealed here", account, version, position)
                self._made[account] = made
        else:
            self._made.pop(account, None)
        self.heads[account] = Standing(version, made if stored.seal is None else stored.seal)

    def skip(self, stored: Any) -> Iterator[Finding]:
        """Take an event in whose row not even the types are right."""
        self.position = stored.position
        named = isinstance(stored.account, str) and isinstance(stored.version, int)
        account, version = (stored.account, stored.version) if named else (None, None)
        yield Finding("event", "its row is damaged", account, version, stored.position)

    def end(self, view: View) -> Iterator[Finding]:
        """After the last event."""
        if not (orphans := view.orphaned_seals()):
            return
        if 0 < (first := view.first_orphan()) <= self.position:
            reason = f"{orphans} seals from here on are of no event: events are gone"
            yield Finding("missing", reason, position=first)
        else:
            yield Finding("missing", f"{orphans} seals are of no event: events are gone from the end")


class _Against:
    """The store beside a checkpoint of it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._versions = {account: head.version for account, head in checkpoint.heads.items()}
        self._left = checkpoint.size
        self._tree = Tree()
        self._seen = set[str]()
        self._wrong = False

    def check(self, row: Row) -> Sequence[Finding]:
        """Take the next event."""
        if not self._left:
            return ()  # the checkpoint does not speak of what came after it
        self._left -= 1
        self._tree.append(row[5] or b"")
        if self._left and self._versions.get(row[0]) != row[1]:
            return ()
        said, stored = self._checkpoint, Sealed(*row)
        head = said.heads.get(stored.account)
        if head is not None and head.version == stored.version:
            self._seen.add(stored.account)
            if head.seal != stored.seal:
                self._wrong = True
                reason = f"another seal than in the checkpoint of {said.size} events: it was changed, or one before it"
                return (Finding("checkpoint", reason, stored.account, stored.version, stored.position),)
        if not self._left and self._tree.root() != said.root and not self._wrong:
            self._wrong = True
            reason = f"the first {said.size} events are not those of the checkpoint, or in another order"
            return (Finding("checkpoint", reason, position=stored.position),)
        return ()

    def end(self, heads: Mapping[str, Standing]) -> Iterator[Finding]:
        """After the last event."""
        said = self._checkpoint
        for account, head in said.heads.items():
            if account in self._seen:
                continue
            last = heads[account].version if account in heads else 0
            reason = (
                f"the checkpoint of {said.size} events knows version {head.version}, the ledger ends at {last}"
                if last < head.version
                else f"the first {said.size} events are not those of the checkpoint: this one is not among them"
            )
            yield Finding("missing", reason, account, min(last + 1, head.version))
        if self._tree.size < said.size:
            yield Finding(
                "missing", f"the checkpoint knows {said.size} events, the ledger has {self._tree.size}"
            )
        size = sum(head.version for head in said.heads.values())
        if size != said.size or (not said.size and said.root != Tree().root()):
            yield Finding("checkpoint", f"it speaks of {said.size} events, its heads of {size}")


class _Growth:
    """The tree over all seals, to be signed."""

    def __init__(self) -> None:
        self.tree = Tree()

    def check(self, row: Row) -> Sequence[Finding]:
        """Take the next event."""
        self.tree.append(row[5] or b"")
        return ()

    def end(self, _: Mapping[str, Standing]) -> Sequence[Finding]:
        """After the last event."""
        return ()


_Beside: TypeAlias = _Against | _Growth


class _Frames:
    """The evidence: kept once, in the order of the first events made of it, and just what those events say it is."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stored = view.frames()
        self._next: FrameRow | None = next(self._stored, None)
        self.unread = False
        """Whether what is next may be of events that cannot be read: then it is not said to be of none."""

    def take(self, source: Source) -> bytes | None:
        """The bytes of the frame that is next, where it is the one named and unchanged; else nothing is taken, and
        `check` finds out what it is."""
        if self._next is None:
            return None
        _, session, ordinal, payload = self._next
        if (
            ordinal != source.ordinal
            or session != source.session
            or type(payload) is not bytes
            or sha256(payload).digest() != source.evidence
        ):
            return None
        self._next = next(self._stored, None)
        self.unread = False
        return payload

    def check(self, told: Told) -> Generator[Finding, None, bytes | None]:
        """The frame's bytes, if they are there and unchanged."""
        session, ordinal = told.source.session, told.source.ordinal
        after = self._after
        kept = after
        if kept is None or (kept.session, kept.ordinal) != (session, ordinal):
            kept = self._view.frame(session, ordinal)
            while kept is not None and after is not None and after.row < kept.row:
                if not self.unread:
                    reason = f"before it, frame {after.ordinal} of session {after.session} is of no event"
                    yield told.finding("frame", reason)
                after = self._go_on()
        if kept is not None and after is not None and after.row == kept.row:
            self._go_on()
            self.unread = False
        if kept is None:
            yield told.finding("frame", f"{told.name} is gone")
            return None
        payload: Any = kept.payload
        if not isinstance(payload, bytes) or sha256(payload).digest() != told.source.evidence:
            yield told.finding("frame", f"{told.name} was changed")
            return None
        return payload

    @property
    def _after(self) -> Kept | None:
        return None if self._next is None else Kept(*self._next)

    def _go_on(self) -> Kept | None:
        self._next = next(self._stored, None)
        return self._after

    def end(self) -> Iterator[Finding]:
        """After the last event."""
        if self.unread:
            return
        while (kept := self._after) is not None:
            yield Finding("frame", f"frame {kept.ordinal} of session {kept.session} is of no event")
            self._go_on()


class _Keys:
    """The natural keys: those of the events, and no others. Compared by a sum, so that no list is kept: of squares, for
    the hash of a tuple is nearly a sum of its parts, and two keys that changed places would be the same sum."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._sum = 0
        self._count = 0
        self.unreadable = 0

    def add(self, account: str, event: Event) -> None:
        """Take the natural key of the next event."""
        hashed = hash((account, keyed_ns(event), event.key))
        self._count += 1
        self._sum += hashed * hashed

    def end(self, reader: Reader) -> Iterator[Finding]:
        """After the last event."""
        if self.unreadable:
            return  # their keys are not known
        count = total = 0
        for key in self._view.natural_keys():
            account, _, name = key
            hashed = hash(key) if type(account) is str and type(name) is str else 1  # bytes hash like text
            count += 1
            total += hashed * hashed
        if (count, total) != (self._count, self._sum):
            yield from self._named(reader)
            yield Finding(
                "key", f"{count} natural keys are stored, the events have {self._count}, or they differ"
            )

    def _named(self, reader: Reader) -> Iterator[Finding]:
        for stored in starmap(Sealed, self._view.events()):
            event = reader.read(stored).event
            if event.key and not self._view.has_key(stored.account, keyed_ns(event), event.key):
                reason = "its natural key is not stored: told again, it would be doubled"
                yield Finding("key", reason, stored.account, stored.version, stored.position)
