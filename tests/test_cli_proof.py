"""keygen, checkpoint, verify and quarantine retry, as a user runs them.

What is about files and what is beside them is marked `sqlite`; `test_cli_postgres` has those commands on a server.
"""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
import stat
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from ledger import Frame, Ledger
from ledger.cli import VENUES, main, seals
from ledger.cli.options import PROJECTIONS, bring_up_all
from ledger.events import BalanceSnapshot, Statement
from ledger.memory import TABLE, remember, row_of
from ledger.venues import bitopro
from projections import Balances, Gaps, Stated, Views, catch_up
from projections.view_columns import CURRENT_BALANCES, VIEWS
from projections.view_sql import on_server, sql_of
from projections.views import Shown, told_again
from tests import tampering
from tests.scripted import delta, feed, imported, says, snapshot
from tests.tampering import LATER, flipped, image
from tests.terminal import Ran, run
from tests.test_decoding import Changed, ada, each
from tests.test_events import load

GOLDEN: Final = Path(__file__).parent / "golden_store"
FRAME: Final = (tampering.FRAMES / "bitopro" / "first_message_states_all_currencies.frame").read_bytes()
OTHER: Final = b'{"event":"ACCOUNT_BALANCE","eventID":"2","timestamp":1789999999500,"data":{}}'


def ingest(folder: Path, name: str, *frames: bytes) -> Ran:
    (folder / name).write_bytes(b"".join(frame.replace(b"\n", b"") + b"\n" for frame in frames))
    return run(folder, "ingest", "--db", "a.db", "bitopro", "main", name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger, a key and a checkpoint, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("made")
    assert 0 == ingest(folder, "1.ndjson", FRAME).code
    assert 0 == run(folder, "keygen").code
    assert 0 == run(folder, "checkpoint", "--db", "a.db").code
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of them for one test."""
    return shutil.copytree(made, tmp_path / "made")


CHECKED: Final = ("--checkpoint", "a.db.checkpoint", "--public-key", "accountledger.pub")


def verify(folder: Path, *args: str) -> Ran:
    return run(folder, "verify", "--db", "a.db", *args)


def findings(folder: Path, *args: str) -> list[dict[str, Any]]:
    ran = verify(folder, "--json", *args)
    found: list[dict[str, Any]] = json.loads(ran.out)
    assert ("", int(bool(found))) == (ran.err, ran.code)
    return found


def change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "a.db")) as store:
        for statement in statements:
            store.execute(statement)
        store.commit()


@pytest.mark.sqlite
def test_a_key_is_made_once_and_the_private_one_is_for_its_owner(tmp_path: Path) -> None:
    ran = run(tmp_path, "keygen", "--name", "ledger.example")
    assert (0, "") == (ran.code, ran.err)
    private, public = tmp_path / "accountledger.key", tmp_path / "accountledger.pub"
    assert 0o600 == stat.S_IMODE(private.stat().st_mode)
    assert private.read_text().startswith("PRIVATE+KEY+ledger.example+")
    assert public.read_text().startswith("ledger.example+")
    assert private.read_text().strip() not in ran.out
    before = private.read_bytes()
    again = run(tmp_path, "keygen")
    assert (2, before) == (again.code, private.read_bytes())
    public.unlink()
    assert (2, before) == (run(tmp_path, "keygen").code, private.read_bytes())


@pytest.mark.sqlite
@pytest.mark.parametrize("public", ["none/a.pub", "a.key"])
def test_no_private_key_is_left_where_its_public_one_cannot_be_written(tmp_path: Path, public: str) -> None:
    ran = run(tmp_path, "keygen", "--key", "a.key", "--public-key", public)
    assert (2, 1) == (ran.code, ran.err.count("\n"))
    assert [] == list(tmp_path.iterdir())


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("keygen", "--key", "b.key", "--public-key", "b.pub"), "b.key"),
        (("checkpoint", "--db", "a.db", "--key", "accountledger.key", "--out", "new"), "new"),
    ],
)
def test_what_a_full_disk_does_not_take_is_named_and_leaves_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    named: str,
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(folder.iterdir())
    monkeypatch.chdir(folder)
    monkeypatch.setattr("os.fsync", full)
    said = called(capsys, *args)
    assert (2, "", f"accountledger: {named}: No space left on device") == (
        said.code,
        said.out,
        said.err.partition(" (see")[0],
    )
    assert before == sorted(folder.iterdir())


@pytest.mark.sqlite
def test_a_file_that_is_no_text_is_no_key(folder: Path) -> None:
    (folder / "binary").write_bytes(b"\xff\xfe")
    ran = run(folder, "checkpoint", "--db", "a.db", "--key", "binary")
    assert (2, "", "accountledger: binary: not a key: it is no text\n") == ran


@pytest.mark.sqlite
def test_a_clean_ledger_verifies_with_its_checkpoint(folder: Path) -> None:
    assert (0, "") == verify(folder)[::2]
    ran = verify(folder, *CHECKED)
    assert (0, "") == (ran.code, ran.err)
    assert "checkpoint" in ran.out
    assert [] == findings(folder, *CHECKED)


@pytest.mark.sqlite
def test_the_checkpoint_is_a_signed_note_beside_the_ledger_or_where_it_is_wanted(folder: Path) -> None:
    note = (folder / "a.db.checkpoint").read_text()
    name = (folder / "accountledger.pub").read_text().partition("+")[0]
    lines = note.split("\n")
    assert (name, "3", "") == (lines[0], lines[1], lines[4])
    assert lines[3].startswith("head 3 ")
    assert lines[3].endswith(' "bitopro:main"')
    assert lines[5].startswith(f"\u2014 {name} ")
    assert note == run(folder, "checkpoint", "--db", "a.db", "--out", "-").out
    assert 0 == run(folder, "checkpoint", "--db", "a.db", "--out", "b.note").code
    assert note == (folder / "b.note").read_text()
    assert 2 == run(folder, "checkpoint", "--db", "a.db", "--out", ".").code
    assert 2 == run(folder, "checkpoint", "--db", "a.db", "--key", "accountledger.pub").code


@pytest.mark.sqlite
def test_a_ledger_that_went_on_verifies_with_its_old_checkpoint_and_makes_a_new_one(folder: Path) -> None:
    ingest(folder, "2.ndjson", OTHER)
    assert 0 == verify(folder, *CHECKED).code
    before = (folder / "a.db.checkpoint").read_bytes()
    assert 0 == run(folder, "checkpoint", "--db", "a.db").code
    assert before != (folder / "a.db.checkpoint").read_bytes()
    assert 0 == verify(folder, *CHECKED).code


@pytest.mark.sqlite
def test_an_old_backup_is_found_out_and_no_checkpoint_is_signed_over_it(folder: Path) -> None:
    shutil.copy(folder / "a.db", folder / "old.db")
    ingest(folder, "2.ndjson", OTHER)
    assert 0 == run(folder, "checkpoint", "--db", "a.db").code
    note = (folder / "a.db.checkpoint").read_bytes()
    shutil.copy(folder / "old.db", folder / "a.db")
    assert 0 == verify(folder).code  # by itself it is what it was
    (first, *_) = findings(folder, *CHECKED)
    assert ("missing", "bitopro:main", 4) == (first["what"], first["account"], first["version"])
    ran = run(folder, "checkpoint", "--db", "a.db")
    assert (1, "", note) == (ran.code, ran.out, (folder / "a.db.checkpoint").read_bytes())
    assert "not signed" in ran.err


@pytest.mark.sqlite
def test_a_changed_event_is_named_and_nothing_is_signed(folder: Path) -> None:
    change(folder, "UPDATE stored_events SET state=replace(state, '1', '2') WHERE rowid=2")
    ran = verify(folder)
    assert (1, "") == (ran.code, ran.err)
    assert ran.out.splitlines()[-1].endswith("first bad event: bitopro:main version 2 (position 2)")
    (first, *_) = findings(folder)
    assert ("bitopro:main", 2, 2) == (first["account"], first["version"], first["position"])
    ran = run(folder, "checkpoint", "--db", "a.db", "--out", "new")
    assert (1, False) == (ran.code, (folder / "new").exists())
    assert 1 == len(ran.err.splitlines())


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("damage", "left"),
    [
        ("DELETE FROM stored_events WHERE rowid=2", 2),
        ("UPDATE stored_events SET rowid=rowid+100 WHERE rowid=3", 3),
    ],
)
def test_the_events_that_are_there_are_counted_not_their_positions(
    folder: Path, damage: str, left: int
) -> None:
    change(folder, damage)
    assert verify(folder).out.splitlines()[-1].startswith(f"{left} events: ")


@pytest.mark.sqlite
@pytest.mark.parametrize("forged", ["edited", "other key", "not one"])
def test_a_checkpoint_that_our_key_did_not_sign_is_a_finding(folder: Path, forged: str) -> None:
    note = folder / "a.db.checkpoint"
    if forged == "edited":
        note.write_bytes(note.read_bytes().replace(b"\n3\n", b"\n2\n"))
    elif forged == "not one":
        note.write_bytes(b"\xff")
    else:
        name = (folder / "accountledger.pub").read_text().partition("+")[0]
        run(folder, "keygen", "--key", "k", "--public-key", "p", "--name", name)
        run(folder, "checkpoint", "--db", "a.db", "--key", "k", "--out", "other")
        shutil.copy(folder / "other", note)
    (finding,) = findings(folder, *CHECKED)
    assert "checkpoint" == finding["what"]
    ran = run(folder, "checkpoint", "--db", "a.db")
    assert (2, 1) == (ran.code, len(ran.err.splitlines()))


@pytest.mark.sqlite
def test_the_options_of_a_checkpoint_go_together_and_bad_ones_are_told_in_a_line(folder: Path) -> None:
    private = "accountledger.key: this is a private key, for its owner alone: give the public one"
    for args, said in (
        (["--checkpoint", "a.db.checkpoint"], "go together"),
        (["--public-key", "accountledger.pub"], "go together"),
        (["--checkpoint", "no", "--public-key", "accountledger.pub"], "does not exist"),
        (["--checkpoint", "a.db.checkpoint", "--public-key", "a.db.checkpoint"], "not a public key"),
        (["--checkpoint", "a.db.checkpoint", "--public-key", "accountledger.key"], private),
    ):
        ran = verify(folder, *args)
        assert said in ran.err
        assert (2, "", 1) == (ran.code, ran.out, len(ran.err.splitlines()))
        assert (folder / "accountledger.key").read_text()[-40:].strip() not in ran.err


@pytest.mark.sqlite
def test_what_is_no_ledger_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("text")
    (tmp_path / "empty.db").write_bytes(b"")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE stored_events (a)")
    for name in ("text.db", "empty.db", "other.db", "nowhere.db", "."):
        for command in (["verify"], ["checkpoint", "--key", "text.db"]):
            ran = run(tmp_path, *command, "--db", name)
            assert (2, "", 1) == (ran.code, ran.out, len(ran.err.splitlines())), (name, command, ran)


@pytest.mark.sqlite
@pytest.mark.parametrize("version", ["v0.1.0", "v0.2.0"])
def test_a_ledger_of_an_old_version_is_sealed_when_it_is_first_written_to(
    tmp_path: Path, version: str
) -> None:
    load(GOLDEN / f"{version}.sql", tmp_path / "a.db")
    ran = verify(tmp_path)
    assert (2, "", 1) == (ran.code, ran.out, len(ran.err.splitlines()))
    assert "not sealed yet" in ran.err
    assert 0 == ingest(tmp_path, "1.ndjson", FRAME).code
    # One event of that store is made up: there never was a frame of it.
    assert [("frame", 1)] == [(finding["what"], finding["version"]) for finding in findings(tmp_path)]


@pytest.mark.sqlite
def test_a_killed_sealing_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(GOLDEN / "v0.2.0.sql", tmp_path / "a.db")

    def killed(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ledger.sqlite.leaf", killed)
        with pytest.raises(KeyboardInterrupt):
            Ledger(tmp_path / "a.db")
    assert 2 == verify(tmp_path).code
    with Ledger(tmp_path / "a.db") as ledger:
        assert ["frame"] == [finding.what for finding in ledger.verify()]  # made up, as above


@pytest.mark.sqlite
def test_seals_that_were_thrown_away_are_a_finding(folder: Path) -> None:
    """A ledger that had seals is damaged without them; one of 0.2.0 never had any."""
    change(folder, "DROP TABLE seals")
    assert ["file"] == [finding["what"] for finding in findings(folder)]
    change(folder, "PRAGMA user_version=0")
    assert 2 == verify(folder).code
    assert ["missing"] == [finding["what"] for finding in findings(folder, *CHECKED)]


@pytest.mark.sqlite
@pytest.mark.parametrize("lost", ["evidence", "natural_keys", "stored_events"])
def test_a_table_that_was_thrown_away_is_a_finding_and_nothing_is_recorded_again(
    folder: Path, lost: str
) -> None:
    change(folder, f"DROP TABLE {lost}")
    before = (folder / "a.db").read_bytes()
    (finding,) = findings(folder)
    assert "file" == finding["what"]
    assert finding["reason"].endswith(f"a.db: a damaged ledger (it lost the tables {lost})")
    assert (2, before) == (ingest(folder, "1.ndjson", FRAME).code, (folder / "a.db").read_bytes())


@pytest.mark.sqlite
def test_no_file_is_written_over(folder: Path) -> None:
    """Not the ledger itself, and not a key."""
    before = (folder / "a.db").read_bytes()
    ran = run(folder, "verify", "--db", "a.db", "--export", "a.db")
    assert (2, "", 1) == (ran.code, ran.out, ran.err.count("\n"))
    assert before == (folder / "a.db").read_bytes()


def test_a_changed_decoder_is_listed_by_event_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(tmp_path, "1.ndjson", FRAME, OTHER)
    monkeypatch.setattr(seals, "VENUES", {**VENUES, "bitopro": Changed(bitopro, each(ada))})
    code, out, err = called(
        capsys, "verify", "--db", tmp_path / "a.db", "--export", tmp_path / "found.ndjson"
    )
    assert (1, "") == (code, err)
    assert "bitopro:main version 2" in out
    (line,) = (tmp_path / "found.ndjson").read_bytes().splitlines()
    found = json.loads(line)
    assert ("decode", "bitopro:main", 2) == (found["what"], found["account"], found["version"])
    assert "BalanceSnapshot" == json.loads(found["stored"])["event"] == json.loads(found["decoded"])["event"]
    assert found["stored"] != found["decoded"]


def called(capsys: pytest.CaptureFixture[str], *args: object) -> Ran:
    """The command line in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, said.out, said.err)


# Everything in the file ----------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of every kind of event with every projection stored, and what conversations remember."""
    monkeypatch.setattr(seals, "VENUES", {**VENUES, LATER.NAME: LATER})
    path = tmp_path / "whole.db"
    with Ledger(path) as ledger:
        tampering.record(ledger)
        bring_up_all(ledger)
        remember(ledger, [row_of("a:b", b"123")])
    path.write_bytes(image(path))
    return path


@pytest.mark.sqlite
def test_a_bit_flipped_in_what_projections_stored_or_conversations_remember_is_found(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (0, "") == called(capsys, "verify", "--db", whole)[::2]
    clean, random = whole.read_bytes(), Random(7)
    missed: list[Any] = []
    with closing(sqlite3.connect(whole)) as store:
        names = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        columns = {name: [row[1] for row in store.execute(f"PRAGMA table_info({name})")] for name in names}
    tables = sorted(set(names) - set(tampering.TABLES))
    for turn in range(4 * len(tables)):
        table = tables[turn % len(tables)]
        column = random.choice(columns[table])
        whole.write_bytes(clean)
        with closing(sqlite3.connect(whole)) as store:
            store.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            cells = [
                r
                for r in store.execute(f"SELECT rowid, {column} FROM {table}")
                if r[1] not in (None, "", b"")
            ]
            if not cells:
                continue
            row, cell = random.choice(cells)
            new = flipped(random, cell)
            given = "CAST(? AS TEXT)" if isinstance(cell, str) else "?"
            try:
                store.execute(f"UPDATE {table} SET {column}={given} WHERE rowid=?", (new, row))
            except sqlite3.IntegrityError:
                continue
            store.commit()
        code, _, err = called(capsys, "verify", "--db", whole)
        if (code, err) != (1, ""):
            missed.append((table, column, cell, new, code, err))
    assert [] == missed


@pytest.mark.sqlite
def test_a_bit_flipped_anywhere_in_the_header_is_found_or_harmless_and_never_a_traceback(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = whole.read_bytes()
    before = tampering.content(whole)
    codes = set[int]()
    for at in range(100):
        data = bytearray(clean)
        data[at] ^= 1 << at % 8
        whole.write_bytes(data)
        code, _, err = called(capsys, "verify", "--db", whole)
        codes.add(code)
        assert "" == err
        assert code == 1 or tampering.content(whole) == before, at
    assert {0, 1} == codes


@pytest.mark.sqlite
def test_a_ledger_cut_off_anywhere_is_found(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = whole.read_bytes()
    for size in (512, 4096, 5000, 8192, len(clean) // 2, len(clean) - 4096, len(clean) - 1):
        whole.write_bytes(clean[:size])
        code, _, err = called(capsys, "verify", "--db", whole)
        assert (1, "") == (code, err), size
        code, _, err = called(capsys, "balances", "--db", whole)
        assert code in (0, 1, 2), err


@pytest.mark.sqlite
def test_rows_of_a_projection_whose_place_is_gone_are_a_finding(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for statement in (
        "DELETE FROM projection_positions WHERE name='balances'",
        "UPDATE projection_positions SET version=99 WHERE name='balances'",
        "UPDATE projection_positions SET position=9999 WHERE name='balances'",
        "UPDATE projection_positions SET position='x' WHERE name='balances'",
        "ALTER TABLE balances ADD COLUMN more TEXT",
        "CREATE TRIGGER t AFTER INSERT ON balances BEGIN DELETE FROM balances; END",
        f"UPDATE {TABLE} SET account='a:c'",
    ):
        clean = whole.read_bytes()
        with closing(sqlite3.connect(whole)) as store:
            store.execute(statement)
            store.commit()
        code, out, err = called(capsys, "verify", "--db", whole)
        assert (1, "") == (code, err), statement
        assert "1 finding" in out
        if TABLE not in statement:  # what conversations remember is no projection
            code, out, err = called(capsys, "replay", "--db", whole)
            assert (1, "", False) == (code, err, "equals" in out), statement
        whole.write_bytes(clean)


@pytest.mark.sqlite
def test_what_is_stored_of_a_projection_that_folded_nothing_yet_is_looked_at_too(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be folded into, and told as if an event had said it."""
    clean = whole.read_bytes()
    nothing = "UPDATE projection_positions SET position=0, digest=NULL WHERE name='orders'"
    trigger = "CREATE TRIGGER t AFTER INSERT ON order_rows BEGIN DELETE FROM order_rows; END"
    for statements, said in (
        ([nothing, "DELETE FROM order_rows"], ""),
        ([nothing], "projection: order_rows of "),
        ([nothing, "DELETE FROM order_rows", trigger], "the table order_rows is not defined as it was made"),
    ):
        with closing(sqlite3.connect(whole)) as store:
            for statement in statements:
                store.execute(statement)
            store.commit()
        code, out, err = called(capsys, "verify", "--db", whole)
        assert (int(bool(said)), "") == (code, err), statements
        assert said in out
        whole.write_bytes(clean)


@pytest.mark.sqlite
def test_a_ledger_whose_projections_lag_behind_raises_no_alarm(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(whole) as ledger:
        feed(ledger, says(delta(999, {"A": "1"})), session="later")
    assert (0, "") == called(capsys, "verify", "--db", whole)[::2]
    with closing(sqlite3.connect(whole)) as store:  # as another version would have left it
        store.execute(
            "UPDATE projection_positions SET version=0+version-1 WHERE name='balances' AND version>1"
        )
        store.commit()
    assert (0, "") == called(capsys, "verify", "--db", whole)[::2]


@pytest.mark.parametrize("command", ["verify", "replay"])
def test_a_history_that_lags_behind_raises_no_alarm_where_checkpoints_need_more_of_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a process leaves it that is killed between taking frames in and catching up."""
    rows = [imported(at, "1", str(at), key=f"r{at}") for at in range(1, 200)]
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *map(says, rows[:100]), session="caught up")
        bring_up_all(ledger)
        feed(ledger, *map(says, rows[100:]), session="later")
    code, out, err = called(capsys, command, "--db", tmp_path / "a.db")
    assert (0, "") == (code, err), out


# What other programs read ---------------------------------------------------------------------------------------------

SHOWN: Final = ("shown_balances", "shown_gaps", "shown_breaks", "stated_balances")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with something in every view."""
    monkeypatch.setattr(seals, "VENUES", {**VENUES, LATER.NAME: LATER})
    path = tmp_path / "told.db"
    with Ledger(path) as ledger:
        tampering.record(ledger)
        feed(ledger, says(snapshot(999, {"A": "5"}, part="7", sequence=1)), session="counted")
        feed(ledger, says(delta(1000, {"A": "4"}, sequence=4, subscription="7")), session="counted again")
        bring_up_all(ledger)
        assert all(ledger.select(f"SELECT 1 FROM {table}") for table in SHOWN)
    return path


def redefined(database: Ledger, old: str, new: str) -> list[str]:
    """How a view of the balances is defined that says otherwise."""
    sql = sql_of(CURRENT_BALANCES, server=on_server(database))
    assert old in sql
    return ["DROP VIEW current_balances", sql.replace(old, new)]


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("of", "change"),
    [
        ("shown_balances", "UPDATE shown_balances SET total='1000000', completeness='proven'"),
        ("current_balances", ("t.total", "'42'")),
        ("freshness", "DROP VIEW freshness"),
        ("stated_balances", "DELETE FROM stated_balances WHERE version=2"),
        ("shown_balances", "DELETE FROM shown_balances WHERE asset_id='A'"),
        ("shown_gaps", "UPDATE shown_gaps SET missing='nothing'"),
        ("shown_gaps", "UPDATE shown_gaps SET number=number+100"),
        ("shown_breaks", "DELETE FROM shown_breaks"),
        ("stated_balances", 'UPDATE stated_balances SET balances=\'[["A","A","777",null,null,null,null]]\''),
        ("current_balances", ("t.total", "CASE t.account WHEN 'nobody' THEN '42' ELSE t.total END")),
        (
            "current_balances",
            (
                "t.completeness AS completeness, t.reason AS reason",
                "t.completeness AS reason, t.reason AS completeness",
            ),
        ),
        ("current_balances", ("t.version AS version", "t.version AS version, 1 AS more")),
        ("current_balances", ("shown_balances AS t", "shown_balances AS t WHERE t.asset_id <> 'A'")),
    ],
)
def test_what_the_views_show_that_was_changed_is_found_and_mended_by_a_rebuild(
    told: Path, capsys: pytest.CaptureFixture[str], of: str, change: str | tuple[str, str]
) -> None:
    assert (0, "") == called(capsys, "verify", "--db", told)[::2]
    with Ledger(told) as ledger:
        before = shown(ledger)
        statements = [change] if isinstance(change, str) else redefined(ledger, *change)
        ledger.write([(statement, [()]) for statement in statements])
    code, out, err = called(capsys, "verify", "--db", told, "--json")
    assert (1, "") == (code, err)
    found = json.loads(out)
    assert {"projection"} == {finding["what"] for finding in found}
    assert all(of in finding["reason"] for finding in found)
    code, out, err = called(capsys, "replay", "--db", told)
    assert (1, "") == (code, err)
    assert f"{of}: " in out
    assert 1 == called(capsys, "replay", "--db", told, "--rebuild").code
    for command in ("verify", "replay"):
        code, out, err = called(capsys, command, "--db", told)
        assert (0, "") == (code, err), out
    with Ledger(told, read_only=True) as ledger:
        assert before == shown(ledger)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("command", "of", "change"),
    [
        (
            "history",
            "the table history is not as it was made",
            "ALTER TABLE history RENAME COLUMN amount TO more",
        ),
        ("views", "the table shown_balances is not as it was made", "DROP TABLE shown_balances CASCADE"),
        ("balances", "balances of bitopro:desk was changed", "UPDATE balances SET time_ns=NULL"),
        (
            "follow",
            "balance_subjects of bitopro:desk was changed",
            "UPDATE balance_subjects SET instants='{}'",
        ),
        ("accounts", "accounts of bitopro:desk was changed", "UPDATE accounts SET first_ns=NULL"),
        ("coverage", "sessions of bitopro:desk was changed", "UPDATE sessions SET opened_ns=NULL"),
        ("accounts", "the table accounts is not as it was made", "DROP TABLE accounts CASCADE"),
        (None, "stated_balances of", "UPDATE stated_balances SET balances='[[1]'"),
    ],
)
def test_what_nobody_can_read_any_more_is_named_in_a_line_and_mended_by_a_rebuild(
    told: Path, capsys: pytest.CaptureFixture[str], command: str | None, of: str, change: str
) -> None:
    with Ledger(told) as ledger:
        before = shown(ledger)
        ledger.write([(change if on_server(ledger) else change.removesuffix(" CASCADE"), [()])])
    if command is not None:
        args = ["--for", "0"] if command == "follow" else []
        code, _, err = called(capsys, command, "--db", told, *args)
        assert (2, 1) == (code, err.count("\n")), err
        assert f": {of}: `accountledger verify` names" in err
    assert 1 == called(capsys, "verify", "--db", told).code
    assert 1 == called(capsys, "replay", "--db", told, "--rebuild").code
    code, out, err = called(capsys, "verify", "--db", told)
    assert (0, "") == (code, err), out
    with Ledger(told, read_only=True) as ledger:
        assert before == shown(ledger)


def test_a_defect_is_not_taken_for_something_that_was_changed(
    told: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(*_: object) -> None:
        raise TypeError("of ours")

    monkeypatch.setattr("projections.Accounts.rows", rows)
    code, out, err = called(capsys, "accounts", "--db", told)
    assert (70, "") == (code, out)
    assert "TypeError: of ours" in err
    assert "this is a defect of accountledger" in err


def shown(ledger: Ledger) -> dict[str, list[Any]]:
    return {view.name: sorted(ledger.select(f"SELECT * FROM {view.name}"), key=repr) for view in VIEWS}


@pytest.mark.sqlite
def test_any_cell_changed_of_what_the_views_show_is_found(
    told: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random, clean = Random(7), image(told)
    for table in SHOWN:
        with closing(sqlite3.connect(told)) as store:
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            rows = store.execute(f"SELECT rowid, * FROM {table}").fetchall()
        for at, column in enumerate(columns, 1):
            row = random.choice(rows)
            cell = row[at]
            others = ["1", None] if isinstance(cell, str) else [0 if cell is None else cell + 1, None, "x"]
            for other in others:
                if other == cell:
                    continue
                with closing(sqlite3.connect(told)) as store, suppress(sqlite3.IntegrityError):
                    store.execute(f"UPDATE {table} SET {column}=? WHERE rowid=?", (other, row[0]))
                    store.commit()
                if told.read_bytes() == clean:
                    continue  # SQLite itself does not take it
                assert 1 == called(capsys, "verify", "--db", told).code, (table, column, cell, other)
                told.write_bytes(clean)
    assert 0 == called(capsys, "verify", "--db", told).code


def test_views_that_lag_behind_raise_no_alarm(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of frames that nobody caught up with; told as of one position, with projections as of others, before and after
    it; and made, but not told."""

    def is_well() -> None:
        for command in ("verify", "replay", "replay scripted:main"):
            code, out, err = called(capsys, *command.split(), "--db", told)
            assert (0, "") == (code, err), out

    with Ledger(told) as ledger:
        feed(ledger, says(snapshot(1001, {"A": "7"}, part="7", sequence=1)), session="later")
        is_well()
        catch_up(ledger, [Balances(ledger), Stated(ledger)])
        is_well()
        catch_up(ledger, [kind(ledger) for kind in PROJECTIONS])
        is_well()
        feed(ledger, says(delta(1002, {"A": "8"}, sequence=5, subscription="7")), session="last")
        gaps, views = Gaps(ledger), Views(ledger)
        catch_up(ledger, [gaps])
        views.tell()
        assert views.position > Balances(ledger).subscription.position
        is_well()
        gaps.subscription.reset()
        is_well()
        for each in views.projections:
            each.subscription.reset()
        views.tell()
        is_well()


def test_a_ledger_without_views_and_one_with_views_of_another_version_raise_no_alarm(
    tmp_path: Path, told: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        tampering.record(ledger)
    monkeypatch.setattr(Shown, "version", Shown.version + 1)
    with Ledger(told) as ledger:
        ledger.write([(sql, [()]) for sql in redefined(ledger, "t.total", "'42'")])
    for command in ("verify", "replay"):
        for path in (tmp_path / "a.db", told):
            code, out, err = called(capsys, command, "--db", path)
            assert (0, "") == (code, err), out


def test_beside_a_process_that_follows_nothing_raises_an_alarm(
    told: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is of one moment: the views are told anew while they are folded again."""
    again = told_again

    def meanwhile(*args: Any) -> Shown:
        with Ledger(told) if not ledger.in_file else nullcontext(ledger) as other:
            feed(
                other,
                says(snapshot(1001, {"A": "7"}, part="7", sequence=1)),
                session=f"beside-{next(numbers)}",
            )
            bring_up_all(other)
        return again(*args)

    monkeypatch.setattr("ledger.cli.proof.told_again", meanwhile)
    numbers = count()
    with Ledger(told) as ledger:
        for command in ("verify", "replay"):
            code, out, err = called(capsys, command, "--db", told)
            assert (0, "") == (code, err), (out, err)
    assert 2 == next(numbers)


# Second chance -------------------------------------------------------------------------------------------------------

UNKNOWN: Final = b'{"event":"SOMETHING_NEW"}'


class Knows:
    """BitoPro's module as it may be one day: it knows one message more, and one that says nothing."""

    NAME = bitopro.NAME

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        if b"SOMETHING_NEW" in frame.payload:
            source = frame.source(self.NAME, "new")
            return [
                (frame.account, BalanceSnapshot(source, "", ())),
                ("bitopro:part", BalanceSnapshot(source, "", ())),
            ]
        return [] if b"NOTHING" in frame.payload else bitopro.decode(frame)


@contextmanager
def known(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    with monkeypatch.context() as patched:
        for module in ("seals", "quarantine"):
            patched.setattr(f"ledger.cli.{module}.VENUES", {**VENUES, "bitopro": Knows()})
        yield


def test_what_reads_today_becomes_events_once_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == ingest(tmp_path, "1.ndjson", FRAME, UNKNOWN, b"\xff").code
    db = tmp_path / "a.db"
    with known(monkeypatch):
        assert 1 == called(capsys, "verify", "--db", db).code  # it can be read today
        code, out, err = called(capsys, "quarantine", "--db", db, "retry", "--json")
        assert (1, "") == (code, err)
        read, stays = json.loads(out)
        assert ("read", 2, "bitopro:main", 2) == (
            read["result"],
            read["events"],
            read["account"],
            read["ordinal"],
        )
        assert ("stays", 0, 3) == (stays["result"], stays["events"], stays["ordinal"])
        assert 0 == called(capsys, "verify", "--db", db).code
        with Ledger(db, read_only=True) as ledger:
            before = list(ledger.replay())
        code, out, err = called(capsys, "quarantine", "retry", "--db", db)
        assert (1, "") == (code, err)
        assert "1 decoded again: 0 can be read now (0 events, marked late), 1 stay in quarantine" in out
    ingest(tmp_path, "1.ndjson", FRAME, UNKNOWN, b"\xff")  # told again: nothing is new
    with Ledger(db, read_only=True) as ledger:
        assert before == list(ledger.replay())
    assert [3] == [
        row["ordinal"] for row in json.loads(run(tmp_path, "quarantine", "--db", "a.db", "--json").out)
    ]


def test_what_reads_today_and_says_nothing_new_is_known_and_leaves_the_quarantine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(tmp_path, "1.ndjson", FRAME, b'{"event":"NOTHING"}')
    db = tmp_path / "a.db"
    with known(monkeypatch):
        code, out, err = called(capsys, "quarantine", "--db", db, "retry", "bitopro:main", "--json")
        assert (0, "") == (code, err)
        assert ["known"] == [row["result"] for row in json.loads(out)]
        assert 0 == called(capsys, "verify", "--db", db).code
        assert (0, "[]\n") == called(capsys, "quarantine", "--db", db, "--json")[:2]


@pytest.mark.sqlite
@pytest.mark.parametrize("made", ["replace(payload,'NEW','OLD')", "9", "CAST(x'00' AS BLOB)"])
def test_a_quarantined_frame_that_was_changed_is_named_and_not_decoded_again(
    tmp_path: Path, made: str
) -> None:
    ingest(tmp_path, "1.ndjson", b'{"event":"NEW"}')
    change(tmp_path, f"UPDATE evidence SET payload={made}")
    for args in ((), ("--json",)):
        ran = run(tmp_path, "quarantine", "--db", "a.db", *args)
        assert (1, 1) == (ran.code, ran.err.count("\n"))
        assert "bitopro:main version 2: the frame was changed since: it had SHA-256" in ran.err
    ran = run(tmp_path, "quarantine", "retry", "--db", "a.db", "--json")
    assert (1, "") == (ran.code, ran.err)
    [stays] = json.loads(ran.out)
    assert ("stays", True) == (stays["result"], "was changed since" in stays["reason"])


def test_a_retry_of_nothing_and_of_an_account_that_is_not_there(tmp_path: Path) -> None:
    ingest(tmp_path, "1.ndjson", FRAME)
    ran = run(tmp_path, "quarantine", "--db", "a.db", "retry")
    assert (0, "no quarantined frames\n", "") == (ran.code, ran.out, ran.err)
    assert "[]\n" == run(tmp_path, "quarantine", "--db", "a.db", "retry", "--json").out
    assert 2 == run(tmp_path, "quarantine", "--db", "a.db", "retry", "bitopro:none").code
    assert 2 == run(tmp_path, "quarantine", "--db", "a.db", "retry", "bitopro:main", "more").code
