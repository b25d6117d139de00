"""Pacifica for tests: the history of a balance in pages, newest first, of a public wallet, and the balance itself, for
credits.

A row is a change and the balance after it; it has no id. Cursors are opaque and stay good while rows are added.
"""

from __future__ import annotations

import json
import math
import random
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Final

from tests.exchanges.exchange import Exchange
from tests.exchanges.served import Answer, Asked

HISTORY: Final = "/api/v1/account/balance/history"
ACCOUNT: Final = "/api/v1/account"
LETTERS: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True)
class Row:
    """A change of the balance: exact decimal strings, time in ms."""

    amount: str
    balance: str
    pending_balance: str
    event_type: str
    created_at: int


class Pacifica(Exchange):
    """`rows`: the truth, oldest first. `logins_*` count the history requests answered below 400, and the others."""

    LOGIN: ClassVar[str] = HISTORY

    def __init__(
        self,
        account: str = "42trU9A5exampleWallet",
        *,
        budget: int = 100,
        cost: int = 12,
        window_s: float = 60.0,
        api_key: str = "",
        keyed_budget: int = 300,
        page_max: int = 100,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.account = account
        self.budget = budget
        """Credits for everyone without a key, in any `window_s` seconds; a request costs `cost`."""
        self.cost = cost
        self.window_s = window_s
        self.api_key = api_key
        self.keyed_budget = keyed_budget
        self.page_max = page_max
        """The most rows of a page, whatever limit is asked for; also the limit of who asks for none."""
        self.last_cursor: str | None = ""
        """What `next_cursor` is on the last page."""
        self.between_pages: Callable[[], object] | None = None
        """Called after every page that is not the last: to add rows while a client pages."""
        self.retry_after: str | None = None
        """What Retry-After says instead of the truth; an empty string: no such header."""
        self.tells_account = True
        """Whether the account may be asked for; some only know its history."""
        self.account_balance: str | None = None
        """What the account says instead of the truth."""
        self.rows: list[Row] = []
        self.too_many = 0
        """How often the budget was spent."""
        self._spent: dict[str, deque[tuple[float, int]]] = {}
        self._cursors: dict[str, int] = {}
        self._random: Final = random.Random(0)

    @property
    def balance(self) -> Decimal:
        return Decimal(self.rows[-1].balance) if self.rows else Decimal(0)

    def add_row(
        self,
        amount: str,
        event_type: str = "trade",
        at_ms: int | None = None,
        *,
        balance: str | None = None,
        pending: str = "0",
    ) -> Row:
        """A change; the running balance follows it, unless `balance` is given to break the chain."""
        with self.lock:
            after = format(self.balance + Decimal(amount), "f") if balance is None else balance
            if at_ms is None:
                at_ms = self.rows[-1].created_at + 1000 if self.rows else 1_763_712_000_000
            row = Row(amount, after, pending, event_type, at_ms)
            self.rows.append(row)
            return row

    # The venue -------------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        if {"content-type", "content-length", "transfer-encoding"} & asked.headers.keys() or asked.body:
            return Answer(403, b"<html>Request blocked. CloudFront</html>", {"Content-Type": "text/html"})
        known = (HISTORY, ACCOUNT) if self.tells_account else (HISTORY,)
        if asked.method != "GET" or asked.path not in known:
            return _failed(404, "Not found")
        key = asked.headers.get("pf-api-key", "")
        if key and key != self.api_key:
            return _failed(401, "Invalid API key")
        broke = self._spend(key)
        if broke is not None:
            return broke
        return self._page(asked.query) if asked.path == HISTORY else self._account(asked.query)

    def _spend(self, key: str) -> Answer | None:
        now = time.monotonic()
        budget = self.keyed_budget if key else self.budget
        spent = self._spent.setdefault(key, deque())
        while spent and spent[0][0] <= now - self.window_s:
            spent.popleft()
        left = budget - sum(cost for _, cost in spent)
        if left >= self.cost:
            spent.append((now, self.cost))
            return None
        self.too_many += 1
        wait_s = math.ceil(spent[0][0] + self.window_s - now) if spent else math.ceil(self.window_s)
        headers = {
            "ratelimit": f'"credits";r={left * 10};t={wait_s}',
            "ratelimit-policy": f'"credits";q={budget * 10};w={math.ceil(self.window_s)}',
        }
        if self.retry_after != "":
            headers["Retry-After"] = str(wait_s) if self.retry_after is None else self.retry_after
        return _failed(429, "Rate limit exceeded", headers)

    def _page(self, query: dict[str, str]) -> Answer:
        if not query.get("account"):
            return _failed(400, "Missing account")
        limit = query.get("limit", str(self.page_max))
        if not limit.isdigit() or int(limit) == 0:
            return _failed(400, "Invalid limit")
        cursor = query.get("cursor")
        if cursor is not None and cursor not in self._cursors:
            return _failed(400, "Invalid cursor")
        rows = self.rows if query["account"] == self.account else []
        end = len(rows) if cursor is None else self._cursors[cursor]
        start = max(0, end - min(int(limit), self.page_max))
        page = [
            {
                "amount": row.amount,
                "balance": row.balance,
                "pending_balance": row.pending_balance,
                "event_type": row.event_type,
                "created_at": row.created_at,
            }
            for row in reversed(rows[start:end])
        ]
        body = {
            "success": True,
            "data": page,
            "next_cursor": self._cursor(start) if start else self.last_cursor,
            "has_more": start > 0,
        }
        if start and self.between_pages is not None:
            self.between_pages()
        return Answer(200, json.dumps(body).encode())

    def _account(self, query: dict[str, str]) -> Answer:
        if query.get("account") != self.account:
            return _failed(404, "Account not found")
        balance = format(self.balance, "f") if self.account_balance is None else self.account_balance
        data = {
            "balance": balance,
            "fee_level": 0,
            "account_equity": format(self.balance + 1, "f"),
            "available_to_spend": balance,
            "pending_balance": self.rows[-1].pending_balance if self.rows else "0",
            "updated_at": self.rows[-1].created_at if self.rows else 1_700_000_000_000,
        }
        return Answer(200, json.dumps({"success": True, "data": data, "error": None, "code": None}).encode())

    def _cursor(self, position: int) -> str:
        """An opaque name of the rows before a position."""
        cursor = "".join(self._random.choices(LETTERS, k=9))
        self._cursors[cursor] = position
        return cursor


def _failed(status: int, text: str, headers: dict[str, str] | None = None) -> Answer:
    body = {"success": False, "data": None, "error": text, "code": status}
    return Answer(status, json.dumps(body).encode(), headers or {})
