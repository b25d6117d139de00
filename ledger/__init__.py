"""accountledger: what exchanges say about your accounts, exact, complete and provable.

What is public is imported when it is first asked for: the command line is in this package, and Ctrl-C may strike in it
as soon as it begins.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

_HOMES: Final = {
    "Finding": "findings",
    "Frame": "venue",
    "Intake": "intake",
    "Ledger": "ledger",
    "Recorded": "account",
    "Retried": "ledger",
    "Tally": "appender",
    "Venue": "venue",
}
"""Where a name is; the others are errors."""

if not TYPE_CHECKING:  # to whom every name would be there

    def __getattr__(name: str) -> Any:
        # And what it stands on: after `import ledger` there is `ledger.errors`, too.
        import_module("ledger.ledger")
        if name in __all__:
            globals()[name] = getattr(import_module(f"ledger.{_HOMES.get(name, 'errors')}"), name)
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
