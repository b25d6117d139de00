"""The façade: recordings without a name, replay, opening and closing.

Most tests run on a ledger in memory and on one in a SQLite file: both must behave alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import pytest

from ledger import (
    Closed,
    Corrupt,
    Ledger,
    LedgerBusy,
    NoSuchLedger,
    ReadOnly,
    Recorded,
)
from ledger.intake import BATCH_FRAMES_MAX
from ledger.store import PAGE_EVENTS_MAX
from tests.plain import MAIN, Plain, assert_whole, feed, keys, topics


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


# Recordings without a name -------------------------------------------------------------------------------------------


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


# Replay --------------------------------------------------------------------------------------------------------------


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


# Opening and closing -------------------------------------------------------------------------------------------------


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


def test_a_lease_is_of_a_full_id_not_of_a_label(ledger: Ledger, venue: Plain) -> None:
    for work in (ledger.lease, ledger.release):
        with pytest.raises(ValueError, match="'main' is no full id of an account: `venue:label` is"):
            work("main")
    assert ledger.lease(MAIN)
    with ledger.intake(venue, "main") as intake:
        assert intake._lease is not None
    ledger.release(MAIN)
    with ledger.intake(venue, "main") as intake:
        assert intake._lease is None


def test_an_empty_name_is_no_ledger() -> None:
    """As of a variable that is not set: the folder it would be is nobody's idea."""
    with pytest.raises(NoSuchLedger, match="the name of the ledger is empty"):
        Ledger("")
