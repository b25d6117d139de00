"""The suite is deterministic: hypothesis tries the same examples each time. HYPOTHESIS_PROFILE=explore: new ones.

What works through a ledger runs twice: as it is written, and in PostgreSQL (`tests.databases`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from projections.tables import Table
from tests.databases import (
    POSTGRES,
    QUICK,
    Schemas,
    also_in_postgres,
    fewer_examples,
    route,
    server,
    too_many,
)

_recursion = sys.getrecursionlimit()
import_module("eth_account")  # a library below it lifts the limit; here, before any test imports it

sys.setrecursionlimit(_recursion)

os.environ.pop("PYTHONUNBUFFERED", None)  # what commands do with their buffers is tested, too

settings.register_profile("house", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Which of those that xdist started this is: gw0, gw1 and so on."""
SQLITE = "sqlite: is about SQLite itself, its files or its locks: not run in PostgreSQL"
FEW = (
    "few(n): asks a ledger thousands of times, or takes long and asks little of it: of its cases the first n, "
    "by default 2, are run in PostgreSQL"
)


CLOCK = "clock: waits for the clock: run by `make test` when nothing else keeps the processors busy"
WAITING = frozenset(
    [
        "test_benchmarks_transport",
        "test_chaos_live",
        "test_run",
        "test_signals",
        "test_slow_disk",
        "test_standby",
        "test_venues_live",
        "test_venues_live_baselines",
        "test_venues_live_history",
        "test_venues_live_tapes",
    ]
)
"""The modules that are marked so."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", CLOCK)
    config.addinivalue_line("markers", SQLITE)
    config.addinivalue_line("markers", FEW)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if also_in_postgres(metafunc):
        as_written = pytest.param("as written", id=pytest.HIDDEN_PARAM)
        metafunc.parametrize("database", [as_written, POSTGRES], indirect=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of the two runs of `make test` each collects its own modules alone: all of them take 13 s."""
    runs = {"clock": True, "not clock": False}
    if collection_path.suffix != ".py" or config.option.markexpr not in runs:
        return None
    return True if (collection_path.stem in WAITING) != runs[config.option.markexpr] else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Workers begin with different modules: what one has compiled, the others find."""
    report = yield
    if WORKER and isinstance(collector, pytest.Package):
        begin = len(report.result) * int(WORKER[2:]) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        report.result = [*report.result[begin:], *report.result[:begin]]
    return report


@pytest.hookimpl(tryfirst=True)  # before what is asked for by its marks is chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if WORKER:
        items.sort(key=lambda item: item.path)
    for item in items:
        if item.path.stem in WAITING:
            item.add_marker(pytest.mark.clock)
        elif item.get_closest_marker("clock"):
            raise pytest.UsageError(
                f"{item.nodeid}: whole modules wait for the clock, those of WAITING: no run has it"
            )
    left_out = too_many(items)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server, in a hurry: what it acknowledges need not survive the machine."""
    with server(*QUICK) as url:
        yield url


@pytest.fixture(scope="session")
def schemas(postgres_server: str) -> Iterator[Schemas]:
    """Schemas on that server, for ledgers."""
    made = Schemas(postgres_server)
    yield made
    made.close()


@pytest.fixture
def new_schema(schemas: Schemas) -> Iterator[str]:
    """The URL of a schema with nothing in it."""
    yield schemas.url()
    schemas.forget()


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the ledgers of a test are."""
    if getattr(request, "param", None) != POSTGRES:
        yield
        return
    made: Schemas = request.getfixturevalue("schemas")
    route(monkeypatch, made)
    fewer_examples(monkeypatch, request.function)
    yield
    made.forget()


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many stored rows projections read, in a list of one."""
    read = [0]
    load = Table._load

    def counted(self: Any, stored: Any) -> Any:
        read[0] += 1
        return load(self, stored)

    monkeypatch.setattr(Table, "_load", counted)
    return read
