"""Commands that say where a number comes from: why."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.text import Text

from ledger.bundle import VERIFIER, Unprovable, write_bundle
from ledger.cli.options import DONE, FINDINGS, VENUES, checkpoint_of, cli, db_option, reading, replaceable
from ledger.cli.state import _moment
from ledger.console import fields, out, printable, show
from ledger.errors import BadNote
from ledger.ledger import Ledger
from ledger.wire import parse_time, time_text
from projections.why import Reason, Unknown, Why, why

CONTEXT_BYTES: Final = 60
"""How much of a frame people see on each side of the digits."""
PARTS: Final = ("total", "available", "locked", "staked", "pending")


@cli.command(name="why")
@db_option
@click.argument("account")
@click.argument("asset")
@click.option(
    "--at",
    "moment",
    metavar="TIME_OR_VERSION",
    help="As of a time (2026-11-21T12:00:00Z) or an account version.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; amounts are strings.")
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a proof of it that is checked without this program; needs a signed checkpoint.",
)
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The signed checkpoint for --bundle; DB.checkpoint if not given.",
)
def why_command(
    db: str,
    account: str,
    asset: str,
    moment: str | None,
    as_json: bool,
    bundle: Path | None,
    checkpoint: Path | None,
) -> int:
    """Where the balance of ASSET comes from: the statements it was made from, the bytes they were read from, and what
    may be wrong with it. Exit code 1: its completeness is `gap`, or a frame is not what it was."""
    if checkpoint is not None and bundle is None:
        raise click.UsageError("--checkpoint goes with --bundle")
    with reading(db, account) as (ledger, found):
        account = found or account
        at = None if moment is None else _moment(ledger, moment, account)
        try:
            said = why(ledger, VENUES, account, asset, at)
        except Unknown as error:
            raise click.UsageError(str(error)) from None
        if bundle is not None:
            _prove(ledger, said, at, bundle, checkpoint or checkpoint_of(db))
        if as_json:
            sys.stdout.write(msgspec.json.encode(as_object(said, at)).decode() + "\n")
        else:
            _show(said, at)
    damaged = any(each.damage for each in said.events)
    return FINDINGS if damaged or (said.held is not None and said.held.completeness == "gap") else DONE


def as_object(said: Why, at: int | str | None) -> dict[str, Any]:
    """The answer as programs read it: times as ISO-8601, bytes as base64, offsets in bytes."""
    row, held = said.row, said.held
    return {
        "account": said.account,
        "asset": said.asset,
        "asset_id": said.asset_id,
        "at": at,
        "balance": {
            **{name: getattr(row, name) if row.held else None for name in PARTS},
            "held": row.held,
            "version": said.stated_by,
            "time": time_text(row.time_ns),
            "completeness": None if held is None else held.completeness,
            "reason": None if held is None else held.reason,
        },
        "rests_on": said.rests_on,
        "stated_by": said.stated_by,
        "events": [_event(each) for each in said.events],
        "changes_before": said.changes_before,
        "late_before": said.late_before,
        "gaps": [fields(gap) for gap in said.gaps],
        "breaks": [fields(each) for each in said.breaks],
        "findings_before": said.findings_before,
    }


def _event(each: Reason) -> dict[str, Any]:
    found = fields(each)
    frame: bytes | None = found.pop("frame")
    found["spans"] = [fields(span) for span in each.spans]
    found["frame_base64"] = None if frame is None else base64.b64encode(frame).decode()
    return found


def _prove(ledger: Ledger, said: Why, at: int | str | None, bundle: Path, checkpoint: Path) -> None:
    make = f"make one: accountledger checkpoint --db {ledger.name} --key FILE"
    try:
        note = checkpoint.read_bytes()
    except OSError as error:
        raise click.UsageError(
            f"{checkpoint}: {error.strerror}; a proof needs a signed checkpoint: {make}"
        ) from None
    part = replaceable(bundle).with_name(f"{bundle.name}.part")
    try:
        with part.open("wb") as file:
            claim = write_bundle(
                ledger,
                VENUES,
                file,
                note,
                said.account,
                said.asset_id,
                version=at if isinstance(at, int) else None,
                time_ns=parse_time(at) if isinstance(at, str) else None,
            )
        stated = {name: getattr(said.row, name) if said.row.held else None for name in PARTS}
        if (claim.version, claim.parts, claim.held) != (said.stated_by, stated, said.row.held):
            last = ledger.last(said.account)
            if not isinstance(at, int) and last is not None and claim.head < last.version:
                raise click.UsageError(
                    f"{checkpoint} has {said.account} at version {claim.head}; this balance is stated by version "
                    f"{said.stated_by}: {make}"
                )
            raise Unprovable(f"its events alone come to version {claim.version}")
        os.replace(part, bundle)
    except Unprovable as error:
        raise click.UsageError(f"this balance cannot be proved by a bundle: {error}") from None
    except BadNote as error:
        raise click.UsageError(f"{checkpoint}: {error}; {make}") from None
    except OSError as error:
        raise click.UsageError(f"{bundle}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    moment = f"version {claim.as_of}" + ("" if at is None or isinstance(at, int) else f", {at}")
    click.echo(f"proof of {said.account} {said.asset_id} as of {moment}: {bundle}", err=True)
    click.echo(f"to check it: python {VERIFIER} {bundle} PUBLIC_KEY_FILE", err=True)


def _show(said: Why, at: int | str | None) -> None:
    row, held = said.row, said.held
    when = "" if at is None else f" as of {f'version {at}' if isinstance(at, int) else at}"
    out.print(Text(printable(f"{said.account} {said.asset}{when}"), style="bold"), soft_wrap=True)
    if held is None:
        out.print(Text(f"not held since {time_text(row.time_ns)}, by version {said.stated_by}"))
    else:
        parts = [f"{name} {text}" for name in PARTS if (text := getattr(row, name)) is not None]
        out.print(Text(f"{', '.join(parts)}, stated by version {said.stated_by}"), soft_wrap=True)
        style = "bold red" if held.completeness == "gap" else ""
        out.print(Text(printable(f"{held.completeness}: {held.reason}"), style=style), soft_wrap=True)
    if said.changes_before:
        out.print(Text(f"\n{said.changes_before} more changes before these"))
    if said.late_before:
        out.print(Text(f"\n{said.late_before} more late statements before these"))
    for each in said.events:
        out.print()
        _show_event(said, each)
    for what, rows in (("gaps", said.gaps), ("breaks", said.breaks)):
        if rows:
            out.print(Text(f"\n{what} that touch it", style="bold"))
            show(map(fields, rows), as_json=False, what=what)
    if said.findings_before:
        out.print(Text(f"and {said.findings_before} more: accountledger gaps, accountledger breaks"))


def _show_event(said: Why, each: Reason) -> None:
    place = f"session {each.session} ordinal {each.ordinal}"
    if each.sequence is not None:
        place += f" sequence {each.sequence}"
    times = f"time {time_text(each.time_ns)}  received {time_text(each.received_ns)}"
    if each.late_ns is not None:
        times += f"  read late {time_text(each.late_ns)}"
    out.print(
        Text.assemble(
            (f"{each.role}", "bold"), f"  version {each.version}  {each.topic}  {printable(each.channel)}"
        ),
        soft_wrap=True,
    )
    out.print(Text(f"  {times}  {printable(place)}"), soft_wrap=True)
    stated = [f"{name} {text}" for name, text in each.amounts.items()]
    stated += [f"{name} = {' + '.join(parts)}" for name, parts in each.derived.items()]
    if each.cause is not None:
        stated.insert(0, f"cause {printable(each.cause)}")
    out.print(
        Text(f"  {', '.join(stated) or f'does not name {printable(said.asset)}, or removes it'}"),
        soft_wrap=True,
    )
    out.print(Text(f"  frame SHA-256 {each.evidence_sha256}"), soft_wrap=True)
    if each.damage is not None:
        out.print(Text(f"  {each.damage}: see accountledger verify", style="bold red"), soft_wrap=True)
    for line in _excerpts(each):
        out.print(line, soft_wrap=True)


def _excerpts(each: Reason) -> list[Text]:
    """The frame around the digits, those marked; neighbours in one line."""
    frame = each.frame or b""
    spans = sorted({(span.start, span.end) for span in each.spans})
    if not spans:
        text = _shown(frame[: 2 * CONTEXT_BYTES]) + ("…" if len(frame) > 2 * CONTEXT_BYTES else "")
        return [Text(f"    {text}")] if frame else []
    lines: list[list[tuple[int, int]]] = []
    for span in spans:
        if lines and span[0] - lines[-1][-1][1] <= CONTEXT_BYTES:
            lines[-1].append(span)
        else:
            lines.append([span])
    return [_excerpt(frame, line) for line in lines]


def _excerpt(frame: bytes, spans: list[tuple[int, int]]) -> Text:
    begin, end = max(0, spans[0][0] - CONTEXT_BYTES), min(len(frame), spans[-1][1] + CONTEXT_BYTES)
    text = Text("    " + ("…" if begin else ""))
    at = begin
    for start, stop in spans:
        text.append(_shown(frame[at:start]))
        digits = _shown(frame[start:stop])
        text.append(digits if out.is_terminal else f"[[{digits}]]", style="bold reverse")
        at = stop
    return text.append(_shown(frame[at:end]) + ("…" if end < len(frame) else ""))


def _shown(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "replace"))
