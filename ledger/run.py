"""`accountledger run`: feeds from a file, live, until it is told to stop; and how they are, on one screen.

Part of the command line; knows what every user may know.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread
from msgspec.structs import asdict
from rich.console import Group
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from ledger.console import out, printable, shortened
from ledger.errors import StoreError
from ledger.feeds import FeedSettings
from ledger.ledger import Ledger
from projections import Projection, Views, catch_up
from transports import Feed, Health, Live, live

REFRESH_S: Final = 0.25
CATCH_UP_S: Final = 1.0
CATCH_UP_EVENTS_MAX: Final = 10_000
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""What stops the feeds."""


def feeds_of(settings: Sequence[FeedSettings], tapes: Path | None) -> list[Feed]:
    """The feeds of a file. Each field counts as given: an address the file names is used though it be the usual."""
    return [
        Feed(each.venue, each.account, tls=each.tls, tapes=tapes, **asdict(each.login)) for each in settings
    ]


def run_feeds(
    ledger: Ledger,
    settings: Sequence[FeedSettings],
    projections: Sequence[Projection],
    views: Views,
    *,
    seconds: float | None,
    tapes: Path | None,
) -> list[Health]:
    """Run feeds for so many seconds, or until SIGINT or SIGTERM, or until none is left; how each ended. Projections are
    kept caught up meanwhile, so that readers find them near."""
    feeds = feeds_of(settings, tapes)

    logging.getLogger("accountledger").addHandler(logging.NullHandler())  # the screen says it all
    count = "1 feed" if len(feeds) == 1 else f"{len(feeds)} feeds"
    say(f"{count} into {ledger.name}; Ctrl-C stops")

    async def body() -> None:
        with _screen(feeds) as show:
            async with live(ledger, *feeds) as running, anyio.create_task_group() as tasks:
                tasks.start_soon(_stop_on_signal, running)
                tasks.start_soon(_show, running, show)
                tasks.start_soon(_keep_caught_up, ledger, projections, views)
                with anyio.move_on_after(seconds) as timer:
                    await running.ended()
                if timer.cancelled_caught:
                    running.stop(f"stopped: after {seconds:g} s")
                    await running.ended()
                tasks.cancel_scope.cancel()
            show(running.health())

    try:
        anyio.run(body, backend="trio")
    except StoreError:
        if not any(feed.health.unstored for feed in feeds):
            raise  # else how each feed ended says it
    return [feed.health for feed in feeds]


def say(line: str) -> None:
    """Print a line. That it cannot be (a full disk, a reader that is gone) is no reason to stop a feed."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


@contextlib.contextmanager
def told_once() -> Generator[None]:
    """In which a signal that comes when feeds were stopped changes nothing: what is left to do takes no time."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _stop_on_signal(running: Live) -> None:
    for each in SIGNALS:  # as it is to be when nobody receives them any more (`told_once`)
        signal.signal(each, signal.SIG_IGN)
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        async for number in signals:
            running.stop(f"stopped: {signal.Signals(number).name}")


async def _show(running: Live, show: Callable[[Sequence[Health]], None]) -> None:
    while True:
        show(running.health())
        await anyio.sleep(REFRESH_S)


async def _keep_caught_up(ledger: Ledger, projections: Sequence[Projection], views: Views) -> None:
    while True:
        await anyio.sleep(CATCH_UP_S)
        try:  # whatever becomes of it, the feeds go on
            await to_thread.run_sync(catch_up_some, ledger, projections)
            await to_thread.run_sync(views.tell_at_times)
        except StoreError:
            pass  # it is tried again
        except Exception as error:  # it is met again, and told whole, when the feeds have ended
            say(f"projections are kept caught up no longer: a defect: {type(error).__name__}")
            return


def catch_up_some(ledger: Ledger, projections: Sequence[Projection]) -> None:
    """Bring projections nearer, by so many events that nobody who wants to stop waits long for it."""
    behind = min(each.subscription.position for each in projections)
    catch_up(ledger, projections, upto=behind + CATCH_UP_EVENTS_MAX)


@contextlib.contextmanager
def _screen(feeds: Sequence[Feed]) -> Generator[Callable[[Sequence[Health]], None]]:
    """A table that changes in place; where nobody looks, a line for each change of a feed's state."""
    if sys.stdout.isatty():
        with Screen(console=out, refresh_per_second=8, transient=True) as screen:
            yield lambda healths: screen.update(status(healths))
        return
    states: dict[str, tuple[str, str]] = {}

    def show(healths: Sequence[Health]) -> None:
        for health in healths:
            state = (health.state, health.reason)
            if health.state != "stopped" and states.get(health.account) != state:
                states[health.account] = state
                say(_line(health))

    yield show


def _line(health: Health) -> str:
    return printable(f"{health.account}  {_state(health)}")


def _state(health: Health) -> str:
    """`live`, `waiting: connection refused`, `stopped: SIGTERM`; and what is lost, whatever became of it since."""
    state = health.reason or health.state
    if not state.startswith(health.state):
        state = f"{health.state}: {state}"
    return state if health.loss in state else f"{state}; {health.loss}"


def summary(health: Health) -> str:
    """How a feed ended, in a line."""
    frames = "1 frame" if health.frames == 1 else f"{health.frames} frames"
    counts = (
        f"{frames}: {health.recorded} recorded, {health.duplicates} duplicates, {health.control} control, "
        f"{health.quarantined} quarantined"
    )
    hint = " (are key, secret and clock right?)" if "HTTP 40" in health.reason else ""
    untaped = f"; not all on tape: {health.untaped}" if health.untaped else ""
    return printable(
        f"{health.account}  {counts}; {health.reconnects} reconnects; {_state(health)}{hint}{untaped}"
    )


def status(healths: Sequence[Health]) -> Group:
    """How the feeds are, as a table that fits a narrow window; below it what there is to say of one, whole."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    for name, right in (("feed", False), ("state", False), ("last frame", True), ("lag", True)):
        made.add_column(name, justify="right" if right else "left", no_wrap=True)
    for name in ("frames", "quarantined", "reconnects"):
        made.add_column(name if out.width > 100 else name[:6], justify="right", no_wrap=True)
    for health in healths:
        age_s = None if health.last_frame_ns is None else (time.time_ns() - health.last_frame_ns) / 1e9
        made.add_row(
            shortened(health.account),
            health.state,
            "-" if age_s is None else f"{max(0.0, age_s):.0f} s ago",
            "-" if age_s is None else f"{health.lag_s * 1000:.1f} ms",
            *map(str, (health.frames, health.quarantined, health.reconnects)),
        )
    return Group(made, *(Text(_line(health)) for health in healths if health.reason or health.loss))
