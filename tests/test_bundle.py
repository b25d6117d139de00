"""Bundles: claimed is what the balances say, the verifier concludes the same, a changed store proves nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Any

import pytest

from ledger import Ledger
from ledger.bundle import Unprovable, write_bundle
from ledger.errors import BadNote, Corrupt
from ledger.events import Event
from ledger.venues import bitopro, deltadefi
from ledger.verify_bundle import PARTS, Refused, Word, unpacked, verify
from projections import Balances
from tests import scripted
from tests.golden import FRAMES, frame_of
from tests.proving import (
    ASSETS,
    KEY,
    LATER,
    OTHER,
    VENUES,
    WHOLE,
    any_history,
    bundle_of,
    note_of,
    orderly_history,
    say,
    take_in,
)
from tests.scripted import MAIN, delta, fault, feed, imported, says, snapshot

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


@pytest.mark.sqlite
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


@pytest.mark.few(0)
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

Stored = tuple[int, str, list[Any]]
LOST = (
    (snapshot(1, {"A": "5"}, part="p", sequence=1), False),
    (snapshot(2, {"B": "1"}, part="q", more=True, sequence=1), False),
    (snapshot(2, {"C": "1"}, part="q", begins=False, sequence=3), False),
)
"""A whole statement, and another in pages of which the second did not come."""


def stored(ledger: Ledger) -> list[Stored]:
    return [(each.version, each.topic, unpacked(each.state)) for each in ledger.sealed(MAIN)]


def held_of(ledger: Ledger, until_ns: int | None = None) -> dict[str, dict[str, str | None]]:
    """What the balances say is held: of now, or of a time."""
    balances = Balances(ledger)
    text = f"1970-01-01T00:00:00.{until_ns or 0:09d}Z"
    rows = balances.rows(MAIN) if until_ns is None else balances.at(text, MAIN).rows(MAIN)
    return {row.asset_id: {name: getattr(row, name) for name in PARTS} for row in rows}


def concluded(events: Sequence[Stored], asset: str, first: int, until_ns: int | None) -> Word | None:
    """What the verifier concludes of the events from `first` on, where what it takes on trust of those before is so."""
    word = Word(asset, until_ns, first)
    lowest: dict[str | None, int] = {}
    try:
        for version, topic, event in events[first - 1 :]:
            word.hear(version, topic, event)
            if word.version == version and word.order is not None and word.order[2] is not None:
                lowest[word.order[1]] = min(word.order[2], lowest.get(word.order[1], word.order[2]))
    except Refused:
        return None
    if not word.rests or word.order is None:
        return None
    for _, topic, event in events[: first - 1]:
        time_ns = event[0][4] if event[0][6] is None else event[0][6]
        time_ns = event[8] if topic == "BalanceEventImported" else time_ns
        if not topic.startswith("Balance") or (until_ns is not None and time_ns > until_ns):
            continue
        assert word.begin is not None
        number, subscription = event[0][7:9]
        higher = number is not None and number > lowest.get(subscription, number)
        if time_ns > word.begin[0] or higher:
            return None
    return word


@pytest.mark.few(0)
@pytest.mark.parametrize("seed", range(4))
def test_what_the_verifier_concludes_is_what_the_balances_say_wherever_the_events_begin(seed: int) -> None:
    """The first version is the attacker's choice; half of the histories are such that most are proved."""
    proved_from_one = proved_from_later = 0
    for number in range(80):
        random = Random(1_000 * seed + number)
        until_ns = None if random.random() < 0.8 else random.randint(1, 9)
        with Ledger() as ledger:
            say(ledger, any_history(random) if number % 2 else orderly_history(random))
            held, events = held_of(ledger, until_ns), stored(ledger)
        for asset in ASSETS:
            for first in range(1, len(events) + 1):
                word = concluded(events, asset, first, until_ns)
                if word is None:
                    continue
                assert held.get(asset) == (word.parts if word.held else None), (number, asset, first)
                proved_from_one += first == 1
                proved_from_later += first > 1
    assert proved_from_one > 100
    assert proved_from_later > 100


@pytest.mark.few(0)
def test_what_is_claimed_is_what_the_balances_say_and_the_verifier_agrees() -> None:
    claims = refusals = 0
    for number in range(60):
        with Ledger() as ledger:
            say(ledger, any_history(Random(number)))
            held, note = held_of(ledger), note_of(ledger)
            for asset in ASSETS:
                try:
                    bundle, claim = bundle_of(ledger, MAIN, asset, note=note)
                except Unprovable:
                    refusals += 1
                    continue
                except BadNote:  # nothing is said of it
                    assert asset not in held
                    continue
                assert held.get(asset) == (claim.parts if claim.held else None)
                claims += 1
                if number % 4 == 0:
                    assert proved(bundle).startswith(f"PROVED: {MAIN} {asset} ")
    assert refusals < claims / 2


@pytest.mark.few(0)
def test_where_every_number_is_in_order_every_balance_has_a_proof() -> None:
    for number in range(40):
        with Ledger() as ledger:
            say(ledger, orderly_history(Random(number)))
            note = note_of(ledger)
            for asset, parts in held_of(ledger).items():
                assert parts == bundle_of(ledger, MAIN, asset, note=note)[1].parts


def test_rows_that_lead_back_to_where_they_begin_are_proved_by_those_before_them_or_not_at_all() -> None:
    opened, down, up = imported(16, "200", "200"), imported(21, "-2", "198"), imported(21, "2", "200")
    for pages in permutations([opened, down, up]):
        with Ledger() as ledger:
            feed(ledger, *(says(row) for row in pages))
            bundle, _ = bundle_of(ledger, MAIN, "USDC")
        assert proved(bundle).endswith(": total 200")
    for pages in permutations([down, up]):
        with Ledger() as ledger:
            feed(ledger, *(says(row) for row in pages))
            with pytest.raises(Unprovable, match="which was the last is open"):
                bundle_of(ledger, MAIN, "USDC")
            feed(ledger, says(imported(22, "1", "201")), session="s2")
            bundle, _ = bundle_of(ledger, MAIN, "USDC")
        assert proved(bundle).endswith(": total 201")


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_rows_on_either_side_of_what_the_account_says_of_their_instant_are_proved_to_come_to_it(
    order: Sequence[int],
) -> None:
    told: list[Event] = [
        imported(21, "5", "6"),
        imported(21, "-3", "3"),
        imported(21, "2", "5"),
        delta(21, {"USDC": "5"}),
    ]
    with Ledger() as ledger:
        feed(ledger, says(imported(1, "1", "1")), *(says(told[at]) for at in order))
        bundle, _ = bundle_of(ledger, MAIN, "USDC")
    assert proved(bundle).endswith(": total 5")


def test_a_statement_of_which_a_page_is_lost_takes_nothing_away() -> None:
    with Ledger() as ledger:
        say(ledger, LOST)
        bundle, claim = bundle_of(ledger, MAIN, "A")
    assert (True, 2) == (claim.held, claim.version)
    assert f"PROVED: {MAIN} A as of version 5: total 5" == proved(bundle)


@pytest.mark.parametrize(
    ("late", "why"),
    [
        (snapshot(2, {}, part="q", more=True, begins=False, sequence=2), "may have come late"),
        (delta(2, {}, sequence=2, subscription="q"), "may have come late"),
        (snapshot(2, {}, part="q", begins=False), "have no numbers"),
        (snapshot(2, {}, part="q"), "has no number"),
        (snapshot(2, {}, part="r", more=True), "have no numbers"),
        (snapshot(2, {}, part="r", begins=False), "have no numbers"),
    ],
)
def test_what_may_complete_a_statement_is_no_proof(late: Event, why: str) -> None:
    with Ledger() as ledger:
        say(ledger, [*LOST, (late, False)])
        with pytest.raises(Unprovable, match=why):
            bundle_of(ledger, MAIN, "A")


def test_a_frame_within_a_statement_that_could_not_be_read_is_no_proof() -> None:
    """It may have been the page that names the asset."""
    first, second, _ = LOST
    last = snapshot(2, {"C": "1"}, part="q", begins=False, sequence=3)
    with Ledger() as ledger:
        say(ledger, [first, second, (fault(2, "q"), False), (last, False)])
        with pytest.raises(Unprovable, match="could not be read"):
            bundle_of(ledger, MAIN, "A")


def test_statements_in_pages_may_be_told_at_the_same_time() -> None:
    pages: list[Event] = [
        snapshot(1, {"A": "5", "B": "1"}),
        snapshot(2, {"B": "1"}, part="p", more=True, sequence=1),
        snapshot(3, {"B": "2"}, part="q", more=True, sequence=1),
        snapshot(2, {}, part="p", begins=False, sequence=2),
        delta(4, {"B": "3"}, sequence=2, subscription="q"),
        snapshot(3, {}, part="q", begins=False, sequence=3),
    ]
    with Ledger() as ledger:
        say(ledger, [(page, False) for page in pages])
        assert {"B": "3"} == {asset: parts["total"] for asset, parts in held_of(ledger).items()}
        gone, rest = bundle_of(ledger, MAIN, "A")[1], bundle_of(ledger, MAIN, "B")[1]
    assert (False, "3") == (gone.held, rest.parts["total"])


@pytest.mark.parametrize("number", [8, 10])
def test_a_full_statement_after_what_is_no_proof_is_where_a_proof_begins_unless_a_higher_number_is_before(
    number: int,
) -> None:
    late = snapshot(2, {}, part="q", more=True, begins=False, sequence=2)
    since: list[Event] = [
        delta(3, {"A": "1"}, sequence=9, subscription="p"),
        snapshot(4, {"A": "2"}),
        delta(5, {"A": "3"}, sequence=number, subscription="p"),
    ]
    with Ledger() as ledger:
        say(ledger, [*LOST, (late, False), *((event, False) for event in since)])
        assert "3" == held_of(ledger)["A"]["total"]
        if number < 9:
            with pytest.raises(Unprovable, match="may have come late"):
                bundle_of(ledger, MAIN, "A")
        else:
            bundle, claim = bundle_of(ledger, MAIN, "A")
            assert (7, 8, f"PROVED: {MAIN} A as of version 9: total 3") == (
                claim.first,
                claim.version,
                proved(bundle),
            )
