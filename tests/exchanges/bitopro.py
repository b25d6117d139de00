"""BitoPro for tests: a stream whose upgrade is signed (HMAC-SHA384 over a base64 payload) with a nonce that must rise.

The first message on a connection has every currency, the later ones those that changed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import ssl
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final

from tests.exchanges.exchange import Exchange
from tests.exchanges.served import Answer, Asked, Served

STREAM: Final = "/ws/v1/pub/auth/account-balance"
WINDOW_MS: Final = 60_000


@dataclass(frozen=True)
class Holding:
    """What is held of a currency: exact decimal strings."""

    total: str
    available: str
    stake: str = "0"
    tradable: bool = True


class BitoPro(Exchange):
    """`truth` by currency; `nonces`: those that came in a right signature, in order."""

    LOGIN: ClassVar[str] = STREAM

    def __init__(
        self,
        key: str = "test-bitopro-key",
        secret: str = "test-bitopro-secret",
        identity: str = "someone@example.org",
        *,
        tls: ssl.SSLContext | None = None,
        ping_every_s: float | None = 1.0,
        pong_within_s: float | None = 5.0,
        deflate: bool = False,
    ) -> None:
        super().__init__(tls=tls, ping_every_s=ping_every_s, pong_within_s=pong_within_s, deflate=deflate)
        self.key = key
        self.secret = secret
        self.identity = identity
        self.truth: dict[str, Holding] = {}
        self.nonces: list[int] = []

    def set(
        self,
        currency: str,
        total: str,
        available: str | None = None,
        *,
        stake: str = "0",
        tradable: bool = True,
        push: bool = True,
    ) -> None:
        """What is held of a currency from now on; pushed unless told otherwise."""
        with self.lock:
            free = total if available is None else available
            self.truth[currency] = Holding(total, free, stake, tradable)
            if push:
                self.send_all(self._message([currency]))

    # The venue -------------------------------------------------------------------------------------------------------

    def welcome(self, asked: Asked) -> Answer | None:
        if asked.path != STREAM:
            return Answer(404)
        payload = asked.headers.get("x-bitopro-payload", "")
        right = hmac.new(self.secret.encode(), payload.encode(), hashlib.sha384).hexdigest()
        if asked.headers.get("x-bitopro-apikey") != self.key:
            return _error(401, "Invalid API key")
        if not hmac.compare_digest(right.encode(), asked.headers.get("x-bitopro-signature", "").encode()):
            return _error(401, "Invalid Signature")
        try:
            said = json.loads(base64.b64decode(payload.translate(_STANDARD), validate=True))
        except (binascii.Error, ValueError):
            return _error(401, "Invalid payload")
        if not isinstance(said, dict) or said.get("identity") != self.identity:
            return _error(401, "Invalid identity")
        nonce = said.get("nonce")
        if type(nonce) is not int:
            return _error(401, "Invalid nonce")
        fresh = not self.nonces or nonce > max(self.nonces)
        if not fresh or abs(nonce - self.now_ms()) > WINDOW_MS:
            return _error(409, "Local Machine Time Mismatch")
        self.nonces.append(nonce)
        return None

    def opened(self, served: Served) -> None:
        served.send(self._message(self.truth))

    def _message(self, currencies: Iterable[str]) -> str:
        now_ms = self.now_ms()
        rows = {
            each: {
                "currency": each,
                "amount": self.truth[each].total,
                "available": self.truth[each].available,
                "stake": self.truth[each].stake,
                "tradable": self.truth[each].tradable,
            }
            for each in currencies
        }
        at = datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        message = {
            "event": "ACCOUNT_BALANCE",
            "eventID": str(uuid.uuid4()),
            "timestamp": now_ms,
            "datetime": f"{at}.{now_ms % 1000:03}Z",
            "data": rows,
        }
        return json.dumps(message, separators=(",", ":"))


_STANDARD: Final = str.maketrans("-_", "+/")


def _error(status: int, text: str) -> Answer:
    return Answer(status, json.dumps({"error": text}).encode())
