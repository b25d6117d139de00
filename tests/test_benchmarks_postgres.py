"""The PostgreSQL benchmark: all sides store the same; a slow append, a lost row, a follower that lags are found out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import __main__ as command
from benchmarks import appends, feeder, followers, ingest, postgres, writers
from benchmarks.follower import KINDS, Followed
from benchmarks.measure import Effort, Result, Unequal
from benchmarks.processes import Process
from benchmarks.samples import ORDER, SINGLE
from benchmarks.server import DURABLE, SERVER, Server, server
from ledger import Ledger
from ledger.intake import BATCH_FRAMES_MAX
from ledger.rows import Rows
from projections import Breaks

TINY: Final = Effort(2, 1_000, ((1, 2), (3, 2)), 200, 2, 10, 15_000)


@pytest.fixture
def here(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server of these tests, as the one of the environment."""
    monkeypatch.setenv(SERVER, postgres_server)
    with server() as found:
        for name in DURABLE:  # as the server of tests has them
            monkeypatch.setitem(DURABLE, name, str(found.select(f"SHOW {name}")[0][0]))
        yield found


def verdicts(results: Sequence[Result]) -> dict[str, str]:
    return {claim.text: claim.verdict for result in results for claim in result.claims}


# Appends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accounts", "frames"), [(1, 1), (2, 3)])
def test_our_rows_copied_rows_and_those_of_the_frames_are_the_same(
    accounts: int, frames: int, here: Server
) -> None:
    rows_only, whole = appends.appended(here, ingest.work(ORDER, accounts, frames, 2, slices=3), rounds=2)
    assert [appends.APPEND, appends.COPY, appends.INSERT] == [run.side for run in rows_only.runs]
    assert [appends.INGEST, appends.STOCK, appends.COPY] == [run.side for run in whole.runs]
    assert all(run.per_s is not None and run.per_s.median > 0 for run in (*rows_only.runs, *whole.runs))
    assert not here.select("SELECT nspname FROM pg_namespace WHERE nspname ~ '^b[0-9a-f]{32}$'")


def test_batches_of_256_are_held_to_their_bounds(here: Server) -> None:
    results = appends.appended(here, ingest.work(SINGLE, 1, BATCH_FRAMES_MAX, 1, slices=3), rounds=2)
    assert {
        "batch 256: append of rows / COPY BINARY of the same rows": 0.6,
        "batch 256: append of rows / stock eventsourcing's insert of its events": 4.0,
        "batch 256: frames to durable / stock eventsourcing's": 4.0,
    } == {claim.text: claim.bound for result in results for claim in result.claims}


def test_an_append_that_is_slow_falls_short(here: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = appends.insert

    def slow(ledger: Ledger, rows: Rows) -> None:
        time.sleep(0.3 if len(rows.seals) > 1 else 0)
        store(ledger, rows)

    monkeypatch.setattr(appends, "insert", slow)
    results = appends.appended(here, ingest.work(SINGLE, 1, BATCH_FRAMES_MAX, 1, slices=3), rounds=2)
    told = verdicts(results)
    assert "falls short" == told["batch 256: append of rows / COPY BINARY of the same rows"]
    assert "falls short" == told["batch 256: append of rows / stock eventsourcing's insert of its events"]


@pytest.mark.parametrize("lost", ["events", "seals", "evidence", "keys"])
def test_a_copy_that_leaves_rows_out_ends_the_case(
    lost: str, here: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = appends.Copied.insert
    empty: list[Any] = []

    def leaving_out(copied: appends.Copied, rows: Rows) -> None:
        kept = Rows(rows.events, rows.seals, rows.evidence, rows.keys)
        setattr(kept, lost, empty)
        insert(copied, kept)

    monkeypatch.setattr(appends.Copied, "insert", leaving_out)
    with pytest.raises(Unequal, match="do not hold the same"):
        appends.appended(here, ingest.work(ORDER, 1, 2, 1, slices=3), rounds=2)


def test_a_copy_without_an_index_of_ours_ends_the_case(here: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made = appends.Copied.__init__

    def lacking(copied: appends.Copied, place: Any) -> None:
        made(copied, place)
        copied._connection.execute("ALTER TABLE natural_keys DROP CONSTRAINT natural_keys_pkey")

    monkeypatch.setattr(appends.Copied, "__init__", lacking)
    with pytest.raises(Unequal, match="natural_keys"):
        appends.appended(here, ingest.work(SINGLE, 1, 1, 1, slices=3), rounds=2)


def test_eventsourcing_that_drops_a_frame_ends_the_case(
    here: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = appends.PostgresStock.take
    monkeypatch.setattr(
        appends.PostgresStock, "take", lambda stock, account, frames: take(stock, account, frames[:-1])
    )
    with pytest.raises(Unequal, match="eventsourcing"):
        appends.appended(here, ingest.work(SINGLE, 1, 2, 1, slices=3), rounds=2)


def test_eventsourcing_that_drops_an_event_of_its_own_ends_the_case(
    here: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = appends.Prebuilt.insert
    monkeypatch.setattr(
        appends.Prebuilt, "insert", lambda stock, events: insert(stock, [*events][: len(events) - 1])
    )
    with pytest.raises(Unequal, match="that were inserted"):
        appends.appended(here, ingest.work(ORDER, 1, 2, 1, slices=3), rounds=2)


def test_a_server_that_loses_commits_is_not_measured(here: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"synchronous_commit {DURABLE['synchronous_commit']}" in here.text()
    monkeypatch.setitem(DURABLE, "synchronous_commit", "on")
    here._connection.execute("SET synchronous_commit = off")
    with pytest.raises(Unequal, match="synchronous_commit is off"):
        here.text()


# Writers -------------------------------------------------------------------------------------------------------------


def test_several_processes_write_to_one_ledger_without_holes(here: Server) -> None:
    result = writers.written(here, writers.Case(feeder.LIVE, SINGLE, 3, 4), rounds=2)
    assert ["2 writers", "1 writer", "4 writers"] == [run.side for run in result.runs]
    assert all(run.per_s is not None and run.per_s.median > 0 for run in result.runs)
    assert not result.claims  # of batches of 256 only


def test_a_hole_in_the_versions_ends_the_case(here: Server) -> None:
    with here.place() as place, Ledger(place.url) as ledger:
        opening, stored = appends.rehearse(ingest.work(SINGLE, 1, 3, 1, slices=1))
        for rows in (*opening, *stored):
            appends.insert(ledger, rows)
        writers.check_positions(here, place)
        ledger.write([("UPDATE stored_events SET originator_version=9 WHERE notification_id=3", [()])])
        with pytest.raises(Unequal, match="holes in"):
            writers.check_positions(here, place)


def test_what_two_writers_do_is_held_against_one_and_the_lock_is_told() -> None:
    looked = writers.Looked(10, 7, 4)
    slow, fast = writers.Lap(100, 1.0, 4, looked), writers.Lap(125, 1.0, 8, looked)
    runs = {count: writers._run(count, {1: [slow], 2: [fast], 4: [fast]}) for count in writers.COUNTS}
    assert runs[1].ours is not None
    assert runs[1].ours.median == 1.25
    assert runs[2].ours is None
    assert runs[1].note == "lock held 70% of the time (175.0 ms a commit), 0.4 waiting for it"


def test_a_writer_that_ends_ends_the_case() -> None:
    with Process("benchmarks.claims") as process, pytest.raises(Unequal, match="exit code 0"):
        process.is_ready()


# Followers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without others: a process takes a while to begin."""
    monkeypatch.setattr(followers, "SIDES", {"Orders": (("Orders",),)})


def test_a_follower_is_told_to_keep_up_or_to_fall_short(
    here: Server, one_follower: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "OFFERED", 3_000)
    monkeypatch.setattr(followers, "RATE", 1_000)
    sample = followers.FEEDS["orders with fills"]
    [kept] = followers.kept_up(here, "orders", sample, 1_200, 1).claims
    assert ("pass", 1_000) == (kept.verdict, kept.bound)
    follow = followers._follow

    def lagging(*args: Any) -> list[Followed]:
        return [
            Followed(each.began_s, [(at_s + 5, position) for at_s, position in each.marks], each.cpu_s)
            for each in follow(*args)
        ]

    monkeypatch.setattr(followers, "_follow", lagging)
    [kept] = followers.kept_up(here, "orders", sample, 1_200, 1).claims
    assert "falls short" == kept.verdict
    monkeypatch.setattr(followers, "RATE", 30_000)
    [kept] = followers.kept_up(here, "orders", sample, 900, 1).claims
    assert "not measured" == kept.verdict
    assert "could be appended" in kept.reason


def test_what_was_not_followed_to_the_end_ends_the_case(here: Server) -> None:
    opening, stored = appends.rehearse(ingest.work(followers.FEEDS["orders with fills"], 1, 4, 1, slices=1))
    with here.place() as place, Ledger(place.url) as ledger:
        for rows in (*opening, *stored):
            appends.insert(ledger, rows)
        until = ledger.position()
        orders = KINDS["Orders"](ledger)
        orders.subscription.catch_up()
        followers.check(place, [("Orders",)], until)
        with pytest.raises(Unequal, match="not followed to"):
            followers.check(place, [("Orders", "Balances")], until)
        ledger.write([(f"UPDATE {orders.tables[0].name} SET executed='7'", [()])])
        with pytest.raises(Unequal, match="a fold from zero"):
            followers.check(place, [("Orders",)], until)


def test_the_orders_of_a_feed_leave_no_gap_and_no_break(here: Server) -> None:
    opening, stored = appends.rehearse(ingest.work(followers.FEEDS["orders with fills"], 1, 4, 1, slices=1))
    with here.place() as place, Ledger(place.url) as ledger:
        for rows in (*opening, *stored):
            appends.insert(ledger, rows)
        assert 4 == len(KINDS["Fills"](ledger).rows())
        assert [] == Breaks(ledger).rows()
        assert [] == KINDS["Gaps"](ledger).rows()


# The command ---------------------------------------------------------------------------------------------------------


def test_postgres_prints_its_server_its_tables_and_its_claims(
    here: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(appends, "KINDS", (SINGLE,))
    monkeypatch.setattr(ingest, "ACCOUNTS", (1,))
    monkeypatch.setattr(writers, "WAYS", {feeder.LIVE: "live"})
    monkeypatch.setattr(feeder, "SAMPLES", {SINGLE.name: SINGLE})
    monkeypatch.setattr(writers, "SAMPLES", {SINGLE.name: SINGLE})
    monkeypatch.setattr(writers, "COUNTS", (2, 1))
    monkeypatch.setattr(followers, "SIDES", {"Orders": (("Orders",),)})
    monkeypatch.setattr(followers, "FEEDS", {"orders": followers.FEEDS["orders with fills"]})
    monkeypatch.setattr(followers, "CATCH_UP", 200)
    monkeypatch.setattr(followers, "LIVE_S", 0.01)
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        command.main(["postgres", "--quick", "--json", str(path)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert postgres.cases(TINY) == len(told["results"]) == 8
    assert {"postgres"} == {result["benchmark"] for result in told["results"]}
    assert {here.text()} == {result["server"] for result in told["results"]}
    assert here.text() in printed.replace("\n", " ")
    assert all(result["case"] in printed for result in told["results"])


def test_without_a_server_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SERVER, raising=False)
    monkeypatch.setattr(postgres, "WHEEL", "a_wheel_that_is_not_here")
    [result] = postgres.postgres(TINY)
    assert ["not measured"] == [claim.verdict for claim in result.claims]
    assert postgres.cases(TINY) == 1
