"""Commands that prove what the ledger says: replay."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from ledger.cli.options import (
    DONE,
    FINDINGS,
    PROJECTIONS,
    account_argument,
    bring_up_all,
    cli,
    db_option,
    reading,
)
from ledger.console import out, progress, table
from ledger.ledger import Ledger
from projections import Projection, compare
from projections.checkpoints import Checkpoints
from projections.subscription import BATCH_EVENTS_MAX, Place, frame_of

DIFFERENCES_SHOWN_MAX: Final = 20


@cli.command()
@db_option
@account_argument
@click.option("--rebuild", is_flag=True, help="Keep the fresh fold in place of the stored one.")
def replay(db: str, account: str | None, rebuild: bool) -> int:
    """Fold every projection again from zero and compare with the stored one. Exit code 1: they differ."""
    with reading(db, account) as (ledger, account), from_zero(ledger) as made:
        stored, folded = [projection(ledger) for projection in PROJECTIONS], [each for each, _ in made]
        with progress("replay", ledger.position()) as advance:
            events = refold(ledger, stored, folded, account, advance)
        summary: list[dict[str, Any]] = []
        for one, other in zip(stored, folded, strict=True):
            found = list(compare(one, other, account))
            rows = sum(1 for each in other.tables for _ in each.rows(account))
            summary.append(
                {
                    "projection": one.name,
                    "rows": rows,
                    "stored up to": one.subscription.position,
                    "differences": len(found),
                }
            )
            for difference in found[:DIFFERENCES_SHOWN_MAX]:
                out.print(
                    f"{difference.table}: stored {difference.stored}, folded {difference.folded}",
                    soft_wrap=True,
                )
        out.print(table(summary))
    differences = sum(each["differences"] for each in summary)
    unstored = [each["projection"] for each in summary if events and not each["stored up to"]]
    if differences and rebuild:
        with Ledger(db) as ledger:
            fresh = [projection(ledger) for projection in PROJECTIONS]
            for each in fresh:
                each.subscription.reset()
            bring_up_all(ledger)
        verdict = f"{differences} differences; the projections were rebuilt"
    elif differences:
        verdict = f"{differences} differences (replay --rebuild keeps the fresh fold)"
    elif unstored:
        verdict = f"every stored projection equals the fresh fold; not stored yet: {', '.join(unstored)}"
    else:
        verdict = "every projection equals the stored one"
    click.echo(f"{events} events replayed: {verdict}")
    return FINDINGS if differences else DONE


@contextmanager
def from_zero(ledger: Ledger) -> Generator[list[tuple[Projection, Ledger]]]:
    """Every projection with nothing folded, and the scratch ledger its rows are kept in.

    Checkpoints have one of their own: as far as they need histories they bring them there, and a history beside them is
    to stop where the stored one did.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(f"{folder}/fold.db") as scratch,
        Ledger(f"{folder}/checkpoints-fold.db") as apart,
    ):
        places = [apart if projection is Checkpoints else scratch for projection in PROJECTIONS]
        yield [(kind(ledger, place), place) for kind, place in zip(PROJECTIONS, places, strict=True)]


def refold(
    ledger: Ledger,
    stored: Sequence[Projection],
    folded: Sequence[Projection],
    account: str | None,
    advance: Callable[[int], None],
) -> int:
    """Fold again what the stored rows rest on: the events up to where each projection stopped."""
    events = waiting = 0
    last: Place | None = None
    for recorded in ledger.replay(account):
        place = frame_of(recorded.event)
        if waiting >= BATCH_EVENTS_MAX and place != last:  # who flushes takes the frame before for whole
            for other in folded:
                other.subscription.flush()
            advance(waiting)
            waiting = 0
        for one, other in zip(stored, folded, strict=True):
            if recorded.position <= one.subscription.position:
                other.subscription.apply(recorded)
        events += 1
        waiting += 1
        last = place
    for other in folded:
        other.subscription.flush()
    return events
