"""Feeds on a trio loop in a thread of their own, for programs that have no loop, or one that is busy.

Knows threads; what runs in the thread is `transports.live`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ledger.ledger import Ledger
from transports.feed import Feed, Health
from transports.live import Live, live
from transports.session import DRAIN_S


class Background:
    """Feeds that run in another thread."""

    def __init__(self, running: Live, portal: BlockingPortal) -> None:
        self._running = running
        self._portal = portal
        self._over = False

    def health(self) -> list[Health]:
        """How each feed is, in the order they were given."""
        return self._running.health()

    def stop(self, cause: str = "stopped") -> None:
        """Stop them and return when they have stopped. Idempotent."""
        if not self._over:
            self._portal.call(self._stop, cause)

    async def _stop(self, cause: str) -> None:
        self._running.stop(cause)
        await self._running.ended()


@contextmanager
def background(
    ledger: Ledger, *feeds: Feed, drain_s: float = DRAIN_S, loop: str = "trio"
) -> Generator[Background]:
    """Run feeds into a ledger while the body runs, on an event loop (`trio` or `asyncio`) in a thread of their own.

    What the body does, and what the host's own loop is busy with, does not delay them. Raises as `live` does.
    """
    with (
        start_blocking_portal(loop) as portal,
        portal.wrap_async_context_manager(live(ledger, *feeds, drain_s=drain_s)) as running,
    ):
        feeding = Background(running, portal)
        try:
            yield feeding
        finally:
            feeding._over = True
