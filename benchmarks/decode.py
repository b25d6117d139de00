"""decode: the bytes of a frame to our events, beside bare msgspec and the standard library on the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec

from benchmarks import bare, plain
from benchmarks.frames import START_MS, amounts
from benchmarks.measure import Effort, Result, Unequal, race, repeated
from benchmarks.samples import SAMPLES, Sample
from ledger import Frame

OURS: Final = "accountledger"


def decode(effort: Effort) -> Iterator[Result]:
    """Every venue, in several sizes."""
    for sample in SAMPLES:
        payload = sample.make(1)
        works = alternatives(sample)
        check_equal(payload, works)
        sides = [
            repeated(name, partial(work, payload), effort.decode_slice_ns) for name, work in works.items()
        ]
        case = f"{sample.venue.NAME}, {sample.name}"
        yield race("decode", case, "frames", len(payload), sides, effort.rounds)


def alternatives(sample: Sample) -> dict[str, Callable[[bytes], Any]]:
    """Our side, then the others. Ours begins with bytes, so it makes the frame too."""
    account = f"{sample.venue.NAME}:main"

    def ours(payload: bytes) -> object:
        return sample.venue.decode(Frame(account, "session", 2, START_MS * 1_000_000, payload))

    return {OURS: ours, "bare msgspec": bare.decoder(sample), "json + Decimal": plain.decoder(sample)}


def check_equal(payload: bytes, works: dict[str, Callable[[bytes], Any]]) -> None:
    """Every side must have read every amount, digit by digit. Raises Unequal."""
    wanted = amounts(payload)
    for name, work in works.items():
        if amounts(msgspec.json.encode(work(payload))) != wanted:
            raise Unequal(f"{name} did not read every amount of {payload[:80]!r}")
