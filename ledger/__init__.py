"""accountledger: what exchanges say about your accounts, exact, complete and provable."""

from ledger.account import Recorded
from ledger.errors import (
    BadTape,
    Closed,
    Conflict,
    Corrupt,
    LedgerBusy,
    LedgerError,
    Malformed,
    NoSuchLedger,
    ReadOnly,
    StoreError,
)
from ledger.ledger import Intake, Ledger, Tally
from ledger.venue import Frame, Venue

__all__ = [
    "BadTape",
    "Closed",
    "Conflict",
    "Corrupt",
    "Frame",
    "Intake",
    "Ledger",
    "LedgerBusy",
    "LedgerError",
    "Malformed",
    "NoSuchLedger",
    "ReadOnly",
    "Recorded",
    "StoreError",
    "Tally",
    "Venue",
]
