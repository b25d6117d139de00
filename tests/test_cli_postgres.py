"""The commands on PostgreSQL say what they say on a file: the same rows, the same words, the same exit codes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ledger import Ledger
from ledger import run as run_module
from ledger.cli import main
from tests.databases import Schemas
from tests.terminal import run
from tests.test_run import DEMO, TAPES, served


class Said(NamedTuple):
    """What a command said, and how it ended."""

    code: object
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command of this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ran(*args: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(args)
        said = capsys.readouterr()
        return Said(ended.value.code, said.out, said.err)

    return ran


@pytest.fixture(scope="module")
def fed(schemas: Schemas, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The demo's tapes in a file and in PostgreSQL: the places of both."""
    places = str(tmp_path_factory.mktemp("demo") / "a.db"), schemas.kept()
    for place in places:
        for tape in sorted(TAPES.glob("*.tape")):
            head = json.loads(tape.read_text().partition("\n")[0])
            with pytest.raises(SystemExit) as ended:
                main(["ingest", "--db", place, head["venue"], head["account"], str(tape)])
            assert ended.value.code in (0, 1)
    return places


WALLET = "cascade:0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f/0"
ASKED: tuple[tuple[str, ...], ...] = (
    ("accounts", "--json"),
    ("accounts",),
    ("balances", "--json"),
    ("balances", "--at", "2026-11-21T00:00:00Z", "--json"),
    ("balances", "bitopro:main", "--at", "3", "--json"),
    ("orders", "--json"),
    ("fills", "--json"),
    ("history", "--json"),
    ("gaps", "--json"),
    ("breaks", "--json"),
    ("quarantine", "--json"),
    ("coverage", "--json"),
    ("audit", "bitopro:main", "--json"),
    ("statement", "bitopro:main", "--from", "2020-01-01", "--to", "2030-01-01", "--json"),
    ("why", "bitopro:main", "TWD", "--json"),
    ("balances", "nobody:nowhere", "--json"),
    ("quarantine", "retry", "--json"),
    ("replay",),
    ("replay", "--rebuild"),
    ("verify", "--json"),
    ("verify",),
)


def told(said: Said, place: str, name: str) -> Said:
    """Without what is the place's own: its name, and times of a clock."""
    text = said.out.replace(name, "DB").replace(place, "DB")
    text = re.sub(r"\b\d+(\.\d+)? ?m?s\b", "SOON", text)
    return Said(said.code, text, said.err.replace(name, "DB").replace(place, "DB"))


@pytest.mark.parametrize("asked", ASKED, ids=" ".join)
def test_a_command_says_the_same_of_both(
    fed: tuple[str, str], command: Command, asked: tuple[str, ...]
) -> None:
    said = []
    for place in fed:
        with Ledger(place, read_only=True) as ledger:
            name = ledger.name
        said.append(told(command(*asked, "--db", place), place, name))
    assert said[0] == said[1]
    assert said[0].code in (0, 1) or "no account" in said[0].err
    assert said[0].out or said[0].err


def test_what_is_fed_again_is_known_and_a_checkpoint_is_signed_and_holds(
    fed: tuple[str, str], command: Command
) -> None:
    _, url = fed
    again = command("ingest", "--db", url, "bitopro", "main", str(TAPES / "bitopro.tape"))
    assert re.search(r"4 frames: 0 recorded, 4 duplicates", again.out), again
    assert 0 == command("keygen").code
    assert 0 == command("checkpoint", "--db", url).code
    held = ("--checkpoint", "postgres.checkpoint", "--public-key", "accountledger.pub")
    assert 0 == command("verify", "--db", url, *held).code
    command("ingest", "--db", url, "bitopro", "other", str(TAPES / "bitopro.tape"))
    assert 0 == command("verify", "--db", url, *held).code
    assert 0 == command("checkpoint", "--db", url).code
    with Ledger(url) as ledger:
        ledger.write([("DELETE FROM stored_events WHERE notification_id>?", [(ledger.position() - 1,)])])
    bad = command("verify", "--db", url, "--json", *held)
    assert (1, True) == (bad.code, bool(json.loads(bad.out)))


def test_a_feed_runs_into_postgresql(
    schemas: Schemas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in DEMO.items():
        monkeypatch.setenv(name, value)
    url = schemas.url()
    with served("bitopro") as feeds:
        (tmp_path / "FEEDS.toml").write_text(feeds)
        ran = run(tmp_path, "run", "FEEDS.toml", "--db", url, "--for", "2")
    assert (ran.code, ran.err) == (0, "")
    assert "bitopro:main  4 frames: 4 recorded" in ran.out
    held: list[dict[str, Any]] = json.loads(run(tmp_path, "balances", "--db", url, "--json").out)
    assert "1140000" in {row["total"] for row in held}
    schemas.forget()


def test_the_demo_shows_where_it_wrote_and_no_password(schemas: Schemas, tmp_path: Path) -> None:
    url = schemas.url()
    secret = "password=hunter3&ssl%70assword=hunter4"
    said = f"{url.replace('//postgres@', '//postgres:hunter2@')}&{secret}&application_name=demo"
    assert "hunter2" in said
    ran = run(tmp_path, "demo", "--db", said)
    assert (ran.code, ran.err) == (0, "")
    assert "hunter" not in ran.out
    named = next(line for line in ran.out.splitlines() if " verify --db " in line).split(" --db ")[1]
    assert f"{url}&application_name=demo" == shlex.split(named)[0]
    assert run(tmp_path, "verify", "--db", shlex.split(named)[0]).code == 0
    schemas.forget()


def test_the_tapes_are_the_demos() -> None:
    assert Path(run_module.__file__).parent / "demo" == TAPES
    assert 5 == len(list(TAPES.glob("*.tape")))
