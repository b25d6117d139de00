"""The command that moves a ledger to another database: copy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from msgspec import json

from ledger.cli.options import DONE, FINDINGS, bring_up_all, cli
from ledger.console import printable, progress
from ledger.copying import Copied, check, is_same_file
from ledger.copying import copy as copy_events
from ledger.errors import Corrupt
from ledger.ledger import Ledger
from ledger.memory import remember, remembered
from ledger.store import is_url

_PLACE: Final = click.Path(dir_okay=False)


@cli.command()
@click.option("--from", "source", required=True, type=_PLACE, help="The ledger to copy; it is only read.")
@click.option(
    "--to", "target", required=True, type=_PLACE, help="Where to: new, empty, or what an earlier copy left."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def copy(source: str, target: str, as_json: bool) -> int:
    """Copy a ledger into another database, a SQLite file or a PostgreSQL database, and prove that both are equal.

    What the source holds at the start is copied, then read again from the target and hashed: every account's head and
    the root over all seals must be the same. Interrupted or killed, it goes on where it stopped when run again; so it
    does when the source has grown. Exit code 1: something is wrong with what is stored.
    """
    if not (is_url(source) or is_url(target)) and is_same_file(Path(source), Path(target)):
        raise click.UsageError(f"{target}: a ledger is not copied to where it is")
    with Ledger(source, read_only=True) as one, Ledger(target, unfinished=True) as other:
        try:
            copied = _copied(one, other)
        except Corrupt as error:
            click.echo(f"accountledger: {printable(str(error))}", err=True)
            return FINDINGS
        later = one.position() - copied.stands.size
        said = _said(one.name, other.name, copied, later)
    if as_json:
        click.echo(json.encode(said))
    else:
        click.echo(printable(_sentence(said)))
    return DONE


def _copied(source: Ledger, target: Ledger) -> Copied:
    """All of it: the events, what conversations remember, and the projections, folded again."""
    memories = remembered(source)  # before the events: it must not know of frames that are not copied
    with progress("copy", source.position()) as advance:
        copied = copy_events(source, target, advance)
    if memories:
        remember(target, memories)
    with progress("check", copied.stands.size) as advance:
        check(target, copied, advance)
    bring_up_all(target)
    return copied


def _said(source: str, target: str, copied: Copied, later: int) -> dict[str, str | int | bool]:
    stands = copied.stands
    return {
        "from": source,
        "to": target,
        "events": stands.size,
        "accounts": len(stands.heads),
        "root": stands.root.hex(),
        "equal": True,
        "copied": stands.size - copied.there,
        "later": later,
    }


def _sentence(said: dict[str, str | int | bool]) -> str:
    accounts = "1 account" if said["accounts"] == 1 else f"{said['accounts']} accounts"
    line = (
        f"{said['to']}: {said['events']} events of {accounts}, root {said['root']}: equal to {said['from']} "
        f"({said['copied']} copied now)"
    )
    return f"{line}; {said['later']} more came there meanwhile: copy again" if said["later"] else line
