"""What is usual: a statement newer than all that is known of its account. It waits, and only the last becomes a row.

Knows what the rows of an account reach to, and what makes an event unusual; writes no row. All of it is derived: it is
made anew from the rows whenever something unusual changed them.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct, field

from ledger import Recorded
from ledger.events import Source, time_of

NEVER_NS: Final = 1 << 63
SUBSCRIPTIONS_MAX: Final = 64
"""Of which the last number is remembered."""
TAIL_EVENTS: Final = 128
"""So many rows of a history wait before those are let go that make no difference."""


class Tail(Struct):
    """New rows of the history of an asset, none older than the one before it: how many, and the last of them."""

    count: int = 0
    events: list[Recorded] = field(default_factory=list)
    events_max: int = TAIL_EVENTS

    def add(self, recorded: Recorded, instants: int) -> None:
        """One more; those of at least so many last instants are kept."""
        self.count += 1
        self.events.append(recorded)
        if len(self.events) >= self.events_max:
            self.events = last_instants(self.events, instants)
            self.events_max = len(self.events) + TAIL_EVENTS


class Front(Struct):
    """How far an account is known, and the newer statements of it that wait."""

    newest_ns: int
    """No row, and no whole statement, is of later."""
    explained_ns: int
    """No difference can be explained by what is of later."""
    quiet_ns: int
    """As above; never, where a history is there to compare a statement with."""
    arriving: bool
    """Whether a statement in pages is under way, of which every number counts."""
    numbers: dict[str | None, int]
    """The highest number of each subscription that a row has."""
    subscription: str | None
    """That in which the whole account was stated, and its last number."""
    number: int
    position: int = 0
    """Of the event of that number; 0 where none waits."""
    stated: dict[str, Recorded] = field(default_factory=dict)
    """The last statement that waits, by the asset it names."""
    history: dict[str, Tail] = field(default_factory=dict)
    """The rows of histories that wait, by asset."""

    def counts(self, recorded: Recorded, source: Source) -> bool:
        """Take a number in; False where it is not newer than those before it, or where each has to be looked at."""
        subscription, number, numbers = source.subscription, source.sequence, self.numbers
        if number is None:
            return True
        if self.arriving or number < numbers.get(subscription, 0) or len(numbers) > SUBSCRIPTIONS_MAX:
            return False
        numbers[subscription] = number
        if subscription == self.subscription and number >= self.number:
            self.number, self.position = number, recorded.position
        return True

    def waits(self) -> bool:
        """Whether anything is to become rows."""
        return bool(self.stated or self.history or self.position)


def last_instants(events: list[Recorded], instants: int) -> list[Recorded]:
    """Those of the last so many instants; none is older than the one before it."""
    found, last_ns = 0, -1
    for at in range(len(events) - 1, -1, -1):
        time_ns = time_of(events[at].event)
        if time_ns != last_ns:
            if found == instants:
                return events[at + 1 :]
            found, last_ns = found + 1, time_ns
    return events
