"""Commands that show that nobody changed what is stored: keygen, checkpoint, verify."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, TypeVar, cast

import click
from msgspec import json
from msgspec.structs import asdict

from ledger.cli.options import (
    DONE,
    FINDINGS,
    VENUES,
    checkpoint_of,
    cli,
    db_option,
    json_option,
    replaceable,
)
from ledger.cli.proof import misplaced, redefined, refolded, unlike
from ledger.console import printable, progress, show
from ledger.errors import BadKey, BadNote, Corrupt, StoreError, Unsealed
from ledger.findings import Finding, first_bad, weight
from ledger.ledger import Ledger
from ledger.memory import changed_memories
from ledger.notes import NOTE_BYTES_MAX, Checkpoint, PublicKey, new_key, opened, private_key, public_key

KEY: Final = "accountledger.key"
PUBLIC_KEY: Final = "accountledger.pub"
KEY_BYTES_MAX: Final = 4096
SHOWN_MAX: Final = 20

K = TypeVar("K")

_file = click.Path(dir_okay=False, path_type=Path)
_existing = click.Path(exists=True, dir_okay=False, path_type=Path)


@cli.command()
@click.option("--key", type=_file, default=KEY, show_default=True, help="Where the private key goes.")
@click.option(
    "--public-key", type=_file, default=PUBLIC_KEY, show_default=True, help="Where the public one goes."
)
@click.option("--name", help="What the key, and so the log of checkpoints, is called.")
def keygen(key: Path, public_key: Path, name: str | None) -> int:
    """Make a key that signs checkpoints (Ed25519). Keep the private one away from the ledger; hand out the other."""
    made = new_key(name)
    if public_key.exists():
        raise click.UsageError(f"{public_key} exists; a key is never written over")
    with ExitStack() as unless_done:
        for path, text, mode in ((key, made.text(), 0o600), (public_key, made.public.text(), 0o644)):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            except FileExistsError:
                raise click.UsageError(f"{path} exists; a key is never written over") from None
            except OSError as error:
                raise click.UsageError(f"{path}: {error.strerror}") from None
            unless_done.callback(path.unlink)  # half a pair would stand in the way of the next
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(f"{text}\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise click.UsageError(f"{path}: {error.strerror}") from None
        unless_done.pop_all()
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
    help="Where it goes; DB.checkpoint if not given (of a server: in this folder), - for standard output.",
)
def checkpoint(db: str, key: Path, out: Path | None) -> int:
    """Sign where every account stands, after all that is stored was read and hashed again. Keep a copy elsewhere.

    Goes on from the checkpoint that is there before. Exit code 1: something is wrong with what is stored; not signed.
    """
    signer = _key(key, private_key)
    out = checkpoint_of(db) if out is None else out
    before: list[Checkpoint] = []
    if str(out) != "-" and out.exists():
        try:
            before = [_opened(out, signer.public)]
        except BadNote as error:
            raise click.UsageError(f"{out}: {error}; write the new one elsewhere with --out") from None
    try:
        with Ledger(db, read_only=True) as ledger, progress("checkpoint", _size(ledger)) as advance:
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
    with ExitStack() as unless_done:
        try:
            with tempfile.NamedTemporaryFile(dir=path.absolute().parent, delete=False) as file:
                unless_done.callback(os.unlink, file.name)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
            unless_done.pop_all()
        except OSError as error:
            raise click.UsageError(f"{path}: {error.strerror}") from None


def _key(path: Path, read: Callable[[str], K]) -> K:
    try:
        return read(path.read_bytes()[:KEY_BYTES_MAX].decode())
    except OSError as error:
        raise BadKey(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadKey(f"{path}: not a key: it is no text") from None
    except BadKey as error:
        raise BadKey(f"{path}: {error}") from None


@cli.command()
@db_option
@click.option("--checkpoint", "note", type=_existing, help="What was signed before, from where you kept it.")
@click.option("--public-key", "key", type=_existing, help="Whose signature it has to have.")
@click.option(
    "--export",
    type=_file,
    help="Write every finding to this file, one JSON object a line.",
)
@json_option
def verify(db: str, note: Path | None, key: Path | None, export: Path | None, as_json: bool) -> int:
    """Check all that is stored: seals, evidence, natural keys, every frame decoded again by today's venue modules, the
    projections folded again; and, with a checkpoint, that nothing is gone from the end. Exit code 1: a finding."""
    if (note is None) != (key is None):
        raise click.UsageError("--checkpoint and --public-key go together")
    trusted = None if key is None else _key(key, public_key)
    with ExitStack() as stack:
        try:
            file = None if export is None else stack.enter_context(replaceable(export).open("wb"))
        except OSError as error:
            raise click.UsageError(f"{export}: {error.strerror}") from None
        report = _Report(file, SHOWN_MAX if not as_json else None)
        try:
            with Ledger(db, read_only=True, unfinished=True) as ledger:
                report.events = _counted(ledger)
                report.take(_findings(ledger, note, trusted))
        except Corrupt as error:  # not even opened
            report.take([Finding("file", str(error))])
        except Unsealed as error:
            if note is None:
                raise
            report.take([Finding("missing", f"a checkpoint was signed, but its seals are gone: {error}")])
    if as_json:
        show(map(asdict, sorted(report.shown, key=weight)), as_json=True, what="findings")
    else:
        report.show("" if note is None else ", and the checkpoint")
    return FINDINGS if report.count else DONE


class _Report:
    """The findings, as far as they are shown; all of them are exported."""

    def __init__(self, export: BinaryIO | None, shown_max: int | None) -> None:
        self._export = export
        self._shown_max = shown_max
        self._first: Finding | None = None
        self.events = 0
        self.count = 0
        self.shown: list[Finding] = []

    def take(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.count += 1
            self._first = first_bad(each for each in (self._first, finding) if each is not None)
            if self._export is not None:
                self._export.write(json.encode(asdict(finding)) + b"\n")
            if self._shown_max is None or self.count <= self._shown_max:
                self.shown.append(finding)

    def show(self, beside: str) -> None:
        for finding in sorted(self.shown, key=weight):
            click.echo(printable(f"{finding.what}: {finding.sentence()}"))
            for side, said in (("stored ", finding.stored), ("decoded", finding.decoded)):
                if said is not None:
                    click.echo(printable(f"    {side} {said}"))
        if self.count > len(self.shown):
            click.echo(f"and {self.count - len(self.shown)} more: --export FILE or --json has them all")
        if not self.count:
            click.echo(
                f"{self.events} events: every seal, frame, key, decoding and projection is right{beside}"
            )
            return
        many = "1 finding" if self.count == 1 else f"{self.count} findings"
        where = "" if self._first is None else f"; first bad event: {self._first.place}"
        click.echo(printable(f"{self.events} events: {many}{where}"))


def _size(ledger: Ledger) -> int | None:
    """How many events there ought to be; None where that cannot be read."""
    try:
        return ledger.position()
    except StoreError:
        return None


def _counted(ledger: Ledger) -> int:
    """How many events there are, wherever they are; as many as there ought to be where they cannot be counted."""
    try:
        (counted,) = ledger.select("SELECT count(*) FROM stored_events")
    except StoreError:
        return _size(ledger) or 0
    return cast("int", counted[0])


def _findings(ledger: Ledger, note: Path | None, key: PublicKey | None) -> Iterator[Finding]:
    checkpoints: list[Checkpoint] = []
    if note is not None and key is not None:
        try:
            checkpoints.append(_opened(note, key))
        except BadNote as error:
            yield Finding("checkpoint", f"{note}: {error}")
    if (source := ledger.unfinished()) is not None:
        yield Finding(
            "missing", f"an unfinished copy of {source}: copy again, and it goes on where it stopped"
        )
    sound = True
    with progress("verify", _size(ledger)) as advance:
        for finding in ledger.verify(VENUES.values(), checkpoints=checkpoints, advance=advance):
            sound = sound and finding.what in ("decode", "checkpoint")
            yield finding
    try:
        yield from (
            Finding("memory", f"what the conversations of {account} were to remember was changed")
            for account in changed_memories(ledger)
        )
        if sound:  # what was changed is not folded
            yield from _projected(ledger)
    except StoreError as error:
        yield Finding("file", str(error))
    except Exception as error:  # a stored row, or a sealed event, that no projection made or can read
        yield Finding(
            "projection", f"cannot be compared with a fold from zero: {type(error).__name__}: {error}"
        )


def _projected(ledger: Ledger) -> Iterator[Finding]:
    """What the projections stored and what the views say, beside a fold from zero."""
    with refolded(ledger, None, "projections") as (_, folds):
        for fold in folds:
            for said in misplaced(ledger, fold.stored):
                yield Finding("projection", said)
        for fold in folds:
            if not fold.stored.subscription.is_stored:
                continue  # not stored, or by another version
            other = redefined(ledger, fold)
            for kind, name in other:
                yield Finding("projection", f"the {kind} {name} is not defined as it was made")
            for each in unlike(fold):
                if each.account is not None or ("table", each.table) not in other:  # told already
                    yield Finding("projection", f"{each.place}: {each.said}")


def _opened(note: Path, key: PublicKey) -> Checkpoint:
    try:
        with note.open("rb") as file:
            said = file.read(NOTE_BYTES_MAX + 1)
    except OSError as error:
        raise BadNote(f"cannot be read: {error.strerror}") from None
    return opened(said, key)
