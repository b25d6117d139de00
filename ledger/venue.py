"""What a venue is: a module with a NAME and a pure `decode`.

Knows no venue, no socket, no clock. A third party's venue is any module of this shape; there is nothing to register.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

from msgspec import Struct

from ledger.events import Source, Statement


class Frame(Struct, frozen=True, gc=False):
    """One inbound message, as it came."""

    account: str
    """The account of the login, `venue:label`; events may name others (many subaccounts on one socket)."""
    session: str
    ordinal: int
    """Place in the conversation, from 1. Keeps `decode` pure where only position tells a snapshot from an update."""
    received_ns: int
    payload: bytes
    conversation: str = ""
    """The venue's own name of the conversation where it tells one (`Venue.conversation`), else our session."""

    def source(
        self,
        venue: str,
        channel: str,
        *,
        time_ns: int | None = None,
        sequence: int | None = None,
        subscription: str | None = None,
        message_id: str | None = None,
    ) -> Source:
        """Where the events of this frame come from."""
        return Source(
            venue,
            channel,
            self.session,
            self.ordinal,
            self.received_ns,
            sha256(self.payload).digest(),
            time_ns,
            sequence,
            subscription,
            message_id,
        )


class Venue(Protocol):
    """The shape of a venue module.

    A venue that names its conversations may have one more function, `conversation(payload: bytes) -> str | None`: the
    name, where this frame tells it. Later frames carry it, so that a sequence counts on from one recording to the next.
    """

    @property
    def NAME(self) -> str:  # noqa: N802 - a module constant
        """The venue's name: the first part of every account id, `bitopro` in `bitopro:main`."""
        ...

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        """The statements of a frame; the same for the same frame, always. Empty for a control frame.

        Raises `ledger.errors.Malformed` where the frame is not understood: the ledger then keeps it in quarantine.
        """
        ...
