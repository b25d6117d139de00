"""The benchmarks' command line: what it prints, writes and draws; how it measures and judges. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks import __main__ as command
from benchmarks import claims, decode, growth, ingest, pictures, rows, samples
from benchmarks.delays import delays
from benchmarks.extras import NOT_INSTALLED
from benchmarks.measure import Absent, Claim, Effort, Result, Run, Side, Spread, Unequal, race, repeated
from benchmarks.soak import Sample

TINY: Final = Effort(2, 1_000, ((1, 2), (256, 1)), 200, 2)

SIDES: Final = {
    "decode": ["accountledger", "msgspec.Raw (floor)", "msgspec, texts", decode.DECIMALS, "json, Decimals"],
    "ingest": ["accountledger", "raw sqlite3", "eventsourcing, Decimals", "eventsourcing, texts"],
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The efforts of the command line, as small as they can be, and two kinds of frames."""
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(command, "FULL", TINY)
    monkeypatch.setattr(decode, "SAMPLES", (samples.UPDATE, samples.ORDER))
    monkeypatch.setattr(ingest, "KINDS", (samples.SINGLE,))
    monkeypatch.setattr(ingest, "ACCOUNTS", (1, 2))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


# The command line ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("which", SIDES)
def test_each_benchmark_prints_a_table_and_its_claims_and_writes_json(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figures.json"
    assert run(which, "--quick", "--json", str(path)) == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert {which} == {result["benchmark"] for result in told["results"]}
    for result in told["results"]:
        assert SIDES[which] == [each["side"] for each in result["runs"]][: len(SIDES[which])]
        assert result["case"] in printed
        for each in result["runs"]:
            assert each["per_s"]["low"] <= each["per_s"]["median"] <= each["per_s"]["high"]
            assert each["cpu_us_each"] > 0
            assert f"  {each['side']} " in printed
        assert [None] == [each["ours"] for each in result["runs"][:1]] == [result["runs"][0]["ours_cpu"]]
        assert all(each["ours_cpu"]["median"] > 0 for each in result["runs"][1:])
    assert len(told["claims"]) == 4
    lines = printed[printed.index(f"{which}: claims") :].splitlines()
    for claim in told["claims"]:
        [line] = [line for line in lines if line.startswith(claim["text"])]
        asked = f"at {'least' if claim['at_least'] else 'most'} {claim['bound']:g} "
        assert asked in line
        assert f" {claim['figure']:.2f}  {claim['verdict']}" in line
        assert claim["case"] in {result["case"] for result in told["results"]}


@pytest.mark.usefixtures("tiny")
def test_all_runs_every_benchmark_and_tells_the_versions_the_cpus_the_load_and_all_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {"decode", "ingest", "replay", "transport"} <= set(command.BENCHMARKS)
    monkeypatch.setattr(command, "BENCHMARKS", tuple(SIDES))
    path = tmp_path / "figures.json"
    assert run("--json", str(path)) == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert {result["benchmark"] for result in told["results"]} == {*SIDES}
    for said in ("CPUs, load", f"msgspec {msgspec.__version__}", "ccxt 4.", "orjson 3.", "load at the end"):
        assert said in printed
    assert told["before"]["cpus"] >= 1
    for name in ("fastapi", "uvicorn", "psycopg", "matplotlib", "trio-websocket", "websockets"):
        assert told["before"]["versions"][name] == version(name)
        assert f"{name} {version(name)}, " in printed
    assert told["after"]["sqlite"] in printed
    assert [claim["text"] for claim in told["claims"]] == [
        line.split("  ")[0] for line in printed[printed.index("all claims") :].splitlines()[2:10]
    ]
    verdicts = [claim["verdict"] for claim in told["claims"]]
    assert (
        f"claims: {verdicts.count('pass')} pass, {verdicts.count('falls short')} fall short, 0 not measured"
        in printed
    )


def test_an_unknown_benchmark_or_folder_is_bad_usage_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for arguments in (
        ["teleport"],
        ["decode", "--json", str(tmp_path / "nowhere" / "figures.json")],
        ["decode", "--pictures", str(file)],
    ):
        assert run(*arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert captured.out == ""


@pytest.mark.parametrize("path", ["/proc/figures.json", "/dev/full"])
def test_json_that_cannot_be_written_is_told_in_one_line_before_anything_is_measured(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_measured", lambda *_: pytest.fail("it was measured"))
    assert run("decode", "--quick", "--json", path) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Errno" not in captured.err or path == "/dev/full"
    assert captured.out == ""


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("error", "code"), [(Unequal("not the same"), 1), (KeyboardInterrupt(), 130)])
def test_what_ends_the_last_benchmark_leaves_the_json_of_those_before_it(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(_: Effort) -> None:
        raise error

    monkeypatch.setattr(command, "BENCHMARKS", ("decode", "ingest"))
    monkeypatch.setattr(ingest, "ingest", ends)
    path = tmp_path / "figures.json"
    assert run("--quick", "--json", str(path)) == code
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert {"decode"} == {result["benchmark"] for result in told["results"]}
    assert len(told["claims"]) == 4


@pytest.mark.usefixtures("tiny")
def test_what_is_no_file_is_given_the_json_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "BENCHMARKS", ("decode", "ingest"))
    path, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    assert run("--quick", "--json", str(path)) == 0
    reader.join()
    told: dict[str, Any] = json.loads(read[0])
    assert {"decode", "ingest"} == {result["benchmark"] for result in told["results"]}


@pytest.mark.usefixtures("tiny")
def test_whoever_reads_no_further_leaves_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert run("decode", "--quick") == 141


NOTHING: Final = """
from benchmarks import __main__ as command

command._measured = lambda *_: []
command.report.table = lambda _: "nothing"
command.main(["decode", "--quick"])
"""


def test_an_output_that_is_closed_is_no_defect() -> None:
    script = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, NOTHING]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.usefixtures("tiny")
def test_sides_that_differ_end_the_run_with_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows.Raw, "insert", lambda raw, batch: None)
    assert run("ingest", "--quick") == 1
    assert "did not store the rows" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_without_the_optional_packages_their_rows_say_so_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ccxt.async_support.base.ws.client", "matplotlib", "orjson", "pydantic"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("fastjson", "handler", "models", "pictures"):
        monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    assert run("decode", "--quick", "--pictures", str(tmp_path)) == 2
    assert f"matplotlib is {NOT_INSTALLED}" in capsys.readouterr().err
    path = tmp_path / "figures.json"
    assert run("decode", "--quick", "--json", str(path)) == 0
    printed = capsys.readouterr().out
    rows_of_it = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    missing = [
        line.removesuffix(NOT_INSTALLED).strip() for line in rows_of_it if line.endswith(NOT_INSTALLED)
    ]
    assert [decode.ORJSON, decode.PYDANTIC, decode.CCXT, decode.ORJSON, decode.PYDANTIC] == missing
    told: dict[str, Any] = json.loads(path.read_bytes())
    verdicts = {claim["text"]: claim["verdict"] for claim in told["claims"]}
    assert verdicts["our speed / that of ccxt's handler"] == "not measured"
    assert verdicts["everywhere: our speed / that of orjson with Decimals"] == "not measured"
    assert "2 not measured" in printed


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_a_picture_of_each_table_is_drawn_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    assert run("decode", "--quick", "--pictures", str(folder)) == 0
    assert [folder / "decode.svg"] == list(folder.iterdir())
    assert f"drawn: {folder / 'decode.svg'}" in capsys.readouterr().out
    said = text_of(folder / "decode.svg")
    for wanted in ("bitopro, 11 entries", "deltadefi, order with fill", *SIDES["decode"][1:], decode.CCXT):
        assert wanted in said
    assert "accountledger's speed as a multiple of its" in said


def test_the_same_figures_make_the_same_picture_and_others_another(tmp_path: Path) -> None:
    drawn: list[bytes] = []
    for low in (1.0, 1.0, 1.5):
        runs = (
            Run("ours", Spread(4, 3, 5), None, None),
            Run("its", Spread(2, 1, 3), None, Spread(2, low, 3)),
        )
        [path] = pictures.draw([Result("race", "case", "units", None, runs)], tmp_path)
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


def test_delays_and_speeds_of_one_benchmark_are_drawn_apart(tmp_path: Path) -> None:
    times = Result("race", "how long", "frames", None, (delays("ours", [[1.0, 2.0, 3.0]]),))
    speeds = Result("race", "how fast", "frames", None, (Run("ours", Spread(2, 1, 3), None, None),))
    missing = Result(
        "race", "not here", "frames", None, (Run("its", None, None, None, note="not installed"),)
    )
    paths = pictures.draw([times, speeds, missing], tmp_path)
    assert ["race.svg", "race-speeds.svg"] == [path.name for path in paths]
    assert "p99 a tick" in text_of(paths[0])
    assert "how fast" in text_of(paths[1])
    assert "how long" not in text_of(paths[1])


def test_a_ratio_between_others_than_accountledger_is_not_called_its_speed(tmp_path: Path) -> None:
    def result(case: str, ours: str, its: str) -> Result:
        runs = (Run(ours, Spread(4, 3, 5), None, None), Run(its, Spread(2, 1, 3), None, Spread(2, 1, 3)))
        return Result("race", case, "units", None, runs)

    appends, writers = pictures.draw(
        [result("appends", "accountledger, append", "COPY"), result("writers", "2 writers", "1 writer")],
        tmp_path,
    )
    assert "accountledger's speed as a multiple" in text_of(appends)
    assert "accountledger" not in text_of(writers)
    for said in ("writers:", "2 writers", "speed of the one named at the left"):
        assert said in text_of(writers)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.5, 12.0, {"0.5", "1", "2", "5", "10"}),
        (0.9, 1.1, {"0.9", "1", "1.1"}),
        (0.3, 5e6, {"1", "1,000,000"}),
    ],
)
def test_the_labels_of_an_axis_are_plain_numbers(
    low: float, high: float, labels: set[str], tmp_path: Path
) -> None:
    runs = (
        Run("accountledger", Spread(1, 1, 1), None, None),
        Run("its", Spread(1, 1, 1), None, Spread(low, low, high)),
    )
    [path] = pictures.draw([Result("race", "case", "units", None, runs)], tmp_path)
    figure = pictures._drawn([Result("race", "case", "units", None, runs)], pictures.RATIO)
    figure.canvas.draw()
    [axes] = figure.axes
    assert labels <= {each.get_text() for each in axes.get_xticklabels()}
    assert [] == [*axes.get_xticklabels(minor=True)]
    assert "mathdefault" not in text_of(path)
    assert "×" not in text_of(path)


def test_a_long_text_under_an_axis_is_not_cut(tmp_path: Path) -> None:
    runs = (
        Run("2 writers", Spread(1, 1, 1), None, None),
        Run("1 writer", Spread(1, 1, 1), None, Spread(1, 0.5, 2)),
    )
    figure = pictures._drawn([Result("race", "a long name " * 9, "units", None, runs)], pictures.BESIDE)
    figure.canvas.draw()
    box = figure.axes[0].xaxis.label.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_the_memory_of_a_soak_is_drawn_by_its_events(tmp_path: Path) -> None:
    samples = [
        Sample(at * 100_000, (80 + at) << 20, 9, 1 << 20, at * 2.0, at * 1.0, 0, at) for at in range(1, 31)
    ]
    [path] = pictures.draw([growth._soak(samples, 3_000_000)], tmp_path)
    assert "MiB resident, by million events" in text_of(path)
    line: Any = pictures._memory([growth._soak(samples, 3_000_000)], pictures.MEMORY).axes[0].get_lines()[0]
    assert (0.1, 81.0) == (line.get_xdata()[0], line.get_ydata()[0])


def text_of(path: Path) -> str:
    """The words in a picture."""
    return " ".join(ElementTree.parse(path).getroot().itertext())


# Claims --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "at_least", "verdict"),
    [
        (0.55, True, "pass"),
        (0.5499, True, "falls short"),
        (0.55, False, "pass"),
        (0.5501, False, "falls short"),
        (None, True, "not measured"),
        (None, False, "not measured"),
    ],
)
def test_a_figure_at_the_bound_passes_and_one_beyond_it_falls_short(
    figure: float | None, at_least: bool, verdict: str
) -> None:
    assert verdict == Claim("text", figure, 0.55, at_least).verdict


def test_the_figure_of_a_claim_stands_beside_the_side_it_was_taken_from() -> None:
    runs = (
        Run("ours", Spread(4, 3, 5), None, None),
        Run("its", Spread(2, 1, 3), None, Spread(2, 1, 3), Spread(4, 3, 5), note="lazy"),
        Run("gone", None, None, None, note="not installed"),
    )
    result = Result("race", "case", "units", None, runs)
    for judge, text, bound, cpu, figure, note in (
        (claims.faster, "a", 2.0, False, 2.0, "2.00, at least 2: pass; lazy"),
        (claims.faster, "b", 2.5, False, 2.0, "2.00, at least 2.5: falls short; lazy"),
        (claims.slower, "c", 0.3, True, 0.25, "0.25, at most 0.3: pass; lazy"),
        (claims.slower, "d", 0.3, False, 0.5, "0.50, at most 0.3: falls short; lazy"),
    ):
        judged = judge(result, "its", text, bound, cpu=cpu)
        assert (Claim(text, figure, bound, judge is claims.faster),) == judged.claims
        assert note == judged.run("its").note
    judged = claims.slower(result, "gone", "e", 1.0)
    assert (Claim("e", None, 1.0, False, "gone: not installed"),) == judged.claims
    assert judged.runs == runs


@pytest.mark.parametrize(
    ("figures", "at_least", "verdict", "worst"),
    [
        ([3.0, 2.0, 4.0], True, "pass", 1),
        ([3.0, 2.0, 4.0], False, "falls short", 2),
        ([0.5, 0.2, 0.9], False, "pass", 2),
        ([3.0, None, 4.0], True, "not measured", 1),
        ([3.0, None, 0.5], True, "falls short", 2),
    ],
)
def test_of_a_claim_of_several_cases_the_worst_is_told(
    figures: list[float | None], at_least: bool, verdict: str, worst: int
) -> None:
    results = [
        Result("race", f"case {at}", "units", None, (), claims=(Claim("text", figure, 1.0, at_least),))
        for at, figure in enumerate(figures)
    ]
    [told] = claims.told(results)
    assert (verdict, f"case {worst}", figures[worst], 3) == (told.verdict, told.case, told.figure, told.cases)


def test_claims_of_one_text_in_two_benchmarks_are_two() -> None:
    results = [Result(name, "case", "units", None, (), claims=(Claim("a", 1, 1, True),)) for name in "xy"]
    assert ["x", "y"] == [told.benchmark for told in claims.told(results)]
    assert claims.count_text(claims.told(results)) == "2 pass, 0 fall short, 0 not measured"


# Measure -------------------------------------------------------------------------------------------------------------


def test_the_slices_of_the_sides_alternate_in_changing_orders_after_a_warm_up_of_each() -> None:
    done: list[str] = []

    def side(name: str) -> Side:
        return Side(name, lambda: done.append(name), 10)

    result = race("race", "case", "units", 100, [side("a"), Absent("x", "not here"), side("b")], 9)
    assert ["a", "b"] == done[:2]
    orders = ["".join(done[at : at + 2]) for at in range(2, len(done), 2)]
    assert (9, {"ab", "ba"}) == (len(orders), set(orders))
    assert 2 <= orders.count("ab") <= 7
    before, done[:] = [*done], []
    race("race", "case", "units", 100, [side("a"), side("b")], 9)
    assert before == done
    assert ["a", "x", "b"] == [each.side for each in result.runs]
    assert result.runs[0].ours is None
    assert Run("x", None, None, None, note="not here") == result.runs[1]
    assert result.runs[2].ours is not None


def test_a_side_is_compared_by_what_it_did_not_by_what_a_slice_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0, 0]

    def work(wall_ns: int, cpu_ns: int) -> Callable[[], None]:
        def slice() -> None:
            clock[0] += wall_ns
            clock[1] += cpu_ns

        return slice

    monkeypatch.setattr("benchmarks.measure.perf_counter_ns", lambda: clock[0])
    monkeypatch.setattr("benchmarks.measure.process_time_ns", lambda: clock[1])
    ours, its = Side("ours", work(1_000, 500), 10), Side("its", work(4_000, 100), 20, "a note")
    first, second = race("race", "case", "units", 50, [ours, its], 3).runs
    assert Run("ours", *speed(1e7, 500.0), cpu_us_each=0.05) == first
    ratio, by_cpu = Spread(2.0, 2.0, 2.0), Spread(0.1, 0.1, 0.1)
    assert Run("its", *speed(5e6, 250.0, ratio), ours_cpu=by_cpu, cpu_us_each=0.005, note="a note") == second


def speed(per_s: float, mb_per_s: float, ours: Spread | None = None) -> tuple[Spread, float, Spread | None]:
    return Spread(per_s, per_s, per_s), mb_per_s, ours


def test_a_small_work_is_repeated_as_often_as_it_is_counted_with_each_input_in_turn() -> None:
    calls: list[int] = []
    side = repeated("small", calls.append, [1, 2, 3], 10_000)
    before = len(calls)
    side.slice()
    assert len(calls) - before == side.units >= 1
    assert [1, 2, 3] * (len(calls) // 3) == calls[: len(calls) // 3 * 3]


def test_a_result_knows_its_sides_by_name() -> None:
    runs = (Run("a", None, None, None), Run("b", None, None, None))
    assert runs[1] is Result("race", "case", "units", None, runs).run("b")
    with pytest.raises(StopIteration):
        Result("race", "case", "units", None, runs).run("c")


def test_nothing_is_claimed_of_sides_that_did_not_do_equal_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def unequal(*_: object) -> None:
        raise Unequal("not the same")

    monkeypatch.setattr(ingest, "check_equal", unequal)
    with pytest.raises(Unequal):
        ingest.ingested(ingest.work(samples.SINGLE, 1, 1, commits=1, slices=2), rounds=1)
