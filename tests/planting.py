"""Random accounts at the five venues, and what goes wrong on the way: the truth, and the frames that come of it.

Knows how the venues write, and what truly happened; knows no ledger and no projection.

An exchange moves its balances and says so, in frames of the venue's wire form; each frame carries what it tells, so
that `tests.judging` can say what may be known of it. `planted` loses, doubles, swaps, delays and garbles frames, and
leaves sessions without an end; `clean` does nothing of the kind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any, ClassVar, Final, TypeAlias

from ledger.events import Asked

MS: Final = 1_000_000
START_NS: Final = 1_795_000_000_000 * MS
LATENCY_NS: Final = 3 * MS
VENUES: Final = ("kraken_prime", "bitopro", "cascade", "deltadefi", "pacifica")

Parts: TypeAlias = dict[str, Decimal]
"""What is held of an asset: each part the venue states, and its amount."""
Asset: TypeAlias = tuple[str, str]
"""An account and an asset id."""


@dataclass(frozen=True)
class Said:
    """Balances that a frame states of one account. `time_ns` None: of when it came. `answer`: asked for."""

    account: str
    balances: dict[str, Parts]
    time_ns: int | None = None
    removed: tuple[str, ...] = ()
    answer: bool = False


@dataclass(frozen=True)
class OrderSaid:
    """An order's state, and the executions told with it: id and quantity."""

    order: str
    executed: Decimal
    updated_ns: int
    fills: tuple[tuple[str, Decimal], ...]


@dataclass(eq=False)
class Baseline:
    """The pages of one statement of the whole account."""

    pages: list[Message] = field(default_factory=list)


@dataclass(eq=False)
class Message:
    """What a venue sends: the bytes, and what they tell."""

    payload: bytes
    sent_ns: int
    kind: str = "update"
    """`update` may be swapped with its neighbours, `control` becomes no event, the others stay where they are."""
    said: tuple[Said, ...] = ()
    names: str | None = None
    """The conversation that it names."""
    number: tuple[int, int] | None = None
    """Request id and sequence number."""
    baseline: Baseline | None = None
    rows: tuple[int, ...] = ()
    order: OrderSaid | None = None
    points: int | None = None
    asked: Asked | None = None

    @property
    def baseline_pages(self) -> list[Message]:
        """The messages of the statement that this one is part of."""
        return [self] if self.baseline is None else self.baseline.pages


@dataclass(frozen=True)
class Row:
    """A row of a history, by its true place."""

    amount: Decimal
    balance: Decimal
    pending: Decimal
    cause: str
    at_ms: int


@dataclass(eq=False)
class Arrival:
    message: Message
    received_ns: int
    payload: bytes

    @property
    def read(self) -> bool:
        return self.payload == self.message.payload


@dataclass(eq=False)
class Recording:
    """A conversation as we have it; without an end it crashed. `late`: the frames that come late in it."""

    session: str
    opened_ns: int
    closed_ns: int | None
    arrivals: list[Arrival]
    late: frozenset[int] = frozenset()


@dataclass
class Run:
    """A truth, what was recorded of it, and what was planted."""

    venue: str
    seed: int
    label: str
    exchange: Exchange
    recordings: list[Recording] = field(default_factory=list)
    plants: list[str] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    """All that was said to whoever was connected, whether it came or not."""


class Exchange:
    """The truth of one login: what is held now, and what was held whenever."""

    venue = ""
    label = "main"
    parts: tuple[str, ...] = ("total",)
    digits = 8

    def __init__(self, random: Random, lossy: bool) -> None:
        self.random = random
        self.lossy = lossy
        self.now_ns = START_NS
        self.held: dict[Asset, Parts] = {}
        self.history: list[tuple[int, Asset, Parts | None]] = []
        self.rows: list[Row] = []
        self.points: list[Row] = []
        self.hidden_fills: set[str] = set()
        self.wrong_quotes: set[str] = set()

    @property
    def account(self) -> str:
        return f"{self.venue}:{self.label}"

    def tick(self) -> None:
        self.now_ns += self.random.randrange(50, 3000) * MS

    def set(self, account: str, asset: str, parts: Parts | None) -> None:
        if parts is None:
            del self.held[account, asset]
        else:
            self.held[account, asset] = parts
        self.history.append((self.now_ns, (account, asset), parts))

    def at(self, ns: int) -> dict[Asset, Parts]:
        """What was held at a time."""
        held: dict[Asset, Parts] = {}
        for when, asset, parts in self.history:
            if when <= ns and parts is not None:
                held[asset] = parts
            elif when <= ns:
                held.pop(asset, None)
        return held

    def amount(self) -> Decimal:
        return Decimal(self.random.randrange(1, 10 ** (self.digits + 3))).scaleb(-self.digits)

    def changed(self, account: str, asset: str) -> Parts:
        """Other amounts than now: now and then those it had before, or zero."""
        now = self.held.get((account, asset))
        before = [
            parts for _, what, parts in self.history if what == (account, asset) and parts and parts != now
        ]
        if before and self.random.random() < 0.15:
            return self.random.choice(before)
        if (
            now is not None
            and now["total" if "total" in now else "available"]
            and self.random.random() < 0.05
        ):
            return dict.fromkeys(self.parts, Decimal(0))
        parts = {part: self.amount() for part in self.parts}
        if now is not None and len(parts) > 1 and self.random.random() < 0.3:
            parts = now | {self.parts[1]: parts[self.parts[1]]}
        return parts

    def wander(self, account: str) -> str:
        """Something held becomes more or less; which asset."""
        asset = self.random.choice([asset for name, asset in self.held if name == account])
        self.set(account, asset, self.changed(account, asset))
        return asset

    def opening(self) -> list[Message]:
        """What comes on a new connection."""
        return []

    def move(self) -> list[Message]:
        """Something happens; what is said of it to whoever is connected."""
        raise NotImplementedError

    def ending(self) -> None:
        """The connection is over."""


def _bytes(said: object) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def _plain(amount: Decimal) -> str:
    return format(amount, "f")


# The venues ----------------------------------------------------------------------------------------------------------


class Kraken(Exchange):
    """A baseline in pages, numbered with all that follows, of each subscription; errors use numbers too."""

    venue, label, parts, digits = "kraken_prime", "desk", ("total", "available"), 8
    currencies = ("AAVE", "BTC", "ETH", "SOL", "USD", "XRP", "ZEC")

    def __init__(self, random: Random, lossy: bool) -> None:
        super().__init__(random, lossy)
        self.key = random.choice(("seqNum", "seq"))
        self.page_rows = random.choice((1, 2, 3, 9))
        self.connections = self.reqid = 0
        self.subscriptions: list[list[int]] = []
        for currency in random.sample(self.currencies, random.randint(2, 5)):
            self.set(self.account, currency, self.changed(self.account, currency))

    def opening(self) -> list[Message]:
        self.connections += 1
        name = f"CONV{self.connections}"
        hello = _bytes({"type": "hello", "ts": self._ts(), "session_id": name})
        return [Message(hello, self.now_ns, "control", names=name), *self.subscribe()]

    def ending(self) -> None:
        self.subscriptions.clear()

    def subscribe(self) -> list[Message]:
        self.tick()
        self.reqid += 1
        subscription = [self.reqid, 0]
        self.subscriptions.append(subscription)
        baseline, messages, after = Baseline(), list[Message](), ""
        while True:
            rest = sorted(asset for _, asset in self.held if asset > after)
            page = rest[: self.page_rows]
            more: dict[str, Any] = {"initial": True}
            if len(page) < len(rest):
                more["next"] = f"after-{page[-1]}"
            messages.append(self._data(subscription, page, more, baseline))
            if len(page) == len(rest):
                return messages
            after = page[-1]
            self.tick()
            if self.random.random() < 0.25:
                messages += self.change()
                self.tick()

    def move(self) -> list[Message]:
        if len(self.subscriptions) > 1 and self.random.random() < 0.6:
            self.subscriptions.pop(0)
        if self.subscriptions and self.random.random() < 0.15:
            if self.random.random() < 0.5:
                self.subscriptions.clear()
            return self.subscribe()
        if self.subscriptions and self.random.random() < 0.08:
            return [self._error(each) for each in self.subscriptions]
        return self.change()

    def change(self) -> list[Message]:
        absent = [each for each in self.currencies if (self.account, each) not in self.held]
        action = "Update"
        chance = self.random.random()
        if absent and chance < 0.12:
            currency = self.random.choice(absent)
            self.set(self.account, currency, self.changed(self.account, currency))
        elif chance < 0.2 and len(self.held) > 2:
            _, currency = self.random.choice(list(self.held))
            self.set(self.account, currency, None)
            action = "Remove"
        else:
            currency = self.wander(self.account)
        return [self._data(each, [currency], {"action": action}, None) for each in self.subscriptions]

    def _data(
        self,
        subscription: list[int],
        currencies: Sequence[str],
        more: dict[str, Any],
        baseline: Baseline | None,
    ) -> Message:
        subscription[1] += 1
        reqid, number = subscription
        head = {"reqid": reqid, "type": "Balance", "ts": self._ts(), self.key: number}
        rows: list[dict[str, str]] = []
        held: dict[str, Parts] = {}
        for currency in currencies:
            parts = self.held.get((self.account, currency))
            if parts is not None:
                held[currency] = parts
            total, free = (Decimal(0), Decimal(0)) if parts is None else (parts["total"], parts["available"])
            rows.append({"Currency": currency, "Amount": _plain(total), "AvailableAmount": _plain(free)})
        removed = tuple(currency for currency in currencies if currency not in held)
        said = (Said(self.account, held, self.now_ns, removed),)
        kind = "update" if baseline is None else "baseline"
        payload = _bytes({**head, **more, "data": rows})
        message = Message(payload, self.now_ns, kind, said, number=(reqid, number), baseline=baseline)
        if baseline is not None:
            baseline.pages.append(message)
        return message

    def _error(self, subscription: list[int]) -> Message:
        subscription[1] += 1
        reqid, number = subscription
        said = {
            "type": "error",
            "reqid": reqid,
            "seq": number,
            "ts": self._ts(),
            "error": {"code": 7, "msg": "no"},
        }
        return Message(_bytes(said), self.now_ns, number=(reqid, number))

    def _ts(self) -> str:
        return datetime.fromtimestamp(self.now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class BitoPro(Exchange):
    """The first message of a connection states everything, each later one what moved; nothing is numbered."""

    venue, parts, digits = "bitopro", ("total", "available", "staked"), 8

    def __init__(self, random: Random, lossy: bool) -> None:
        super().__init__(random, lossy)
        self.messages = 0
        for currency in random.sample(("ADA", "BITO", "BTC", "ETH", "TWD", "USDT"), random.randint(2, 5)):
            self.set(self.account, currency, self.changed(self.account, currency))

    def opening(self) -> list[Message]:
        return [self._message([asset for _, asset in self.held], Baseline())]

    def move(self) -> list[Message]:
        return [
            self._message(
                list(dict.fromkeys(self.wander(self.account) for _ in range(self.random.choice((1, 1, 2)))))
            )
        ]

    def _message(self, currencies: Sequence[str], baseline: Baseline | None = None) -> Message:
        self.messages += 1
        held = {currency: self.held[self.account, currency] for currency in currencies}
        data = {
            currency: {
                "currency": currency,
                "amount": _plain(parts["total"]),
                "available": _plain(parts["available"]),
                "stake": _plain(parts["staked"]),
                "tradable": True,
            }
            for currency, parts in held.items()
        }
        head = {"event": "ACCOUNT_BALANCE", "eventID": f"e-{self.messages}", "timestamp": self.now_ns // MS}
        kind = "update" if baseline is None else "baseline"
        said = (Said(self.account, held, self.now_ns),)
        message = Message(_bytes({**head, "data": data}), self.now_ns, kind, said, baseline=baseline)
        if baseline is not None:
            baseline.pages.append(message)
        return message


class Cascade(Exchange):
    """Many subaccounts on one connection; what each holds is asked for when connected."""

    venue, label, digits = "cascade", "0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f", 6

    def __init__(self, random: Random, lossy: bool) -> None:
        super().__init__(random, lossy)
        self.updated: dict[int, int] = {}
        self.answers_timed = random.random() < 0.5
        """Whether an answer names the time of the last change, as a push does."""
        for index in range(random.randint(1, 3)):
            self._set(index)

    def _set(self, index: int) -> None:
        account = f"{self.account}/{index}"
        self.set(account, "USDC", self.changed(account, "USDC"))
        self.updated[index] = self.now_ns

    def opening(self) -> list[Message]:
        messages: list[Message] = []
        for number in (1, 2):
            self.tick()
            result = {"message": "Subscribed to trades" if number == 2 else "Authenticated successfully"}
            said = {"jsonrpc": "2.0", "result": result, "usIn": 1, "usOut": 2, "usDiff": 1, "id": number}
            messages.append(Message(_bytes(said), self.now_ns, "control"))
        for index in sorted(self.updated):
            self.tick()
            query = f"GET /account/balance?account={self.label}&subaccountIndex={index}"
            asked = Asked(query, self.now_ns)
            self.now_ns += 20 * MS
            messages.append(self._message(index, asked))
        return messages

    def move(self) -> list[Message]:
        index = len(self.updated) if self.random.random() < 0.05 else self.random.randrange(len(self.updated))
        self._set(index)
        return [self._message(index)]

    def _message(self, index: int, asked: Asked | None = None) -> Message:
        account = f"{self.account}/{index}"
        parts = self.held[account, "USDC"]
        row: dict[str, Any] = {
            "account": self.label,
            "subaccountIndex": index,
            "balance": _plain(parts["total"]),
        }
        time_ns = self.updated[index]
        if asked is None or self.answers_timed:
            row["updatedAt"] = time_ns // MS
        else:
            time_ns = asked.at_ns
        said = (Said(account, {"USDC": parts}, time_ns, answer=asked is not None),)
        if asked is not None:
            return Message(_bytes(row), self.now_ns, "answer", said, asked=asked)
        return Message(_bytes({"type": "Balance Update", "data": row}), self.now_ns, "update", said)


class DeltaDefi(Exchange):
    """Nothing numbered and balances without time, asked for when connected; orders that name their executions."""

    venue, parts, digits = "deltadefi", ("available", "locked"), 6
    units: ClassVar = {
        "ada": ("lovelace", ""),
        "usdm": ("c48cbb3d0014df105553444d", "c48cbb3d.0014df105553444d"),
    }

    def __init__(self, random: Random, lossy: bool) -> None:
        super().__init__(random, lossy)
        self.cumulative = random.random() < 0.5
        """Whether an order names all of its executions each time, or those since it was last told of."""
        self.old = random.random() < 0.3
        self.orders: dict[str, tuple[int, list[dict[str, Any]], Decimal]] = {}
        self.fills = self.count = 0
        for asset, _ in self.units.values():
            self.set(self.account, asset, self.changed(self.account, asset))

    def tick(self) -> None:
        self.now_ns += self.random.randrange(1000, 4000) * MS  # generation 1 counts in seconds

    def opening(self) -> list[Message]:
        self.tick()
        asked = Asked("GET /accounts/balance", self.now_ns)
        pushed: list[Message] = []
        self.now_ns += 10 * MS
        if self.random.random() < 0.1:  # it moves while the question is on its way
            pushed.append(self._balance([self.wander(self.account)]))
        self.now_ns += 10 * MS
        said = (Said(self.account, self._held(), asked.at_ns, answer=True),)
        answer = Message(_bytes(self._rows(list(self._held()))), self.now_ns, "answer", said, asked=asked)
        return [*pushed, answer]

    def move(self) -> list[Message]:
        chance = self.random.random()
        if chance < 0.35:
            moved = self.wander(self.account)
            return [self._balance(list(self._held()) if self.random.random() < 0.5 else [moved])]
        if chance < 0.48:
            return [self._points()]
        return [self._trade()]

    def _held(self) -> dict[str, Parts]:
        return {asset: parts for (_, asset), parts in self.held.items()}

    def _rows(self, assets: Sequence[str]) -> list[dict[str, str]]:
        written = {asset: (name, unit) for name, (asset, unit) in self.units.items()}
        return [
            {
                "asset": written[asset][0],
                "asset_unit": written[asset][1],
                "free": _plain(parts["available"]),
                "locked": _plain(parts["locked"]),
            }
            for asset, parts in self._held().items()
            if asset in assets
        ]

    def _balance(self, assets: Sequence[str]) -> Message:
        said = Said(self.account, {asset: parts for asset, parts in self._held().items() if asset in assets})
        payload = _bytes({"type": "Account", "sub_type": "balance", "balance": self._rows(assets)})
        return Message(payload, self.now_ns, "update", (said,))

    def _points(self) -> Message:
        last = self.points[-1].balance if self.points else Decimal(0)
        amount = Decimal(self.random.randrange(1, 100_000))
        self.points.append(Row(amount, last + amount, Decimal(0), "trade", self.now_ns // MS))
        said = {
            "delta": str(amount),
            "new_total": str(last + amount),
            "source_type": "trade",
            "source_ref": f"ref-{len(self.points)}",
        }
        payload = _bytes({"type": "Account", "sub_type": "dlta_points", "dlta_points": said})
        return Message(payload, self.now_ns, "points", points=len(self.points) - 1)

    def _trade(self) -> Message:
        """An order is placed, filled in part, filled, or told of once more."""
        unfinished = [name for name, (left, _, _) in self.orders.items() if left]
        if unfinished and self.random.random() < 0.85:
            order = self.random.choice(unfinished)
        else:
            self.count += 1
            order = f"order-{self.count}"
            self.orders[order] = (self.random.randint(1, 6), [], Decimal(0))
        left, records, executed = self.orders[order]
        fresh: list[dict[str, Any]] = []
        for _ in range(min(left, self.random.choice((0, 1, 1, 1, 2)))):
            left -= 1
            record, quantity = self._record(order)
            executed += quantity
            fresh.append(record)
            if self.lossy and self.random.random() < 0.06:
                self.hidden_fills.add(record["id"])
        told = [each for each in (*records, *fresh) if each["id"] not in self.hidden_fills]
        self.orders[order] = (left, [*records, *fresh], executed)
        if not self.cumulative:
            told = [each for each in told if each in fresh]
        quantity_name = "filled_amount" if self.old else "filled_base_qty"
        fills = tuple((each["id"], Decimal(each[quantity_name])) for each in told)
        updated_ns = self.now_ns // 1_000_000_000 * 1_000_000_000
        payload = (self._order_1 if self.old else self._order_2)(order, executed, told, not left, updated_ns)
        return Message(payload, self.now_ns, order=OrderSaid(order, executed, updated_ns, fills))

    def _record(self, order: str) -> tuple[dict[str, Any], Decimal]:
        self.fills += 1
        fill = f"fill-{self.fills}"
        price = Decimal(self.random.randrange(10_000, 200_000)).scaleb(-5)
        quantity = Decimal(self.random.randrange(10_000_000, 1_000_000_000)).scaleb(-6)
        record: dict[str, Any] = {
            "id": fill,
            "order_id": order,
            "execution_price": _plain(price),
            "role": "maker",
        }
        if self.old:
            return record | {"filled_amount": _plain(quantity), "create_time": self.now_ns // 10**9}, quantity
        quote = (price * quantity).quantize(Decimal("0.000001"), "ROUND_FLOOR")
        if self.lossy and self.random.random() < 0.08:
            quote *= self.random.choice((Decimal("0.31"), Decimal("1.002"), Decimal("0.997")))
            self.wrong_quotes.add(fill)
        at = datetime.fromtimestamp(self.now_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return record | {
            "filled_base_qty": _plain(quantity),
            "filled_quote_qty": _plain(quote),
            "commission": "0.01",
            "commission_unit": "lovelace",
            "created_at": at,
        }, quantity

    def _order_1(
        self, order: str, executed: Decimal, told: list[dict[str, Any]], done: bool, updated_ns: int
    ) -> bytes:
        stated: dict[str, Any] = {
            "order_id": order,
            "status": "fully_filled" if done else "partially_filled" if executed else "open",
            "symbol": "ADAUSDM",
            "orig_qty": "10000",
            "executed_qty": _plain(executed),
            "side": "buy",
            "type": "limit",
            "update_time": updated_ns // 10**9,
        }
        if told:
            stated["fills"] = told
        data = [{"orders": [stated], "order_filling_records": []}]
        return _bytes({"type": "Account", "sub_type": "trading_history", "data": data, "total_count": 1})

    def _order_2(
        self, order: str, executed: Decimal, told: list[dict[str, Any]], done: bool, updated_ns: int
    ) -> bytes:
        stated: dict[str, Any] = {
            "id": order,
            "status": "closed" if done else "open",
            "symbol": "ADAUSDM",
            "base_qty": "10000",
            "side": "buy",
            "type": "limit",
            "executed_base_qty": _plain(executed),
            "updated_at": datetime.fromtimestamp(updated_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "order_execution_records": told,
        }
        return _bytes({"type": "Account", "sub_type": "order_info", "order": stated})


class Pacifica(Exchange):
    """A history in pages, newest first, walked again and again; rows have no id."""

    venue, label, digits = "pacifica", "9xDemoWa11etPacifica", 6

    def __init__(self, random: Random, lossy: bool) -> None:
        super().__init__(random, lossy)
        self.page_rows = random.choice((3, 4, 6, 10))
        self.served = 0
        """How many rows the last walk reached up to."""
        for _ in range(random.randint(1, 6)):
            self.tick()
            self._grow()

    def _grow(self) -> None:
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            last = self.rows[-1] if self.rows else Row(Decimal(0), Decimal(0), Decimal(0), "", 0)
            amount = self.amount() - (0 if not self.rows or self.random.random() < 0.6 else self.amount() * 2)
            row = Row(amount, last.balance + amount, last.pending, "trade", self.now_ns // MS)
            chance = self.random.random()
            if self.rows and chance < 0.1:  # a fill without fee: rows like this one may be quite equal
                row = Row(Decimal(0), last.balance, last.pending, "trade", self.now_ns // MS)
            elif self.rows and not self.lossy and chance < 0.15:  # above the cap: pending at first
                held = abs(amount)
                row = Row(held, last.balance, last.pending + held, "deposit", self.now_ns // MS)
            elif last.pending and chance < 0.5:
                balance = last.balance + last.pending
                row = Row(last.pending, balance, Decimal(0), "deposit_release", self.now_ns // MS)
            elif self.rows and not self.lossy and chance < 0.2:  # a withdrawal written without its sign
                row = Row(
                    abs(amount), last.balance - abs(amount), last.pending, "withdraw", self.now_ns // MS
                )
            self.rows.append(row)
            self.set(self.account, "USDC", {"total": row.balance})

    def opening(self) -> list[Message]:
        return self._walk()

    def move(self) -> list[Message]:
        """Rows are added; now and then the newest pages are asked for."""
        self._grow()
        if self.random.random() < 0.4:
            self.tick()
            return self._walk()
        return []

    def _walk(self) -> list[Message]:
        """Page by page back to the first row that was there at the last walk; now and then to the very first."""
        reach = 0 if self.random.random() < 0.15 else self.served
        self.served = end = len(self.rows)
        messages: list[Message] = []
        while end:
            start = max(0, end - self.page_rows)
            page = [
                {
                    "amount": _plain(row.amount),
                    "balance": _plain(row.balance),
                    "pending_balance": _plain(row.pending),
                    "event_type": row.cause,
                    "created_at": row.at_ms,
                }
                for row in reversed(self.rows[start:end])
            ]
            body = {"success": True, "data": page, "next_cursor": f"c{start}", "has_more": start > 0}
            messages.append(Message(_bytes(body), self.now_ns, "page", rows=tuple(range(start, end))))
            self.now_ns += 100 * MS
            if start <= reach - 1:
                break
            end = start
        return messages


EXCHANGES: Final[dict[str, type[Exchange]]] = {
    each.venue: each for each in (Kraken, BitoPro, Cascade, DeltaDefi, Pacifica)
}


# What goes wrong -----------------------------------------------------------------------------------------------------


def clean(venue: str, seed: int) -> Run:
    """A history of which nothing is lost: one session, or several of which the next begins as the last one ends."""
    return _run(venue, seed, lossy=False)


def planted(venue: str, seed: int) -> Run:
    """A history with losses: of frames, of sessions' ends, of the time between sessions."""
    return _run(venue, seed, lossy=True)


def _run(venue: str, seed: int, *, lossy: bool) -> Run:
    random = Random(f"{venue}/{seed}/{lossy}")
    exchange = EXCHANGES[venue](random, lossy)
    run = Run(venue, seed, exchange.label, exchange)
    later: list[Recording] = []
    for number in range(1, random.randint(2, 4) + 1):
        opened_ns = exchange.now_ns
        exchange.now_ns += 50 * MS
        messages = exchange.opening()
        for _ in range(random.randint(2, 10)):
            exchange.tick()
            messages += exchange.move()
        exchange.tick()
        kept, lost = _plant(random, messages, run.plants, f"session {number}") if lossy else (messages, [])
        arrivals = _arrivals(random, kept, run.plants, f"session {number}", lossy)
        recording = Recording(f"session-{number}", opened_ns, exchange.now_ns, arrivals)
        exchange.ending()
        run.sent += messages
        run.recordings += [recording, *later]
        later.clear()
        if lossy and random.random() < 0.25:
            recording.closed_ns = None
            run.plants.append(f"session {number} has no end")
        if lossy and lost and random.random() < 0.4:
            late = _late(random, recording, lost, run, messages)
            (later if random.random() < 0.4 else run.recordings).append(late)
        if lossy and random.random() < 0.7:
            for _ in range(random.choice((0, 0, 1, 2, 3))):
                exchange.tick()
                exchange.move()
            exchange.tick()
            run.plants.append(f"blind after session {number}")
        elif recording.closed_ns is None and arrivals and arrivals[-1].received_ns > exchange.history[-1][0]:
            exchange.now_ns = arrivals[-1].received_ns  # the next session begins as the last frame comes
    run.recordings += later
    return run


def _plant(
    random: Random, messages: list[Message], plants: list[str], where: str
) -> tuple[list[Message], list[Message]]:
    """The messages that come, in the order in which they come, and those that do not."""
    lost: list[Message] = []
    kept = list(messages)
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        if not kept:
            break
        at, count = random.randrange(len(kept)), random.choice((1, 1, 1, 2, 4))
        at = random.choice((at, at, at, 0, len(kept) - 1))
        what = random.choice(("lose", "lose", "lose", "double", "swap"))
        if what == "lose":
            lost += kept[at : at + count]
            del kept[at : at + count]
        elif what == "double":
            later = (
                1 if kept[at].kind == "points" else random.randint(1, 4)
            )  # these have no order but that they come in
            kept.insert(min(len(kept), at + later), kept[at])
        elif (
            all(each.kind == "update" for each in kept[at : at + 2])
            and kept[at : at + 2].count(kept[at]) == 1
        ):
            kept.insert(min(len(kept), at + 1), kept.pop(at))
        else:
            continue
        plants.append(f"{what} {count if what == 'lose' else 1} at frame {at + 1} of {where}")
    return kept, lost


def _arrivals(
    random: Random, messages: Sequence[Message], plants: list[str], where: str, lossy: bool
) -> list[Arrival]:
    arrivals: list[Arrival] = []
    last_ns = 0
    for message in messages:
        last_ns = max(last_ns + MS // 2, message.sent_ns + LATENCY_NS)
        payload = message.payload
        if lossy and random.random() < 0.03:
            payload = payload[: random.randrange(1, len(payload) - 1)]
            plants.append(f"frame {len(arrivals) + 1} of {where} is cut")
        arrivals.append(Arrival(message, last_ns, payload))
    return arrivals


def _late(
    random: Random, recording: Recording, lost: Sequence[Message], run: Run, messages: Sequence[Message]
) -> Recording:
    """What was lost comes after all: in the same recording, grown; or in another one of the same conversation, which
    begins as that does."""
    some = sorted(random.sample(lost, random.randint(1, len(lost))), key=messages.index)
    timed = run.venue not in ("deltadefi",)
    run.plants.append(f"{len(some)} lost frames of {recording.session} come late")
    if timed and random.random() < 0.5 and recording.arrivals:
        last_ns = recording.arrivals[-1].received_ns
        more = [Arrival(each, last_ns + 1 + at, each.payload) for at, each in enumerate(some)]
        arrivals = [*recording.arrivals, *more]
        late = frozenset(range(len(recording.arrivals), len(arrivals)))
        return Recording(recording.session, recording.opened_ns, recording.closed_ns, arrivals, late)
    arrivals = [Arrival(each, each.sent_ns + LATENCY_NS, each.payload) for each in some]
    first = messages[0]
    if some[0] is not first:
        arrivals.insert(0, Arrival(first, first.sent_ns + LATENCY_NS, first.payload))
    closed_ns = arrivals[-1].received_ns
    late = frozenset(range(len(arrivals)))
    return Recording(f"{recording.session}-again", recording.opened_ns, closed_ns, arrivals, late)
