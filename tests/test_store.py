"""The store in memory, in a file and in PostgreSQL: all or nothing, read back equal, and errors that name a place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from re import escape
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import (
    Closed,
    Conflict,
    Corrupt,
    Recorded,
    StoreError,
)
from ledger.errors import Unstorable
from ledger.events import TOPICS, BalanceDelta, Event, FrameQuarantined, SessionOpened, Source, numbers
from ledger.sqlite import KEYS_ASKED_MAX
from ledger.sqlite_file import TABLES
from ledger.store import PAGE_EVENTS_MAX, Store
from tests import scripted

ACCOUNT = "bitopro:main"


def event(version: int, account: str = ACCOUNT, key: str | None = None) -> Recorded:
    source = Source("bitopro", "account-balance", "s", version, 1_790_000_000_000_000_000 + version, b"")
    return Recorded(account, version, SessionOpened(source, f"key-{version}" if key is None else key))


def keyed(key: str, at_ns: int = 0) -> BalanceDelta:
    """A statement with a natural key at an instant."""
    return BalanceDelta(Source("bitopro", "account-balance", "s", 1, 1, b"", at_ns), key, ())


def numbered(events: Iterable[Event]) -> list[Recorded]:
    return [Recorded(ACCOUNT, version, each) for version, each in enumerate(events, 1)]


def fill(store: Store, first: int, last: int, account: str = ACCOUNT) -> None:
    """Append the account's versions `first` to `last`, each with a key and a frame of its own."""
    versions = range(first, last + 1)
    store.append(
        [event(version, account) for version in versions],
        [(account, version, b"frame %d" % version) for version in versions],
    )


def contents(store: Store) -> list[list[tuple[Any, ...]]]:
    return [store.select(f"SELECT * FROM {table} ORDER BY 1, 2") for table in sorted(TABLES)]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Store]:
    place: Path | str | None = None
    if request.param == "sqlite":
        place = tmp_path / "ledger.db"
    elif request.param == "postgres":
        place = request.getfixturevalue("new_schema")
    with closing(Store(place)) as opened:
        yield opened


# Append and read ---------------------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back_equal(store: Store) -> None:
    fill(store, 1, 3)
    expected = [msgspec.structs.replace(event(version), position=version) for version in (1, 2, 3)]
    assert expected == store.events(ACCOUNT)
    assert expected == store.all_events()
    assert b"frame 2" == store.evidence(ACCOUNT, 2)
    assert {2: b"frame 2", 3: b"frame 3"} == store.evidence_between(ACCOUNT, 2, 9)
    assert {(0, "key-1"), (0, "key-3")} == store.known(ACCOUNT, [keyed(f"key-{n}") for n in (1, 3, 4)])


def test_an_empty_ledger_has_nothing_of_anything(store: Store) -> None:
    assert ([], [], 0) == (store.events("x"), store.all_events(), store.head())
    assert (None, {}, 0) == (
        store.evidence("s", 1),
        store.evidence_between("s", 0, 9),
        store.last_ordinal("s"),
    )
    assert set() == store.known("x", [keyed("key")]) | store.known("x", [])
    assert not store.has_session("x", "s")
    account = store.account("x")
    assert ("x", 0, 0) == (account.id, account.version, account.newest_ns)


def test_positions_run_through_all_accounts_and_versions_through_each(store: Store) -> None:
    fill(store, 1, 2, "a:1")
    fill(store, 1, 1, "a:2")
    fill(store, 3, 3, "a:1")
    places = [(each.position, each.account, each.version) for each in store.all_events()]
    assert [(1, "a:1", 1), (2, "a:1", 2), (3, "a:2", 1), (4, "a:1", 3)] == places
    assert [1, 2, 4] == [each.position for each in store.events("a:1")]
    assert 4 == store.head()
    assert [0, 3, 1] == [store.last_ordinal(session) for session in ("a:0", "a:1", "a:2")]


def test_events_are_read_in_pages_after_and_up_to_a_version(store: Store) -> None:
    count = 2 * PAGE_EVENTS_MAX + 5
    fill(store, 1, count)
    first = store.events(ACCOUNT)
    assert list(range(1, PAGE_EVENTS_MAX + 1)) == [each.version for each in first]
    assert [count - 1, count] == [each.version for each in store.events(ACCOUNT, after=count - 2)]
    assert [4, 5] == [each.version for each in store.events(ACCOUNT, after=3, upto=5)]
    assert [] == store.events(ACCOUNT, upto=0)
    assert [] == store.events(ACCOUNT, after=count)
    assert PAGE_EVENTS_MAX == len(store.all_events())
    assert [count] == [each.position for each in store.all_events(after=count - 1)]


def test_an_account_is_as_far_as_its_events_brought_it(store: Store) -> None:
    store.append(numbered([keyed("a", 5), keyed("b", 9), keyed("", 99), keyed("c", 7)]), [])
    store.append([Recorded("b:2", 1, keyed("d", 50))], [])
    account = store.account(ACCOUNT)
    assert (ACCOUNT, 4, 9) == (account.id, account.version, account.newest_ns)


def test_the_opening_of_a_session_is_known_of_its_own_account(store: Store) -> None:
    store.append([event(1, key="session:s-1:opened")], [])
    assert store.has_session(ACCOUNT, "s-1")
    assert not store.has_session(ACCOUNT, "s-2")
    assert not store.has_session("bitopro:a", "s-1")
    assert not store.has_session("bitopro:z", "s-1")


def test_any_number_of_keys_of_any_text_is_known_again(store: Store) -> None:
    most = store._engine.ID_BYTES_MAX or 10_000
    odd = ["a\0b", "a", " ", "é", "😀", "'", '"', "\\u0000", "%", "k" * most, "[]", "?"]
    keys = odd + [f"key-{number}" for number in range(3 * KEYS_ASKED_MAX + 1)]
    store.append(numbered(map(keyed, keys)), [])
    asked = [keyed(key) for key in (*keys, "a\0", "a\0c", "\0", "b", "")]
    assert {(0, key) for key in keys} == store.known(ACCOUNT, asked)
    assert set() == store.known("bitopro:other", asked)


def test_a_key_is_known_at_its_own_instant_only(store: Store) -> None:
    store.append(numbered([keyed("a", 5), keyed("a", 7), keyed("b", 5)]), [])
    asked = [keyed("a", 5), keyed("a", 6), keyed("a", 7), keyed("b", 7), keyed("a")]
    assert {(5, "a"), (7, "a")} == store.known(ACCOUNT, asked)


pairs = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    st.integers(0, 2) | st.integers(0, 2**63 - 1),
)


@given(st.lists(pairs, max_size=8, unique=True), st.data())
@settings(deadline=None, max_examples=40)
def test_exactly_the_stored_keys_are_known(asked: list[tuple[str, int]], data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from(asked))) if asked else set[tuple[str, int]]()
    with closing(Store(None)) as store:
        store.append(numbered(keyed(*pair) for pair in kept), [])
        found = store.known(ACCOUNT, [keyed(*pair) for pair in asked])
        assert {(at_ns, key) for key, at_ns in kept} == found


# All or nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "evidence"),
    [
        ([event(3), event(2, key="new")], []),
        ([event(3), event(3, key="new")], []),
        ([event(3)], [("new", 1, b"new"), (ACCOUNT, 2, b"frame 2")]),
        ([event(3)], [("new", 1, b"new"), ("new", 1, b"other")]),
        ([event(3), event(4, key="key-2")], [("new", 1, b"new")]),
        ([event(3), event(4, key="key-3")], [("new", 1, b"new")]),
    ],
    ids=["version", "version twice", "evidence", "evidence twice", "natural key", "natural key twice"],
)
def test_a_conflict_on_anything_stores_nothing_at_all(
    store: Store, events: Sequence[Recorded], evidence: Sequence[tuple[str, int, bytes]]
) -> None:
    fill(store, 1, 2)
    before = contents(store)
    with pytest.raises(Conflict, match=f"{escape(store.name)}: somebody else appended first"):
        store.append(events, evidence)
    assert before == contents(store)
    fill(store, 3, 4)
    assert [1, 2, 3, 4] == [each.version for each in store.events(ACCOUNT)]


def test_the_same_version_of_another_account_is_no_conflict(store: Store) -> None:
    fill(store, 1, 2, "a:1")
    fill(store, 1, 2, "a:2")
    assert 4 == store.head()


def test_an_event_that_cannot_be_encoded_stores_nothing(store: Store) -> None:
    huge = msgspec.structs.replace(event(2).event.source, sequence=2**64)
    with pytest.raises(OverflowError):
        store.append([event(1), Recorded(ACCOUNT, 2, SessionOpened(huge, "k"))], [("s", 1, b"x")])
    assert [[], [], []] == contents(store)


@pytest.mark.parametrize("field", ["ordinal", "received_ns", "time_ns", "sequence", "late_ns"])
@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, 2**63, 2**64 - 1])
def test_an_event_with_a_number_that_no_database_holds_stores_nothing(
    store: Store, field: str, number: int
) -> None:
    wide = msgspec.structs.replace(event(2).event.source, **{field: number})
    said = SessionOpened(wide, "\u03c0" * 20)  # bytes that could be the beginning of such a number
    if number < 2**63:
        store.check(ACCOUNT, said)
        store.append([event(1), Recorded(ACCOUNT, 2, said)], [])
        assert said == store.events(ACCOUNT)[1].event
        return
    for refused in (
        lambda: store.check(ACCOUNT, said),
        lambda: store.append([event(1), Recorded(ACCOUNT, 2, said)], [("s", 1, b"x")]),
    ):
        with pytest.raises(
            Unstorable, match=f"a number out of range: {number}; a database takes {2**63 - 1}"
        ):
            refused()
    assert [[], [], []] == contents(store)


def test_every_number_of_an_event_is_looked_at() -> None:
    for kind in TOPICS.values():
        made = planted(kind, iter(range(1, 100)))
        assert sorted(each for each in numbers(made) if each) == sorted(integers(made))


def planted(kind: Any, count: Iterator[int]) -> Any:
    """A struct with another number in each of its fields that may hold one."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name in kind.__struct_fields__:
        kinds = get_args(hints[name]) or (hints[name],)
        struct = next(
            (each for each in kinds if isinstance(each, type) and issubclass(each, msgspec.Struct)), None
        )
        if int in kinds:
            values[name] = next(count)
        elif struct is not None:
            values[name] = planted(struct, count)
        else:
            values[name] = None
    return kind(**values)


def integers(value: Any) -> list[int]:
    if isinstance(value, msgspec.Struct):
        return [each for name in value.__struct_fields__ for each in integers(getattr(value, name))]
    return [value] if isinstance(value, int) else []


def test_statements_of_a_projection_are_written_all_or_not_at_all(store: Store) -> None:
    store.write(
        [("CREATE TABLE mine (n INTEGER PRIMARY KEY)", [()]), ("INSERT INTO mine VALUES (?)", [(1,)])]
    )
    with pytest.raises(Conflict):
        store.write([("INSERT INTO mine VALUES (?)", [(2,), (3,)]), ("INSERT INTO mine VALUES (?)", [(1,)])])
    with pytest.raises(StoreError, match="nowhere"):
        store.write([("INSERT INTO mine VALUES (?)", [(2,)]), ("INSERT INTO nowhere VALUES (?)", [(1,)])])
    assert [(1,)] == store.select("SELECT n FROM mine")


def test_no_error_of_the_library_or_of_sqlite_comes_through(store: Store) -> None:
    with pytest.raises(StoreError, match="syntax error"):
        store.select("SELEC 1")
    with pytest.raises(StoreError):
        store.select("SELECT ?", (1, 2))
    with pytest.raises(StoreError, match=r"no such table|does not exist"):
        store.select("SELECT * FROM nowhere")


# What cannot be read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("topic", "OrderVanished", "unknown topic 'OrderVanished'"),
        ("topic", None, "unknown topic None"),
        ("topic", "ledger.events:SessionOpened", "unknown topic"),
        ("state", b"", "cannot be read"),
        ("state", b"\xc1", "cannot be read"),
        ("state", b"\x90", "cannot be read"),
        ("state", b"\x92\x90\xa0", "cannot be read"),
        ("state", b"\x91" * 5_000, "cannot be read"),
        ("state", None, "cannot be read"),
        ("state", "text", "cannot be read"),
        ("state", 5, "cannot be read"),
    ],
)
def test_an_event_that_cannot_be_read_is_named_by_its_account_and_version(
    store: Store, column: str, value: object, why: str
) -> None:
    fill(store, 1, 3)
    change: Any = (f"UPDATE stored_events SET {column}=? WHERE originator_version=2", [(value,)])
    if not store.in_file and isinstance(value, int):
        with pytest.raises(StoreError, match="is of type bytea"):  # a server lets no such value in
            store.write([change])
        return
    store.write([change])
    with pytest.raises(Corrupt, match=f"^{ACCOUNT} version 2: .*{why}"):
        store.events(ACCOUNT)
    with pytest.raises(Corrupt, match=f"^{ACCOUNT} version 2: .*{why}"):
        store.all_events()
    assert [1] == [each.version for each in store.events(ACCOUNT, upto=1)]


@pytest.mark.parametrize(
    "made", ["version='two'", "version=1.5", "version=x'02'", "version=NULL", "id=x'ff'", "id=NULL"]
)
def test_an_event_whose_account_or_version_is_none_is_named_by_its_position(
    tmp_path: Path, made: str
) -> None:
    with closing(Store(tmp_path / "ledger.db")) as store:
        fill(store, 1, 3)
        store.write([(f"UPDATE stored_events SET originator_{made} WHERE rowid=2", [()])])
        with pytest.raises(Corrupt, match=r"^position 2: its row is damaged$"):
            store.all_events()
        with pytest.raises(Corrupt, match=r"^position 2: its row is damaged$"):
            list(store.runs(None))


def test_a_fill_that_cannot_be_read_is_named_by_its_account_and_version(store: Store) -> None:
    fills = [scripted.fill(str(number), number) for number in range(3)]
    store.append(numbered(fills), [])
    assert fills[1:] == store.fills(ACCOUNT, 1, 3)
    for damage in (b"\x00", b"", b"\xff"):
        store.write([("UPDATE stored_events SET state=? WHERE originator_version=2", [(damage,)])])
        with pytest.raises(Corrupt, match=f"^{ACCOUNT} version 2: FillRecorded cannot be read"):
            store.fills(ACCOUNT, 0, 3)
        assert fills[2:] == store.fills(ACCOUNT, 2, 3)


def test_all_events_are_read_in_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 1, 3, "a:1")
    fill(store, 1, 4, "a:2")
    fill(store, 4, 9, "a:1")
    monkeypatch.setattr("ledger.store.RUN_EVENTS_MAX", 2)
    for page in (1, 2, 3, 5, 100):
        monkeypatch.setattr("ledger.store.PAGE_EVENTS_MAX", page)
        for account, after, upto, expected in (
            (None, 0, None, list(range(1, 14))),
            (None, 3, 12, list(range(4, 13))),
            ("a:1", 0, None, [1, 2, 3, 8, 9, 10, 11, 12, 13]),
            ("a:1", 2, 5, [3, 8, 9]),
            ("a:3", 0, None, []),
        ):
            runs = list(store.runs(account, after=after, upto=upto))
            assert expected == [each.position for run in runs for each in run]
            assert all(1 <= len(run) <= 2 for run in runs)


def test_what_comes_before_an_event_that_cannot_be_read_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.store.RUN_EVENTS_MAX", 2)
    fill(store, 1, 9)
    store.write([("UPDATE stored_events SET state=? WHERE originator_version=6", [(b"\x90",)])])
    runs = store.runs(None)
    assert [1, 2, 3, 4] == [each.version for run in (next(runs), next(runs)) for each in run]
    with pytest.raises(Corrupt, match=f"^{ACCOUNT} version 6: "):
        next(runs)
    assert [1, 2, 3, 4, 5] == [each.version for run in store.runs(None, upto=5) for each in run]


@pytest.mark.parametrize(
    ("made", "read"),
    [
        ("CAST(payload AS TEXT)", b"'frame 1'"),
        ("9", b"9"),
        ("1.5", b"1.5"),
        ("CAST(x'ff' AS TEXT)", b"'\xff'"),
    ],
)
def test_a_frame_that_was_made_a_text_or_a_number_is_read_as_other_bytes(
    tmp_path: Path, made: str, read: bytes
) -> None:
    with closing(Store(tmp_path / "ledger.db")) as store:
        fill(store, 1, 1)
        store.write([(f"UPDATE evidence SET payload={made}", [()])])
        assert read == store.evidence(ACCOUNT, 1)
        assert {1: read} == store.evidence_between(ACCOUNT, 1, 1)


def test_a_cut_off_or_longer_state_is_corrupt_wherever_it_is_cut(store: Store) -> None:
    fill(store, 1, 1)
    [(state,)] = store.select("SELECT state FROM stored_events")
    for changed in [state[:length] for length in range(len(state))] + [state + b"\0"]:
        store.write([("UPDATE stored_events SET state=?", [(changed,)])])
        with pytest.raises(Corrupt, match=f"{ACCOUNT} version 1"):
            store.all_events()


def test_text_in_an_event_that_is_not_utf8_is_corrupt(store: Store) -> None:
    fill(store, 1, 1)
    [(state,)] = store.select("SELECT state FROM stored_events")
    store.write([("UPDATE stored_events SET state=?", [(state.replace(b"bitopro", b"bit\xffpro"),)])])
    with pytest.raises(Corrupt, match=f"{ACCOUNT} version 1"):
        store.all_events()


# While one writes ------------------------------------------------------------------------------------------


def test_any_number_of_threads_read_while_one_writes(store: Store) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        seen = 0
        try:
            while not done.is_set() or not seen:
                found = [each.version for each in store.events(ACCOUNT)]
                assert list(range(1, len(found) + 1)) == found
                assert seen <= len(found)
                seen = len(found)
        except BaseException as error:
            failures.append(error)

    fill(store, 1, 1)
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for version in range(2, 60):
        fill(store, version, version)
    done.set()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert 59 == store.head()


def test_a_closed_store_says_so_whatever_is_asked(store: Store) -> None:
    store.close()
    store.close()
    asked: list[Callable[[], object]] = [
        store.head,
        store.all_events,
        lambda: store.events(ACCOUNT),
        lambda: store.evidence("s", 1),
        lambda: store.known(ACCOUNT, [keyed("key")]),
        lambda: store.account(ACCOUNT),
        lambda: store.write([]),
        lambda: fill(store, 1, 1),
    ]
    for ask in asked:
        with pytest.raises(Closed, match=f"{escape(store.name)}: the ledger is closed"):
            ask()


def test_a_quarantined_frame_keeps_its_bytes_whatever_they_are(store: Store) -> None:
    payload = bytes(range(256)) * 20
    quarantined = FrameQuarantined(Source("bitopro", "", "s", 1, 1, b"\0" * 32), "", "why")
    store.append([Recorded(ACCOUNT, 1, quarantined)], [("s", 1, payload)])
    assert payload == store.evidence("s", 1)
