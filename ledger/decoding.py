"""What a frame says, whatever it is: a venue's statements, or the frame in quarantine with the reason.

Knows a venue's shape, and what an event must be; knows no store. The same for the same frame, now and when it is
decoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Final

from msgspec import Struct, msgpack
from msgspec.structs import replace

from ledger import wire
from ledger.account import Recorded
from ledger.errors import Malformed
from ledger.events import (
    AMOUNTS,
    LATE,
    TOPICS,
    BalanceDelta,
    BalanceSnapshot,
    Event,
    FrameQuarantined,
    FrameReleased,
    SessionClosed,
    SessionOpened,
    Source,
    Statement,
    time_of,
)
from ledger.venue import Frame, Venue

REASON_CHARS_MAX: Final = 500
OURS: Final = "ledger.venues"

_encode: Final = msgpack.Encoder().encode
_READERS: Final = {kind: msgpack.Decoder(kind).decode for kind in TOPICS.values()}


def decoded(venue: Venue, frame: Frame) -> Sequence[Statement]:
    """What the venue module makes of a frame. Never raises: what cannot be read is quarantined."""
    try:
        said = tuple(venue.decode(frame))
        if isinstance(venue, ModuleType) and venue.__package__ == OURS:
            return said
        # Nobody has looked at what somebody else's module makes: what is stored stays for ever.
        place = frame.source("", "")
        return tuple((account, _checked(place, event)) for account, event in said)
    except Malformed as error:
        reason = str(error)
    except Exception as error:  # a defect of the venue module must not cost the frame either
        reason = f"{venue.NAME} decoder failed: {_told(error)}"
    return quarantined(venue, frame, reason)


def _checked(place: Source, event: Event) -> Event:
    """The event as it will be read back. Raises where it cannot be, is none that a frame makes, is not of the frame at
    this place, is of a time before 1970, or states an amount that is none."""
    if isinstance(event, SessionOpened | SessionClosed):
        raise ValueError("sessions are the ledger's own to tell of")
    read: Event = _READERS[type(event)](_encode(event))
    source = read.source
    if (source.session, source.ordinal, source.evidence) != (place.session, place.ordinal, place.evidence):
        raise ValueError("the source of an event is not that of its frame")
    if (time_ns := time_of(read)) < 0:
        raise ValueError(f"a time before 1970: {time_ns}")
    parts: list[Struct] = [read]
    if isinstance(read, BalanceSnapshot | BalanceDelta):
        parts += read.balances
        parts += [each.valuation for each in read.balances if each.valuation is not None]
    said = [getattr(part, name) for part in parts for name in AMOUNTS[type(part)]]
    wire.amounts([text for text in said if text is not None])
    return read


def storable(
    venue: Venue, frame: Frame, said: Sequence[Statement], check: Callable[[str, Event], None]
) -> Sequence[Statement]:
    """What a frame says, if `check` lets all of it be stored; else the frame in quarantine."""
    try:
        for account, event in said:
            check(account, event)
    except Exception as error:
        reason = f"{venue.NAME} decoder made what cannot be stored: {_told(error)}"
        return quarantined(venue, frame, reason)
    return said


def _told(error: Exception) -> str:
    """What an error says of itself; one of somebody else's may fail at that, too."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def late_statement(said: Statement, number: int, late_ns: int) -> Statement:
    """A statement of a frame that was quarantined first, marked so. Without a natural key of its own it gets its place:
    it must not be recorded twice, however often the frame is decoded."""
    account, event = said
    source = event.source
    key = event.key or f"{LATE}{source.session}:{source.ordinal}:{number}"
    return account, replace(event, source=replace(source, late_ns=late_ns), key=key)


def released(quarantine: Recorded, late_ns: int) -> Statement:
    """That a frame is quarantined no longer, of which no event can be made that is new. It counts in no sequence: what
    it says was counted where it was new."""
    source = replace(quarantine.event.source, late_ns=late_ns, sequence=None)
    return quarantine.account, FrameReleased(source, f"{LATE}{source.session}:{source.ordinal}:0")


def as_decoded(event: Event) -> Event:
    """An event without the mark that it is late: as the venue module makes it."""
    if event.source.late_ns is None:
        return event
    key = "" if event.key.startswith(LATE) else event.key
    return replace(event, source=replace(event.source, late_ns=None), key=key)


def quarantined(venue: Venue, frame: Frame, reason: str) -> Sequence[Statement]:
    """The frame kept whole, with the reason why no event could be made of it."""
    reason = reason.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be stored
    named = frame.conversation not in ("", frame.session)
    # Of what is not understood nobody knows the subscription; of which conversation it is, `Frame.of` asks.
    source = frame.source(venue.NAME, "", subscription=f"{frame.conversation}/" if named else None)
    # Who asks again and is answered the same was told nothing new; what is pushed again may be news.
    key = "" if frame.asked is None else f"answer:{source.evidence.hex()}"
    return [(frame.account, FrameQuarantined(source, key, reason[:REASON_CHARS_MAX]))]
