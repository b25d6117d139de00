"""Bundles for tests: small ledgers made by intakes, a key, checkpoints signed with it, forgeries, random histories.

Knows the ledger, its notes and its bundles.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from random import Random
from typing import Any, Final, TypeAlias

from ledger import Ledger, Venue
from ledger.bundle import FORMAT, Claim, write_bundle
from ledger.events import Asked, Event
from ledger.notes import Checkpoint, Head, PrivateKey, new_key, parsed
from ledger.seal import Tree, genesis
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from ledger.verify_bundle import Word, canonical, unpacked
from tests import scripted

KEY: Final = new_key("test-log")
VENUES: Final[Mapping[str, Venue]] = {
    "scripted": scripted.VENUE,
    "bitopro": bitopro,
    "cascade": cascade,
    "deltadefi": deltadefi,
    "kraken_prime": kraken_prime,
    "pacifica": pacifica,
}
T: Final = 1_790_000_000_000_000_000
"""When the frames were received (ns)."""

WHOLE: Final = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"1","timestamp":1789999999000,"data":{'
    b'"ADA":{"currency":"ADA","amount":"5","available":"3.50","stake":"0","tradable":true},'
    b'"BTC":{"currency":"BTC","amount":"0.84210000","available":"5","stake":"0","tradable":true}}}'
)
LATER: Final = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"2","timestamp":1789999999500,"data":{'
    b'"ADA":{"currency":"ADA","amount":"7.25","available":"7.25","stake":"0","tradable":true}}}'
)
OTHER: Final = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"3","timestamp":1789999999900,"data":{'
    b'"BTC":{"currency":"BTC","amount":"1","available":"1","stake":"0","tradable":true}}}'
)


def take_in(ledger: Ledger, venue: Venue, account: str, frames: Sequence[bytes], session: str = "s1") -> None:
    """One conversation of these frames, a second between them."""
    with ledger.intake(venue, account, session=session, opened_ns=T, now_ns=lambda: T) as intake:
        intake.receive_all([(frame, T + index * 1_000_000_000) for index, frame in enumerate(frames)])


def place_of_seals(ledger: Ledger) -> tuple[str, str]:
    """The table that has them, and its column of positions."""
    place = ledger._store._engine.POSITION
    return ("seals", "position") if place == "rowid" else ("stored_events", place)


def note_of(ledger: Ledger, key: PrivateKey = KEY, upto: int | None = None) -> bytes:
    """A signed checkpoint of the ledger: of all of it, or of its first `upto` events."""
    place = ledger._store._engine.POSITION
    sql = f"{ledger._store._engine.EVENTS} ORDER BY e.{place} LIMIT ?"
    rows = ledger.select(sql, (1 << 62 if upto is None else upto,))
    tree = Tree()
    heads: dict[str, Head] = {}
    for account, version, _, _, _, seal in rows:
        assert isinstance(account, str)
        assert isinstance(version, int)
        assert isinstance(seal, bytes)
        tree.append(seal)
        heads[account] = Head(version, seal)
    return key.sign(Checkpoint(key.name, tree.size, tree.root(), heads)).encode()


def bundle_of(
    ledger: Ledger,
    account: str,
    asset_id: str,
    *,
    note: bytes | None = None,
    version: int | None = None,
    time_ns: int | None = None,
) -> tuple[bytes, Claim]:
    """The bundle of a balance, and what it claims."""
    file = io.BytesIO()
    note = note_of(ledger) if note is None else note
    claim = write_bundle(ledger, VENUES, file, note, account, asset_id, version=version, time_ns=time_ns)
    return file.getvalue(), claim


def forged(ledger: Ledger, account: str, asset_id: str, first: int, note: bytes) -> bytes:
    """A bundle that begins at a version of the attacker's choice, and is right in every hash."""
    head = parsed(note.decode().rpartition("\n\n")[0] + "\n").heads[account]
    events = list(ledger.sealed(account, upto=head.version))
    word = Word(asset_id, None)  # by the rules of one who has all events
    for each in events[first - 1 :]:
        word.hear(each.version, each.topic, unpacked(each.state))
    frame = ledger.evidence(next(ledger.replay(account, after=word.version - 1)))
    assert frame is not None
    spans = {}
    for name, text in word.read.items():
        start = frame.index((text or "").encode())
        spans[name] = [start, start + len(text or "")]
    before = genesis(account) if first == 1 else events[first - 2].seal
    assert before is not None
    lines: list[dict[str, Any]] = [
        {
            "bundle": FORMAT,
            "account": account,
            "asset_id": asset_id,
            "as_of": {"version": head.version, "time_ns": None},
            "claim": {**word.parts, "held": word.held, "version": word.version},
            "first_version": first,
            "head": head.version,
            "seal_before": b64encode(before).decode(),
        }
    ]
    lines += [
        {"version": each.version, "topic": each.topic, "state": b64encode(each.state).decode()}
        for each in events[first - 1 :]
    ]
    lines += [{"frame": b64encode(frame).decode(), "spans": spans}, {"checkpoint": note.decode()}]
    body = b"".join(map(canonical, lines))
    return body + canonical({"sha256": sha256(body).hexdigest()})


ASSETS: Final = ("A", "B")
Saying: TypeAlias = tuple[Event, bool]
"""An event, and whether it was asked for."""


def any_history(random: Random) -> list[Saying]:
    """Whatever may be said of an account: whole statements, in pages of two subscriptions, of which some are lost or
    late, or which have no numbers; what moved; answers; history rows; frames that cannot be read."""
    numbers = {"p": 0, "q": 0}
    said: list[Saying] = []
    event: Event

    def held() -> dict[str, str]:
        return {asset: random.choice(["0", "1", "2.50", "-3"]) for asset in ASSETS if random.random() < 0.5}

    def number(subscription: str) -> int:
        numbers[subscription] += 1
        return numbers[subscription]

    for _ in range(random.randint(2, 6)):
        kind, time_ns, name = random.random(), random.randint(1, 9), random.choice("pq")
        if kind < 0.15:
            said.append((scripted.snapshot(time_ns, held()), False))
        elif kind < 0.45:
            last = random.randint(1, 3)
            for page in range(1, last + 1):
                sequence = None if random.random() < 0.02 else number(name)
                event = scripted.snapshot(
                    time_ns, held(), part=name, more=page < last, begins=page == 1, sequence=sequence
                )
                said.append((event, False))
        elif kind < 0.75:
            removed = [random.choice(ASSETS)] if random.random() < 0.3 else []
            sequence = number(name) if random.random() < 0.6 else None
            event = scripted.delta(time_ns, held(), removed, sequence=sequence, subscription=name)
            said.append((event, random.random() < 0.3))
        elif kind < 0.95:
            balance = random.choice(["0", "1", "2.50"])
            asset = random.choice(ASSETS)
            said += [
                (scripted.imported(time_ns, random.choice(["1", "-1"]), balance, asset=asset), False)
            ] * random.randint(1, 2)
        else:
            said.append((scripted.fault(number(name), name), False))
    if random.random() < 0.3:
        said.pop(random.randrange(len(said)))
    if random.random() < 0.3 and said:
        said.insert(random.randint(0, len(said)), said.pop(random.randrange(len(said))))
    return said


def orderly_history(random: Random) -> list[Saying]:
    """What a venue says that numbers all: subscriptions one after another, each a whole statement in pages and what
    moved since; at times the connection is lost between two pages."""
    said: list[Saying] = []
    time_ns = 0
    for count in range(random.randint(1, 4)):
        name, pages, number = f"s{count}", random.randint(1, 3), 0
        for page in range(1, pages + 1):
            number, time_ns = number + 1, time_ns + random.randint(0, 1)
            held = {asset: str(random.randint(0, 3)) for asset in ASSETS if random.random() < 0.5}
            event = scripted.snapshot(
                time_ns, held, part=name, more=page < pages, begins=page == 1, sequence=number
            )
            said.append((event, False))
            if random.random() < 0.1:
                break
        else:
            for _ in range(random.randint(0, 3)):
                number, time_ns = number + 1, time_ns + random.randint(0, 1)
                held = {random.choice(ASSETS): str(random.randint(0, 3))}
                moved = scripted.delta(time_ns, held, sequence=number, subscription=name)
                said.append((moved, False))
    return said


def say(ledger: Ledger, said: Sequence[Saying], session: str = "s1") -> None:
    """One conversation in which this is said."""
    arrivals = [
        (scripted.says(event), T + at, Asked("GET /balances", T) if asked else None)
        for at, (event, asked) in enumerate(said)
    ]
    with ledger.intake(scripted.VENUE, "main", session=session, opened_ns=T, now_ns=lambda: T) as intake:
        intake.receive_all(arrivals)
