"""Commands that show that nobody changed what is stored: keygen, checkpoint, verify."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click
from msgspec import json
from msgspec.structs import asdict

from ledger.cli.options import DONE, FINDINGS, PROJECTIONS, VENUES, cli, db_option, json_option
from ledger.cli.proof import refold
from ledger.console import printable, progress, show
from ledger.errors import BadKey, BadNote, Corrupt, StoreError
from ledger.ledger import Ledger
from ledger.notes import Checkpoint, PublicKey, new_key, opened, private_key, public_key
from ledger.verify import Finding
from projections import compare

KEY: Final = "accountledger.key"
PUBLIC_KEY: Final = "accountledger.pub"
KEY_BYTES_MAX: Final = 4096
SHOWN_MAX: Final = 20

_file = click.Path(dir_okay=False, path_type=Path)
_existing = click.Path(exists=True, dir_okay=False, path_type=Path)


@cli.command()
@click.option("--key", type=_file, default=KEY, show_default=True, help="Where the private key goes.")
@click.option(
    "--public-key", type=_file, default=PUBLIC_KEY, show_default=True, help="Where the public one goes."
)
@click.option("--name", help="What the key, and so the log of checkpoints, is called.")
def keygen(key: Path, public_key: Path, name: str | None) -> int:
    """Make a key that signs checkpoints (Ed25519). Keep the private one elsewhere than the ledger; hand out the other."""
    made = new_key(name)
    if public_key.exists():
        raise click.UsageError(f"{public_key} exists; a key is never written over")
    for path, text, mode in ((key, made.text(), 0o600), (public_key, made.public.text(), 0o644)):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise click.UsageError(f"{path} exists; a key is never written over") from None
        except OSError as error:
            raise click.UsageError(f"{path}: {error.strerror}") from None
        with os.fdopen(handle, "w") as file:
            file.write(f"{text}\n")
    click.echo(f"{key}: the private key, readable by you alone; signs checkpoints")
    click.echo(f"{public_key}: the public key; checks them: {made.public.text()}")
    return DONE


@cli.command()
@db_option
@click.option(
    "--key", type=_existing, default=KEY, show_default=True, help="The private key (accountledger keygen)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where it goes; DB.checkpoint if not given, - for standard output.",
)
def checkpoint(db: str, key: Path, out: Path | None) -> int:
    """Sign where every account stands, after all that is stored was read and hashed again. Keep a copy elsewhere.

    Goes on from the checkpoint that is there before. Exit code 1: something is wrong with what is stored; not signed.
    """
    signer = private_key(_key_text(key))
    out = Path(f"{db}.checkpoint") if out is None else out
    before: list[Checkpoint] = []
    if str(out) != "-" and out.exists():
        try:
            before = [opened(out.read_bytes(), signer.public)]
        except BadNote as error:
            raise click.UsageError(f"{out}: {error}; write the new one elsewhere with --out") from None
    with Ledger(db, read_only=True) as ledger, progress("checkpoint", ledger.position()) as advance:
        try:
            made = ledger.checkpoint(signer.name, before, advance)
        except Corrupt as error:
            click.echo(f"accountledger: {printable(str(error))}", err=True)
            return FINDINGS
    note = signer.sign(made)
    if str(out) == "-":
        click.echo(note, nl=False)
        return DONE
    _replace(out, note.encode())
    accounts = "1 account" if len(made.heads) == 1 else f"{len(made.heads)} accounts"
    click.echo(f"{out}: {made.size} events of {accounts}, signed by {signer.name}; keep a copy elsewhere")
    return DONE


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent, delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}") from None


def _key_text(path: Path) -> str:
    try:
        return path.read_bytes()[:KEY_BYTES_MAX].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(f"{path}: not a key ({type(error).__name__})") from None


@cli.command()
@db_option
@click.option("--checkpoint", "note", type=_existing, help="What was signed before, from where you kept it.")
@click.option("--public-key", "key", type=_existing, help="Whose signature it has to have.")
@click.option(
    "--export", type=click.File("wb"), help="Write every finding to this file, one JSON object a line."
)
@json_option
def verify(db: str, note: Path | None, key: Path | None, export: BinaryIO | None, as_json: bool) -> int:
    """Check all that is stored: seals, evidence, natural keys, every frame decoded again by today's venue modules, the
    projections folded again; and, with a checkpoint, that nothing is gone from the end. Exit code 1: a finding."""
    if (note is None) != (key is None):
        raise click.UsageError("--checkpoint and --public-key go together")
    trusted = None if key is None else public_key(_key_text(key))
    with Ledger(db, read_only=True) as ledger:
        events = ledger.position()
        shown: list[Finding] = []
        count = 0
        for finding in _findings(ledger, note, trusted):
            count += 1
            if export is not None:
                export.write(json.encode(asdict(finding)) + b"\n")
            if as_json or count <= SHOWN_MAX:
                shown.append(finding)
    if as_json:
        show(map(asdict, shown), as_json=True, what="findings")
        return FINDINGS if count else DONE
    for finding in shown:
        click.echo(printable(f"{finding.what}: {finding.sentence()}"))
        for side, said in (("stored ", finding.stored), ("decoded", finding.decoded)):
            if said is not None:
                click.echo(printable(f"    {side} {said}"))
    if count > len(shown):
        click.echo(f"and {count - len(shown)} more: --export FILE or --json has them all")
    beside = "" if note is None else ", and the checkpoint"
    if not count:
        click.echo(f"{events} events: every seal, frame, key, decoding and projection is right{beside}")
        return DONE
    first = next((each for each in shown if each.version is not None or each.position is not None), None)
    where = "" if first is None else f"; first bad event: {_place(first)}"
    click.echo(printable(f"{events} events: {'1 finding' if count == 1 else f'{count} findings'}{where}"))
    return FINDINGS


def _place(finding: Finding) -> str:
    if finding.account is None:
        return f"position {finding.position}"
    return f"{finding.account} version {finding.version}"


def _findings(ledger: Ledger, note: Path | None, key: PublicKey | None) -> Iterator[Finding]:
    checkpoints: list[Checkpoint] = []
    if note is not None and key is not None:
        try:
            checkpoints.append(opened(note.read_bytes(), key))
        except BadNote as error:
            yield Finding("checkpoint", f"{note}: {error}")
    with progress("verify", ledger.position()) as advance:
        damaged = False
        for finding in ledger.verify(VENUES.values(), checkpoints=checkpoints, advance=advance):
            damaged = damaged or finding.what in ("file", "event", "missing")
            yield finding
    if not damaged:
        yield from _projected(ledger)


def _projected(ledger: Ledger) -> Iterator[Finding]:
    """What the projections stored, beside a fold from zero."""
    with tempfile.TemporaryDirectory() as folder, Ledger(f"{folder}/fold.db") as scratch:
        stored = [projection(ledger) for projection in PROJECTIONS]
        folded = [projection(ledger, scratch) for projection in PROJECTIONS]
        try:
            with progress("projections", ledger.position()) as advance:
                refold(ledger, stored, folded, None, advance)
            for one, other in zip(stored, folded, strict=True):
                for difference in compare(one, other):
                    row = difference.stored or difference.folded
                    account = getattr(row, "account", None)
                    reason = f"stored {difference.stored}, folded again {difference.folded}"
                    yield Finding("projection", f"{difference.table} of {account}: {reason}")
        except StoreError as error:
            yield Finding("file", str(error))
