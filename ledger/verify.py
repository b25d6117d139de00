"""Whether a store still says what it was told: every seal, frame, key and decoding checked again.

Knows a view of the store, seals and checkpoints; knows no venue but those it is given. One pass in the order of
positions; its memory grows with the number of accounts and sessions only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct, json
from msgspec.structs import replace

from ledger.account import Recorded
from ledger.decoding import as_decoded, decoded, storable
from ledger.errors import Corrupt, StoreError
from ledger.events import Event, FrameQuarantined, SessionOpened, Source, Statement, by_name, keyed_ns
from ledger.notes import Checkpoint, Head
from ledger.seal import Sealed, Tree, genesis, leaf, seal
from ledger.venue import Frame, Venue
from ledger.view import View

STEP_EVENTS: Final = 1_000
TOPIC_CHARS_MAX: Final = 64


class Finding(Struct, frozen=True, omit_defaults=True):
    """Something wrong. `what`: `seal` (a stored event is not the one that was sealed), `missing` (events are gone),
    `event` (one cannot be read), `frame` (evidence changed, gone or of nobody), `key` (a natural key changed), `decode`
    (today's venue module makes something else of the frame), `checkpoint`, `file` (the database is damaged). The
    command line adds `projection` (stored rows are not what the events fold to) and `memory` (of conversations)."""

    what: str
    reason: str
    account: str | None = None
    version: int | None = None
    position: int | None = None
    stored: str | None = None
    """The event as it is stored (JSON), where another was decoded."""
    decoded: str | None = None
    """The event that is decoded today (JSON); None where there is none."""

    def sentence(self) -> str:
        """What a person is told of it."""
        return f"{self.place}: {self.reason}" if self.place else self.reason

    @property
    def place(self) -> str:
        """The event it names: account, version and position; empty where it names none."""
        where = "" if self.position is None else f"position {self.position}"
        if self.account is None or self.version is None:
            return where
        return f"{self.account} version {self.version}" + (f" ({where})" if where else "")


class Told(Struct):
    """A frame that was kept, and the events that were made of it."""

    session: str
    ordinal: int
    events: list[Recorded]
    whole: bool = True
    """Whether nothing is known to be wrong with them: then they are compared with what is decoded again."""

    def is_of(self, source: Source) -> bool:
        """Whether an event with that source was made of this frame, in the same go."""
        mine = self.events[0].event.source
        return (mine.session, mine.ordinal, mine.evidence, mine.late_ns) == (
            source.session,
            source.ordinal,
            source.evidence,
            source.late_ns,
        )

    @property
    def late(self) -> bool:
        """Whether it had been quarantined, and was decoded after all."""
        return self.events[0].event.source.late_ns is not None

    def finding(self, what: str, reason: str) -> Finding:
        """Something wrong with the frame, named by the first event made of it."""
        first = self.events[0]
        return Finding(what, reason, first.account, first.version, first.position)


Reader = Callable[[Sealed], Recorded]
Checker = Callable[[str, Event], None]
"""Raises where an event cannot be stored and read back."""


def verify(
    view: View,
    read: Reader,
    check: Checker,
    venues: Iterable[Venue] = (),
    checkpoints: Sequence[Checkpoint] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Finding]:
    """Everything wrong with a store, in the order of positions; then what is gone from its end, and of its file.

    `checkpoints` are trusted: check their signatures first. `advance` is told how many more events were checked.
    """
    chain = Chain()
    try:
        again = _Again(view, {venue.NAME: venue for venue in venues}, check)
        yield from _verify(view, read, chain, again, checkpoints, advance)
    except StoreError as error:  # SQLite itself cannot read on
        yield Finding("file", f"after this position it cannot be read: {error}", position=chain.position)


def _verify(
    view: View,
    read: Reader,
    chain: Chain,
    again: _Again,
    checkpoints: Sequence[Checkpoint],
    advance: Callable[[int], None],
) -> Iterator[Finding]:
    against = [_Against(checkpoint) for checkpoint in checkpoints]
    keys = _Keys(view)
    frames = _Frames(view)
    told: Told | None = None
    for count, stored in enumerate(view.events(), 1):
        if count % STEP_EVENTS == 0:
            advance(STEP_EVENTS)
        recorded, wrong = _taken(stored, read, chain)
        yield from wrong
        if wrong and told is not None:
            told.whole = False
        if recorded is None:
            keys.unreadable += 1
            continue
        for each in against:
            yield from each.check(stored)
        keys.add(recorded)
        again.opened(recorded)
        source = recorded.event.source
        if told is not None and told.is_of(source):
            told.events.append(recorded)
            continue
        if told is not None:
            yield from _frame(told, frames, again)
        told = Told(source.session, source.ordinal, [recorded], not wrong) if source.evidence else None
    gone = [*(found for each in against for found in each.end(chain.heads)), *chain.end(view)]
    if told is not None:
        told.whole = told.whole and not gone
        yield from _frame(told, frames, again)
    yield from gone
    yield from again.left()
    yield from frames.end()
    yield from keys.end(read)
    yield from (Finding("file", problem) for problem in view.problems())


def _taken(stored: Sealed, read: Reader, chain: Chain) -> tuple[Recorded | None, list[Finding]]:
    """The next event, if it can be read, and what is wrong with it or between it and the one before it."""
    if not _sound(stored):
        return None, list(chain.skip(stored))
    wrong = list(chain.check(stored))
    try:
        return read(stored), wrong
    except Corrupt as why:
        return None, [*wrong, Finding("event", str(why), stored.account, stored.version, stored.position)]


def first_bad(found: Iterable[Finding]) -> Finding | None:
    """The finding that names the first bad event; None where none does. What a decoder or a checkpoint says counts only
    where nothing is wrong with the events themselves: it may come of that."""
    return min((each for each in found if each.place), key=weight, default=None)


def weight(finding: Finding) -> tuple[bool, bool, int]:
    """By what findings are ordered, so that the first names the first bad event."""
    return finding.what in ("decode", "checkpoint"), finding.position is None, finding.position or 0


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


def stand(view: View, origin: str) -> Checkpoint:
    """Where a store that was verified stands."""
    heads: dict[str, Head] = {}
    tree = Tree()
    for stored in view.events():
        tree.append(stored.seal or b"")
        heads[stored.account] = Head(stored.version, stored.seal or b"")
    return Checkpoint(origin, tree.size, tree.root(), heads)


def _frame(told: Told, frames: _Frames, again: _Again) -> Iterator[Finding]:
    again.retried(told)
    payload = yield from frames.check(told)
    if payload is not None and told.whole:
        yield from again.check(told, payload)


class Chain:
    """The seals: each event's from the one before it in its account."""

    def __init__(self) -> None:
        self.heads: dict[str, Head] = {}
        self.position = 0
        self._made: dict[str, bytes] = {}
        """What a damaged seal ought to have been, by account: the event after it may rest on either."""

    def check(self, stored: Sealed) -> Iterator[Finding]:
        """Take the next event."""
        account, version, position = stored.account, stored.version, stored.position
        if position != self.position + 1:
            reason = f"positions {self.position + 1} to {position - 1} are gone"
            yield Finding("missing", reason, position=self.position + 1)
        self.position = position
        head = self.heads.get(account) or Head(0, genesis(account))
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
        self.heads[account] = Head(version, made if stored.seal is None else stored.seal)

    def skip(self, stored: Any) -> Iterator[Finding]:
        """Take an event in whose row not even the types are right."""
        self.position = stored.position
        named = isinstance(stored.account, str) and isinstance(stored.version, int)
        account, version = (stored.account, stored.version) if named else (None, None)
        yield Finding("event", "its row is damaged", account, version, stored.position)

    def end(self, view: View) -> Iterator[Finding]:
        """After the last event."""
        events, seals = view.counts()
        if seals > events:
            yield Finding("missing", f"{seals - events} seals are of no event: events are gone from the end")


class _Against:
    """The store beside a checkpoint of it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tree = Tree()
        self._seen = set[str]()
        self._wrong = False

    def check(self, stored: Sealed) -> Iterator[Finding]:
        said, tree = self._checkpoint, self._tree
        if tree.size == said.size:
            return  # the checkpoint does not speak of what came after it
        tree.append(stored.seal or b"")
        head = said.heads.get(stored.account)
        if head is not None and head.version == stored.version:
            self._seen.add(stored.account)
            if head.seal != stored.seal:
                self._wrong = True
                reason = f"another seal than in the checkpoint of {said.size} events: it was changed, or one before it"
                yield Finding("checkpoint", reason, stored.account, stored.version, stored.position)
        if tree.size == said.size and tree.root() != said.root and not self._wrong:
            self._wrong = True
            reason = f"the first {said.size} events are not those of the checkpoint, or in another order"
            yield Finding("checkpoint", reason, position=stored.position)

    def end(self, heads: Mapping[str, Head]) -> Iterator[Finding]:
        said = self._checkpoint
        for account, head in said.heads.items():
            if account in self._seen:
                continue
            last = heads[account].version if account in heads else 0
            reason = f"the checkpoint of {said.size} events knows version {head.version}, the ledger ends at {last}"
            yield Finding("missing", reason, account, min(last + 1, head.version))
        if self._tree.size < said.size:
            yield Finding(
                "missing", f"the checkpoint knows {said.size} events, the ledger has {self._tree.size}"
            )
        size = sum(head.version for head in said.heads.values())
        if size != said.size or (not said.size and said.root != Tree().root()):
            yield Finding("checkpoint", f"it speaks of {said.size} events, its heads of {size}")


class _Frames:
    """The evidence: kept once, in the order of the first events made of it, and just what those events say it is."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stored = view.frames()
        self._next = next(self._stored, None)

    def check(self, told: Told) -> Generator[Finding, None, bytes | None]:
        """The frame's bytes, if they are there and unchanged."""
        kept = self._next
        if kept is None or (kept.session, kept.ordinal) != (told.session, told.ordinal):
            kept = self._view.frame(told.session, told.ordinal)
            while kept is not None and self._next is not None and self._next.row < kept.row:
                reason = (
                    f"before it, frame {self._next.ordinal} of session {self._next.session} is of no event"
                )
                yield told.finding("frame", reason)
                self._next = next(self._stored, None)
        if kept is not None and self._next is not None and self._next.row == kept.row:
            self._next = next(self._stored, None)
        if kept is None:
            yield told.finding("frame", f"frame {told.ordinal} of session {told.session} is gone")
            return None
        payload: Any = kept.payload
        digest = sha256(payload).digest() if isinstance(payload, bytes) else b""
        if any(each.event.source.evidence != digest for each in told.events):
            yield told.finding("frame", f"frame {told.ordinal} of session {told.session} was changed")
            return None
        return kept.payload

    def end(self) -> Iterator[Finding]:
        while self._next is not None:
            yield Finding(
                "frame", f"frame {self._next.ordinal} of session {self._next.session} is of no event"
            )
            self._next = next(self._stored, None)


class _Keys:
    """The natural keys: those of the events, and no others. Compared by a sum, so that no list is kept."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._sum = 0
        self._count = 0
        self.unreadable = 0

    def add(self, recorded: Recorded) -> None:
        event = recorded.event
        if event.key:
            self._count += 1
            self._sum += hash((recorded.account, keyed_ns(event), event.key))

    def end(self, read: Reader) -> Iterator[Finding]:
        if self.unreadable:
            return  # their keys are not known
        count = total = 0
        for key in self._view.natural_keys():
            count += 1
            # bytes hash like text
            total += hash(key) if (type(key[0]), type(key[2])) == (str, str) else 1
        if (count, total) != (self._count, self._sum):
            yield from self._named(read)
            yield Finding(
                "key", f"{count} natural keys are stored, the events have {self._count}, or they differ"
            )

    def _named(self, read: Reader) -> Iterator[Finding]:
        for stored in self._view.events():
            event = read(stored).event
            if event.key and not self._view.has_key(stored.account, keyed_ns(event), event.key):
                reason = "its natural key is not stored: told again, it would be doubled"
                yield Finding("key", reason, stored.account, stored.version, stored.position)


class _Again:
    """Every frame decoded once more, by today's venue modules."""

    def __init__(self, view: View, venues: Mapping[str, Venue], check: Checker) -> None:
        self._view = view
        self._check = check
        self._venues = venues
        self._logins: dict[str, str] = {}
        self._readable: dict[tuple[str, int], list[Finding]] = {}
        """Quarantined frames that can be read today, as long as no later event was made of them."""

    def opened(self, recorded: Recorded) -> None:
        """Learn whose login a session is."""
        if self._venues and isinstance(recorded.event, SessionOpened):
            self._logins[recorded.event.source.session] = recorded.account

    def check(self, told: Told, payload: bytes) -> Iterator[Finding]:
        first = told.events[0]
        source = first.event.source
        venue = self._venues.get(source.venue)
        if venue is None:
            return
        account = self._logins.get(told.session, first.account)
        frame = Frame.of(source, account, payload)
        said = decoded(venue, frame)
        if not told.late and [(each.account, each.event) for each in told.events] == list(said):
            return
        kept = [(each, as_decoded(each.event)) for each in told.events]
        made = _reworded(told, storable(venue, frame, said, self._check))
        found = list(self._differences(kept, list(made)))
        was_quarantined = not told.late and isinstance(first.event, FrameQuarantined) and len(kept) == 1
        if was_quarantined and not any(isinstance(event, FrameQuarantined) for _, event in made):
            if self._is_news(made):
                self._readable[(told.session, told.ordinal)] = found
            return
        yield from found

    def retried(self, told: Told) -> None:
        """Learn that a quarantined frame was decoded after all."""
        if told.late:
            self._readable.pop((told.session, told.ordinal), None)

    def left(self) -> Iterator[Finding]:
        for found in self._readable.values():
            yield from found

    def _is_news(self, made: Sequence[Statement]) -> bool:
        return any(not self._is_known(account, event) for account, event in made)

    def _is_known(self, account: str, event: Event) -> bool:
        return bool(event.key) and self._view.has_key(account, keyed_ns(event), event.key)

    def _differences(
        self, kept: Sequence[tuple[Recorded, Event]], made: list[Statement]
    ) -> Iterator[Finding]:
        """What is stored otherwise than it is decoded, event by event; what was refused as known is not missed."""
        changed: list[tuple[Recorded, Event]] = []
        for each, event in kept:
            if (each.account, event) in made:
                made.remove((each.account, event))
            else:
                changed.append((each, event))
        for each, event in changed:
            other = next(
                (said for said in made if said[0] == each.account and said[1].key == event.key), None
            )
            other = other or next((said for said in made if type(said[1]) is type(event)), None)
            other = other or next((said for said in made), None)
            if other is not None:
                made.remove(other)
            yield _differs(each, event, other)
        last = kept[-1][0]
        for account, event in made:
            if not self._is_known(account, event):
                reason = (
                    f"today's decoder makes one more event of its frame, of {account}: {type(event).__name__}"
                )
                yield Finding(
                    "decode", reason, last.account, last.version, last.position, decoded=_json(account, event)
                )


def _reworded(told: Told, made: Sequence[Statement]) -> list[Statement]:
    """What is made of a frame, a quarantine with the reason it had: the words in which it is refused may change."""
    reasons = [each.event.reason for each in told.events if isinstance(each.event, FrameQuarantined)]
    return [
        (account, replace(event, reason=reasons[0]))
        if reasons and isinstance(event, FrameQuarantined) and event.reason not in reasons
        else (account, event)
        for account, event in made
    ]


def _differs(each: Recorded, event: Event, other: Statement | None) -> Finding:
    reason = "today's decoder makes no such event of its frame"
    if other is not None:
        now = type(other[1]).__name__
        reason = f"today's decoder makes a different {now} of its frame"
        if isinstance(event, FrameQuarantined) and not isinstance(other[1], FrameQuarantined):
            reason = f"quarantined, but today's decoder makes a {now} of it: accountledger quarantine retry"
    made = None if other is None else _json(*other)
    return Finding(
        "decode", reason, each.account, each.version, each.position, _json(each.account, event), made
    )


def _json(account: str, event: Event) -> str:
    return json.encode({"account": account, "event": type(event).__name__, **by_name(event)}).decode()
