"""Feeds through a proxy that resets, half closes, stalls, refuses, slices, injects garbage and cuts: what went through
whole before the break is stored, in order, byte for byte and once, and when it is over every balance is the venue's.

Each run is one seed at one venue on one event loop; the five venues run side by side.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeAlias

import anyio
import pytest

from ledger import Ledger
from ledger.intake import Arrival
from tests.chaos import Chaos
from tests.feeding import VENUES, Trial, hurry, trial
from transports import Inbox, live

ROUNDS: Final = 20
"""Of each event loop; in each round every venue has a seed of its own: 200 runs."""
BREAKS: Final = 3
"""How many connections of a feed are broken before the proxy is healed, if it comes to that in TROUBLE_S."""
TROUBLE_S: Final = 1.0
HEALED_S: Final = 10.0
TEST_S: Final = 25.0


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    hurry(monkeypatch)


@pytest.mark.few(2)
@pytest.mark.parametrize("number", range(ROUNDS))
async def test_what_went_through_is_stored_and_the_end_is_the_truth(
    number: int, anyio_backend_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = ("asyncio", "trio").index(anyio_backend_name)
    seed = (2 * number + loop) * len(VENUES)
    with caplog.at_level(logging.INFO), anyio.fail_after(TEST_S):
        await run(tmp_path, {venue: seed + place for place, venue in enumerate(VENUES)})
    assert not [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def run(folder: Path, seeds: dict[str, int]) -> None:
    """Feeds of these venues through their troubles and to the truth."""
    with Ledger() as ledger, ExitStack() as stack:
        trials = [stack.enter_context(trial(venue, seed, folder)) for venue, seed in seeds.items()]
        dice = random.Random(min(seeds.values()))
        async with live(ledger, *(each.feed for each in trials)) as running:
            with anyio.move_on_after(TROUBLE_S):
                while not all(broken(each.proxy) >= BREAKS for each in trials):
                    dice.choice(trials).change(dice)
                    await anyio.sleep(0.002)
            for each in trials:
                each.proxy.heal()
                each.end_garbled()
            for each in trials:
                each.change(dice)
            await until(lambda: all(settled(each, ledger) for each in trials), trials, ledger)
            assert {"live"} == {each.state for each in running.health()}
        for each in trials:
            each.check(ledger)
            assert each.feed.health.state == "stopped"


def broken(proxy: Chaos) -> int:
    return sum(each.broken for each in proxy.passages)


def settled(one: Trial, ledger: Ledger) -> bool:
    """Whether everything that is on its way has arrived."""
    return (
        one.feed.health.state == "live" and one.truth() == one.held(ledger) and one.through() == one.unasked()
    )


async def until(done: Callable[[], bool], trials: list[Trial], ledger: Ledger) -> None:
    with anyio.move_on_after(HEALED_S):
        while not done():
            await anyio.sleep(0.01)
        return
    for each in trials:  # say which, and what is missing
        each.check_frames()
        each.check_truth(ledger)
        assert each.feed.health.state == "live", each.feed.health


Plant: TypeAlias = Callable[[int, Arrival, list[Arrival]], list[Arrival]]
"""What a broken inbox holds instead of its frame of this number; the list is its own, between frames."""


def losing(number: int, arrival: Arrival, _held: list[Arrival]) -> list[Arrival]:
    return [arrival] if number % 2 else []


def doubling(number: int, arrival: Arrival, _held: list[Arrival]) -> list[Arrival]:
    return [arrival] if number % 2 else [arrival, arrival]


def turning(number: int, arrival: Arrival, held: list[Arrival]) -> list[Arrival]:
    if number % 2 == 0:
        held.append(arrival)
        return []
    return [arrival, *(held.pop() for _ in held.copy())]


def altering(number: int, arrival: Arrival, _held: list[Arrival]) -> list[Arrival]:
    if number % 2 or len(arrival) > 2:  # nobody asked for it
        return [arrival]
    return [(arrival[0].replace(b"0", b"1"), arrival[1])]


@pytest.mark.few(0)
@pytest.mark.parametrize("planted", [losing, doubling, turning, altering])
async def test_the_harness_sees(planted: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the frame, not by the batch: how many frames wait at once is up to the machine."""
    put = Inbox.put_arrival
    seen: dict[Inbox, tuple[list[Arrival], list[Arrival]]] = {}

    def broken(inbox: Inbox, arrival: Arrival) -> None:
        put_before, held = seen.setdefault(inbox, ([], []))
        put_before.append(arrival)
        for each in planted(len(put_before), arrival, held):
            put(inbox, each)

    monkeypatch.setattr(Inbox, "put_arrival", broken)
    monkeypatch.setattr("tests.test_chaos_live.HEALED_S", 0.5)
    monkeypatch.setattr("tests.test_chaos_live.TROUBLE_S", 0.5)
    with anyio.fail_after(TEST_S), pytest.raises(AssertionError, match="frames that went through"):
        await run(tmp_path, {"bitopro": 1, "deltadefi": 2})


@pytest.mark.parametrize("venue", ["deltadefi", "cascade"])
async def test_an_answer_that_cannot_be_read_is_no_baseline(venue: str, tmp_path: Path) -> None:
    """A 200 with a page of a load balancer in it: it is quarantined, and the balances are asked for again."""
    with Ledger() as ledger, trial(venue, 0, tmp_path, plan=()) as one:
        one.change(random.Random(0))
        one.exchange.refuse(
            1, 200, body=b"<html>back soon</html>", path="/account%s/balance" % ("s" * (venue == "deltadefi"))
        )
        async with live(ledger, one.feed):
            with anyio.fail_after(3):
                while not settled(one, ledger):
                    await anyio.sleep(0.01)
