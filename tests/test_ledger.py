"""The façade: every frame is durable and counted once, whatever the decoder, disk, another writer or the caller does.

Most tests run on a ledger in memory and on one in a SQLite file: both must behave alike.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sqlite3
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import (
    Closed,
    Conflict,
    Corrupt,
    Frame,
    Intake,
    Ledger,
    LedgerBusy,
    Malformed,
    NoSuchLedger,
    ReadOnly,
    Recorded,
    StoreError,
    Tally,
)
from ledger.decoding import REASON_CHARS_MAX
from ledger.events import (
    Balance,
    BalanceDelta,
    Event,
    FillRecorded,
    FrameQuarantined,
    SessionClosed,
    SessionOpened,
    Source,
    Statement,
    Valuation,
)
from ledger.ledger import (
    ACCOUNTS_CACHED_MAX,
    BATCH_BYTES_MAX,
    BATCH_FRAMES_MAX,
    Arrival,
)
from ledger.store import PAGE_EVENTS_MAX
from projections import Balances, Quarantine, Views

T = 1_790_000_000_000_000_000
MAIN = "plain:main"


class Plain:
    """A venue that speaks plainly. A frame is words: `fill:1`, `state:1`, `state` (no key), `@other fill:1` (of another
    account from here on), `ping` (nothing), `bad` (malformed), `boom` (a defect of the decoder)."""

    NAME = "plain"

    def __init__(self) -> None:
        self.seen: list[Frame] = []

    def decode(self, frame: Frame) -> Sequence[Statement]:
        self.seen.append(frame)
        account, said = frame.account, list[Statement]()
        source = frame.source(self.NAME, "words")
        for word in frame.payload.decode().split():
            name, _, key = word.partition(":")
            if name.startswith("@"):
                account = f"plain:{name[1:]}"
            elif name == "fill":
                said.append((account, FillRecorded(source, word, key, "o", "S", "buy", "1", "2")))
            elif name == "state":
                said.append((account, BalanceDelta(source, word if key else "", (Balance("a", "A", "1"),))))
            elif name == "bad":
                raise Malformed("it says bad")
            elif name == "boom":
                raise ZeroDivisionError("it says boom")
        return said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Ledger]:
    with Ledger(None if request.param == "memory" else tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def venue() -> Plain:
    return Plain()


def arrivals(*texts: str) -> list[Arrival]:
    return [(text.encode(), T + at) for at, text in enumerate(texts)]


def feed(
    ledger: Ledger, session: str, *texts: str, venue: Plain | None = None, account: str = "main"
) -> Tally:
    """One conversation of these frames, all in one batch."""
    with ledger.intake(
        venue or Plain(), account, session=session, opened_ns=T, now_ns=lambda: T + 99
    ) as intake:
        intake.receive_all(arrivals(*texts))
    return intake.tally


def topics(ledger: Ledger, account: str | None = None) -> list[str]:
    return [type(each.event).__name__ for each in ledger.replay(account)]


def keys(ledger: Ledger, account: str = MAIN) -> list[str]:
    return [each.event.key for each in ledger.replay(account) if "session:" not in each.event.key]


def assert_whole(ledger: Ledger) -> None:
    """Versions without holes, positions rising, every event's evidence there and equal to its digest."""
    versions: dict[str, int] = {}
    position = 0
    for each in ledger.replay():
        assert versions.get(each.account, 0) + 1 == each.version
        assert position < each.position
        versions[each.account], position = each.version, each.position
        payload = ledger.evidence(each)
        assert each.event.source.evidence == (b"" if payload is None else sha256(payload).digest())
    assert position == ledger.position()


# A conversation ----------------------------------------------------------------------------------------------------


def test_frames_are_numbered_from_one_and_carry_when_and_where_they_came(
    ledger: Ledger, venue: Plain
) -> None:
    with ledger.intake(venue, "main", session="s", now_ns=lambda: T) as intake:
        intake.receive(b"state:1", T + 5)
        intake.receive(b"ping")
        intake.receive_all([(b"bad", T + 6), (b"state:2", T + 7)])
    assert [
        Frame(MAIN, "s", 1, T + 5, b"state:1", "s"),
        Frame(MAIN, "s", 2, T, b"ping", "s"),
        Frame(MAIN, "s", 3, T + 6, b"bad", "s"),
        Frame(MAIN, "s", 4, T + 7, b"state:2", "s"),
    ] == venue.seen
    assert [1, 3, 4] == [each.event.source.ordinal for each in ledger.replay() if each.event.source.evidence]


def test_a_conversation_is_recorded_from_its_opening_to_its_closing(ledger: Ledger, venue: Plain) -> None:
    with ledger.intake(venue, "main", session="s", opened_ns=T, now_ns=lambda: T + 9) as intake:
        assert (MAIN, "s") == (intake.account, intake.session)
        intake.receive(b"state:1")
    first, *_, last = (each.event for each in ledger.replay(MAIN))
    assert isinstance(first, SessionOpened)
    assert isinstance(last, SessionClosed)
    assert (T, 0, b"", "session") == (
        first.source.received_ns,
        first.source.ordinal,
        first.source.evidence,
        first.source.channel,
    )
    assert (T + 9, 1, "end") == (last.source.received_ns, last.source.ordinal, last.cause)


def test_the_counts_of_a_closing_add_up(ledger: Ledger) -> None:
    feed(
        ledger,
        "s",
        "fill:1",
        "fill:1",
        "ping",
        "bad",
        "boom",
        "state:2 fill:1",
        "@other state",
        "fill:1 state:2",
    )
    [closed] = [each.event for each in ledger.replay() if isinstance(each.event, SessionClosed)]
    assert (8, 3, 2, 1, 2) == (
        closed.frames,
        closed.recorded,
        closed.duplicates,
        closed.control,
        closed.quarantined,
    )
    assert_whole(ledger)


words = st.sampled_from(["fill:1", "fill:2", "state:1", "state", "@b", "ping", "bad", "boom"])
frames = st.lists(st.lists(words, max_size=3).map(" ".join), max_size=8)


@given(st.lists(frames, max_size=4))
@settings(deadline=None, max_examples=60)
def test_the_counts_add_up_whatever_was_said_and_every_frame_is_counted_once(
    sessions: list[list[str]],
) -> None:
    with Ledger() as ledger:
        for number, texts in enumerate(sessions):
            feed(ledger, f"s-{number}", *texts)
        closings = [each.event for each in ledger.replay() if isinstance(each.event, SessionClosed)]
        assert list(map(len, sessions)) == [each.frames for each in closings]
        for each in closings:
            assert each.frames == each.recorded + each.duplicates + each.control + each.quarantined
        assert_whole(ledger)


def test_what_receive_answers_is_the_count_of_that_call_alone(ledger: Ledger, venue: Plain) -> None:
    with ledger.intake(venue, "main") as intake:
        assert Tally(1, 1, 0, 0, 0) == intake.receive(b"fill:1")
        assert Tally(2, 0, 1, 1, 0) == intake.receive_all(arrivals("fill:1", "ping"))
        assert Tally() == intake.receive_all([])
        assert Tally(3, 1, 1, 1, 0) == intake.tally


def test_a_session_without_a_name_gets_one_of_its_own(ledger: Ledger, venue: Plain) -> None:
    one, other = ledger.intake(venue, "main"), ledger.intake(venue, "main")
    assert one.session != other.session
    one.close()
    other.close()
    assert 4 == len(topics(ledger))


def test_the_account_comes_from_what_was_said_not_from_who_carried_it(ledger: Ledger) -> None:
    feed(ledger, "s", "@a fill:1 @b fill:1 @a fill:1 state:7")
    assert ["fill:1", "state:7"] == keys(ledger, "plain:a")
    assert ["fill:1"] == keys(ledger, "plain:b")
    assert ["SessionOpened", "SessionClosed"] == topics(ledger, MAIN)
    assert [b"@a fill:1 @b fill:1 @a fill:1 state:7"] == [
        row[0] for row in ledger.select("SELECT payload FROM evidence")
    ]


def test_closing_twice_records_one_closing_and_nothing_is_received_after(
    ledger: Ledger, venue: Plain
) -> None:
    intake = ledger.intake(venue, "main")
    intake.close("first")
    intake.close("second")
    with intake:
        pass
    with pytest.raises(Closed, match="plain:main: this intake is closed"):
        intake.receive(b"fill:1")
    with pytest.raises(Closed, match="plain:main: this intake is closed"):
        intake.receive_all([])
    assert ["SessionOpened", "SessionClosed"] == topics(ledger)
    assert ["first"] == [
        each.event.cause for each in ledger.replay() if isinstance(each.event, SessionClosed)
    ]


def test_a_conversation_that_ends_in_an_error_says_so_and_the_error_is_the_callers_own(
    ledger: Ledger, venue: Plain
) -> None:
    def converse() -> None:
        with ledger.intake(venue, "main") as intake:
            intake.receive(b"fill:1")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        converse()
    [closed] = [each.event for each in ledger.replay() if isinstance(each.event, SessionClosed)]
    assert ("error: KeyError", 1) == (closed.cause, closed.frames)


def test_the_first_error_is_the_one_told_where_the_closing_fails_too(ledger: Ledger, venue: Plain) -> None:
    intake = ledger.intake(venue, "main")

    def converse() -> None:
        with intake:
            ledger.close()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        converse()
    with pytest.raises(Closed):
        intake.receive(b"fill:1")


# What cannot be read -----------------------------------------------------------------------------------------------


def test_a_malformed_frame_is_kept_whole_with_the_reason_and_the_next_is_taken(ledger: Ledger) -> None:
    assert Tally(3, 2, 0, 0, 1) == feed(ledger, "s", "fill:1", "bad  \t", "fill:2")
    [kept] = [each for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
    assert isinstance(kept.event, FrameQuarantined)
    assert ("it says bad", "", 2) == (kept.event.reason, kept.event.key, kept.event.source.ordinal)
    assert b"bad  \t" == ledger.evidence(kept)


class Half:
    """Text that is half a character."""

    NAME = "half"

    def decode(self, frame: Frame) -> Sequence[Statement]:
        raise ValueError("\ud800 and so on")


class Lazy:
    """A venue that fails only when its statements are asked for."""

    NAME = "lazy"

    def decode(self, frame: Frame) -> Any:
        yield frame.account, BalanceDelta(frame.source("lazy", ""), "", ())
        raise LookupError("too late")


class Raises:
    """A venue whose decoder raises whatever it is given."""

    NAME = "raises"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def decode(self, frame: Frame) -> Sequence[Statement]:
        raise self._error


@pytest.mark.parametrize(
    ("venue", "reason"),
    [
        (Raises(ZeroDivisionError("by zero")), "raises decoder failed: ZeroDivisionError: by zero"),
        (Raises(RecursionError()), "raises decoder failed: RecursionError: "),
        (Raises(MemoryError("8 GiB")), "raises decoder failed: MemoryError: 8 GiB"),
        (Raises(AssertionError()), "raises decoder failed: AssertionError: "),
        (Raises(StopIteration()), "raises decoder failed: StopIteration: "),
        (Raises(StoreError("not the store's")), "raises decoder failed: StoreError: not the store's"),
        (
            Raises(ValueError("x" * 5_000)),
            f"raises decoder failed: ValueError: {'x' * 5_000}"[:REASON_CHARS_MAX],
        ),
        (Raises(Malformed("y" * 5_000)), "y" * REASON_CHARS_MAX),
        (Half(), r"half decoder failed: ValueError: \ud800 and so on"),
        (Lazy(), "lazy decoder failed: LookupError: too late"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:30],
)
def test_a_decoder_that_raises_anything_costs_no_frame(
    ledger: Ledger, venue: Plain | Raises, reason: str
) -> None:
    with ledger.intake(venue, "main") as intake:
        assert Tally(1, 0, 0, 0, 1) == intake.receive(b"anything")
    [kept] = [each for each in ledger.replay() if isinstance(each.event, FrameQuarantined)]
    assert isinstance(kept.event, FrameQuarantined)
    assert reason == kept.event.reason
    assert b"anything" == ledger.evidence(kept)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_not_the_frames_fault(ledger: Ledger, error: type[BaseException]) -> None:
    class Interrupts:
        NAME = "plain"

        def decode(self, frame: Frame) -> Sequence[Statement]:
            raise error

    with pytest.raises(error), ledger.intake(Interrupts(), "main") as intake:
        intake.receive(b"anything")
    assert ["SessionOpened", "SessionClosed"] == topics(ledger)


# Once --------------------------------------------------------------------------------------------------------------


def test_the_same_fact_again_is_refused_in_the_batch_in_the_session_and_in_another(ledger: Ledger) -> None:
    assert Tally(2, 1, 1, 0, 0) == feed(ledger, "s-1", "fill:1", "fill:1")
    assert Tally(1, 0, 1, 0, 0) == feed(ledger, "s-2", "fill:1")
    assert ["fill:1"] == keys(ledger)
    assert_whole(ledger)


def test_a_fact_is_refused_however_old_and_across_a_restart(path: Path) -> None:
    many = [f"fill:{number}" for number in range(600)]
    for session in ("s-1", "s-2"):
        with Ledger(path) as ledger:
            feed(ledger, session, *many, *many[:1])
            assert many == keys(ledger)
            assert_whole(ledger)


def test_keys_of_any_text_are_known_again(ledger: Ledger) -> None:
    class Exact(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            source, key = frame.source(self.NAME, ""), frame.payload.decode()
            return [(frame.account, FillRecorded(source, key, "f", "o", "S", "buy", "1", "2"))]

    odd = ["a\0b", "a", '"', "é😀", "\\u0000", " ", "k" * (ledger._store._engine.ID_BYTES_MAX or 5_000)]
    later = [f"later-{number}" for number in range(600)]
    feed(ledger, "s-1", *odd, *later, venue=Exact())
    assert Tally(len(odd), 0, len(odd), 0, 0) == feed(ledger, "s-2", *odd, venue=Exact())
    assert [*odd, *later] == keys(ledger)


def test_the_same_words_without_a_key_are_two_statements(ledger: Ledger) -> None:
    assert Tally(2, 2, 0, 0, 0) == feed(ledger, "s", "state", "state")


def test_frames_of_a_recording_are_known_by_their_place_and_not_decoded_again(ledger: Ledger) -> None:
    texts = ["state", "state", "bad", "boom", "fill:1"]
    feed(ledger, "tape", *texts)
    before = list(ledger.replay())
    venue = Plain()
    assert Tally(5, 0, 5, 0, 0) == feed(ledger, "tape", *texts, venue=venue)
    assert [] == venue.seen
    assert before == list(ledger.replay())


def test_a_recording_that_grew_is_taken_up_where_it_ended(ledger: Ledger) -> None:
    feed(ledger, "tape", "state", "state")
    venue = Plain()
    assert Tally(4, 2, 2, 0, 0) == feed(ledger, "tape", "state", "state", "state", "fill:2", venue=venue)
    assert [3, 4] == [frame.ordinal for frame in venue.seen]
    assert ["", "", "", "fill:2"] == keys(ledger)
    assert_whole(ledger)


@pytest.mark.parametrize("batch", [1, 2, 3, 9])
def test_however_a_recording_is_cut_into_batches_it_is_the_same_ledger(batch: int) -> None:
    texts = ["state", "fill:1", "ping", "@a state fill:1", "bad", "fill:1", "state:3"]
    with Ledger() as whole, Ledger() as cut:
        feed(whole, "tape", *texts)
        with cut.intake(Plain(), "main", session="tape", opened_ns=T, now_ns=lambda: T + 99) as intake:
            for start in range(0, len(texts), batch):
                intake.receive_all(arrivals(*texts)[start : start + batch])
        assert list(whole.replay()) == list(cut.replay())


def closings(ledger: Ledger) -> list[tuple[int, int, int]]:
    """Of each closing recorded: where in the conversation it stands, the frames counted, when it was."""
    found = [each.event for each in ledger.replay() if isinstance(each.event, SessionClosed)]
    return [(each.source.ordinal, each.frames, each.source.received_ns) for each in found]


def test_each_longer_reading_of_a_recording_is_closed_where_it_ends_and_no_shorter_one(
    ledger: Ledger,
) -> None:
    feed(ledger, "tape", "state", "state")
    feed(ledger, "tape", "state", "state")
    feed(ledger, "tape", "state")
    feed(ledger, "tape")
    feed(ledger, "tape", "state", "state", "state")
    assert [(2, 2, T + 99), (3, 3, T + 99)] == closings(ledger)
    assert 1 == topics(ledger).count("SessionOpened")


def test_a_conversation_ended_when_its_recording_says_so(ledger: Ledger, venue: Plain) -> None:
    intake = ledger.intake(venue, "main", now_ns=lambda: T + 99)
    intake.close("end", T + 5)
    assert [(0, 0, T + 5)] == closings(ledger)


def test_two_recordings_that_share_a_name_with_other_bytes_are_refused(ledger: Ledger) -> None:
    feed(ledger, "tape", "state", "fill:1")
    before = list(ledger.replay())
    with pytest.raises(
        Conflict, match=r"frame 2 of session tape is recorded with other bytes: .*a name of its own"
    ):
        feed(ledger, "tape", "state", "fill:2", "fill:3")
    assert before == list(ledger.replay())


def test_two_logins_that_share_a_session_name_are_refused_even_with_the_same_bytes(ledger: Ledger) -> None:
    feed(ledger, "tape", "state", "fill:1")
    before = list(ledger.replay())
    with pytest.raises(
        Conflict, match=r"session tape is recorded of another login than plain:desk: .*a name of its own"
    ):
        feed(ledger, "tape", "state", "fill:1", account="desk")
    assert before == list(ledger.replay())


def test_two_conversations_at_once_under_one_name_are_told_apart(ledger: Ledger, venue: Plain) -> None:
    one = ledger.intake(venue, "main", session="s")
    other = ledger.intake(venue, "main", session="s")
    one.receive(b"state")
    with pytest.raises(Conflict):
        other.receive(b"state:2")
    with pytest.raises(Conflict, match="two recordings share one session name"):
        other.receive(b"state:2")
    one.close()
    other.close()
    assert [""] == keys(ledger)


def test_evidence_is_stored_once_and_byte_equal_whatever_was_made_of_it(ledger: Ledger) -> None:
    odd = " fill:1 fill:2 @b fill:1  state \r\n\t"
    feed(ledger, "s-1", odd, "ping", "fill:1", "bad \0\x7f")
    assert [("s-1", 1, odd.encode()), ("s-1", 4, b"bad \0\x7f")] == ledger.select(
        "SELECT session, ordinal, payload FROM evidence ORDER BY ordinal"
    )
    for each in ledger.replay():
        if each.event.source.ordinal == 1 and each.event.source.evidence:
            assert odd.encode() == ledger.evidence(each)
    assert (None, None) == (ledger.frame_bytes("s-1", 2), ledger.frame_bytes("s-9", 1))
    assert ledger.evidence(next(ledger.replay())) is None


def test_a_payload_that_the_caller_changes_after_is_kept_as_it_came(ledger: Ledger, venue: Plain) -> None:
    buffer = bytearray(b"state:1")
    with ledger.intake(venue, "main", session="s") as intake:
        intake.receive(memoryview(buffer))  # type: ignore[arg-type]
        buffer[:] = b"garbage"
    assert b"state:1" == ledger.frame_bytes("s", 1)


# Recordings without a name -----------------------------------------------------------------------------------------


def named(ledger: Ledger, *texts: str, account: str = "main") -> str:
    """Read a recording that has no name of its own."""
    session = ledger.session_of(f"plain:{account}", lambda: iter([text.encode() for text in texts]))
    feed(ledger, session, *texts, account=account)
    return session


def test_a_recording_has_the_same_name_whenever_it_is_read_grown_or_cut_short(ledger: Ledger) -> None:
    session = named(ledger, "state", "state:2")
    for texts in (["state", "state:2"], ["state"], ["state", "state:2", "state:3"], ["state", "state:2"]):
        assert session == named(ledger, *texts)
    assert ["", "state:2", "state:3"] == keys(ledger)


def test_recordings_that_part_after_a_common_beginning_have_names_of_their_own(ledger: Ledger) -> None:
    one = named(ledger, "state", "state:2")
    other = named(ledger, "state", "state:3")
    third = named(ledger, "state", "state:4")
    assert 3 == len({one, other, third})
    assert (one, other, third) == tuple(named(ledger, "state", f"state:{n}") for n in (2, 3, 4))
    assert ["", "state:2", "", "state:3", "", "state:4"] == keys(ledger)


def test_the_same_recording_of_two_accounts_is_two_recordings(ledger: Ledger) -> None:
    assert named(ledger, "state") != named(ledger, "state", account="desk")
    assert ([""], [""]) == (keys(ledger), keys(ledger, "plain:desk"))


def test_recordings_that_part_late_are_told_apart_and_long_ones_known_again(ledger: Ledger) -> None:
    for length in (BATCH_FRAMES_MAX - 1, BATCH_FRAMES_MAX, BATCH_FRAMES_MAX + 1, 2 * BATCH_FRAMES_MAX + 1):
        texts = [f"state:{length}", *["state"] * (length - 1)]
        endings = [[*texts, f"state:{length}-{name}"] for name in "ab"]
        one, other = [named(ledger, *each) for each in endings]
        assert one != other
        assert [one, other] == [named(ledger, *each) for each in endings]


def test_an_empty_recording_has_a_name_too(ledger: Ledger) -> None:
    assert named(ledger) == named(ledger)
    assert ["SessionOpened", "SessionClosed"] == topics(ledger)


class Named(Plain):
    """A venue that names its conversation in a frame `call:<name>`."""

    def conversation(self, payload: bytes) -> str | None:
        name, _, rest = payload.decode().partition(":")
        return rest if name == "call" else None


def test_a_venue_may_name_its_conversation_and_every_later_frame_carries_the_name(ledger: Ledger) -> None:
    venue = Named()
    feed(ledger, "s", "state", "call:one", "state", "call:two", "state", venue=venue)
    assert ["s", "one", "one", "two", "two"] == [frame.conversation for frame in venue.seen]
    assert {"s"} == {frame.session for frame in venue.seen}


def test_the_name_of_a_conversation_is_known_again_when_its_recording_is_taken_up(ledger: Ledger) -> None:
    feed(ledger, "s", "call:one", "state", venue=Named())
    venue = Named()
    feed(ledger, "s", "call:one", "state", "state", venue=venue)
    # The call itself left nothing, so it is read again; the state after it is known by its place.
    assert [("one", 1), ("one", 3)] == [(frame.conversation, frame.ordinal) for frame in venue.seen]


def test_a_venue_that_fails_over_the_name_of_a_conversation_costs_no_frame(ledger: Ledger) -> None:
    with ledger.intake(Named(), "main", session="s") as intake:
        assert Tally(1, 0, 0, 0, 1) == intake.receive(b"\xff")
        assert Tally(1, 1, 0, 0, 0) == intake.receive(b"state")
    assert b"\xff" == ledger.frame_bytes("s", 1)


# Batches -----------------------------------------------------------------------------------------------------------


@contextmanager
def watched(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Generator[list[int]]:
    """The number of frames of each commit."""
    sizes: list[int] = []
    append = ledger._store.append

    def counting(events: Any, evidence: Any, *rest: Any) -> Any:
        if evidence:
            sizes.append(len(evidence))
        return append(events, evidence, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ledger._store, "append", counting)
        yield sizes


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [1]),
        (BATCH_FRAMES_MAX, [BATCH_FRAMES_MAX]),
        (BATCH_FRAMES_MAX + 1, [BATCH_FRAMES_MAX, 1]),
        (2 * BATCH_FRAMES_MAX + 3, [BATCH_FRAMES_MAX, BATCH_FRAMES_MAX, 3]),
    ],
)
def test_a_batch_is_bounded_by_count(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, count: int, expected: list[int]
) -> None:
    with ledger.intake(venue, "main") as intake, watched(ledger, monkeypatch) as sizes:
        tally = intake.receive_all(iter(arrivals(*["state"] * count)))
    assert (count, count) == (tally.frames, tally.recorded)
    assert expected == sizes


def test_a_batch_is_bounded_by_bytes(ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch) -> None:
    half = b"state" + b" " * (BATCH_BYTES_MAX // 2 - 5)
    whole = b"state" + b" " * BATCH_BYTES_MAX
    with ledger.intake(venue, "main") as intake, watched(ledger, monkeypatch) as sizes:
        intake.receive_all((payload, T) for payload in [half, half, half, whole, whole, half])
    assert [2, 2, 1, 1] == sizes


def test_a_frame_is_durable_before_the_next_batch_is_asked_for(ledger: Ledger, venue: Plain) -> None:
    found: list[int] = []

    def coming() -> Iterator[Arrival]:
        for number in range(BATCH_FRAMES_MAX + 1):
            yield b"state", T + number
            found.append(len(keys(ledger)) if number >= BATCH_FRAMES_MAX - 1 else 0)

    with ledger.intake(venue, "main") as intake:
        intake.receive_all(coming())
    assert [BATCH_FRAMES_MAX, BATCH_FRAMES_MAX] == found[-2:]


def test_of_a_list_the_next_batch_is_decoded_while_the_last_is_committed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = threading.Event()
    overlapped: list[bool] = []

    class Watched(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            if frame.ordinal == BATCH_FRAMES_MAX + 1:
                decoded.set()
            return super().decode(frame)

    append = ledger._store.append

    def slow(events: Any, evidence: Any, before: Any, committing: Callable[[], object], *rest: Any) -> Any:
        def waiting() -> None:
            committing()
            if len(evidence) == BATCH_FRAMES_MAX:
                overlapped.append(decoded.wait(10))

        return append(events, evidence, before, waiting, *rest)

    with ledger.intake(Watched(), "main") as intake:
        monkeypatch.setattr(ledger._store, "append", slow)
        intake.receive_all(arrivals(*["state"] * (BATCH_FRAMES_MAX + 1)))
    assert [True] == overlapped
    assert BATCH_FRAMES_MAX + 1 == len(keys(ledger))
    assert_whole(ledger)


@pytest.mark.parametrize("stored", [True, False], ids=["stored after all", "not stored"])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_list_of_batches_ends_with_the_one_that_failed_and_can_be_given_again_from_there(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, fails_at: int, stored: bool
) -> None:
    frames = arrivals(*(f"fill:{at}" for at in range(3 * BATCH_FRAMES_MAX)))
    append, batches = ledger._store.append, list[int]()

    def fails(*args: Any) -> Any:
        batches.append(1)
        done = append(*args) if stored or len(batches) != fails_at else None
        if len(batches) == fails_at:
            raise StoreError("the disk is gone")
        return done

    with ledger.intake(venue, "main", session="s") as intake:
        with monkeypatch.context() as patch:
            patch.setattr(ledger._store, "append", fails)
            with pytest.raises(StoreError, match="the disk is gone"):
                intake.receive_all(frames)
        assert fails_at == len(batches)
        durable = (fails_at - 1) * BATCH_FRAMES_MAX
        assert durable == intake.tally.frames
        assert durable + stored * BATCH_FRAMES_MAX == len(keys(ledger))
        intake.receive_all(frames[durable:])
        assert len(frames) == intake.tally.frames
    assert [f"fill:{at}" for at in range(3 * BATCH_FRAMES_MAX)] == keys(ledger)
    assert_whole(ledger)


@pytest.mark.parametrize("count", [1, BATCH_FRAMES_MAX, BATCH_FRAMES_MAX + 1])
def test_a_batch_that_was_stored_while_we_were_interrupted_is_known_when_given_again(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    append = ledger._store.append

    def interrupted(*args: Any) -> None:
        append(*args)
        raise KeyboardInterrupt

    frames = arrivals(*["state"] * count)
    with ledger.intake(venue, "main", session="s") as intake:
        with monkeypatch.context() as patch:
            patch.setattr(ledger._store, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                intake.receive_all(frames)
        intake.receive_all(frames[intake.tally.frames :])
    assert count == intake.tally.frames == len(keys(ledger))
    assert_whole(ledger)


@pytest.mark.parametrize("count", [1, BATCH_FRAMES_MAX, 2 * BATCH_FRAMES_MAX])
def test_a_list_of_batches_is_refused_by_a_closed_ledger(tmp_path: Path, venue: Plain, count: int) -> None:
    ledger = Ledger(tmp_path / "a.db")
    intake = ledger.intake(venue, "main")
    ledger.close()
    with pytest.raises(Closed, match="the ledger is closed"):
        intake.receive_all(arrivals(*["state"] * count))


@pytest.mark.parametrize("at", [0, BATCH_FRAMES_MAX - 1, BATCH_FRAMES_MAX, 2 * BATCH_FRAMES_MAX])
def test_in_a_list_of_batches_what_cannot_be_stored_costs_its_own_frame_only(ledger: Ledger, at: int) -> None:
    class Unstorable(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            if frame.ordinal == at + 1:
                return [(frame.account, BalanceDelta(frame.source("plain", "words"), "\ud800", ()))]
            return super().decode(frame)

    with ledger.intake(Unstorable(), "main") as intake:
        intake.receive_all(arrivals(*(f"fill:{n}" for n in range(2 * BATCH_FRAMES_MAX + 1))))
    assert (2 * BATCH_FRAMES_MAX, 1) == (intake.tally.recorded, intake.tally.quarantined)
    expected = ["" if n == at else f"fill:{n}" for n in range(2 * BATCH_FRAMES_MAX + 1)]
    assert expected == keys(ledger)
    assert_whole(ledger)


@pytest.mark.parametrize("field", ["sequence", "time_ns"])
def test_a_number_that_no_projection_could_store_costs_its_own_frame_only(ledger: Ledger, field: str) -> None:
    class Counting(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            source = replace(
                frame.source("plain", "words"), **{field: int(frame.payload), "subscription": "s"}
            )
            balances = (Balance("EUR", "EUR", frame.payload.decode()),)
            return [(frame.account, BalanceDelta(source, f"k{frame.ordinal}", balances))]

    said = [1, 2**63, 2**64, -(2**63), 2**63 - 1]
    with ledger.intake(Counting(), "main") as intake:
        intake.receive_all(arrivals(*map(str, said)))
    assert (3, 2) == (intake.tally.recorded, intake.tally.quarantined)
    assert f"a number out of range: {2**63}" in Quarantine(ledger).rows()[0].reason
    Views(ledger).bring_up()
    assert 2**63 - 1 == Balances(ledger)[MAIN]["EUR"].total
    assert not list(ledger.verify([Counting()]))


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("count", [0, 1, BATCH_FRAMES_MAX, BATCH_FRAMES_MAX + 1])
def test_what_came_before_the_arrivals_failed_is_not_lost(
    ledger: Ledger, venue: Plain, count: int, error: BaseException
) -> None:
    def coming() -> Iterator[Arrival]:
        yield from arrivals(*["state"] * count)
        raise error

    intake = ledger.intake(venue, "main", session="s")
    with pytest.raises(type(error)):
        intake.receive_all(coming())
    assert count == len(keys(ledger))
    assert (count, count) == (intake.tally.frames, intake.tally.recorded)
    intake.receive(b"state")
    assert count + 1 == venue.seen[-1].ordinal
    intake.close()


def test_a_payload_that_is_no_bytes_loses_nothing_that_came_before(ledger: Ledger, venue: Plain) -> None:
    with ledger.intake(venue, "main") as intake:
        with pytest.raises(TypeError):
            intake.receive_all([(b"fill:1", T), ("text", T), (b"fill:2", T)])  # type: ignore[list-item]
        assert ["fill:1"] == keys(ledger)
        intake.receive(b"fill:2")
    assert ["fill:1", "fill:2"] == keys(ledger)


# When the store fails ----------------------------------------------------------------------------------------------


@contextmanager
def failing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, stored: bool, error: type[StoreError] = StoreError
) -> Generator[None]:
    """Appends fail: before anything is stored, or after it was (the answer is what is lost)."""
    append = ledger._store.append

    def fails(*args: Any) -> None:
        if stored:
            append(*args)
        raise error("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(ledger._store, "append", fails)
        yield


def test_an_account_advances_only_after_the_commit(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.intake(venue, "main") as intake:
        intake.receive(b"fill:1")
        account = ledger._accounts[MAIN]
        before = account.version
        assert 2 == before
        with failing(ledger, monkeypatch, stored=False), pytest.raises(StoreError):
            intake.receive(b"fill:2")
        assert before == ledger._accounts[MAIN].version == account.version
        assert (1, 1) == (intake.tally.frames, intake.tally.recorded)
        intake.receive(b"fill:2")
        assert before + 1 == ledger._accounts[MAIN].version == list(ledger.replay(MAIN))[-1].version
    assert_whole(ledger)


@pytest.mark.parametrize("stored", [True, False], ids=["stored after all", "not stored"])
@pytest.mark.parametrize("text", ["fill:1", "state:1", "state", "bad", "fill:1 @b state"])
def test_a_retry_after_a_store_error_stores_exactly_once(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, text: str, stored: bool
) -> None:
    with ledger.intake(venue, "main", session="s") as intake:
        intake.receive(b"state")
        with failing(ledger, monkeypatch, stored=stored), pytest.raises(StoreError, match="the disk is gone"):
            intake.receive(text.encode(), T)
        intake.receive(text.encode(), T)
        intake.receive(b"state")
    with Ledger() as other:
        feed(other, "s", "state", text, "state")
        assert topics(other) == topics(ledger)
        assert keys(other) == keys(ledger)
    tally = intake.tally
    assert (3, 3) == (tally.frames, tally.recorded + tally.duplicates + tally.quarantined)
    assert_whole(ledger)


def test_a_batch_that_failed_can_be_given_again_whole(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["state", "ping", "fill:1", "bad", "state", "ping"]
    for stored in (True, False):
        with ledger.intake(venue, "main", session=f"s-{stored}") as intake:
            with failing(ledger, monkeypatch, stored=stored), pytest.raises(StoreError):
                intake.receive_all(arrivals(*texts))
            intake.receive_all(arrivals(*texts))
    assert ["", "fill:1", "", "", "", "", ""] == keys(ledger)
    assert_whole(ledger)


def test_a_closing_that_failed_can_be_tried_again(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stored in (True, False):
        intake = ledger.intake(venue, "main")
        with failing(ledger, monkeypatch, stored=stored), pytest.raises(StoreError):
            intake.close()
        intake.close()
        intake.close()
    assert ["SessionOpened", "SessionClosed"] * 2 == topics(ledger)


@pytest.mark.sqlite
def test_a_full_disk_loses_nothing_that_is_given_again(path: Path, venue: Plain) -> None:
    with Ledger(path) as ledger, ledger.intake(venue, "main", session="s") as intake:
        intake.receive(b"fill:1")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("ledger.db-wal").stat().st_size, before[1]))
        try:
            for payload in (b"fill:2", b"fill:2" + b" " * 2_000_000):
                with pytest.raises(StoreError, match=r"ledger\.db"):
                    intake.receive(payload)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert Tally(1, 1, 0, 0, 0) == intake.receive(b"fill:2")
        intake.receive(b"fill:3")
    with Ledger(path, read_only=True) as ledger:
        assert ["fill:1", "fill:2", "fill:3"] == keys(ledger)
        assert_whole(ledger)


# Another writer ----------------------------------------------------------------------------------------------------


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No writer lock can be had, so two writers meet (the SQLite here is said to survive it)."""
    monkeypatch.setattr("ledger.sqlite.fcntl", None)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))


@pytest.mark.usefixtures("unlocked")
def test_whoever_appended_first_their_events_are_taken_in_and_ours_follow(path: Path, venue: Plain) -> None:
    with Ledger(path) as one, Ledger(path) as other:
        with one.intake(venue, "main") as ours, other.intake(venue, "main") as theirs:
            for number in range(4):
                assert 1 == ours.receive(b"fill:%d" % number).recorded
                assert 1 == theirs.receive(b"fill:%d" % number).duplicates
                assert 1 == theirs.receive(b"state").recorded
        assert ["fill:0", "", "fill:1", "", "fill:2", "", "fill:3", ""] == keys(one)
        assert list(one.replay()) == list(other.replay())
        assert_whole(one)


@pytest.mark.usefixtures("unlocked")
def test_two_writers_at_full_speed_lose_and_double_nothing(path: Path, venue: Plain) -> None:
    Ledger(path).close()
    lost: list[BaseException] = []

    def write(name: str) -> None:
        try:
            with Ledger(path) as ledger, ledger.intake(Plain(), "main") as intake:
                for number in range(40):
                    while True:
                        try:
                            intake.receive(f"fill:both-{number} state:{name}-{number}".encode())
                            break
                        except Conflict:  # after so many tries it is the caller's to go on
                            continue
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == lost
    with Ledger(path, read_only=True) as ledger:
        found = keys(ledger)
        assert sorted(set(found)) == sorted(found)
        assert 120 == len(found)
        assert_whole(ledger)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_conflict_is_tried_again_so_many_times(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    append, tries = ledger._store.append, list[int]()

    def conflicts(*args: Any) -> Any:
        tries.append(1)
        if len(tries) <= failures:
            raise Conflict("somebody was first")
        return append(*args)

    with ledger.intake(venue, "main") as intake:
        monkeypatch.setattr(ledger._store, "append", conflicts)
        assert 1 == intake.receive(b"fill:1").recorded
    assert ["fill:1"] == keys(ledger)


def test_a_conflict_without_end_is_told_and_the_frame_can_be_given_again(
    ledger: Ledger, venue: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger.intake(venue, "main") as intake:
        with failing(ledger, monkeypatch, stored=False, error=Conflict), pytest.raises(Conflict):
            intake.receive(b"fill:1")
        assert 1 == intake.receive(b"fill:1").recorded
    assert_whole(ledger)


def test_one_ledger_is_written_by_many_conversations_in_many_threads(ledger: Ledger) -> None:
    failures: list[BaseException] = []

    def converse(name: str) -> None:
        try:
            with ledger.intake(Plain(), name) as intake:
                for number in range(25):
                    intake.receive(f"fill:{number} @shared fill:{number} state:{name}-{number}".encode())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=converse, args=(f"login-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert 25 + 6 * 25 == len(keys(ledger, "plain:shared"))
    assert [25] * 6 == [len(keys(ledger, f"plain:login-{number}")) for number in range(6)]
    assert_whole(ledger)


def test_a_ledger_is_read_from_other_threads_while_it_is_written(ledger: Ledger, venue: Plain) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        seen = 0
        try:
            while not done.is_set() or not seen:
                found = list(ledger.replay(MAIN))
                assert list(range(1, len(found) + 1)) == [each.version for each in found]
                assert seen <= len(found)
                seen = len(found)
                assert found[-1].event.source.evidence == b"" or b"state" == ledger.evidence(found[-1])
                assert ledger.position() >= seen
        except BaseException as error:
            failures.append(error)

    with ledger.intake(venue, "main") as intake:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            intake.receive(b"state")
        done.set()
        for thread in threads:
            thread.join()
    assert [] == failures


# Replay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [PAGE_EVENTS_MAX - 2, PAGE_EVENTS_MAX - 1, 2 * PAGE_EVENTS_MAX + 7])
def test_replay_gives_every_event_in_order_page_after_page(ledger: Ledger, count: int) -> None:
    feed(ledger, "s", *["state @b state"] * (count // 2))
    total = 2 * (count // 2) + 2
    assert list(range(1, total + 1)) == [each.position for each in ledger.replay()]
    assert list(range(1, count // 2 + 3)) == [each.version for each in ledger.replay(MAIN)]
    assert total == ledger.position()


@pytest.mark.parametrize(
    ("after", "upto", "expected"),
    [
        (0, None, [1, 2, 3, 4, 5]),
        (0, 0, []),
        (0, 1, [1]),
        (2, None, [3, 4, 5]),
        (2, 4, [3, 4]),
        (4, 4, []),
        (4, 2, []),
        (5, None, []),
        (0, 99, [1, 2, 3, 4, 5]),
        (99, None, []),
    ],
)
def test_replay_begins_after_and_ends_at_a_version_or_position(
    ledger: Ledger, after: int, upto: int | None, expected: list[int]
) -> None:
    feed(ledger, "s", "state", "state", "state")
    assert expected == [each.version for each in ledger.replay(MAIN, after=after, upto=upto)]
    assert expected == [each.position for each in ledger.replay(after=after, upto=upto)]


def test_replay_of_an_account_that_is_not_there_gives_nothing(ledger: Ledger) -> None:
    feed(ledger, "s", "state")
    assert [] == list(ledger.replay("plain:nobody"))
    assert [] == list(ledger.replay(""))


def test_a_replay_under_way_sees_what_is_appended_meanwhile(ledger: Ledger, venue: Plain) -> None:
    with ledger.intake(venue, "main") as intake:
        replay = ledger.replay()
        assert 1 == next(replay).position
        intake.receive(b"state")
        assert [2] == [each.position for each in replay]


def test_a_corrupt_event_is_named_when_it_is_reached(ledger: Ledger) -> None:
    feed(ledger, "s", "fill:1", "fill:2", "@b fill:1")
    ledger.write(
        [("UPDATE stored_events SET state=? WHERE originator_id=? AND originator_version=3", [(b"\0", MAIN)])]
    )
    with pytest.raises(Corrupt, match="plain:main version 3: FillRecorded cannot be read"):
        list(ledger.replay())
    assert ["fill:1"] == keys(ledger, "plain:b")


# Memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize("again", [False, True], ids=["new", "seen before"])
def test_so_many_accounts_are_remembered_and_no_more(ledger: Ledger, again: bool) -> None:
    texts = [f"@{number} fill:1" for number in range(ACCOUNTS_CACHED_MAX + 300)]
    feed(ledger, "s-1", *texts)
    if again:
        feed(ledger, "s-2", *texts)
        with ledger.intake(Plain(), "main", session="s-3") as intake:
            intake.receive_all(arrivals(*texts))
            assert len(ledger._accounts) <= ACCOUNTS_CACHED_MAX
    assert len(ledger._accounts) <= ACCOUNTS_CACHED_MAX
    assert len(texts) == len(ledger.select("SELECT 1 FROM stored_events WHERE topic='FillRecorded'"))


def test_an_account_forgotten_is_known_again_with_its_version_and_keys(ledger: Ledger) -> None:
    feed(ledger, "s-1", "fill:1", "state:1")
    ledger._accounts.clear()
    assert Tally(3, 1, 2, 0, 0) == feed(ledger, "s-2", "state:1", "fill:1", "fill:2")
    assert_whole(ledger)


# Opening and closing -----------------------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_a_ledger_in_a_file_is_there_again_when_it_is_opened_again(path: Path) -> None:
    with Ledger(path) as ledger:
        assert (str(path), False) == (ledger.name, ledger.read_only)
        feed(ledger, "s-1", "fill:1")
        before = list(ledger.replay())
    with Ledger(os.fspath(path)) as ledger:
        assert before == list(ledger.replay())
        feed(ledger, "s-2", "fill:2")
        assert_whole(ledger)


@pytest.mark.sqlite
def test_ledgers_in_memory_are_each_their_own() -> None:
    with Ledger() as one, Ledger() as other:
        feed(one, "s", "fill:1")
        assert ("memory", 0) == (other.name, other.position())


@pytest.mark.sqlite
def test_a_reader_sees_what_is_written_and_cannot_write(path: Path, venue: Plain) -> None:
    with Ledger(path) as writer, Ledger(path, read_only=True) as reader:
        assert reader.read_only
        feed(writer, "s", "fill:1")
        assert list(writer.replay()) == list(reader.replay())
        with pytest.raises(ReadOnly):
            reader.intake(venue, "main")
        with pytest.raises(ReadOnly):
            reader.write([])
        with pytest.raises(LedgerBusy):
            Ledger(path)


def test_there_is_no_ledger_to_read_where_none_was_written(path: Path) -> None:
    with pytest.raises(NoSuchLedger):
        Ledger(path, read_only=True)


def test_a_closed_ledger_says_so_whatever_is_asked(ledger: Ledger, venue: Plain) -> None:
    intake = ledger.intake(venue, "main")
    replay = ledger.replay()
    next(replay)
    recorded: Recorded = msgspec.structs.replace(next(ledger.replay()))
    ledger.close()
    ledger.close()
    asked: list[Callable[[], object]] = [
        lambda: intake.receive(b"fill:1"),
        lambda: intake.receive(b"ping"),
        intake.close,
        lambda: ledger.intake(venue, "main"),
        lambda: ledger.intake(venue, "main", session="s"),
        lambda: list(ledger.replay()),
        lambda: next(replay),
        lambda: ledger.frame_bytes("s", 1),
        ledger.position,
        lambda: ledger.select("SELECT 1"),
        lambda: ledger.write([]),
    ]
    for ask in asked:
        with pytest.raises(Closed, match=f"{re.escape(ledger.name)}: the ledger is closed"):
            ask()
    assert ledger.evidence(recorded) is None  # a session's record has none, wherever one looks


@pytest.mark.sqlite
def test_closing_waits_for_the_commit_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger(path) as ledger:
        intake = Intake(ledger, Plain(), "main", "s", T, lambda: T)
        append, under_way, go_on = ledger._store.append, threading.Event(), threading.Event()
        outcome: list[object] = []

        def slow(*args: Any) -> Any:
            under_way.set()
            go_on.wait(10)
            return append(*args)

        def receive() -> None:
            try:
                outcome.append(intake.receive(b"fill:1").recorded)
            except BaseException as error:
                outcome.append(error)

        monkeypatch.setattr(ledger._store, "append", slow)
        writer, closer = threading.Thread(target=receive), threading.Thread(target=ledger.close)
        writer.start()
        under_way.wait(10)
        closer.start()
        closer.join(0.05)
        go_on.set()
        writer.join()
        closer.join()
        assert [1] == outcome
    with closing(sqlite3.connect(path)) as stored:
        assert [(1,)] == stored.execute(
            "SELECT count(*) FROM stored_events WHERE topic='FillRecorded'"
        ).fetchall()


def told_in_a_fork(work: Callable[[], object]) -> str:
    """The error that some work ends with in a process forked from this one; empty where it ends without."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads that are not there in the child
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        said = ""
        try:
            work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    assert (child, 0) == os.waitpid(child, 0)
    return text


def test_a_process_forked_from_ours_cannot_use_the_ledger_and_costs_it_nothing(
    ledger: Ledger, venue: Plain
) -> None:
    """As of a server that forks its workers: two processes on one connection read each other's answers."""
    balances = Balances(ledger)
    with ledger.intake(venue, "main") as intake:
        intake.receive_all(arrivals("state:1"))
        tries: list[Callable[[], object]] = [
            lambda: intake.receive(b"state:2"),
            lambda: intake.receive_all([(b"state:2", T)] * (BATCH_FRAMES_MAX + 1)),
            lambda: list(ledger.replay()),
            lambda: balances.rows(),
            lambda: list(ledger.verify()),
            lambda: ledger.lease(MAIN),
        ]
        with ledger._writing:  # as while another thread commits
            for work in tries:
                assert re.match("Closed: .*: opened by another process", told_in_a_fork(work))
            assert "" == told_in_a_fork(ledger.close)
        intake.receive_all(arrivals("state:3"))
    assert ["state:1", "state:3"] == keys(ledger)
    assert [] == list(ledger.verify([venue]))


def test_a_decoder_that_makes_what_cannot_be_stored_costs_only_its_own_frame(ledger: Ledger) -> None:
    class Careless(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            source = frame.source(self.NAME, "")
            made: dict[bytes, object] = {
                b"huge": [
                    (frame.account, BalanceDelta(msgspec.structs.replace(source, sequence=2**70), "", ()))
                ],
                b"text": "no statements at all",
                b"number": [(frame.account, 7)],
                b"good": [(frame.account, BalanceDelta(source, "", ()))],
            }
            return made[frame.payload]  # type: ignore[return-value]

    frames = [b"good", b"huge", b"text", b"number", b"good"]
    with ledger.intake(Careless(), "main") as intake:
        assert Tally(5, 2, 0, 0, 3) == intake.receive_all([(frame, 1) for frame in frames])
        assert Tally(1, 1, 0, 0, 0) == intake.receive(b"good")
    topics = [type(recorded.event).__name__ for recorded in ledger.replay()]
    assert ["BalanceDelta", *["FrameQuarantined"] * 3, "BalanceDelta", "BalanceDelta"] == topics[1:-1]


@pytest.mark.parametrize(
    "made",
    [
        lambda source: BalanceDelta(source, "k", (Balance("a", "A", 0.1),)),  # type: ignore[arg-type]
        lambda source: BalanceDelta(source, "k", (Balance("a", "A", "NaN"),)),
        lambda source: BalanceDelta(source, "k", (Balance("a", "A", "1", valuation=Valuation("u", "1_0")),)),
        lambda source: BalanceDelta(source, "k", (Balance(None, "A", "1"),)),  # type: ignore[arg-type]
        lambda source: BalanceDelta(source, 7, (Balance("a", "A", "1"),)),  # type: ignore[arg-type]
        lambda source: BalanceDelta(replace(source, time_ns=1.79e18), "k", ()),
        lambda source: BalanceDelta(replace(source, session="other"), "k", ()),
        lambda source: BalanceDelta(replace(source, evidence=b""), "k", ()),
        lambda source: FillRecorded(source, "k", "f", "o", "S", "buy", "Infinity", "2"),
    ],
)
def test_an_event_of_somebody_elses_venue_that_could_not_be_read_again_costs_its_own_frame_only(
    ledger: Ledger, made: Callable[[Source], Event]
) -> None:
    """What is stored stays for ever: one such event would keep every projection from catching up."""

    class Careless(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            if frame.payload != b"careless":
                return super().decode(frame)
            return [(frame.account, made(frame.source(self.NAME, "words")))]

    with ledger.intake(Careless(), "main") as intake:
        assert Tally(3, 2, 0, 0, 1) == intake.receive_all(arrivals("state:1", "careless", "state:2"))
    assert_whole(ledger)
    assert ["state:1", "", "state:2"] == keys(ledger)
    assert "1" == str(Balances(ledger)[MAIN]["A"].total)
    assert [] == list(ledger.verify([Careless()]))


def test_what_somebody_elses_venue_makes_is_recorded_as_it_is_read_again(ledger: Ledger) -> None:
    class Loose(Plain):
        def decode(self, frame: Frame) -> Sequence[Statement]:
            balances: Any = [Balance("a", "A", Decimal("1.50"))]  # type: ignore[arg-type]
            return [(frame.account, BalanceDelta(frame.source(self.NAME, "words"), "k", balances))]

    with ledger.intake(Loose(), "main") as intake:
        intake.receive(b"x")
    assert "1.50" == str(Balances(ledger)[MAIN]["A"].total)
    assert [] == list(ledger.verify([Loose()]))


@pytest.mark.parametrize("wrong", [1.79e18, "1790000000000000000", None])
def test_a_time_that_is_no_whole_number_is_the_callers_mistake_and_stores_nothing(
    ledger: Ledger, venue: Plain, wrong: Any
) -> None:
    """As of `time.time() * 1e9`: a float that is stored as a time would not be read again."""
    with ledger.intake(venue, "main", opened_ns=T) as intake:
        with pytest.raises(TypeError):
            intake.receive_all([(b"fill:1", T), (b"fill:2", wrong)])
        if wrong is not None:
            with pytest.raises(TypeError):
                intake.receive(b"fill:2", wrong)
            with pytest.raises(TypeError):
                intake.close(closed_ns=wrong)
            with pytest.raises(TypeError):
                ledger.intake(venue, "other", opened_ns=wrong)
    assert ["SessionOpened", "FillRecorded", "SessionClosed"] == topics(ledger)


def test_the_name_of_a_session_is_stored_as_text(ledger: Ledger, venue: Plain) -> None:
    named: Any = 7
    with ledger.intake(venue, "main", session=named) as intake:
        intake.receive(b"fill:1")
    assert {"7"} == {each.event.source.session for each in ledger.replay()}


def test_a_new_frame_in_the_place_of_one_that_left_nothing_is_not_skipped(ledger: Ledger) -> None:
    feed(ledger, "s", "fill:1", "fill:1", "fill:2")
    assert Tally(3, 1, 2, 0, 0) == feed(ledger, "s", "fill:1", "fill:9", "fill:2")
    assert ["fill:1", "fill:2", "fill:9"] == keys(ledger)


def test_an_empty_name_is_no_ledger() -> None:
    """As of a variable that is not set: the folder it would be is nobody's idea."""
    with pytest.raises(NoSuchLedger, match="the name of the ledger is empty"):
        Ledger("")
