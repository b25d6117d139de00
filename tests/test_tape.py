"""Tapes, NDJSON and documents: the frames come out as they went in; what is wrong is named by file and line."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger import BadTape, Ledger, Lost
from ledger.events import Asked, SessionClosed, SessionOpened
from ledger.intake import BATCH_BYTES_MAX, BATCH_FRAMES_MAX, Arrival
from ledger.venue import Endpoint
from tests.scripted import VENUE, delta, says
from transports import Recording, TapeWriter, frames_of, open_recording, play, tape
from transports.tape import Replayed, replay

OPENED_NS = 1_763_629_200_000_000_000  # 2025-11-20T09:00:00Z
NOW_NS = 7
MIB = 1024 * 1024
HEADER = '{"tape":1,"venue":"v","account":"main","session":"desk-1","opened":"2025-11-20T09:00:00Z"}'


def opened(path: Path) -> Recording:
    return open_recording(path, lambda: NOW_NS)


def frames(path: Path) -> list[bytes]:
    return list(frames_of(path))


def until_wrong(path: Path) -> tuple[list[bytes], str]:
    """The frames before what is wrong, and what is said of it."""
    came: list[bytes] = []
    with opened(path) as recording:
        try:
            for batch in recording.batches():
                came += [arrival[0] for arrival in batch]
        except BadTape as error:
            return came, str(error)
    pytest.fail("nothing wrong was found")


def frames_from(tmp_path: Path, content: bytes | str) -> list[bytes]:
    path = tmp_path / "a.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return frames(path)


def tape_of(tmp_path: Path, *lines: str, end: str = "\n") -> Path:
    path = tmp_path / "a.tape"
    path.write_text("\n".join([HEADER, *lines]) + end)
    return path


def heard(text: str, second: int = 1) -> str:
    return json.dumps({"received": f"2025-11-20T09:00:0{second}Z", "text": text})


# Tapes


@settings(max_examples=100, deadline=None, derandomize=True)
@given(payloads=st.lists(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), max_size=6))
@example(
    payloads=[b"", b"\n", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf{}", "\u2028\u0085 é 😀".encode(), b'"\\\x00']
)
def test_a_tape_gives_back_the_bytes_and_the_times_that_were_written(payloads: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tape"
        writer = TapeWriter(path, venue="v", account="mäin", session="s é", opened_ns=OPENED_NS + 1)
        arrivals: list[Arrival] = [
            (payload, OPENED_NS + 10**6 * number) for number, payload in enumerate(payloads)
        ]
        for payload, received_ns, *_ in arrivals[:2]:
            writer.frame(payload, received_ns)
        writer.frames(arrivals[2:])
        writer.close(OPENED_NS + 10**9, "lost: reset")
        with opened(path) as recording:
            assert arrivals == [arrival for batch in recording.batches() for arrival in batch]
            found = (recording.venue, recording.account, recording.session, recording.opened_ns)
            assert ("v", "mäin", "s é", OPENED_NS + 1) == found
            assert ("lost: reset", OPENED_NS + 10**9) == (recording.cause, recording.closed_ns)
            assert path.stat().st_size == recording.bytes_read


def test_each_frame_is_in_the_file_when_the_writer_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    for number in range(3):
        writer.frame(b"frame %d" % number, OPENED_NS)
        assert [b"frame %d" % each for each in range(number + 1)] == frames(path)
    writer.close(OPENED_NS)


def test_each_line_is_synced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tape"
    sizes: list[int] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(os, "fsync", noted)
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    writer.frame(b"x", OPENED_NS)
    writer.close(OPENED_NS)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [len(b"".join(lines[: number + 1])) for number in range(3)] == sizes


def test_a_tape_is_never_written_over(tmp_path: Path) -> None:
    path = tape_of(tmp_path, heard("x"))
    with pytest.raises(FileExistsError):
        TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    assert [b"x"] == frames(path)


def test_a_tape_without_a_closing_line_says_so(tmp_path: Path) -> None:
    with opened(tape_of(tmp_path, heard("x"))) as recording:
        assert [[(b"x", OPENED_NS + 10**9)]] == list(recording.batches())
        assert "the tape has no closing line" == recording.cause
        assert OPENED_NS + 10**9 == recording.closed_ns  # the last that is known of


def test_frames_written_together_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tape"
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    writer.frames([(b"%d" % number, OPENED_NS) for number in range(300)])
    writer.frames([])
    assert 1 == len(syncs)
    assert [b"%d" % number for number in range(300)] == frames(path)
    writer.close(OPENED_NS)


def test_a_frame_that_answers_a_request_is_kept_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    asked = Asked("GET /account/balance?subaccountIndex=0", OPENED_NS + 5)
    arrivals: list[Arrival] = [
        (b"pushed", OPENED_NS),
        (b"answer", OPENED_NS + 7, asked),
        (b"\xff", OPENED_NS + 8, asked),
        (b"pushed too", OPENED_NS + 9, None),
    ]
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    writer.frames(arrivals)
    writer.frame(b"again", OPENED_NS, asked)
    writer.close(OPENED_NS)
    line = json.loads(path.read_text().splitlines()[2])
    assert {"request": asked.request, "at": "2025-11-20T09:00:00.000000005Z"} == line["asked"]
    assert 1 == json.loads(path.read_text().splitlines()[0])["tape"]
    with opened(path) as recording:
        found = [arrival for batch in recording.batches() for arrival in batch]
    assert [*arrivals[:3], (b"pushed too", OPENED_NS + 9), (b"again", OPENED_NS, asked)] == found
    assert [b"pushed", b"answer", b"\xff", b"pushed too", b"again"] == frames(path)


@pytest.mark.parametrize("wrong", [0, -1, 946_684_799_999_999_999, 7_258_118_400 * 10**9, 10**30, -(10**30)])
def test_a_time_no_tape_can_hold_is_named_and_nothing_of_the_batch_is_written(
    tmp_path: Path, wrong: int
) -> None:
    path = tmp_path / "a.tape"
    with pytest.raises(BadTape, match=r"a\.tape: a time no tape can hold"):
        TapeWriter(path, venue="v", account="main", session="s", opened_ns=wrong)
    assert not path.exists()
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    batches: list[list[Arrival]] = [
        [(b"x", OPENED_NS), (b"y", wrong)],
        [(b"x", OPENED_NS), (b"y", OPENED_NS, Asked("GET /", wrong))],
    ]
    for batch in batches:
        with pytest.raises(BadTape, match=str(wrong)):
            writer.frames(batch)
    assert [] == frames(path)
    writer.frame(b"z", OPENED_NS)
    with pytest.raises(BadTape):
        writer.close(wrong)
    assert [b"z"] == frames(path)


def test_a_disk_that_is_full_leaves_the_tape_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tape"
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    writer.frame(b"x", OPENED_NS)

    def full(handle: int) -> None:
        raise OSError(28, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="full"):
            writer.frames([(b"y", OPENED_NS), (b"z", OPENED_NS)])
    assert [b"x"] == frames(path)
    writer.frames([(b"y", OPENED_NS), (b"z", OPENED_NS)])
    writer.close(OPENED_NS, "lost: \udcff")
    assert [b"x", b"y", b"z"] == frames(path)


def test_a_frame_whose_text_would_make_too_long_a_line_is_written_as_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "LINE_BYTES_MAX", 1000)
    path = tmp_path / "a.tape"
    writer = TapeWriter(path, venue="v", account="main", session="s", opened_ns=OPENED_NS)
    writer.frame(b"\x01" * 300, OPENED_NS)
    writer.close(OPENED_NS)
    assert [b"\x01" * 300] == frames(path)


@pytest.mark.parametrize("cut", [1, 2, 10, 30, 45])
def test_a_tape_cut_off_in_a_line_ends_there_and_says_so(tmp_path: Path, cut: int) -> None:
    path = tape_of(tmp_path, heard("x"), heard("é"))
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(path) as recording:
        came = [arrival[0] for batch in recording.batches() for arrival in batch]
        assert ([b"x"] if cut > 1 else [b"x", "é".encode()]) == came
        assert ("middle of a line" in recording.cause) == (cut > 1)


def test_a_last_line_that_is_whole_but_wrong_is_not_taken_for_cut_off(tmp_path: Path) -> None:
    path = tape_of(tmp_path, heard("x"), '{"received":"yesterday","text":"y"}', end="")
    came, said = until_wrong(path)
    assert [b"x"] == came
    assert "line 3: not an ISO-8601 UTC time" in said


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"closed":"2025-11-20T09:30:00Z","cause":"lost"}', "lost"),
        ('{"closed":"2025-11-20T09:30:00Z"}', "end"),
    ],
)
def test_the_closing_line_says_why(tmp_path: Path, line: str, cause: str) -> None:
    with opened(tape_of(tmp_path, heard("x"), line)) as recording:
        assert [b"x"] == [arrival[0] for batch in recording.batches() for arrival in batch]
        assert cause == recording.cause


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_tape_may_end_with_or_without_a_newline_and_have_crlf(tmp_path: Path, end: str) -> None:
    assert [b"x", b"y"] == frames(tape_of(tmp_path, heard("x") + "\r", heard("y"), end=end))


def test_a_tape_of_no_frames_is_one(tmp_path: Path) -> None:
    path = tape_of(tmp_path)
    assert [] == frames(path)
    with opened(path) as recording:
        assert "desk-1" == recording.session


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "an empty line"),
        ("not JSON", "malformed"),
        (heard("z")[:-4], "truncated"),
        ("[]", "array"),
        ('{"received":"2025-11-20T09:00:01Z","text":"z","more":1}', "more"),
        ('{"received":"2025-11-20T09:00:01Z"}', "either"),
        ('{"received":"2025-11-20T09:00:01Z","text":"z","base64":"eg=="}', "either"),
        ('{"text":"z"}', "received"),
        ('{"received":"yesterday","text":"z"}', "time"),
        ('{"received":"2025-11-20T09:00:01+01:00","text":"z"}', "time"),
        ('{"received":7,"text":"z"}', "str"),
        ('{"received":"2025-11-20T09:00:01Z","text":7}', "str"),
        ('{"received":"2025-11-20T09:00:01Z","text":"\\ud800"}', "truncated|surrogate"),
        ('{"received":"2025-11-20T09:00:01Z","base64":"eg="}', "padding"),
        ('{"received":"2025-11-20T09:00:01Z","base64":"e g=="}', "base64"),
        ('{"received":"2025-11-20T09:00:01Z","base64":"é"}', "ASCII"),
        ('{"closed":"soon"}', "time"),
        ('{"closed":"2025-11-20T09:30:00Z","received":"2025-11-20T09:00:01Z","text":"z"}', "frame"),
        ('{"closed":"2025-11-20T09:30:00Z","base64":""}', "frame"),
        ('{"closed":"2025-11-20T09:30:00Z","asked":{"request":"x","at":"2025-11-20T09:30:00Z"}}', "frame"),
        ('{"received":"2025-11-20T09:00:01Z","text":"z","asked":"GET /"}', "object"),
        ('{"received":"2025-11-20T09:00:01Z","text":"z","asked":{"request":"x"}}', "at"),
        ('{"received":"2025-11-20T09:00:01Z","text":"z","asked":{"request":"x","at":"now"}}', "time"),
        (HEADER, "tape"),
    ],
)
def test_a_wrong_line_is_named_and_the_frames_before_it_are_delivered(
    tmp_path: Path, line: str, why: str
) -> None:
    path = tape_of(tmp_path, heard("x"), heard("y"), line, heard("never"))
    came, said = until_wrong(path)
    assert [b"x", b"y"] == came
    assert re.match(rf"{path}, line 4: .*({why})", said)


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tape_of(tmp_path, heard("x"))
    path.write_bytes(path.read_bytes() + b'{"received":"2025-11-20T09:00:01Z","text":"\xff"}\n')
    with opened(path) as recording, pytest.raises(BadTape, match=r"a\.tape, line 3: .*utf-8"):
        list(recording.batches())


def test_a_wrong_line_is_named_by_its_number_however_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tape_of(tmp_path, *(heard("x") for _ in range(20)), "wrong")
    for chunk in (1, 7, 100, 10_000):
        monkeypatch.setattr(tape, "CHUNK_BYTES", chunk)
        came, said = until_wrong(path)
        assert [b"x"] * 20 == came
        assert said.startswith(f"{path}, line 22: ")


def test_nothing_comes_after_the_closing_line(tmp_path: Path) -> None:
    closed = '{"closed":"2025-11-20T09:30:00Z"}'
    path = tape_of(tmp_path, heard("x"), closed, heard("y"))
    assert ([b"x"], f"{path}, line 4: a line after the closing line") == until_wrong(path)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (HEADER.replace('"tape":1', '"tape":2'), "tape format 2 is not known; this release reads format 1"),
        ('{"tape":2,"frames":[]}', "tape format 2 is not known"),
        (HEADER.replace('"tape":1', '"tape":"1"'), "int"),
        ('{"tape":1}', "venue"),
        (HEADER.replace('"session":"desk-1",', ""), "session"),
        (HEADER.replace("desk-1", ""), "length"),
        (HEADER.replace('"main"', '""'), "length"),
        (HEADER.replace("2025-11-20T09:00:00Z", "today"), "time"),
        (HEADER[:-1] + ',"more":1}', "more"),
        (HEADER[:-9], "truncated"),
        ('{"tape"', "truncated"),
        ('{"tape":' + "[" * 100_000, "int"),
    ],
)
def test_a_wrong_first_line_is_named_at_once(tmp_path: Path, header: str, why: str) -> None:
    path = tmp_path / "a.tape"
    path.write_text(header + "\n" + heard("x") + "\n")
    with pytest.raises(BadTape, match=rf"a\.tape, line 1: .*{why}"):
        opened(path)


SORTED = json.dumps(json.loads(HEADER), sort_keys=True)


@pytest.mark.parametrize("header", [HEADER, SORTED, "\ufeff" + HEADER, "\ufeff" + SORTED + "\r"])
def test_a_tape_is_one_whatever_a_tool_made_of_its_first_line(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.tape"
    path.write_text(f"{header}\n{heard('x')}\n")
    with opened(path) as recording:
        assert ("v", "main", "desk-1", OPENED_NS) == (
            recording.venue,
            recording.account,
            recording.session,
            recording.opened_ns,
        )
    assert [b"x"] == frames(path)


@pytest.mark.parametrize("order", [False, True], ids=["as written", "sorted"])
@pytest.mark.parametrize("documents_max", [tape.DOCUMENT_BYTES_MAX, 10], ids=["small", "large"])
def test_a_tape_whose_lines_were_broken_up_is_refused_before_anything_is_read_of_it(
    tmp_path: Path, order: bool, documents_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "DOCUMENT_BYTES_MAX", documents_max)
    path = tmp_path / "a.tape"
    entries = [json.loads(line) for line in (HEADER, heard("x"))]
    path.write_text("".join(json.dumps(each, indent=2, sort_keys=order) + "\n" for each in entries))
    why = "line 1: a tape whose lines are broken up: an entry is one line (jq -c)"
    assert ([], f"{path}, {why}") == until_wrong(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_text_in_utf_16_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.tape"
    path.write_text("\ufeff" + HEADER, encoding=encoding)
    with pytest.raises(BadTape, match=r"a\.tape, line 1: text in UTF-16: convert the file to UTF-8"):
        opened(path)


def test_a_byte_order_mark_is_not_of_the_first_frame(tmp_path: Path) -> None:
    assert [b'{"a":1}', b'{"b":2}'] == frames_from(tmp_path, '\ufeff{"a":1}\n{"b":2}\n')
    assert [b'{\n"a":1}'] == frames_from(tmp_path, '\ufeff{\n"a":1}')
    assert [b"1", b"\xef\xbb\xbf2"] == frames_from(tmp_path, "1\n\ufeff2")


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadTape, match=rf"{name}: (No such file|Is a directory)"):
        opened(tmp_path / name)


# Sessions


def test_a_file_is_one_session_whenever_it_is_read_also_when_it_has_grown(tmp_path: Path) -> None:
    with Ledger() as ledger:

        def session(content: bytes, account: str = "main", name: str = "a.json") -> str:
            path = tmp_path / name
            path.write_bytes(content)
            found = ledger.session_of(f"scripted:{account}", lambda: frames_of(path))
            with opened(path) as recording:
                assert (None, None, None) == (recording.session, recording.account, recording.opened_ns)
                play(recording, ledger.intake(VENUE, account, session=found))
            return found

        first = session(b"a\nb\n")
        assert first == session(b"a\nb\n", name="b.json")
        assert first == session(b"a\nb\nc\n")
        assert first == session(b"a\n")
        assert first != session(b"a\nB\n")
        assert first != session(b"a\nb\n", "other")
        assert first != session(b"")
        assert [(3,)] == ledger.select("SELECT count(*) FROM evidence WHERE session=?", (first,))


def test_a_tape_has_its_own_name_for_the_session(tmp_path: Path) -> None:
    with opened(tape_of(tmp_path)) as recording:
        assert "desk-1" == recording.session


def test_a_stream_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"a\nb")
    with Recording("standard input", path.open("rb"), lambda: NOW_NS) as recording:
        assert (None, None) == (recording.session, recording.closed_ns)
        assert [[(b"a", NOW_NS)], [(b"b", NOW_NS)]] == list(recording.batches())


def test_a_pipe_is_a_stream_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = b"".join(b"line %d\n" % number for number in range(20_000))
    writing = threading.Thread(target=path.write_bytes, args=(content,))
    writing.start()
    with opened(path) as recording:
        assert recording.session is None
        came = [arrival[0] for batch in recording.batches() for arrival in batch]
    writing.join()
    assert content.split(b"\n")[:-1] == came


# NDJSON: a frame a line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n\n\r\n{"b":2}\n', [b'{"a":1}', b"", b"", b'{"b":2}']),
        (b'\n{"a":1}\n', [b"", b'{"a":1}']),
        (b"garbage\n{}\n", [b"garbage", b"{}"]),
        (b'{"a":\xff}\n{}\n', [b'{"a":\xff}', b"{}"]),
        (b'{"a":"\xff"}\n{}\n', [b'{"a":"\xff"}', b"{}"]),
        (b"\x00\x01\xfe", [b"\x00\x01\xfe"]),
        (b'[1,2\n{"a":1}\n{"b":2}\n', [b"[1,2", b'{"a":1}', b'{"b":2}']),
        (b'{"broken\n{"a":1}\n\n{"b":2}', [b'{"broken', b'{"a":1}', b"", b'{"b":2}']),
        (b'{"a":1}{"b":2}\n{"c":3}\n', [b'{"a":1}{"b":2}', b'{"c":3}']),
        (b'{"a":"x\x0by\xc2\x85z"}\n', [b'{"a":"x\x0by\xc2\x85z"}']),
    ],
)
def test_a_line_is_a_frame(tmp_path: Path, content: bytes, expected: list[bytes]) -> None:
    assert expected == frames_from(tmp_path, content)


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_lines_are_whole_however_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(tape, "CHUNK_BYTES", chunk)
    lines = [b"{}", b"", b'{"a":1}', b"x" * 50, b"", b"\r", b"end"]
    assert lines == frames_from(tmp_path, b"\r\n".join(lines))
    assert lines == frames_from(tmp_path, b"\n".join([*lines[:5], b"\r\r", b"end"]))


def test_lines_longer_than_what_is_read_at_once_come_whole(tmp_path: Path) -> None:
    lines = [b"{}", b"x" * (20 * MIB), b"y" * (MIB - 3), b"z" * MIB, b"", b"w" * (3 * MIB)]
    started = time.perf_counter()
    assert lines == frames_from(tmp_path, b"\n".join(lines))
    assert time.perf_counter() - started < 3


def test_a_first_line_longer_than_what_is_read_at_once_comes_whole(tmp_path: Path) -> None:
    lines = [b"x" * (20 * MIB), b"{}"]
    assert lines == frames_from(tmp_path, b"\n".join(lines))


def test_a_line_beyond_the_bound_is_named_after_the_frames_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape, "LINE_BYTES_MAX", 100)
    monkeypatch.setattr(tape, "CHUNK_BYTES", 64)
    path = tmp_path / "a.json"
    for first in (b"{}", b'{"broken'):
        lines = [first, b"{}", b"x" * 100]
        path.write_bytes(b"\n".join([*lines, b"y" * 1000]))
        assert (lines, f"{path}, line 4: a line of more than 100 bytes") == until_wrong(path)
    path.write_bytes(b"y" * 1000)
    with pytest.raises(BadTape, match=r"a\.json, line 1: .*more than 100 bytes"):
        opened(path)


def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    line = b'{"a":"' + b"x" * 1015 + b'"}\n'
    with path.open("wb") as file:
        for _ in range(64):
            file.write(line * (MIB // len(line)))
    tracemalloc.start()
    try:
        with opened(path) as recording:
            count = sum(len(batch) for batch in recording.batches())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 64 * 1024 == count
    assert peak < 16 * MIB


# Documents: a file that is one frame, or several


def pretty(*values: object) -> str:
    return "\n".join(json.dumps(value, indent=2) for value in values) + "\n"


def parsed(found: Iterable[bytes]) -> list[object]:
    return [json.loads(frame) for frame in found]


@pytest.mark.parametrize("value", [{"a": [1, {"b": "é"}]}, [{"a": 1}, {"b": 2}], {"a": {}}])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_pretty_printed_document_is_one_frame(tmp_path: Path, value: object, newline: str) -> None:
    assert [value] == parsed(frames_from(tmp_path, pretty(value).replace("\n", newline)))
    assert [value] == parsed(frames_from(tmp_path, pretty(value).strip()))


def test_a_document_whose_first_line_says_more_than_a_brace_is_one_frame(tmp_path: Path) -> None:
    assert [b'{"a": [\n1,\n2]}'] == frames_from(tmp_path, '{"a": [\n1,\n2]}')


def test_documents_one_after_the_other_are_a_frame_each(tmp_path: Path) -> None:
    long = '{\n  "digits": ' + "9" * 5000 + "\n}"
    values = [pretty(value).strip() for value in ({"a": 1}, {"b": [2, "x\n}"]}, [3, {}])]
    documents = [*values, long, pretty({"c": 1e-7}).strip()]
    expected = [document.encode() for document in documents]
    for between in ("", "\n", "\n \t\n"):
        assert expected == frames_from(tmp_path, between.join(documents))
    assert expected == frames_from(tmp_path, "\n".join(documents) + "\n\n")


def test_many_documents_take_no_longer_than_their_bytes(tmp_path: Path) -> None:
    text = pretty({"a": 1}) * 100_000
    started = time.perf_counter()
    assert 100_000 == len(frames_from(tmp_path, text))
    assert time.perf_counter() - started < 3


def test_a_truncated_document_is_one_frame_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    text = pretty({"a": [1, 2], "b": 3})[:-6]
    assert [text.encode()] == [frame for frame in frames_from(tmp_path, text)]
    whole = pretty({"c": 1})
    assert [whole.strip().encode(), text.encode()] == frames_from(tmp_path, whole + text)


def test_a_document_that_is_not_utf_8_is_one_frame(tmp_path: Path) -> None:
    broken = b'{\n"a": "\xff"\n}\nx'
    assert [broken] == frames_from(tmp_path, broken)


def test_a_document_beyond_the_bound_is_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "DOCUMENT_BYTES_MAX", 100)
    monkeypatch.setattr(tape, "CHUNK_BYTES", 64)
    text = pretty(list(range(100)))
    assert text.encode().split(b"\n")[:-1] == frames_from(tmp_path, text)


# Played into a ledger


def test_a_recording_is_played_and_the_conversation_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    writer = TapeWriter(path, venue="scripted", account="main", session="desk-1", opened_ns=OPENED_NS)
    payloads = [says(delta(number + 1, {"A": str(number)})) for number in range(3)]
    for number, payload in enumerate(payloads):
        writer.frame(payload, OPENED_NS + number + 1)
    writer.close(OPENED_NS + 10, "lost: reset")
    with Ledger(tmp_path / "a.db") as ledger:
        for again in (False, True):
            progress: list[int] = []
            with opened(path) as recording:
                intake = ledger.intake(
                    VENUE, "main", session=recording.session, opened_ns=recording.opened_ns
                )
                tally = play(recording, intake, progress.append)
            assert (3, 0, 3) if again else (3, 3, 0) == (tally.frames, tally.recorded, tally.duplicates)
            assert path.stat().st_size == sum(progress)
        first, *between, last = [recorded.event for recorded in ledger.replay()]
        assert isinstance(first, SessionOpened)
        assert OPENED_NS == first.source.received_ns
        assert [OPENED_NS + number for number in (1, 2, 3)] == [each.source.received_ns for each in between]
        assert isinstance(last, SessionClosed)
        assert ("lost: reset", 3, 3) == (last.cause, last.frames, last.recorded)
        assert OPENED_NS + 10 == last.source.received_ns


def test_progress_adds_up_to_the_size_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "CHUNK_BYTES", 10)
    path = tmp_path / "a.json"
    for content in (b"a\nb" * 30, b"x" * 35 + b"\n" + b"y" * 15, pretty([1, 2, 3]).encode()):
        path.write_bytes(content)
        progress: list[int] = []
        with Ledger() as ledger, opened(path) as recording:
            play(recording, ledger.intake(VENUE, "main", session=recording.session), progress.append)
        assert len(content) == sum(progress)


def test_what_came_before_a_wrong_line_is_stored(tmp_path: Path) -> None:
    path = tape_of(tmp_path, heard("x"), heard("y"), "wrong")
    with Ledger(tmp_path / "a.db") as ledger, opened(path) as recording:
        with (
            pytest.raises(BadTape, match="line 4"),
            ledger.intake(VENUE, "main", session=recording.session) as intake,
        ):
            play(recording, intake)
        *_, last = [recorded.event for recorded in ledger.replay()]
        assert isinstance(last, SessionClosed)
        assert ("error: BadTape", 2, 2) == (last.cause, last.frames, last.quarantined)


# Played as a transport


SOMEWHERE = Endpoint("wss://nowhere.example/ws")


async def received(path: Path, speed: float = 0) -> tuple[list[list[Arrival]], str]:
    """The batches a replay gives, and why it ended."""
    came: list[list[Arrival]] = []
    async with replay(path, speed=speed)(SOMEWHERE) as connection:
        await connection.send(b"to nobody")
        await connection.ping()
        try:
            while True:
                came.append(list(await connection.receive()))
        except Lost as lost:
            assert [] == list(connection.leftovers())
            assert 0 == connection.silent_s()
            return came, str(lost)


@pytest.mark.anyio
async def test_a_replay_gives_the_frames_with_their_times_and_ends_as_the_tape_did(tmp_path: Path) -> None:
    asked = '{"received":"2025-11-20T09:00:02Z","text":"y","asked":{"request":"GET /","at":"2025-11-20T09:00:01Z"}}'
    path = tape_of(tmp_path, heard("x"), asked, '{"closed":"2025-11-20T09:30:00Z","cause":"lost: reset"}')
    came, why = await received(path)
    assert [
        [(b"x", OPENED_NS + 10**9), (b"y", OPENED_NS + 2 * 10**9, Asked("GET /", OPENED_NS + 10**9))]
    ] == came
    assert "lost: reset" == why
    async with replay(path)(SOMEWHERE) as connection:
        assert isinstance(connection, Replayed)
        assert ("desk-1", OPENED_NS) == (connection.session, connection.opened_ns)


@pytest.mark.anyio
async def test_a_replay_of_a_broken_tape_gives_the_frames_before_and_names_the_line(tmp_path: Path) -> None:
    path = tape_of(tmp_path, heard("x"), "wrong", heard("never"))
    came, why = await received(path)
    assert [b"x"] == [arrival[0] for batch in came for arrival in batch]
    assert why.startswith(f"{path}, line 3: ")
    path.write_text('{"tape":2}\n')
    with pytest.raises(Lost, match="line 1: tape format 2"):
        await received(path)


@pytest.mark.anyio
async def test_a_replay_of_lines_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"x\ny\n")
    came, why = await received(path, speed=1)
    assert [b"x", b"y"] == [arrival[0] for batch in came for arrival in batch]
    assert "end" == why


@pytest.mark.anyio
async def test_the_batches_of_a_replay_are_bounded_and_no_frame_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\n".join([b"%d" % number for number in range(1000)] + [b"x" * 3 * MIB] * 3))
    monkeypatch.setattr(tape, "CHUNK_BYTES", 16 * MIB)
    came, _ = await received(path)
    assert 1003 == sum(map(len, came))
    assert max(map(len, came)) == BATCH_FRAMES_MAX
    assert max(sum(len(arrival[0]) for arrival in batch) for batch in came) <= BATCH_BYTES_MAX


@pytest.mark.anyio
async def test_a_replay_keeps_the_recorded_pace_and_loses_nothing_to_a_cancel(tmp_path: Path) -> None:
    path = tape_of(tmp_path, heard("x", 1), heard("y", 1), heard("z", 3))
    began = anyio.current_time()
    came: list[list[Arrival]] = []
    async with replay(path, speed=20)(SOMEWHERE) as connection:
        with pytest.raises(Lost):  # noqa: PT012 - how often it is cancelled depends on the machine
            while True:
                with anyio.move_on_after(0.01):
                    came.append(list(await connection.receive()))
    assert [[b"x", b"y"], [b"z"]] == [[arrival[0] for arrival in batch] for batch in came]
    assert 0.15 <= anyio.current_time() - began < 5


@pytest.mark.parametrize("speed", [-1, float("nan"), float("inf")])
def test_a_speed_is_no_less_than_nothing(tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        replay(tmp_path / "a.tape", speed=speed)


def test_a_conversation_of_which_nothing_came_ends_where_it_began(tmp_path: Path) -> None:
    """Its recorder was killed at once: nobody listened from then until today."""
    tape = tmp_path / "a.tape"
    header = {
        "tape": 1,
        "venue": "bitopro",
        "account": "main",
        "session": "s1",
        "opened": "2026-01-10T12:00:00Z",
    }
    tape.write_text(json.dumps(header) + "\n")
    with Ledger() as ledger:
        with open_recording(tape) as recording:
            opened_ns = recording.opened_ns
            intake = ledger.intake(VENUE, "main", session="s1", opened_ns=opened_ns)
            play(recording, intake)
        opened, closed = (each.event.source.received_ns for each in ledger.replay())
        assert (opened_ns, opened_ns) == (opened, closed)
