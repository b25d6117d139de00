"""The rules of the house: what may import what, how rooms are kept, and what never enters the repository.

The import contracts live in pyproject.toml. Here each of them is shown to bite: a copy of the packages gets an
offending import planted, and import-linter must name it. A contract without a planted violation is a failure.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("ledger", "transports", "projections")
SETTINGS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS: Final[dict[str, str]] = {
    contract["id"]: contract["name"] for contract in SETTINGS["tool"]["importlinter"]["contracts"]
}
LOCK: Final = (ROOT / "requirements.lock").read_text()
LINT: Final = "from importlinter.cli import lint_imports_command as lint; lint()"

FUNCTION_LINES_MAX: Final = 70


class Plant(NamedTuple):
    """An import that a contract forbids: the module that gets it, the statement, the module it reaches for."""

    importer: str
    statement: str
    imported: str


# `added_later` exists in no package: a contract must hold for modules that nobody has thought of yet.
PLANTED: Final[dict[str, tuple[Plant, ...]]] = {
    "store": (
        Plant("ledger.ledger", "import eventsourcing.persistence", "eventsourcing"),
        Plant("ledger.added_later", "from eventsourcing.sqlite import SQLiteDatastore", "eventsourcing"),
        Plant("ledger.venues.bitopro", "from eventsourcing import domain", "eventsourcing"),
        Plant(
            "projections.added_later", "from eventsourcing.persistence import StoredEvent", "eventsourcing"
        ),
        Plant("transports.tape", "import eventsourcing", "eventsourcing"),
    ),
    "sans-io": (
        Plant("ledger.ledger", "import socket", "socket"),
        Plant("ledger.store", "from asyncio import to_thread", "asyncio"),
        Plant("ledger.venues.kraken_prime", "from urllib.request import urlopen", "urllib"),
        Plant("ledger.added_later", "import trio", "trio"),
        Plant("ledger.wire", "from trio_websocket import open_websocket_url", "trio_websocket"),
        Plant("projections.added_later", "from anyio import sleep", "anyio"),
        Plant("projections.balances", "import http.client", "http"),
    ),
    "transports": (
        Plant("transports.added_later", "from ledger.venues.bitopro import decode", "ledger.venues.bitopro"),
        Plant("transports.tape", "from ledger.venues import cascade", "ledger.venues.cascade"),
        Plant("transports.tape", "from projections.balances import Balances", "projections.balances"),
    ),
    "projections": (
        Plant("projections.added_later", "import transports.tape", "transports.tape"),
        Plant(
            "projections.gaps", "from ledger.venues.kraken_prime import NAME", "ledger.venues.kraken_prime"
        ),
        Plant("projections.balances", "from eventsourcing.persistence import Recorder", "eventsourcing"),
    ),
    "inward": (
        Plant("ledger.ledger", "from projections import Balances", "projections"),
        Plant("ledger.added_later", "from transports.tape import read", "transports.tape"),
        Plant("ledger.venues.pacifica", "import transports", "transports"),
    ),
    "venues-apart": (
        Plant("ledger.venues.bitopro", "from ledger.venues import cascade", "ledger.venues.cascade"),
        Plant("ledger.venues.added_later", "import ledger.venues.pacifica", "ledger.venues.pacifica"),
    ),
    "venues-pure": (
        Plant("ledger.venues.deltadefi", "from ledger.store import Store", "ledger.store"),
        Plant("ledger.venues.pacifica", "from ledger import ledger", "ledger.ledger"),
        Plant("ledger.venues.added_later", "from ledger.account import Account", "ledger.account"),
    ),
    "open": (
        Plant("ledger.ledger", "from ledger.venues import bitopro", "ledger.venues.bitopro"),
        Plant("ledger.added_later", "import ledger.venues.deltadefi", "ledger.venues.deltadefi"),
    ),
    "command-line": (
        Plant("ledger.ledger", "from ledger.cli import main", "ledger.cli"),
        Plant("ledger.added_later", "from ledger.demo import show", "ledger.demo"),
        Plant("projections.added_later", "import ledger.cli", "ledger.cli"),
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their settings in a folder of their own; what a test plants there it takes out again."""
    tree = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@contextmanager
def planted(tree: Path, plants: Sequence[Plant]) -> Generator[None]:
    """The offending imports in the tree, for the length of the block."""
    paths = {tree / (plant.importer.replace(".", "/") + ".py") for plant in plants}
    before = {path: path.read_text() if path.exists() else None for path in paths}
    try:
        for plant in plants:
            with (tree / (plant.importer.replace(".", "/") + ".py")).open("a") as module:
                module.write(f"\n{plant.statement}\n")
        yield
    finally:
        for path, text in before.items():
            path.unlink() if text is None else path.write_text(text)


def lint(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-logo", "--no-cache", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_packages_keep_every_import_contract(copy: Path) -> None:
    done = lint(copy)
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_planted_import_breaks_its_contract_and_is_named(copy: Path, contract: str) -> None:
    plants = PLANTED.get(contract, ())
    assert plants, f"no violation of {contract!r} is planted here: is it ever broken?"
    with planted(copy, plants):
        done = lint(copy, "--contract", contract)
    assert f"{CONTRACTS[contract]} BROKEN" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    missed = [plant for plant in plants if f"{plant.importer} -> {plant.imported} (l." not in done.stdout]
    assert not missed, done.stdout


def test_the_planted_violations_are_of_contracts_that_exist() -> None:
    assert set(PLANTED) == set(CONTRACTS)


# Rooms -------------------------------------------------------------------------------------------------------------

MODULES: Final = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

NAMES_REFUSED: Final = {"base", "common", "constants", "helpers", "manager", "misc", "types", "utils"}
"""Names that say nothing of what a room knows, so that everything ends up in them."""

WITHOUT_A_TEST_FILE: Final = {
    "ledger/counterparts.py": "the venues' side: test_serve.py talks to each over real sockets",
    "ledger/errors.py": "exceptions only: each is tested where it is raised",
    "ledger/venue.py": "a protocol and the frame: every golden frame goes through them (test_golden.py)",
}
"""Modules that need no tests/test_<module>.py, and why. Venue modules have golden frames instead (test_golden.py)."""


def name(path: Path) -> str:
    """The path as a reader knows it, from the top of the repository."""
    return path.relative_to(ROOT).as_posix()


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [
        name(path) for path in MODULES if NAMES_REFUSED & {*path.relative_to(ROOT).with_suffix("").parts}
    ] == []


def test_every_module_says_in_its_docstring_what_it_knows() -> None:
    """An empty file says nothing and knows nothing."""
    texts = {name(path): path.read_text() for path in MODULES}
    assert [path for path, text in texts.items() if text and not ast.get_docstring(ast.parse(text))] == []


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{name(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {place: lines for place, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_every_module_has_a_test_file_of_its_name() -> None:
    untested = [
        name(path)
        for path in MODULES
        if path.stem not in {"__init__", "__main__"}
        and path.parent not in {ROOT / "ledger/venues", ROOT / "ledger/cli"}  # golden frames; test_cli*.py
        and name(path) not in WITHOUT_A_TEST_FILE
        and not (ROOT / f"tests/test_{path.stem}.py").exists()
    ]
    assert untested == []


def test_the_modules_excused_from_a_test_file_exist() -> None:
    assert [path for path in WITHOUT_A_TEST_FILE if not (ROOT / path).exists()] == []


# What never enters the repository ----------------------------------------------------------------------------------

NEVER: Final = {
    "registry host": r"\bpypi\.org|\bpythonhosted\.org|\bnpmjs\.(?:org|com)|\bdeb\.debian\.org|--(?:extra-)?index-url",
    "machine path": r"(?<![\w.*-])/(?:work|root|opt/pypi\S*|home/\w+|Users/\w+)/",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "access key": r"\bAKIA[0-9A-Z]{16}\b|\bgh[opsu]_\w{36}\b|\bsk-\w{32,}\b|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
    "secret": r"""(?i)\b\w*(?:api[_-]?key|secret|password|passphrase|private[_-]?key)["']?\s*[:=]\s*"""
    r"""["'](?!\S*(?:example|fake|dummy|secret|test|never|0000))[\w+/=-]{16,}["']""",
}
NEVER_OUTSIDE_TESTS: Final = {"temporary path": r"(?<![\w.*-])/(?:tmp|var/tmp)/"}


def offences(text: str, rules: dict[str, str]) -> list[str]:
    return [f"{rule}: {found[0]}" for rule, shape in rules.items() for found in re.finditer(shape, text)]


def texts() -> Iterator[tuple[str, str]]:
    """Every text file that is the project's own: those at the top, and those of its six folders."""
    paths = [path for path in ROOT.iterdir() if path.suffix in {"", ".lock", ".md", ".toml", ".txt"}]
    for folder in (*PACKAGES, "tests", "benchmarks", ".ci"):
        paths.extend((ROOT / folder).rglob("*"))
    for path in sorted(paths):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        try:
            yield name(path), path.read_text()
        except UnicodeDecodeError:
            continue  # bytes on purpose: a frame that is not UTF-8


def test_no_file_holds_a_registry_host_a_machine_path_or_a_secret() -> None:
    found = {
        path: offences(text, NEVER if path.startswith("tests/") else NEVER | NEVER_OUTSIDE_TESTS)
        for path, text in texts()
    }
    assert "pyproject.toml" in found
    assert {path: offence for path, offence in found.items() if offence} == {}


@pytest.mark.parametrize(
    "text",
    [
        "https:" + "//py" + "pi.org/simple",
        "--index" + "-url x",
        "cd /wo" + "rk/main",
        "'/ro" + "ot/.cache'",
        "/ho" + "me/someone/ledger.db",
        "-----BEGIN EC PRI" + "VATE KEY-----",
        "AKIA" + "Z" * 16,
        'API_KEY = "' + "9f8e7d6c5b4a39281706" + '"',
        '{"pass' + 'word": "hunter2hunter2hunter2"}',
        "open('/t" + "mp/ledger.db')",
    ],
)
def test_what_must_never_enter_is_recognised(text: str) -> None:
    assert offences(text, NEVER | NEVER_OUTSIDE_TESTS) != []


@pytest.mark.parametrize(
    "text", ["teamwork/main", "https://example.org/work/x", "api_key=key", "secret: str", "src/tmp/x"]
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert offences(text, NEVER | NEVER_OUTSIDE_TESTS) == []


# The start of a command ---------------------------------------------------------------------------------------------


def test_a_command_that_only_reads_waits_for_no_library_it_does_not_need() -> None:
    slow = {"anyio", "asyncio", "eth_account", "httpx2", "psycopg", "trio", "uvicorn", "websockets"}
    code = f"import sys, ledger.cli; print(*({slow} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout == "\n", ran


# The lock ----------------------------------------------------------------------------------------------------------


def test_the_lock_names_no_place_to_fetch_from() -> None:
    assert [line for line in LOCK.splitlines() if "://" in line or " @ " in line] == []


def test_the_lock_pins_everything_declared_by_version_and_hash() -> None:
    pinned = set(re.findall(r"^([a-z0-9.-]+)==\S+[^\n]*\\\n +--hash=sha256:", LOCK, re.MULTILINE))
    assert pinned == set(re.findall(r"^([\w.-]+)", LOCK, re.MULTILINE))
    project = SETTINGS["project"]
    declared: list[str] = [
        *SETTINGS["build-system"]["requires"],
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[\[<>=!~; ]", each)[0].lower().replace("_", "-") for each in declared}
    assert (
        names - {"accountledger"} <= pinned
    )  # "accountledger[cascade]": an extra of its own, among those above
