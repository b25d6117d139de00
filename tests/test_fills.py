"""Fills: every execution once, by account, time and id."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger import Corrupt, Ledger, Tally
from ledger.events import FillRecorded, is_again
from ledger.firsts import Firsts
from ledger.retold import by_content, completed, told_of
from ledger.venues import deltadefi
from projections import Breaks, Fills, Gaps, Views
from projections.fills import FillRow
from tests.scripted import MAIN, RECEIVED_NS, VENUE, feed, fill, order, says, source

FIRST = fill("f1", 5, key="fill:f1", quantity="2")
DEARER = replace(FIRST, price="0.6")
CHARGED = replace(FIRST, fee="0.10", fee_asset="ADA", role="taker")


def test_fills_come_by_account_time_and_id() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            says(fill("b", 2), fill("a", 2), fill("z", 1), fill("c", 10)),
            says(fill("a", 3), account="scripted:b"),
        )
        fills = Fills(ledger)
        every = [("scripted:b", "a"), (MAIN, "z"), (MAIN, "a"), (MAIN, "b"), (MAIN, "c")]
        assert every == [(row.account, row.fill_id) for row in fills.rows()]
        assert ["z", "a", "b", "c"] == [row.fill_id for row in fills.rows(MAIN)]
        assert [] == fills.rows("scripted:c")


def test_a_redelivered_fill_is_one_fill() -> None:
    with Ledger() as ledger:
        feed(ledger, says(fill("a", 1, key="fill:a"), fill("b", 1, key="fill:b")))
        feed(ledger, says(fill("b", 1, key="fill:b")), says(fill("c", 1, key="fill:c")), session="s2")
        assert [("a", 2), ("b", 3), ("c", 6)] == [(row.fill_id, row.version) for row in Fills(ledger).rows()]


def test_the_time_is_the_fills_own_then_the_venues_then_that_of_receipt() -> None:
    stated = FillRecorded(source(7), "", "venue", "o1", "ADAUSD", "buy", "0.5", "1")
    with Ledger() as ledger:
        feed(ledger, says(fill("own", 5), stated, fill("received", None)))
        found = {row.fill_id: row.time_ns for row in Fills(ledger).rows()}
        assert {"own": 5, "venue": 7, "received": RECEIVED_NS} == found


def test_a_fill_says_what_the_venue_said(tmp_path: Path) -> None:
    said = FillRecorded(
        source(9), "", "f1", "o1", "ADAUSD", "sell", "0.50", "2.0", "1.00", "-0.001", "USD", "maker", "o9", 8
    )
    expected = FillRow(
        MAIN,
        "f1",
        "o1",
        "ADAUSD",
        "sell",
        "maker",
        "0.50",
        "2.0",
        "1.00",
        "-0.001",
        "USD",
        "o9",
        2,
        8,
    )
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(said))
        assert [expected] == Fills(ledger).rows()
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert [expected] == Fills(ledger).rows()


def keys(ledger: Ledger) -> list[str]:
    return [each.event.key for each in ledger.replay(MAIN) if isinstance(each.event, FillRecorded)]


@pytest.mark.parametrize("remembered", [True, False])
def test_a_fill_told_again_otherwise_is_recorded_once_and_is_no_second_one(
    tmp_path: Path, *, remembered: bool
) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        assert Tally(1, 1, 0, 0, 0) == feed(ledger, says(FIRST))
        if remembered:
            assert Tally(2, 1, 1, 0, 0) == feed(ledger, says(DEARER), says(FIRST), session="s2")
    with Ledger(path) as ledger:
        if not remembered:
            assert Tally(2, 1, 1, 0, 0) == feed(ledger, says(DEARER), says(FIRST), session="s2")
        (first, again) = (each for each in ledger.replay(MAIN) if isinstance(each.event, FillRecorded))
        assert (FIRST.key, True) == (first.event.key, is_again(again.event))  # type: ignore[arg-type]
        assert says(DEARER) == ledger.evidence(again)
        for session in ("s3", "s4"):
            same = says(replace(DEARER, price="0.60")), says(replace(FIRST, quantity="2.00")), says(DEARER)
            assert Tally(3, 0, 3, 0, 0) == feed(ledger, *same, session=session)
        assert [("f1", "0.5", first.version)] == [
            (row.fill_id, row.price, row.version) for row in Fills(ledger).rows()
        ]
        assert [] == list(ledger.verify([VENUE]))


def test_where_a_stored_fill_cannot_be_read_the_intake_says_which(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Ledger(path) as ledger:
        feed(ledger, says(FIRST))
        ledger.write([("UPDATE stored_events SET state=? WHERE topic='FillRecorded'", [(b"\x00",)])])
    with Ledger(path) as ledger, pytest.raises(Corrupt, match=f"^{MAIN} version 2: FillRecorded"):
        feed(ledger, says(DEARER), session="s2")


def test_what_one_frame_or_one_batch_tells_otherwise_is_recorded_too() -> None:
    with Ledger() as ledger:
        assert Tally(3, 2, 1, 0, 0) == feed(ledger, says(FIRST, DEARER, FIRST), says(CHARGED), says(DEARER))
        assert ["fill:f1", by_content(DEARER).key, by_content(CHARGED).key] == keys(ledger)
        assert 1 == len(Fills(ledger).rows())
        assert [] == list(ledger.verify([VENUE]))


@pytest.mark.parametrize("tellings", [*permutations([FIRST, CHARGED, replace(CHARGED, role=None)])])
def test_what_is_told_more_of_a_fill_is_added_whatever_came_first(tellings: tuple[FillRecorded, ...]) -> None:
    with Ledger() as ledger:
        feed(ledger, *map(says, tellings))
        (row,) = Fills(ledger).rows()
        assert ("0.5", "2", "0.10", "ADA", "taker") == (
            row.price, row.quantity, row.fee, row.fee_asset, row.role,
        )  # fmt: skip
        assert [] == Breaks(ledger).rows()


@pytest.mark.parametrize("seed", range(12))
def test_tellings_in_any_order_and_batches_come_to_what_a_simple_model_says(seed: int) -> None:
    rng = random.Random(seed)
    tellings = [
        replace(
            fill(f"f{rng.randrange(3)}", 5, key=""),
            price=rng.choice(["0.5", "0.50", "0.6"]),
            quantity=rng.choice(["1", "2"]),
            fee=rng.choice([None, "0.1", "0.2"]),
            role=rng.choice([None, "maker"]),
        )
        for _ in range(30)
    ]
    tellings = [replace(each, key=f"fill:{each.fill_id}") for each in tellings]
    model: dict[str, FillRecorded] = {}
    for each in tellings:
        model[each.fill_id] = completed(model.get(each.fill_id, each), each)
    firsts = {each.fill_id: each for each in reversed(tellings)}
    executed = sum(int(each.quantity) for each in firsts.values())
    with Ledger() as ledger:
        said = list(tellings)
        for session in range(6):
            frames = [[said.pop(0) for _ in range(min(len(said), rng.randrange(1, 4)))] for _ in range(5)]
            feed(ledger, *(says(*frame) for frame in frames if frame), session=f"s{session}")
            if rng.random() < 0.5:
                ledger._appender._firsts = Firsts(ledger._store.fills, ledger._store.last_version)  # type: ignore[misc]
        feed(ledger, *map(says, said), says(order("o1", 9, str(executed), closed=True)), session="last")
        before = ledger.position()
        feed(ledger, *map(says, rng.sample(tellings, 30)), session="again")
        assert before + 2 == ledger.position()
        assert len(keys(ledger)) == len(set(keys(ledger)))
        rows = {row.fill_id: row for row in Fills(ledger).rows()}
        assert {fill_id: told_of(each) for fill_id, each in model.items()} == {
            fill_id: told_of(completed(model[fill_id], row)) for fill_id, row in rows.items()
        }
        assert all(row.price == model[fill_id].price for fill_id, row in rows.items())
        found = Breaks(ledger).rows()
        contradicted = {
            (each.fill_id, name)
            for each in tellings
            for name in ("price", "quantity", "fee")
            if getattr(each, name) is not None
            and float(getattr(each, name)) != float(getattr(model[each.fill_id], name))
        }
        assert contradicted == {(each.subject, each.part) for each in found if each.kind == "retold"}
        assert {"retold"} >= {each.kind for each in found}
        assert [] == Gaps(ledger).rows(open_only=True)
        assert [] == list(ledger.verify([VENUE]))


def test_deltadefi_tells_a_fill_again_with_another_price_or_a_commission_that_was_missing() -> None:
    frame = (
        b'{"type":"Account","sub_type":"order_info","order":{"id":"o1","status":"open","symbol":"ADAUSDM",'
        b'"side":"buy","type":"limit","base_qty":"10","executed_base_qty":"5","price":"0.8",'
        b'"updated_at":"2026-02-03T04:05:06Z","order_execution_records":[{"id":"e1","order_id":"o1",'
        b'"execution_price":"0.8","filled_base_qty":"5"%s}]}}'
    )
    plain, charged = frame % b"", frame % b',"commission":"0.005","commission_unit":"lovelace"'
    dearer = plain.replace(b'"execution_price":"0.8"', b'"execution_price":"0.9"')
    with Ledger() as ledger, ledger.intake(deltadefi, "main") as intake:
        tallies = [intake.receive(each) for each in (plain, plain, charged, charged, dearer, dearer)]
        assert [(1, 0), (0, 1)] * 3 == [(each.recorded, each.duplicates) for each in tallies]
        (row,) = Fills(ledger).rows()
        assert ("0.8", "5", "0.005", "lovelace") == (row.price, row.quantity, row.fee, row.fee_asset)
        (found,) = Breaks(ledger).rows()
        assert ("retold", "e1", "price", "0.8", "0.9", "0.1") == (
            found.kind, found.subject, found.part, found.expected, found.stated, found.difference,
        )  # fmt: skip
        assert dearer in [
            ledger.evidence(each) for each in ledger.replay() if each.version == found.stated_version
        ]
        assert [] == Gaps(ledger).rows(open_only=True)
        assert [] == list(ledger.verify([deltadefi]))
        Views(ledger).bring_up()
        shown = ledger.select("SELECT fill_id, price, suspect FROM fills")
        assert [("e1", "0.8", "expected 0.8, stated 0.9")] == [(a, str(b), c) for a, b, c in shown]
