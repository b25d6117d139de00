"""The transport benchmark: one clock from the wire to the disk, and nothing of what was sent is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import commits, delays, pusher, throughput, transport
from benchmarks.extras import NOT_INSTALLED
from benchmarks.frames import START_MS, bitopro_balance
from benchmarks.measure import Claim, Effort, Result, Run, Spread, Unequal
from benchmarks.rows import contents
from ledger import Ledger
from ledger.venues import bitopro
from transports import Feed, background

TINY: Final = Effort(2, 1_000, ((1, 2), (3, 2)), 200, 2)
BACKENDS: Final = ("trio", "asyncio")


@pytest.fixture(scope="module")
def venue() -> Iterator[str]:
    with pusher.pusher() as url:
        yield url


# Wire to durable -----------------------------------------------------------------------------------------------------


def test_times_to_the_disk_and_messages_a_second_are_told_of_each_transport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(transport, "TURNS", 1)
    monkeypatch.setattr(transport, "EVERY_S", 0.25)
    monkeypatch.setattr(throughput, "FRAMES", 100)
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        command.main(["transport", "--quick", "--json", str(path)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    results = told["results"]
    assert transport.cases(TINY) == len(results)
    loads, hosts, rates = results[:3], results[3:5], results[5:]
    assert [*transport.LOADS] == [each["case"] for each in loads]
    for load in loads:
        bare = [commits.FRAME, commits.ROWS, commits.PACED]
        assert [*transport.SIDES.values(), *bare] == [each["side"] for each in load["runs"]]
    for host in hosts:
        assert ["in the background thread", "in its own loop"] == [each["side"] for each in host["runs"]]
        assert "times below the loop's" in host["runs"][0]["note"]
    for each in (run for result in (*loads, *hosts) for run in result["runs"]):
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["p999_ms"] <= each["max_ms"] + 1e-6
        assert each["frames"] >= 50
        assert each["per_s"]["low"] <= each["per_s"]["median"] <= each["per_s"]["high"]
    for rate in rates:
        assert [throughput.ALONE, throughput.STORED, throughput.RAW] == [run["side"] for run in rate["runs"]]
    assert all(200 < rate["bytes_each"] < 300 for rate in rates[:2])
    assert all(2_000 < rate["bytes_each"] < 2_200 for rate in rates[2:])
    assert "p99.9 ms" in printed
    assert "FastAPI whose handler sleeps 200 ms" in " ".join(printed.split())
    [claim] = told["claims"]
    assert ("500/s", 3.0, 2) == (claim["case"], claim["bound"], claim["cases"])
    assert claim["figure"] == pytest.approx(
        max(run["p99_ms"] for run in loads[0]["runs"][:2]) / loads[0]["runs"][2]["p99_ms"]
    )


def test_without_a_web_framework_the_rows_of_its_hosts_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "find_spec", lambda name: None)
    hosts = list(transport._hosted("ws://nowhere.invalid", pusher.Load(500, 1, 50), tmp_path))
    assert len(transport.HOSTS) == len(hosts)
    out = StringIO()
    rates = Result("transport", "fast", "frames", None, (Run("side", Spread(1, 1, 1), None, None),))
    Console(file=out, width=180, markup=False).print(transport.table([*hosts, rates]))
    waits, _, fast = out.getvalue().partition("fast")
    for host in hosts:
        assert host.case in waits
        assert [transport.BACKGROUND, transport.IN_LOOP] == [run.side for run in host.runs]
    assert 2 * len(hosts) == waits.count(NOT_INSTALLED)
    assert NOT_INSTALLED not in fast
    assert transport.cases(TINY) == len(transport.LOADS) + len(hosts) + throughput.cases(transport.SIDES)


def test_an_interrupt_that_struck_in_an_event_loop_is_one_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    struck: BaseException = BaseExceptionGroup(
        "tasks", [BaseExceptionGroup("of tasks", [KeyboardInterrupt()])]
    )

    def measure(*_: object) -> None:
        raise struck

    monkeypatch.setattr(command, "run", measure)
    with pytest.raises(SystemExit) as ended:
        command.main(["transport"])
    assert (130, "python -m benchmarks: interrupted\n") == (ended.value.code, capsys.readouterr().err)
    struck = ExceptionGroup("tasks", [ValueError("a defect")])
    with pytest.raises(ExceptionGroup):
        command.main(["transport"])


def test_an_interrupt_from_the_keyboard_ends_all_in_one_line() -> None:
    command = [sys.executable, "-m", "benchmarks", "transport", "--quick"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command,
        cwd=root,
        start_new_session=True,
        # A shell has what runs behind it ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as ran:
        venue = Path(f"/proc/{ran.pid}/task/{ran.pid}/children")
        until_s = time.monotonic() + 30
        while not venue.read_text() and time.monotonic() < until_s:
            time.sleep(0.05)
        time.sleep(1.0)
        os.killpg(ran.pid, signal.SIGINT)
        _, said = ran.communicate()
    assert (130, "python -m benchmarks: interrupted") == (ran.returncode, said.strip())


def test_a_ratio_below_what_was_asked_for_falls_short() -> None:
    assert "passes" in transport.verdict(10.0)
    assert "falls short of 10" in transport.verdict(9.9)


def test_a_frame_is_durable_after_it_was_sent_by_one_clock(venue: str, tmp_path: Path) -> None:
    load = pusher.Load(1_000, 5, 20)
    with transport.Clocked(tmp_path / "ledger.db") as ledger:
        feed = Feed(bitopro, identity="i", key="k", secret="s", url=pusher.address(venue, load))
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


def test_a_slow_way_to_the_disk_falls_short(
    venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive_all = transport._Clocked.receive_all

    def slow(intake: transport._Clocked, arrivals: Any) -> Any:
        time.sleep(0.3)
        return receive_all(intake, arrivals)

    monkeypatch.setattr(transport._Clocked, "receive_all", slow)
    result = transport._loaded("500/s", venue, pusher.Load(500, 1, 50), tmp_path, TINY)
    assert ["falls short"] * 2 == [claim.verdict for claim in result.claims]


# Bare commits --------------------------------------------------------------------------------------------------------


def test_a_bare_commit_of_rows_stores_what_a_ledger_stores(tmp_path: Path) -> None:
    stored = commits.rows(5)
    with Ledger(tmp_path / "ledger.db") as ledger:
        intake = ledger.intake(bitopro, "main", session="benchmark", opened_ns=START_MS * 1_000_000)
        for n in range(5):
            intake.receive(bitopro_balance(n, pusher.ENTRIES), (START_MS + n) * 1_000_000)
        expected = contents(ledger.select)
    joined: dict[str, list[Any]] = {name: [] for name in expected}
    for batch in stored:
        for name, rows in batch.items():
            joined[name] += rows
    assert expected == {name: sorted(rows) for name, rows in joined.items()}


@pytest.mark.parametrize("kind", [commits.FRAME, commits.ROWS, commits.PACED])
def test_each_bare_commit_is_timed(kind: str, tmp_path: Path) -> None:
    start_s = time.monotonic()
    took = commits.commits(kind, 20, 0.01, tmp_path)
    assert len(took) == 20
    assert all(each > 0 for each in took)
    assert (time.monotonic() - start_s > 0.19) or kind != commits.PACED
    assert [] == list(tmp_path.iterdir())


# Messages a second ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_that_is_blasted_comes_and_a_frame_too_few_is_found_out(
    venue: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = pusher.Load(0, 1, 50, 17)
    url = pusher.address(venue, load)
    throughput.alone(backend, url, load)
    throughput.stored(backend, url, load, tmp_path)
    throughput.raw(url, load)
    monkeypatch.setattr(throughput, "PATIENCE_S", 0.5)
    more = pusher.Load(0, 1, 51, 17)
    with pytest.raises(Unequal):
        throughput.alone(backend, url, more)
    with pytest.raises(Unequal):
        throughput.stored(backend, url, more, tmp_path)
    with pytest.raises(Unequal):
        throughput.raw(url, more)


def test_what_is_blasted_is_made_of_frames_that_a_venue_would_send(venue: str) -> None:
    assert pusher.blast(3, 1) == b"".join(
        pusher._text(b'{"sent":0,' + bitopro_balance(n, 1)[1:]) for n in range(3)
    )
    assert pusher.sent_ns(b'{"sent":0,' + bitopro_balance(1, 1)[1:]) == 0


# Delays --------------------------------------------------------------------------------------------------------------


def test_quantiles_are_of_all_turns_together() -> None:
    run = delays.delays("side", [[float(n) for n in range(501)], [float(n) for n in range(501, 1_001)]])
    assert (1_001, 500.0, 990.0, 999.0, 1_000.0) == (
        run.frames,
        run.p50_ms,
        run.p99_ms,
        run.p999_ms,
        run.max_ms,
    )
    assert run.per_s is not None
    assert run.per_s.high == pytest.approx(4.0)


def test_a_claim_within_a_bound_is_told_beside_its_side() -> None:
    assert Claim("text", 3.0, 3.0, False) == delays.within("text", 6.0, 2.0, 3.0)
    assert delays.told(delays.within("text", 6.0, 2.0, 3.0)) == "3.00, at most 3: pass"
    assert delays.told(delays.within("text", 6.1, 2.0, 3.0)) == "3.05, at most 3: falls short"
    result = Result("race", "case", "frames", None, (delays.delays("side", [[1.0, 2.0]]),))
    assert delays.is_of(result)
