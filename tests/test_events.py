"""The storage format: the closed table of topics, the exact bytes of every event, and the stores of released versions.

What fails here would make stored events unreadable, or read as something else. Never mend the expectation of a released
version: add an optional field at the end of the struct, or a new topic. `golden_store/` holds a text dump of a store
that each release wrote; `python -m tests.test_events VERSION` writes that of a new one.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

import msgspec
import pytest
from msgspec.structs import replace

from ledger import Frame, Ledger, Recorded, Venue
from ledger.decoding import OURS
from ledger.events import (
    TOPICS,
    Asked,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    BalanceSnapshot,
    Event,
    FillRecorded,
    FrameQuarantined,
    FrameReleased,
    OrderUpdated,
    SessionClosed,
    SessionOpened,
    Source,
    Statement,
    Valuation,
    keyed_ns,
    opened_key,
    time_of,
)
from ledger.store import EventMapper, recorded

GOLDEN: Final = Path(__file__).parent / "golden_store"

T: Final = 1_790_000_000_000_000_000
SOURCE: Final = Source(
    venue="kraken_prime",
    channel="balances",
    session="s-1",
    ordinal=7,
    received_ns=T,
    evidence=bytes(range(32)),
    time_ns=T - 1,
    sequence=41,
    subscription="sub",
    message_id="message-7",
    asked=Asked("GET /balances", T - 2),
    late_ns=T + 5,
)
PLAIN: Final = Source("bitopro", "account-balance", "s-2", 1, T, b"")
HELD: Final = Balance(
    asset_id="btc",
    asset="BTC",
    total="1.50",
    available="1",
    locked="0.5",
    staked="0",
    pending="-0.1",
    tradable=True,
    valuation=Valuation(
        asset="USD",
        total="1e5",
        available="99999.99",
    ),
)

FULL: Final[dict[str, Event]] = {
    "BalanceSnapshot": BalanceSnapshot(
        source=SOURCE,
        key="k-1",
        balances=(HELD, Balance(asset_id="ada", asset="ADA")),
        part="page",
        more=True,
        begins=False,
    ),
    "BalanceDelta": BalanceDelta(
        source=SOURCE,
        key="k-2",
        balances=(HELD,),
        removed=("eth", "sol"),
    ),
    "OrderUpdated": OrderUpdated(
        source=SOURCE,
        key="k-3",
        order_id="o-1",
        symbol="BTC-USD",
        side="buy",
        type="limit",
        status="filled",
        closed=True,
        price="1.1",
        quantity="2.2",
        executed="2.20",
        quote_quantity="4.4",
        executed_quote="4.40",
        average_price="1.10",
        fee="0.01",
        fee_asset="USD",
        created_ns=T - 3,
        updated_ns=T - 2,
    ),
    "FillRecorded": FillRecorded(
        source=SOURCE,
        key="k-4",
        fill_id="f-1",
        order_id="o-1",
        symbol="BTC-USD",
        side="buy",
        price="1.1",
        quantity="2.2",
        quote_quantity="2.42",
        fee="0.01",
        fee_asset="USD",
        role="maker",
        counter_order_id="o-9",
        time_ns=T - 2,
    ),
    "BalanceEventImported": BalanceEventImported(
        source=SOURCE,
        key="k-5",
        asset_id="usdc",
        asset="USDC",
        cause="trade",
        amount="-1.25",
        balance="98.75",
        pending="0.00",
        time_ns=T - 2,
        memo=True,
        reference="ref",
    ),
    "FrameQuarantined": FrameQuarantined(
        source=SOURCE,
        key="k-6",
        reason="not an amount: 'NaN'",
    ),
    "SessionOpened": SessionOpened(
        source=SOURCE,
        key="k-7",
    ),
    "SessionClosed": SessionClosed(
        source=SOURCE,
        key="k-8",
        cause="end",
        frames=10,
        recorded=4,
        duplicates=3,
        control=2,
        quarantined=1,
    ),
    "FrameReleased": FrameReleased(
        source=SOURCE,
        key="k-9",
    ),
}
"""One event of each topic with every field filled by its name, each with a value of its own: none may change places."""

BARE: Final[dict[str, Event]] = {
    "BalanceSnapshot": BalanceSnapshot(PLAIN, "", ()),
    "BalanceDelta": BalanceDelta(PLAIN, "", (Balance("ada", "ADA"),)),
    "OrderUpdated": OrderUpdated(PLAIN, "", "o", "S", "sell", "market", "open", False),
    "FillRecorded": FillRecorded(PLAIN, "", "f", "o", "S", "sell", "1", "2"),
    "BalanceEventImported": BalanceEventImported(PLAIN, "", "a", "A", "fee", "-1", "0"),
    "FrameQuarantined": FrameQuarantined(PLAIN, "", ""),
    "SessionOpened": SessionOpened(PLAIN, ""),
    "SessionClosed": SessionClosed(PLAIN, "", "", 0, 0, 0, 0, 0),
    "FrameReleased": FrameReleased(PLAIN, ""),
}
"""One event of each topic with nothing said that need not be."""

_SOURCE: Final = (
    b"\x9c\xackraken_prime\xa8balances\xa3s-1\x07\xcf\x18\xd7[\x84#\xf3"
    b"\x00\x00\xc4 \x00\x01\x02\x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e"
    b"\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e"
    b"\x1f\xcf\x18\xd7[\x84#\xf2\xff\xff)\xa3sub\xa9message-7"
    b"\x92\xadGET /balances\xcf\x18\xd7[\x84#\xf2\xff\xfe"
    b"\xcf\x18\xd7[\x84#\xf3\x00\x05"
)
_PLAIN: Final = (
    b"\x9c\xa7bitopro\xafaccount-balance\xa3s-2\x01\xcf\x18\xd7[\x84#\xf3\x00\x00\xc4\x00"
    b"\xc0\xc0\xc0\xc0\xc0\xc0"
)
_HELD: Final = b"\x99\xa3btc\xa3BTC\xa41.50\xa11\xa30.5\xa10\xa4-0.1\xc3\x93\xa3USD\xa31e5\xa899999.99"

FULL_BYTES: Final[dict[str, bytes]] = {
    "BalanceSnapshot": b"\x96"
    + _SOURCE
    + b"\xa3k-1\x92"
    + _HELD
    + b"\x99\xa3ada\xa3ADA\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xa4page\xc3\xc2",
    "BalanceDelta": b"\x94" + _SOURCE + b"\xa3k-2\x91" + _HELD + b"\x92\xa3eth\xa3sol",
    "OrderUpdated": b"\xdc\x00\x12"
    + _SOURCE
    + (
        b"\xa3k-3\xa3o-1\xa7BTC-USD\xa3buy\xa5limit\xa6filled\xc3\xa31.1\xa32"
        b".2\xa42.20\xa34.4\xa44.40\xa41.10\xa40.01\xa3USD\xcf\x18\xd7[\x84#"
        b"\xf2\xff\xfd\xcf\x18\xd7[\x84#\xf2\xff\xfe"
    ),
    "FillRecorded": b"\x9e"
    + _SOURCE
    + (
        b"\xa3k-4\xa3f-1\xa3o-1\xa7BTC-USD\xa3buy\xa31.1\xa32.2\xa42.42\xa40."
        b"01\xa3USD\xa5maker\xa3o-9\xcf\x18\xd7[\x84#\xf2\xff\xfe"
    ),
    "BalanceEventImported": b"\x9b"
    + _SOURCE
    + (
        b"\xa3k-5\xa4usdc\xa4USDC\xa5trade\xa5-1.25\xa598.75\xa40.00\xcf\x18\xd7[\x84#\xf2\xff\xfe\xc3\xa3ref"
    ),
    "FrameQuarantined": b"\x93" + _SOURCE + b"\xa3k-6\xb4not an amount: 'NaN'",
    "SessionOpened": b"\x92" + _SOURCE + b"\xa3k-7",
    "SessionClosed": b"\x98" + _SOURCE + b"\xa3k-8\xa3end\n\x04\x03\x02\x01",
    "FrameReleased": b"\x92" + _SOURCE + b"\xa3k-9",
}
BARE_BYTES: Final[dict[str, bytes]] = {
    "BalanceSnapshot": b"\x96" + _PLAIN + b"\xa0\x90\xc0\xc2\xc3",
    "BalanceDelta": b"\x94" + _PLAIN + b"\xa0\x91\x99\xa3ada\xa3ADA\xc0\xc0\xc0\xc0\xc0\xc0\xc0\x90",
    "OrderUpdated": b"\xdc\x00\x12"
    + _PLAIN
    + (b"\xa0\xa1o\xa1S\xa4sell\xa6market\xa4open\xc2\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0"),
    "FillRecorded": b"\x9e" + _PLAIN + b"\xa0\xa1f\xa1o\xa1S\xa4sell\xa11\xa12\xc0\xc0\xc0\xc0\xc0\xc0",
    "BalanceEventImported": b"\x9b" + _PLAIN + b"\xa0\xa1a\xa1A\xa3fee\xa2-1\xa10\xc0\xc0\xc2\xc0",
    "FrameQuarantined": b"\x93" + _PLAIN + b"\xa0\xa0",
    "SessionOpened": b"\x92" + _PLAIN + b"\xa0",
    "SessionClosed": b"\x98" + _PLAIN + b"\xa0\xa0\x00\x00\x00\x00\x00",
    "FrameReleased": b"\x92" + _PLAIN + b"\xa0",
}


def stored(event: Event) -> tuple[str, bytes]:
    row = EventMapper().to_stored_event(Recorded("a:b", 1, event))
    return row.topic, row.state


def read(topic: str, state: bytes) -> Event:
    return recorded("a:b", 1, topic, state, 0).event


# The table of topics -----------------------------------------------------------------------------------------------


def test_the_topics_are_exactly_these_whatever_their_classes_are_called() -> None:
    assert [
        "BalanceSnapshot",
        "BalanceDelta",
        "OrderUpdated",
        "FillRecorded",
        "BalanceEventImported",
        "FrameQuarantined",
        "SessionOpened",
        "SessionClosed",
        "FrameReleased",
    ] == list(TOPICS)


def test_every_event_has_one_topic_and_every_topic_an_event() -> None:
    assert set(get_args(Event)) == set(TOPICS.values())
    assert len(TOPICS) == len(set(TOPICS.values()))


@pytest.mark.parametrize(
    ("topic", "full", "bare"),
    [
        ("BalanceSnapshot", T - 1, 0),
        ("BalanceDelta", T - 1, 0),
        ("OrderUpdated", T - 2, 0),
        ("FillRecorded", 0, 0),
        ("BalanceEventImported", T - 2, 0),
        ("FrameQuarantined", T - 1, 0),
        ("SessionOpened", 0, 0),
        ("SessionClosed", 0, 0),
        ("FrameReleased", T - 1, 0),
    ],
)
def test_a_natural_key_belongs_to_an_instant_that_the_venue_tells_and_never_to_when_we_heard(
    topic: str, full: int, bare: int
) -> None:
    assert (full, bare) == (keyed_ns(FULL[topic]), keyed_ns(BARE[topic]))


def test_the_key_of_an_opening_is_stored_so_it_never_changes() -> None:
    assert "session:s-1:opened" == opened_key("s-1")


@pytest.mark.parametrize("topic", TOPICS)
def test_events_are_values_that_nobody_can_change(topic: str) -> None:
    event = FULL[topic]
    assert event == msgspec.structs.replace(event)
    assert event != BARE[topic]
    with pytest.raises(AttributeError):
        event.key = "other"  # type: ignore[misc]


# The bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS)
def test_an_event_is_stored_under_its_topic_as_exactly_these_bytes(topic: str) -> None:
    assert (topic, FULL_BYTES[topic]) == stored(FULL[topic])
    assert (topic, BARE_BYTES[topic]) == stored(BARE[topic])


@pytest.mark.parametrize("topic", TOPICS)
def test_these_bytes_are_read_as_exactly_this_event(topic: str) -> None:
    assert FULL[topic] == read(topic, FULL_BYTES[topic])
    assert BARE[topic] == read(topic, BARE_BYTES[topic])
    assert TOPICS[topic] is type(read(topic, BARE_BYTES[topic]))


@pytest.mark.parametrize("topic", TOPICS)
def test_no_two_fields_of_a_full_event_could_be_swapped_unseen(topic: str) -> None:
    fields: list[object] = msgspec.msgpack.decode(stored(FULL[topic])[1])
    assert len(fields) == len({repr(field) for field in fields})


@pytest.mark.parametrize("part", [SOURCE, HELD], ids=["Source", "Balance"])
def test_no_two_fields_of_a_part_of_an_event_could_be_swapped_unseen(part: msgspec.Struct) -> None:
    values = [getattr(part, name) for name in part.__struct_fields__]
    assert len(values) == len({repr(value) for value in values})


@pytest.mark.parametrize("topic", TOPICS)
def test_optional_fields_missing_at_the_end_are_read_as_not_said(topic: str) -> None:
    """What an older release stored, before the optional fields came."""
    cls = TOPICS[topic]
    fields: list[Any] = msgspec.msgpack.decode(stored(FULL[topic])[1])
    required = sum(field.required for field in msgspec.structs.fields(cls))
    for length in range(required, len(fields) + 1):
        found = read(topic, msgspec.msgpack.encode(fields[:length]))
        for index, field in enumerate(msgspec.structs.fields(cls)):
            expected = getattr(FULL[topic], field.name) if index < length else field.default
            assert expected == getattr(found, field.name)


def test_parts_of_an_event_may_lack_their_last_optional_fields_too() -> None:
    fields: list[Any] = msgspec.msgpack.decode(stored(FULL["BalanceDelta"])[1])
    source, key, [held], removed = fields
    found = read("BalanceDelta", msgspec.msgpack.encode([source[:6], key, [held[:2]], removed]))
    bare = Source("kraken_prime", "balances", "s-1", 7, T, bytes(range(32)))
    assert BalanceDelta(bare, "k-2", (Balance("btc", "BTC"),), ("eth", "sol")) == found


@pytest.mark.parametrize("topic", TOPICS)
def test_a_field_that_a_later_release_appends_does_not_stop_this_one_from_reading(topic: str) -> None:
    fields: list[Any] = msgspec.msgpack.decode(stored(FULL[topic])[1])
    assert FULL[topic] == read(topic, msgspec.msgpack.encode([*fields, "said by a later release"]))


def test_amounts_are_stored_as_the_digits_that_were_sent() -> None:
    digits = "0.1234567890123456789", "1" * 38, "1.50", "-0", "1e99"
    event = BalanceDelta(PLAIN, "", tuple(Balance(text, text, text) for text in digits))
    found = read(*stored(event))
    assert isinstance(found, BalanceDelta)
    assert digits == tuple(balance.total for balance in found.balances)


# When --------------------------------------------------------------------------------------------------------------


def test_a_statement_is_of_the_venues_own_time_or_else_of_when_it_came() -> None:
    assert T - 1 == time_of(FULL["BalanceDelta"])
    assert T == time_of(BARE["BalanceDelta"])
    assert T - 1 == time_of(FULL["FillRecorded"])


def test_a_row_of_history_is_of_its_own_time() -> None:
    assert T - 2 == time_of(FULL["BalanceEventImported"])
    event = FULL["BalanceEventImported"]
    assert isinstance(event, BalanceEventImported)
    assert T - 1 == time_of(msgspec.structs.replace(event, time_ns=None))
    assert T == time_of(BARE["BalanceEventImported"])


def test_a_time_of_zero_is_a_time() -> None:
    assert 0 == time_of(SessionOpened(msgspec.structs.replace(PLAIN, time_ns=0), ""))
    event = FULL["BalanceEventImported"]
    assert isinstance(event, BalanceEventImported)
    assert 0 == time_of(msgspec.structs.replace(event, time_ns=0))


# Stores of released versions ---------------------------------------------------------------------------------------

FRAMES: Final = (b'{"said":"everything"}', b'{"said":"nothing more than needed"}', b"\xff\x00 not text")


SINCE: Final = {"FrameReleased": "v0.5.0"}
"""The topics that the first version did not have, and the first that had each."""


def topics_of(version: str) -> list[str]:
    return [topic for topic in TOPICS if SINCE.get(topic, "v0.1.0") <= version]


class Golden(ModuleType):
    """A venue that says one of everything a version had a topic for, then what need not be left out, then something
    unreadable. Like one of ours: where its events come from is not looked at."""

    NAME = "golden"

    def __init__(self, version: str) -> None:
        super().__init__(self.NAME)
        self.__package__ = OURS
        self.topics: Final = topics_of(version)

    def decode(self, frame: Frame) -> Sequence[Statement]:
        if frame.ordinal == 3:
            raise ValueError("it is not text")
        events = (FULL, BARE)[frame.ordinal - 1]
        source = frame.source(self.NAME, "everything", time_ns=T + frame.ordinal, sequence=frame.ordinal)
        return [("golden:other", events[topic]) for topic in self.topics] + [
            (frame.account, BalanceDelta(source, f"frame:{frame.ordinal}", (HELD,)))
        ]


def record_golden(ledger: Ledger, version: str) -> None:
    venue: Venue = Golden(version)
    with ledger.intake(venue, "main", session="golden-1", opened_ns=T, now_ns=lambda: T + 9) as intake:
        for ordinal, payload in enumerate(FRAMES, 1):
            intake.receive(payload, T + ordinal)


def expected_golden(version: str) -> list[Recorded]:
    def source(ordinal: int, **more: Any) -> Source:
        digest = sha256(FRAMES[ordinal - 1]).digest()
        return Source("golden", more.pop("channel"), "golden-1", ordinal, T + ordinal, digest, **more)

    opened = SessionOpened(Source("golden", "session", "golden-1", 0, T, b""), "session:golden-1:opened")
    closed = SessionClosed(
        Source("golden", "session", "golden-1", 3, T + 9, b""),
        "session:golden-1:closed:3",
        "end",
        3,
        2,
        0,
        0,
        1,
    )
    said: list[Statement] = [("golden:main", opened)]
    for ordinal, events in ((1, FULL), (2, BARE)):
        said += [("golden:other", events[topic]) for topic in topics_of(version)]
        place = source(ordinal, channel="everything", time_ns=T + ordinal, sequence=ordinal)
        said.append(("golden:main", BalanceDelta(place, f"frame:{ordinal}", (HELD,))))
    reason = "golden decoder failed: ValueError: it is not text"
    said.append(("golden:main", FrameQuarantined(source(3, channel=""), "", reason)))
    said.append(("golden:main", closed))
    versions = {"golden:main": 0, "golden:other": 0}
    found: list[Recorded] = []
    for position, (account, event) in enumerate(said, 1):
        versions[account] += 1
        found.append(Recorded(account, versions[account], event, position))
    return found


def load(dump: Path, path: Path) -> None:
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA journal_mode=WAL")
        store.executescript(dump.read_text())


def released(version: str) -> list[Recorded]:
    """What the golden store of a version holds: what that version could not say yet is not said."""
    unknown = {"v0.1.0": {"asked": None, "late_ns": None}, "v0.2.0": {"late_ns": None}}.get(version, {})
    return [
        replace(each, event=replace(each.event, source=replace(each.event.source, **unknown)))
        for each in expected_golden(version)
    ]


@pytest.mark.parametrize("dump", sorted(GOLDEN.glob("v*.sql")), ids=lambda dump: dump.stem)
def test_the_store_of_a_released_version_is_read_event_by_event(tmp_path: Path, dump: Path) -> None:
    load(dump, tmp_path / "golden.db")
    before = (tmp_path / "golden.db").read_bytes()
    with Ledger(tmp_path / "golden.db", read_only=True) as ledger:
        found = list(ledger.replay())
        assert released(dump.stem) == found
        assert list(FRAMES) == [ledger.frame_bytes("golden-1", ordinal) for ordinal in (1, 2, 3)]
        assert set(topics_of(dump.stem)) == {type(recorded.event).__name__ for recorded in found}
    assert before == (tmp_path / "golden.db").read_bytes()


@pytest.mark.parametrize("dump", sorted(GOLDEN.glob("v*.sql")), ids=lambda dump: dump.stem)
def test_the_store_of_a_released_version_is_written_on_and_knows_what_it_holds(
    tmp_path: Path, dump: Path
) -> None:
    load(dump, tmp_path / "golden.db")
    with Ledger(tmp_path / "golden.db") as ledger:
        record_golden(ledger, dump.stem)
        assert released(dump.stem) == list(ledger.replay())
        with ledger.intake(Golden(dump.stem), "main", session="golden-2") as intake:
            tally = intake.receive(FRAMES[0])
        assert (1, 0, 1) == (tally.frames, tally.recorded, tally.duplicates)
        added = list(ledger.replay(after=len(expected_golden(dump.stem))))
    # All that the first frame says has a key, and every key is known.
    assert ["SessionOpened", "SessionClosed"] == [type(recorded.event).__name__ for recorded in added]


def test_every_topic_is_in_the_golden_stores_since_there_is_one_of_its_version() -> None:
    assert topics_of("v0.4.0") == list(TOPICS)[:8]
    assert topics_of("v0.5.0") == list(TOPICS)


def test_there_is_a_golden_store_of_the_first_version() -> None:
    assert "v0.1.0" in [dump.stem for dump in GOLDEN.glob("v*.sql")]


def write_golden(version: str) -> None:
    """Dump a store that this release writes; one that exists is never written over."""
    with (
        Ledger() as ledger,
        closing(sqlite3.connect(":memory:")) as copy,
        (GOLDEN / f"v{version}.sql").open("x") as dump,
    ):
        record_golden(ledger, f"v{version}")
        for name, sql in ledger.select("SELECT name, sql FROM sqlite_master WHERE type='table'"):
            rows = ledger.select(f"SELECT * FROM {name!s}")
            copy.execute(str(sql))
            copy.executemany(f"INSERT INTO {name!s} VALUES ({','.join('?' * len(rows[0]))})", rows)
        dump.writelines(f"{line}\n" for line in copy.iterdump())


if __name__ == "__main__":
    write_golden(sys.argv[1])
