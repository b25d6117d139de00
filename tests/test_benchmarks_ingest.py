"""The benchmark of ingesting: all sides store the same, and one that does not is found out. No time is asserted."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ingest, rows, samples, stock
from benchmarks.decode import OURS
from benchmarks.frames import amounts
from benchmarks.measure import Unequal
from ledger import Ledger
from ledger.intake import BATCH_FRAMES_MAX
from ledger.rows import Rows

KINDS = pytest.mark.parametrize("sample", ingest.KINDS, ids=lambda sample: sample.name)


@KINDS
@pytest.mark.parametrize(("accounts", "frames"), [(1, 1), (1, 5), (3, 2)])
def test_the_raw_side_stores_the_rows_of_the_ledger_byte_for_byte(
    sample: samples.Sample, accounts: int, frames: int, tmp_path: Path
) -> None:
    work = ingest.work(sample, accounts, frames, commits=4, slices=1)
    stored = ingest.rehearse(work)
    with Ledger(tmp_path / "ledger.db") as ledger, closing(rows.Raw(tmp_path / "raw.db", ledger)) as raw:
        intakes = ingest.opened(ledger, work)
        ingest.receive(intakes, work.parts)
        for intake in intakes:
            intake.close()
        for each in stored:
            raw.insert(each)
        ingest.check_equal(ledger, raw, work)
        ours, theirs = rows.contents(ledger.select), rows.contents(raw.select)
        assert rows.size(ours) == rows.size(theirs) == sum(map(rows.size, stored))
        assert sorted(payload for _, _, payload in theirs["evidence"]) == sorted(
            payload for part in work.parts for payload, _ in part.arrivals
        )


def test_what_is_given_in_one_call_is_stored_in_commits_of_a_batch_beside_the_next_ones_decoding() -> None:
    work = ingest.work(samples.SINGLE, 1, BATCH_FRAMES_MAX, commits=3, slices=1)
    with Ledger() as ledger:
        intakes = ingest.opened(ledger, work)
        engine: Any = ledger._store._engine
        insert, seen = engine.insert, list[tuple[int, bool]]()

        def watched(rows: Rows, *more: Any) -> None:
            aside = threading.current_thread() is not threading.main_thread()
            seen.append((len(rows.evidence) // 3, aside))
            insert(rows, *more)

        engine.insert = watched
        ingest.receive(intakes, work.parts)
    assert [(BATCH_FRAMES_MAX, True)] * 3 == seen


def test_the_raw_side_is_as_durable_as_the_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger, closing(rows.Raw(tmp_path / "raw.db", ledger)) as raw:
        assert raw.select("PRAGMA journal_mode") == [("wal",)]
        assert raw.select("PRAGMA synchronous") == [(2,)]


@pytest.mark.parametrize(
    "spoil", ["DELETE FROM evidence WHERE ordinal=1", "UPDATE stored_events SET topic='x'"]
)
def test_a_row_missing_or_changed_on_one_side_is_found_out(spoil: str, tmp_path: Path) -> None:
    work = ingest.work(samples.ORDER, 1, 2, commits=1, slices=1)
    stored = ingest.rehearse(work)
    with Ledger(tmp_path / "ledger.db") as ledger, closing(rows.Raw(tmp_path / "raw.db", ledger)) as raw:
        for each in stored:
            raw.insert(each)
            ledger.write(
                [
                    (f"INSERT INTO {name} VALUES ({','.join('?' * len(added[0]))})", added)
                    for name, added in each.items()
                    if added
                ]
            )
        ingest.check_equal(ledger, raw, work)
        ledger.write([(spoil, [()])])
        with pytest.raises(Unequal):
            ingest.check_equal(ledger, raw, work)


def test_a_raw_side_that_skips_a_row_ends_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = rows.Raw.insert

    def skipping(raw: rows.Raw, batch: rows.Batch) -> None:
        insert(raw, {name: added[1:] if name == "evidence" else added for name, added in batch.items()})

    monkeypatch.setattr(rows.Raw, "insert", skipping)
    with pytest.raises(Unequal, match="did not store the rows"):
        ingest.ingested(ingest.work(samples.UPDATE, 2, 2, commits=2, slices=3), rounds=2)


# Stock eventsourcing -------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("lean", [False, True])
def test_eventsourcing_stores_what_the_frames_say_of_each_account(
    sample: samples.Sample, lean: bool, tmp_path: Path
) -> None:
    work = ingest.work(sample, 2, 3, commits=4, slices=1)
    with closing(stock.Stock(tmp_path / "stock.db", 2, lean=lean)) as app:
        for part in work.parts:
            app.take(part.account, part.arrivals)
        ingest.check_stock(app, work)
        first = [payload for payload, _ in work.parts[0].arrivals]
        with pytest.raises(Unequal):
            app.check(0, first)
        with pytest.raises(Unequal):
            app.check(1, first * 2)


@pytest.mark.parametrize("lean", [False, True])
@KINDS
def test_eventsourcing_that_reads_one_amount_wrong_is_found_out(
    sample: samples.Sample, lean: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = json.loads

    def wrong(payload: bytes) -> Any:
        amount = sorted(amounts(payload))[0]
        return right(payload.replace(amount, amount[:-1] + (b"1" if amount[-1:] == b"0" else b"0")))

    work = ingest.work(sample, 1, 2, commits=1, slices=1)
    with closing(stock.Stock(tmp_path / "stock.db", 1, lean=lean)) as app:
        with monkeypatch.context() as planted:
            planted.setattr(json, "loads", wrong)
            app.take(0, work.parts[0].arrivals)
        with pytest.raises(Unequal, match="did not store what a frame says"):
            ingest.check_stock(app, work)


@pytest.mark.parametrize("lean", [False, True])
def test_eventsourcing_that_drops_an_event_ends_the_case(lean: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    take = stock.Stock.take

    def dropping(app: stock.Stock, account: int, arrivals: Sequence[tuple[bytes, int]]) -> None:
        take(app, account, arrivals[:-1] if app._lean == lean and len(arrivals) > 1 else arrivals)

    monkeypatch.setattr(stock.Stock, "take", dropping)
    with pytest.raises(Unequal, match="eventsourcing"):
        ingest.ingested(ingest.work(samples.UPDATE, 1, 2, commits=2, slices=3), rounds=2)


def test_eventsourcing_that_forgets_the_fill_of_an_order_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock.Account, "record_fill", lambda *_: None)
    work = ingest.work(samples.ORDER, 1, 2, commits=1, slices=1)
    with closing(stock.Stock(tmp_path / "stock.db", 1)) as app:
        app.take(0, work.parts[0].arrivals)
        with pytest.raises(Unequal):
            ingest.check_stock(app, work)


def test_eventsourcing_that_keeps_another_frame_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ingest.work(samples.UPDATE, 1, 1, commits=1, slices=1)
    [(payload, received_ns)] = work.parts[0].arrivals
    with closing(stock.Stock(tmp_path / "stock.db", 1)) as app:
        app.take(0, [(payload + b" ", received_ns)])
        with pytest.raises(Unequal, match="did not keep the frame"):
            ingest.check_stock(app, work)


def test_eventsourcing_that_is_less_durable_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stock.DURABLE, "synchronous", 3)
    with closing(stock.Stock(tmp_path / "stock.db", 1)) as app, pytest.raises(Unequal, match="synchronous"):
        app.check(0, [])


# Claims --------------------------------------------------------------------------------------------------------------


def test_batches_of_one_and_of_256_are_held_to_their_own_bounds() -> None:
    asked: dict[int, dict[str, float]] = {}
    for frames in (1, 2, BATCH_FRAMES_MAX):
        result = ingest.ingested(ingest.work(samples.SINGLE, 1, frames, commits=1, slices=3), rounds=2)
        asked[frames] = {claim.text: claim.bound for claim in result.claims}
        assert [OURS, ingest.RAW, ingest.STOCK, ingest.LEAN] == [run.side for run in result.runs][:4]
        assert (result.stored_each or 0) > (result.bytes_each or 0) > 0
    assert {
        1: {"batch 1: our speed / raw sqlite3's, the same rows": 0.7},
        2: {},
        256: {
            "batch 256: our speed / raw sqlite3's, the same rows": 0.55,
            "batch 256: our speed / stock eventsourcing's, same batch": 4.0,
            "batch 256: our speed / stock eventsourcing's, one by one": 30.0,
        },
    } == asked
