"""Bundles: claimed is what the balances say, the verifier concludes the same, a changed store proves nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger
from ledger.bundle import write_bundle
from ledger.errors import BadNote, Corrupt
from ledger.events import BalanceEventImported, Event
from ledger.venues import bitopro, deltadefi
from ledger.verify_bundle import PARTS, Word, unpacked, verify
from projections import Balances
from tests import scripted
from tests.golden import FRAMES, frame_of
from tests.proving import KEY, LATER, OTHER, VENUES, WHOLE, T, bundle_of, note_of, take_in
from tests.scripted import MAIN, delta, feed, imported, says, snapshot

PUBLIC = KEY.public.text()
ACCOUNT = "bitopro:main"


def proved(bundle: bytes) -> str:
    """The first line of what the verifier proves."""
    return verify(io.BytesIO(bundle), PUBLIC)[0]


def header_of(bundle: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(bundle.split(b"\n", 1)[0])
    return said


def test_the_events_begin_with_the_last_full_statement() -> None:
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE, LATER])
        take_in(ledger, bitopro, "main", [WHOLE.replace(b"1789999999000", b"1789999999800"), OTHER], "s2")
        bundle, claim = bundle_of(ledger, ACCOUNT, "ADA")
    assert (6, 6, 8) == (claim.first, claim.version, claim.as_of)
    assert "PROVED: bitopro:main ADA as of version 8: total 5, available 3.50, staked 0" == proved(bundle)
    assert "TAKEN ON TRUST: that nothing stated before version 6" in "\n".join(
        verify(io.BytesIO(bundle), PUBLIC)
    )


def test_a_balance_without_a_full_statement_is_proved_from_the_first_event_on() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(1, {"ADA": "1"})), says(delta(2, {"ADA": "2.5"})))
        bundle, claim = bundle_of(ledger, MAIN, "ADA")
    assert (1, 3) == (claim.first, claim.version)
    assert "TAKEN ON TRUST" not in "\n".join(verify(io.BytesIO(bundle), PUBLIC))


def test_a_late_statement_that_came_after_does_not_hinder_the_proof() -> None:
    with Ledger() as ledger:
        take_in(
            ledger, bitopro, "main", [WHOLE, LATER, LATER.replace(b"9500", b"9200").replace(b"7.25", b"9")]
        )
        bundle, _ = bundle_of(ledger, ACCOUNT, "ADA")
    assert "PROVED: bitopro:main ADA as of version 5: total 7.25, available 7.25, staked 0" == proved(bundle)


def test_a_balance_can_be_proved_as_of_a_version_and_as_of_a_time() -> None:
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE, LATER, OTHER])
        then, _ = bundle_of(ledger, ACCOUNT, "ADA", version=2)
        before, _ = bundle_of(ledger, ACCOUNT, "ADA", time_ns=1_789_999_999_400_000_000)
    assert "PROVED: bitopro:main ADA as of version 2: total 5, available 3.50, staked 0" == proved(then)
    told = "version 5, told of up to 1789999999400000000 ns: total 5, available 3.50, staked 0"
    assert f"PROVED: bitopro:main ADA as of {told}" == proved(before)


def test_that_an_asset_is_no_longer_held_is_proved_too() -> None:
    gone = b'{"event":"ACCOUNT_BALANCE","eventID":"9","timestamp":1789999999990,"data":{}}'
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE])
        take_in(ledger, bitopro, "main", [gone], "s2")
        bundle, claim = bundle_of(ledger, ACCOUNT, "ADA")
    assert (False, 5) == (claim.held, claim.version)
    assert "PROVED: bitopro:main ADA as of version 6: not held" == proved(bundle)


def test_a_total_that_is_a_sum_is_proved_from_both_of_its_parts() -> None:
    row = b'{"asset":"ada","asset_unit":"","free":"2.5","locked":"2.5"}'
    frame = b'{"type":"Account","sub_type":"balance","balance":[%s]}' % row
    with Ledger() as ledger:
        take_in(ledger, deltadefi, "main", [frame])
        bundle, claim = bundle_of(ledger, "deltadefi:main", "lovelace")
    assert "5.0" == claim.parts["total"]
    said = [line.strip() for line in verify(io.BytesIO(bundle), PUBLIC)]
    assert "total: available + locked" in said
    first, second = frame.index(b"2.5"), frame.rindex(b"2.5")
    assert f"available 2.5: bytes {first} to {first + 3}" in said
    assert f"locked 2.5: bytes {second} to {second + 3}" in said


def test_digits_that_are_json_numbers_or_escaped_are_proved_where_they_stand() -> None:
    frame = rb'[{"asset":"ada","asset_unit":"","free":12.50,"locked":0}]'
    escaped = WHOLE.replace(b'"5"', rb'"\u0035"')
    with Ledger() as ledger:
        take_in(ledger, deltadefi, "main", [frame])
        take_in(ledger, bitopro, "main", [escaped], "s2")
        numbers, _ = bundle_of(ledger, "deltadefi:main", "lovelace")
        texts, _ = bundle_of(ledger, ACCOUNT, "ADA")
    assert "available 12.50" in proved(numbers)
    assert "total 5, " in proved(texts)
    at = escaped.index(rb"\u0035")
    assert f"total 5: bytes {at} to {at + 6}" in "\n".join(verify(io.BytesIO(texts), PUBLIC))


@pytest.mark.parametrize(
    ("asset", "version", "why"),
    [("XRP", None, "nothing is said of XRP"), ("ADA", 9, "at version 4, before version 9")],
)
def test_what_the_checkpoint_does_not_reach_is_not_claimed(asset: str, version: int | None, why: str) -> None:
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE, LATER])
        with pytest.raises(BadNote, match=why):
            bundle_of(ledger, ACCOUNT, asset, version=version)
        with pytest.raises(BadNote, match="does not name bitopro:nobody"):
            bundle_of(ledger, "bitopro:nobody", "ADA")
        for garbage in (b"", b"\xff", b"x\n\ny\n", b"a\nb\nc\n\nd\n"):
            with pytest.raises(BadNote):
                bundle_of(ledger, ACCOUNT, "ADA", note=garbage)


CHANGES = {
    "an event's bytes": (
        "UPDATE stored_events SET state=CAST(state||x'00' AS BLOB) WHERE originator_version=2",
        2,
    ),
    "an event's topic": ("UPDATE stored_events SET topic='BalanceDelta' WHERE originator_version=2", 2),
    "a seal": ("UPDATE seals SET seal=zeroblob(32) WHERE position=3", 3),
    "no seal": ("DELETE FROM seals WHERE position=3", 3),
    "a deleted event": ("DELETE FROM stored_events WHERE originator_version=3", 3),
    "deleted tails": ("DELETE FROM stored_events WHERE originator_version>2", 3),
    "the frame": ("UPDATE evidence SET payload=CAST(payload||' ' AS BLOB) WHERE ordinal=2", 3),
    "a frame that is text": ("UPDATE evidence SET payload=CAST(payload AS TEXT) WHERE ordinal=2", 3),
    "no frame": ("DELETE FROM evidence WHERE ordinal=2", 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_store_makes_no_bundle_and_the_event_is_named(change: str) -> None:
    sql, version = CHANGES[change]
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE, LATER, OTHER])
        note = note_of(ledger)
        ledger.write([(sql, [()])])
        with pytest.raises(Corrupt, match=f"bitopro:main version {version}: "):
            bundle_of(ledger, ACCOUNT, "ADA", note=note)


def test_a_store_that_was_rewritten_with_its_seals_does_not_fit_the_checkpoint() -> None:
    with Ledger() as ledger, Ledger() as other:
        take_in(ledger, bitopro, "main", [WHOLE, LATER, OTHER])
        take_in(other, bitopro, "main", [WHOLE, LATER.replace(b"7.25", b"9.25"), OTHER])
        with pytest.raises(Corrupt, match="version 5: the checkpoint has another seal of it"):
            bundle_of(other, ACCOUNT, "ADA", note=note_of(ledger))


def test_what_todays_decoder_does_not_read_is_not_claimed() -> None:
    with Ledger() as ledger:
        take_in(ledger, bitopro, "main", [WHOLE])
        with pytest.raises(Corrupt, match="version 2: today's decoder does not read"):
            write_bundle(ledger, {"bitopro": scripted.VENUE}, io.BytesIO(), note_of(ledger), ACCOUNT, "ADA")


def test_every_balance_of_the_golden_frames_is_proved() -> None:
    """Each frame in a ledger of its own, at its ordinal."""
    count = 0
    for path in sorted(FRAMES.glob("*/*.frame")):
        frame = frame_of(path)
        filler = [b"{}"] * (frame.ordinal - 1)
        with Ledger() as ledger:
            take_in(ledger, VENUES[path.parent.name], "main", [*filler, frame.payload])
            note = note_of(ledger)
            for row in Balances(ledger).rows():
                bundle, claim = bundle_of(ledger, row.account, row.asset_id, note=note)
                assert {name: getattr(row, name) for name in PARTS} == claim.parts
                assert f"PROVED: {row.account} {row.asset_id} " in proved(bundle)
                count += 1
    assert 50 < count


# The rules of the last word are written twice: in the projection, and in the verifier ---------------------------------

_times = st.integers(1, 6)
_text = st.sampled_from(["0", "1", "2.50", "-3", "1e1"])
_held = st.dictionaries(st.sampled_from(["ADA", "BTC"]), _text, max_size=2)


@st.composite
def _statements(draw: st.DrawFn) -> Event:
    kind = draw(st.integers(0, 4))
    numbered: dict[str, Any] = {}
    part = draw(st.sampled_from([None, "p", "q"]))
    if part is not None and draw(st.booleans()):
        numbered["sequence"] = draw(st.integers(1, 6))
    if kind == 0:
        more = part is not None and draw(st.booleans())
        return snapshot(
            draw(_times), draw(_held), part=part, more=more, begins=draw(st.booleans()), **numbered
        )
    if kind == 1:
        if numbered:
            numbered["subscription"] = part
        removed = draw(st.lists(st.sampled_from(["ADA", "BTC"]), max_size=1))
        return delta(draw(_times), draw(_held), removed, **numbered)
    amount, balance = draw(_text), draw(_text)
    cause = draw(st.sampled_from(["trade", "withdraw"]))
    return imported(
        draw(_times), amount, balance, cause=cause, asset=draw(st.sampled_from(["ADA", "BTC"])), pending="0"
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(_statements(), min_size=1, max_size=12), st.none() | _times)
def test_the_verifier_and_the_balances_agree_whatever_was_said(
    said: Sequence[Event], until_ns: int | None
) -> None:
    with Ledger() as ledger:
        feed(ledger, *(says(event) for event in said))
        balances = Balances(ledger)
        if until_ns is None:
            rows = {row.asset_id: row for row in balances.rows(MAIN)}
        else:
            text = f"1970-01-01T00:00:00.{until_ns:09d}Z"
            rows = {row.asset_id: row for row in balances.at(text, MAIN).rows(MAIN)}
        for asset_id in ("ADA", "BTC"):
            word = Word(asset_id, until_ns)
            for recorded in ledger.replay(MAIN):
                topic = type(recorded.event).__name__
                word.hear(recorded.version, topic, unpacked(msgspec.msgpack.encode(recorded.event)))
            row = rows.get(asset_id)
            assert (row is not None) == word.held
            if row is not None:
                assert {name: getattr(row, name) for name in PARTS} == word.parts
                stated = next(ledger.replay(MAIN, after=word.version - 1)).event
                if isinstance(stated, BalanceEventImported):
                    assert stated.balance == row.total
                else:
                    assert row.version == word.version


@settings(max_examples=100, deadline=None)
@given(st.lists(_statements(), min_size=1, max_size=10))
def test_every_balance_has_a_proof_whatever_was_said(said: Sequence[Event]) -> None:
    with Ledger() as ledger:
        feed(ledger, *(says(event) for event in said), received_ns=T)
        note = note_of(ledger)
        for row in Balances(ledger).rows(MAIN):
            bundle, claim = bundle_of(ledger, MAIN, row.asset_id, note=note)
            assert {name: getattr(row, name) for name in PARTS} == claim.parts
            assert proved(bundle).startswith(f"PROVED: {MAIN} {row.asset_id} ")
