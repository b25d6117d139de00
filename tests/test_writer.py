"""The writer: what is asked of it is done once, in order, in a thread of its own, whatever is cancelled."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

import anyio
import pytest

from transports.writer import Writer


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def writers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "accountledger writer"}


def until(done: Callable[[], bool], seconds: float = 5) -> bool:
    over = time.monotonic() + seconds
    while not done() and time.monotonic() < over:
        time.sleep(0.002)
    return done()


async def test_what_is_asked_is_done_in_order_in_one_thread_and_answered() -> None:
    did: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> int:
        time.sleep(0.001 if number % 3 else 0)
        threads.add(threading.get_ident())
        did.append(number)
        return number * number

    with Writer() as writer:
        asked = [writer.ask(partial(work, number)) for number in range(50)]
        assert 2500 == await writer.do(lambda: work(50))
        assert [number * number for number in range(50)] == [await each.done() for each in asked]
    assert list(range(51)) == did
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_what_it_raises_is_raised_to_who_asked_and_the_next_is_done() -> None:
    def fails() -> None:
        raise KeyError("of the work")

    with Writer() as writer:
        with pytest.raises(KeyError, match="of the work"):
            await writer.do(fails)
        assert 7 == await writer.do(lambda: 7)


async def test_the_loop_runs_on_while_it_works() -> None:
    go_on = threading.Event()
    with Writer() as writer:
        asked = writer.ask(lambda: go_on.wait(5))
        await anyio.sleep(0.01)
        go_on.set()
        assert await asked.done()


async def test_cancellation_waits_for_what_was_asked() -> None:
    did: list[int] = []

    def slow() -> int:
        time.sleep(0.05)
        did.append(1)
        return 1

    given: list[int] = []
    with Writer() as writer:
        with anyio.CancelScope() as scope:
            asked = writer.ask(slow)
            scope.cancel()
            given.append(await asked.done())
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert [1] == given == did


async def test_who_is_cancelled_already_asks_for_nothing() -> None:
    did: list[int] = []
    with Writer() as writer:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await writer.do(lambda: did.append(1))
        assert scope.cancelled_caught
        await writer.do(lambda: did.append(2))
    assert [2] == did


async def test_its_thread_begins_with_the_first_work_and_ends_with_the_block() -> None:
    before = writers()  # those of other tests may still be ending
    with Writer() as writer:
        assert set() == writers() - before
        await writer.do(lambda: None)
        assert 1 == len(writers() - before)
    assert until(lambda: not writers() - before)


async def test_what_was_done_is_not_kept() -> None:
    class Heavy:
        pass

    with Writer() as writer:
        heavy = await writer.do(Heavy)
        kept = weakref.ref(heavy)
        del heavy
        await anyio.sleep(0.01)
        gc.collect()
        assert kept() is None


def test_a_loop_that_is_over_does_not_end_what_was_asked(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    did: list[int] = []

    async def body() -> None:
        def slow() -> None:
            time.sleep(0.05)
            did.append(1)

        with Writer() as writer:
            writer.ask(slow)
            writer.ask(lambda: did.append(2))

    before = writers()
    anyio.run(body, backend=anyio_backend)
    assert until(lambda: not writers() - before)
    assert [1, 2] == did
    assert [] == raised


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_passes_through_and_it_is_done_all_the_same() -> None:
    did: list[int] = []
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.05)
        did.append(1)

    with Writer() as writer:
        task = asyncio.create_task(writer.do(slow))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await writer.do(lambda: did.append(2))
    assert [1, 2] == did
