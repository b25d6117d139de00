"""What a frame says, whatever it is: a venue's statements, or the frame in quarantine with the reason.

Knows a venue's shape; knows no store. The same for the same frame, now and when it is decoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.errors import Malformed
from ledger.events import FrameQuarantined, Statement
from ledger.venue import Frame, Venue

REASON_CHARS_MAX: Final = 500


def decoded(venue: Venue, frame: Frame) -> Sequence[Statement]:
    """What the venue module makes of a frame. Never raises: what cannot be read is quarantined."""
    try:
        return tuple(venue.decode(frame))
    except Malformed as error:
        reason = str(error)
    except Exception as error:  # a defect of the venue module must not cost the frame either
        reason = f"{venue.NAME} decoder failed: {type(error).__name__}: {error}"
    return quarantined(venue, frame, reason)


def quarantined(venue: Venue, frame: Frame, reason: str) -> Sequence[Statement]:
    """The frame kept whole, with the reason why no event could be made of it."""
    reason = reason.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be stored
    source = frame.source(venue.NAME, "")
    # Who asks again and is answered the same was told nothing new; what is pushed again may be news.
    key = "" if frame.asked is None else f"answer:{source.evidence.hex()}"
    return [(frame.account, FrameQuarantined(source, key, reason[:REASON_CHARS_MAX]))]
