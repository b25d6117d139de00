"""What was measured, as tables for people and JSON for programs, with the machine it was measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import gettempdir

import msgspec
from msgspec import Struct
from rich.table import Table

from benchmarks.measure import Result, Spread


class Machine(Struct, frozen=True):
    """Where and with what, at one moment."""

    python: str
    platform: str
    cpus: int
    cpus_usable: int
    load: tuple[float, ...]
    """Of the last 1, 5 and 15 minutes."""
    sqlite: str
    versions: dict[str, str]
    store_folder: str
    """Where the ledgers that are measured lie: the disk behind it is measured too."""


class Report(Struct, frozen=True):
    """One run of the benchmarks."""

    before: Machine
    after: Machine
    quick: bool
    results: Sequence[Result]


def machine() -> Machine:
    """This machine, now."""
    cpus = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    names = ("accountledger", "msgspec", "eventsourcing")
    return Machine(
        f"{platform.python_implementation()} {platform.python_version()}",
        platform.platform(),
        cpus,
        usable,
        tuple(round(each, 2) for each in load),
        sqlite3.sqlite_version,
        {name: _version(name) for name in names},
        gettempdir(),
    )


def machine_line(machine: Machine) -> str:
    """The machine in one line."""
    parts = (
        machine.python,
        f"SQLite {machine.sqlite}",
        *(f"{name} {said}" for name, said in machine.versions.items()),
        f"{machine.cpus_usable} of {machine.cpus} CPUs",
        f"load {load_text(machine)}",
        f"store in {machine.store_folder}",
    )
    return ", ".join(parts)


def load_text(machine: Machine) -> str:
    """The load averages."""
    return " ".join(f"{each:.2f}" for each in machine.load) or "unknown"


def table(results: Sequence[Result]) -> Table:
    """A row per side; cases apart by a line."""
    unit = results[0].unit
    made = Table(
        title=results[0].benchmark, title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    made.add_column("case", overflow="fold")
    made.add_column("side")
    for name in (f"{unit}/s", "min-max", "MB/s", "accountledger's speed / its", "min-max"):
        made.add_column(name, justify="right")
    for result in results:
        for index, run in enumerate(result.runs):
            made.add_row(
                _case(result) if index == 0 else "",
                run.side,
                f"{run.per_s.median:,.0f}",
                f"{run.per_s.low:,.0f}-{run.per_s.high:,.0f}",
                "" if run.mb_per_s is None else f"{run.mb_per_s:,.1f}",
                *_ratio(run.ours),
                style=None if index else "bold",
                end_section=index == len(result.runs) - 1,
            )
    return made


def write_json(path: Path, before: Machine, quick: bool, results: Iterable[Result]) -> None:
    """One JSON object: the machine before and after, and every result."""
    report = Report(before, machine(), quick, list(results))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _case(result: Result) -> str:
    """The case, how large its frames are, and what is stored of each."""
    if result.bytes_each is None:
        return result.case
    stored = "" if result.stored_each is None else f", stores {result.stored_each:,} B"
    return f"{result.case} ({result.bytes_each:,} B{stored})"


def _ratio(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return "", ""
    return f"{spread.median:.2f}", f"{spread.low:.2f}-{spread.high:.2f}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
