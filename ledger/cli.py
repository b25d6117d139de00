"""The command line: `accountledger`. The one room of this package that knows projections and transports.

Exit codes: 0 done; 1 done, and something was found wrong (a quarantined frame, a gap, a difference); 2 bad usage or bad
input, told in one line.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from ledger.console import fields, out, printable, progress, show, table
from ledger.errors import BadTape, LedgerError, StoreError
from ledger.ledger import Ledger, Tally
from ledger.venue import Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from ledger.wire import time_text
from projections import (
    Accounts,
    Audit,
    Balances,
    Fills,
    Gaps,
    History,
    Orders,
    Projection,
    Quarantine,
    catch_up,
    compare,
)
from transports import Recording, frames_of, open_recording, play

DONE: Final = 0
FINDINGS: Final = 1
BAD: Final = 2
INTERRUPTED: Final = 130

DIFFERENCES_SHOWN_MAX: Final = 20
PREVIEW_BYTES: Final = 120
ACCOUNT_CHARS_MAX: Final = 200

_ALL: Final[tuple[Venue, ...]] = (deltadefi, bitopro, kraken_prime, cascade, pacifica)
VENUES: Final[Mapping[str, Venue]] = {venue.NAME: venue for venue in _ALL}

F = TypeVar("F", bound=Callable[..., Any])


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        code = cli.main(args=args, prog_name="accountledger", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = BAD
    except click.ClickException as error:
        where = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "accountledger"
        )
        _complain(f"{error.format_message()} (see {where} --help)")
        code = BAD
    except LedgerError as error:
        _complain(str(error))
        code = BAD
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; what was acknowledged is stored")
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = DONE
    sys.exit(code if isinstance(code, int) else DONE)


def _complain(message: str) -> None:
    print(f"accountledger: {printable(' '.join(message.split()))}", file=sys.stderr)


def _version() -> str:
    try:
        return version("accountledger")
    except PackageNotFoundError:
        return "from a source tree, not installed"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=_version(), prog_name="accountledger")
def cli() -> None:
    """The ledger of what exchanges say about your accounts: exact, complete and provable.

    Exit codes: 0 done; 1 done, and something was found wrong; 2 bad usage or input.
    """


def _db(command: F) -> F:
    return click.option(
        "--db", required=True, type=click.Path(dir_okay=False), help="The ledger's SQLite file."
    )(command)


def _json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON array; amounts are strings.")(
        command
    )


def _account(command: F) -> F:
    return click.argument("account", required=False)(command)


@cli.command()
@_db
@click.argument("venue", type=click.Choice(list(VENUES)), metavar="VENUE")
@click.argument("account")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
def ingest(db: str, venue: str, account: str, files: tuple[str, ...]) -> int:
    """Take recorded frames of VENUE's login ACCOUNT in; each FILE is one session.

    A FILE is a tape, NDJSON (a frame a line) or one JSON document; - is standard input. A line is printed when all of a
    file is stored. Feeding a file again changes nothing. Exit code 1: frames were quarantined.
    """
    if not account or "/" in account or not account.isprintable() or len(account) > ACCOUNT_CHARS_MAX:
        raise click.UsageError(f"not an account name: {account[:ACCOUNT_CHARS_MAX]!r}")
    total = Tally()
    with Ledger(db) as ledger:
        try:
            for name in files:
                tally = _ingest_file(ledger, VENUES[venue], account, name)
                total.quarantined += tally.quarantined
                click.echo(printable(f"{venue}:{account}  {name}: {_tally_text(tally)}"))
        finally:
            _catch_up(ledger, [projection(ledger) for projection in PROJECTIONS])
    return FINDINGS if total.quarantined else DONE


def _ingest_file(ledger: Ledger, venue: Venue, account: str, name: str) -> Tally:
    path = Path(name)
    if name == "-":
        recording = Recording("standard input", os.fdopen(0, "rb", closefd=False), time.time_ns)
    else:
        recording = open_recording(path)
    with recording:
        said = (recording.venue or venue.NAME, recording.account or account)
        if said != (venue.NAME, account):
            raise BadTape(
                f"{recording.name}, line 1: a tape of {':'.join(said)}, not of {venue.NAME}:{account}"
            )
        size = path.stat().st_size if name != "-" else None
        session = recording.session
        if session is None and path.is_file():
            session = ledger.session_of(f"{venue.NAME}:{account}", lambda: frames_of(path))
        with (
            progress(path.name, size) as advance,
            ledger.intake(venue, account, session=session, opened_ns=recording.opened_ns) as intake,
        ):
            return play(recording, intake, advance)


def _tally_text(tally: Tally) -> str:
    frames = "1 frame" if tally.frames == 1 else f"{tally.frames} frames"
    return (
        f"{frames}: {tally.recorded} recorded, {tally.duplicates} duplicates, "
        f"{tally.control} control, {tally.quarantined} quarantined"
    )


@cli.command()
@_db
@_json
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
            for row in _caught_up(ledger, Accounts(ledger)).rows()
        ]
        show(found, as_json=as_json, what="accounts")
    return DONE


@cli.command()
@_db
@_account
@click.option(
    "--at",
    "moment",
    metavar="TIME_OR_VERSION",
    help="As of a time (2026-11-21T12:00:00Z) or an account version.",
)
@_json
def balances(db: str, account: str | None, moment: str | None, as_json: bool) -> int:
    """What is held, now or as of a time or version; amounts in the venue's digits."""
    with _reading(db, account) as (ledger, account):
        projection = Balances(ledger)
        if moment is None:
            rows = _caught_up(ledger, projection).rows(account)
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
@_db
@_account
@_json
def orders(db: str, account: str | None, as_json: bool) -> int:
    """The orders as last stated, open and closed."""
    with _reading(db, account) as (ledger, account):
        show(map(fields, _caught_up(ledger, Orders(ledger)).rows(account)), as_json=as_json, what="orders")
    return DONE


@cli.command()
@_db
@_account
@_json
def fills(db: str, account: str | None, as_json: bool) -> int:
    """The executions, each once."""
    with _reading(db, account) as (ledger, account):
        show(map(fields, _caught_up(ledger, Fills(ledger)).rows(account)), as_json=as_json, what="fills")
    return DONE


@cli.command()
@_db
@_account
@_json
def history(db: str, account: str | None, as_json: bool) -> int:
    """The venues' own balance histories: cause, signed change, balance after."""
    with _reading(db, account) as (ledger, account):
        show(
            map(fields, _caught_up(ledger, History(ledger)).rows(account)),
            as_json=as_json,
            what="history rows",
        )
    return DONE


@cli.command()
@_db
@_account
@_json
def gaps(db: str, account: str | None, as_json: bool) -> int:
    """What is known to be missing: holes in a sequence, breaks in a running balance. Exit code 1: there are some."""
    with _reading(db, account) as (ledger, account):
        found = _caught_up(ledger, Gaps(ledger)).rows(account)
        show(map(fields, found), as_json=as_json, what="gaps")
    return FINDINGS if found else DONE


@cli.command()
@_db
@_account
@_json
def quarantine(db: str, account: str | None, as_json: bool) -> int:
    """The frames no event could be made of, kept whole, with the reason. Exit code 1: there are some."""
    with _reading(db, account) as (ledger, account):
        rows = _caught_up(ledger, Quarantine(ledger)).rows(account)
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
@_db
@click.argument("account")
@_json
def audit(db: str, account: str, as_json: bool) -> int:
    """Every event of ACCOUNT, in order, with its source and the evidence it was made from."""
    with _reading(db, account) as (ledger, found):
        show(map(fields, Audit(ledger).rows(found or account)), as_json=as_json, what="events")
    return DONE


@cli.command()
@_db
@_account
@click.option("--rebuild", is_flag=True, help="Keep the fresh fold in place of the stored one.")
def replay(db: str, account: str | None, rebuild: bool) -> int:
    """Fold every projection again from zero and compare with the stored one. Exit code 1: they differ."""
    with (
        _reading(db, account) as (ledger, account),
        tempfile.TemporaryDirectory() as folder,
        Ledger(f"{folder}/fold.db") as scratch,
    ):
        stored = [projection(ledger) for projection in PROJECTIONS]
        folded = [projection(ledger, scratch) for projection in PROJECTIONS]
        with progress("replay", ledger.position()) as advance:
            events = _refold(ledger, stored, folded, account, advance)
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
            _catch_up(ledger, fresh)
        verdict = f"{differences} differences; the projections were rebuilt"
    elif differences:
        verdict = f"{differences} differences (replay --rebuild keeps the fresh fold)"
    elif unstored:
        verdict = f"every stored projection equals the fresh fold; not stored yet: {', '.join(unstored)}"
    else:
        verdict = "every projection equals the stored one"
    click.echo(f"{events} events replayed: {verdict}")
    return FINDINGS if differences else DONE


def _refold(
    ledger: Ledger,
    stored: Sequence[Projection],
    folded: Sequence[Projection],
    account: str | None,
    advance: Callable[[int], None],
) -> int:
    """Fold again what the stored rows rest on: the events up to where each projection stopped."""
    events = 0
    for recorded in ledger.replay(account):
        for one, other in zip(stored, folded, strict=True):
            if recorded.position <= one.subscription.position:
                other.subscription.apply(recorded)
        events += 1
        if events % 1000 == 0:
            for other in folded:
                other.subscription.flush()
            advance(1000)
    for other in folded:
        other.subscription.flush()
    return events


@cli.command()
@_db
@click.argument("feeds", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FEEDS.toml")
@click.option("--for", "seconds", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop after so long.")
@click.option(
    "--tape",
    "tapes",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Record a tape of each conversation in this folder, without secrets.",
)
def run(db: str, feeds: Path, seconds: float | None, tapes: Path | None) -> int:
    """Keep the feeds of FEEDS.toml live, until Ctrl-C, SIGTERM or --for.

    Secrets are named there, never written: key = "env:NAME" or "file:PATH". A line is printed for each feed at the end.
    Exit code 1: a feed was refused or never got through, frames were quarantined, or could not be
    stored or taped.
    """
    from ledger.feeds import read_feeds
    from ledger.run import catch_up_some, run_feeds, summary

    settings = read_feeds(feeds, VENUES)
    if tapes is not None:
        try:
            tapes.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"{tapes}: {error.strerror}") from None
        if not os.access(tapes, os.W_OK | os.X_OK):
            raise click.UsageError(f"{tapes}: no tape can be written there")
    with Ledger(db) as ledger:
        projections = [projection(ledger) for projection in PROJECTIONS]
        ended = run_feeds(ledger, settings, projections, seconds=seconds, tapes=tapes)
        with contextlib.suppress(StoreError):  # readers catch up by themselves
            catch_up_some(ledger, projections)
    for health in ended:
        click.echo(summary(health))
    wrong = any(
        each.state in ("refused", "failed")
        or not each.session
        or each.quarantined
        or each.unstored
        or each.untaped
        for each in ended
    )
    return FINDINGS if wrong else DONE


@cli.command()
@click.argument("tape", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--port", type=click.IntRange(0, 65535), required=True, help="On 127.0.0.1; 0 takes a free one."
)
@click.option(
    "--feeds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FEEDS.toml",
    help="Check the credentials of this file's feed, not those of the demo.",
)
@click.option(
    "--speed", type=click.FloatRange(min=0), default=0.0, help="1: as recorded; 10: tenfold; 0: at once."
)
def serve(tape: Path, port: int, feeds: Path | None, speed: float) -> int:
    """Play TAPE as the venue it was recorded at, to any client, over real WebSocket or HTTP.

    The client has to log in as it would there; what to put into a FEEDS.toml is printed. Until Ctrl-C or SIGTERM.
    """
    from ledger.feeds import read_feeds
    from ledger.serve import exchange, feed_text, serve_forever

    login = None
    if feeds is not None:
        with open_recording(tape) as recording:
            whose = (str(recording.venue), str(recording.account))
        logins = {(each.venue.NAME, each.account): each.login for each in read_feeds(feeds, VENUES)}
        if whose not in logins:
            raise click.UsageError(f"{feeds} has no feed of {':'.join(whose)}, which {tape} is of")
        login = logins[whose]
    app = exchange(tape, login, speed=speed)

    def ready(found: int) -> None:
        text = feed_text(tape, login, found)
        said = "FEEDS.toml for it:"
        if feeds is not None:  # which has the rest
            said = f"in {feeds} its feed needs:"
            text = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(("url", "rest_url")))
        click.echo(f"# {app.venue}:{app.account} is served on 127.0.0.1:{found} until Ctrl-C; {said}")
        click.echo(text, nl=False)
        sys.stdout.flush()

    serve_forever(app, port, ready=ready)
    return DONE


@cli.command()
@click.option(
    "--db",
    type=click.Path(dir_okay=False),
    help="A new file for the demo's ledger; a temporary one if not given.",
)
def demo(db: str | None) -> int:
    """Five short recordings with trouble planted in them, one per venue, and what the ledger makes of them."""
    from ledger.demo import show as show_demo

    if db is None:
        db = str(Path(tempfile.mkdtemp(prefix="accountledger-")) / "demo.db")
    elif Path(db).exists():
        raise click.UsageError(f"{db} exists; the demo wants a new file")
    show_demo(db, VENUES)
    return DONE


PROJECTIONS: Final[tuple[Callable[..., Any], ...]] = (
    Accounts,
    Balances,
    Orders,
    Fills,
    History,
    Gaps,
    Quarantine,
)

P = TypeVar("P", bound=Projection)


@contextlib.contextmanager
def _reading(db: str, account: str | None) -> Generator[tuple[Ledger, str | None]]:
    """The ledger, to read, and the account as the ledger writes it. Raises where it is not there."""
    with Ledger(db, read_only=True) as ledger:
        if account is not None and account not in _caught_up(ledger, Accounts(ledger)):
            known = [row.account for row in Accounts(ledger).rows()]
            alike = [name for name in known if name.casefold() == account.casefold()]
            if len(alike) != 1:
                raise click.UsageError(
                    f"{db} has no account {account!r}; `accountledger accounts --db {db}` lists them"
                )
            account = alike[0]
        yield ledger, account


def _caught_up(ledger: Ledger, projection: P) -> P:
    _catch_up(ledger, [projection])
    return projection


def _catch_up(ledger: Ledger, projections: Sequence[Projection]) -> None:
    behind = ledger.position() - min(each.subscription.position for each in projections)
    with progress("projections", behind) as advance:
        catch_up(ledger, projections, progress=advance)
