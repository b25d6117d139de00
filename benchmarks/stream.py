"""A history as long as is asked for: small frames of five venues, into a ledger.

Knows the ledger's intake and the made-up frames; measures nothing. Each venue is spoken to in one conversation, which
ends and begins again every SESSION_FRAMES frames, so that there are gaps as a year has them: times when nobody was
listening, and no other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import Final, TypeAlias

from benchmarks import frames
from benchmarks.frames import START_MS
from ledger import Intake, Ledger, Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica

SESSION_FRAMES: Final = 10_000
TURN_FRAMES: Final = 84
"""Of each kind, in one commit of a venue: three kinds make 252."""
TOLD_EVENTS: Final = 20_000
"""A tenth of a history that takes long to make."""

Make: TypeAlias = Callable[[int], bytes]

KINDS: Final[tuple[tuple[Venue, tuple[Make, ...]], ...]] = (
    (
        deltadefi,
        (
            lambda n: frames.deltadefi_balance(n, 11),
            lambda n: frames.deltadefi_balance(n, 1),
            lambda n: frames.deltadefi_order(n, agrees=True),
        ),
    ),
    (bitopro, (lambda n: frames.bitopro_balance(n, 11), lambda n: frames.bitopro_balance(n, 1))),
    (
        kraken_prime,
        (
            lambda n: frames.kraken_prime_balance(n, 11, n % SESSION_FRAMES + 1),
            lambda n: frames.kraken_prime_balance(n, 1, n % SESSION_FRAMES + 1),
        ),
    ),
    (cascade, (frames.cascade_balance,)),
    (pacifica, (lambda n: frames.pacifica_page(n, 1),)),
)


def fill(ledger: Ledger, events: int, tell: Callable[[int], object] = lambda _: None) -> None:
    """Ingest small frames of all venues in turn until there are that many events. `tell` hears how many there are."""
    talks = [_talk(ledger, venue, makes) for venue, makes in KINDS]
    try:
        while ledger.position() < events:
            for talk in talks:
                next(talk)
            tell(ledger.position())
    finally:
        for talk in talks:
            talk.close()


def progress(what: str, events: int) -> Callable[[int], None]:
    """Something that hears how far it is, and tells it on standard error tenth by tenth; where it is soon done, not."""
    tenth = events // 10
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if tenth >= TOLD_EVENTS and done // tenth > told:
            told = done // tenth
            print(f"{what}: {done:,} of {events:,} events", file=sys.stderr, flush=True)

    return tell


def frame(makes: tuple[Make, ...], n: int) -> tuple[bytes, int]:
    """The `n`th frame of a conversation, and when it came (ns): a millisecond after the one before it."""
    return makes[n % len(makes)](n), (START_MS + n) * 1_000_000


def _talk(ledger: Ledger, venue: Venue, makes: tuple[Make, ...]) -> Generator[None]:
    """One commit of a venue's frames at each step; closed, the conversation ends."""
    n = 0
    while True:
        with _intake(ledger, venue, n) as intake:
            until = n + SESSION_FRAMES
            while n < until:
                count = min(TURN_FRAMES * len(makes), until - n)
                intake.receive_all([frame(makes, at) for at in range(n, n + count)])
                n += count
                try:
                    yield
                except GeneratorExit:
                    intake.close("end", (START_MS + n) * 1_000_000)
                    raise
            intake.close("end", (START_MS + n) * 1_000_000)


def _intake(ledger: Ledger, venue: Venue, n: int) -> Intake:
    return ledger.intake(venue, "main", session=f"{venue.NAME}-{n}", opened_ns=(START_MS + n) * 1_000_000)
