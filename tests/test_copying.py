"""Copies are what they were copied from, row by row, in every table; damage and strangers are found, not copied."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Ledger, copying
from ledger.cli import VENUES
from ledger.cli.options import bring_up_all, views_and_all
from ledger.copying import Copied, NoBeginning, check, copy
from ledger.errors import Conflict, Corrupt, StoreError, Unstorable
from ledger.memory import remember, remembered, row_of
from ledger.rows import Rows
from tests.databases import Schemas
from tests.judging import taken_in
from tests.planting import EXCHANGES, planted
from tests.scripted import VENUE, delta, feed, fill, said, says, snapshot
from tests.tampering import T, record
from tests.test_events import GOLDEN, load
from transports import open_recording, play

NUL: Final = "scripted:\x01ma\x00in\x01"
MEMORIES: Final = [row_of(name, b"\x00\xffm" * n) for n, name in enumerate(("a", NUL))]


@pytest.fixture
def places(tmp_path: Path, schemas: Schemas) -> Iterator[Callable[[str], str]]:
    """Where ledgers go: the name of a file, or, where it begins with `pg`, a schema of its own on a server."""

    def place(name: str) -> str:
        return schemas.url(name) if name.startswith("pg") else str(tmp_path / name)

    yield place
    schemas.forget()


def catch_up_all(ledger: Ledger) -> None:
    bring_up_all(ledger)


def record_all(ledger: Ledger) -> None:
    """Everything a ledger may hold; the projections folded as it grew."""
    record(ledger, keep=lambda: catch_up_all(ledger))
    odd = (NUL, snapshot(T, {"A\x00": "1", "\x01": "2"}, key="\x00k\x01"))
    feed(ledger, said(odd, (NUL, delta(None, {"A\x00": "2"}))), says(delta(None, {})), session="\x00s")
    remember(ledger, MEMORIES)
    catch_up_all(ledger)


def tables() -> list[str]:
    """The tables of the projections."""
    with Ledger() as ledger:
        return [table.name for projection in views_and_all(ledger)[1] for table in projection.tables]


def everything(ledger: Ledger) -> dict[str, list[Any]]:
    """All that is in a ledger, table by table."""
    with ledger.view() as view:
        found: dict[str, list[Any]] = {
            "events": list(view.events()),
            "frames": [row[1:] for row in view.frames()],
            "keys": sorted(view.natural_keys()),
        }
    found["memories"] = sorted(remembered(ledger))
    for table in ("projection_positions", *tables()):
        found[table] = sorted(ledger.select(f"SELECT * FROM {table}"), key=repr)
    return found


def copied(source: str, target: str) -> tuple[Copied, dict[str, list[Any]]]:
    """Copy as the command does; what was copied, and all that the target holds then."""
    with Ledger(source, read_only=True) as one, Ledger(target) as other:
        memories = remembered(one)
        done = copy(one, other)
        check(other, done)
        remember(other, memories)
        catch_up_all(other)
        return done, everything(other)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "a.db"
    with Ledger(path) as ledger:
        record_all(ledger)
    return path


@pytest.fixture(scope="module")
def original(made: Path) -> dict[str, list[Any]]:
    with Ledger(made, read_only=True) as ledger:
        return everything(ledger)


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    """A copy of the file, to be damaged or to grow."""
    path = tmp_path / "source.db"
    with closing(sqlite3.connect(made)) as one, closing(sqlite3.connect(path)) as other:
        one.backup(other)
    return path


def test_there_and_back_every_table_is_the_same(
    made: Path, original: dict[str, list[Any]], places: Callable[[str], str]
) -> None:
    way = [str(made), *(places(name) for name in ("pg1", "pg2", "b.db", "c.db"))]
    for one, other in pairwise(way):
        done, found = copied(one, other)
        assert original == found
        assert (0, len(original["events"])) == (done.there, done.stands.size)


def test_what_is_compared_is_all_there_is(made: Path, original: dict[str, list[Any]]) -> None:
    with closing(sqlite3.connect(made)) as store:
        names = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    stored = {"stored_events", "seals", "evidence", "natural_keys", "feed_memories"}
    kept = {*tables(), "projection_positions"}
    assert kept | stored <= names
    told_again = {"shown_balances", "shown_breaks", "shown_gaps"}  # what views say of the others
    assert {name for name in names - kept - stored if not name.startswith("sqlite_")} <= told_again
    assert {"\x00s", "s1"} <= {row[0] for row in original["frames"]}
    assert any(event[2] == "FrameQuarantined" for event in original["events"])
    assert 25 <= sum(bool(rows) for rows in original.values())


def test_a_row_that_is_gone_from_any_table_is_seen(source: Path, original: dict[str, list[Any]]) -> None:
    held = {
        "events": "stored_events",
        "frames": "evidence",
        "keys": "natural_keys",
        "memories": "feed_memories",
    }
    gone: list[str] = []
    with closing(sqlite3.connect(source)) as store, Ledger(source, read_only=True) as ledger:
        for table in (table for table, rows in original.items() if rows):
            name = held.get(table, table)
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({name})")]
            row = store.execute(f"SELECT * FROM {name} LIMIT 1").fetchone()
            same = " AND ".join(f"{column} IS ?" for column in columns)
            assert 1 == store.execute(f"DELETE FROM {name} WHERE {same}", row).rowcount
            store.commit()
            gone.append(table)
            found = everything(ledger)
            assert gone == [each for each in original if found[each] != original[each]]


@pytest.mark.parametrize("dump", sorted(GOLDEN.glob("v*.sql")), ids=lambda dump: dump.stem)
def test_the_store_of_a_released_version_is_copied(
    tmp_path: Path, dump: Path, places: Callable[[str], str]
) -> None:
    load(dump, tmp_path / "golden.db")
    with Ledger(tmp_path / "golden.db") as ledger:  # which seals it, where it is not
        catch_up_all(ledger)
        before = everything(ledger)
    for one, other in (("golden.db", "pg"), ("pg", "back.db")):
        assert before == copied(places(one), places(other))[1]


def test_the_demo_is_copied(tmp_path: Path, places: Callable[[str], str]) -> None:
    with Ledger(tmp_path / "demo.db") as ledger:
        for name, venue in VENUES.items():
            with open_recording(Path(str(files("ledger.demo") / f"{name}.tape"))) as recording:
                play(recording, ledger.intake(venue, str(recording.account), session=recording.session))
            catch_up_all(ledger)
        before = everything(ledger)
    for one, other in (("demo.db", "pg"), ("pg", "back.db")):
        assert before == copied(places(one), places(other))[1]


@pytest.mark.parametrize("venue", EXCHANGES)
def test_what_a_venue_says_with_losses_planted_is_copied(venue: str, places: Callable[[str], str]) -> None:
    with taken_in(planted(venue, 5)) as source, Ledger(places("pg")) as target, Ledger() as back:
        catch_up_all(source)
        for one, other in ((source, target), (target, back)):
            check(other, copy(one, other))
            catch_up_all(other)
            assert everything(source) == everything(other)


def test_an_empty_ledger_is_copied(places: Callable[[str], str]) -> None:
    with Ledger() as source, Ledger(places("pg")) as target:
        done = copy(source, target)
        check(target, done)
    assert (0, 0, {}) == (done.there, done.stands.size, done.stands.heads)


def test_every_transaction_holds_whole_frames(
    made: Path, tmp_path: Path, original: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the bounds, the events of a frame are stored with it, and with each other."""
    taken: list[Rows] = []
    straight = Ledger.take

    def take(self: Ledger, rows: Rows) -> None:
        taken.append(rows)
        straight(self, rows)

    monkeypatch.setattr(Ledger, "take", take)
    monkeypatch.setattr(copying, "BATCH_EVENTS_MAX", 1)
    with Ledger(made, read_only=True) as source, Ledger(tmp_path / "b.db") as target:
        check(target, copy(source, target))
        frames = len(original["frames"])
        assert frames == sum(len(rows.evidence) // 3 for rows in taken)
        assert {0, 1} == {len(rows.evidence) // 3 for rows in taken}
        assert max(len(rows.seals) for rows in taken) == 4  # of one frame
    monkeypatch.setattr(copying, "BATCH_EVENTS_MAX", 1_000)
    for bytes_max, transactions in ((1, len(taken)), (10_000_000, 1)):
        taken.clear()
        monkeypatch.setattr(copying, "BATCH_BYTES_MAX", bytes_max)
        with Ledger(made, read_only=True) as source, Ledger() as target:
            check(target, copy(source, target))
        assert transactions == len(taken)


def test_progress_is_told_of_every_event_compared_or_copied(made: Path, tmp_path: Path) -> None:
    for there in (0, 81):
        told: list[int] = []
        with (
            Ledger(made, read_only=True) as source,
            Ledger(tmp_path / "b.db", unfinished=True) as target,
        ):
            assert there == copy(source, target, told.append).there
        assert 81 == sum(told)


def test_what_a_source_grows_by_meanwhile_is_copied_the_next_time(
    source: Path, places: Callable[[str], str]
) -> None:
    target = places("pg")
    with Ledger(source) as growing, Ledger(source, read_only=True) as one, Ledger(target) as other:
        size = growing.position()

        def advance(_: int) -> None:
            if growing.position() == size:
                feed(growing, says(delta(1, {"A": "9"})), session="more")

        done = copy(one, other, advance)
        check(other, done)
        assert (size, size + 3) == (done.stands.size, growing.position())
        done = copy(one, other)
        check(other, done)
        assert (size, size + 3) == (done.there, done.stands.size)


def test_a_copy_goes_on_as_the_original_would(source: Path, places: Callable[[str], str]) -> None:
    """Natural keys, sessions and versions are known there."""
    copied(str(source), places("pg"))
    told: list[object] = []
    for place in (str(source), places("pg")):
        with Ledger(place) as ledger:
            with ledger.intake(VENUE, "main", session="next", opened_ns=T, now_ns=lambda: T) as intake:
                tally = intake.receive(says(fill("f1", 3, key="fill:f1")))
                intake.receive(says(fill("f8", 3, key="fill:f8")))
            assert 1 == tally.duplicates
            catch_up_all(ledger)
            told.append(everything(ledger))
    assert told[0] == told[1]


REDACTED: Final = (
    "DELETE FROM evidence WHERE rowid IN (2, 7)",
    "UPDATE evidence SET payload=x'00' WHERE rowid IN (1, 9)",
    "INSERT INTO evidence VALUES ('nobody', 1, x'00'), ('nobody', 2, x'01')",
    "UPDATE evidence SET rowid=rowid+1000 WHERE rowid>=12; INSERT INTO evidence (rowid, session, ordinal, payload) "
    "VALUES (500, 'nobody', 1, x'00')",
)


@pytest.mark.parametrize("statement", REDACTED)
def test_frames_that_are_not_those_of_the_events_are_copied_as_they_are(
    source: Path, places: Callable[[str], str], statement: str
) -> None:
    """That they were changed, are gone or are nobody's is for `verify` to say, of the copy as of the original."""
    with closing(sqlite3.connect(source)) as store:
        store.executescript(statement)
    with Ledger(source, read_only=True) as ledger:
        before = everything(ledger)
    for one, other in (("source.db", "pg"), ("pg", "back.db")):
        assert before == copied(places(one), places(other))[1]
    with Ledger(source) as ledger:
        feed(ledger, says(delta(1, {"A": "9"})), session="grown")
        catch_up_all(ledger)
        before = everything(ledger)
    for one, other in (("source.db", "pg"), ("pg", "back.db")):
        assert before == copied(places(one), places(other))[1]


def test_a_target_that_lost_a_frame_is_left_alone(made: Path, source: Path) -> None:
    with closing(sqlite3.connect(source)) as store:
        store.executescript("DELETE FROM evidence WHERE rowid=2")
    with (
        Ledger(made, read_only=True) as one,
        Ledger(source) as target,
        pytest.raises(NoBeginning, match="frame 2 of session s1 is not what"),
    ):
        copy(one, target)


# Strangers -----------------------------------------------------------------------------------------------------------


def stands(ledger: Ledger) -> list[Any]:
    with ledger.view() as view:
        return [*view.events(), *view.frames(), *view.natural_keys()]


@pytest.mark.parametrize("name", ["b.db", "pg"])
def test_a_target_that_is_no_beginning_of_the_source_is_left_alone(
    made: Path, places: Callable[[str], str], name: str
) -> None:
    with Ledger(made, read_only=True) as source, Ledger(places(name)) as target:
        feed(target, says(delta(1, {"A": "9"})))
        before = stands(target)
        with pytest.raises(
            NoBeginning, match=r"scripted:main version 2 \(position 2\) is not what .*a\.db has there"
        ):
            copy(source, target)
        assert before == stands(target)


def test_a_target_that_was_written_to_since_is_left_alone(made: Path, tmp_path: Path) -> None:
    copied(str(made), str(tmp_path / "b.db"))
    with Ledger(made, read_only=True) as source, Ledger(tmp_path / "b.db") as target:
        feed(target, says(delta(1, {"A": "9"})), session="since")
        before = stands(target)
        with pytest.raises(NoBeginning, match=r"it goes on after the end of .*a\.db; nothing was written"):
            copy(source, target)
        assert before == stands(target)


def test_a_target_that_ends_within_a_frame_is_left_alone(made: Path, source: Path) -> None:
    with closing(sqlite3.connect(source)) as store:
        (position,) = store.execute(
            "SELECT max(rowid) FROM stored_events WHERE originator_id='scripted:other'"
        ).fetchone()
        (position,) = store.execute(
            "SELECT min(rowid) FROM stored_events WHERE topic='OrderUpdated' AND rowid < ?", (position,)
        ).fetchone()
        store.execute("DELETE FROM stored_events WHERE rowid >= ?", (position,))
        store.execute("DELETE FROM seals WHERE position >= ?", (position,))
        store.commit()
    with Ledger(made, read_only=True) as whole, Ledger(source) as target:
        with pytest.raises(NoBeginning, match="it ends within a frame"):
            copy(whole, target)
        assert position - 1 == target.position()


def test_a_ledger_is_not_copied_to_where_it_is_however_that_is_named(
    source: Path, tmp_path: Path, places: Callable[[str], str]
) -> None:
    (tmp_path / "link.db").symlink_to(source)
    (tmp_path / "hard.db").hardlink_to(source)
    for other in ("link.db", "hard.db", "source.db"):
        with (
            Ledger(source, read_only=True) as one,
            Ledger(tmp_path / other, read_only=True) as same,
            pytest.raises(NoBeginning, match="not copied to where it is"),
        ):
            copy(one, same)
    url = places("pg")
    for other in ("&application_name=else", "%20-cTimeZone%3DAsia/Tokyo", "%20-cDateStyle%3DGerman"):
        with (
            Ledger(url) as one,
            Ledger(f"{url}{other}") as same,
            pytest.raises(NoBeginning, match="not copied to where it is"),
        ):
            copy(one, same)
    with Ledger() as one, pytest.raises(NoBeginning, match="not copied to where it is"):
        copy(one, one)


# Damage --------------------------------------------------------------------------------------------------------------

AT: Final = 20
"""The position of an event that is damaged."""
DAMAGES: Final[dict[str, tuple[str, str]]] = {
    "a state": ("UPDATE stored_events SET state=x'00' WHERE rowid={at}", "version {version} "),
    "a topic": ("UPDATE stored_events SET topic='FillRecorded' WHERE rowid={at}", "version {version} "),
    "an account": ("UPDATE stored_events SET originator_id='x:y' WHERE rowid={at}", "position {at}"),
    "a seal": ("UPDATE seals SET seal=zeroblob(32) WHERE position={at}", "version {version} "),
    "a seal gone": ("DELETE FROM seals WHERE position={at}", "version {version} .*its seal is gone"),
    "a row's type": ("UPDATE stored_events SET topic=x'ff' WHERE rowid={at}", "its row is damaged"),
    "an event gone": (
        "DELETE FROM stored_events WHERE rowid={at}; DELETE FROM seals WHERE position={at}",
        "positions {at} to {at} are gone",
    ),
    "a hole": (
        "UPDATE stored_events SET rowid=rowid+1000 WHERE rowid>={at}; UPDATE seals SET position=position+1000 "
        "WHERE position>={at}",
        "positions {at} to 1019 are gone",
    ),
    "the last event gone": (
        "DELETE FROM stored_events WHERE rowid=(SELECT max(rowid) FROM stored_events)",
        "1 seals are of no event",
    ),
    "a frame's type": ("UPDATE evidence SET payload='text' WHERE rowid=5", "frame .* its row is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_not_copied(
    source: Path, original: dict[str, list[Any]], damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH_EVENTS_MAX", 2)
    statement, told = DAMAGES[damage]
    version = original["events"][AT - 1][1]
    with closing(sqlite3.connect(source)) as store:
        store.executescript(f"PRAGMA ignore_check_constraints=1; {statement.format(at=AT)}; ")
    with Ledger(source, read_only=True) as one, Ledger(tmp_path / "b.db") as target:
        with pytest.raises(Corrupt, match=told.format(at=AT, version=version)):
            copy(one, target)
        with target.view() as view:
            events = list(view.events())
        assert original["events"][: len(events)] == events
        assert 0 < len(events) < len(original["events"])
        assert [] == list(target.verify())


PLANTED: Final[dict[str, tuple[str, type[StoreError], str]]] = {
    "a state": (
        "UPDATE stored_events SET state=x'00' WHERE rowid=20",
        Corrupt,
        r"version \d+ \(position 20\)",
    ),
    "a frame": ("UPDATE evidence SET payload=x'00' WHERE rowid=5", Corrupt, "its frames are not those of"),
    "a frame gone": ("DELETE FROM evidence WHERE rowid=5", Corrupt, "its frames are not those of"),
    "frames that changed places": (
        "UPDATE evidence SET rowid=1000 WHERE rowid=5",
        Corrupt,
        "its frames are not those of",
    ),
    "a frame of nobody": (
        "INSERT INTO evidence VALUES ('n', 1, x'00')",
        Corrupt,
        "its frames are not those of",
    ),
    "a key gone": (
        "DELETE FROM natural_keys WHERE key='fill:f1'",
        Corrupt,
        "its natural keys are not those of",
    ),
    "a key": ("INSERT INTO natural_keys VALUES ('a', 1, 'k')", Corrupt, "its natural keys are not those of"),
    "the end gone": (
        "DELETE FROM stored_events WHERE rowid > 60; DELETE FROM seals WHERE position > 60",
        Corrupt,
        "its events are not those of",
    ),
    "more": (
        "INSERT INTO stored_events SELECT 'scripted:new', 1, topic, state FROM stored_events WHERE rowid=1",
        Corrupt,
        "its seal is gone",
    ),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_copy_that_is_not_equal_is_found_by_the_check(made: Path, tmp_path: Path, plant: str) -> None:
    statement, kind, told = PLANTED[plant]
    with Ledger(made, read_only=True) as source, Ledger(tmp_path / "b.db") as target:
        done = copy(source, target)
        check(target, done)
        with closing(sqlite3.connect(tmp_path / "b.db")) as store:
            store.executescript(statement)
        with pytest.raises(kind, match=told):
            check(target, done)


def test_a_copy_that_was_fed_meanwhile_is_found_by_the_check(made: Path, tmp_path: Path) -> None:
    with Ledger(made, read_only=True) as source, Ledger(tmp_path / "b.db") as target:
        done = copy(source, target)
        feed(target, says(delta(1, {"A": "9"})), session="since")
        with pytest.raises(Conflict, match="somebody else wrote to it"):
            check(target, done)


def test_who_writes_between_two_transactions_is_noticed(
    made: Path, places: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH_EVENTS_MAX", 5)
    url = places("pg")
    with Ledger(made, read_only=True) as source, Ledger(url) as target, Ledger(url) as other:

        def advance(_: int) -> None:
            feed(other, says(delta(1, {"A": "9"})), session="since")

        with pytest.raises(Conflict, match="somebody else"):
            copy(source, target, advance)


def test_what_postgresql_cannot_hold_is_told_and_what_is_before_it_is_copied(
    tmp_path: Path, places: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH_EVENTS_MAX", 1)
    with Ledger(tmp_path / "a.db") as source, Ledger(places("pg")) as target:
        feed(source, says(fill("f", 3, key="k" * 501)))
        with pytest.raises(Unstorable, match=r"an id of 501 bytes.*\(scripted:main version 2\)"):
            copy(source, target)
        assert 1 == target.position()
