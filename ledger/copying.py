"""A ledger copied into another database: every event at its place, with its seal, its frame and its natural key.

Knows two ledgers and the rows between them; knows no projection and no transport. What is copied is what the source
held when it began. The rows go over as they are stored, whole frames in one transaction: whenever it is killed, the
target is a beginning of the source, and it goes on after it. Until it was checked the target says that it is not
finished (`Ledger.unfinished`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import chain as chained
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from ledger.account import Recorded
from ledger.errors import Conflict, Corrupt, StoreError
from ledger.events import Event, Source, keyed_ns
from ledger.ledger import Ledger
from ledger.notes import Checkpoint, Head
from ledger.rows import COPY, Change, Rows
from ledger.seal import Sealed, Tree
from ledger.store import READERS, recorded
from ledger.verify import Advance, Chain, Reader, is_one_frame, taken
from ledger.view import FrameRow, Row, View

BATCH_EVENTS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of states and frames. One frame alone may have more."""

_SERVER: Final = (
    "SELECT CAST(extract(epoch FROM pg_postmaster_start_time()) AS TEXT), "
    "current_database(), current_schema()"
)
"""What no two places on servers have in common, in whatever words each connection writes a time."""
_FINISHED: Final[Change] = ("DELETE FROM ledger_copy", [()])
_OTHER: Final = "{}: {} is not what {} has there: it is no beginning of it; nothing was written"
_OTHERS: Final = "{}: somebody else wrote to it: what was copied ends at position {}, and it does not"


class NoBeginning(StoreError):  # noqa: N818 - named after what it says of the target
    """What the target holds is no beginning of the source, or it is the source itself. Nothing was written to it."""


class Copied(Struct, frozen=True):
    """What was copied: `there` is how many events the target had before, `stands` where the source stood then. The
    other fields are sums over the frames that were kept and the natural keys of the events."""

    there: int
    stands: Checkpoint
    frames: bytes
    keys: int


def copy(source: Ledger, target: Ledger, advance: Advance = lambda _: None) -> Copied:
    """Copy what the source holds and the target does not, in the order of positions.

    Every seal of the source is computed again. Raises NoBeginning before anything is written; Corrupt, naming account
    and version, where an event of the source is not what was sealed: from there on nothing is copied. `advance` is told
    how many more events were compared or copied.
    """
    if is_same(source, target):
        raise NoBeginning(f"{target.name}: a ledger is not copied to where it is")
    with source.view() as view, closing(_frames(view, whole := _Whole())) as frames:
        with target.view() as held:
            there, ahead = _go_past(held, frames, source.name, advance)
        first = next(frames, None)
        if first is not None:
            _begin(target, source.name)
            _copy(chained([first], frames), target, there, ahead, advance)
    return Copied(there, whole.stands(source.name), whole.frames.digest(), whole.keys)


def check(target: Ledger, copied: Copied, advance: Advance = lambda _: None) -> None:
    """Read the whole target again, hash it, and compare where it stands: the copy is finished then. Raises Corrupt
    where it is not where the source stood, Conflict where somebody else wrote to it meanwhile."""
    wanted = copied.stands
    with target.view() as view:
        for frame in _frames(view, whole := _Whole()):
            advance(len(frame.events))
        stored = 0
        for key in view.natural_keys():
            stored += _squared(key)
    found = whole.stands(wanted.origin)
    if found.size > wanted.size:
        raise Conflict(_OTHERS.format(target.name, wanted.size))
    for what, same in (
        ("events", found == wanted),
        ("frames", whole.frames.digest() == copied.frames),
        ("natural keys", stored == copied.keys),
    ):
        if not same:
            raise Corrupt(f"{target.name}: its {what} are not those of {wanted.origin}")
    if target.unfinished() is not None:
        target.write([_FINISHED])


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
    keys: list[tuple[str, int, str]] = []
    kept: list[FrameRow] = []
    """The frame itself, and before it those that no event is of; nothing where it is a record of a session, was kept
    when it came and is read late, or is gone."""
    size: int = 0
    """Bytes of states and frames."""

    def add(self, row: Row, event: Event) -> None:
        """Take the next event."""
        self.events.append(row)
        if event.key:
            self.keys.append((row[0], keyed_ns(event), event.key))
        self.size += len(row[3])

    def keep(self, kept: FrameRow) -> None:
        """Take a frame that is stored with them."""
        self.kept.append(kept)
        self.size += len(kept[3])

    def put(self, rows: Rows, ahead: int) -> int:
        """Put it behind the rows of a commit, without the first `ahead` frames; how many are to be left out still."""
        for row in self.events:
            assert row[5] is not None
            rows.events += row[:4]
            rows.seals.append(row[5])
        for key in self.keys:
            rows.keys += key
        for kept in self.kept[ahead:]:
            rows.evidence += kept[1:]
        return max(0, ahead - len(self.kept))


class _Whole:
    """What is added up over a whole ledger."""

    def __init__(self) -> None:
        self.chain: Final = Chain()
        self.tree: Final = Tree()
        self.frames: Final = sha256()
        self.keys = 0

    def add(self, frame: _Frame) -> None:
        """Take the next frame."""
        for row in frame.events:
            self.tree.append(row[5] or b"")
        for _, session, ordinal, payload in frame.kept:
            self.frames.update(repr((session, ordinal, len(payload))).encode("utf-8", "backslashreplace"))
            self.frames.update(payload)
        self.keys += sum(map(_squared, frame.keys))

    def stands(self, origin: str) -> Checkpoint:
        """Where the ledger stands after the frames so far."""
        heads = {account: Head(head.version, head.seal) for account, head in self.chain.heads.items()}
        return Checkpoint(origin, self.tree.size, self.tree.root(), heads)


def _squared(key: tuple[str, int, str]) -> int:
    """A natural key in a sum that tells which keys there are, in whatever order they come (as `ledger.verify` does)."""
    return hash(key) ** 2


def _frames(view: View, whole: _Whole) -> Generator[_Frame]:
    """All that is in a ledger, frame by frame, every seal computed again. Raises Corrupt where one is not right."""
    stored = _Stored(view)
    frame: _Frame | None = None
    for row in view.events():
        event = whole.chain.follows(row, READERS) or _looked_at(row, whole.chain, view.name)
        if frame is None or not frame.source.evidence or not is_one_frame(event.source, frame.source):
            if frame is not None:
                whole.add(frame)
                yield frame
            frame = _Frame(event.source)
            for kept in stored.upto(event.source):
                frame.keep(kept)
        frame.add(row, event)
    for finding in whole.chain.end(view):
        raise Corrupt(f"{view.name}: {finding.sentence()}")
    for kept in stored.rest():
        if frame is None:
            raise Corrupt(f"{view.name}: frame {kept[2]} of session {kept[1]} is of no event")
        frame.keep(kept)
    if frame is not None:
        whole.add(frame)
        yield frame


class _Stored:
    """The frames that were kept, in their order."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stored = view.frames()
        self._next = next(self._stored, None)

    def upto(self, source: Source) -> Iterator[FrameRow]:
        """The frames up to that of an event; none where it was kept before, or is not there at all."""
        after = self._next
        if after is None or not source.evidence:
            return
        if (after[1], after[2]) != (source.session, source.ordinal):
            found = self._view.frame(source.session, source.ordinal)
            if found is None or found.row < after[0]:
                return
            while self._next is not None and self._next[0] < found.row:
                yield self._take(self._next)
        if self._next is not None:
            yield self._take(self._next)

    def rest(self) -> Iterator[FrameRow]:
        """All that are left."""
        while self._next is not None:
            yield self._take(self._next)

    def _take(self, kept: FrameRow) -> FrameRow:
        payload: Any = kept[3]
        if not isinstance(payload, bytes):
            raise Corrupt(f"{self._view.name}: frame {kept[2]} of session {kept[1]}: its row is damaged")
        self._next = next(self._stored, None)
        return kept


def _looked_at(row: Row, chain: Chain, name: str) -> Event:
    """The next event, of which something may be wrong; the first of an account is one."""
    found, wrong = taken(Sealed(*row), _READER, chain)
    for finding in wrong:
        raise Corrupt(f"{name}: {finding.sentence()}")
    assert found is not None
    return found.event


def _go_past(held: View, frames: Iterator[_Frame], source: str, advance: Advance) -> tuple[int, int]:
    """Go past what the target holds: how many events that is, and how many frames more than theirs it holds. Raises
    NoBeginning."""
    there = 0
    stored, kept = held.events(), held.frames()
    theirs = next(stored, None)
    while theirs is not None:
        frame = next(frames, None)
        if frame is None:
            raise NoBeginning(f"{held.name}: it goes on after the end of {source}; nothing was written")
        for ours in frame.events:
            if theirs is None:
                raise NoBeginning(f"{held.name}: it ends within a frame of {source}; nothing was written")
            if theirs != ours:
                place = f"{theirs[0]} version {theirs[1]} (position {theirs[4]})"
                raise NoBeginning(_OTHER.format(held.name, place, source))
            theirs = next(stored, None)
        for each in frame.kept:
            other = next(kept, None)
            if other is None or other[1:] != each[1:]:
                place = f"frame {each[2]} of session {each[1]}"
                raise NoBeginning(_OTHER.format(held.name, place, source))
        there += len(frame.events)
        advance(len(frame.events))
    return there, sum(1 for _ in kept)


def _copy(frames: Iterator[_Frame], target: Ledger, there: int, ahead: int, advance: Advance) -> None:
    rows, size = Rows(), 0
    for frame in frames:
        events = len(rows.seals)
        if events and (events + len(frame.events) > BATCH_EVENTS_MAX or size + frame.size > BATCH_BYTES_MAX):
            there = _take(target, rows, there, advance)
            rows, size = Rows(), 0
        ahead = frame.put(rows, ahead)
        size += frame.size
    if rows.seals:
        _take(target, rows, there, advance)


def _begin(target: Ledger, source: str) -> None:
    """Let the target say that it is not finished."""
    made: list[Change] = [] if target.columns("ledger_copy") else [(COPY, [()])]
    row = (source.encode("utf-8", "backslashreplace").decode(),)
    target.write([*made, _FINISHED, ("INSERT INTO ledger_copy (source) VALUES (?)", [row])])


def _take(target: Ledger, rows: Rows, there: int, advance: Advance) -> int:
    """Store the next rows, and how many events are there then."""
    upto = there + len(rows.seals)
    target.take(rows)
    if target.position() != upto:
        raise Conflict(_OTHERS.format(target.name, upto))
    advance(len(rows.seals))
    return upto


def _read(stored: Sealed) -> Recorded:
    return recorded(stored.account, stored.version, stored.topic, stored.state, stored.position)


_READER: Final = Reader(READERS, _read)
