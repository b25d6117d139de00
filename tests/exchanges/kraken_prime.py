"""Kraken Prime for tests: an upgrade signed with HMAC-SHA256, then hello, subscriptions by reqid, pages, sequences.

A reqid is never to be used twice, not even on another connection: the exchange refuses it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from tests.exchanges.exchange import Exchange
from tests.exchanges.served import Answer, Asked, Message, Served

STREAM: Final = "/ws/v1"
WINDOW_S: Final = 60


@dataclass(frozen=True)
class Holding:
    """What is held of a currency: exact decimal strings."""

    total: str
    available: str


@dataclass
class Subscription:
    """A subscription to Balance, and how far its sequence is."""

    served: Served
    reqid: int
    currencies: frozenset[str] | None
    seq: int = 0

    def wants(self, currency: str) -> bool:
        return self.currencies is None or currency in self.currencies


class KrakenPrime(Exchange):
    """`truth` by currency; `subscriptions`: those that stand; `reqids`: all ever used; `sessions`: the ids given."""

    LOGIN: ClassVar[str] = STREAM

    def __init__(
        self,
        key: str = "test-kraken-key",
        secret: str = "test-kraken-secret",
        *,
        page_size: int | None = None,
        tls: ssl.SSLContext | None = None,
        ping_every_s: float | None = None,
        deflate: bool = False,
    ) -> None:
        super().__init__(tls=tls, ping_every_s=ping_every_s, deflate=deflate)
        self.key = key
        self.secret = secret
        self.page_size = page_size
        """Rows of an initial message; None: all in one."""
        self.seq_key: str | None = "seqNum"
        """What the sequence number is called: `seqNum`, `seq` as others send it, or None: there is none."""
        self.dropping = 0
        """So many further data messages are numbered, and not sent."""
        self.truth: dict[str, Holding] = {}
        self.subscriptions: list[Subscription] = []
        self.reqids: set[int] = set()
        self.sessions: list[str] = []
        self.errors_sent: list[str] = []

    def set(self, currency: str, total: str, available: str | None = None, *, push: bool = True) -> None:
        """What is held of a currency from now on; pushed unless told otherwise."""
        with self.lock:
            self.truth[currency] = Holding(total, total if available is None else available)
            if push:
                self._update(currency, self._row(currency), "Update")

    def remove(self, currency: str) -> None:
        """The currency leaves the view."""
        with self.lock:
            row = self._row(currency)
            del self.truth[currency]
            self._update(currency, row, "Remove")

    def skip(self, count: int = 1) -> None:
        """Leave so many numbers of the sequence out: their messages never arrive."""
        with self.lock:
            self.dropping += count

    def send_error(self, code: int, text: str, reqid: int | None = None) -> None:
        """An error frame to every live connection; of the newest subscription of each, unless a reqid is given."""
        with self.lock:
            for served in self.live:
                own = [each.reqid for each in self.subscriptions if each.served is served]
                newest = own[-1] if own else None
                self._error(served, code, text, newest if reqid is None else reqid)

    # Login -----------------------------------------------------------------------------------------------------------

    def welcome(self, asked: Asked) -> Answer | None:
        if asked.path != STREAM:
            return Answer(404)
        at = asked.headers.get("apitimestamp", "")
        host = asked.headers.get("host", "").rsplit(":", 1)[0]
        text = f"GET\n{at}\n{host}\n{asked.path}"
        right = base64.urlsafe_b64encode(hmac.digest(self.secret.encode(), text.encode(), hashlib.sha256))
        if asked.headers.get("apikey") != self.key:
            return Answer(401, b"unknown key")
        if not hmac.compare_digest(right, asked.headers.get("apisign", "").encode()):
            return Answer(401, b"bad signature")
        try:
            said = datetime.strptime(at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        except ValueError:
            return Answer(401, b"bad timestamp")
        if abs(said.timestamp() - self.now_ms() / 1000) > WINDOW_S:
            return Answer(401, b"timestamp out of the window")
        return None

    def opened(self, served: Served) -> None:
        self.sessions.append(uuid.uuid4().hex[:13].upper())
        self._send(served, {"type": "hello", "ts": self._ts(), "session_id": self.sessions[-1]})

    # Requests --------------------------------------------------------------------------------------------------------

    def heard(self, served: Served, message: Message) -> None:
        try:
            said = json.loads(message)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self._error(served, 1, "not a JSON object", None)
            return
        reqid = said.get("reqid")
        if type(reqid) is not int or reqid == 0:
            self._error(served, 2, "missing reqid", None)
            return
        kind = str(said.get("type"))
        if kind == "subscribe":
            self._subscribe(served, reqid, said)
        elif kind == "page":
            self._page(served, reqid, said)
        elif kind == "cancel":
            standing = self._find(served, reqid)
            if standing is None:
                self._error(served, 3, "unknown reqid", reqid)
            else:
                self.subscriptions.remove(standing)
        elif kind.lower() == "ping":
            self._pong(served, reqid, said)
        else:
            self._error(served, 4, f"unknown type {kind}", reqid)

    def _subscribe(self, served: Served, reqid: int, said: dict[str, Any]) -> None:
        if reqid in self.reqids:
            self._error(served, 5, "reqid was used before", reqid)
            return
        self.reqids.add(reqid)
        streams = said.get("streams")
        stream = streams[0] if isinstance(streams, list) and len(streams) == 1 else None
        if not isinstance(stream, dict) or stream.get("name") != "Balance":
            self._error(served, 6, "streams: one Balance", reqid)
            return
        if "EquivalentCurrency" in stream:
            self._error(served, 7, "EquivalentCurrency is not supported", reqid)
            return
        wanted = stream.get("Currencies")
        if wanted is not None and not isinstance(wanted, list):
            self._error(served, 6, "Currencies: a list", reqid)
            return
        subscription = Subscription(served, reqid, None if wanted is None else frozenset(wanted))
        self.subscriptions.append(subscription)
        self._initial(subscription, after="")

    def _page(self, served: Served, reqid: int, said: dict[str, Any]) -> None:
        standing = self._find(served, reqid)
        if standing is None:
            self._error(served, 3, "unknown reqid", reqid)
            return
        data = said.get("data")
        wanted = data[0] if isinstance(data, list) and len(data) == 1 else None
        try:
            if not isinstance(wanted, dict) or wanted.get("name") != "Balance":
                raise ValueError
            cursor = json.loads(base64.b64decode(str(wanted.get("after")), validate=True))
            if cursor["reqid"] != reqid:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            self._error(served, 8, "bad page request", reqid)
            return
        self._initial(standing, cursor["after"])

    def _pong(self, served: Served, reqid: int, said: dict[str, Any]) -> None:
        if not said.get("data"):
            self._error(served, 9, "missing Ping data", reqid)
        else:
            self._send(served, {"reqid": reqid, "type": "Pong", "ts": self._ts()})

    def _find(self, served: Served, reqid: int) -> Subscription | None:
        found = [each for each in self.subscriptions if each.served is served and each.reqid == reqid]
        return found[0] if found else None

    # Data ------------------------------------------------------------------------------------------------------------

    def _initial(self, subscription: Subscription, after: str) -> None:
        """A page of what is true now, by currency: the rows after the cursor."""
        rest = sorted(each for each in self.truth if each > after and subscription.wants(each))
        page = rest[: self.page_size or len(rest)]
        more: dict[str, Any] = {"initial": True}
        if len(page) < len(rest):
            cursor = json.dumps({"reqid": subscription.reqid, "after": page[-1]})
            more["next"] = base64.b64encode(cursor.encode()).decode()
        self._data(subscription, [self._row(each) for each in page], more)

    def _update(self, currency: str, row: dict[str, str], action: str) -> None:
        self.subscriptions = [each for each in self.subscriptions if each.served.open]
        for each in self.subscriptions:
            if each.wants(currency):
                self._data(each, [row], {"action": action})

    def _data(self, subscription: Subscription, rows: Sequence[dict[str, str]], more: dict[str, Any]) -> None:
        subscription.seq += 1
        if self.dropping:
            self.dropping -= 1
            return
        message: dict[str, Any] = {"reqid": subscription.reqid, "type": "Balance", "ts": self._ts(), **more}
        if self.seq_key is not None:
            message[self.seq_key] = subscription.seq
        self._send(subscription.served, {**message, "data": rows})

    def _row(self, currency: str) -> dict[str, str]:
        held = self.truth[currency]
        return {"Currency": currency, "Amount": held.total, "AvailableAmount": held.available}

    def _error(self, served: Served, code: int, text: str, reqid: int | None) -> None:
        self.errors_sent.append(text)
        said = {"type": "error", "seq": 1, "ts": self._ts(), "error": {"code": code, "msg": text}}
        self._send(served, said if reqid is None else {"reqid": reqid, **said})

    def _send(self, served: Served, message: dict[str, Any]) -> None:
        served.send(json.dumps(message, separators=(",", ":")))

    def _ts(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
