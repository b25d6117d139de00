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

from benchmarks.claims import Told, bound_text, told
from benchmarks.extras import PACKAGES
from benchmarks.measure import Result, Run, Spread
from benchmarks.tables import Fitted


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
    claims: Sequence[Told]


def machine() -> Machine:
    """This machine, now."""
    cpus = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    names = ("accountledger", "msgspec", "eventsourcing", *PACKAGES)
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


def table(results: Sequence[Result]) -> Fitted:
    """A row per side, under the case; what is claimed of it at the end."""
    unit = results[0].unit
    made = Fitted(results[0].benchmark)
    made.add_column("", overflow="fold")
    for name in (f"{unit}/s", "min-max", "MB/s", "CPU us", "our speed / its", "min-max", "by CPU"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("", overflow="fold")
    for result in results:
        made.add_row(result.case, *[""] * 7, _sizes(result), style="bold")
        for run in result.runs:
            made.add_row(f"  {run.side}", *_figures(run), run.note)
        made.add_section()
    return made


def claims_table(claims: Sequence[Told], title: str) -> Fitted:
    """What is to be shown, the worst figure of it, and whether that is enough."""
    made = Fitted(title)
    made.add_column("claim", overflow="fold")
    made.add_column("asked", no_wrap=True)
    made.add_column("figure", justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("worst case", overflow="fold")
    for claim in claims:
        made.add_row(
            claim.text,
            bound_text(claim),
            "" if claim.figure is None else f"{claim.figure:.2f}",
            claim.verdict,
            (claim.case if claim.cases > 1 else "") if claim.figure is not None else claim.reason,
            style=None if claim.verdict == "pass" else "bold",
        )
    return made


def check_writable(path: Path) -> None:
    """Raises OSError where it is plain already that no JSON can be written there."""
    if path.is_fifo():
        return  # who reads it would take this for its end
    with path.open("ab", buffering=0) as file:
        if path.is_char_device():
            file.write(b"\n")  # only so a full one tells; JSON may begin with it


def write_json(path: Path, before: Machine, quick: bool, results: Iterable[Result]) -> None:
    """One JSON object: the machine before and after, every result, and every claim with its verdict."""
    results = list(results)
    report = Report(before, machine(), quick, results, told(results))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def _sizes(result: Result) -> str:
    """How large a frame of the case is, and what is stored of each."""
    if result.bytes_each is None:
        return ""
    stored = "" if result.stored_each is None else f", stores {result.stored_each:,} B"
    return f"{result.bytes_each:,} B{stored}"


def _figures(run: Run) -> tuple[str, ...]:
    if run.per_s is None:
        return ("",) * 7
    return (
        f"{run.per_s.median:,.0f}",
        f"{run.per_s.low:,.0f}-{run.per_s.high:,.0f}",
        "" if run.mb_per_s is None else f"{run.mb_per_s:,.1f}",
        "" if run.cpu_us_each is None else f"{run.cpu_us_each:,.2f}",
        *_ratio(run.ours),
        _ratio(run.ours_cpu)[0],
    )


def _ratio(spread: Spread | None) -> tuple[str, str]:
    if spread is None:
        return "", ""
    return f"{spread.median:.2f}", f"{spread.low:.2f}-{spread.high:.2f}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
