"""The README is true: its Python runs and prints what it says, its commands print what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.cli import VENUES
from ledger.feeds import read_feeds
from tests.databases import Schemas

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n\n```output\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
PYTHON = [(code, output) for kind, code, output in BLOCK.findall(README) if kind == "python"]
CONSOLE = [code for kind, code, _ in BLOCK.findall(README) if kind == "console"]


SERVER = "postgresql://ledger@localhost/ledger"
"""What the README calls a database."""


@pytest.fixture(scope="module")
def database(schemas: Schemas) -> tuple[str, str]:
    """A database that stands in for it: its URL, and the name that the ledger gives it."""
    url = schemas.url()
    with Ledger(url) as ledger:
        return url, ledger.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all snippets, in order: a later one may read what an earlier one wrote."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize(("code", "output"), PYTHON)
def test_a_python_snippet_runs_and_prints_what_the_readme_says(
    folder: Path, database: tuple[str, str], code: str, output: str
) -> None:
    url, name = database
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace(SERVER, url)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "") == (ran.returncode, ran.stderr)
    assert output == ran.stdout.replace(name, SERVER)


@pytest.mark.parametrize("feeds", [code for kind, code, _ in BLOCK.findall(README) if kind == "toml"])
def test_the_feeds_it_shows_are_read(tmp_path: Path, feeds: str) -> None:
    (tmp_path / "FEEDS.toml").write_text(feeds)
    (tmp_path / "keys").mkdir()
    for name in re.findall(r'"file:(.+?)"', feeds):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text("a secret of nobody\n")
    environ = dict.fromkeys(re.findall(r'"env:(\w+)"', feeds), "a-secret-of-nobody")
    found = [each.venue.NAME for each in read_feeds(tmp_path / "FEEDS.toml", VENUES, environ)]
    assert sorted(VENUES) == sorted(found)


def test_every_python_snippet_says_what_it_prints() -> None:
    assert len(PYTHON) >= 3
    assert all(output for _, output in PYTHON)


@pytest.mark.parametrize("session", CONSOLE)
def test_a_command_prints_what_the_readme_shows(folder: Path, session: str) -> None:
    for step in session.split("$ ")[1:]:
        line, _, shown = step.partition("\n")
        command, *args = line.split()
        if command == "cat":
            (folder / args[0]).write_text(shown)
            continue
        if command == "python":  # one file, for a Python without packages
            run = [sys.executable, "-I", "-S", str(ROOT / args.pop(0)), *args]
        else:
            assert command == "accountledger"
            run = [sys.executable, "-m", "ledger", *args]
        ran = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=60)
        assert 0 == ran.returncode
        assert ran.stderr.startswith("proof of ") if "--bundle" in args else ran.stderr == ""
        printed = "".join(f"{each.rstrip()}\n" for each in ran.stdout.splitlines())
        likely = "(?s:.*?)".join(map(re.escape, shown.split("...")))
        assert re.fullmatch(likely, printed), printed


def test_the_readme_names_every_command() -> None:
    from ledger.cli import cli

    assert [] == [name for name in cli.commands if f"`{name}" not in README]
