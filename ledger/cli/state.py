"""Commands that show what the ledger says: from accounts and balances to gaps, breaks, coverage and the audit trail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import click

from ledger.chain import links
from ledger.cli.options import (
    DONE,
    FINDINGS,
    account_argument,
    bring_up,
    caught_up,
    cli,
    db_option,
    json_option,
    reading,
    tell_damage,
)
from ledger.console import fields, out, printable, shortened, show
from ledger.ledger import Ledger
from ledger.wire import time_text
from projections import (
    Accounts,
    Audit,
    Balances,
    Breaks,
    Coverage,
    Coverages,
    Fills,
    Gaps,
    History,
    Orders,
)
from projections.audit import AuditRow
from projections.breaks import FILLS
from projections.history import HistoryRow

REASONS_MAX: Final = 50
REASON_ASSETS_MAX: Final = 8
SUSPECT: Final = "! gap"
"""How a table marks a balance that something is known to be wrong with."""
TIMELINE_CELLS: Final = 16


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
            bring_up(ledger, projection.projections)
            rows = projection.rows(account)
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
                "completeness": row.completeness,
                "reason": row.reason,
            }
            for row in rows
        ]
        if as_json:
            show(found, as_json=True, what="balances")
        else:
            show(map(_balance_for_people, found), as_json=False, what="balances")
            _show_reasons(found)
    return DONE


def _balance_for_people(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "reason"}
    if row["completeness"] == "gap":
        shown["completeness"] = SUSPECT
    return shown


def _show_reasons(rows: list[dict[str, Any]]) -> None:
    """Why balances are not proven or consistent: each reason once, with the assets it is the reason of."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["completeness"] in ("gap", "unprovable"):
            key = (row["completeness"], row["account"], row["reason"])
            reasons.setdefault(key, []).append(row["asset"])
    if reasons:
        out.print()
    for (word, account, reason), assets in list(sorted(reasons.items()))[:REASONS_MAX]:
        named = ", ".join(assets[:REASON_ASSETS_MAX])
        more = len(assets) - REASON_ASSETS_MAX
        named += f" and {more} more" if more > 0 else ""
        mark = SUSPECT if word == "gap" else word
        text = f"{mark}  {shortened(account) if out.is_terminal else account} {named}: {reason}"
        style = "red" if word == "gap" else "dim"
        out.print(printable(text), style=style, soft_wrap=True)
    if len(reasons) > REASONS_MAX:
        print(f"and {len(reasons) - REASONS_MAX} more reasons: --json prints them all")


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
    """The orders as last stated, open and closed; suspect: where the fills do not come to what was executed."""
    with reading(db, account) as (ledger, account):
        wrong = _wrong(ledger, account, "fills")
        rows = caught_up(ledger, Orders(ledger)).rows(account)
        shown = ({**fields(row), "suspect": wrong.get((row.account, row.order_id))} for row in rows)
        show(shown, as_json=as_json, what="orders")
    return DONE


def _wrong(ledger: Ledger, account: str | None, *kinds: str) -> dict[tuple[str, str], str]:
    """The open breaks of some kinds: all that is wrong, by account and subject."""
    projection = Breaks(ledger)
    bring_up(ledger, projection.projections)
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for each in projection.rows(account, open_only=True):
        if each.kind in kinds:
            found[each.account, each.subject].add(f"expected {each.expected}, stated {each.stated}")
    return {key: "; ".join(sorted(said)) for key, said in found.items()}


@cli.command()
@db_option
@account_argument
@json_option
def fills(db: str, account: str | None, as_json: bool) -> int:
    """The executions, each once; suspect: where the quote quantity is not price x quantity, or one was told
    otherwise again."""
    with reading(db, account) as (ledger, account):
        wrong = _wrong(ledger, account, *FILLS)
        rows = caught_up(ledger, Fills(ledger)).rows(account)
        shown = ({**fields(row), "suspect": wrong.get((row.account, row.fill_id))} for row in rows)
        show(shown, as_json=as_json, what="fills")
    return DONE


@cli.command()
@db_option
@account_argument
@json_option
def history(db: str, account: str | None, as_json: bool) -> int:
    """The venues' own balance histories: cause, signed change, balance after; suspect: rows are missing before it."""
    with reading(db, account) as (ledger, account):
        rows = caught_up(ledger, History(ledger)).rows(account)
        show(_history(rows), as_json=as_json, what="history rows")
    return DONE


def _history(rows: Iterable[HistoryRow]) -> Iterator[dict[str, Any]]:
    last: HistoryRow | None = None
    for row in rows:
        follows = (
            last is None or (last.account, last.asset_id) != (row.account, row.asset_id) or links(last, row)
        )
        yield {**fields(row), "suspect": None if follows else "rows are missing before this one"}
        last = row


@cli.command()
@db_option
@account_argument
@click.option("--open", "open_only", is_flag=True, help="Only what no statement has made up for yet.")
@click.option("--all", "everything", is_flag=True, help="Also what was missing for a while and arrived late.")
@json_option
def gaps(db: str, account: str | None, open_only: bool, everything: bool, as_json: bool) -> int:
    """What is missing, what is suspect because of it, and what closed it: holes in a sequence, breaks in a running
    balance, times when nobody listened, executions without fills. Exit code 1: a gap is open."""
    with reading(db, account) as (ledger, account):
        projection = Gaps(ledger)
        bring_up(ledger, projection.projections)
        found = [gap for gap in projection.rows(account, open_only) if everything or not gap.healed]
        rows = map(fields, found)
        show(rows if as_json else map(_for_people, rows), as_json=as_json, what="gaps")
    return FINDINGS if any(gap.state == "open" for gap in found) else DONE


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    state = "OPEN" if row["state"] == "open" else "closed"
    return {"state": state, **{name: value for name, value in row.items() if name != "state"}}


@cli.command()
@db_option
@account_argument
@click.option("--open", "open_only", is_flag=True, help="Only what nothing has explained yet.")
@json_option
def breaks(db: str, account: str | None, open_only: bool, as_json: bool) -> int:
    """Where two statements should agree and do not: a full statement and what came before it, an order and its fills,
    an account and its history, a quote quantity and price x quantity. Exit code 1: a break is open."""
    with reading(db, account) as (ledger, account):
        projection = Breaks(ledger)
        bring_up(ledger, projection.projections)
        found = projection.rows(account, open_only=open_only)
        rows = map(fields, found)
        show(rows if as_json else map(_for_people, rows), as_json=as_json, what="breaks")
    return FINDINGS if any(each.state == "open" for each in found) else DONE


@cli.command()
@db_option
@account_argument
@json_option
def coverage(db: str, account: str | None, as_json: bool) -> int:
    """When we were listening to each account and channel, and what evidence there is that nothing is missing.

    Evidence: a sequence, a running balance, full statements to compare with, executed quantities, or none.
    """
    with reading(db, account) as (ledger, account):
        projection = Coverages(ledger)
        bring_up(ledger, projection.projections)
        found = projection.rows(account)
        if as_json or not found:
            show(map(_covered, found), as_json=as_json, what="coverage")
            return DONE
        by_account = {name: list(rows) for name, rows in groupby(found, lambda row: row.account)}
        show((_heard(name, rows) for name, rows in by_account.items()), as_json=False, what="coverage")
        print()
        show(map(_channel, found), as_json=False, what="coverage")
        for row in found:
            if row.history_from_ns is not None:
                print(
                    f"\n{row.account}: the history begins at {time_text(row.history_from_ns)} with a balance of "
                    f"{row.history_opening} {row.history_asset}: what came before is not here"
                )
    return DONE


def _covered(row: Coverage) -> dict[str, Any]:
    """For programs: times as text, lengths in seconds."""
    return {
        "account": row.account,
        "channel": row.channel or None,
        "since": _time(row.since_ns),
        "until": _time(row.until_ns),
        "open": row.open,
        "sessions": row.sessions,
        "unclosed": row.unclosed,
        "files": row.files,
        "listened_s": round(row.listened_ns / 1e9, 3),
        "blind_s": round(row.blind_ns / 1e9, 3),
        "blind_count": len(row.blind),
        "events": row.events,
        "evidence": row.evidence,
        "last_heard": _time(row.heard_ns),
        "last_full": _time(row.last_full_ns),
        "frames": row.frames,
        "quarantined": row.quarantined,
        "open_gaps": row.open_gaps,
        "history_from": _time(row.history_from_ns),
        "history_opening": row.history_opening,
        "history_asset": row.history_asset,
        "listening": [{"from": time_text(since), "to": time_text(until)} for since, until in row.listening],
        "blind": [
            {"from": time_text(since), "to": time_text(until), "closed": closed}
            for since, until, closed in row.blind
        ],
    }


def _heard(account: str, rows: Sequence[Coverage]) -> dict[str, Any]:
    """For people: one line for an account, of the channel heard for the longest time."""
    row = min(rows, key=lambda each: (each.since_ns is None, each.since_ns or 0))
    return {
        "account": account,
        "listening": _timeline(row),
        "since": _minute(row.since_ns),
        "until": "open" if row.open else _minute(row.until_ns),
        "sessions": row.sessions,
        "listened": _length(row.listened_ns),
        "blind": f"{_length(row.blind_ns)} in {len(row.blind)}" if row.blind else "none",
        "gaps": row.open_gaps,
    }


def _channel(row: Coverage) -> dict[str, Any]:
    return {
        "account": row.account,
        "channel": row.channel or None,
        "evidence": row.evidence,
        "events": row.events,
        "last_full": _minute(row.last_full_ns),
        "frames": row.frames,
        "quarantined": row.quarantined,
    }


def _timeline(row: Coverage) -> str:
    """From first to last: listened all the time, partly blind, blind for the most part, and nothing known."""
    if row.since_ns is None or row.until_ns is None:
        return ""
    span_ns = row.until_ns - row.since_ns
    cells: list[str] = []
    for index in range(TIMELINE_CELLS if span_ns else 1):
        left = row.since_ns + span_ns * index // TIMELINE_CELLS
        right = max(row.since_ns + span_ns * (index + 1) // TIMELINE_CELLS, left + 1)
        blind = sum(max(0, min(right, to) - max(left, since)) for since, to, _ in row.blind)
        heard = any(since <= right and left <= to for since, to in row.listening)
        cells.append("·" if 2 * blind > right - left else "▃" if blind else "▇" if heard else " ")
    return "".join(cells)


def _length(ns: int) -> str:
    seconds = ns // 1_000_000_000
    days, hours, minutes = seconds // 86_400, seconds // 3_600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {seconds % 60}s" if minutes else f"{ns / 1e9:.1f}s"


def _minute(ns: int | None) -> str | None:
    return None if ns is None else time_text(ns)[:16].replace("T", " ")


def _time(ns: int | None) -> str | None:
    return None if ns is None else time_text(ns)


@cli.command()
@db_option
@click.argument("account")
@json_option
def audit(db: str, account: str, as_json: bool) -> int:
    """Every event of ACCOUNT, in order, with its source and the evidence it was made from. Exit code 1: a frame is not
    what it was."""
    damaged = 0

    def told(row: AuditRow) -> dict[str, Any]:
        nonlocal damaged
        damaged += tell_damage(found or account, row.version, row.damage)
        return {name: value for name, value in fields(row).items() if name != "damage"}

    with reading(db, account) as (ledger, found):
        show(map(told, Audit(ledger).rows(found or account)), as_json=as_json, what="events")
    return FINDINGS if damaged else DONE
