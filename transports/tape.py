"""Frames in files: a tape (frames with their times), NDJSON (a frame a line) or one JSON document (one frame).

Knows bytes and times; knows no venue. A tape is text, a JSON object a line:

    {"tape": 1, "venue": "kraken_prime", "account": "main", "session": "desk-1", "opened": "2026-11-20T09:00:00Z"}
    {"received": "2026-11-20T09:00:00.120Z", "text": "{…the frame…}"}        or "base64" where it is not UTF-8
    {"closed": "2026-11-20T09:30:00Z", "cause": "end"}                       missing where the recorder was killed

The keys of a line may be in any order. A frame that answers a request has it in its line: "asked": {"request": "GET
/accounts/balance", "at": "2026-…Z"}.
`replay` is a transport over such a file: the same frames, at the recorded pace if that is wanted.
"""

from __future__ import annotations

import base64
import codecs
import io
import json
import os
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self, TypeAlias

import anyio
import anyio.lowlevel
import msgspec
from msgspec import Meta, Struct

from ledger.appender import Tally
from ledger.errors import BadTape, Lost, Malformed
from ledger.events import Asked
from ledger.intake import BATCH_BYTES_MAX, BATCH_FRAMES_MAX, Arrival, Intake
from ledger.venue import Endpoint
from ledger.wire import iso_ns, time_text
from transports.connection import Connect

CHUNK_BYTES: Final = 1024 * 1024
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
DOCUMENT_BYTES_MAX: Final = 64 * 1024 * 1024


HEADER_LINES: Final = 7
"""Of a header that was printed for people, a key a line."""
_BLANKS: Final = re.compile(r"[ \t\r\n]*")
_Name: TypeAlias = Annotated[str, Meta(min_length=1)]


class _Format(Struct):
    tape: int


class _Header(Struct, forbid_unknown_fields=True):
    tape: int
    venue: _Name
    account: _Name
    session: _Name
    opened: str


class _Asked(Struct, forbid_unknown_fields=True):
    request: _Name
    at: str


class _Entry(Struct, forbid_unknown_fields=True):
    received: str | None = None
    text: str | None = None
    base64: str | None = None
    asked: _Asked | None = None
    closed: str | None = None
    cause: str | None = None


_format = msgspec.json.Decoder(_Format)
_header = msgspec.json.Decoder(_Header)
_entry = msgspec.json.Decoder(_Entry)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_WRONG: Final = (Malformed, ValueError, RecursionError)
"""What a wrong line raises: of msgspec, of UTF-8 and of base64 all are ValueErrors."""


class Recording:
    """A file of frames, opened: who it is of where the file says so, and its frames in batches.

    `session` is the tape's own name of the conversation; other files have none. `opened_ns`, `closed_ns` and `cause`
    say when it began and ended, and why, where the file says so; the last two once the batches are read.
    """

    def __init__(self, name: str, source: io.BufferedReader, now_ns: Callable[[], int]) -> None:
        self.name: Final = name
        self.venue: str | None = None
        self.account: str | None = None
        self.session: str | None = None
        self.opened_ns: int | None = None
        self.closed_ns: int | None = None
        self.cause = "end"
        self.bytes_read = 0
        self._now_ns = now_ns
        self._source = source
        self._line = 0
        self._closed = False
        self._cut_short = False
        self._first = self._read_first()
        self._is_tape = _looks_like_a_header(self._first)
        if self._is_tape:
            self._open_tape()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def batches(self) -> Iterator[list[Arrival]]:
        """The frames in order, in batches of what one read gave. Raises BadTape, after the frames before it."""
        if self._is_tape:
            yield from self._tape_batches()
        elif self._first is not None and self._opens_a_document(self._first):
            yield from self._document_batches()
        elif self._first is not None:
            yield [(self._first, self._now_ns())]
            for lines in self._lines():
                now_ns = self._now_ns()
                yield [(line, now_ns) for line in lines]

    def _open_tape(self) -> None:
        assert self._first is not None
        try:
            number = _format.decode(self._first).tape
            if number != 1:
                raise Malformed(f"tape format {number} is not known; this release reads format 1")
            header = _header.decode(self._first)
            self.opened_ns = iso_ns(header.opened)
        except _WRONG as error:
            raise self._bad(str(error)) from None
        self.venue, self.account, self.session = header.venue, header.account, header.session
        self.cause = "the tape has no closing line"

    def _tape_batches(self) -> Iterator[list[Arrival]]:
        for lines in self._lines():
            batch: list[Arrival] = []
            for number, line in enumerate(lines, self._line - len(lines) + 1):
                try:
                    arrival = self._tape_line(line)
                except _WRONG as error:
                    yield batch
                    if self._cut_short and number == self._line and line[:1] == b"{" and not _is_json(line):
                        self.cause = "the tape ends in the middle of a line: its recorder was stopped there"
                        return
                    self._line = number
                    raise self._bad(str(error) if line else "an empty line") from None
                if arrival is not None:
                    batch.append(arrival)
            yield batch

    def _tape_line(self, line: bytes) -> Arrival | None:
        if self._closed:
            raise Malformed("a line after the closing line")
        entry = _entry.decode(line)
        if entry.closed is not None:
            if (entry.received, entry.text, entry.base64, entry.asked) != (None, None, None, None):
                raise Malformed("a frame in the closing line")
            self.closed_ns, self.cause, self._closed = iso_ns(entry.closed), entry.cause or "end", True
            return None
        if entry.received is None or (entry.text is None) == (entry.base64 is None):
            raise Malformed('a frame has "received", and either "text" or "base64"')
        text, coded = entry.text, entry.base64 or ""
        payload = base64.b64decode(coded, validate=True) if text is None else text.encode()
        asked = None if entry.asked is None else Asked(entry.asked.request, iso_ns(entry.asked.at))
        self.closed_ns = iso_ns(entry.received)  # the last that is known of, until the closing line says more
        return (payload, self.closed_ns) if asked is None else (payload, self.closed_ns, asked)

    def _opens_a_document(self, first: bytes) -> bool:
        """A first line that is no JSON by itself but opens an object or a list: the file may be one document."""
        return first.lstrip()[:1] in (b"{", b"[") and not _is_json(first)

    def _document_batches(self) -> Iterator[list[Arrival]]:
        assert self._first is not None
        lines = [self._first]
        size = 0
        rest = self._lines()
        bad: BadTape | None = None
        try:
            for more in rest:
                lines += more
                size += sum(map(len, more))
                if size > DOCUMENT_BYTES_MAX:
                    break
        except BadTape as error:  # told after the frames before it
            bad = error
        if _looks_like_a_header(b"".join(lines[:HEADER_LINES])):
            raise self._bad("a tape whose lines are broken up: an entry is one line (jq -c)", line=1)
        whole = b"\n".join(lines)
        frames = lines  # no document after all: a frame a line, of which the first is broken
        if size <= DOCUMENT_BYTES_MAX and _is_json(whole):
            frames = [whole]
        elif size <= DOCUMENT_BYTES_MAX and self._first.strip() in (b"{", b"["):
            frames = _documents(whole)
        now_ns = self._now_ns()
        yield [(frame, now_ns) for frame in frames]
        if bad is not None:
            raise bad
        for more in rest:
            now_ns = self._now_ns()
            yield [(line, now_ns) for line in more]

    def _lines(self) -> Iterator[list[bytes]]:
        parts: list[bytes] = []  # of a line whose end was not read yet
        size = 0
        while chunk := self._source.read1(CHUNK_BYTES):
            self.bytes_read += len(chunk)
            *lines, rest = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join([*parts, lines[0]])
                parts, size = [], 0
                self._line += len(lines)
                yield [line.removesuffix(b"\r") for line in lines]
            parts.append(rest)
            size += len(rest)
            if size > LINE_BYTES_MAX:
                self._line += 1
                raise self._bad(f"a line of more than {LINE_BYTES_MAX} bytes")
        if size:
            self._line += 1
            self._cut_short = True
            yield [b"".join(parts)]

    def _read_first(self) -> bytes | None:
        line = self._source.readline(LINE_BYTES_MAX)
        self.bytes_read += len(line)
        if not line:
            return None
        self._line = 1
        if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise self._bad("text in UTF-16: convert the file to UTF-8")
        line = line.removeprefix(codecs.BOM_UTF8)  # an editor's, not the venue's
        if not line.endswith(b"\n") and len(line) == LINE_BYTES_MAX:
            raise self._bad(f"a line of more than {LINE_BYTES_MAX} bytes")
        return line.removesuffix(b"\n").removesuffix(b"\r")

    def _bad(self, why: str, line: int | None = None) -> BadTape:
        return BadTape(f"{self.name}, line {line or self._line}: {why}")


def open_recording(path: Path, now_ns: Callable[[], int] = time.time_ns) -> Recording:
    """Open a file of frames. Raises BadTape where there is none, or where a tape's first line is wrong."""
    try:
        source = path.open("rb")
    except OSError as error:
        raise BadTape(f"{path}: {error.strerror}") from None
    try:
        return Recording(str(path), source, now_ns)
    except BaseException:
        source.close()
        raise


def frames_of(path: Path) -> Iterator[bytes]:
    """The frames of a file, as they are read."""
    with open_recording(path) as recording:
        for batch in recording.batches():
            for arrival in batch:
                yield arrival[0]


def play(recording: Recording, intake: Intake, progress: Callable[[int], None] | None = None) -> Tally:
    """Take a recording's frames in and close the conversation; each batch is durable before the next is read.
    `progress` is called with the number of bytes read."""
    done = 0
    for batch in recording.batches():
        intake.receive_all(batch)
        if progress is not None:
            progress(recording.bytes_read - done)
        done = recording.bytes_read
    # A conversation of which nothing is known after its opening: nobody was heard any longer than that.
    intake.close(recording.cause, recording.opened_ns if recording.closed_ns is None else recording.closed_ns)
    return intake.tally


class TapeWriter:
    """Writes a tape; each frame is on the disk before `frame` or `frames` returns. `close` writes the last line.

    Whatever cannot be written (BadTape: a time that no tape can hold; OSError: a disk that is full) leaves the tape as
    it was: nothing of the batch is in it.
    """

    def __init__(self, path: Path, *, venue: str, account: str, session: str, opened_ns: int) -> None:
        self._name: Final = str(path)
        header = self._line(
            {
                "tape": 1,
                "venue": venue,
                "account": account,
                "session": session,
                "opened": self._time(opened_ns),
            }
        )
        self._file = path.open("xb", buffering=0)
        self._size = 0
        try:
            self._write(header)
        except OSError:  # a file without a header would stand in the way of the next try
            self._file.close()
            path.unlink(missing_ok=True)
            raise

    def frame(self, payload: bytes, received_ns: int, asked: Asked | None = None) -> None:
        """One frame as it came."""
        self.frames([(payload, received_ns, asked)])

    def frames(self, arrivals: Iterable[Arrival]) -> None:
        """Frames as they came; all of them are on the disk by one sync."""
        self._write(b"".join([self._frame_line(arrival) for arrival in arrivals]))

    def abandon(self) -> None:
        """Leave the tape as it is, without a last line. Idempotent."""
        self._file.close()

    def close(self, closed_ns: int, cause: str = "end") -> None:
        """End the tape."""
        try:
            self._write(self._line({"closed": self._time(closed_ns), "cause": cause}))
        finally:
            self._file.close()

    def _frame_line(self, arrival: Arrival) -> bytes:
        payload, received_ns, *answering = arrival
        entry: dict[str, object] = {"received": self._time(received_ns)}
        for asked in filter(None, answering):
            entry["asked"] = {"request": asked.request, "at": self._time(asked.at_ns)}
        try:
            line = self._line({**entry, "text": payload.decode()})
            if len(line) <= LINE_BYTES_MAX:
                return line
        except UnicodeDecodeError:
            pass
        return self._line({**entry, "base64": base64.b64encode(payload).decode()})

    def _line(self, entry: dict[str, object]) -> bytes:
        return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    def _time(self, ns: int) -> str:
        try:
            text = time_text(ns)
            iso_ns(text)  # what cannot be read again is not written
        except (Malformed, ValueError, OverflowError, OSError):
            raise BadTape(f"{self._name}: a time no tape can hold (2000 to 2199): {ns} ns") from None
        return text

    def _write(self, lines: bytes) -> None:
        if not lines:
            return
        try:
            self._file.truncate(self._size)  # what a failure before could not take back
            self._file.seek(self._size)
            rest = memoryview(lines)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(lines)


def replay(path: str | os.PathLike[str], *, speed: float = 0) -> Connect:
    """A transport that plays a recording, whatever address it is given: its frames in order, with their recorded times.

    `speed` 0 plays at once, 1 at the recorded pace, 10 ten times as fast. When the frames are over the connection is
    Lost, with the tape's own cause; a broken tape says where, after the frames before. What is sent is nobody's to
    answer. The file is read a piece of CHUNK_BYTES at a time, on the event loop itself: tapes are local files.
    """
    if not 0 <= speed < float("inf"):
        raise ValueError(f"a speed is 0 or more, not {speed}")

    @asynccontextmanager
    async def connect(endpoint: Endpoint) -> AsyncGenerator[Replayed]:
        try:
            recording = open_recording(Path(path))
        except BadTape as error:
            raise Lost(str(error), final=True) from None
        with recording:
            yield Replayed(recording, speed)

    return connect


class Replayed:
    """A recording as a connection (`transports.connection.Connection`); `session` and `opened_ns` are the tape's."""

    def __init__(self, recording: Recording, speed: float) -> None:
        self.session: Final = recording.session
        self.opened_ns: Final = recording.opened_ns
        self._recording = recording
        self._batches = recording.batches()
        self._frames: deque[Arrival] = deque()
        self._over: Lost | None = None
        self._speed = speed
        self._began_s = anyio.current_time()
        self._began_ns = recording.opened_ns

    async def receive(self) -> Sequence[Arrival]:
        """What has come by now, at least one frame. Raises Lost where the recording ends."""
        await anyio.lowlevel.checkpoint()
        while not self._frames and self._over is None:
            self._read()
        if not self._frames:
            assert self._over is not None
            raise self._over
        await anyio.sleep_until(self._due_s(self._frames[0]))
        return self._take()

    def leftovers(self) -> Sequence[Arrival]:
        """Nothing: what was not received has not come."""
        return ()

    async def send(self, payload: bytes) -> None:
        """Nobody hears it."""

    async def ping(self) -> None:
        """Nobody answers it."""

    def silent_s(self) -> float:
        """Never silent: a pause is on the tape."""
        return 0

    def _read(self) -> None:
        try:
            self._frames.extend(next(self._batches))
        except StopIteration:
            self._over = Lost(self._recording.cause, final=True)
        except BadTape as error:
            self._over = Lost(str(error), final=True)
        if self._began_ns is None and self._frames:
            self._began_ns = self._frames[0][1]

    def _due_s(self, arrival: Arrival) -> float:
        if not self._speed or self._began_ns is None:
            return self._began_s
        return self._began_s + (arrival[1] - self._began_ns) / 1e9 / self._speed

    def _take(self) -> list[Arrival]:
        now_s = anyio.current_time()
        batch = [self._frames.popleft()]
        size = len(batch[0][0])
        while self._frames and len(batch) < BATCH_FRAMES_MAX and self._due_s(self._frames[0]) <= now_s:
            size += len(self._frames[0][0])
            if size > BATCH_BYTES_MAX:
                break
            batch.append(self._frames.popleft())
        return batch


def _looks_like_a_header(line: bytes | None) -> bool:
    """A line that begins as we write it, or an object with such keys in whatever order."""
    if line is None or line.lstrip().startswith(b'{"tape"'):
        return line is not None
    try:
        return {"tape", "venue"} <= _object(line).keys()
    except _WRONG:
        return False


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _documents(text: bytes) -> list[bytes]:
    """JSON documents written one after the other; what follows the last good one is kept whole as one more."""
    found: list[bytes] = []
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)  # asked only where a document ends
    try:
        rest = text.decode()
    except UnicodeDecodeError:
        return [text]
    at = _after_blanks(rest, 0)
    while at < len(rest):
        try:
            _, end = decoder.raw_decode(rest, at)
        except (ValueError, RecursionError):
            end = len(rest)
        found.append(rest[at:end].encode())
        at = _after_blanks(rest, end)
    return found


def _after_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks is not None else at
