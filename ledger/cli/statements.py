"""The command that shows an account's statement between two times, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ledger.cli.options import DONE, FINDINGS, cli, db_option, reading
from ledger.console import fields, printable, show_table
from ledger.wire import parse_time, time_text
from projections.statement import AssetStatement, Statement
from projections.statement import statement as make


@cli.command()
@db_option
@click.argument("account")
@click.option(
    "--from", "start", required=True, metavar="TIME", help="Opening: 2026-11-20 or 2026-11-20T12:00:00Z."
)
@click.option("--to", "end", required=True, metavar="TIME", help="Closing. A movement at this time is in it.")
@click.option("--known-at", metavar="TIME", help="Only what we knew by then; without it, all we know now.")
@click.option("--asset", help="Of one asset, by its id or label.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; amounts are strings.")
def statement(
    db: str, account: str, start: str, end: str, known_at: str | None, asset: str | None, as_json: bool
) -> int:
    """What ACCOUNT held at one time, every movement after it with its cause, and what it held at another.

    A movement is a change of the total: an order that locks funds moves none. Its cause is the venue's word, or the
    fills that come to exactly so much, or `unexplained`. Opening plus movements is checked to be closing. Exit code 1:
    it is not, or an open gap or break touches the period, or nothing is known of ACCOUNT up to its end.
    """
    if parse_time(start) >= parse_time(end):
        raise click.UsageError(f"--from {start} is not before --to {end}")
    with reading(db, account) as (ledger, found):
        made = make(ledger, found or account, start, end, known_at=known_at, asset=asset)
    if asset is not None and not made.assets:
        raise click.UsageError(f"{made.account} has no asset {asset!r} that was known then")
    if as_json:
        click.echo(msgspec.json.encode(_object(made)))
    else:
        _show(made)
    return FINDINGS if made.wrong else DONE


def _object(made: Statement) -> dict[str, Any]:
    return {
        "account": made.account,
        "from": time_text(made.start_ns),
        "to": time_text(made.end_ns),
        "known_at": None if made.known_at_ns is None else time_text(made.known_at_ns),
        "adds_up": made.adds_up,
        "assets": [
            {**fields(each), "movements": [fields(movement) for movement in each.movements]}
            for each in made.assets
        ],
        "wrong": made.wrong,
    }


def _show(made: Statement) -> None:
    known = "as known now" if made.known_at_ns is None else f"as known at {time_text(made.known_at_ns)}"
    span = f"{time_text(made.start_ns)} to {time_text(made.end_ns)}"
    click.echo(printable(f"{made.account}, {span}, {known}"))
    if not made.assets and not made.wrong:
        click.echo("nothing was held, and nothing moved")
    for each in made.assets:
        click.echo()
        _show_asset(made, each)
    click.echo()
    for wrong in made.wrong:
        click.echo(printable(f"wrong: {wrong}"))
    if not made.wrong:
        click.echo("every asset adds up; no open gap or break touches the period")


def _show_asset(made: Statement, each: AssetStatement) -> None:
    rows = [
        _row(time_text(made.start_ns), "opening", each.opening, each.opening_held, each.opening_completeness),
        *(
            {
                "time": time_text(movement.time_ns),
                "amount": movement.amount,
                "balance": movement.balance,
                "what": movement.cause,
                "reason": movement.reason,
                "version": movement.version,
                "received": time_text(movement.received_ns),
                "late": "late" if movement.late else None,
                "session": movement.session,
                "ordinal": movement.ordinal,
                "suspect": "; ".join(movement.suspect) or None,
            }
            for movement in each.movements
        ),
        _row(time_text(made.end_ns), "closing", each.closing, each.closing_held, each.closing_completeness),
    ]
    show_table(rows, title=printable(each.asset))
    for when, reason, word in (
        ("opening", each.opening_reason, each.opening_completeness),
        ("closing", each.closing_reason, each.closing_completeness),
    ):
        if word == "gap":
            click.echo(printable(f"{when}: {reason}"))


def _row(at: str, what: str, balance: str, held: bool, completeness: str | None) -> dict[str, Any]:
    return {
        "time": at,
        "amount": None,
        "balance": balance,
        "what": f"{what} ({completeness})" if held else f"{what} (not held)",
        "reason": None,
        "version": None,
        "received": None,
        "late": None,
        "session": None,
        "ordinal": None,
        "suspect": None,
    }
