"""Feeds in a thread of their own: a program without an event loop has live feeds, and delays nothing by being busy."""

from __future__ import annotations

import time

import pytest

from ledger import Ledger
from ledger.events import SessionClosed
from tests.test_live import speaking
from tests.test_session import events, numbered, payloads
from tests.wired import quiet
from transports import Background, background


def wait_for(running: Background, frames: int) -> None:
    deadline = time.monotonic() + 5
    while running.health()[0].frames < frames:
        assert time.monotonic() < deadline, running.health()
        time.sleep(0.002)


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_feeds_run_while_the_body_does_and_store_all_on_the_way_out(loop: str) -> None:
    frames = numbered(500)
    with Ledger() as ledger:
        with background(ledger, speaking(quiet(*frames)), loop=loop) as running:
            wait_for(running, 1)
        assert frames == payloads(ledger)
        assert "stopped" == running.health()[0].state


def test_they_can_be_stopped_before_the_body_ends_and_again() -> None:
    with Ledger() as ledger:
        with background(ledger, speaking(quiet(*numbered(3)))) as running:
            wait_for(running, 3)
            running.stop("stopped: enough")
            assert "stopped" == running.health()[0].state
            running.stop()
        assert ["stopped: enough"] == [closed.cause for closed in events(ledger, SessionClosed)]


def test_what_the_body_raises_comes_out_as_it_is() -> None:
    def body(ledger: Ledger) -> None:
        with background(ledger, speaking(quiet(*numbered(3)))) as running:
            wait_for(running, 3)
            raise KeyError("the host")

    with Ledger() as ledger:
        with pytest.raises(KeyError, match="the host"):
            body(ledger)
        assert 3 == len(payloads(ledger))
