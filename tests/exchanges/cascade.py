"""Cascade for tests: a wallet signature (EIP-191) buys a token, the token opens REST and the JSON-RPC stream.

Subscribing brings no snapshot: what is held now is asked for over REST. There is no sequence.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import time
import uuid
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from eth_account import Account
from eth_account.messages import encode_defunct

from tests.exchanges.exchange import Exchange
from tests.exchanges.served import Answer, Asked, Message, Served

AUTH: Final = "/auth"
BALANCE: Final = "/account/balance"
STREAM: Final = "/ws"


@dataclass(frozen=True)
class Holding:
    """What a subaccount holds: an exact decimal string, and when it came to be so (ms)."""

    total: str
    updated_ms: int


@dataclass
class Session:
    """A WebSocket: who it is (empty: nobody yet), and the subscriptions, each a set of indices (empty: all)."""

    served: Served
    account: str
    subscriptions: list[frozenset[int]]

    def wants(self, index: int) -> bool:
        return any(not each or index in each for each in self.subscriptions)


class Cascade(Exchange):
    """The one account of a test. `truth` by subaccount index; `tokens` by what was issued.

    `logins_*` count tokens given, and requests to /auth refused; `auths_*` count the `auth` method of the stream.
    """

    LOGIN: ClassVar[str] = AUTH

    def __init__(
        self,
        account: str,
        *,
        delegates: tuple[str, ...] = (),
        token_life_s: float = 3600.0,
        message_is_object: bool = False,
        tls: ssl.SSLContext | None = None,
        ping_every_s: float | None = None,
        deflate: bool = False,
    ) -> None:
        super().__init__(tls=tls, ping_every_s=ping_every_s, deflate=deflate)
        self.account = account
        self.delegates = delegates
        self.token_life_s = token_life_s
        self.message_is_object = message_is_object
        """Whether `message` of the login is an object; it is to be handed back as it came."""
        self.truth: dict[int, Holding] = {}
        self.tokens: list[str] = []
        self.revoked: set[str] = set()
        self.auths_accepted = 0
        self.auths_refused = 0
        self.errors_sent: list[str] = []
        self._sessions: dict[int, Session] = {}
        self._challenges: dict[str, str] = {}
        self._key: Final = uuid.uuid4().bytes

    def set(self, index: int, total: str, *, updated_ms: int | None = None, push: bool = True) -> None:
        """What a subaccount holds from now on; pushed unless told otherwise."""
        with self.lock:
            self.truth[index] = Holding(total, self.now_ms() if updated_ms is None else updated_ms)
            message = json.dumps({"type": "Balance Update", "data": self._row(index)})
            for each in self.live if push else ():
                if self._session(each).wants(index):
                    each.send(message)

    def revoke(self) -> None:
        """No token issued so far is good any more; streams that were opened with one live on."""
        with self.lock:
            self.revoked.update(self.tokens)

    def subscribed(self) -> list[Served]:
        """The live connections with a subscription."""
        with self.lock:
            return [each for each in self.live if self._session(each).subscriptions]

    # Login -----------------------------------------------------------------------------------------------------------

    def welcome(self, asked: Asked) -> Answer | None:
        return None if asked.path == STREAM else Answer(404)

    def answer(self, asked: Asked) -> Answer:
        if (asked.method, asked.path) == ("GET", AUTH):
            return self._challenge(asked)
        if (asked.method, asked.path) == ("POST", AUTH):
            return self._token(asked)
        if (asked.method, asked.path) == ("GET", BALANCE):
            return self._balance(asked)
        return Answer(404)

    def count(self, asked: Asked, accepted: bool) -> None:
        if asked.method == "POST" or not accepted:
            super().count(asked, accepted)

    def _challenge(self, asked: Asked) -> Answer:
        account = asked.query.get("account", "")
        if not account:
            return _plain(400, "Missing account")
        nonce = uuid.uuid4().hex
        said = {"account": account, "nonce": nonce, "issuedAt": self.now_ms()}
        message = said if self.message_is_object else json.dumps(said)
        payload = f"Sign in to Cascade\nAccount: {account}\nNonce: {nonce}"
        self._challenges[self._seal(message)] = payload
        body = {"message": message, "signing_payload": payload, "server_signature": self._seal(message)}
        return Answer(200, json.dumps(body).encode())

    def _token(self, asked: Asked) -> Answer:
        try:
            said = json.loads(asked.body)
            message, signature, seal = said["message"], said["signature"], said["server_signature"]
        except (ValueError, KeyError, TypeError):
            return _plain(400, "Invalid request")
        payload = self._challenges.pop(str(seal), None) if seal == self._seal(message) else None
        if payload is None:
            return _plain(401, "Invalid server signature")
        try:
            signer = str(Account.recover_message(encode_defunct(text=payload), signature=signature))
        except Exception:  # whatever it is that cannot be recovered from nonsense
            return _plain(401, "Invalid signature")
        account = (message if isinstance(message, dict) else json.loads(message))["account"]
        allowed = {each.lower() for each in (self.account, *self.delegates)}
        if signer.lower() not in allowed or account.lower() != self.account.lower():
            return _plain(401, "Invalid signature")
        claims = {"account": account, "signer": signer, "exp": self.now_ms() / 1000 + self.token_life_s}
        claims["exp"] = int(claims["exp"])
        token = self._jwt({**claims, "jti": uuid.uuid4().hex})
        self.tokens.append(token)
        return Answer(200, json.dumps({"token": token, "claims": claims}).encode())

    def _seal(self, message: object) -> str:
        return hmac.new(self._key, json.dumps(message, sort_keys=True).encode(), hashlib.sha256).hexdigest()

    def _jwt(self, claims: dict[str, Any]) -> str:
        head = _web64(json.dumps({"alg": "HS512", "typ": "JWT"}).encode())
        text = f"{head}.{_web64(json.dumps(claims).encode())}"
        return f"{text}.{_web64(hmac.digest(self._key, text.encode(), hashlib.sha512))}"

    def _claims(self, token: str) -> dict[str, Any] | None:
        """The claims of a token that is good now."""
        if token not in self.tokens or token in self.revoked:
            return None
        part = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return claims if claims["exp"] > time.time() + self.skew_ms / 1000 else None

    # REST ------------------------------------------------------------------------------------------------------------

    def _balance(self, asked: Asked) -> Answer:
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            return _plain(401, "Please add the JWT token to the header")
        if self._claims(token) is None:
            return _plain(401, "Invalid token")
        account, index = asked.query.get("account", ""), asked.query.get("subaccountIndex", "")
        if account.lower() != self.account.lower():
            return _plain(403, f"Unauthorized to query account {account}")
        if not index.isdigit():
            return _plain(400, "Invalid subaccountIndex")
        if int(index) not in self.truth:
            return _plain(404, "Subaccount not found")
        return Answer(200, json.dumps(self._row(int(index))).encode())

    def _row(self, index: int) -> dict[str, Any]:
        held = self.truth[index]
        return {
            "account": self.account.lower(),
            "subaccountIndex": index,
            "balance": held.total,
            "updatedAt": held.updated_ms,
        }

    # The stream ------------------------------------------------------------------------------------------------------

    def heard(self, served: Served, message: Message) -> None:
        begun = self.now_ms()
        try:
            said = json.loads(message)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self._reply(served, None, begun, error=(-32700, "Parse error"))
            return
        session, params = self._session(served), said.get("params")
        outcome: str | tuple[int, str]
        if said.get("jsonrpc") != "2.0" or not isinstance(params, dict):
            outcome = (-32600, "Invalid request")
        elif said.get("method") == "auth":
            outcome = self._auth(session, params)
        elif said.get("method") in ("subscribe", "unsubscribe"):
            outcome = self._subscription(session, str(said["method"]), params)
        else:
            outcome = (-32601, "Method not found")
        if isinstance(outcome, str):
            self._reply(served, said.get("id"), begun, result=outcome)
        else:
            self._reply(served, said.get("id"), begun, error=outcome)

    def _auth(self, session: Session, params: dict[str, Any]) -> str | tuple[int, str]:
        claims = self._claims(str(params.get("bearer")))
        if claims is None:
            self.auths_refused += 1
            return (-32000, "Invalid token")
        self.auths_accepted += 1
        session.account = claims["signer"]
        return "Authenticated successfully"

    def _subscription(self, session: Session, method: str, params: dict[str, Any]) -> str | tuple[int, str]:
        if not session.account:
            return (-32000, "Authentication required")
        indices, account = params.get("subaccountIndices"), str(params.get("account"))
        if (
            params.get("source") != "balance"
            or not isinstance(indices, list)
            or any(type(each) is not int for each in indices)
        ):
            return (-32602, "Invalid subscription params")
        if account.lower() != self.account.lower():
            return (-32602, "Delegation not allowed for request")
        wanted = frozenset[int](indices)
        if not wanted and session.account.lower() != account.lower():
            return (-32602, "Delegation not allowed for request")
        if method == "subscribe":
            if wanted in session.subscriptions:
                return (-32602, "already subscribed")
            session.subscriptions.append(wanted)
            return "Subscribed to trades"
        if wanted not in session.subscriptions:
            return (-32602, "Not subscribed")
        session.subscriptions.remove(wanted)
        return "Unsubscribed from channel"

    def _session(self, served: Served) -> Session:
        return self._sessions.setdefault(id(served), Session(served, "", []))

    def _reply(
        self,
        served: Served,
        request_id: object,
        begun: int,
        *,
        result: str | None = None,
        error: tuple[int, str] | None = None,
    ) -> None:
        ended = self.now_ms()
        said: dict[str, Any] = {"jsonrpc": "2.0"}
        if error is None:
            said["result"] = {"message": result}
        else:
            self.errors_sent.append(error[1])
            said["error"] = {"code": error[0], "message": error[1]}
        said |= {"usIn": begun, "usOut": ended, "usDiff": ended - begun, "id": request_id}
        served.send(json.dumps(said))


def _web64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _plain(status: int, text: str) -> Answer:
    """Errors are bare JSON strings, served as plain text."""
    return Answer(status, json.dumps(text).encode(), {"Content-Type": "text/plain"})
