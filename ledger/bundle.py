"""The proof of one balance, in one file that `ledger/verify_bundle.py` checks without this library.

Knows the store's rows, seals, checkpoints and what a bundle is; the rules of the last word on an asset are the
verifier's own, so that nothing is claimed that it would not conclude.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from msgspec import Struct

from ledger import verify_bundle
from ledger.errors import BadNote, Corrupt, LedgerError
from ledger.events import BalanceDelta, BalanceEventImported, BalanceSnapshot, Event, is_answer, time_of
from ledger.ledger import Ledger
from ledger.notes import Head, parsed
from ledger.seal import Sealed, genesis, leaf, seal
from ledger.spans import spans_of
from ledger.store import recorded
from ledger.venue import Venue
from ledger.verify_bundle import Order, Refused, Word, unpacked

FORMAT: Final = "accountledger bundle v1"
VERIFIER: Final = Path(verify_bundle.__file__)


class Unprovable(LedgerError):  # noqa: N818
    """What a bundle may hold does not prove the balance. The message says why."""


class Claim(Struct, frozen=True):
    """What a bundle claims: the asset's parts, by the event at `version`, as of version `as_of` of the account, and of
    a time where one is given. `first` is the version its events begin with, `head` that of the checkpoint."""

    account: str
    asset_id: str
    parts: dict[str, str | None]
    held: bool
    version: int
    as_of: int
    time_ns: int | None
    first: int
    head: int


class _Asked(Struct, frozen=True):
    account: str
    asset_id: str
    as_of: int
    time_ns: int | None
    head: Head


def write_bundle(
    ledger: Ledger,
    venues: Mapping[str, Venue],
    file: IO[bytes],
    note: bytes,
    account: str,
    asset_id: str,
    *,
    version: int | None = None,
    time_ns: int | None = None,
) -> Claim:
    """Write the proof of what `account` held of an asset: at its version in the signed checkpoint `note`, or at an
    earlier `version`, and of what was true up to `time_ns`, where they are given.

    The store is hashed again on the way. Raises Corrupt naming the first event that is not as it was sealed, or whose
    amounts today's decoder does not find in its frame; BadNote where the checkpoint does not reach the version;
    Unprovable where the verifier would not conclude it, as where a page of a whole statement came late.
    """
    head = _head(note, account)
    as_of = head.version if version is None else version
    if not 1 <= as_of <= head.version:
        raise BadNote(f"the checkpoint has {account} at version {head.version}, before version {as_of}")
    asked = _Asked(account, asset_id, as_of, time_ns, head)
    first, word = _last_word(ledger, asked)
    if word.order is None:
        raise BadNote(f"up to version {as_of} of {account} nothing is said of {asset_id}")
    claim = Claim(account, asset_id, word.parts, word.held, word.version, as_of, time_ns, first, head.version)
    frame, spans = _evidence(ledger, venues, claim, word)
    digest = sha256()

    def put(**fields: Any) -> None:
        line = verify_bundle.canonical(fields)
        digest.update(line)
        file.write(line)

    before = genesis(account) if first == 1 else _seal_at(ledger, account, first - 1)
    put(
        bundle=FORMAT,
        account=account,
        asset_id=asset_id,
        as_of={"version": as_of, "time_ns": time_ns},
        claim={**claim.parts, "held": claim.held, "version": claim.version},
        first_version=first,
        head=head.version,
        seal_before=_text(before),
    )
    for each in _checked(ledger, asked, before, first):
        if each.version <= as_of:
            put(version=each.version, topic=each.topic, state=_text(each.state))
        else:
            put(leaf=_text(leaf(each.version, each.topic, each.state)))
    put(frame=_text(frame), spans=spans)
    put(checkpoint=note.decode())
    file.write(verify_bundle.canonical({"sha256": digest.hexdigest()}))
    return claim


def _head(note: bytes, account: str) -> Head:
    """Where the checkpoint has the account. Who signed it is the verifier's question."""
    try:
        text = note.decode()
    except UnicodeDecodeError:
        raise BadNote("not a signed note: not UTF-8") from None
    signed, blank, _ = text.rpartition("\n\n")
    heads = parsed(f"{signed}\n").heads if blank else {}
    if account not in heads:
        raise BadNote(f"the checkpoint does not name {account}")
    return heads[account]


class _Before(Struct):
    """Of all that was stated: the latest time, and the highest number of each subscription."""

    latest_ns: int = 0
    numbers: dict[str | None, int] = {}

    def hear(self, event: Event) -> None:
        source = event.source
        self.latest_ns = max(self.latest_ns, time_of(event))
        if source.sequence is not None:
            before = self.numbers.get(source.subscription, source.sequence)
            self.numbers[source.subscription] = max(before, source.sequence)

    def allows(self, order: Order) -> bool:
        """Whether none of it has a higher number than this."""
        return order[2] is None or self.numbers.get(order[1], order[2]) <= order[2]


class _Try:
    """The last word by the verifier's rules, of the events from `first` on. `why`: why it is none."""

    def __init__(self, asked: _Asked, first: int, before: _Before) -> None:
        self.first: Final = first
        self.word: Final = Word(asked.asset_id, asked.time_ns, first)
        self._before: Final = _Before(before.latest_ns, dict(before.numbers))
        self.why = ""

    def hear(self, version: int, topic: str, stored: list[Any]) -> None:
        if self.why:
            return
        try:
            self.word.hear(version, topic, stored)
        except Refused as why:
            self.why = str(why)
            return
        order = self.word.order
        if self.word.version == version and order is not None and not self._before.allows(order):
            self.why = f"an event before version {self.first} has a higher number than version {version}"

    @property
    def concludes(self) -> bool:
        return not self.why and self.word.rests and self.word.order is not None and not self.word.unclear


def _last_word(ledger: Ledger, asked: _Asked) -> tuple[int, Word]:
    """The last word on the asset, and the version with which the events that lead to it begin: that of the last full
    statement that names the asset, where nothing before it is later, else 1. Raises Unprovable."""
    before = _Before()
    whole = _Try(asked, 1, before)
    begun: _Try | None = None
    rest: _Try | None = None
    for each in _checked(ledger, asked, genesis(asked.account), 1):
        if each.version > asked.as_of:
            continue
        event = recorded(each.account, each.version, each.topic, each.state, each.position).event
        if asked.time_ns is not None and time_of(event) > asked.time_ns:
            continue
        if _begins(event, asked.asset_id) and before.latest_ns <= time_of(event):
            begun = _Try(asked, each.version, before)
        stored = unpacked(each.state)
        for every in (whole, rest, begun):
            if every is not None:
                every.hear(each.version, each.topic, stored)
        if isinstance(event, BalanceSnapshot | BalanceDelta | BalanceEventImported):
            before.hear(event)
        if begun is not None and begun.concludes:
            rest, begun = begun, None
    if rest is not None and rest.concludes and (whole.why or _said(rest.word) == _said(whole.word)):
        return rest.first, rest.word
    if whole.why or whole.word.unclear:
        raise Unprovable(whole.why or verify_bundle.OPEN)
    return 1, whole.word


def _begins(event: Event, asset_id: str) -> bool:
    """Whether a full statement begins, which may name the asset."""
    if isinstance(event, BalanceDelta):
        return is_answer(event) and asset_id in {balance.asset_id for balance in event.balances}
    return isinstance(event, BalanceSnapshot) and event.begins


def _said(word: Word) -> tuple[Any, ...]:
    return word.version, word.order, word.parts, word.held


def _checked(ledger: Ledger, asked: _Asked, before: bytes, first: int) -> Iterator[Sealed]:
    """The events from `first` up to the checkpoint, each hashed again. Raises Corrupt naming the first bad one."""
    account, head, version = asked.account, asked.head, first - 1
    for each in ledger.sealed(account, after=version, upto=head.version):
        version += 1
        before = seal(before, leaf(each.version, each.topic, each.state))
        if each.version != version or before != each.seal:
            raise Corrupt(f"{account} version {version}: not the event that was sealed here")
        yield each
    if version < head.version:
        raise Corrupt(f"{account} version {version + 1}: gone; the checkpoint has version {head.version}")
    if before != head.seal:
        raise Corrupt(f"{account} version {head.version}: the checkpoint has another seal of it")


def _seal_at(ledger: Ledger, account: str, version: int) -> bytes:
    """The seal of an event that was hashed again just before."""
    stored = next(ledger.sealed(account, after=version - 1))
    if stored.seal is None:
        raise Corrupt(f"{account} version {version}: not the event that was sealed here")
    return stored.seal


def _evidence(
    ledger: Ledger, venues: Mapping[str, Venue], claim: Claim, word: Word
) -> tuple[bytes, dict[str, list[int]]]:
    """The frame of the event that states the claim, and where it has the digits."""
    stated = next(ledger.replay(claim.account, after=claim.version - 1))
    event = stated.event
    frame: object = ledger.evidence(stated)
    if not isinstance(frame, bytes) or sha256(frame).digest() != event.source.evidence:
        raise Corrupt(f"{claim.account} version {claim.version}: its frame is gone, or was changed")
    venue = venues.get(event.source.venue)
    texts = [text for text in word.read.values() if text is not None]
    found = {} if venue is None else spans_of(ledger, venue.decode, stated, texts)
    places: dict[str, list[int]] = {}
    index = 0
    if isinstance(event, BalanceSnapshot | BalanceDelta) and word.read:
        index = [balance.asset_id for balance in event.balances].index(claim.asset_id)
    for name in word.read:
        imported = isinstance(event, BalanceEventImported) and name == "total"
        place = (index, "balance" if imported else name)
        if place not in found:
            what = f"today's decoder does not read {name} in its frame"
            raise Corrupt(f"{claim.account} version {claim.version}: {what}")
        places[name] = [found[place].start, found[place].end]
    return frame, places


def _text(data: bytes) -> str:
    return b64encode(data).decode()
