"""The command line as a user runs it: a process of its own, started anew or forked (`tests.forking`)."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.forking import Command, Forking

TIMEOUT_S: Final = 120


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@cache
def _forking() -> Forking:
    forking = Forking()
    atexit.register(forking.close)
    return forking


place: Callable[[Path], str] = str
"""Where a ledger is that a test calls so: `tests.databases` has them in PostgreSQL, too."""


def run(folder: Path, *args: str | Path, stdin: bytes = b"") -> Ran:
    """Run `accountledger` in a folder."""
    args = tuple(
        place(folder / each) if before == "--db" and each and "://" not in str(each) else each
        for before, each in zip(("", *args), args, strict=False)
    )
    told = list(map(str, args))
    forking = _forking()
    if forking.serves():
        code, out, err = forking.run(Command(str(folder), told), stdin, TIMEOUT_S)
    else:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "ledger", *told],
            cwd=folder,
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT_S,
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    return Ran(code, out.decode(), err.decode())


def rows(folder: Path, command: str, *args: str) -> list[dict[str, Any]]:
    """The rows a command prints as JSON from the ledger `a.db` in a folder."""
    ran = run(folder, command, "--db", "a.db", *args, "--json")
    assert (ran.err, ran.code in (0, 1)) == ("", True)
    found: list[dict[str, Any]] = json.loads(ran.out)
    return found


def feed(folder: Path, venue: str, account: str, *sessions: Sequence[bytes]) -> Ran:
    """Ingest sessions, each written to a file of its own, into `a.db`."""
    files: list[str] = []
    for frames in sessions:
        name = f"{venue}-{len(list(folder.iterdir()))}.ndjson"
        (folder / name).write_bytes(b"".join(frame + b"\n" for frame in frames))
        files.append(name)
    return run(folder, "ingest", "--db", "a.db", venue, account, *files)


def unheard(folder: Path, *args: str) -> tuple[int, str]:
    """Run `accountledger` in a folder where nobody reads what it prints: how it ended, and what it complained of."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "ledger", *args],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr.decode()
