"""A process that writes to a ledger: `python -m benchmarks.feeder URL NUMBER FRAMES COMMITS WAY SAMPLE`.

It says `ready` when it has made the frames of its next turn; told to on standard input, it takes in those commits of
its own account, and tells when it began and ended.
`WAY` is how it is given them: `live`, a call for each commit, as a feed does; or `import`, all in one call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec
from msgspec import Struct

from benchmarks.frames import START_MS
from benchmarks.samples import ORDER, SINGLE, Sample
from ledger import Ledger

SAMPLES: Final[dict[str, Sample]] = {sample.name: sample for sample in (SINGLE, ORDER)}
LIVE: Final = "live"
FRAMES_APART: Final = 100_000_000
"""Between the frames of one process and another's."""


class Turn(Struct, frozen=True):
    """When it began and ended (s, one clock for all processes), and how many events it stored."""

    began_s: float
    ended_s: float
    events: int


def feed(
    ledger: Ledger, number: int, batches: tuple[int, int], way: str, sample: Sample, go: Callable[[], bool]
) -> Iterator[Turn]:
    """Take in so many frames a commit and commits a turn, whenever `go` says so; until it says no."""
    (frames, commits), at_ns, first = batches, START_MS * 1_000_000, number * FRAMES_APART
    with ledger.intake(
        sample.venue, f"main-{number}", session=f"feeder-{number}", opened_ns=at_ns, now_ns=lambda: at_ns
    ) as intake:
        while True:
            before = _version(ledger, intake.account)
            parts = [_arrivals(sample, first + at * frames, frames) for at in range(commits)]
            first += commits * frames
            if not go():
                return
            began_s = time.monotonic()
            if way == LIVE:
                for part in parts:
                    intake.receive_all(part)
            else:
                intake.receive_all(chain.from_iterable(parts))
            ended_s = time.monotonic()
            yield Turn(began_s, ended_s, _version(ledger, intake.account) - before)


def _arrivals(sample: Sample, first: int, frames: int) -> list[tuple[bytes, int]]:
    return [(sample.make(n), (START_MS + n) * 1_000_000) for n in range(first, first + frames)]


def _version(ledger: Ledger, account: str) -> int:
    last = ledger.last(account)
    return 0 if last is None else last.version


def main(args: Sequence[str]) -> None:
    """Feed as standard input says."""
    url, number, frames, commits, way, sample = args

    def go() -> bool:
        print("ready", flush=True)
        return bool(sys.stdin.readline())

    with Ledger(url) as ledger:
        for turn in feed(ledger, int(number), (int(frames), int(commits)), way, SAMPLES[sample], go):
            print(msgspec.json.encode(turn).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
