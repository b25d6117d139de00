"""A venue that speaks plainly, and what tests of a ledger ask of what it said."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ledger import (
    Frame,
    Ledger,
    Malformed,
    Tally,
)
from ledger.events import (
    Balance,
    BalanceDelta,
    FillRecorded,
    Statement,
)
from ledger.intake import Arrival

T = 1_790_000_000_000_000_000


MAIN = "plain:main"


class Plain:
    """A venue that speaks plainly. A frame is words: `fill:1`, `state:1`, `state` (no key), `@other fill:1` (of another
    account from here on), `ping` (nothing), `bad` (malformed), `boom` (a defect of the decoder)."""

    NAME = "plain"

    def __init__(self) -> None:
        self.seen: list[Frame] = []

    def decode(self, frame: Frame) -> Sequence[Statement]:
        self.seen.append(frame)
        account, said = frame.account, list[Statement]()
        source = frame.source(self.NAME, "words")
        for word in frame.payload.decode().split():
            name, _, key = word.partition(":")
            if name.startswith("@"):
                account = f"plain:{name[1:]}"
            elif name == "fill":
                said.append((account, FillRecorded(source, word, key, "o", "S", "buy", "1", "2")))
            elif name == "state":
                said.append((account, BalanceDelta(source, word if key else "", (Balance("a", "A", "1"),))))
            elif name == "bad":
                raise Malformed("it says bad")
            elif name == "boom":
                raise ZeroDivisionError("it says boom")
        return said


def arrivals(*texts: str) -> list[Arrival]:
    return [(text.encode(), T + at) for at, text in enumerate(texts)]


def feed(
    ledger: Ledger, session: str, *texts: str, venue: Plain | None = None, account: str = "main"
) -> Tally:
    """One conversation of these frames, all in one batch."""
    with ledger.intake(
        venue or Plain(), account, session=session, opened_ns=T, now_ns=lambda: T + 99
    ) as intake:
        intake.receive_all(arrivals(*texts))
    return intake.tally


def topics(ledger: Ledger, account: str | None = None) -> list[str]:
    return [type(each.event).__name__ for each in ledger.replay(account)]


def keys(ledger: Ledger, account: str = MAIN) -> list[str]:
    return [each.event.key for each in ledger.replay(account) if "session:" not in each.event.key]


def assert_whole(ledger: Ledger) -> None:
    """Versions without holes, positions rising, every event's evidence there and equal to its digest."""
    versions: dict[str, int] = {}
    position = 0
    for each in ledger.replay():
        assert versions.get(each.account, 0) + 1 == each.version
        assert position < each.position
        versions[each.account], position = each.version, each.position
        payload = ledger.evidence(each)
        assert each.event.source.evidence == (b"" if payload is None else sha256(payload).digest())
    assert position == ledger.position()
