"""Whether a file is a ledger, which file it is, and who may write to it: asked before it is opened as one.

Knows files and what SQLite leaves beside them; knows no row.
"""

from __future__ import annotations

import os
import sqlite3
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger.errors import Corrupt, LedgerBusy, NoSuchLedger, StoreError

fcntl: Any
try:
    import fcntl
except ImportError:  # no such module off POSIX
    fcntl = None

BUSY_TIMEOUT_S: Final = 5
SEARCHED_MIB_MAX: Final = 1024
TABLES: Final = frozenset({"stored_events", "evidence", "natural_keys"})
"""Without which a file is no ledger. The seals came later: a ledger of 0.2.0 gets them when first written to."""
SEALED: Final = 1
"""The `user_version` of a file that has seals: without them it is damaged, not old."""
COLUMNS: Final = {
    "stored_events": {"originator_id", "originator_version", "topic", "state"},
    "evidence": {"session", "ordinal", "payload"},
    "natural_keys": {"account", "at_ns", "key"},
    "seals": {"position", "seal"},
}
"""Of a ledger's own tables."""
OWN_MIN: Final = 2
"""How many of them no other program has: stock eventsourcing has one."""
WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
"""First and last SQLite release in which a WAL reset can corrupt a file that two connections write at once
(sqlite.org/wal.html, fixed in 3.51.3)."""


class StoreWarning(UserWarning):
    """Something about the machine makes the store less safe than it should be."""


class _Found(NamedTuple):
    """The tables of a SQLite file; those of them that are a ledger's own; whether it had seals."""

    tables: set[str]
    own: set[str]
    sealed: bool


def refuse_other_files(path: Path, *, read_only: bool) -> None:
    """Raise NoSuchLedger where the file is something else, Corrupt where it lost tables. Looks without writing: such a
    file stays as it is."""
    if not path.is_file():
        raise NoSuchLedger(f"{path}: not a ledger (not a file)")
    damage = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB)
    try:
        found = _found(path, "ro")
        if found is None and not read_only:
            found = _found(path, "rw")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        code = (
            sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else error.sqlite_errorcode & 0xFF
        )
        if code == sqlite3.SQLITE_CORRUPT or (code in damage and _was_ledger(path)):
            raise Corrupt(f"{path}: a damaged ledger ({error})") from error
        if code == sqlite3.SQLITE_CANTOPEN:
            _refuse_without_room(path)
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB):
            raise NoSuchLedger(f"{path}: not a ledger ({error})") from error
        raise StoreError(f"{path}: {error}") from error
    if found is None:
        _refuse_without_room(path)
    tables, own, sealed = found or _Found(set(), set(), False)
    if (tables or read_only) and not tables >= TABLES:
        if len(own) >= OWN_MIN or (found is not None and _was_ledger(path)):
            lost = sorted((TABLES | {"seals"} if sealed else TABLES) - own)
            raise Corrupt(f"{path}: a damaged ledger (it lost the tables {', '.join(lost)})")
        raise NoSuchLedger(f"{path}: not a ledger (it lacks the tables {', '.join(sorted(TABLES - own))})")


def _refuse_without_room(path: Path) -> None:
    """Raise StoreError where SQLite cannot make the files that it keeps beside one that is written ahead."""
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise StoreError(
            f"{path}: nothing can be written in its folder, and SQLite reads no ledger without: copy it, and "
            f"{path.name}-wal where that is there, to another folder"
        )


def _was_ledger(path: Path) -> bool:
    """Whether a file that cannot be read as a ledger speaks of a ledger's own tables all the same."""
    marks = {name: name.encode() for name in ("natural_keys", "originator_version", "at_ns")}
    before = b""
    with path.open("rb") as file:
        for _ in range(SEARCHED_MIB_MAX):
            chunk = file.read(1 << 20)
            marks = {name: mark for name, mark in marks.items() if mark not in before + chunk}
            if not marks or not chunk:
                break
            before = chunk[-32:]
    return len(marks) < 2  # one may be what is damaged


def _found(path: Path, mode: str) -> _Found | None:
    """What is in a SQLite file; None where a transaction was cut off and must first be rolled back, which needs a
    connection that writes (a ledger killed while it was made)."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
        try:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY:
                return None
            raise
        tables = {row[0] for row in rows}
        if tables >= TABLES:
            return _Found(tables, set(TABLES), True)
        own = {
            table
            for table in tables & COLUMNS.keys()
            if COLUMNS[table]
            <= {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
        }
        return _Found(tables, own, connection.execute("PRAGMA user_version").fetchone() == (SEALED,))


def identity(name: str) -> tuple[int, int] | None:
    """Which file it is; None where there is none."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class WriterLock:
    """One writing process at a time: a lock on a file beside the ledger, freed by the kernel when the process ends.

    Not on the ledger file itself: closing any handle of that file would drop SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        self._handle: int | None = None
        if not path.parent.is_dir():
            raise NoSuchLedger(f"{path}: there is no folder {path.parent}")
        if fcntl is None:
            return _warn_two_writers(path)
        try:
            # Beside the file itself: two links to one ledger are one ledger.
            handle = os.open(f"{os.path.realpath(path)}.writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise LedgerBusy(
                f"{path}: process {holder or '?'} is writing to this ledger; one process writes at a time. "
                "Wait until it is done; reading works meanwhile (read_only=True)"
            ) from None
        except OSError:
            os.close(handle)
            return _warn_two_writers(path)
        self._handle = handle
        with suppress(OSError):  # who holds it is a courtesy: the lock is held all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _warn_two_writers(path: Path) -> None:
    """No lock can be had here, so two writers could meet: say so where this SQLite would not survive it."""
    first, last = WAL_RESET_BUG
    if first <= sqlite3.sqlite_version_info <= last:
        warnings.warn(
            f"{path}: no writer lock on this file system, and SQLite {sqlite3.sqlite_version} has the WAL-reset bug "
            "(fixed in 3.51.3): two processes writing at once can corrupt the file. Make sure that only one writes",
            StoreWarning,
            stacklevel=7,
        )
