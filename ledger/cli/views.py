"""The command that keeps the SQL views: makes them, brings them up to date, and says what is in them."""

from __future__ import annotations

from typing import Any, Final

import click

from ledger.cli.options import DONE, bring_up, cli, db_option, existing, json_option
from ledger.console import show
from ledger.ledger import Ledger
from projections import view_sql
from projections.view_columns import VIEWS
from projections.views import Views

_WHERE: Final = "SELECT current_database()::text, current_schema()::text"


@cli.command()
@db_option
@click.option("--role", metavar="NAME", help="Print the script that lets this role of PostgreSQL read them.")
@json_option
def views(db: str, role: str | None, as_json: bool) -> int:
    """Make the SQL views, bring them up to date, and say what is in each column.

    They say what `balances`, `history`, `orders`, `fills`, `gaps`, `breaks` and `quarantine` print. Made once they
    stay; of an older version, or defined otherwise, they are made anew.
    """
    if role is not None:
        if as_json:
            raise click.UsageError("--role prints a script, and nothing else")
        click.echo(_script(db, role), nl=False)
        return DONE
    with Ledger(existing(db)) as ledger:
        kept = Views(ledger)
        bring_up(ledger, kept.projections)
        kept.tell()
        kept.define()
        show(_columns(ledger), as_json=as_json, what="views")
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
