"""The one thread that works with the store, so that no event loop waits for the disk.

Knows threads and how to wake an event loop; knows no ledger, no frame. It lives as long as the feeds: to hand work to
a thread that waits costs half of what anyio's worker threads cost, and what waits for it is a frame on its way to the
disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import anyio
from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled, current_token

T = TypeVar("T")


class Writer:
    """Does what it is asked, one thing after the other, in the order it was asked. Belongs to the event loop it was
    made in; a context manager, and its thread ends with the block."""

    def __init__(self) -> None:
        loop: Any = current_token().native_token
        self._soon: Final[Callable[[Callable[[], object]], object]] = (
            loop.call_soon_threadsafe if hasattr(loop, "call_soon_threadsafe") else loop.run_sync_soon
        )
        self._asked: Final[SimpleQueue[Work[Any] | None]] = SimpleQueue()
        # A host that is torn down without its way out must not wait for this thread: what it stores is whole or not.
        self._thread: Final = threading.Thread(target=self._run, name="accountledger writer", daemon=True)
        self._begun = False
        self._since: float | None = None
        """When it began with what it does (`time.monotonic`)."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.put(None)

    def ask(self, work: Callable[[], T]) -> Work[T]:
        """Have it done, without waiting for it."""
        asked = Work(work)
        self._asked.put(asked)
        if not self._begun:
            self._begun = True
            self._thread.start()
        return asked

    async def do(self, work: Callable[[], T]) -> T:
        """Have it done and wait for it, unless cancelled before."""
        await checkpoint_if_cancelled()
        return await self.ask(work).done()

    def busy_s(self) -> float:
        """How long it has been at the one thing it does now."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            self._since = time.monotonic()
            asked._do()
            self._since = None
            with suppress(RuntimeError):  # the loop is over (trio's RunFinishedError is one): nobody waits
                self._soon(asked._tell)
            del asked  # while we wait for more, what was done keeps nothing alive


class Work(Generic[T]):
    """What was asked of a writer. It is done, whatever becomes of who asked."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._given: list[T] = []
        self._raised: BaseException | None = None
        self._is_over = False
        self._over: anyio.Event | None = None

    async def done(self) -> T:
        """Wait for it, whatever is cancelled meanwhile: what it gave, or raise what it raised."""
        if not self._is_over:
            self._over = anyio.Event()  # not before: the thread wakes up while we make it
            with CancelScope(shield=True):
                await self._over.wait()
        if self._raised is not None:
            try:
                raise self._raised
            finally:
                self._raised = None  # its traceback holds this frame
        return self._given[0]

    def _do(self) -> None:
        try:
            self._given.append(self._work())
        except BaseException as error:
            self._raised = error

    def _tell(self) -> None:
        self._is_over = True
        if self._over is not None:
            self._over.set()
