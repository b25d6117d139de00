"""Feeds on trial: each venue with its test exchange, a proxy that breaks what goes through, and the truth at the end.

Knows the five venues by what can be changed at their exchanges and what the ledger must then hold.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import pytest
from eth_account import Account as Wallets

from ledger import Ledger
from ledger.events import FrameQuarantined, SessionClosed, SessionOpened
from ledger.intake import Arrival
from ledger.venue import Action, Conversation, Said, Wait
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from projections import Balances, History
from tests.chaos import KINDS, Chaos, Kind, Passage
from tests.exchanges import (
    Answer,
    Asked,
    BitoPro,
    Cascade,
    DeltaDefi,
    Exchange,
    KrakenPrime,
    Pacifica,
    Served,
)
from transports import Feed, open_recording

WALLET: Final = Wallets.from_key(hashlib.sha256(b"the owner of a test").digest())
ACCOUNT: Final = str(WALLET.address).lower()
WAIT_S_MAX: Final = 0.03
AFTER: Final = (0, 3000)
DEADLINES: Final[tuple[tuple[str, str, float], ...]] = (
    ("transports.session", "PING_S", 0.12),
    ("transports.session", "DEAD_S", 0.4),
    ("transports.session", "READY_S", 0.5),
    ("transports.live", "BACKOFF_S", 0.01),
    ("transports.live", "REJECTED_S", 0.01),
    ("transports.live", "BACKOFF_S_MAX", 0.05),
    ("transports.live", "PAUSE_S", 0.005),
    ("transports.connection", "CONNECT_S", 2.0),
    ("transports.connection", "SEND_S", 0.4),
    ("transports.connection", "CLOSE_S", 0.05),
    ("transports.http", "ASK_S", 0.4),
)
"""Where a broken connection is noticed in seconds, it shall be noticed in tenths of a second."""


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every deadline of the feeds short."""
    for module, name, value in DEADLINES:
        monkeypatch.setattr(import_module(module), name, value)


class Hurried(Feed):
    """A feed whose venue waits no longer than WAIT_S_MAX, however long it wants to."""

    def converse(self, memory: bytes) -> Conversation:
        return _hurried(super().converse(memory))


def _hurried(conversation: Conversation) -> Generator[Action, Said, None]:
    try:
        action = next(conversation)
        while True:
            said = yield Wait(min(action.seconds, WAIT_S_MAX)) if isinstance(action, Wait) else action
            try:
                action = conversation.send(said)
            except StopIteration:
                return
    finally:
        conversation.close()


@dataclass
class Trial:
    """A feed, the exchange it listens to, and the proxy between the two."""

    feed: Feed
    exchange: Exchange
    proxy: Chaos
    change: Callable[[random.Random], None]
    """Change something at the exchange."""
    truth: Callable[[], object]
    """What is true at the exchange, as `held` tells it of the ledger."""
    held: Callable[[Ledger], object]
    answers: Counter[bytes] = field(default_factory=Counter[bytes])
    """What was answered over HTTP, whether it arrived or not."""

    def connections(self) -> list[tuple[Passage, Served]]:
        """What reached the exchange: each connection as the proxy saw it, and as the exchange did."""
        reached = [each for each in self.proxy.passages if each.kind != "refuse"]
        return list(zip(reached, self.exchange._served, strict=False))

    def end_garbled(self) -> None:
        """End the connections with garbage in them: in the length of a frame, it makes of what follows a part of that
        frame, up to 64 KB of it, and of WebSocket there is nothing to tell it by."""
        for passage, served in self.connections():
            if passage.injected and served.open:
                served.reset()

    def through(self) -> list[list[bytes]]:
        """What went whole through each WebSocket connection before it broke; connections with nothing are left out."""
        found: list[list[bytes]] = []
        for passage, served in self.connections():
            if passage.whole:
                sent = served.sent[: passage.whole]
                assert passage.whole == len(sent), "the proxy counted more than was sent"
                found.append([each.encode() if isinstance(each, str) else each for each in sent])
        return found

    def recorded(self) -> list[tuple[str, list[Arrival]]]:
        """What is on the tape of each conversation, oldest first."""
        assert self.feed.tapes is not None
        found: list[tuple[int, str, list[Arrival]]] = []
        for path in self.feed.tapes.iterdir():
            with open_recording(path) as recording:
                arrivals = [each for batch in recording.batches() for each in batch]
                found.append((recording.opened_ns or 0, recording.session or "", arrivals))
        return [(name, arrivals) for _, name, arrivals in sorted(found)]

    def unasked(self) -> list[list[bytes]]:
        """The same of what came unasked; conversations without any are left out."""
        spoken = [[each[0] for each in arrivals if _asked(each) is None] for _, arrivals in self.recorded()]
        return [each for each in spoken if each]

    def check(self, ledger: Ledger) -> None:
        """What is stored is what was sent, to the byte, and every count adds up."""
        self.check_frames()
        self.check_truth(ledger)
        wrong = {each.source.session: 0 for each in events(ledger, self.feed.name, SessionOpened)}
        for each in events(ledger, self.feed.name, FrameQuarantined):
            wrong[each.source.session] += 1
            assert each.source.asked is not None, f"{each.reason}: not an answer with garbage in it"
        opened = events(ledger, self.feed.name, SessionOpened)
        closed = {each.source.session: each for each in events(ledger, self.feed.name, SessionClosed)}
        assert len(opened) == len(closed) == len({each.source.session for each in opened})
        tapes = self.recorded()
        assert closed.keys() == {name for name, _ in tapes}
        frames = 0
        for name, arrivals in tapes:
            end = closed[name]
            assert len(arrivals) == end.frames == end.source.ordinal
            assert end.frames == end.recorded + end.duplicates + end.control + end.quarantined
            kept = [ledger.frame_bytes(name, number) for number in range(1, end.frames + 2)]
            assert len(kept) - kept.count(None) == end.recorded + end.quarantined
            assert all(mine in (None, each[0]) for mine, each in zip(kept, [*arrivals, (b"",)], strict=True))
            altered = [each for each in arrivals if _asked(each) and not self.answers[each[0]]]
            assert end.quarantined == wrong[name] == len(altered), (
                "what was not said is quarantined, only that"
            )
            frames += end.frames
        health = self.feed.health
        assert health.frames == frames
        assert health.quarantined == sum(wrong.values())
        assert health.unstored == 0

    def check_frames(self) -> None:
        """What is on the tapes is what went through, connection by connection."""
        through, unasked = self.through(), self.unasked()
        pairs = enumerate(zip_longest(through, unasked, fillvalue=list[bytes]()))
        wrong = [(place, len(sent), len(stored)) for place, (sent, stored) in pairs if sent != stored]
        assert not wrong, f"{self.feed.name}: (connection, frames that went through, frames stored): {wrong}"

    def check_truth(self, ledger: Ledger) -> None:
        """What the ledger holds is what the exchange does."""
        truth, held = self.truth(), self.held(ledger)
        assert truth == held, f"{self.feed.health}: true is {truth}, held is {held}"


def _asked(arrival: Arrival) -> object:
    return arrival[2] if len(arrival) > 2 else None


def events(ledger: Ledger, account: str, kind: type[Any]) -> list[Any]:
    """The events of a kind of an account, in order."""
    return [each.event for each in ledger.replay(account) if isinstance(each.event, kind)]


@contextmanager
def trial(
    venue: str, seed: int, folder: Path, kinds: tuple[Kind, ...] = KINDS, plan: tuple[Kind, ...] | None = None
) -> Generator[Trial]:
    """A feed of a venue on trial, for the length of a `with` block."""
    tapes = folder / f"{venue}-{seed}"
    tapes.mkdir()
    exchange: Exchange = EXCHANGES[venue]()
    with exchange, Chaos(seed, exchange.port, kinds=kinds, plan=plan, after=AFTER) as proxy:
        made = VENUES[venue](exchange, proxy, tapes)
        answered = exchange.answered

        def answers(served: Served, asked: Asked) -> Answer | None:
            answer = answered(served, asked)
            if answer is not None:
                made.answers[answer.body] += 1
            return answer

        setattr(exchange, "answered", answers)  # noqa: B010 - in place of a method
        yield made


def digits(dice: random.Random) -> str:
    """An amount in eight digits after the point, some of them zeros that count."""
    return f"{dice.randrange(10**6)}.{dice.randrange(10**8):08}"


def _two(dice: random.Random) -> tuple[str, str]:
    total = dice.randrange(10**12)
    free = dice.randrange(total + 1)
    return f"{total // 10**6}.{total % 10**6:06}", f"{free // 10**6}.{free % 10**6:06}"


ASSETS: Final = ("ada", "btc", "eth", "usdm", "sol", "dot", "xrp")


def _bitopro(exchange: BitoPro, proxy: Chaos, tapes: Path) -> Trial:
    feed = Hurried(
        bitopro,
        identity=exchange.identity,
        key=exchange.key,
        secret=exchange.secret,
        url=proxy.ws,
        tapes=tapes,
    )
    return Trial(
        feed,
        exchange,
        proxy,
        lambda dice: exchange.set(dice.choice(ASSETS).upper(), *_two(dice)),
        lambda: {asset: (held.total, held.available) for asset, held in exchange.truth.items()},
        lambda ledger: {row.asset_id: (row.total, row.available) for row in Balances(ledger).rows(feed.name)},
    )


def _deltadefi(exchange: DeltaDefi, proxy: Chaos, tapes: Path) -> Trial:
    feed = Hurried(deltadefi, key=exchange.api_key, url=proxy.ws, rest_url=proxy.http, tapes=tapes)

    def change(dice: random.Random) -> None:
        asset = dice.choice(ASSETS)
        exchange.set(asset, *_two(dice), unit=f"unit{asset}")
        if dice.random() < 0.1:
            exchange.push_fills(2)

    return Trial(
        feed,
        exchange,
        proxy,
        change,
        lambda: {held.unit: (held.available, held.locked) for held in exchange.truth.values()},
        lambda ledger: {
            row.asset_id: (row.available, row.locked) for row in Balances(ledger).rows(feed.name)
        },
    )


def _kraken_prime(exchange: KrakenPrime, proxy: Chaos, tapes: Path) -> Trial:
    feed = Hurried(kraken_prime, key=exchange.key, secret=exchange.secret, url=proxy.ws, tapes=tapes)

    def change(dice: random.Random) -> None:
        asset = dice.choice(ASSETS).upper()
        if dice.random() < 0.1 and asset in exchange.truth:
            exchange.remove(asset)
        else:
            exchange.set(asset, *_two(dice))

    return Trial(
        feed,
        exchange,
        proxy,
        change,
        lambda: {asset: (held.total, held.available) for asset, held in exchange.truth.items()},
        lambda ledger: {row.asset_id: (row.total, row.available) for row in Balances(ledger).rows(feed.name)},
    )


def _cascade(exchange: Cascade, proxy: Chaos, tapes: Path) -> Trial:
    feed = Hurried(
        cascade,
        ACCOUNT,
        address=str(WALLET.address),
        private_key=WALLET.key.hex(),
        subaccounts=(0, 1),
        url=proxy.ws,
        rest_url=proxy.http,
        tapes=tapes,
    )
    exchange.set(0, "1")
    exchange.set(1, "2")
    return Trial(
        feed,
        exchange,
        proxy,
        lambda dice: exchange.set(dice.randrange(2), digits(dice)),
        lambda: {f"{feed.name}/{index}": held.total for index, held in exchange.truth.items()},
        lambda ledger: {
            row.account: row.total
            for row in Balances(ledger).rows()
            if row.account.startswith(f"{feed.name}/")
        },
    )


def _pacifica(exchange: Pacifica, proxy: Chaos, tapes: Path) -> Trial:
    feed = Hurried(pacifica, exchange.account, rest_url=proxy.http, tapes=tapes)
    for _ in range(35):
        exchange.add_row("0.50")
    return Trial(
        feed,
        exchange,
        proxy,
        lambda dice: void(exchange.add_row(dice.choice(("-", "")) + digits(dice))),
        lambda: [*sorted((row.amount, row.balance) for row in exchange.rows), exchange.rows[-1].balance],
        lambda ledger: [
            *sorted((row.amount, row.balance) for row in History(ledger).rows(feed.name)),
            *(row.total for row in Balances(ledger).rows(feed.name)),
        ],
    )


def void(_: object) -> None:
    """Nothing, of whatever."""


EXCHANGES: Final[dict[str, Callable[[], Any]]] = {
    "bitopro": lambda: BitoPro(ping_every_s=0.1),
    "deltadefi": lambda: DeltaDefi(ping_every_s=0.1),
    "kraken_prime": lambda: KrakenPrime(page_size=3, ping_every_s=0.1),
    "cascade": lambda: Cascade(str(WALLET.address), ping_every_s=0.1),
    "pacifica": lambda: Pacifica(budget=10**6, page_max=15),
}
VENUES: Final[dict[str, Callable[[Any, Chaos, Path], Trial]]] = {
    "bitopro": _bitopro,
    "deltadefi": _deltadefi,
    "kraken_prime": _kraken_prime,
    "cascade": _cascade,
    "pacifica": _pacifica,
}
