"""Every exception raised on purpose.

LedgerError                  the root: catch this to catch all of them
├── Malformed                the venue's fault: a frame that cannot be read; the ledger quarantines it, never raises it
├── BadTape                  the caller's fault: a tape that is not one; names file and line
├── StoreError               the store's fault
│   ├── NoSuchLedger         there is no ledger at that path, or the file is something else
│   ├── LedgerBusy           another process is writing to this ledger
│   ├── ReadOnly             the ledger was opened read_only
│   ├── Conflict             somebody else appended to the account first; nothing of the batch is stored
│   └── Corrupt              a stored event cannot be read
└── Closed                   the caller's fault: the ledger or the intake is closed
"""

from __future__ import annotations


class LedgerError(Exception):
    """Root of the exceptions raised on purpose."""


class Malformed(LedgerError):  # noqa: N818 - named after what it says of the frame
    """A frame no event can be made of. The message is the reason that is kept with the quarantined frame."""


class BadTape(LedgerError):  # noqa: N818
    """A tape that cannot be read. The message names the file and the line."""


class StoreError(LedgerError):
    """The store could not do what was asked; the message names the file."""


class NoSuchLedger(StoreError):  # noqa: N818
    """There is no ledger at that path, or the file there is not one."""


class LedgerBusy(StoreError):  # noqa: N818
    """Another process holds the ledger for writing. Retry when it is done, or open with `read_only=True`."""


class ReadOnly(StoreError):  # noqa: N818
    """A write was asked of a ledger opened with `read_only=True`."""


class Conflict(StoreError):  # noqa: N818
    """Somebody else appended to the account first. Nothing of the batch is stored; reload and try again."""


class Corrupt(StoreError):  # noqa: N818
    """A stored event cannot be read. The message names the account and the version."""


class Closed(LedgerError):  # noqa: N818
    """The ledger, or the intake, was closed before."""
