"""A command that is forked does what one does that is started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.venues import bitopro
from tests.forking import Command, Forking
from tests.test_cli import bitopro as said

FRAME = said("a", 1639553303365, ADA=("1", "1"))


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    with Forking() as ready:
        yield ready


def started(folder: Path, *args: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ledger", *args], cwd=folder, input=stdin, capture_output=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (("--help",), b""),
        (("balances", "--db", "a.db"), b""),
        (("balances", "--db", "a.db", "\udcff"), b""),
        (("ingest", "--db", "a.db", "bitopro", "main", "-"), FRAME + b"\n"),
        (("ingest", "--db", "a.db", "bitopro", "main", "-"), b"no frame\n" * 10_000),
        (("balances", "--nothing"), FRAME * 10_000),
    ],
)
def test_it_ends_and_prints_alike(
    forking: Forking, tmp_path: Path, args: tuple[str, ...], stdin: bytes
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        with Ledger(folder / "a.db") as ledger, ledger.intake(bitopro, "other", session="s") as intake:
            intake.receive(FRAME, 1_790_000_000_000_000_000)
    assert started(one, *args, stdin=stdin) == forking.run(Command(str(two), args), stdin, 60)


def test_it_serves_no_other_environment(forking: Forking, monkeypatch: pytest.MonkeyPatch) -> None:
    assert forking.serves()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not forking.serves()
    monkeypatch.undo()
    assert forking.serves()


def test_a_command_that_does_not_end_is_killed_and_the_next_one_is_served(
    forking: Forking, tmp_path: Path
) -> None:
    ingest = Command(str(tmp_path), ("ingest", "--db", "a.db", "bitopro", "main", "-"))
    assert b"1 recorded" in forking.run(ingest, FRAME, 60)[1]
    with pytest.raises(subprocess.TimeoutExpired):
        forking.run(Command(str(tmp_path), ("follow", "--db", "a.db")), b"", 1)
    assert b"1 duplicates" in forking.run(ingest, FRAME, 60)[1]
