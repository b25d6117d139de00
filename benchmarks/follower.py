"""A process that follows a ledger: `python -m benchmarks.follower URL UNTIL PROJECTION...`.

It says `ready`, begins when told to on standard input, ends at position UNTIL, and tells when it had come how far.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger import Ledger
from ledger.cli.options import PROJECTIONS
from projections import follow

KINDS: Final[dict[str, Any]] = {kind.__name__: kind for kind in PROJECTIONS}


class Followed(Struct, frozen=True):
    """When all its projections were written up to which position (s, one clock for all processes)."""

    began_s: float
    marks: list[tuple[float, int]]
    cpu_s: float


def followed(ledger: Ledger, names: Sequence[str], until: int, go: Callable[[], object]) -> Followed:
    """Follow up to a position."""
    projections = [KINDS[name](ledger) for name in names]
    stop = threading.Event()
    marks: list[tuple[float, int]] = []

    def mark(_: int) -> None:
        position = min(each.subscription.position for each in projections)
        marks.append((time.monotonic(), position))
        if position >= until:
            stop.set()

    go()
    began_s, cpu_s = time.monotonic(), time.process_time()
    follow(ledger, projections, stop=stop, progress=mark)
    return Followed(began_s, marks, time.process_time() - cpu_s)


def main(args: Sequence[str]) -> None:
    """Follow, and tell."""
    url, until, *names = args

    def go() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    with Ledger(url) as ledger:
        print(msgspec.json.encode(followed(ledger, names, int(until), go)).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
