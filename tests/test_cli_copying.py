"""`accountledger copy` as a user runs it: what it prints, and `kill -9` at any moment of it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Ledger, copying
from ledger.cli import main
from ledger.cli.options import PROJECTIONS
from ledger.errors import StoreError, Unfinished
from ledger.rows import Rows
from ledger.store import Store
from tests.scripted import delta, feed, says
from tests.terminal import run
from tests.test_copying import everything
from tests.test_copying import made as made
from tests.test_copying import original as original
from tests.test_copying import places as places
from tests.test_copying import source as source

MOMENTS: Final = ("before", "within", "after")
WRITES: Final = 40
"""More writes than a copy without events makes."""
TARGETS: Final = 3
EVENTS: Final = 81
"""Of the ledger that is copied."""


def root(ledger: Path) -> str:
    with Ledger(ledger, read_only=True) as opened:
        return opened.checkpoint("any").root.hex()


def test_a_copy_is_told_in_one_line_and_again_when_there_is_nothing_to_copy(source: Path) -> None:
    told = root(source)
    for copied in (EVENTS, 0):
        ran = run(source.parent, "copy", "--from", "source.db", "--to", "b.db")
        line = (
            f"b.db: {EVENTS} events of 10 accounts, root {told}: equal to source.db ({copied} copied now)\n"
        )
        assert (0, line, "") == ran


def test_a_copy_is_told_as_one_object(source: Path, places: Callable[[str], str]) -> None:
    ran = run(source.parent, "copy", "--from", "source.db", "--to", places("pg"), "--json")
    assert (0, "") == (ran.code, ran.err)
    said = json.loads(ran.out)
    assert re.fullmatch(r"postgresql://.*/postgres \(t[0-9a-f]{32}\)", said.pop("to"))
    assert said == {
        "from": "source.db",
        "events": EVENTS,
        "accounts": 10,
        "root": root(source),
        "equal": True,
        "copied": EVENTS,
        "later": 0,
    }


def test_what_came_meanwhile_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = copying.check

    def check(*args: Any) -> None:
        with Ledger(source) as ledger:
            feed(ledger, says(delta(1, {"A": "9"})), session="more")
        straight(*args)

    monkeypatch.setattr("ledger.cli.copying.check", check)
    with pytest.raises(SystemExit, match="0"):
        main(["copy", "--from", str(source), "--to", str(tmp_path / "b.db")])
    assert f"({EVENTS} copied now); 3 more came there meanwhile: copy again\n" in capsys.readouterr().out


def test_a_copy_verifies_and_carries_the_checkpoint_that_was_signed(source: Path) -> None:
    folder = source.parent
    assert 0 == run(folder, "keygen").code
    assert 0 == run(folder, "checkpoint", "--db", "source.db").code
    assert 0 == run(folder, "copy", "--from", "source.db", "--to", "b.db").code
    signed = ("--checkpoint", "source.db.checkpoint", "--public-key", "accountledger.pub", "--json")
    one, other = (run(folder, "verify", "--db", db, *signed) for db in ("source.db", "b.db"))
    # The scripted venue is none of the command's, and nobody can decode its frames again.
    assert one == other
    assert 0 == run(folder, "replay", "--db", "b.db").code


WRONG: Final = {
    "the same place": (("source.db", "./source.db"), "./source.db: a ledger is not copied to where it is"),
    "no source": (("none.db", "b.db"), "none.db: there is no ledger here"),
    "no folder": (("source.db", "none/b.db"), "none/b.db: there is no folder none"),
    "a target that is no ledger": (("source.db", "text"), "text: not a ledger (file is not a database)"),
    "another ledger": (
        ("source.db", "other.db"),
        "other.db: scripted:main version 2 (position 2) is not what source.db has there: it is no beginning of it; "
        "nothing was written",
    ),
    "no URL": (
        ("source.db", "postgresql://me:secret@[/x"),
        "not the URL of a PostgreSQL database: postgresql://",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_copied_is_one_line_and_exit_code_2(source: Path, wrong: str) -> None:
    (one, other), told = WRONG[wrong]
    folder = source.parent
    (folder / "text").write_text("no ledger" * 100)
    with Ledger(folder / "other.db") as ledger:
        feed(ledger, says(delta(1, {"A": "9"})))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".writer"}
    ran = run(folder, "copy", "--from", one, "--to", other)
    assert (2, "") == (ran.code, ran.out)
    assert ran.err.startswith(f"accountledger: {told}")
    assert 1 == ran.err.count("\n")
    assert "secret" not in ran.err
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not (folder / "b.db").exists()


def test_a_target_that_is_written_to_is_busy(source: Path) -> None:
    with Ledger(source.parent / "b.db"):
        ran = run(source.parent, "copy", "--from", "source.db", "--to", "b.db")
    assert 2 == ran.code
    assert "is writing to this ledger" in ran.err


def test_a_damaged_source_is_named_and_exit_code_1(source: Path) -> None:
    with closing(sqlite3.connect(source)) as store:
        store.executescript("UPDATE stored_events SET state=x'00' WHERE rowid=20")
    ran = run(source.parent, "copy", "--from", "source.db", "--to", "b.db", "--json")
    assert (1, "") == (ran.code, ran.out)
    assert re.fullmatch(
        r"accountledger: source\.db: \S+ version \d+ \(position 20\): not the event that was sealed here\n",
        ran.err,
    )


# What reads a copy that was not finished -----------------------------------------------------------------------------


READING: Final = (
    *((each,) for each in ("accounts", "balances", "gaps", "quarantine", "replay", "views", "coverage")),
    ("audit", "any"),
    ("ingest", "bitopro", "main", "-"),
)


@pytest.mark.parametrize("name", ["b.db", "pg"])
def test_a_copy_that_was_killed_says_so_until_it_is_copied_again(
    made: Path,
    places: Callable[[str], str],
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ran(command: str, *args: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([command, *args])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    target = places(name)
    words = f"an unfinished copy of {made}: copy again, and it goes on where it stopped"
    assert not is_done(forked(str(made), target, dies_in_transaction(2, "before")))
    with pytest.raises(Unfinished, match=words):
        Ledger(target, read_only=True)
    for command, *args in READING:
        code, out, err = ran(command, "--db", target, *args)
        assert (2, "", 1) == (code, out, err.count("\n"))
        assert err.endswith(f": {words}\n")
    code, out, _ = ran("verify", "--db", target, "--json")
    assert (1, [words]) == (
        code,
        [each["reason"] for each in json.loads(out) if each["what"] == "missing"],
    )
    assert 2 == ran("copy", "--from", target, "--to", str(tmp_path / "c.db"))[0]
    assert is_done(forked(str(made), target, lambda: None))
    assert 0 == ran("balances", "--db", target)[0]
    assert "unfinished" not in ran("verify", "--db", target)[1]


def test_a_copy_with_nothing_left_to_copy_keeps_no_reader_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = ["copy", "--from", str(source), "--to", str(tmp_path / "b.db")]
    read: list[str | None] = []
    straight = copying.check

    def check(*args: Any) -> None:
        with Ledger(tmp_path / "b.db", read_only=True, unfinished=True) as ledger:
            read.append(ledger.unfinished())
        straight(*args)

    monkeypatch.setattr("ledger.cli.copying.check", check)
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main(copy)
    assert [str(source), None] == read


# kill -9 -------------------------------------------------------------------------------------------------------------


def forked(one: str, other: str, sabotage: Callable[[], None]) -> int:
    """Copy in a forked process, with something wrong in it; its id."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child's life is not measured
        try:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - gone with the process
            copying.BATCH_EVENTS_MAX = 5  # type: ignore[misc]
            sabotage()
            main(["copy", "--from", one, "--to", other])
        except SystemExit as done:
            os._exit(int(done.code or 0))
        finally:
            os._exit(70)
    return pid


def is_done(pid: int) -> bool:
    """Wait for the process: whether it came to its end, and was not killed."""
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or 0 == os.waitstatus_to_exitcode(status)
    return not os.WIFSIGNALED(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dies_in_transaction(number: int, moment: str) -> Callable[[], None]:
    """Let the process be killed in the transaction of that number: before it, within it, or after its commit."""

    def sabotage() -> None:
        taken = 0

        def take(self: Store, rows: Rows) -> None:
            nonlocal taken
            taken += 1
            if taken == number and moment == "before":
                die()
            self._engine.insert(rows, die if taken == number and moment == "within" else lambda: None)
            if taken == number:
                die()

        Store.take = take  # type: ignore[method-assign]

    return sabotage


def dies_in_write(number: int) -> Callable[[], None]:
    """Let the process be killed before it writes for that time: what is remembered, or projections."""

    def sabotage() -> None:
        written = 0
        straight = Ledger.write

        def write(self: Ledger, *args: Any) -> None:
            nonlocal written
            written += 1
            if written == number:
                die()
            straight(self, *args)

        Ledger.write = write  # type: ignore[method-assign, assignment]

    return sabotage


def check_beginning(place: str, original: dict[str, list[Any]]) -> int:
    """What is there is a beginning of the original, nothing wrong with it; how many events."""
    with Ledger(place, read_only=True, unfinished=True) as ledger, ledger.view() as view:
        events, frames = list(view.events()), [row[1:] for row in view.frames()]
        assert original["events"][: len(events)] == events
        assert original["frames"][: len(frames)] == frames
        assert [] == list(ledger.verify())
    return len(events)


@pytest.mark.parametrize("name", ["b.db", "pg"])
def test_killed_in_transaction_after_transaction_it_goes_on_and_ends_equal(
    made: Path, original: dict[str, list[Any]], places: Callable[[str], str], name: str
) -> None:
    target, reached, kills = places(name), 0, 0
    while not is_done(forked(str(made), target, dies_in_transaction(2, MOMENTS[kills % 3]))):
        before, reached = reached, check_beginning(target, original)
        assert before < reached, "each run stores a transaction at least"
        kills += 1
    assert kills >= 10
    with Ledger(target, read_only=True) as ledger:
        assert original == everything(ledger)


@pytest.mark.parametrize(("name", "step"), [("b.db", 3), ("pg", 9)])
def test_killed_while_projections_are_folded_it_goes_on_and_ends_equal(
    made: Path, original: dict[str, list[Any]], places: Callable[[str], str], name: str, step: int
) -> None:
    target, kills = places(name), 0
    for number in range(2, WRITES, step):  # the first is before the events
        if is_done(forked(str(made), target, dies_in_write(number))):
            break
        assert len(original["events"]) == check_beginning(target, original)
        kills += 1
    assert is_done(forked(str(made), target, lambda: None))
    assert kills >= 2
    with Ledger(target, read_only=True) as ledger:
        assert original == everything(ledger)


@pytest.mark.parametrize("name", ["b.db", "pg"])
def test_killed_at_random_it_goes_on_and_ends_equal(
    made: Path, original: dict[str, list[Any]], places: Callable[[str], str], name: str
) -> None:
    clock = random.Random(6)
    kills = 0
    for target in (places(f"{name}{number}") for number in range(TARGETS)):
        seconds = 0.02
        while True:  # each time it may live a little longer
            pid = forked(str(made), target, lambda: None)
            time.sleep(clock.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            if is_done(pid):
                break
            kills += 1
            seconds += 0.06
        check_beginning(target, original)
        with Ledger(target, read_only=True) as ledger:
            assert original == everything(ledger)
    assert kills >= TARGETS


def test_a_copy_that_splits_a_frame_is_seen_when_it_is_killed(
    made: Path, original: dict[str, list[Any]], tmp_path: Path
) -> None:
    """The defect planted: events in one transaction, their frames in the next."""

    def sabotage() -> None:
        def take(self: Store, rows: Rows) -> None:
            self._engine.insert(Rows(rows.events, rows.seals, [], rows.keys), lambda: None)
            die()

        Store.take = take  # type: ignore[method-assign]

    assert not is_done(forked(str(made), str(tmp_path / "b.db"), sabotage))
    with pytest.raises(AssertionError):
        check_beginning(str(tmp_path / "b.db"), original)
    ran = run(tmp_path, "copy", "--from", made, "--to", "b.db")
    assert 2 == ran.code
    assert "is not what" in ran.err


def test_a_projection_that_is_left_out_of_the_copy_is_seen(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defect planted: the command folds all but one."""
    with monkeypatch.context() as patch:
        patch.setattr("ledger.cli.options.PROJECTIONS", PROJECTIONS[1:])
        with pytest.raises(SystemExit, match="0"):
            main(["copy", "--from", str(made), "--to", str(tmp_path / "b.db")])
    with Ledger(tmp_path / "b.db") as ledger, pytest.raises(StoreError, match="no such table: accounts"):
        everything(ledger)
