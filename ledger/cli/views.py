"""The command that keeps the SQL views: makes them, brings them up to date, and says what is in them."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any, Final

import click

from ledger.cli.options import DONE, bring_up, cli, db_option, json_option
from ledger.console import show
from ledger.ledger import Ledger
from projections import view_sql
from projections.view_columns import VIEWS
from projections.views import Views

KEEP_S: Final = 1.0
"""How often views are told anew, at most, while they are kept."""
REST: Final = 4
"""For how many times as long as that took it rests: most of the machine is for others."""
STOP_S: Final = 0.25
_WHERE: Final = "SELECT current_database()::text, current_schema()::text"


@cli.command()
@db_option
@click.option("--role", metavar="NAME", help="Print the script that lets this role of PostgreSQL read them.")
@click.option("--follow", is_flag=True, help="Keep them up to date, until Ctrl-C or SIGTERM.")
@json_option
def views(db: str, role: str | None, follow: bool, as_json: bool) -> int:
    """Make the SQL views, bring them up to date, and say what is in each column.

    They say what `balances`, `history`, `orders`, `fills`, `gaps`, `breaks` and `quarantine` print. Made once they
    stay; of an older version they are made anew.
    """
    if role is not None:
        if follow or as_json:
            raise click.UsageError("--role prints a script, and nothing else")
        click.echo(_script(db, role), nl=False)
        return DONE
    with Ledger(db) as ledger:
        kept = Views(ledger)
        bring_up(ledger, kept.projections)
        kept.tell()
        show(_columns(ledger), as_json=as_json, what="views")
        if follow:
            click.echo(f"keeping the views of {ledger.name} up to date; Ctrl-C stops", err=True)
            _keep(ledger, kept)
    return DONE


def _columns(ledger: Ledger) -> list[dict[str, Any]]:
    server = view_sql.on_server(ledger)
    return [
        {
            "view": view.name,
            "column": column.name,
            "type": view_sql.TYPES[column.kind][0 if server else 1],
            "meaning": column.meaning,
        }
        for view in VIEWS
        for column in view.columns
    ]


def _script(db: str, role: str) -> str:
    with Ledger(db, read_only=True) as ledger:
        if not view_sql.on_server(ledger):
            raise click.UsageError(
                f"{ledger.name} is a file, and has no roles: who may read the file reads the views (sqlite3 -readonly)"
            )
        if not view_sql.is_made(ledger):
            raise click.UsageError(f"{ledger.name} has no views yet: `accountledger views --db` makes them")
        ((database, schema),) = ledger.select(_WHERE)
        return view_sql.role_script(role, str(database), str(schema))


def _keep(ledger: Ledger, kept: Views) -> None:
    """Bring the views up to date whenever something was recorded, until SIGINT or SIGTERM."""
    stop = threading.Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ledger.following() as wait:
            while not stop.is_set():
                wait(STOP_S)
                if ledger.position() > kept.position:
                    began = time.monotonic()
                    kept.bring_up()
                    stop.wait(max(KEEP_S, REST * (time.monotonic() - began)))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
