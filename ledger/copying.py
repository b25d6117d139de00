"""A ledger copied into another database: every event at its place, with its seal, its frame and its natural key.

Knows two ledgers and the rows between them; knows no projection and no transport. What is copied is what the source
held when it began. The rows go over as they are stored, whole frames in one transaction: whenever it is killed, the
target is a beginning of the source, and it goes on after it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from ledger.account import Recorded
from ledger.errors import Conflict, Corrupt, StoreError
from ledger.events import Event, Source, keyed_ns
from ledger.ledger import Ledger
from ledger.notes import Checkpoint, Head
from ledger.rows import Rows
from ledger.seal import Sealed, Tree
from ledger.store import READERS, recorded
from ledger.verify import Advance, Chain, Reader, is_one_frame, taken
from ledger.view import FrameRow, Row, View

BATCH_EVENTS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of states and frames. One frame alone may have more."""

_SERVER: Final = "SELECT CAST(pg_postmaster_start_time() AS TEXT), current_database(), current_schema()"
"""What no two places on servers have in common."""


class NoBeginning(StoreError):  # noqa: N818 - named after what it says of the target
    """What the target holds is no beginning of the source, or it is the source itself. Nothing was written to it."""


class Copied(Struct, frozen=True):
    """What was copied: `there` is how many events the target had before, `stands` where the source stood then."""

    there: int
    stands: Checkpoint


def copy(source: Ledger, target: Ledger, advance: Advance = lambda _: None) -> Copied:
    """Copy what the source holds and the target does not, in the order of positions.

    Every seal of the source is computed again. Raises NoBeginning before anything is written; Corrupt, naming account
    and version, where something is wrong with the source: from there on nothing is copied. `advance` is told how many
    more events were compared or copied.
    """
    if is_same(source, target):
        raise NoBeginning(f"{target.name}: a ledger is not copied to where it is")
    chain, tree = Chain(), Tree()
    with source.view() as view, closing(_frames(view, chain, tree)) as frames:
        with target.view() as held:
            there = _go_past(held, frames, source.name, advance)
        _copy(frames, target, there, advance)
    heads = {account: Head(head.version, head.seal) for account, head in chain.heads.items()}
    return Copied(there, Checkpoint(source.name, tree.size, tree.root(), heads))


def check(target: Ledger, copied: Copied, advance: Advance = lambda _: None) -> None:
    """Read the whole target again, hash it, and compare where it stands. Raises Corrupt where it does not stand where
    the source stood, Conflict where somebody else wrote to it meanwhile."""
    stands = copied.stands
    for finding in target.verify(checkpoints=[stands], advance=advance):
        raise Corrupt(f"{target.name}: not equal to {stands.origin}: {finding.sentence()}")
    _alone(target, stands.size)


def is_same(one: Ledger, other: Ledger) -> bool:
    """Whether two ledgers are in one place, however it was named."""
    if one is other:
        return True
    if one.in_file and other.in_file:
        return is_same_file(Path(one.name), Path(other.name))
    return one.in_file == other.in_file and one.select(_SERVER) == other.select(_SERVER)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file that is there."""
    return one.exists() and other.exists() and one.samefile(other)


class _Frame(Struct):
    """The events of one frame as they are stored, and what is stored with them."""

    source: Source
    events: list[Row] = []
    seals: list[bytes] = []
    keys: list[str | int | bytes | None] = []
    payload: bytes | None = None
    """None where no frame is to be stored with them: a record of a session, or a frame that was read late."""
    size: int = 0
    """Bytes of states and frame."""

    def add(self, row: Row, event: Event) -> None:
        """Take the next event."""
        assert row[5] is not None
        self.events.append(row)
        self.seals.append(row[5])
        if event.key:
            self.keys += (row[0], keyed_ns(event), event.key)
        self.size += len(row[3])

    def put(self, rows: Rows) -> None:
        """Put it behind the rows of a commit."""
        for row in self.events:
            rows.events += row[:4]
        rows.seals += self.seals
        rows.keys += self.keys
        if self.payload is not None:
            rows.evidence += (self.source.session, self.source.ordinal, self.payload)


def _frames(view: View, chain: Chain, tree: Tree) -> Generator[_Frame]:
    """All that is in a ledger, frame by frame, every seal computed again. Raises Corrupt where anything is wrong."""
    stored = view.frames()
    kept = next(stored, None)
    frame: _Frame | None = None
    for row in view.events():
        event = chain.follows(row, READERS) or _looked_at(row, chain, view.name)
        if frame is None or not frame.source.evidence or not is_one_frame(event.source, frame.source):
            if frame is not None:
                yield frame
            frame = _Frame(event.source)
            if event.source.evidence and _is_next(kept, row, event.source, view.name):
                assert kept is not None
                frame.payload = kept[3]
                frame.size = len(frame.payload)
                kept = next(stored, None)
        frame.add(row, event)
        tree.append(row[5] or b"")
    if frame is not None:
        yield frame
    for finding in chain.end(view):
        raise Corrupt(f"{view.name}: {finding.sentence()}")
    if kept is not None:
        raise Corrupt(f"{view.name}: frame {kept[2]} of session {kept[1]} is of no event")


def _looked_at(row: Row, chain: Chain, name: str) -> Event:
    """The next event, of which something may be wrong; the first of an account is one."""
    found, wrong = taken(Sealed(*row), _READER, chain)
    for finding in wrong:
        raise Corrupt(f"{name}: not copied from here on: {finding.sentence()}")
    assert found is not None
    return found.event


def _is_next(kept: FrameRow | None, row: Row, source: Source, name: str) -> bool:
    """Whether the next frame that was kept is that of an event; if not, it was stored before, with what could be made
    of it then. Raises Corrupt where it should be, and is another."""
    if kept is not None and (kept[1], kept[2]) == (source.session, source.ordinal):
        payload: Any = kept[3]
        if not isinstance(payload, bytes) or sha256(payload).digest() != source.evidence:
            raise Corrupt(
                f"{name}: not copied from here on: {row[0]} version {row[1]}: its frame was changed"
            )
        return True
    if source.late_ns is None:
        raise Corrupt(
            f"{name}: not copied from here on: {row[0]} version {row[1]}: its frame is gone, or not in order"
        )
    return False


def _go_past(held: View, frames: Iterator[_Frame], source: str, advance: Advance) -> int:
    """Go past what the target holds, and how many events that is. Raises NoBeginning."""
    there = 0
    stored = held.events()
    theirs = next(stored, None)
    while theirs is not None:
        frame = next(frames, None)
        if frame is None:
            raise NoBeginning(f"{held.name}: it goes on after the end of {source}; nothing was written")
        for ours in frame.events:
            if theirs is None:
                raise NoBeginning(f"{held.name}: it ends within a frame of {source}; nothing was written")
            if theirs != ours:
                raise NoBeginning(
                    f"{held.name}: {theirs[0]} version {theirs[1]} (position {theirs[4]}) is not what {source} has "
                    "there: it is no beginning of it; nothing was written"
                )
            theirs = next(stored, None)
        there += len(frame.events)
        advance(len(frame.events))
    return there


def _copy(frames: Iterator[_Frame], target: Ledger, there: int, advance: Advance) -> None:
    rows, size = Rows(), 0
    for frame in frames:
        if rows.seals and (
            len(rows.seals) + len(frame.seals) > BATCH_EVENTS_MAX or size + frame.size > BATCH_BYTES_MAX
        ):
            there = _take(target, rows, there, advance)
            rows, size = Rows(), 0
        frame.put(rows)
        size += frame.size
    if rows.seals:
        _take(target, rows, there, advance)


def _take(target: Ledger, rows: Rows, there: int, advance: Advance) -> int:
    """Store the next rows, and how many events are there then."""
    upto = there + len(rows.seals)
    try:
        target.take(rows)
    except ValueError as error:
        raise StoreError(
            f"{target.name}: of positions {there + 1} to {upto} something cannot be held: {error}"
        ) from error
    _alone(target, upto)
    advance(len(rows.seals))
    return upto


def _alone(target: Ledger, position: int) -> None:
    if target.position() != position:
        raise Conflict(
            f"{target.name}: somebody else wrote to it: what was copied ends at position {position}, and it does not"
        )


def _read(stored: Sealed) -> Recorded:
    return recorded(stored.account, stored.version, stored.topic, stored.state, stored.position)


_READER: Final = Reader(READERS, _read)
