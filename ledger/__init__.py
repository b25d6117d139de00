"""accountledger: what exchanges say about your accounts, exact, complete and provable."""

from ledger.account import Recorded
from ledger.appender import Tally
from ledger.errors import (
    BadKey,
    BadLogin,
    BadNote,
    BadTape,
    Closed,
    Conflict,
    ConversationError,
    Corrupt,
    LeaseLost,
    LedgerBusy,
    LedgerError,
    Lost,
    Malformed,
    NoSuchLedger,
    ReadOnly,
    Rejected,
    StoreError,
    Unfinished,
    Unsealed,
)
from ledger.findings import Finding
from ledger.intake import Intake
from ledger.ledger import Ledger, Retried
from ledger.venue import Frame, Venue

__all__ = [
    "BadKey",
    "BadLogin",
    "BadNote",
    "BadTape",
    "Closed",
    "Conflict",
    "ConversationError",
    "Corrupt",
    "Finding",
    "Frame",
    "Intake",
    "LeaseLost",
    "Ledger",
    "LedgerBusy",
    "LedgerError",
    "Lost",
    "Malformed",
    "NoSuchLedger",
    "ReadOnly",
    "Recorded",
    "Rejected",
    "Retried",
    "StoreError",
    "Tally",
    "Unfinished",
    "Unsealed",
    "Venue",
]
