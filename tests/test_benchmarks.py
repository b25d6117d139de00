"""The benchmarks measure what they say, and that both sides do the same work. No time is asserted anywhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from benchmarks import __main__ as command
from benchmarks import decode, frames, ingest, pusher, replay, rows, samples, transport
from benchmarks.measure import Effort, Side, Unequal, race, repeated
from ledger import Frame, Ledger
from ledger.events import BalanceDelta, FrameQuarantined
from ledger.venues import bitopro
from transports import Feed, background

TINY: Final = Effort(2, 1_000, ((1, 2), (3, 2)), 200, 2)

SIDES: Final = {
    "decode": ["accountledger", "bare msgspec", "json + Decimal"],
    "ingest": ["accountledger", "raw sqlite3"],
    "replay": ["accountledger: Balances", "Ledger.replay alone", "bare SELECT"],
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The efforts of the command line, made as small as they can be."""
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(command, "FULL", TINY)
    monkeypatch.setattr(transport, "TURNS", 1)
    monkeypatch.setattr(transport, "EVERY_S", 0.25)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("which", SIDES)
def test_each_benchmark_prints_a_table_and_writes_json(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    assert run(which, "--quick", "--json", str(path)) == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    for result in told["results"]:
        assert [each["side"] for each in result["runs"]] == SIDES[which]
        assert result["case"] in printed
        assert all(
            each["per_s"]["low"] <= each["per_s"]["median"] <= each["per_s"]["high"]
            for each in result["runs"]
        )
    assert {result["benchmark"] for result in told["results"]} == {which}
    assert all(side in printed for side in SIDES[which])


@pytest.mark.usefixtures("tiny")
def test_all_runs_every_benchmark_and_tells_the_versions_the_cpus_and_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transport, "LOADS", {"500/s": (500, 1)})
    monkeypatch.setattr(transport, "HOSTS", {})
    path = tmp_path / "figures.json"
    assert run("--json", str(path)) == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert {result["benchmark"] for result in told["results"]} == set(command.BENCHMARKS)
    assert set(command.BENCHMARKS) == {*SIDES, "transport"}
    for said in ("CPUs, load", f"msgspec {msgspec.__version__}", "load at the end"):
        assert said in printed
    assert told["before"]["cpus"] >= 1
    assert told["after"]["sqlite"] in printed


def test_an_unknown_benchmark_or_folder_is_bad_usage_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["teleport"], ["decode", "--json", str(tmp_path / "nowhere" / "figures.json")]):
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert captured.out == ""


@pytest.mark.usefixtures("tiny")
def test_sides_that_differ_end_the_run_with_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows.Raw, "insert", lambda raw, batch: None)
    assert run("ingest", "--quick") == 1
    assert "did not store the rows" in capsys.readouterr().err


# Decode ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", samples.SAMPLES, ids=lambda sample: f"{sample.venue.NAME} {sample.name}")
def test_every_side_reads_every_amount_of_a_frame(sample: samples.Sample) -> None:
    payload = sample.make(7)
    assert len(frames.amounts(payload)) >= 1
    decode.check_equal(payload, decode.alternatives(sample))


def test_a_side_that_skips_an_amount_is_found_out() -> None:
    payload = samples.UPDATE.make(1)
    with pytest.raises(Unequal, match="lazy did not read"):
        decode.check_equal(payload, {"lazy": lambda _: {"amount": "1.00000000"}})


@pytest.mark.parametrize("sample", samples.SAMPLES, ids=lambda sample: f"{sample.venue.NAME} {sample.name}")
def test_the_frames_of_a_kind_are_always_the_same_bytes_and_unlike_each_other(sample: samples.Sample) -> None:
    assert len({sample.make(n) for n in range(50)}) == 50
    assert sample.make(3) == sample.make(3)


def test_the_size_in_the_name_of_a_frame_is_its_number_of_entries() -> None:
    for sample in samples.SAMPLES:
        frame = Frame("x:main", "session", 2, 0, sample.make(1))
        events = [event for _, event in sample.venue.decode(frame)]
        entries = [len(event.balances) if isinstance(event, BalanceDelta) else 1 for event in events]
        assert sum(entries) == (2 if sample is samples.ORDER else int(sample.name.split()[0])), sample.name


# Ingest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [samples.UPDATE, samples.ORDER], ids=lambda sample: sample.name)
@pytest.mark.parametrize("batch", [1, 5])
def test_the_raw_side_stores_the_rows_of_the_ledger_byte_for_byte(
    sample: samples.Sample, batch: int, tmp_path: Path
) -> None:
    batches = ingest.arrivals(sample, batch, 3)
    stored = ingest.rehearse(sample, batches)
    with Ledger(tmp_path / "ledger.db") as ledger:
        raw = rows.Raw(tmp_path / "raw.db", ledger)
        now = batches[0][0][1]
        with ledger.intake(
            sample.venue, "main", session=ingest.SESSION, opened_ns=now, now_ns=lambda: now
        ) as intake:
            for each in batches:
                intake.receive_all(each)
        for batch_rows in stored:
            raw.insert(batch_rows)
        ingest.check_equal(ledger, raw, 3 * batch)
        ours, theirs = rows.contents(ledger.select), rows.contents(raw.select)
        assert rows.size(ours) == rows.size(theirs) == sum(map(rows.size, stored))
        assert sorted(payload for _, _, payload in theirs["evidence"]) == sorted(
            payload for each in batches for payload, _ in each
        )
        raw.close()


def test_the_raw_side_is_as_durable_as_the_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        raw = rows.Raw(tmp_path / "raw.db", ledger)
        assert raw.select("PRAGMA journal_mode") == [("wal",)]
        assert raw.select("PRAGMA synchronous") == [(2,)]
        raw.close()


@pytest.mark.parametrize(
    "spoil", ["DELETE FROM evidence WHERE ordinal=1", "UPDATE stored_events SET topic='x'"]
)
def test_a_row_missing_or_changed_on_one_side_is_found_out(spoil: str, tmp_path: Path) -> None:
    stored = ingest.rehearse(samples.ORDER, ingest.arrivals(samples.ORDER, 2, 1))
    with Ledger(tmp_path / "ledger.db") as ledger:
        raw = rows.Raw(tmp_path / "raw.db", ledger)
        for each in stored:
            raw.insert(each)
            ledger.write(
                [
                    (f"INSERT INTO {name} VALUES ({','.join('?' * len(added[0]))})", added)
                    for name, added in each.items()
                    if added
                ]
            )
        ingest.check_equal(ledger, raw, 2)
        ledger.write([(spoil, [()])])
        with pytest.raises(Unequal):
            ingest.check_equal(ledger, raw, 2)
        raw.close()


# Replay ------------------------------------------------------------------------------------------------------------


def test_the_fold_and_the_bare_select_read_the_same_events(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        replay.fill(ledger, 1_000)
        replay.check_equal(ledger, path)
        assert len(replay.bare_select(path)) == ledger.position() >= 1_000
        assert not any(isinstance(each.event, FrameQuarantined) for each in ledger.replay())


def test_a_select_that_misses_events_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        replay.fill(ledger, 10)
        monkeypatch.setattr(replay, "SELECT", f"{replay.SELECT} LIMIT 9")
        with pytest.raises(Unequal):
            replay.check_equal(ledger, path)


# Transport ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_times_to_the_disk_stand_beside_a_bare_commit_and_a_blocked_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    assert run("transport", "--quick", "--json", str(path)) == 0
    printed = capsys.readouterr().out
    *loads, sleeping, computing = json.loads(path.read_bytes())["results"]
    assert [each["case"] for each in loads] == list(transport.LOADS)
    for load in loads:
        assert [each["side"] for each in load["runs"]] == [*transport.SIDES.values(), transport.COMMIT]
    for host in (sleeping, computing):
        assert [each["side"] for each in host["runs"]] == ["in the background thread", "in its own loop"]
        assert "times below the loop's" in host["runs"][0]["note"]
    for result in (*loads, sleeping, computing):
        for each in result["runs"]:
            assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["p999_ms"] <= each["max_ms"] + 1e-6
            assert each["frames"] >= 50
            assert each["per_s"]["low"] <= each["per_s"]["median"] <= each["per_s"]["high"]
    assert "p99.9 ms" in printed
    assert "FastAPI whose handler sleeps 200 ms" in " ".join(printed.split())


def test_a_ratio_below_what_was_asked_for_falls_short() -> None:
    assert "passes" in transport.verdict(10.0)
    assert "falls short of 10" in transport.verdict(9.9)


def test_a_frame_is_durable_after_it_was_sent_by_one_clock(tmp_path: Path) -> None:
    load = pusher.Load(1_000, 5, 20)
    with pusher.pusher() as url, transport.Clocked(tmp_path / "ledger.db") as ledger:
        feed = Feed(bitopro, identity="i", key="k", secret="s", url=pusher.address(url, load))
        before = time.monotonic_ns()
        with background(ledger, feed):
            while feed.health.frames < load.frames:
                time.sleep(0.005)
        frames = [(done, pusher.sent_ns(each)) for done, batch in ledger.seen for each in batch]
        assert all(before < sent < done < time.monotonic_ns() for done, sent in frames)
        assert len({sent for _, sent in frames}) == 4  # a burst is one write
        transport.check_all(ledger.seen, load.frames, feed)
        with pytest.raises(Unequal):
            transport.check_all(ledger.seen[1:], load.frames, feed)


# Measure -----------------------------------------------------------------------------------------------------------


def test_the_slices_of_the_sides_alternate_after_a_warm_up_of_each() -> None:
    done: list[str] = []

    def side(name: str) -> Side:
        return Side(name, lambda: done.append(name), 10)

    result = race("race", "case", "units", 100, [side("a"), side("b")], 3)
    assert done == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert result.runs[0].ours is None
    assert result.runs[1].ours is not None


def test_a_small_work_is_repeated_as_often_as_it_is_counted() -> None:
    calls: list[None] = []
    side = repeated("small", lambda: calls.append(None), 10_000)
    before = len(calls)
    side.slice()
    assert len(calls) - before == side.units >= 1
