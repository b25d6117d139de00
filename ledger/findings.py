"""What may be found wrong with a ledger, as it is told, and by what findings are ordered.

Knows words and places; knows no store, no seal and no venue.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from msgspec import Struct


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


def damage_of(evidence: bytes, frame: bytes | None) -> str | None:
    """What happened to a frame since an event was made of it, which has the hash `evidence` of it; None: nothing."""
    if frame is None:
        return "the frame it was made of is gone"
    if sha256(frame).digest() != evidence:
        return f"the frame was changed since: it had SHA-256 {evidence.hex()}"
    return None


def first_bad(found: Iterable[Finding]) -> Finding | None:
    """The finding that names the first bad event; None where none does. What a decoder or a checkpoint says counts only
    where nothing is wrong with the events themselves: it may come of that."""
    return min((each for each in found if each.place), key=weight, default=None)


def weight(finding: Finding) -> tuple[bool, bool, int]:
    """By what findings are ordered, so that the first names the first bad event."""
    return finding.what in ("decode", "checkpoint"), finding.position is None, finding.position or 0
