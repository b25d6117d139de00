"""The replay benchmark: all sides read the same history, moments answer what was stated, and what is slow is told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from msgspec.structs import replace as changed

from benchmarks import __main__ as command
from benchmarks import moments, replay, stream
from benchmarks.measure import Effort, Unequal
from benchmarks.stock_replay import Stock
from ledger import Ledger, Recorded
from ledger.cli.options import VENUES
from ledger.events import BalanceDelta, FrameQuarantined
from ledger.venues import bitopro
from projections import Accounts, Balances, Gaps, Projection, Sessions, catch_up
from projections.as_of import AsOf

TINY: Final = Effort(2, 1_000, ((1, 2), (3, 2)), 200, 2, 10)
EVENTS: Final = 1_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterable[Ledger]:
    with Ledger(tmp_path / "ledger.db") as ledger:
        stream.fill(ledger, EVENTS)
        yield ledger


# The history ---------------------------------------------------------------------------------------------------------


def test_the_history_is_of_five_venues_and_nothing_in_it_is_wrong_or_missing(ledger: Ledger) -> None:
    assert EVENTS <= ledger.position() < EVENTS + 1_000
    accounts = [row.account for row in _rows(ledger)]
    assert ["bitopro", "cascade", "deltadefi", "kraken_prime", "pacifica"] == sorted(
        {name.partition(":")[0] for name in accounts}
    )
    assert not any(isinstance(each.event, FrameQuarantined) for each in ledger.replay())
    assert [] == list(ledger.verify())
    gaps = Gaps(ledger)
    assert {"blind"} >= {gap.kind for name in accounts for gap in gaps.rows(name)}


def test_a_conversation_ends_and_begins_again_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SESSION_FRAMES", 100)
    with Ledger(tmp_path / "ledger.db") as ledger:
        stream.fill(ledger, EVENTS)
        [(frames, distinct)] = ledger.select("SELECT count(*), count(DISTINCT payload) FROM evidence")
        assert frames == distinct
        assert isinstance(frames, int)
        assert frames // 100 <= len(Sessions(ledger).rows()) <= frames // 100 + 10
        assert [] == [gap for gap in Gaps(ledger).rows("kraken_prime:main") if gap.kind == "sequence"]


def test_a_long_history_tells_how_far_it_is_and_a_short_one_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    short, long = stream.progress("short", 1_000), stream.progress("long", 1_000_000)
    for done in (100, 100_000, 100_001, 250_000, 1_000_000):
        short(done)
        long(done)
    told = capsys.readouterr().err.splitlines()
    assert ["long: 100,000", "long: 250,000", "long: 1,000,000"] == [
        each.partition(" of ")[0] for each in told
    ]


# Equal work ----------------------------------------------------------------------------------------------------------


def test_every_side_reads_every_event(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    replay.check_equal(ledger, path)
    replay.bare_select(path, ledger.position())
    replay.fold(ledger)
    replay.fold(ledger, judged=True)
    replay.fold_all(ledger)
    replay.verify(ledger)
    replay.verify(ledger, VENUES.values())


def test_balances_are_folded_alone_or_with_what_their_verdicts_rest_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[list[str]] = []

    def watched(ledger: Ledger, projections: Sequence[Projection]) -> None:
        folded.append([each.name for each in projections])
        catch_up(ledger, projections)

    monkeypatch.setattr(replay, "catch_up", watched)
    replay.fold(ledger)
    replay.fold(ledger, judged=True)
    alone, judged = folded
    assert ["balances"] == alone
    assert {"balances", "gaps", "sessions"} <= set(judged)


def test_only_a_verify_with_venues_finds_a_frame_that_is_decoded_otherwise_now(ledger: Ledger) -> None:
    other: Any = SimpleNamespace(NAME=bitopro.NAME, decode=lambda frame: [])
    replay.verify(ledger)
    with pytest.raises(Unequal, match="bitopro"):
        replay.verify(ledger, [other])


def test_a_select_that_misses_events_is_found_out(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "ledger.db", ledger.position()
    monkeypatch.setattr(replay, "SELECT", f"{replay.SELECT} LIMIT {events - 1}")
    with pytest.raises(Unequal):
        replay.bare_select(path, events)
    with pytest.raises(Unequal):
        replay.check_equal(ledger, path)


def test_a_fold_that_stops_early_is_found_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "catch_up", lambda ledger, projections: None)
    with pytest.raises(Unequal):
        replay.fold(ledger)
    with pytest.raises(Unequal):
        replay.fold_all(ledger)


def test_a_verify_that_finds_something_or_reads_too_little_is_no_side(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "verify", lambda ledger, **_: iter(()))
        with pytest.raises(Unequal):
            replay.verify(ledger)
    ledger.write([("UPDATE evidence SET payload=x'00' WHERE ordinal=3", [()])])
    with pytest.raises(Unequal):
        replay.verify(ledger)


@pytest.mark.parametrize("lean", [True, False])
def test_stock_aggregates_come_to_the_same_balances(ledger: Ledger, tmp_path: Path, lean: bool) -> None:
    stock = Stock(tmp_path / "stock.db", lean=lean)
    events = EVENTS - 100
    stock.fill(islice(ledger.replay(), events))
    replay.check_stock(ledger, stock, events)
    with pytest.raises(Unequal):
        replay.check_stock(ledger, stock, events + 1)
    stock.close()


def test_a_stock_aggregate_with_one_amount_changed_is_found_out(ledger: Ledger, tmp_path: Path) -> None:
    stock = Stock(tmp_path / "stock.db", lean=True)
    stock.fill(_one_changed(islice(ledger.replay(), EVENTS)))
    with pytest.raises(Unequal):
        replay.check_stock(ledger, stock, EVENTS)
    stock.close()


def _one_changed(events: Iterable[Recorded]) -> Iterable[Recorded]:
    all_events = list(events)
    for place in range(len(all_events) - 1, -1, -1):
        event = all_events[place].event
        if isinstance(event, BalanceDelta):
            balances = (changed(event.balances[0], available="0.00000001"), *event.balances[1:])
            all_events[place] = changed(all_events[place], event=changed(event, balances=balances))
            return all_events
    raise AssertionError("no balance in it")


# Moments -------------------------------------------------------------------------------------------------------------


def test_balances_as_of_any_moment_are_what_was_stated_by_then(ledger: Ledger) -> None:
    result = moments.as_of(ledger, TINY)
    assert ["as of a version", "as of a time", "current balances"] == [run.side for run in result.runs]
    assert [moments.AS_OF_BOUND] * 2 == [claim.bound for claim in result.claims]


def test_a_moment_that_answers_with_the_balances_of_another_is_found_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Balances.at

    def later(balances: Balances, moment: int | str, account: str) -> AsOf:
        return at(balances, moment + 2 if isinstance(moment, int) else moment, account)

    monkeypatch.setattr(Balances, "at", later)
    with pytest.raises(Unequal):
        moments.as_of(ledger, TINY)


def test_a_slow_moment_falls_short(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Balances.at

    def slow(balances: Balances, moment: int | str, account: str) -> AsOf:
        time.sleep(0.2 if isinstance(moment, str) else 0.0)
        return at(balances, moment, account)

    monkeypatch.setattr(Balances, "at", slow)
    by_time = moments.as_of(ledger, TINY).claims[1]
    assert by_time.verdict == "falls short"


def test_a_start_that_folds_history_again_falls_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TURN_FRAMES", 5)
    effort = changed(TINY, replay_events=4_000)
    with Ledger(tmp_path / "old.db") as ledger:
        stream.fill(ledger, effort.replay_events)

    def refolded(path: Path, account: str) -> object:
        with Ledger(path) as ledger:
            replay.fold(ledger)
            return Balances(ledger)[account]

    monkeypatch.setattr(moments, "_started", refolded)
    [claim] = moments.start(tmp_path / "old.db", tmp_path, effort).claims
    assert claim.verdict == "falls short"


# The run -------------------------------------------------------------------------------------------------------------


def test_a_slow_verify_falls_short(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "verify", lambda ledger, venues=(): time.sleep(0 if venues else 2.0))
    result = replay._balances(ledger, tmp_path / "ledger.db", tmp_path, TINY)
    of_verify = [claim for claim in result.claims if "verify" in claim.text]
    assert ["falls short"] == [claim.verdict for claim in of_verify]


def test_replay_prints_rates_and_moments_with_their_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUICK", TINY)
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        command.main(["replay", "--quick", "--json", str(path)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    told: dict[str, Any] = json.loads(path.read_bytes())
    assert replay.cases(TINY) == len(told["results"])
    assert {"replay"} == {result["benchmark"] for result in told["results"]}
    assert [
        "accountledger: Balances",
        replay.JUDGED,
        "Ledger.replay alone",
        replay.VERIFY,
        replay.DECODED,
        replay.BARE,
        replay.LEAN,
        replay.STOCK,
    ] == [run["side"] for run in told["results"][0]["runs"]]
    for result in told["results"]:
        assert result["case"] in printed
        assert all(f"  {run['side']} " in printed for run in result["runs"])
    assert [0.35, 12, 2.5, 5, 5, 1.5] == [claim["bound"] for claim in told["claims"]]
    assert all(claim["figure"] > 0 for claim in told["claims"])
    assert "(asked of 1,000,000)" in told["claims"][0]["text"]
    assert "balances, not what their verdicts rest on" in told["claims"][0]["text"]
    assert "verify, which decodes no frame and folds nothing again" in told["claims"][2]["text"]


def _rows(ledger: Ledger) -> list[Any]:
    accounts = Accounts(ledger)
    accounts.subscription.catch_up()
    return accounts.rows()
