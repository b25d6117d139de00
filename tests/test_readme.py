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


def test_the_python_snippets_run_one_after_the_other_and_print_what_the_readme_says(
    tmp_path: Path, database: tuple[str, str]
) -> None:
    """In one test: a later one reads what an earlier one wrote, and two tests may be run by two processes."""
    url, name = database
    for code, output in PYTHON:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", code.replace(SERVER, url)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (0, "") == (ran.returncode, ran.stderr), code
        assert output == ran.stdout.replace(name, SERVER), code


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


def test_the_commands_print_one_after_the_other_what_the_readme_shows(tmp_path: Path) -> None:
    for step in (step for session in CONSOLE for step in session.split("$ ")[1:]):
        line, _, shown = step.partition("\n")
        command, *args = line.split()
        if command == "cat":
            (tmp_path / args[0]).write_text(shown)
            continue
        if command == "python":  # one file, for a Python without packages
            run = [sys.executable, "-I", "-S", str(ROOT / args.pop(0)), *args]
        else:
            assert command == "accountledger"
            run = [sys.executable, "-m", "ledger", *args]
        ran = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert 0 == ran.returncode, line
        assert ran.stderr.startswith("proof of ") if "--bundle" in args else ran.stderr == ""
        printed = "".join(f"{each.rstrip()}\n" for each in ran.stdout.splitlines())
        likely = "(?s:.*?)".join(map(re.escape, shown.split("...")))
        assert re.fullmatch(likely, printed), printed


def test_the_readme_names_every_command() -> None:
    from ledger.cli import cli

    assert [] == [name for name in cli.commands if f"`{name}" not in README]
