"""The demo: five venues played live on this machine, with trouble planted, and what the ledger makes of them.

Part of the command line; knows what every user may know, and the tapes beside this file: each is served by a little
exchange of its own over real WebSocket or HTTP, and a feed logs in there as it would at the venue.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from rich.text import Text

from ledger.console import fields, out, progress, table
from ledger.counterparts import DEMO_LOGINS
from ledger.errors import Lost
from ledger.events import BalanceDelta, BalanceSnapshot, time_of
from ledger.ledger import Ledger
from ledger.serve import exchange, serving
from ledger.venue import Venue
from ledger.wire import time_text
from projections import (
    Accounts,
    Balances,
    Break,
    Breaks,
    Fills,
    Gap,
    Gaps,
    History,
    Orders,
    Quarantine,
    catch_up,
)
from transports import Feed, Health, background, open_recording

SECONDS: Final = 3.0
"""How long a tape's conversation takes in the demo, however long it took (s)."""
PATIENCE_S: Final = 30.0


def show(db: str, venues: Mapping[str, Venue]) -> None:
    """Run the feeds into a new ledger at `db` and print what a newcomer wants to see of it."""
    with Ledger(db) as ledger:
        out.print(
            Text.assemble(
                ("accountledger demo", "bold"),
                f": five venues, live on this machine, one ledger ({ledger.name})\n",
            )
        )
        ended = _listen(ledger, venues)
        out.print(table([_feed(health) for health in ended], "1. What came in, feed by feed, frame by frame"))
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
        out.print(table(_findings(ledger, ended), "4. What was found wrong, and where"))
        catch_up(ledger, [Accounts(ledger), Balances(ledger), Orders(ledger), History(ledger)])
    out.print("\n5. Look further", style="bold")
    for command in (
        "why {db} kraken_prime:desk BTC",
        "balances {db} bitopro:main --at 2026-11-20T09:17:00Z",
        "statement {db} pacifica:9xDemoWa11etPacifica --from 2026-11-20 --to 2026-11-21",
        "coverage {db}",
        "verify {db}",
    ):
        out.print(f"   {_command()} {command.format(db=f'--db {_without_password(db)}')}", soft_wrap=True)


def _without_password(db: str) -> str:
    """A file, or the URL of a database as it may be shown and copied; who pastes it has the password elsewhere."""
    if "://" not in db:
        return db
    said = urlsplit(db)
    user, at, host = said.netloc.rpartition("@")
    secret = ("password", "sslpassword")
    options = "&".join(
        each for each in said.query.split("&") if unquote(each.partition("=")[0]) not in secret
    )
    return shlex.quote(said._replace(netloc=f"{user.partition(':')[0]}{at}{host}", query=options).geturl())


def _command() -> str:
    """What to type to run this command again: by its name only where the shell would find it."""
    if shutil.which("accountledger"):
        return "accountledger"
    path = Path(sys.argv[0])
    return os.path.relpath(path) if path.name == "accountledger" else "python -m ledger"


def _listen(ledger: Ledger, venues: Mapping[str, Venue]) -> list[Health]:
    """Serve every tape, feed from all of them at once until all they say has come, and how each feed ended."""
    with ExitStack() as stack:
        feeds: list[Feed] = []
        expected: dict[str, int] = {}
        for name, venue in venues.items():
            if name == "cascade" and find_spec("eth_account") is None:
                out.print("   cascade is left out: pip install 'accountledger[cascade]'\n", style="dim")
                continue
            path = stack.enter_context(as_file(files(__name__) / f"{name}.tape"))
            account, frames, seconds = _measure(path)
            port = stack.enter_context(serving(exchange(path, speed=max(seconds / SECONDS, 1.0))))
            feed = Feed(venue, account, **_login(name, port))
            feeds.append(feed)
            expected[feed.name] = frames
        running = stack.enter_context(background(ledger, *feeds))
        with progress("listening", sum(expected.values())) as advance:
            seen, until = 0, time.monotonic() + PATIENCE_S
            while time.monotonic() < until and any(
                health.frames < expected[health.account] for health in running.health()
            ):
                time.sleep(0.05)
                come = sum(health.frames for health in running.health())
                advance(come - seen)
                seen = come
        for health in running.health():
            if health.frames < expected[health.account]:
                came = f"{health.frames} of {expected[health.account]} frames came in {PATIENCE_S:g} s"
                raise Lost(f"{health.account}: {came}: {health.state}, {health.reason}")
        running.stop("the end of the demo")
        return running.health()


def _measure(path: Path) -> tuple[str, int, float]:
    """Whose a tape is, how many frames it has, and how long it took (s)."""
    with open_recording(path) as recording:
        frames = sum(len(batch) for batch in recording.batches())
        took_ns = (recording.closed_ns or 0) - (recording.opened_ns or 0)
        return str(recording.account), frames, took_ns / 1e9


def _login(venue: str, port: int) -> dict[str, Any]:
    """What the little exchange asks for, and where it is."""
    fields: dict[str, Any] = dict(DEMO_LOGINS[venue])
    if venue != "pacifica":
        fields["url"] = f"ws://127.0.0.1:{port}"
    if venue in ("pacifica", "cascade", "deltadefi"):
        fields["rest_url"] = f"http://127.0.0.1:{port}"
    if venue == "cascade":
        fields["subaccounts"] = (0, 1)
    return fields


def _feed(health: Health) -> dict[str, Any]:
    names = ("account", "frames", "recorded", "duplicates", "control", "quarantined")
    found = {name: getattr(health, name) for name in names}
    return {"feed": found.pop("account"), **found}


def _balance(row: Any) -> dict[str, Any]:
    found = fields(row)
    names = ("account", "asset", "total", "available", "locked", "staked", "pending", "completeness", "time")
    return {name: found[name] for name in names}


def _fill(row: Any) -> dict[str, Any]:
    found = fields(row)
    names = ("account", "fill_id", "symbol", "side", "price", "quantity", "fee", "fee_asset", "time")
    return {name: found[name] for name in names}


def _findings(ledger: Ledger, ended: list[Health]) -> list[dict[str, str]]:
    found = [
        _finding(gap.account, f"{gap.kind} gap", f"missing {gap.missing}{_end(gap)}", gap.version)
        for gap in Gaps(ledger).rows()
    ]
    found += [
        _finding(
            each.account,
            f"{each.kind} break",
            f"{each.subject} {each.part or ''}: expected {each.expected}, stated {each.stated}{_end(each)}",
            each.stated_version or each.expected_version or 0,
        )
        for each in Breaks(ledger).rows()
    ]
    found += [
        _finding(row.account, "unreadable frame", f"kept in quarantine: {row.reason}", row.version)
        for row in Quarantine(ledger).rows()
    ]
    found += _late(ledger)
    found += [
        {
            "account": each.account,
            "what": "delivered again",
            "detail": f"frames that said nothing new: {each.duplicates}; nothing is booked twice",
            "where": "-",
        }
        for each in ended
        if each.duplicates
    ]
    return found


def _end(found: Gap | Break) -> str:
    """Whether it is open, or what closed it."""
    return (
        f"; closed: {found.closed_how} (version {found.closed_by})" if found.state == "closed" else "; open"
    )


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
