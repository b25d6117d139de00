"""Frames in files: a tape (frames with their times), NDJSON (a frame a line) or one JSON document (one frame).

Knows bytes and times; knows no venue. A tape is text, a JSON object a line:

    {"tape": 1, "venue": "kraken_prime", "account": "main", "session": "desk-1", "opened": "2026-11-20T09:00:00Z"}
    {"received": "2026-11-20T09:00:00.120Z", "text": "{…the frame…}"}        or "base64" where it is not UTF-8
    {"closed": "2026-11-20T09:30:00Z", "cause": "end"}                       missing where the recorder was killed
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self, TypeAlias

import msgspec
from msgspec import Meta, Struct

from ledger.errors import BadTape, Malformed
from ledger.ledger import Arrival, Intake, Tally
from ledger.wire import iso_ns, time_text

CHUNK_BYTES: Final = 1024 * 1024
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
DOCUMENT_BYTES_MAX: Final = 64 * 1024 * 1024


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


class _Entry(Struct, forbid_unknown_fields=True):
    received: str | None = None
    text: str | None = None
    base64: str | None = None
    closed: str | None = None
    cause: str | None = None


_format = msgspec.json.Decoder(_Format)
_header = msgspec.json.Decoder(_Header)
_entry = msgspec.json.Decoder(_Entry)

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
        self._first = self._read_line()
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
            if (entry.received, entry.text, entry.base64) != (None, None, None):
                raise Malformed("a frame in the closing line")
            self.closed_ns, self.cause, self._closed = iso_ns(entry.closed), entry.cause or "end", True
            return None
        if entry.received is None or (entry.text is None) == (entry.base64 is None):
            raise Malformed('a frame has "received", and either "text" or "base64"')
        self.closed_ns = iso_ns(entry.received)  # the last that is known of, until the closing line says more
        if entry.text is not None:
            return entry.text.encode(), self.closed_ns
        return base64.b64decode(entry.base64 or "", validate=True), self.closed_ns

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

    def _read_line(self) -> bytes | None:
        line = self._source.readline(LINE_BYTES_MAX)
        self.bytes_read += len(line)
        if not line:
            return None
        self._line = 1
        if not line.endswith(b"\n") and len(line) == LINE_BYTES_MAX:
            raise self._bad(f"a line of more than {LINE_BYTES_MAX} bytes")
        return line.removesuffix(b"\n").removesuffix(b"\r")

    def _bad(self, why: str) -> BadTape:
        return BadTape(f"{self.name}, line {self._line}: {why}")


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
            for payload, _ in batch:
                yield payload


def play(recording: Recording, intake: Intake, progress: Callable[[int], None] | None = None) -> Tally:
    """Take a recording's frames in and close the conversation; each batch is durable before the next is read.
    `progress` is called with the number of bytes read."""
    done = 0
    for batch in recording.batches():
        intake.receive_all(batch)
        if progress is not None:
            progress(recording.bytes_read - done)
        done = recording.bytes_read
    intake.close(recording.cause, recording.closed_ns)
    return intake.tally


class TapeWriter:
    """Writes a tape; each frame is on the disk before `frame` returns. `close` writes the last line."""

    def __init__(self, path: Path, *, venue: str, account: str, session: str, opened_ns: int) -> None:
        self._file = path.open("x", encoding="utf-8")
        self._write(
            {
                "tape": 1,
                "venue": venue,
                "account": account,
                "session": session,
                "opened": time_text(opened_ns),
            }
        )

    def frame(self, payload: bytes, received_ns: int) -> None:
        """One frame as it came."""
        try:
            body = {"text": payload.decode()}
        except UnicodeDecodeError:
            body = {"base64": base64.b64encode(payload).decode()}
        self._write({"received": time_text(received_ns), **body})

    def close(self, closed_ns: int, cause: str = "end") -> None:
        """End the tape."""
        self._write({"closed": time_text(closed_ns), "cause": cause})
        self._file.close()

    def _write(self, entry: dict[str, object]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _looks_like_a_header(line: bytes | None) -> bool:
    return line is not None and line.lstrip().startswith(b'{"tape"')


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
