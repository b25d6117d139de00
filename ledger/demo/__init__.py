"""The demo: five short tapes with trouble planted in them, and what the ledger makes of them, on one screen.

Part of the command line; knows what every user may know, and the tapes beside this file.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ledger.console import fields, out, table
from ledger.events import BalanceDelta, BalanceSnapshot, time_of
from ledger.ledger import Ledger
from ledger.venue import Venue
from ledger.wire import time_text
from projections import Accounts, Balances, Fills, Gaps, History, Orders, Quarantine, catch_up
from transports import open_recording, play


def show(db: str, venues: Mapping[str, Venue]) -> None:
    """Play the tapes into a new ledger at `db` and print what a newcomer wants to see of it."""
    with Ledger(db) as ledger:
        out.print(f"[bold]accountledger demo[/bold]: five venues, five recordings, one ledger ({db})\n")
        played = [_play(ledger, name, venue) for name, venue in venues.items()]
        out.print(table(played, "1. What came in, frame by frame"))
        out.print(
            "   Every frame is an event, was delivered before, is a control message, or is kept in quarantine.\n",
            style="dim",
        )
        out.print(
            table(
                [_balance(row) for row in Balances(ledger).rows()], "2. Balances, in the venues' own digits"
            )
        )
        out.print()
        out.print(table([_fill(row) for row in Fills(ledger).rows()], "3. Fills, each once"))
        out.print()
        out.print(table(_findings(ledger, played), "4. What was found wrong, and where"))
        catch_up(ledger, [Accounts(ledger), Balances(ledger), Orders(ledger), History(ledger)])
    out.print("\n[bold]5. Look further[/bold]")
    for command in (
        "balances {db} bitopro:main --at 2026-11-20T09:17:00Z",
        "audit {db} kraken_prime:desk",
        "history {db}",
        "quarantine {db} --json",
        "replay {db}",
    ):
        out.print(f"   {_command()} {command.format(db=f'--db {db}')}", soft_wrap=True)


def _command() -> str:
    """What to type to run this command again: by its name only where the shell would find it."""
    if shutil.which("accountledger"):
        return "accountledger"
    path = Path(sys.argv[0])
    return os.path.relpath(path) if path.name == "accountledger" else "python -m ledger"


def _play(ledger: Ledger, name: str, venue: Venue) -> dict[str, Any]:
    with as_file(files(__name__) / f"{name}.tape") as path:
        recording = open_recording(path)
        account = str(recording.account)
        with (
            recording,
            ledger.intake(venue, account, session=recording.session, opened_ns=recording.opened_ns) as intake,
        ):
            tally = play(recording, intake)
    shown = account if len(account) < 24 else f"{account[:8]}…{account[-4:]}"
    return {"recording": f"{name}:{shown}", **fields(tally)}


def _balance(row: Any) -> dict[str, Any]:
    found = fields(row)
    names = ("account", "asset", "total", "available", "locked", "staked", "pending", "time")
    return {name: found[name] for name in names}


def _fill(row: Any) -> dict[str, Any]:
    found = fields(row)
    names = ("account", "fill_id", "symbol", "side", "price", "quantity", "fee", "fee_asset", "time")
    return {name: found[name] for name in names}


def _findings(ledger: Ledger, played: list[dict[str, Any]]) -> list[dict[str, str]]:
    found = [
        _finding(gap.account, f"{gap.kind} gap", f"missing {gap.missing}", gap.version)
        for gap in Gaps(ledger).rows()
    ]
    found += [
        _finding(row.account, "unreadable frame", f"kept in quarantine: {row.reason}", row.version)
        for row in Quarantine(ledger).rows()
    ]
    found += _late(ledger)
    found += [
        {
            "account": each["recording"],
            "what": "delivered again",
            "detail": f"{each['duplicates']} frame refused: its fill is not booked twice",
            "where": "-",
        }
        for each in played
        if each["duplicates"]
    ]
    return found


def _late(ledger: Ledger) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    newest: dict[str, int] = {}
    for recorded in ledger.replay():
        if isinstance(recorded.event, BalanceSnapshot | BalanceDelta):
            time_ns = time_of(recorded.event)
            known_ns = newest.setdefault(recorded.account, time_ns)
            if time_ns < known_ns:
                detail = f"of {time_text(time_ns)}, after one of {time_text(known_ns)}: kept, changes nothing"
                found.append(_finding(recorded.account, "late balance", detail, recorded.version))
            newest[recorded.account] = max(time_ns, known_ns)
    return found


def _finding(account: str, what: str, detail: str, version: int) -> dict[str, str]:
    return {"account": account, "what": what, "detail": detail, "where": f"version {version}"}
