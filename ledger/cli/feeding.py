"""Commands that bring frames in or play them: ingest, run, serve, demo."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from ledger.appender import Tally
from ledger.cli.options import (
    DONE,
    FINDINGS,
    VENUES,
    Finite,
    bring_up_all,
    cli,
    db_option,
    end_output,
    views_and_all,
)
from ledger.console import printable, progress
from ledger.errors import BadLogin, BadTape, StoreError
from ledger.ledger import Ledger
from ledger.venue import Venue, check_label

SHOWN_CHARS_MAX: Final = 40


@cli.command()
@db_option
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
    try:
        check_label(venue, account)
    except BadLogin as error:
        raise click.UsageError(f"not an account name: {account[:SHOWN_CHARS_MAX]!r}; {error}") from None
    total = Tally()
    with Ledger(db) as ledger:
        try:
            for name in files:
                tally = _ingest_file(ledger, VENUES[venue], account, name)
                total.quarantined += tally.quarantined
                click.echo(printable(f"{venue}:{account}  {name}: {_tally_text(tally)}"))
        finally:
            bring_up_all(ledger)
    return FINDINGS if total.quarantined else DONE


def _ingest_file(ledger: Ledger, venue: Venue, account: str, name: str) -> Tally:
    from transports import Recording, frames_of, open_recording, play  # event loops: not for who only reads

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
@db_option
@click.argument("feeds", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FEEDS.toml")
@click.option("--for", "seconds", type=Finite(), metavar="SECONDS", help="Stop after so long.")
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
    from ledger.run import catch_up_some, run_feeds, say, summary, told_once

    settings = read_feeds(feeds, VENUES)
    if tapes is not None:
        try:
            tapes.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"{tapes}: {error.strerror}") from None
        if not os.access(tapes, os.W_OK | os.X_OK):
            raise click.UsageError(f"{tapes}: no tape can be written there")
    with told_once(), Ledger(db) as ledger:
        views, projections = views_and_all(ledger)
        ended = run_feeds(ledger, settings, projections, views, seconds=seconds, tapes=tapes)
        for health in ended:
            say(summary(health))
        ledger.give_up_at(0.0)  # readers catch up by themselves
        with contextlib.suppress(StoreError):
            catch_up_some(ledger, projections)
            views.tell()
    end_output()  # who reads it is no matter of the feeds
    wrong = any(
        each.state in ("refused", "failed")
        or not (each.session or each.standby)
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
@click.option("--speed", type=Finite(), default=0.0, help="1: as recorded; 10: tenfold; 0: at once.")
def serve(tape: Path, port: int, feeds: Path | None, speed: float) -> int:
    """Play TAPE as the venue it was recorded at, to any client, over real WebSocket or HTTP.

    The client has to log in as it would there; what to put into a FEEDS.toml is printed. Until Ctrl-C or SIGTERM.
    """
    from ledger.feeds import read_feeds
    from ledger.serve import exchange, feed_text, serve_forever
    from transports import open_recording

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
