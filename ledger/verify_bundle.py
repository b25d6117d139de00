"""Checks the proof of one balance: `python verify_bundle.py BUNDLE PUBLIC_KEY_FILE`. Exit code 0: proved; 1: not.

Knows nothing of the ledger that made it, and imports nothing of it: Python 3.11 and its standard library are enough.

A bundle is lines of canonical JSON: a header with the claim; every event of the account as stored, from `first_version`
to the version the claim is of; the leaf hashes of later ones up to the checkpoint; the raw frame that states the digits
claimed; the signed checkpoint; and the SHA-256 of all lines before.

What is concluded, each from the one before:
1. The checkpoint is signed by the key (Ed25519), and says at which version and seal the account stood.
2. The events are the account's, all from `first_version` on, unchanged and in order: hashed one into the next (leaf =
   SHA-256(0x00, version, topic, stored bytes), seal = SHA-256(0x01, seal before, leaf)) they end in exactly that seal.
3. Of what they state of the asset, the claim is the last word: later events do not name it, or are of an earlier time.
   Where they do not begin with the account's first event, they begin with a full statement that names the asset, and
   it is said what is taken on trust of those before.
4. The frame is the one which that event was made from (SHA-256), and has the digits at the places shown.
The places themselves are covered by the last line only: who writes them anew must still name bytes with those digits.
"""

import hashlib
import json
import sys
from base64 import b64decode, b64encode
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import IO, Any

LINE_BYTES_MAX = 100_000_000
INSTANTS_MAX = 32
OPEN = "rows of one instant lead back to where they begin: which was the last is open"
PARTS = ("total", "available", "locked", "staked", "pending")
EXACT = Context(prec=400, Emin=-999_999, Emax=999_999, traps=[Inexact, InvalidOperation, Overflow])
Point = tuple[int, int, int, int]
Event = list[Any]
Parts = dict[str, str | None]
Order = tuple[int, str | None, int | None]
"""When a statement was true: time (ns), and the venue's subscription and number where it gives them."""


class Refused(Exception):  # noqa: N818
    """Something does not hold; the message says what."""


def check(holds: object, why: str) -> None:
    if not holds:
        raise Refused(why)


# Signatures: Ed25519 (RFC 8032, section 5.1.7), on points (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z ---------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def point(data: bytes) -> Point:
    """The point that 32 bytes stand for; refused where it is none, or could be written in another way."""
    y, odd = int.from_bytes(data, "little") & (1 << 255) - 1, data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * ROOT % P
    check(y < P and x * x % P == square and (x or not odd), "a point of the signature or the key is not one")
    x = x if x & 1 == odd else P - x
    return x, y, 1, x * y % P


def add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number: int, p: Point) -> Point:
    q: Point = (0, 1, 1, 0)
    while number:
        q, p, number = add(q, p) if number & 1 else q, add(p, p), number >> 1
    return q


def same(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the key signed the message."""
    check(len(signature) == 64, "the signature is not of 64 bytes")
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    check(
        s < L and not same(times(8, a), (0, 1, 1, 0)),
        "the signature or the key is of a kind that proves nothing",
    )
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    return same(times(s, BASE), add(r, times(k, a)))


# Reading: base64, JSON lines, and the msgpack that events are stored in -------------------------------------------


def data(text: Any) -> bytes:
    check(isinstance(text, str), "not base64")
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raise Refused("not base64") from None
    check(b64encode(raw).decode() == text, "base64 written in another way")
    return raw


def fixed(_: str) -> None:
    raise Refused("a number that is no integer")


def canonical(said: Any) -> bytes:
    """The one way a line is written."""
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def line_of(file: IO[bytes], digest: Any, *names: str) -> dict[str, Any]:
    """The next line, which has these fields and no others; its bytes go into the digest."""
    raw = file.readline(LINE_BYTES_MAX)
    check(raw.endswith(b"\n"), "a line is missing, cut short or too long")
    said: Any = json.loads(raw.decode("ascii"), parse_float=fixed, parse_constant=fixed)
    check(
        isinstance(said, dict) and sorted(said) == sorted(names), f"a line without exactly {', '.join(names)}"
    )
    check(canonical(said) == raw, "a line is not written in the one canonical way")
    if digest is not None:
        digest.update(raw)
    fields: dict[str, Any] = said
    return fields


LENGTHS = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4, 0xDC: 2, 0xDD: 4}


class Packed:
    """The msgpack of one stored event: nothing, booleans, whole numbers, texts, bytes and lists."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, count: int) -> bytes:
        self.at += count
        check(self.at <= len(self.raw), "a stored event is cut short")
        return self.raw[self.at - count : self.at]

    def value(self, depth: int = 0) -> Any:
        check(depth < 10, "a stored event is nested too deep")
        kind = self.take(1)[0]
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 0x100
        if kind in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[kind]
        if 0xCC <= kind <= 0xD3:
            return int.from_bytes(self.take(1 << (kind & 3)), "big", signed=kind >= 0xD0)
        if kind in LENGTHS:
            length = int.from_bytes(self.take(LENGTHS[kind]), "big")
        else:
            check(0x90 <= kind <= 0xBF, "a stored event has a kind of value that none has")
            length = kind & (0x1F if kind >= 0xA0 else 0x0F)
        if kind in (0xDC, 0xDD) or 0x90 <= kind < 0xA0:
            return [self.value(depth + 1) for _ in range(length)]
        raw = self.take(length)
        return raw if kind in (0xC4, 0xC5, 0xC6) else raw.decode()


def unpacked(raw: bytes) -> Event:
    packed = Packed(raw)
    said: Any = packed.value()
    check(
        packed.at == len(raw) and isinstance(said, list),
        "a stored event is no list, or has something behind it",
    )
    event: Event = said
    return event


# What the events come to, of one asset -----------------------------------------------------------------------------


def plus(a: str, b: str) -> str:
    return format(EXACT.add(Decimal(a), Decimal(b)), "f")


def is_older(one: Order, other: Order) -> bool:
    if one[2] is not None and other[2] is not None and one[1] == other[1]:
        return one[2] < other[2]
    return one[0] < other[0]


class Pages:
    """A statement of the whole account of which a page is to come. `sound`: its first page is here, and since then
    every number of its subscription."""

    def __init__(self, part: str | None, begin: Order, since: int, sound: bool = True) -> None:
        self.part, self.begin, self.since, self.sound = part, begin, since, sound
        self.reached = begin[2] or 0
        self.named = False


class Word:
    """The last word on one asset. A statement older than it changes nothing: older by the venue's own number where both
    have one of the same subscription, else by time; of one instant, the last to arrive counts."""

    def __init__(self, asset_id: str, until_ns: int | None, first: int = 1) -> None:
        self.asset_id, self.until_ns, self.first = asset_id, until_ns, first
        self.version = 0
        self.order: Order | None = None
        self.held = False
        self.parts: Parts = dict.fromkeys(PARTS)
        self.read: Parts = {}
        """Those of the parts that the venue itself wrote."""
        self.source: Event = []
        self.complete_ns = 0
        self.open: dict[str | None, Pages] = {}
        self.told: dict[int, list[Row]] = {}
        """Rows of the asset's history, by time: of the latest instants."""
        self.since = 0
        """The statement after which the rows of its own instant count."""
        self.by_rows = self.unclear = False
        """Whether rows of a history are the last word; and whether it is open at which balance they end."""
        self.begin: Order | None = None
        """Of the event that the history here begins with, where that is not the account's first."""
        self.rests = first == 1
        """Whether it begins with the account's first event, or with a full statement that names the asset."""

    def hear(self, version: int, topic: str, event: Event) -> None:
        source = event[0]
        time_ns = source[4] if source[6] is None else source[6]
        if topic == "BalanceEventImported" and event[8] is not None:
            time_ns = event[8]
        if self.until_ns is not None and time_ns > self.until_ns:
            return
        order: Order = (time_ns, source[8], source[7])
        if version == self.first > 1:
            self.begin = order
        self.count(topic, order)
        if topic == "BalanceEventImported" and event[2] == self.asset_id and not event[9]:
            self.row(version, (time_ns, None, None), source, event)
        if topic not in ("BalanceSnapshot", "BalanceDelta"):
            return
        named = [balance for balance in event[2] if balance[0] == self.asset_id]
        for balance in named:
            parts: Parts = dict(zip(PARTS, balance[2:7], strict=True))
            read: Parts = {name: text for name, text in parts.items() if text is not None}
            if parts["total"] is None and parts["available"] is not None and parts["locked"] is not None:
                parts["total"] = plus(parts["available"], parts["locked"])
            if not self.late(order):
                self.state(version, order, source, parts, read)
        if topic == "BalanceSnapshot":
            self.whole(version, order, event, bool(named))
            return
        if self.asset_id in event[3] and not self.late(order):
            self.state(version, order, source, None, {})
        asked = source[10] if len(source) > 10 else None
        self.rests = self.rests or (version == self.first and asked is not None and bool(named))

    def late(self, order: Order) -> bool:
        if self.order is None:
            return order[0] < self.complete_ns
        return is_older(order, self.order)

    def state(self, version: int, order: Order, source: Event, parts: Parts | None, read: Parts) -> None:
        if self.first > 1:
            check(
                self.begin is not None and not is_older(order, self.begin) and order[0] >= self.begin[0],
                f"what version {version} states is older than version {self.first}, with which the events begin",
            )
        self.held, self.parts = parts is not None, parts or dict.fromkeys(PARTS)
        self.version, self.order, self.source, self.read = version, order, source, read
        self.since, self.by_rows, self.unclear = version, False, False

    def count(self, topic: str, order: Order) -> None:
        """A number of a subscription in which a statement of the whole account is not complete."""
        pages = self.open.get(order[1])
        if pages is None or order[2] is None:
            return
        again = order[2] == pages.reached and topic != "BalanceSnapshot"
        check(
            again or order[2] > pages.reached, f"a page of a whole statement may have come late ({order[1]})"
        )
        check(
            topic != "FrameQuarantined" or not pages.sound,
            f"a frame within a whole statement could not be read ({order[1]})",
        )
        pages.sound = pages.sound and order[2] <= pages.reached + 1
        pages.reached = order[2]

    def whole(self, version: int, order: Order, event: Event, named: bool) -> None:
        """A statement of the whole account, or a page of one: when all are there, what none named is not held. Pages
        are complete by their numbers, in order and without a hole; with a hole they take nothing away."""
        part, more, begins = event[3], event[4], event[5]
        if not order[1] or order[2] is None:
            check(begins and not more, "pages of a whole statement have no numbers: one may be missing")
            check(part not in self.open, f"a page of a whole statement has no number ({part})")
            return self.complete(version, Pages(part, order, version), event[0], named)
        pages = self.open.get(order[1])
        if begins or pages is None:
            check(begins or self.first == 1, f"a whole statement begins before the events here ({order[1]})")
            pages = self.open[order[1]] = Pages(part, order, version, begins)
        else:
            check(
                part is not None and part == pages.part, f"pages of two whole statements mixed ({order[1]})"
            )
        pages.begin = (min(pages.begin[0], order[0]), *pages.begin[1:])
        pages.named = pages.named or named
        if not more and pages.sound:
            del self.open[order[1]]
            self.complete(version, pages, event[0], pages.named)

    def complete(self, version: int, pages: "Pages", source: Event, named: bool) -> None:
        first = pages.begin
        self.rests = self.rests or (named and pages.since == self.first)
        self.complete_ns = max(self.complete_ns, first[0])
        if not named and self.order is not None:
            numbered = first[2] is not None and self.order[2] is not None and first[1] == self.order[1]
            mark = 2 if numbered else 0
            if (self.order[mark], self.version) < (first[mark], pages.since):
                self.state(version, first, source, None, {})

    def row(self, version: int, order: Order, source: Event, event: Event) -> None:
        """A row of the venue's history. Rows of one instant end where they lead, in whatever order they came; where
        they lead back to where they begin, the instant before tells; where that leaves it open, nothing is proved."""
        row = Row(version, source, event)
        self.told.setdefault(order[0], []).append(row)
        if len(self.told) > INSTANTS_MAX:
            del self.told[min(self.told)]
        if order[0] < self.complete_ns or (self.order is not None and order[0] < self.order[0]):
            if not self.by_rows or self.order is None or self.order[0] not in self.told:
                return
            order = self.order  # what is before an instant may tell where it ends
        check(self.first == 1, "rows of a history are a proof only with all events before them")
        since = self.since if self.order is not None and self.order[0] == order[0] else 0
        every = self.told.get(order[0], [row])
        rows = [each for each in every if each.version > since] or [row]
        amid = len(rows) < len(every)  # something was stated amid them
        among, alone = (every if amid else rows), len(every) == 1 or (since > 0 and not amid)
        ends = ends_of(among, None if alone else self.before(order[0]))
        ending = [each for each in among if len(ends) == 1 and Decimal(each.balance) in ends]
        if amid and not self.by_rows and ending:
            if Decimal(self.parts["total"] or 0) in ends:
                return  # they come to it
            ending = [each for each in ending if each.version > since]
        last = (ending or rows)[-1]
        said: Parts = {"total": last.balance, "pending": last.pending}
        read: Parts = {name: text for name, text in said.items() if text is not None}
        self.state(last.version, order, last.source, dict.fromkeys(PARTS) | read, read)
        self.since, self.by_rows, self.unclear = since, True, len(ends) > 1 or (amid and not ending)

    def before(self, time_ns: int) -> Decimal | None:
        """The balance at which the rows before an instant ended; None where there are none, or it is open."""
        earlier = max((each for each in self.told if each < time_ns), default=None)
        if earlier is None:
            return None
        rows = self.told[earlier]
        ends = ends_of(rows, None if len(rows) == 1 else self.before(earlier))
        return next(iter(ends)) if len(ends) == 1 else None


class Row:
    """A row of a history."""

    def __init__(self, version: int, source: Event, event: Event) -> None:
        self.version, self.source = version, source
        self.cause, self.amount, self.balance, self.pending = event[4:8]


def ends_of(rows: list[Row], start: Decimal | None) -> set[Decimal]:
    """The balances at which rows of one instant may end, each beginning where another ended and the first one at
    `start`; none where they do not lead to one. A withdrawal may be written with its sign or without."""
    found: set[Decimal] = set()
    for unsigned in (True, False):
        net: dict[Decimal, int] = {}
        for row in rows:
            change, said = Decimal(row.amount), Decimal(row.balance)
            if unsigned and row.cause == "withdraw" and change > 0:
                change = -change
            for balance, step in ((EXACT.subtract(said, change), -1), (said, 1)):
                net[balance] = net.get(balance, 0) + step
        begin, end = ([each for each in net if net[each] * sign > 0] for sign in (-1, 1))
        if not end:  # they lead back to where they begin, which may be anywhere
            found |= {each for each in net if start in (None, each)}
        elif len(end) == 1 and start in (None, *begin):
            found |= {*end}
    return ends_of(rows, None) if start is not None and not found else found


# The checks, in the order of the lines --------------------------------------------------------------------------------


def head_of(note: Any, key_text: str, account: str) -> tuple[str, int, bytes]:
    """The name of the log, and where the account stood, from a note that the key signed (C2SP signed-note)."""
    key_text, none = key_text.strip(), "not a public key: it is written name+hash+base64"
    check(
        not key_text.startswith("PRIVATE+"),
        "the key is a private one, for its owner alone: give the public one",
    )
    check(key_text.count("+") >= 2, none)
    key_name, key_hash, key = key_text.split("+", 2)
    public = data(key)
    check(len(public) == 33 and public[0] == 1, none)
    told = hashlib.sha256(f"{key_name}\n".encode() + public).digest()[:4]
    check(told.hex() == key_hash, "the public key is damaged: its hash does not fit")
    check(isinstance(note, str) and note.endswith("\n") and "\n\n" in note, "no signed checkpoint")
    text, _, signatures = note.rpartition("\n\n")
    ours = [line for line in signatures[:-1].split("\n") if line.startswith(f"\u2014 {key_name} ")]
    ours = [line for line in ours if data(line.split(" ")[2])[:4] == told]
    check(len(ours) == 1 and ours[0].count(" ") == 2, "the checkpoint is not signed by this key")
    signature = data(ours[0].split(" ")[2])[4:]
    check(signed(public[1:], signature, f"{text}\n".encode()), "the signature does not fit the checkpoint")
    lines = text.split("\n")
    check(lines[0] == key_name, "the checkpoint is of another log than the key")
    heads = [line.split(" ", 3) for line in lines[3:]]
    found = [head for head in heads if len(head) == 4 and head[3] == json.dumps(account)]
    check(len(found) == 1 and found[0][0] == "head", "the checkpoint does not name the account, once")
    return lines[0], int(found[0][1]), data(found[0][2])


def check_spans(said: dict[str, Any], word: Word) -> list[str]:
    """The frame is the one the event was made from, and has the digits the event states."""
    frame, shown = data(said["frame"]), []
    check(
        hashlib.sha256(frame).digest() == word.source[5], "the frame is not the one the event was made from"
    )
    check(
        isinstance(said["spans"], dict) and said["spans"].keys() == word.read.keys(),
        "a part without its place",
    )
    for name, (start, end) in said["spans"].items():
        check(
            type(start) is int and type(end) is int and 0 <= start < end <= len(frame), "a place that is none"
        )
        raw = frame[start:end].decode()
        text = json.loads(f'"{raw}"') if "\\" in raw else raw
        check(text == word.read[name], f"the frame does not say {name} at bytes {start} to {end}")
        shown.append(f"{name} {text}: bytes {start} to {end}")
    return shown


def verify(file: IO[bytes], key_text: str) -> list[str]:
    """What is proved, in sentences. Raises where anything does not hold."""
    digest = hashlib.sha256()
    names = ("account", "as_of", "asset_id", "bundle", "claim", "first_version", "head", "seal_before")
    header = line_of(file, digest, *names)
    account, asset_id, claim, as_of = (header[name] for name in ("account", "asset_id", "claim", "as_of"))
    check(header["bundle"] == "accountledger bundle v1", "not a bundle of this format")
    check(isinstance(as_of, dict) and sorted(as_of) == ["time_ns", "version"], "as of what is not told")
    check(as_of["time_ns"] is None or type(as_of["time_ns"]) is int, "as of no time")
    first, last, head = header["first_version"], as_of["version"], header["head"]
    check(
        all(type(each) is int for each in (first, last, head)) and 1 <= first <= last <= head,
        "impossible versions",
    )
    before = seal = data(header["seal_before"])
    genesis = hashlib.sha256(b"accountledger seal v1\n" + account.encode()).digest()
    check(first > 1 or before == genesis, "the first seal is not the one an account begins with")
    word = Word(asset_id, as_of["time_ns"], first)
    for version in range(first, last + 1):
        line = line_of(file, digest, "state", "topic", "version")
        check(
            type(line["version"]) is int and line["version"] == version,
            f"event {version} is not in its place",
        )
        state, topic = data(line["state"]), line["topic"].encode()
        leaf = b"\0" + version.to_bytes(8, "big") + len(topic).to_bytes(1, "big") + topic + state
        seal = hashlib.sha256(b"\1" + seal + hashlib.sha256(leaf).digest()).digest()
        word.hear(version, line["topic"], unpacked(state))
    for _ in range(last, head):
        leaf = data(line_of(file, digest, "leaf")["leaf"])
        check(len(leaf) == 32, "a leaf hash is not of 32 bytes")
        seal = hashlib.sha256(b"\1" + seal + leaf).digest()
    check(word.order is not None, "no event states the asset")
    check(not word.unclear, OPEN)
    check(word.rests, f"version {first} does not begin a full statement that names the asset")
    made = {**word.parts, "held": word.held, "version": word.version}
    check(canonical(claim) == canonical(made), f"the events say {made}, not what is claimed")
    shown = check_spans(line_of(file, digest, "frame", "spans"), word)
    note = line_of(file, digest, "checkpoint")["checkpoint"]
    line = line_of(file, None, "sha256")
    check(
        line["sha256"] == digest.hexdigest() and not file.read(1),
        "the last line does not fit the lines before it",
    )
    log, signed_version, signed_seal = head_of(note, key_text, account)
    check(
        (signed_version, signed_seal) == (head, seal), "the events do not lead to the seal in the checkpoint"
    )
    return report(header, log, word, shown)


def report(header: dict[str, Any], log: str, word: Word, shown: list[str]) -> list[str]:
    first, head, as_of = header["first_version"], header["head"], header["as_of"]
    stated = ", ".join(f"{name} {text}" for name, text in word.parts.items() if text is not None)
    moment = f"version {as_of['version']}" + (
        "" if as_of["time_ns"] is None else f", told of up to {as_of['time_ns']} ns"
    )
    derived = word.held and word.parts["total"] is not None and "total" not in word.read
    lines = [
        f"PROVED: {header['account']} {header['asset_id']} as of {moment}: {stated if word.held else 'not held'}",
    ]
    if first > 1:
        lines += [
            f"  TAKEN ON TRUST: that nothing stated before version {first} has a later time than version {first}, or a",
            "    higher number than what is stated here in the same subscription; the events before it are not here.",
        ]
    lines += [
        f"  signed: a checkpoint of {log} has the account at version {head}",
        f"  sealed: versions {first} to {as_of['version']} are here whole, none missing, none changed, in order",
        f"  stated: by version {word.version}; no later one that counts names the asset",
        f"  read: from its frame (session {word.source[2]}, ordinal {word.source[3]}, SHA-256 {word.source[5].hex()})",
        *(f"    {each}" for each in shown),
    ]
    if derived:
        lines.append("    total: available + locked")
    lines += [
        "NOT PROVED: that the venue said the truth, or sent this frame (venues sign nothing), or that all it said was",
        "  heard; that these digits are the field they were booked as (read the frame); anything after the checkpoint.",
    ]
    return lines


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python verify_bundle.py BUNDLE PUBLIC_KEY_FILE", file=sys.stderr)
        return 2
    try:
        with open(arguments[1], encoding="utf-8") as file:
            key_text = file.read(10_000)
        with open(arguments[0], "rb") as bundle:
            lines = verify(bundle, key_text)
    except OSError as error:
        print(f"cannot be read: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except Refused as why:
        print(f"NOT PROVED: {why}", file=sys.stderr)
        return 1
    except Exception as error:  # whatever garbage does to the reader: it is no proof
        print(f"NOT PROVED: the bundle cannot be read ({type(error).__name__})", file=sys.stderr)
        return 1
    for line in lines:
        print("".join(each if each.isprintable() else "\ufffd" for each in line))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
