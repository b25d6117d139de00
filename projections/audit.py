"""The audit trail: every event of an account, in order, with its source and its evidence. Folds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from ledger import Ledger, Recorded
from ledger.events import by_name, time_of
from ledger.findings import damage_of


class AuditRow(Struct, frozen=True):
    """One event. `evidence_sha256` is the hash of the bytes it was made from, as it is sealed with the event, None
    where no frame stands behind it; `evidence_bytes` is how many bytes are kept, None where none are."""

    version: int
    position: int
    topic: str
    time_ns: int
    received_ns: int
    channel: str
    session: str
    ordinal: int
    sequence: int | None
    evidence_bytes: int | None
    evidence_sha256: str | None
    event: dict[str, Any]
    damage: str | None
    """What happened to the frame since: it is gone, or its bytes are not those the event was made of."""


class Audit:
    """The audit trail of one account."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def rows(self, account: str) -> Iterator[AuditRow]:
        """Every event of the account, oldest first."""
        for recorded in self._ledger.replay(account):
            source = recorded.event.source
            evidence = self._ledger.evidence(recorded)
            yield AuditRow(
                recorded.version,
                recorded.position,
                type(recorded.event).__name__,
                time_of(recorded.event),
                source.received_ns,
                source.channel,
                source.session,
                source.ordinal,
                source.sequence,
                None if evidence is None else len(evidence),
                source.evidence.hex() or None,
                as_fields(recorded),
                damage_of(source.evidence, evidence) if source.evidence else None,
            )


def as_fields(recorded: Recorded) -> dict[str, Any]:
    """What an event says, by field name: amounts as the venue's text, its source left to the envelope."""
    fields: dict[str, Any] = by_name(recorded.event)
    del fields["source"]
    return fields
