"""What the commands share: the group they belong to, their options, exit codes, and how a ledger is opened to read."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click

from ledger.console import progress
from ledger.ledger import Ledger
from ledger.store import URLS, is_url
from ledger.venue import Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from projections import (
    Accounts,
    Balances,
    Breaks,
    Checkpoints,
    Fills,
    Gaps,
    History,
    Orders,
    Projection,
    Quarantine,
    Sessions,
    Stated,
    Views,
    catch_up,
)

DONE: Final = 0
FINDINGS: Final = 1
BAD: Final = 2
INTERRUPTED: Final = 130
UNHEARD: Final = 141
"""Whoever read the output is gone, and has not heard how it ended."""

_ALL: Final[tuple[Venue, ...]] = (deltadefi, bitopro, kraken_prime, cascade, pacifica)
VENUES: Final[Mapping[str, Venue]] = {venue.NAME: venue for venue in _ALL}

PROJECTIONS: Final[tuple[Callable[..., Any], ...]] = (
    Accounts,
    Balances,
    Orders,
    Fills,
    History,
    Gaps,
    Sessions,
    Breaks,
    Quarantine,
    Stated,
    Checkpoints,
)

F = TypeVar("F", bound=Callable[..., Any])
P = TypeVar("P", bound=Projection)


def _version() -> str:
    try:
        return version("accountledger")
    except PackageNotFoundError:
        return "from a source tree, not installed"


class Finite(click.FloatRange):
    """A number from 0 to what a timer can wait for: `nan` is in every range."""

    def __init__(self) -> None:
        super().__init__(min=0, max=threading.TIMEOUT_MAX)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return found


class _Commands(click.Group):
    """A command whose output nobody reads any more ends as UNHEARD: not done, and nothing was found by it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            end_output()
            raise click.exceptions.Exit(UNHEARD) from None
        return found


def end_output() -> None:
    """Write what is left to be written; where it cannot be, to nobody: at the end it would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=_version(), prog_name="accountledger")
def cli() -> None:
    """The ledger of what exchanges say about your accounts: exact, complete and provable.

    Exit codes: 0 done; 1 done, and something was found wrong; 2 bad usage or input; 130 interrupted; 141 nobody reads
    the output any more.
    """


def db_option(command: F) -> F:
    return click.option(
        "--db",
        required=True,
        type=click.Path(dir_okay=False),
        help="The ledger: a SQLite file, or a PostgreSQL database (postgresql://user@host/database).",
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON array; amounts are strings.")(
        command
    )


def existing(db: str) -> str:
    """A ledger that a command goes on with. Raises NoSuchLedger where there is no such file: a misspelt name is no new
    ledger. A database on a server is there, or cannot be reached."""
    if not is_url(db):
        with Ledger(db, read_only=True):
            pass
    return db


def account_argument(command: F) -> F:
    return click.argument("account", required=False)(command)


def checkpoint_of(db: str) -> Path:
    """Where the signed checkpoint of a ledger is kept: beside its file; of a database on a server, in this folder."""
    name = (urlsplit(db).path.strip("/") or "postgres") if db.startswith(URLS) else db
    return Path(f"{name}.checkpoint")


def replaceable(path: Path) -> Path:
    """A file to write to: new, empty, or one that was written like this before (JSON). Nothing else is written over."""
    try:
        with path.open("rb") as file:
            begins = file.read(2)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None
    if begins not in (b"", b'{"'):
        raise click.UsageError(f"{path} exists and is something else; it is not written over")
    return path


@contextlib.contextmanager
def reading(db: str, account: str | None) -> Generator[tuple[Ledger, str | None]]:
    """The ledger, to read, and the account as the ledger writes it. Raises where it is not there."""
    with Ledger(db, read_only=True) as ledger:
        if account is not None and account not in caught_up(ledger, Accounts(ledger)):
            known = [row.account for row in Accounts(ledger).rows()]
            alike = [name for name in known if name.casefold() == account.casefold()]
            if len(alike) != 1:
                raise click.UsageError(
                    f"{ledger.name} has no account {account!r}; `accountledger accounts --db {ledger.name}` lists them"
                )
            account = alike[0]
        yield ledger, account


def caught_up(ledger: Ledger, projection: P) -> P:
    bring_up(ledger, [projection])
    return projection


def bring_up_all(ledger: Ledger) -> None:
    """Every projection, and the SQL views."""
    views, projections = views_and_all(ledger)
    bring_up(ledger, projections)
    views.tell()


def views_and_all(ledger: Ledger) -> tuple[Views, list[Projection]]:
    """The SQL views, and every projection once: theirs and the others."""
    views = Views(ledger)
    every: dict[str, Projection] = {each.name: each for each in views.projections}
    for kind in PROJECTIONS:
        made: Projection = kind(ledger)
        every.setdefault(made.name, made)
    return views, [*every.values()]


def bring_up(ledger: Ledger, projections: Sequence[Projection]) -> None:
    behind = ledger.position() - min(each.subscription.position for each in projections)
    with progress("projections", behind) as advance:
        catch_up(ledger, projections, progress=advance)
