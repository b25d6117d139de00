"""decode: the bytes of a frame to our events, beside what other libraries make of the same bytes.

Nothing is waited for here, so its claims are judged by CPU time: what else the machine does cannot spoil them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from benchmarks import bare, plain
from benchmarks.claims import faster, slower
from benchmarks.extras import NOT_INSTALLED, loaded
from benchmarks.frames import START_MS, amounts
from benchmarks.measure import Absent, Effort, Result, Unequal, race, repeated
from benchmarks.samples import SAMPLES, Sample
from ledger import Frame

OURS: Final = "accountledger"
DECIMALS: Final = "msgspec, Decimals"
ORJSON: Final = "orjson, Decimals"
PYDANTIC: Final = "pydantic, Decimals"
CCXT: Final = "ccxt's handler"

FRAMES_MIN: Final = 4
FRAMES_MAX: Final = 256
FRAMES_BYTES: Final = 1_000_000
"""How many frames of a kind are read in turn: so many bytes of them, within these bounds."""

LARGE_ENTRIES: Final = 11
LARGE_BOUND: Final = 1.3
SMALL_BOUND: Final = 1.8
CCXT_BOUND: Final = 6.0

_NUMBER: Final = re.compile(rb"(?<![0-9a-zA-Z.])-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9a-zA-Z.])")


class Way(Struct, frozen=True):
    """One way to read a frame, and how it is known that it did."""

    name: str
    work: Callable[[bytes], Any]
    figures: Callable[[Any], object] = lambda made: made
    """What it made, without what it made it of."""
    exact: bool = True
    """Else it reads numbers into floats: the nearest ones are asked of it, and its row says so."""
    skips: str = ""
    """A field whose amounts it does not read."""
    note: str = ""


def decode(effort: Effort) -> Iterator[Result]:
    """Every venue, in several sizes."""
    for sample in SAMPLES:
        yield decoded(sample, effort)


def cases(effort: Effort) -> int:
    """How many there are."""
    return len(SAMPLES)


def decoded(sample: Sample, effort: Effort) -> Result:
    """One kind of frame, and what is claimed of it."""
    payloads = several(sample)
    sides = [
        way
        if isinstance(way, Absent)
        else repeated(way.name, way.work, payloads, effort.decode_slice_ns, check_all(payloads, way))
        for way in ways(sample)
    ]
    case = f"{sample.venue.NAME}, {sample.name}"
    size = round(sum(map(len, payloads)) / len(payloads))
    return claimed(sample, race("decode", case, "frames", size, sides, effort.rounds))


def several(sample: Sample) -> list[bytes]:
    """Frames of a kind, each unlike the others: what a side remembers of one is of no use to it for the next."""
    size = len(sample.make(0))
    return [sample.make(n) for n in range(max(FRAMES_MIN, min(FRAMES_MAX, FRAMES_BYTES // size)))]


def claimed(sample: Sample, result: Result) -> Result:
    """The result with its claims."""
    large = sample.entries >= LARGE_ENTRIES
    size = f"{LARGE_ENTRIES} or more entries" if large else "single updates"
    bound = LARGE_BOUND if large else SMALL_BOUND
    result = slower(result, DECIMALS, f"{size}: our time / bare msgspec's (Decimals)", bound, cpu=True)
    result = faster(result, ORJSON, "everywhere: our speed / that of orjson with Decimals", 1.0, cpu=True)
    if any(run.side == CCXT for run in result.runs):
        result = faster(result, CCXT, "our speed / that of ccxt's handler", CCXT_BOUND, cpu=True)
    return result


def ways(sample: Sample) -> list[Way | Absent]:
    """Ours, then the others. Ours begins with bytes, so it makes the frame too."""
    account = f"{sample.venue.NAME}:main"

    def ours(payload: bytes) -> object:
        return sample.venue.decode(Frame(account, "session", 2, START_MS * 1_000_000, payload))

    return [
        Way(OURS, ours),
        Way("msgspec.Raw (floor)", bare.floor(), note="reads nothing"),
        Way("msgspec, texts", bare.texts(sample)),
        Way(DECIMALS, bare.decimals(sample)),
        Way("json, Decimals", plain.standard(sample)),
        *_optional(sample),
    ]


def check_all(payloads: Sequence[bytes], way: Way) -> str:
    """`check` of each."""
    return {check(payload, way) for payload in payloads}.pop()


def check(payload: bytes, way: Way) -> str:
    """It must have read every amount, digit by digit; what to say of it. Raises Unequal."""
    sent = re.sub(rb'"%s":"[^"]*"' % way.skips.encode(), b"", payload) if way.skips else payload
    made = msgspec.json.encode(way.figures(way.work(payload)))
    wanted, notes = amounts(sent), [way.note, f"does not read {way.skips}" if way.skips else ""]
    if way.exact:
        equal = amounts(made) == wanted
    else:
        equal = {float(each) for each in wanted} <= {float(each) for each in _NUMBER.findall(made)}
        notes.append("not exact: floats")
    if not equal:
        raise Unequal(f"{way.name} did not read every amount of {payload[:80]!r}")
    return "; ".join(filter(None, notes))


def _optional(sample: Sample) -> list[Way | Absent]:
    """Those that need a package of the extra `bench`."""
    numbers = plain.sends_numbers(sample)
    made: list[Way | Absent] = []
    fastjson = loaded("benchmarks.fastjson", needs=["orjson"])
    if fastjson is None:
        made.append(Absent(ORJSON, NOT_INSTALLED))
    else:
        made.append(Way(ORJSON, fastjson.decimals(sample), exact=not numbers))
    models = loaded("benchmarks.models", needs=["pydantic", "pydantic_core"])
    if models is None:
        made.append(Absent(PYDANTIC, NOT_INSTALLED))
    else:
        made.append(Way(PYDANTIC, models.decimals(sample), models.plain, exact=not numbers))
    if sample.form != "bitopro":
        return made
    handler = loaded("benchmarks.handler", needs=["ccxt"])
    if handler is None:
        return [*made, Absent(CCXT, NOT_INSTALLED)]
    return [*made, Way(CCXT, handler.decoder(), handler.figures, exact=False, skips=handler.SKIPS)]
