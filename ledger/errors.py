"""Every exception raised on purpose; an argument that makes no sense is a ValueError or a TypeError, as everywhere.

LedgerError                  the root: catch this to catch all of them
├── Malformed                the venue's fault: a frame that cannot be read; the ledger quarantines it, never raises it
├── BadTape                  the caller's fault: a tape that is not one; names file and line
├── StoreError               the store's fault
│   ├── NoSuchLedger         there is no ledger at that path, or the file is something else
│   ├── LedgerBusy           another process is writing to this ledger
│   ├── ReadOnly             the ledger was opened read_only
│   ├── Conflict             somebody else appended to the account first; nothing of the batch is stored
│   │   └── Overtaken        somebody else moved a projection's place first; nothing of the batch is written
│   ├── LeaseLost            another process feeds the account, or has since; nothing of the batch is stored
│   ├── Unstorable           an id or a number that no database holds, or not this one; its frame is quarantined
│   ├── Unsealed             a ledger of a version before seals, opened to read only
│   ├── MomentLost           the server went away while one moment of it was read; read anew
│   ├── Unfinished           a copy of another ledger that was not finished: what it says is not all there is
│   ├── NoBeginning          what a copy would go on from is no beginning of what it copies (`ledger.copying`)
│   └── Corrupt              a stored event cannot be read, or the file is damaged
├── ConversationError        the conversation's fault: it cannot be begun, or is over; a feed begins another
│   ├── Rejected             the venue refused us: a login to be tried again at most twice
│   └── Lost                 the connection broke, went silent or was closed, and what was said of it
├── BadKey                   the caller's fault: a key that is none, or not the one for this
├── BadNote                  a checkpoint that is none, was changed, or was signed by somebody else
├── Unprovable               what a bundle may hold does not prove the balance (`ledger.bundle`)
├── Unknown                  the account has no such asset (`projections.why`)
├── BadLogin                 the caller's fault: what a feed was given to log in with cannot be used
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
    """The store could not do what was asked; the message names the file, or the server."""


class NoSuchLedger(StoreError):  # noqa: N818
    """There is no ledger at that path, or the file there is not one."""


class LedgerBusy(StoreError):  # noqa: N818
    """Another process holds the ledger for writing. Retry when it is done, or open with `read_only=True`."""


class ReadOnly(StoreError):  # noqa: N818
    """A write was asked of a ledger opened with `read_only=True`."""


class Conflict(StoreError):  # noqa: N818
    """Somebody else appended to the account first. Nothing of the batch is stored; reload and try again."""


class Overtaken(Conflict):
    """A place that was to be moved on from was moved by somebody else first. Nothing of the batch is written."""


class Unstorable(StoreError):  # noqa: N818 - named after what it says of the event
    """An event that the database cannot hold. Nothing of the batch is stored; the frame it came from is quarantined."""


class LeaseLost(StoreError):  # noqa: N818
    """The right to feed an account was lost: another process has it, or had it since. Nothing of the batch is stored,
    nor of any later one of that intake: who takes the lease anew (`Ledger.lease`) opens another."""


class Unsealed(StoreError):  # noqa: N818
    """A ledger of a version before seals: they are made when it is first opened to write."""


class MomentLost(StoreError):  # noqa: N818
    """The server went away while one moment of it was read (`Ledger.view`), and the moment is over. Read another."""


class Unfinished(StoreError):  # noqa: N818
    """A copy of another ledger that was not finished (`ledger.copying`). Copy again: it goes on where it stopped."""


class Corrupt(StoreError):  # noqa: N818
    """What is stored cannot be read. The message names the account and the version, the position, or the file."""


class ConversationError(LedgerError):
    """A conversation with a venue cannot be begun, or is over. The message says why; it holds no secret."""

    def __init__(self, why: str, *, retry_after_s: float = 0, final: bool = False) -> None:
        super().__init__(why)
        self.final = final
        """Whether there is nothing more to come from there: a recording that is over."""
        self.retry_after_s = retry_after_s
        """How long the venue asked to be left alone (Retry-After, RFC 9110 section 10.2.3); 0 where it did not."""


class Rejected(ConversationError):  # noqa: N818
    """The venue refused us: the login is wrong or not allowed. Trying again without a change seldom helps."""


class Lost(ConversationError):  # noqa: N818
    """The connection could not be made, broke, fell silent or was closed by the venue. Trying again helps."""


class BadLogin(LedgerError):  # noqa: N818
    """What a feed was given to log in with cannot be used. The message names the field, never its value."""


class BadKey(LedgerError):  # noqa: N818
    """A key that cannot be read, or is not the one for what was asked. The message never shows it."""


class BadNote(LedgerError):  # noqa: N818
    """A signed checkpoint that is none, was changed, or was signed by somebody else."""


class Closed(LedgerError):  # noqa: N818
    """The ledger, or the intake, was closed before."""
