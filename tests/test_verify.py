"""Verify: what was changed is found, and named; what was not raises no alarm."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import msgspec
import pytest

from ledger import Ledger, redecode, verify
from ledger.errors import Corrupt, LedgerError
from ledger.events import TOPICS, BalanceDelta, Source
from ledger.findings import Finding, first_bad
from ledger.notes import Checkpoint
from ledger.seal import genesis, leaf, seal
from ledger.view import SQLiteView as View
from tests import scripted, tampering
from tests.databases import in_memory
from tests.proving import place_of_seals
from tests.scripted import MAIN, delta, feed, says, snapshot
from tests.tampering import LATE, VENUES, Place, Subject, resealed, spoken

T: Final = tampering.T
Case = Callable[[Random], str | None]


@pytest.fixture(scope="module")
def subject() -> Generator[Subject]:
    """A clean store; in memory where the machine has such a file system."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        yield Subject(Path(folder) / "a.db")


CASES: Final = {
    "bit_of_the_file": 2000,
    "bit_of_a_cell": 1300,
    "swap": 500,
    "tail": 300,
    "middle": 400,
    "note": 300,
    "backup": 200,
}
"""How many of each kind are tried: 5,000."""


def wrong(subject: Subject, kind: str, count: int, seed: int = 4) -> list[str]:
    """What verify gets wrong in so many cases of a kind."""
    random = Random(f"{kind} {seed}")
    case: Case = getattr(subject, kind)
    return [said for _ in range(count) if (said := case(random)) is not None]


def test_five_thousand_are_tried() -> None:
    assert 5000 == sum(CASES.values())


@pytest.mark.sqlite
def test_the_store_that_is_tampered_with_has_every_kind_of_event(subject: Subject) -> None:
    subject.write()
    assert [] == subject.verify(subject.checkpoint)
    with Ledger(subject.path, read_only=True) as ledger:
        recorded = list(ledger.replay())
    assert set(TOPICS) == {type(each.event).__name__ for each in recorded}
    assert {True, False} == {bool(each.event.key) for each in recorded}
    assert any(each.event.source.late_ns for each in recorded)
    assert len({each.account for each in recorded}) > 5


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", CASES)
def test_every_change_is_found_and_the_first_bad_event_is_named(subject: Subject, kind: str) -> None:
    assert [] == wrong(subject, kind, CASES[kind])


# No false alarm ------------------------------------------------------------------------------------------------------


@pytest.mark.few(0)
def test_a_thousand_clean_ledgers_raise_no_alarm() -> None:
    random = Random(5)
    for _ in range(1000):
        with Ledger() as ledger:
            checkpoints = clean(ledger, random)
            assert [] == list(ledger.verify(VENUES, checkpoints=checkpoints))


def clean(ledger: Ledger, random: Random) -> list[Checkpoint]:
    """A ledger as it may come to be: several conversations, some told again or broken off, some frames retried."""
    checkpoints: list[Checkpoint] = []
    for number in range(random.randrange(1, 4)):
        frames = random.sample(spoken(), random.randrange(len(spoken())))
        session = random.choice(("s1", "s2", f"n{number}"))
        try:
            with ledger.intake(
                scripted.VENUE, "main", session=session, opened_ns=T, now_ns=lambda: T
            ) as intake:
                for frame in frames[: random.choice((0, 3, 99))]:
                    intake.receive(frame, T)
                intake.receive_all((frame, T) for frame in frames)
                if random.random() < 0.2:
                    raise EOFError
        except (EOFError, LedgerError):
            pass  # broken off, or another recording of that name
        if random.random() < 0.5:
            retry_all(ledger)
        if random.random() < 0.5:
            checkpoints.append(ledger.checkpoint("log", checkpoints))
    if LATE in {frame[:1] for frame in frames_of(ledger)}:
        retry_all(ledger)  # what can be read today is a finding as long as nobody retries
    return checkpoints


def frames_of(ledger: Ledger) -> list[bytes]:
    return [ledger.evidence(each) or b"" for each in ledger.replay()]


def retry_all(ledger: Ledger) -> None:
    for each in list(ledger.replay()):
        if type(each.event).__name__ == "FrameQuarantined":
            ledger.retry(VENUES, each.account, each.version)


def test_an_empty_ledger_is_right_and_has_a_checkpoint() -> None:
    with Ledger() as ledger:
        made = ledger.checkpoint("log")
        assert (0, {}) == (made.size, made.heads)
        assert [] == list(ledger.verify(VENUES, checkpoints=[made]))


def test_progress_is_told_by_the_thousand() -> None:
    told: list[int] = []
    with Ledger() as ledger:
        feed(ledger, *(says(delta(n, {"A": "1"})) for n in range(2100)))
        assert [] == list(ledger.verify(advance=told.append))
    assert [1000, 1000] == told


# Who can write the store ---------------------------------------------------------------------------------------------


def edited(store: sqlite3.Connection, position: int) -> None:
    """Change an amount of an event, keeping it readable."""
    (state,) = store.execute("SELECT state FROM stored_events WHERE rowid=?", (position,)).fetchone()
    assert b"2.50" in state
    store.execute(
        "UPDATE stored_events SET state=? WHERE rowid=?", (state.replace(b"2.50", b"9.50"), position)
    )


def first_balance(subject: Subject) -> Place:
    subject.write()
    with Ledger(subject.path, read_only=True) as ledger:
        found = next(each for each in ledger.replay() if type(each.event).__name__ == "BalanceSnapshot")
    return subject.places[found.position]


@pytest.mark.sqlite
def test_an_edit_with_all_seals_made_anew_is_found_by_the_checkpoint_which_names_the_account(
    subject: Subject,
) -> None:
    place = first_balance(subject)
    with subject.sql() as store:
        edited(store, place.position)
        resealed(store)
    with Ledger(subject.path, read_only=True) as ledger:
        assert [] == list(ledger.verify())  # consistent in itself
        found = list(ledger.verify(checkpoints=[subject.checkpoint]))
    assert ["checkpoint"] == [each.what for each in found]
    assert place.account == found[0].account


@pytest.mark.sqlite
def test_an_edit_with_all_seals_made_anew_is_found_by_the_evidence_which_names_the_event(
    subject: Subject,
) -> None:
    place = first_balance(subject)
    with subject.sql() as store:
        edited(store, place.position)
        resealed(store)
    bad = first_bad(subject.verify(subject.checkpoint))
    assert bad is not None
    assert ("decode", place.account, place.version, place.position) == (
        bad.what,
        bad.account,
        bad.version,
        bad.position,
    )


@pytest.mark.sqlite
def test_events_taken_out_and_all_others_renumbered_and_resealed_are_found_by_the_checkpoint(
    subject: Subject,
) -> None:
    with subject.sql() as store:
        place = next(p for p in subject.places.values() if p.account == MAIN and p.version == 6)
        store.execute("DELETE FROM stored_events WHERE rowid=?", (place.position,))
        for row in range(place.position + 1, len(subject.places) + 1):
            store.execute("UPDATE stored_events SET rowid=? WHERE rowid=?", (row - 1, row))
        for version in range(place.version + 1, 40):
            store.execute(
                "UPDATE stored_events SET originator_version=? WHERE originator_id=? AND originator_version=?",
                (version - 1, MAIN, version),
            )
        resealed(store)
    found = subject.verify(subject.checkpoint)
    assert ("missing", MAIN) in {(each.what, each.account) for each in found}


def test_two_accounts_in_another_order_are_found_by_the_root() -> None:
    """Each account's own seals are the same: only the tree knows the order."""
    with Ledger() as ledger, Ledger() as other:
        for into, accounts in ((ledger, "ab"), (other, "ba")):
            for account in accounts:
                frame = says(delta(1, {"A": "1"}), account=f"scripted:{account}")
                with into.intake(
                    scripted.VENUE, account, session=account, opened_ns=T, now_ns=lambda: T
                ) as intake:
                    intake.receive(frame, T)
        said = ledger.checkpoint("log")
        assert said.heads == other.checkpoint("log").heads
        assert [("checkpoint", None)] == [
            (each.what, each.account) for each in other.verify(checkpoints=[said])
        ]


def test_of_a_rewritten_history_that_goes_on_further_no_version_is_said_to_be_gone() -> None:
    with Ledger() as ledger, Ledger() as other:
        feed(ledger, says(delta(1, {"A": "1"})))
        said = ledger.checkpoint("log")
        feed(other, says(delta(1, {"A": "1"}), account="scripted:other"), says(delta(1, {"A": "1"})))
        feed(other, says(delta(2, {"A": "1"})), session="s2")
        found = list(other.verify(checkpoints=[said]))
    head = said.heads[MAIN].version
    assert head == said.size
    (missing,) = (each for each in found if each.what == "missing")
    assert (MAIN, head) == (missing.account, missing.version)
    reason = f"the first {said.size} events are not those of the checkpoint: this one is not among them"
    assert reason == missing.reason


@pytest.mark.sqlite
def test_a_checkpoint_of_another_ledger_is_found_out(subject: Subject) -> None:
    subject.write()
    with Ledger() as other:
        feed(other, says(snapshot(1, {"A": "1"})))
        said = other.checkpoint("log")
    assert subject.verify(said)


@pytest.mark.sqlite
def test_a_checkpoint_whose_heads_are_not_its_size_is_found_out(subject: Subject) -> None:
    subject.write()
    said = subject.checkpoint
    for forged in (
        msgspec.structs.replace(said, heads={}),
        msgspec.structs.replace(said, size=said.size + 1),
        msgspec.structs.replace(said, size=0),
        msgspec.structs.replace(said, size=0, heads={}),
        msgspec.structs.replace(said, root=bytes(32)),
    ):
        assert subject.verify(forged)


@pytest.mark.sqlite
def test_no_checkpoint_is_made_of_what_is_wrong_or_does_not_go_on_from_the_last(subject: Subject) -> None:
    with subject.sql() as store:
        edited(store, first_balance(subject).position)
    with subject.sql() as store:
        edited(store, 2)
    with Ledger(subject.path, read_only=True) as ledger, pytest.raises(Corrupt, match="not signed"):
        ledger.checkpoint("log")
    with subject.sql() as store:
        edited(store, 2)
        resealed(store)
    with Ledger(subject.path, read_only=True) as ledger:
        ledger.checkpoint("log")
        with pytest.raises(Corrupt, match="not signed"):
            ledger.checkpoint("log", [subject.checkpoint])
    subject.write(subject.backups[5])
    with Ledger(subject.path, read_only=True) as ledger, pytest.raises(Corrupt, match="not signed"):
        ledger.checkpoint("log", [subject.checkpoint])


@pytest.mark.sqlite
def test_events_gone_from_the_end_without_their_seals_are_found_without_a_checkpoint(
    subject: Subject,
) -> None:
    with subject.sql() as store:
        store.execute("DELETE FROM stored_events WHERE rowid=(SELECT max(rowid) FROM stored_events)")
        last = max(subject.places)
        key = next(key for key, place in subject.of_key.items() if place.position == last)
        store.execute("DELETE FROM natural_keys WHERE account=? AND at_ns=? AND key=?", key)
    assert ["missing"] == [each.what for each in subject.verify()]


@pytest.mark.sqlite
@pytest.mark.parametrize("gone", ["the last", "13", "13, 20 and the last"])
def test_seals_of_events_that_are_gone_tell_where_unless_it_is_the_end(subject: Subject, gone: str) -> None:
    last = max(subject.places)
    positions = [
        last if each == "the last" else int(each) for each in gone.replace(" and ", ", ").split(", ")
    ]
    with subject.sql() as store:
        store.executemany("DELETE FROM stored_events WHERE rowid=?", [(each,) for each in positions])
    told = {each.sentence() for each in subject.verify() if "seals" in each.reason}
    expected = {
        "the last": "1 seals are of no event: events are gone from the end",
        "13": "position 13: 1 seals from here on are of no event: events are gone",
        "13, 20 and the last": "position 13: 3 seals from here on are of no event: events are gone",
    }
    assert {expected[gone]} == told


@pytest.mark.sqlite
def test_a_frame_whose_last_event_is_gone_is_not_blamed_on_the_decoder(subject: Subject) -> None:
    """With the checkpoint, what is gone is named; that the frame says more is no news then."""
    with Ledger(subject.path.with_name("tail.db")) as ledger:
        feed(ledger)
        with ledger.intake(scripted.VENUE, "main", session="s2", opened_ns=T, now_ns=lambda: T) as intake:
            intake.receive(says(delta(1, {"A": "1"}), delta(2, {"A": "2"})), T)
            checkpoint = ledger.checkpoint("log")
            for table, place in (("stored_events", "rowid"), ("seals", "position")):
                ledger.write([(f"DELETE FROM {table} WHERE {place}=?", [(checkpoint.size,)])])
            found = list(ledger.verify([scripted.VENUE], checkpoints=[checkpoint]))
    assert [("missing", 5), ("missing", None)] == [(each.what, each.version) for each in found]


@pytest.mark.sqlite
def test_an_event_written_otherwise_but_saying_the_same_is_found(subject: Subject) -> None:
    """The bytes are sealed, not what they mean."""
    place = first_balance(subject)
    with subject.sql() as store:
        (state,) = store.execute(
            "SELECT state FROM stored_events WHERE rowid=?", (place.position,)
        ).fetchone()
        wider = b"\xdc\x00" + bytes([state[0] & 0x0F]) + state[1:]  # the array's length in two bytes
        same = msgspec.msgpack.decode(state) == msgspec.msgpack.decode(wider)
        assert (0x90, True) == (state[0] & 0xF0, same)
        store.execute("UPDATE stored_events SET state=? WHERE rowid=?", (wider, place.position))
    found = subject.verify()
    assert [("seal", place.version)] == [(each.what, each.version) for each in found]


def test_a_version_left_out_is_found_though_all_is_sealed_anew() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"})), says(delta(2, {"A": "2"})))
        seals: list[bytes] = []
        place = ledger._store._engine.POSITION
        for change in (f"-1-originator_version WHERE {place}>2", "abs(originator_version)"):
            ledger.write([(f"UPDATE stored_events SET originator_version={change}", [()])])
        for each in list(ledger.sealed(MAIN)):
            before = seals[-1] if seals else genesis(MAIN)
            seals.append(seal(before, leaf(each.version, each.topic, each.state)))
        rows = list(zip(seals, range(1, len(seals) + 1), strict=True))
        table, at = place_of_seals(ledger)
        ledger.write([(f"UPDATE {table} SET seal=? WHERE {at}=?", rows)])
        assert [("missing", 3)] == [(each.what, each.version) for each in ledger.verify()]


@pytest.mark.parametrize("position", [2, 3])
def test_a_frame_whose_event_was_changed_is_not_blamed_on_the_decoder(position: int) -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "2.50"}), delta(2, {"B": "2.50"})), says(delta(3, {"A": "3"})))
        place = f"{ledger._store._engine.POSITION}=?"
        [(state,)] = ledger.select(f"SELECT state FROM stored_events WHERE {place}", (position,))
        assert isinstance(state, bytes)
        change = f"UPDATE stored_events SET state=? WHERE {place}"
        ledger.write([(change, [(state.replace(b"2.50", b"9.50"), position)])])
        assert [("seal", position)] == [
            (each.what, each.position) for each in ledger.verify([scripted.VENUE])
        ]


def test_a_frame_that_was_changed_or_is_gone_is_named_with_the_first_event_made_of_it() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"}), delta(2, {"B": "1"})), says(delta(3, {"A": "3"})))
        ledger.write([("UPDATE evidence SET payload=? WHERE ordinal=?", [(b"\x00", 1)])])
        ledger.write([("DELETE FROM evidence WHERE ordinal=?", [(2,)])])
        assert [
            Finding("frame", "frame 1 of session s1 was changed", MAIN, 2, 2),
            Finding("frame", "frame 2 of session s1 is gone", MAIN, 4, 4),
        ] == list(ledger.verify())


def unreadable(ledger: Ledger, *positions: int) -> None:
    """Make the events at these positions unreadable."""
    place = ledger._store._engine.POSITION
    change = f"UPDATE stored_events SET topic='Nonsense' WHERE {place}=?"
    ledger.write([(change, [(position,) for position in positions])])


CHANGED: Final = ("seal", "not the event that was sealed here")


@pytest.mark.parametrize("positions", [[1], [2], [3], [4], [5], [6], [7], [2, 3], [3, 4], [6, 7], [2, 4, 6]])
def test_of_an_event_that_cannot_be_read_nothing_else_is_said_than_that(positions: list[int]) -> None:
    """Nor of the frames around it: one that two events were made of, one that one was made of, and the last."""
    frames = [
        says(delta(1, {"A": "1"})),
        says(delta(2, {"A": "2"}), delta(3, {"B": "3"})),
        says(delta(4, {"A": "4"})),
        says(delta(5, {"A": "5"})),
    ]
    with Ledger() as ledger:
        feed(ledger, *frames)
        checkpoint = ledger.checkpoint("log")
        assert 7 == checkpoint.size
        unreadable(ledger, *positions)
        found = list(ledger.verify([scripted.VENUE], checkpoints=[checkpoint]))
        told = [(each.what, each.position) for each in found if each.what != "seal"]
        assert [("event", position) for position in positions] == told
        assert {CHANGED} == {(each.what, each.reason) for each in found if each.what == "seal"}


@pytest.mark.parametrize("late", [1, 2])
def test_of_a_late_event_that_cannot_be_read_nothing_else_is_said_than_that(late: int) -> None:
    with Ledger() as ledger:
        feed(ledger, LATE + says(*(delta(number, {"A": str(number)}) for number in range(2))))
        feed(ledger, says(delta(5, {"A": "5"})), session="s2")
        retry_all(ledger)
        feed(ledger, says(delta(6, {"A": "6"})), session="s3")
        unreadable(ledger, 6 + late)
        assert {("seal", 6 + late), ("event", 6 + late)} == {
            (each.what, each.position) for each in ledger.verify(VENUES)
        }


def test_beside_an_event_that_cannot_be_read_the_checkpoint_still_finds_what_it_found(tmp_path: Path) -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"A": "1"})), says(delta(2, {"A": "2"})))
        checkpoint = ledger.checkpoint("log")
        unreadable(ledger, 4)
        table, at = place_of_seals(ledger)
        ledger.write([(f"UPDATE {table} SET seal=? WHERE {at}=4", [(b"other",)])])
        assert ["seal", "event", "checkpoint"] == [
            each.what for each in ledger.verify(checkpoints=[checkpoint])
        ]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("stored_events SET topic=x'00' WHERE rowid=3", ["event"]),
        ("stored_events SET state=1.5 WHERE rowid=3", ["event"]),
        ("seals SET seal='text' WHERE rowid=3", ["event", "checkpoint"]),
        ("seals SET seal='text' WHERE rowid=2", ["event", "checkpoint"]),
    ],
)
def test_of_a_row_that_is_damaged_a_checkpoint_says_what_is_so(
    tmp_path: Path, change: str, told: list[str]
) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        checkpoint = ledger.checkpoint("log")
        ledger.write([(f"UPDATE {change}", [()])])
        found = [each.what for each in ledger.verify(checkpoints=[checkpoint])]
        assert told == [what for what in found if what != "missing"]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ([], ["a", "b"]),
        ([1], ["a", "b"]),
        ([2], ["a", "b"]),
        ([3], ["a", "b"]),
        ([5], ["b"]),
        ([6], ["a", "b"]),
        ([8], ["a"]),
    ],
)
def test_a_frame_of_no_event_is_told_wherever_none_beside_it_cannot_be_read(
    tmp_path: Path, positions: list[int], told: list[str]
) -> None:
    """One after the second frame, whose event is at position 4, and one after the last: an event that cannot be read
    there may be theirs, those elsewhere cannot."""
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, *(says(delta(number, {"A": str(number)})) for number in range(6)))
        ledger.write(
            [
                ("UPDATE evidence SET rowid=rowid*10", [()]),
                (
                    "INSERT INTO evidence (rowid, session, ordinal, payload) VALUES (?, ?, 1, x'00')",
                    [(35, "a"), (99, "b")],
                ),
            ]
        )
        unreadable(ledger, *positions)
        found = [each.reason for each in ledger.verify() if each.what == "frame"]
        assert [f"frame 1 of session {each} is of no event" for each in told] == [
            reason.removeprefix("before it, ") for reason in found
        ]


@pytest.mark.sqlite
def test_evidence_that_is_of_no_event_is_found(subject: Subject) -> None:
    with subject.sql() as store:
        store.execute("INSERT INTO evidence VALUES ('elsewhere', 1, x'00')")
    assert ["frame"] == [each.what for each in subject.verify()]


@pytest.mark.sqlite
def test_a_natural_key_that_became_bytes_is_found(subject: Subject) -> None:
    """Python hashes bytes like the text they spell."""
    with subject.sql() as store:
        store.execute("UPDATE natural_keys SET key=CAST(key AS BLOB) WHERE key='fill:f1'")
    bad = first_bad(subject.verify())
    assert bad is not None
    place = next(place for key, place in subject.of_key.items() if key[2] == "fill:f1")
    assert (place.account, place.version) == (bad.account, bad.version)


@pytest.mark.sqlite
def test_a_natural_key_of_no_event_is_found(subject: Subject) -> None:
    """What has it would be refused as known when it comes."""
    with subject.sql() as store:
        store.execute("INSERT INTO natural_keys VALUES ('scripted:main', 0, 'fill:f77')")
    assert ["key"] == [each.what for each in subject.verify()]


class KeysOf:
    """A view that has these natural keys and no others."""

    def __init__(self, *keys: tuple[str, int, str]) -> None:
        self._keys = keys

    def natural_keys(self) -> Iterator[tuple[str, int, str]]:
        return iter(self._keys)

    def events(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize("part", ["account", "instant"])
def test_natural_keys_that_changed_places_are_found_whatever_the_hashes_of_this_run(part: str) -> None:
    """The hashes of tuples that exchanged a part often have one sum."""
    for number in range(300):
        one, other = (f"a{number}", number, f"k{number}"), (f"b{number}", 7000 + number, f"m{number}")
        swapped = (
            ((other[0], *one[1:]), (one[0], *other[1:]))
            if part == "account"
            else ((one[0], other[1], one[2]), (other[0], one[1], other[2]))
        )
        for stored, wrong in (((other, one), 0), (swapped, 1)):
            keys = verify._Keys(cast("View", KeysOf(*stored)))
            for account, at_ns, key in (one, other):
                source = Source("scripted", "", "s1", 1, 1, b"", time_ns=at_ns)
                keys.add(account, BalanceDelta(source, key, ()))
            assert wrong == len(list(keys.end(cast("Any", None))))


@pytest.mark.sqlite
def test_an_instant_that_no_natural_key_can_have_is_found(subject: Subject) -> None:
    """And does not end verify itself."""
    place = first_balance(subject)
    with subject.sql() as store:
        (state,) = store.execute(
            "SELECT state FROM stored_events WHERE rowid=?", (place.position,)
        ).fetchone()
        event = msgspec.msgpack.decode(state, type=TOPICS["BalanceSnapshot"])
        source = msgspec.structs.replace(event.source, time_ns=(1 << 64) - 1)
        store.execute(
            "UPDATE stored_events SET state=? WHERE rowid=?",
            (msgspec.msgpack.encode(msgspec.structs.replace(event, source=source)), place.position),
        )
        resealed(store)
    assert {"key", "decode"} <= {each.what for each in subject.verify()}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON natural_keys BEGIN DELETE FROM natural_keys; END",
        "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql=replace(sql, 'payload BLOB NOT NULL', 'payload BLOB')",
        "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql=replace(sql, 'topic TEXT', 'topic TEXU')",
    ],
)
def test_a_table_that_is_defined_otherwise_is_found(subject: Subject, statement: str) -> None:
    with subject.sql() as store:
        store.executescript(statement)
    assert "file" in {each.what for each in subject.verify()}


@pytest.mark.sqlite
def test_a_table_of_somebody_else_in_the_same_file_is_no_finding(subject: Subject) -> None:
    with subject.sql() as store:
        store.executescript("CREATE TABLE mine (a INTEGER PRIMARY KEY); CREATE INDEX mine_a ON mine (a)")
    assert [] == subject.verify(subject.checkpoint)


# A verify with a defect is found out ---------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_a_verify_that_does_not_compare_the_evidence_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify._Frames, "check", _unchecked)
    monkeypatch.setattr(redecode.Again, "check", lambda *_: iter(()))
    assert wrong(subject, "bit_of_a_cell", 60)


def _unchecked(frames: Any, told: Any) -> Generator[Finding, None, bytes | None]:
    frames._next = next(frames._stored, None)
    yield from ()
    return None


@pytest.mark.sqlite
def test_a_verify_that_allows_holes_between_positions_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = verify.Chain.check
    monkeypatch.setattr(
        verify.Chain,
        "check",
        lambda chain, stored: [each for each in check(chain, stored) if "positions" not in each.reason],
    )
    assert wrong(subject, "middle", 100)


@pytest.mark.sqlite
def test_a_verify_that_hashes_what_it_decoded_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = leaf

    def decoded(version: int, topic: str, state: bytes) -> bytes:
        again = msgspec.msgpack.encode(msgspec.msgpack.decode(state, type=TOPICS[topic]))
        return real(version, topic, again)

    monkeypatch.setattr(verify, "leaf", decoded)
    with pytest.raises(AssertionError):
        test_an_event_written_otherwise_but_saying_the_same_is_found(subject)


@pytest.mark.sqlite
def test_a_verify_that_does_not_count_the_seals_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify.Chain, "end", lambda *_: iter(()))
    with pytest.raises(AssertionError):
        test_events_gone_from_the_end_without_their_seals_are_found_without_a_checkpoint(subject)


@pytest.mark.sqlite
def test_a_verify_that_takes_a_checkpoint_by_its_root_alone_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify._Against, "end", lambda *_: iter(()))
    assert wrong(subject, "tail", 30)
    assert wrong(subject, "backup", 30)


@pytest.mark.sqlite
def test_a_verify_that_does_not_compare_the_natural_keys_is_found_out(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify._Keys, "end", lambda *_: iter(()))
    assert wrong(subject, "bit_of_a_cell", 60)


@pytest.mark.sqlite
def test_who_appends_after_a_seal_that_is_gone_is_not_blamed_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM seals WHERE position=3")
    with Ledger(path) as ledger:
        feed(ledger, says(delta(2, {"A": "2"})), session="s2")
        assert [("seal", 3)] == [(finding.what, finding.version) for finding in ledger.verify()]
