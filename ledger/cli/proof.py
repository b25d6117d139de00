"""Commands that prove what the ledger says: replay; and what projections stored beside a fold from zero, for others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click

from ledger.cli.options import (
    DONE,
    FINDINGS,
    PROJECTIONS,
    account_argument,
    bring_up,
    bring_up_all,
    cli,
    db_option,
    reading,
)
from ledger.console import out, progress, show_table
from ledger.errors import StoreError
from ledger.ledger import Ledger
from projections import Projection, Views, compare
from projections.checkpoints import Checkpoints
from projections.subscription import BATCH_EVENTS_MAX, Place, frame_of, place_of
from projections.tables import Table
from projections.view_check import otherwise
from projections.view_sql import is_as_made
from projections.views import Shown, moment_of, told_again

DIFFERENCES_SHOWN_MAX: Final = 20


@cli.command()
@db_option
@account_argument
@click.option("--rebuild", is_flag=True, help="Keep the fresh fold in place of the stored one.")
def replay(db: str, account: str | None, rebuild: bool) -> int:
    """Fold every projection again from zero and compare with the stored one. Exit code 1: they differ."""
    with reading(db, account) as (ledger, account), refolded(ledger, account, "replay") as (events, folds):
        summary: list[dict[str, Any]] = []
        for fold in folds:
            one, other = fold.stored, fold.folded
            different = [*unlike(fold, account)]
            told = {each.table for each in different if each.account is None}
            found = [*misplaced(ledger, one)]
            found += [
                f"{name}: the {kind} is not defined as it was made"
                for kind, name in redefined(ledger, fold)
                if name not in told
            ]
            found += [f"{each.table}: {each.said}" for each in different]
            rows = sum(1 for each in other.tables for _ in each.rows(account))
            summary.append(
                {
                    "projection": one.name,
                    "rows": rows,
                    "stored up to": one.subscription.position,
                    "differences": len(found),
                }
            )
            for said in found[:DIFFERENCES_SHOWN_MAX]:
                out.print(said, soft_wrap=True)
        show_table(summary)
    differences = sum(each["differences"] for each in summary)
    unstored = [each["projection"] for each in summary if events and not each["stored up to"]]
    if differences:
        verdict = f"{differences} differences" + (
            "" if rebuild else " (replay --rebuild keeps the fresh fold)"
        )
    elif unstored:
        verdict = f"every stored projection equals the fresh fold; not stored yet: {', '.join(unstored)}"
    else:
        verdict = "every projection equals the stored one"
    if rebuild:
        _rebuild(db)
        verdict += "; the projections were rebuilt"
    click.echo(f"{events} events replayed: {verdict}")
    return FINDINGS if differences else DONE


def _rebuild(db: str) -> None:
    """Fold everything again, whatever is stored."""
    with Ledger(db) as ledger:
        fresh = [projection(ledger) for projection in PROJECTIONS]
        for each in fresh:
            each.subscription.reset()
        bring_up(ledger, fresh)
        Shown(ledger, ledger).subscription.reset()  # not before: until then the views show what they showed
        bring_up_all(ledger)
        Views(ledger).define()


class Refolded(NamedTuple):
    """What a projection stored, and the same folded again from zero; `scratch` keeps the rows of that."""

    stored: Projection
    folded: Projection
    scratch: Ledger


@contextmanager
def refolded(ledger: Ledger, account: str | None, doing: str) -> Generator[tuple[int, list[Refolded]]]:
    """What is stored of one moment, each projection and what the views say, beside a fold from zero up to where it is
    stored; and how many events that took.

    Checkpoints have a scratch ledger of their own: as far as they need histories they bring them there, and a history
    beside them is to stop where the stored one did. So have the views, which say everything as of one position.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(f"{folder}/fold.db") as scratch,
        Ledger(f"{folder}/checkpoints-fold.db") as apart,
        Ledger(f"{folder}/views-fold.db") as beside,
        moment_of(ledger) as moment,
    ):
        places = [apart if projection is Checkpoints else scratch for projection in PROJECTIONS]
        folds = [
            Refolded(kind(ledger, moment), kind(ledger, place), place)
            for kind, place in zip(PROJECTIONS, places, strict=True)
        ]
        with progress(doing, ledger.position()) as advance:
            events = _refold(ledger, folds, account, advance)
        shown = Shown(ledger, moment)
        upto = shown.subscription.position
        with progress("views", upto) as advance:
            folds.append(Refolded(shown, told_again(ledger, beside, upto, advance), beside))
        yield events, folds


class Unlike(NamedTuple):
    """Of a projection's table, or of the projection itself, what is stored otherwise than it is folded."""

    table: str
    account: str | None
    said: str

    @property
    def place(self) -> str:
        """The table, and whose row of it."""
        return self.table if self.account is None else f"{self.table} of {self.account}"


def unlike(fold: Refolded, account: str | None = None) -> Iterator[Unlike]:
    """The rows that are stored otherwise than they are folded again; and that what is stored cannot be compared, where
    somebody put in its place what no projection writes."""
    lost = _misshapen(fold.stored)
    if lost is not None:
        yield Unlike(lost, None, "the table is not as it was made")
        return
    try:
        for each in compare(fold.stored, fold.folded, account):
            row = each.stored or each.folded
            said = f"stored {each.stored}, folded again {each.folded}"
            yield Unlike(each.table, getattr(row, "account", None), said)
    except StoreError:  # which is not for what is stored
        raise
    except Exception as error:
        yield Unlike(fold.stored.name, None, f"its rows cannot be read: {type(error).__name__}: {error}")


def misshapen(ledger: Ledger) -> str | None:
    """The first table that projections stored and that is gone, or not as it was made; None where all are there."""
    made: list[Projection] = [*(kind(ledger) for kind in PROJECTIONS), Shown(ledger, ledger)]
    return next(filter(None, map(_misshapen, made)), None)


def _misshapen(stored: Projection) -> str | None:
    subscription = stored.subscription
    tables = stored.tables if subscription.is_stored else ()
    return next((each.name for each in tables if not is_as_made(subscription.ledger, each)), None)


def changed(ledger: Ledger) -> str | None:
    """Whose rows of what table the first is that is not what the events fold to; None where all are."""
    with refolded(ledger, None, "what was changed") as (_, folds):
        for each in (each for fold in folds for each in unlike(fold)):
            return each.place
    return None


def redefined(ledger: Ledger, fold: Refolded) -> list[tuple[str, str]]:
    """The tables and views (`table`, `view`, and the name) that are not defined as they were made; of another version,
    and never stored, they are not judged."""
    one = fold.stored
    if not one.subscription.is_stored:
        return []
    tables = [("table", each.name) for each in one.tables if not _as_made(ledger, fold.scratch, each)]
    views = [("view", name) for name in otherwise(ledger)] if isinstance(one, Shown) else []
    return sorted(tables) + views


def _as_made(ledger: Ledger, scratch: Ledger, table: Table[Any]) -> bool:
    """Whether a table is defined as in a scratch file; on a server, whether it has its columns and its key."""
    if ledger.in_file:
        return ledger.definition(table.name) == scratch.definition(table.name)
    return is_as_made(ledger, table)


def misplaced(ledger: Ledger, made: Projection) -> Iterator[str]:
    """What is wrong with how far a projection says that it is stored: rows that no place is kept of, and a place that
    cannot be."""
    places = "SELECT * FROM projection_positions WHERE name=?"
    found = ledger.select(places, (made.name,)) if ledger.columns("projection_positions") else []
    if not found:
        tables = (each.name for each in made.tables if ledger.columns(each.name))
        if any(ledger.select(f"SELECT 1 FROM {name} LIMIT 1") for name in tables):
            yield f"how far {made.name} is stored is gone, though it has rows"
        return
    version, position = found[0][1], place_of(found[0])
    if not (isinstance(version, int) and isinstance(position, int)):
        yield f"how far {made.name} is stored cannot be read"
    elif not (0 < version <= made.version and 0 <= position <= ledger.position()):
        yield f"{made.name} is stored as version {version} up to position {position}, which cannot be"


def _refold(
    ledger: Ledger, folds: Sequence[Refolded], account: str | None, advance: Callable[[int], None]
) -> int:
    """Fold again what the stored rows rest on: the events up to where each projection stopped."""
    events = waiting = 0
    last: Place | None = None
    for recorded in ledger.replay(account):
        place = frame_of(recorded.event)
        if waiting >= BATCH_EVENTS_MAX and place != last:  # who flushes takes the frame before for whole
            for each in folds:
                each.folded.subscription.flush()
            advance(waiting)
            waiting = 0
        for each in folds:
            if recorded.position <= each.stored.subscription.position:
                each.folded.subscription.apply(recorded)
        events += 1
        waiting += 1
        last = place
    for each in folds:
        each.folded.subscription.flush()
    return events
