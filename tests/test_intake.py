"""A conversation taken in: every frame is durable and counted once, whatever the decoder, the caller or the batch does.

Most tests run on a ledger in memory and on one in a SQLite file: both must behave alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger import (
    BadLogin,
    Closed,
    Conflict,
    Frame,
    Ledger,
    Malformed,
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
from ledger.intake import BATCH_BYTES_MAX, BATCH_FRAMES_MAX, LABEL_CHARS_MAX, Arrival
from projections import Balances, Quarantine, Views
from tests.plain import MAIN, Plain, T, arrivals, assert_whole, feed, keys, topics


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


# A conversation ------------------------------------------------------------------------------------------------------


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


# What cannot be read -------------------------------------------------------------------------------------------------


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


class MuteError(Exception):
    """An error that cannot tell what it is."""

    def __str__(self) -> str:
        raise ValueError("not even that")


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
        (Raises(MuteError()), "raises decoder failed: MuteError"),
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
        lambda source: BalanceDelta(replace(source, time_ns=-1), "k", (Balance("a", "A", "3"),)),
        lambda source: SessionOpened(source, "session:other:opened"),
        lambda source: SessionClosed(source, "", "over", 1, 1, 0, 0, 0),
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


# Recordings ----------------------------------------------------------------------------------------------------------


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


def test_a_new_frame_in_the_place_of_one_that_left_nothing_is_not_skipped(ledger: Ledger) -> None:
    feed(ledger, "s", "fill:1", "fill:1", "fill:2")
    assert Tally(3, 1, 2, 0, 0) == feed(ledger, "s", "fill:1", "fill:9", "fill:2")
    assert ["fill:1", "fill:2", "fill:9"] == keys(ledger)


def test_a_payload_that_the_caller_changes_after_is_kept_as_it_came(ledger: Ledger, venue: Plain) -> None:
    buffer = bytearray(b"state:1")
    with ledger.intake(venue, "main", session="s") as intake:
        intake.receive(memoryview(buffer))  # type: ignore[arg-type]
        buffer[:] = b"garbage"
    assert b"state:1" == ledger.frame_bytes("s", 1)


# Conversations with a name -------------------------------------------------------------------------------------------


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


# Batches -------------------------------------------------------------------------------------------------------------


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
    ancient = int(field == "time_ns")
    assert (3 - ancient, 2 + ancient) == (intake.tally.recorded, intake.tally.quarantined)
    assert f"a number out of range: {2**63}" in Quarantine(ledger).rows()[0].reason
    before_1970 = [
        row for row in Quarantine(ledger).rows() if f"a time before 1970: {-(2**63)}" in row.reason
    ]
    assert ancient == len(before_1970)
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


@pytest.mark.parametrize(
    "label", ["", "a/b", "\n", "\x00", "\udfff", "\N{NO-BREAK SPACE}", "a" * (LABEL_CHARS_MAX + 1)]
)
def test_a_label_that_no_feed_could_have_is_refused_and_nothing_stored(ledger: Ledger, label: str) -> None:
    with pytest.raises(
        BadLogin, match=r'^plain, account: is printable, without "/", of 1 to 1000 characters$'
    ):
        ledger.intake(Plain(), label)
    assert 0 == ledger.position()


@pytest.mark.sqlite
@pytest.mark.parametrize("label", ["desk 2", "é:日本", "a" * LABEL_CHARS_MAX])
def test_a_label_is_taken_as_it_is(ledger: Ledger, label: str) -> None:
    feed(ledger, "s", "state", account=label)
    assert {f"plain:{label}"} == {each.account for each in ledger.replay()}


def test_what_is_stored_under_a_label_that_is_refused_now_can_be_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("ledger.intake.check_label", lambda *_: None)
        feed(ledger, "s", "state", "bad", account="a/\n")
    assert ["state", "bad"] == [
        found.decode() for each in ledger.replay("plain:a/\n") if (found := ledger.evidence(each))
    ]
    assert [] == list(ledger.verify([Plain()]))
    (quarantined,) = Quarantine(ledger).rows()
    assert "stays" == ledger.retry([Plain()], quarantined.account, quarantined.version).result
