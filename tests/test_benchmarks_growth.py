"""The growth benchmark: what grows with history is told; a leak, a slow append, a lost frame are found out."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import __main__ as command
from benchmarks import growth, soak
from benchmarks.frames import deltadefi_order
from benchmarks.measure import Claim, Effort, Unequal
from ledger import Intake, Tally
from ledger.intake import Arrival
from projections import Fills

EVENTS: Final = 6_000
TINY: Final = Effort(2, 1_000, ((1, 2), (3, 2)), 200, 2, 10, 15_000)
SOAK: Final = f"soak of {EVENTS:,} events, one account with three assets: "


RACES: Final = ((16, 2, 1), (1, 4, 1))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races of a few commits; a slope is told of few events, too."""
    monkeypatch.setattr(soak, "RACES", RACES)
    monkeypatch.setattr(growth, "FEWEST_EVENTS", 0)


def soaked(folder: Path) -> list[soak.Seen]:
    """What a soak in this process told."""
    seen: list[soak.Seen] = []
    soak.soak(folder, EVENTS, 2, seen.append)
    return seen


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[soak.Seen]:
    """What one told in which nothing is wrong."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(soak, "RACES", RACES)
        return soaked(tmp_path_factory.mktemp("soak"))


def claims(seen: list[soak.Seen]) -> dict[str, Claim]:
    """By what they are called."""
    return {claim.text: claim for result in growth.judged(seen, EVENTS) for claim in result.claims}


def taking(monkeypatch: pytest.MonkeyPatch, before: Callable[[Intake, list[Arrival]], list[Arrival]]) -> None:
    """Every intake is given what `before` makes of its frames."""
    take = Intake.receive_all

    def receive_all(intake: Intake, arrivals: Iterable[Arrival]) -> Tally:
        return take(intake, before(intake, list(arrivals)))

    monkeypatch.setattr(Intake, "receive_all", receive_all)


def test_a_soak_tells_samples_all_the_way_and_a_race_at_each_stage(seen: list[soak.Seen]) -> None:
    samples = [each for each in seen if isinstance(each, soak.Sample)]
    *raced, many, one = [each for each in seen if isinstance(each, soak.Raced)]
    assert [False] * 2 == [each.claimed for each in (many, one)]
    assert all("fills of random ids" in each.result.case for each in (many, one))
    assert [soak.YOUNG] * 2 + [EVENTS // 3] * 2 + [EVENTS] * 2 == [each.version for each in raced]
    assert samples == sorted(samples, key=lambda each: (each.events, each.seconds))
    assert samples[0].events < EVENTS // 3 < samples[-1].events
    assert all(each.resident_bytes > 1 << 20 and each.files > 3 and each.wal_bytes > 0 for each in samples)
    for each in raced:
        assert ["an old ledger, from version", "a young ledger, from version"] == [
            run.side.rpartition(" ")[0] for run in each.result.runs
        ]
    [told] = [run for result in growth.judged(seen, EVENTS) for run in result.runs if hasattr(run, "samples")]
    assert isinstance(told, growth.Soak)
    assert tuple(samples) == told.samples


def test_a_slope_is_that_of_the_nearest_line() -> None:
    assert growth.slope([(0, 5), (1, 7), (2, 9)]) == pytest.approx(2)
    assert growth.slope([(0, 0), (1, 3), (2, 0), (3, 3)]) == pytest.approx(0.6)
    assert growth.slope([(0, 4), (9, 4)]) == pytest.approx(0)


def test_memory_that_leaks_and_files_that_stay_open_fall_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bytes] = []
    files: list[Any] = []

    def leak(_: Intake, arrivals: list[Arrival]) -> list[Arrival]:
        kept.extend(bytes([1]) * 8_192 for _ in arrivals)
        files.append(open(__file__, "rb"))  # noqa: SIM115 - that is the plant
        return arrivals

    taking(monkeypatch, leak)
    try:
        told = claims(soaked(tmp_path))
    finally:
        for file in files:
            file.close()
    of_memory = told[f"{SOAK}resident memory, MiB per million"]
    assert of_memory.verdict == "falls short"
    assert of_memory.figure is not None
    assert of_memory.figure > 4_000  # 8 KiB of each event are 7,812 MiB of a million
    assert told[f"{SOAK}open files, most / fewest"].verdict == "falls short"


def test_a_reader_that_never_lets_go_of_the_log_falls_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "WAL_BOUND", 6.0)
    path = tmp_path / "soak.db"
    with closing(sqlite3.connect(f"file:{path}?mode=rwc", uri=True, isolation_level=None)) as reader:

        def hold(intake: Intake, arrivals: list[Arrival]) -> list[Arrival]:
            if (
                intake.session == "soak-1"
                and intake._appender.store.name == str(path)
                and not reader.in_transaction
            ):
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM stored_events").fetchone()
            return arrivals

        taking(monkeypatch, hold)
        of_log = claims(soaked(tmp_path))[f"{SOAK}write-ahead log, MiB at most"]
    assert of_log.verdict == "falls short"


def test_an_append_that_takes_longer_the_more_there_is_falls_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(intake: Intake, arrivals: list[Arrival]) -> list[Arrival]:
        time.sleep(intake._appender.store.head() * 5e-6)
        return arrivals

    monkeypatch.setattr(soak, "RACES", ((16, 2, 1),))
    taking(monkeypatch, slow)
    of_appends = claims(soaked(tmp_path))[
        f"append rate of balances, whose keys rise with time, at version {EVENTS:,} / that at version 1,000"
    ]
    assert of_appends.verdict == "falls short"


def test_a_lost_frame_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(intake: Intake, arrivals: list[Arrival]) -> list[Arrival]:
        return arrivals[:-1] if intake._appender.store.head() == 1 else arrivals

    taking(monkeypatch, lose)
    with pytest.raises(Unequal):
        claims(soaked(tmp_path))


def test_fills_have_ids_in_no_order_and_a_lost_one_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trader = soak.Trader(tmp_path / "fills.db")
    trader.write(trader.make(100))
    trader.check()
    ids = [row.fill_id for row in sorted(Fills(trader.ledger).rows(), key=lambda row: row.time_ns or 0)]
    assert 100 == len(set(ids))
    assert ids != sorted(ids)
    monkeypatch.setattr(soak.Trader, "frame", lambda _, n: deltadefi_order(1, scattered=True))
    trader.write(trader.make(1))  # told again
    with pytest.raises(Unequal, match="of 101"):
        trader.check()
    trader.close()


def test_what_went_wrong_in_the_soak_ends_the_run() -> None:
    with pytest.raises(Unequal, match="a frame is gone"):
        list(growth.judged([soak.Wrong("a frame is gone")], EVENTS))
    with pytest.raises(Unequal, match="only 0 samples"):
        list(growth.judged([], EVENTS))


def test_a_soak_that_is_killed_halfway_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def killed(command: list[str], **options: Any) -> Any:
        ended = f"{sys.executable} -c 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'"
        return popen(["/bin/sh", "-c", f"exec {ended}"], **options)

    monkeypatch.setattr("benchmarks.growth.subprocess.Popen", killed)
    with pytest.raises(Unequal, match="exit code -9"):
        list(growth.growth(TINY))


def test_of_few_events_no_slope_is_claimed(seen: list[soak.Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "FEWEST_EVENTS", EVENTS + 1)
    of_memory = claims(seen)[f"{SOAK}resident memory, MiB per million"]
    assert of_memory.verdict == "not measured"
    assert "too few events" in of_memory.reason


def test_growth_soaks_in_another_process_and_prints_what_it_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        command.main(["growth", "--quick", "--json", str(path)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert growth.cases(TINY) == len(told["results"])
    assert {"growth"} == {result["benchmark"] for result in told["results"]}
    assert all(result["case"] in printed for result in told["results"][:-1])
    assert "growth: soak" in printed
    assert "resident memory grows by" in printed
    assert [0.9, 0.9, 1.0, 1.0, 16.0] == [claim["bound"] for claim in told["claims"]]
    assert all(claim["figure"] > 0 for claim in told["claims"] if "memory" not in claim["text"])
