"""Every frame decoded once more: what today's venue modules make otherwise than it is stored.

Knows frames, the events made of them, a view of the store and the venues it is given; knows no seal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from msgspec import Struct, json
from msgspec.structs import replace

from ledger.account import Recorded
from ledger.decoding import as_decoded, decoded, storable
from ledger.events import (
    Event,
    FillRecorded,
    FrameQuarantined,
    FrameReleased,
    SessionOpened,
    Source,
    Statement,
    by_name,
    is_again,
    keyed_ns,
)
from ledger.findings import Finding
from ledger.retold import by_content
from ledger.venue import Frame, Venue
from ledger.view import View

Checker = Callable[[str, Event], None]
"""Raises where an event cannot be stored and read back."""


class Told(Struct):
    """A frame that was kept, and the events that were made of it; account, version and position are the first's."""

    source: Source
    account: str
    version: int
    position: int
    events: list[Recorded]
    """Empty where no frame is decoded again."""
    whole: bool = True
    """Whether nothing is known to be wrong with them: then they are compared with what is decoded again."""

    @property
    def name(self) -> str:
        """The frame, as findings call it."""
        return f"frame {self.source.ordinal} of session {self.source.session}"

    @property
    def late(self) -> bool:
        """Whether it had been quarantined, and was decoded after all."""
        return self.source.late_ns is not None

    def finding(self, what: str, reason: str) -> Finding:
        """Something wrong with the frame, named by the first event made of it."""
        return Finding(what, reason, self.account, self.version, self.position)


class Again:
    """Every frame decoded once more, by today's venue modules."""

    def __init__(self, view: View, venues: Mapping[str, Venue], check: Checker) -> None:
        self._view = view
        self._check = check
        self._venues = venues
        self._logins: dict[str, str] = {}
        self._readable: dict[tuple[str, int], list[Finding]] = {}
        """Quarantined frames that can be read today, as long as no later event was made of them."""

    def opened(self, account: str, event: Event) -> None:
        """Learn whose login a session is."""
        if isinstance(event, SessionOpened):
            self._logins[event.source.session] = account

    def check(self, told: Told, payload: bytes) -> Iterable[Finding]:
        """Decode a frame again."""
        source = told.source
        venue = self._venues.get(source.venue)
        if venue is None:
            return ()
        frame = Frame.of(source, self._logins.get(source.session, told.account), payload)
        said = _told_before(told, decoded(venue, frame))
        if not told.late and [(each.account, each.event) for each in told.events] == list(said):
            return ()
        kept = [
            (each, as_decoded(each.event))
            for each in told.events
            if not isinstance(each.event, FrameReleased)  # it is of no statement
        ]
        made = _reworded(told, storable(venue, frame, said, self._check))
        found = list(self._differences(told, kept, list(made)))
        first = told.events[0].event
        was_quarantined = not told.late and isinstance(first, FrameQuarantined) and len(kept) == 1
        if was_quarantined and not any(isinstance(event, FrameQuarantined) for _, event in made):
            if self._is_news(made):
                self._readable[(source.session, source.ordinal)] = found
            return ()
        return found

    def retried(self, told: Told) -> None:
        """Learn that a quarantined frame was decoded after all."""
        if told.late:
            self._readable.pop((told.source.session, told.source.ordinal), None)

    def left(self) -> Iterator[Finding]:
        """After the last event: of the quarantined frames that can be read today."""
        for found in self._readable.values():
            yield from found

    def _is_news(self, made: Sequence[Statement]) -> bool:
        return any(not self._is_known(account, event) for account, event in made)

    def _is_known(self, account: str, event: Event) -> bool:
        return bool(event.key) and self._view.has_key(account, keyed_ns(event), event.key)

    def _differences(
        self, told: Told, kept: Sequence[tuple[Recorded, Event]], made: list[Statement]
    ) -> Iterator[Finding]:
        """What is stored otherwise than it is decoded, event by event; what was refused as known is not missed."""
        changed: list[tuple[Recorded, Event]] = []
        for each, event in kept:
            if (each.account, event) in made:
                made.remove((each.account, event))
            else:
                changed.append((each, event))
        for each, event in changed:
            keyed = (each.account, event.key) if event.key else None
            other = next((said for said in made if (said[0], said[1].key) == keyed), None)
            other = other or max(made, key=partial(_likeness, each.account, type(event)), default=None)
            if other is not None:
                made.remove(other)
            yield _differs(each, event, other)
        last = told.events[-1]
        for account, event in made:
            if not self._is_known(account, event):
                reason = (
                    f"today's decoder makes one more event of its frame, of {account}: {type(event).__name__}"
                )
                yield Finding(
                    "decode", reason, last.account, last.version, last.position, decoded=_json(account, event)
                )


def _likeness(account: str, kind: type[Event], said: Statement) -> tuple[bool, bool]:
    """How like what is stored a statement is that has another natural key: of the same kind, of the same account."""
    return type(said[1]) is kind, said[0] == account


def _told_before(told: Told, made: Sequence[Statement]) -> Sequence[Statement]:
    """What is made of a frame, its fills under the keys of their content where they were told before, and otherwise."""
    fills = (each.event for each in told.events if isinstance(each.event, FillRecorded))
    again = {fill.key for fill in fills if is_again(fill)}
    if not again:
        return made
    by = [
        (account, by_content(event) if isinstance(event, FillRecorded) else event) for account, event in made
    ]
    return [other if other[1].key in again else one for one, other in zip(made, by, strict=True)]


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
