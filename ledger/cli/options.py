"""What the commands share: the group they belong to, their options, exit codes, how a ledger is opened to read, and
what is said where a command stumbles over what somebody changed."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import click

from ledger.console import printable, progress
from ledger.errors import Corrupt, LedgerError, StoreError
from ledger.ledger import Ledger
from ledger.store import URLS, is_url
from ledger.venue import Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from projections import (
    Accounts,
    Balances,
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
DEFECT: Final = 70
"""Of ours: EX_SOFTWARE of sysexits.h. Python's own 1 would say that something was found."""
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
    Quarantine,
    Stated,
    Checkpoints,
)

_CLICKS: Final = (click.ClickException, click.Abort, click.exceptions.Exit)

F = TypeVar("F", bound=Callable[..., Any])
P = TypeVar("P", bound=Projection)


def _tell_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # a tenth of a start, for those who ask

    try:
        told = version("accountledger")
    except PackageNotFoundError:
        told = "from a source tree, not installed"
    click.echo(f"accountledger, version {told}")
    ctx.exit()


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

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _heard():  # --help prints here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _heard():
            return super().invoke(ctx)


@contextlib.contextmanager
def _heard() -> Generator[None]:
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        end_output()
        raise click.exceptions.Exit(UNHEARD) from None


def end_output(of: TextIO | None = None) -> bool:
    """Write what is left to be written, to standard output if nothing else is named; where it cannot be, to nobody: at
    the end it would fail again. Whether it could be."""
    stream = of or sys.stdout
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_tell_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """The ledger of what exchanges say about your accounts: exact, complete and provable.

    Exit codes: 0 done; 1 done, and something was found wrong; 2 bad usage or input; 70 a defect of this
    program; 130 interrupted; 141 nobody reads the output any more.
    """


def db_option(command: Callable[..., int]) -> Callable[..., int]:
    """The ledger of a command. What somebody changed of what projections stored, and the command stumbled over, is
    named in one line; whatever else it stumbles over is a defect."""

    @wraps(command)
    def told(*, db: str, **options: Any) -> int:
        try:
            return command(db=db, **options)
        except (OSError, *_CLICKS):
            raise
        except Exception as error:
            if isinstance(error, LedgerError) and type(error) is not StoreError:
                raise
            found = None
            with contextlib.suppress(StoreError), Ledger(db, read_only=True) as ledger:
                found = _changed(ledger, error)
            if found is None:
                raise
            raise Corrupt(
                f"{found}: `accountledger verify` names all that was changed, `accountledger replay --rebuild` folds "
                "it again"
            ) from error

    return click.option(
        "--db",
        required=True,
        type=click.Path(dir_okay=False),
        help="The ledger: a SQLite file, or a PostgreSQL database (postgresql://user@host/database).",
    )(told)


def _changed(ledger: Ledger, error: Exception) -> str | None:
    """What a command stumbled over, where it is something that somebody changed."""
    from ledger.cli.proof import changed, misshapen  # which has these options, too

    table = misshapen(ledger)
    if table is not None:
        return f"{ledger.name}: the table {table} is not as it was made"
    row = None if isinstance(error, StoreError) else changed(ledger)
    return None if row is None else f"{ledger.name}: {row} was changed"


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
    if db.startswith(URLS):  # perhaps not a right one: opening it says so
        path = db.partition("://")[2].partition("?")[0].partition("/")[2]
        db = path.strip("/") or "postgres"
    return Path(f"{db}.checkpoint")


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
        known = [] if account is None else [row.account for row in caught_up(ledger, Accounts(ledger)).rows()]
        if account is not None and account not in known:
            alike = [name for name in known if name.casefold() == account.casefold()]
            if len(alike) != 1:
                raise click.UsageError(
                    f"{ledger.name} has no account {account!r}; `accountledger accounts --db {ledger.name}` lists them"
                )
            account = alike[0]
        yield ledger, account


def tell_damage(account: str, version: int, damage: str | None) -> bool:
    """Say on standard error what happened to the frame of an event (`ledger.findings.damage_of`), if anything; whether
    anything did."""
    if damage is not None:
        click.echo(printable(f"{account} version {version}: {damage}: see accountledger verify"), err=True)
    return damage is not None


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


def bring_up(ledger: Ledger, projections: Sequence[Projection], stop: threading.Event | None = None) -> None:
    """Catch up, with a bar; until `stop` is set."""
    behind = ledger.position() - min(each.subscription.position for each in projections)
    with progress("projections", behind) as advance:
        catch_up(ledger, projections, progress=advance, stop=stop)
