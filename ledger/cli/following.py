"""The command that follows: projections kept caught up with what any process appends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from typing import Final

import click

from ledger.cli.options import (
    DONE,
    PROJECTIONS,
    Finite,
    bring_up,
    cli,
    db_option,
    existing,
    views_and_all,
)
from ledger.ledger import Ledger
from projections import Projection
from projections import follow as follow_live

END_S: Final = 2.0
"""How long a server that is away is asked again by who is told to stop."""
_KINDS: Final = {kind.__name__.lower(): kind for kind in PROJECTIONS}


@cli.command()
@db_option
@click.option(
    "--only",
    type=click.Choice(list(_KINDS)),
    multiple=True,
    help="Follow with this projection only; may be said several times. Others may be followed by other processes.",
)
@click.option("--for", "seconds", type=Finite(), metavar="SECONDS", help="Stop after so long.")
def follow(db: str, only: tuple[str, ...], seconds: float | None) -> int:
    """Keep projections, and the SQL views over them, caught up, until Ctrl-C, SIGTERM or --for.

    In a PostgreSQL database any number of processes may follow beside any number that append. To a SQLite file one
    process writes: there, `run` keeps the projections itself.
    """
    stop = threading.Event()
    with Ledger(existing(db)) as ledger:
        views, projections = (
            (None, [_KINDS[name](ledger) for name in only]) if only else views_and_all(ledger)
        )
        began = _reached(projections)
        said = ", ".join(only) if only else "all projections and views"

        def end(*_: object) -> None:
            ledger.give_up_at(time.monotonic() + END_S)
            stop.set()

        before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
        timer = None if seconds is None else threading.Timer(seconds, end)
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            click.echo(f"following {ledger.name} with {said}; Ctrl-C stops")
            then = (lambda: None) if views is None else views.tell_at_times
            bring_up(ledger, projections, stop)  # with a bar, where there is much
            follow_live(ledger, projections, stop=stop, then=then)
        finally:
            if timer is not None:
                timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)
        if views is not None:
            views.tell()
        reached = _reached(projections)
        folded = reached - began
        events = "1 event" if folded == 1 else f"{folded} events"
        click.echo(f"{events} folded; caught up to position {reached} of {ledger.position()}")
    return DONE


def _reached(projections: Sequence[Projection]) -> int:
    return min(each.subscription.position for each in projections)
