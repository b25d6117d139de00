"""Commands that show what the ledger says: accounts, balances, orders, fills, history, gaps, quarantine, audit."""

from __future__ import annotations

import base64
from typing import Any, Final

import click

from ledger.cli.options import (
    DONE,
    FINDINGS,
    account_argument,
    caught_up,
    cli,
    db_option,
    json_option,
    reading,
)
from ledger.console import fields, show
from ledger.ledger import Ledger
from ledger.wire import time_text
from projections import Accounts, Audit, Balances, Fills, Gaps, History, Orders, Quarantine

PREVIEW_BYTES: Final = 120


@cli.command()
@db_option
@json_option
def accounts(db: str, as_json: bool) -> int:
    """The accounts of the ledger, and when they were last heard of."""
    with Ledger(db, read_only=True) as ledger:
        found = [
            {
                "account": row.account,
                "venue": row.venue,
                "events": row.version,
                "first_received": time_text(row.first_ns),
                "last_received": time_text(row.last_ns),
            }
            for row in caught_up(ledger, Accounts(ledger)).rows()
        ]
        show(found, as_json=as_json, what="accounts")
    return DONE


@cli.command()
@db_option
@account_argument
@click.option(
    "--at",
    "moment",
    metavar="TIME_OR_VERSION",
    help="As of a time (2026-11-21T12:00:00Z) or an account version.",
)
@json_option
def balances(db: str, account: str | None, moment: str | None, as_json: bool) -> int:
    """What is held, now or as of a time or version; amounts in the venue's digits."""
    with reading(db, account) as (ledger, account):
        projection = Balances(ledger)
        if moment is None:
            rows = caught_up(ledger, projection).rows(account)
        else:
            rows = projection.at(_moment(ledger, moment, account), account).rows(account)
        found = [
            {
                "account": row.account,
                "asset": row.asset,
                "asset_id": row.asset_id,
                "total": row.total,
                "available": row.available,
                "locked": row.locked,
                "staked": row.staked,
                "pending": row.pending,
                "version": row.version,
                "time": time_text(row.time_ns),
            }
            for row in rows
        ]
        show(found, as_json=as_json, what="balances")
    return DONE


def _moment(ledger: Ledger, text: str, account: str | None) -> int | str:
    """A version where it is a number, else a time. Raises where no account has come that far."""
    if not (text.isascii() and text.isdigit()):
        return text
    last = max((row.version for row in Accounts(ledger).rows() if account in (None, row.account)), default=0)
    if len(text) > 18 or int(text) > last:
        raise click.UsageError(
            f"there is no version {text[:40]} yet, the last is {last}; a time is written 2026-11-21T12:00:00Z"
        )
    return int(text)


@cli.command()
@db_option
@account_argument
@json_option
def orders(db: str, account: str | None, as_json: bool) -> int:
    """The orders as last stated, open and closed."""
    with reading(db, account) as (ledger, account):
        show(map(fields, caught_up(ledger, Orders(ledger)).rows(account)), as_json=as_json, what="orders")
    return DONE


@cli.command()
@db_option
@account_argument
@json_option
def fills(db: str, account: str | None, as_json: bool) -> int:
    """The executions, each once."""
    with reading(db, account) as (ledger, account):
        show(map(fields, caught_up(ledger, Fills(ledger)).rows(account)), as_json=as_json, what="fills")
    return DONE


@cli.command()
@db_option
@account_argument
@json_option
def history(db: str, account: str | None, as_json: bool) -> int:
    """The venues' own balance histories: cause, signed change, balance after."""
    with reading(db, account) as (ledger, account):
        show(
            map(fields, caught_up(ledger, History(ledger)).rows(account)),
            as_json=as_json,
            what="history rows",
        )
    return DONE


@cli.command()
@db_option
@account_argument
@json_option
def gaps(db: str, account: str | None, as_json: bool) -> int:
    """What is known to be missing: holes in a sequence, breaks in a running balance. Exit code 1: there are some."""
    with reading(db, account) as (ledger, account):
        found = caught_up(ledger, Gaps(ledger)).rows(account)
        show(map(fields, found), as_json=as_json, what="gaps")
    return FINDINGS if found else DONE


@cli.command()
@db_option
@account_argument
@json_option
def quarantine(db: str, account: str | None, as_json: bool) -> int:
    """The frames no event could be made of, kept whole, with the reason. Exit code 1: there are some."""
    with reading(db, account) as (ledger, account):
        rows = caught_up(ledger, Quarantine(ledger)).rows(account)
        show((_quarantined(ledger, row, as_json) for row in rows), as_json=as_json, what="quarantined frames")
    return FINDINGS if rows else DONE


def _quarantined(ledger: Ledger, row: Any, whole: bool) -> dict[str, Any]:
    payload = ledger.frame_bytes(row.session, row.ordinal) or b""
    found = fields(row)
    found["evidence_bytes"] = len(payload)
    if whole:
        found["payload_base64"] = base64.b64encode(payload).decode()
    else:
        found["frame"] = payload[:PREVIEW_BYTES].decode("utf-8", "backslashreplace")
    return found


@cli.command()
@db_option
@click.argument("account")
@json_option
def audit(db: str, account: str, as_json: bool) -> int:
    """Every event of ACCOUNT, in order, with its source and the evidence it was made from."""
    with reading(db, account) as (ledger, found):
        show(map(fields, Audit(ledger).rows(found or account)), as_json=as_json, what="events")
    return DONE
