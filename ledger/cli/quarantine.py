"""The command for frames that could not be read: show them, and give them a second chance."""

from __future__ import annotations

import base64
from typing import Any, Final

import click

from ledger.cli.options import (
    DONE,
    FINDINGS,
    VENUES,
    bring_up_all,
    caught_up,
    cli,
    db_option,
    json_option,
    reading,
    tell_damage,
)
from ledger.console import fields, progress, show
from ledger.findings import damage_of
from ledger.ledger import Ledger
from projections import Quarantine

PREVIEW_BYTES: Final = 120


@cli.command()
@db_option
@click.argument("words", nargs=-1, metavar="[retry] [ACCOUNT]")
@json_option
def quarantine(db: str, words: tuple[str, ...], as_json: bool) -> int:
    """The frames no event could be made of, kept whole, with the reason. Exit code 1: there are some.

    retry: decode them again with today's venue modules. What now reads leaves the quarantine; what is new of it becomes
    events, marked late. The rest stays.
    """
    retry = words[:1] == ("retry",)
    accounts = words[1:] if retry else words
    if len(accounts) > 1:
        raise click.UsageError(f"one account at a time, not {len(accounts)}")
    account = accounts[0] if accounts else None
    if retry:
        return _retry(db, account, as_json)
    with reading(db, account) as (ledger, account):
        rows = caught_up(ledger, Quarantine(ledger)).rows(account)
        show((_quarantined(ledger, row, as_json) for row in rows), as_json=as_json, what="quarantined frames")
    return FINDINGS if rows else DONE


def _quarantined(ledger: Ledger, row: Any, whole: bool) -> dict[str, Any]:
    kept = ledger.frame_bytes(row.session, row.ordinal)
    tell_damage(row.account, row.version, damage_of(bytes.fromhex(row.evidence_sha256), kept))
    payload = kept or b""
    found = fields(row)
    found["evidence_bytes"] = len(payload)
    if whole:
        found["payload_base64"] = base64.b64encode(payload).decode()
    else:
        found["frame"] = payload[:PREVIEW_BYTES].decode("utf-8", "backslashreplace")
    return found


def _retry(db: str, account: str | None, as_json: bool) -> int:
    with reading(db, account) as (_, account):
        pass  # the account is there, and now written as the ledger writes it
    with Ledger(db) as ledger:
        waiting = [row for row in caught_up(ledger, Quarantine(ledger)).rows(account)]
        found: list[dict[str, Any]] = []
        events = stays = known = 0
        with progress("retry", len(waiting)) as advance:
            for row in waiting:
                retried = ledger.retry(VENUES.values(), row.account, row.version)
                advance(1)
                events += retried.events
                stays += retried.result == "stays"
                known += retried.result == "known"
                told = {name: value for name, value in fields(row).items() if name != "reason"}
                found.append(
                    {**told, "result": retried.result, "events": retried.events, "reason": retried.reason}
                )
        bring_up_all(ledger)
    show(found, as_json=as_json, what="quarantined frames")
    if found and not as_json:
        click.echo(
            f"{len(found)} decoded again: {len(found) - stays - known} can be read now ({events} events, marked late), "
            f"{stays} stay in quarantine" + (f", {known} say nothing new" if known else "")
        )
    return FINDINGS if stays else DONE
