"""accountledger: what exchanges say about your accounts, exact, complete and provable."""

from ledger.account import Recorded
from ledger.errors import (
    BadLogin,
    BadTape,
    Closed,
    Conflict,
    ConversationError,
    Corrupt,
    LedgerBusy,
    LedgerError,
    Lost,
    Malformed,
    NoSuchLedger,
    ReadOnly,
    Rejected,
    StoreError,
)
from ledger.ledger import Intake, Ledger, Tally
from ledger.venue import Frame, Venue

__all__ = [
    "BadLogin",
    "BadTape",
    "Closed",
    "Conflict",
    "ConversationError",
    "Corrupt",
    "Frame",
    "Intake",
    "Ledger",
    "LedgerBusy",
    "LedgerError",
    "Lost",
    "Malformed",
    "NoSuchLedger",
    "ReadOnly",
    "Recorded",
    "Rejected",
    "StoreError",
    "Tally",
    "Venue",
]
