"""What the conversations of an account remember from one session to the next: a table beside the events.

Knows a ledger's rows; knows no venue. It is no event: what is lost of it is asked of the venue again.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, TypeAlias

from ledger.ledger import Ledger
from ledger.rows import MEMORIES, Cell

TABLE: Final = "feed_memories"

Row: TypeAlias = tuple[Cell, ...]


def remember(ledger: Ledger, rows: Sequence[Row]) -> None:
    """Store rows in place of those of the same accounts: `row_of` makes one, `remembered` gives them all."""
    row = (
        f"INSERT INTO {TABLE} VALUES (?, ?, ?) "
        "ON CONFLICT (account) DO UPDATE SET memory=excluded.memory, digest=excluded.digest"
    )
    made = bool(ledger.columns(TABLE))  # in PostgreSQL it is, and not everyone may make one
    ledger.write([(row, rows)] if made else [(MEMORIES, [()]), (row, rows)])


def row_of(account: str, memory: bytes) -> Row:
    """What is stored of an account: with a digest, so that a changed memory is found."""
    return account, memory, _digest(account, memory)


def remembered(ledger: Ledger) -> list[Row]:
    """The rows of every account, as they are stored."""
    return ledger.select(f"SELECT account, memory, digest FROM {TABLE}") if ledger.columns(TABLE) else []


def memory_of(ledger: Ledger, account: str) -> bytes:
    """What an account's conversations remember; nothing where that was changed."""
    return next((memory for name, memory in _memories(ledger) if name == account), None) or b""


def changed_memories(ledger: Ledger) -> list[str]:
    """The accounts whose conversations' memory is not what was remembered: it is forgotten by the next one."""
    return [name for name, memory in _memories(ledger) if memory is None]


def _memories(ledger: Ledger) -> list[tuple[str, bytes | None]]:
    return [
        (str(name), memory if isinstance(memory, bytes) and _digest(name, memory) == digest else None)
        for name, memory, digest in remembered(ledger)
    ]


def _digest(account: object, memory: bytes) -> bytes:
    return sha256(repr(account).encode() + b"\0" + memory).digest()
