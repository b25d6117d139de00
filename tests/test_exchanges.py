"""The test exchanges: each takes a login made by hand and refuses a wrong one, and each knob does what it says."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import http.client
import json
import select
import socket
import ssl
import struct
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import trustme
from eth_account import Account
from eth_account.messages import encode_defunct
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.blast import secured
from tests.exchanges import BitoPro, Cascade, DeltaDefi, Exchange, KrakenPrime, Pacifica

WALLET: Final = Account.from_key(hashlib.sha256(b"the owner of a test").digest())
STRANGER: Final = Account.from_key(hashlib.sha256(b"a stranger of a test").digest())


def get(
    exchange: Exchange, target: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, Any, dict[str, str]]:
    return fetch(exchange, "GET", target, headers, body)


def fetch(
    exchange: Exchange,
    method: str,
    target: str,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, Any, dict[str, str]]:
    client = http.client.HTTPConnection("127.0.0.1", exchange.port, timeout=5)
    try:
        client.request(method, target, body, headers or {})
        answer = client.getresponse()
        said = answer.read()
        try:
            parsed = json.loads(said)
        except ValueError:
            parsed = said
        return answer.status, parsed, {name.lower(): value for name, value in answer.getheaders()}
    finally:
        client.close()


def dial(exchange: Exchange, target: str, headers: dict[str, str] | None = None) -> ClientConnection:
    return connect(
        exchange.ws + target,
        additional_headers=headers,
        proxy=None,
        compression=None,
        open_timeout=5,
        close_timeout=1,
        ping_interval=None,
        legacy=True,
    )


def refused(exchange: Exchange, target: str, headers: dict[str, str] | None = None) -> int:
    with pytest.raises(InvalidStatus) as caught:
        dial(exchange, target, headers)
    return caught.value.response.status_code


def heard(client: ClientConnection) -> Any:
    return json.loads(client.recv(timeout=5))


# DeltaDeFi ---------------------------------------------------------------------------------------------------------

DELTADEFI: Final = "/accounts/stream?api_key=test-deltadefi-key"


def test_deltadefi_takes_its_key_and_pushes_what_is_set() -> None:
    with DeltaDefi() as exchange, dial(exchange, DELTADEFI) as client:
        exchange.until(lambda: len(exchange.live) == 1)
        exchange.set("ada", "12.5", "10.25", unit="lovelace")
        assert heard(client) == {
            "type": "Account",
            "sub_type": "balance",
            "balance": [{"asset": "ada", "asset_unit": "lovelace", "free": "10.25", "locked": "2.25"}],
        }
        assert (exchange.logins_accepted, exchange.logins_refused) == (1, 0)


def test_deltadefi_refuses_a_wrong_key_on_the_stream_and_over_rest() -> None:
    with DeltaDefi() as exchange:
        assert refused(exchange, "/accounts/stream?api_key=wrong") == 403
        assert refused(exchange, "/accounts/stream") == 403
        assert refused(exchange, "/accounts/other?api_key=test-deltadefi-key") == 404
        assert get(exchange, "/accounts/balance", {"X-API-KEY": "wrong"})[0] == 401
        assert get(exchange, "/accounts/balance")[0] == 401
        assert exchange.logins_refused == 2
        assert [each.status for each in exchange.requests] == [403, 403, 404, 401, 401]


def test_deltadefi_tells_the_balances_over_rest() -> None:
    with DeltaDefi(numbers=True) as exchange:
        exchange.set("usdm", "1153.006812", "1153.006812")
        exchange.set("ada", "0")
        status, rows, _ = get(exchange, "/accounts/balance", {"X-API-KEY": exchange.api_key})
        assert status == 200
        assert [row["asset"] for row in rows] == ["usdm", "ada"]
        assert rows[0]["free"] == 1153.006812


@pytest.mark.parametrize("generation", [1, 2])
def test_deltadefi_pushes_fills_one_after_the_other(generation: int) -> None:
    with DeltaDefi() as exchange, dial(exchange, DELTADEFI) as client:
        exchange.until(lambda: len(exchange.live) == 1)
        ids = exchange.push_fills(3, generation=generation)
        messages = [heard(client) for _ in range(3)]
        assert len(set(ids)) == 3
        if generation == 2:
            assert [len(each["order"]["order_execution_records"]) for each in messages] == [1, 2, 3]
            assert messages[-1]["order"]["status"] == "closed"
        else:
            assert [len(each["data"][0]["orders"][0]["fills"]) for each in messages] == [1, 2, 3]


# BitoPro -----------------------------------------------------------------------------------------------------------

BITOPRO: Final = "/ws/v1/pub/auth/account-balance"


def bitopro_headers(
    nonce: object, identity: str = "someone@example.org", secret: str = "test-bitopro-secret"
) -> dict[str, str]:
    payload = base64.b64encode(json.dumps({"identity": identity, "nonce": nonce}).encode()).decode()
    return {
        "X-BITOPRO-APIKEY": "test-bitopro-key",
        "X-BITOPRO-PAYLOAD": payload,
        "X-BITOPRO-SIGNATURE": hmac.new(secret.encode(), payload.encode(), hashlib.sha384).hexdigest(),
    }


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_bitopro_sends_every_currency_first_and_then_what_changed() -> None:
    with BitoPro() as exchange:
        exchange.set("BTC", "999999999999.99999999", "0.5")
        exchange.set("TWD", "0", tradable=False)
        with dial(exchange, BITOPRO, bitopro_headers(now_ms())) as client:
            first = heard(client)
            assert first["event"] == "ACCOUNT_BALANCE"
            assert first["data"].keys() == {"BTC", "TWD"}
            assert first["data"]["BTC"] == {
                "currency": "BTC",
                "amount": "999999999999.99999999",
                "available": "0.5",
                "stake": "0",
                "tradable": True,
            }
            exchange.set("TWD", "7")
            assert heard(client)["data"].keys() == {"TWD"}


def test_bitopro_verifies_the_signature_of_the_documentation() -> None:
    """The vendor's own vector: who signed it is let through to the nonce, which is years old."""
    payload = "eyJpZGVudGl0eSI6ImhjbWxpbmpAZ21haWwuY29tIiwibm9uY2UiOjE1NTQzODA5MDkxMzF9"
    signature = (
        "01a85a9083db47c20da7196380598f3feacd3c76a9077aaf7ffaf08ce0091abf65b61778792607b010921adfe1c2941a"
    )
    headers = {
        "X-BITOPRO-APIKEY": "k",
        "X-BITOPRO-PAYLOAD": payload,
        "X-BITOPRO-SIGNATURE": signature,
    }
    with BitoPro("k", "bitopro", "hcmlinj@gmail.com") as exchange:
        assert refused(exchange, BITOPRO, headers) == 409
        assert refused(exchange, BITOPRO, {**headers, "X-BITOPRO-SIGNATURE": signature.upper()}) == 401


def test_bitopro_refuses_a_wrong_signature_key_or_identity_by_401() -> None:
    with BitoPro() as exchange:
        wrong = [
            bitopro_headers(now_ms(), secret="test-wrong"),
            bitopro_headers(now_ms(), identity="else@example.org"),
            {**bitopro_headers(now_ms()), "X-BITOPRO-APIKEY": "wrong"},
            bitopro_headers(str(now_ms())),
            bitopro_headers(now_ms() + 0.5),
            {},
        ]
        assert [refused(exchange, BITOPRO, headers) for headers in wrong] == [401] * 6
        assert (exchange.logins_accepted, exchange.logins_refused) == (0, 6)


def test_bitopro_refuses_a_nonce_that_does_not_rise_or_is_of_another_time_by_409() -> None:
    with BitoPro() as exchange:
        nonce = now_ms()
        dial(exchange, BITOPRO, bitopro_headers(nonce)).close()
        assert refused(exchange, BITOPRO, bitopro_headers(nonce)) == 409
        assert refused(exchange, BITOPRO, bitopro_headers(nonce - 1)) == 409
        assert refused(exchange, BITOPRO, bitopro_headers(nonce + 61_000)) == 409
        dial(exchange, BITOPRO, bitopro_headers(nonce + 1)).close()
        assert exchange.nonces == [nonce, nonce + 1]


def test_bitopro_pings_and_drops_who_does_not_answer() -> None:
    with BitoPro(ping_every_s=0.05, pong_within_s=0.5) as exchange:
        with dial(exchange, BITOPRO, bitopro_headers(now_ms())):
            exchange.until(lambda: len(exchange.connections[0].pongs) >= 2)
        raw = upgraded(exchange, BITOPRO, bitopro_headers(now_ms() + 1))
        with raw:
            exchange.until(lambda: len(exchange.connections) == 2 and not exchange.connections[1].open)


# Kraken Prime ------------------------------------------------------------------------------------------------------

KRAKEN: Final = "/ws/v1"


def kraken_headers(
    exchange: KrakenPrime, *, at: str = "", host: str = "127.0.0.1", standard: bool = False
) -> dict[str, str]:
    at = at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    digest = hmac.digest(exchange.secret.encode(), f"GET\n{at}\n{host}\n{KRAKEN}".encode(), "sha256")
    encode = base64.b64encode if standard else base64.urlsafe_b64encode
    return {"ApiKey": exchange.key, "ApiSign": encode(digest).decode(), "ApiTimestamp": at}


def kraken(exchange: KrakenPrime) -> ClientConnection:
    client = dial(exchange, KRAKEN, kraken_headers(exchange))
    assert heard(client)["type"] == "hello"
    return client


def subscribe(client: ClientConnection, reqid: int, **more: object) -> None:
    request = {"reqid": reqid, "type": "subscribe", "streams": [{"name": "Balance", **more}]}
    client.send(json.dumps(request))


def test_kraken_prime_says_hello_with_a_session_of_its_own() -> None:
    with KrakenPrime() as exchange:
        for _ in range(2):
            with dial(exchange, KRAKEN, kraken_headers(exchange)) as client:
                hello = heard(client)
                assert hello.keys() == {"type", "ts", "session_id"}
                assert hello["session_id"] == exchange.sessions[-1]
        assert len(set(exchange.sessions)) == 2


def test_kraken_prime_refuses_a_wrong_signature_key_or_time() -> None:
    with KrakenPrime() as exchange:
        good = kraken_headers(exchange)
        wrong = [
            {**good, "ApiKey": "wrong"},
            {**good, "ApiSign": base64.urlsafe_b64encode(b"x" * 32).decode()},
            kraken_headers(exchange, host=f"127.0.0.1:{exchange.port}"),
            kraken_headers(exchange, at="2020-01-01T00:00:00.000000Z"),
            kraken_headers(exchange, at="now"),
            {},
        ]
        assert [refused(exchange, KRAKEN, headers) for headers in wrong] == [401] * 6


def test_kraken_prime_takes_the_url_safe_alphabet_only() -> None:
    """Each time in this minute signs differently: one whose signature shows the difference is soon found."""
    with KrakenPrime() as exchange:
        second = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        times = [f"{second}.{micro:06}Z" for micro in range(40)]
        telling = next(at for at in times if {"-", "_"} & set(kraken_headers(exchange, at=at)["ApiSign"]))
        dial(exchange, KRAKEN, kraken_headers(exchange, at=telling)).close()
        assert refused(exchange, KRAKEN, kraken_headers(exchange, at=telling, standard=True)) == 401


def test_kraken_prime_pages_the_initial_rows_and_counts_every_message() -> None:
    with KrakenPrime(page_size=2) as exchange:
        for currency in ("USD", "BTC", "ETH"):
            exchange.set(currency, "-1928479.77953598", "0")
        with kraken(exchange) as client:
            subscribe(client, 11)
            first = heard(client)
            assert (first["reqid"], first["seqNum"], first["initial"]) == (11, 1, True)
            assert [row["Currency"] for row in first["data"]] == ["BTC", "ETH"]
            page = {"name": "Balance", "after": first["next"]}
            client.send(json.dumps({"reqid": 11, "type": "page", "data": [page]}))
            second = heard(client)
            assert (second["seqNum"], "next" in second) == (2, False)
            assert [row["Currency"] for row in second["data"]] == ["USD"]
            exchange.set("USD", "5", "4")
            update = heard(client)
            assert (update["seqNum"], update["action"], "initial" in update) == (3, "Update", False)
            assert update["data"] == [{"Currency": "USD", "Amount": "5", "AvailableAmount": "4"}]
            exchange.remove("ETH")
            assert heard(client)["action"] == "Remove"


def test_kraken_prime_skips_a_number_and_calls_it_otherwise_when_told_to() -> None:
    with KrakenPrime() as exchange, kraken(exchange) as client:
        subscribe(client, 1)
        assert heard(client)["data"] == []
        exchange.skip()
        exchange.set("BTC", "1")
        exchange.set("BTC", "2")
        assert heard(client)["seqNum"] == 3
        exchange.seq_key = "seq"
        exchange.set("BTC", "3")
        assert heard(client)["seq"] == 4
        exchange.send_error(42, "trouble")
        assert heard(client)["error"] == {"code": 42, "msg": "trouble"}


def test_kraken_prime_refuses_a_reqid_that_is_zero_or_was_used_even_before_a_reconnect() -> None:
    with KrakenPrime() as exchange:
        with kraken(exchange) as client:
            subscribe(client, 7)
            assert heard(client)["type"] == "Balance"
            subscribe(client, 7)
            assert heard(client)["type"] == "error"
            subscribe(client, 0)
            assert heard(client)["error"]["msg"] == "missing reqid"
        with kraken(exchange) as client:
            subscribe(client, 7)
            assert heard(client)["error"]["msg"] == "reqid was used before"
            subscribe(client, 8, EquivalentCurrency="USD")
            assert heard(client)["type"] == "error"


def test_kraken_prime_stops_a_cancelled_stream_and_answers_a_ping_with_data() -> None:
    with KrakenPrime() as exchange, kraken(exchange) as client:
        subscribe(client, 1, Currencies=["BTC"])
        heard(client)
        exchange.set("ETH", "1")
        exchange.set("BTC", "1")
        assert heard(client)["data"][0]["Currency"] == "BTC"
        client.send('{"reqid":1,"type":"cancel"}')
        exchange.until(lambda: not exchange.subscriptions)
        exchange.set("BTC", "2")
        client.send('{"reqid":2,"type":"ping"}')
        assert heard(client)["error"]["msg"] == "missing Ping data"
        client.send('{"reqid":3,"type":"ping","data":[{}]}')
        assert heard(client)["type"] == "Pong"


# Cascade -----------------------------------------------------------------------------------------------------------


def cascade() -> Cascade:
    return Cascade(WALLET.address)


def token(exchange: Cascade, signer: Any = WALLET) -> tuple[int, Any]:
    _, asked, _ = get(exchange, f"/auth?account={exchange.account}")
    signed = signer.sign_message(encode_defunct(text=asked["signing_payload"]))
    body = {
        "message": asked["message"],
        "signature": "0x" + bytes(signed.signature).hex(),
        "server_signature": asked["server_signature"],
    }
    status, said, _ = fetch(exchange, "POST", "/auth", None, json.dumps(body).encode())
    return status, said


def call(client: ClientConnection, method: str, **params: object) -> Any:
    client.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 7}))
    return heard(client)


def test_cascade_gives_a_token_for_a_signature_of_the_owner() -> None:
    with cascade() as exchange:
        status, said = token(exchange)
        assert status == 200
        parts = said["token"].split(".")
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        assert len(parts) == 3
        assert claims["exp"] == said["claims"]["exp"]
        assert exchange.logins_accepted == 1


def test_cascade_refuses_a_stranger_a_second_use_and_nonsense() -> None:
    with cascade() as exchange:
        assert token(exchange, STRANGER)[0] == 401
        _, asked, _ = get(exchange, f"/auth?account={exchange.account}")
        asked["signature"] = "0x00"
        body = json.dumps(asked).encode()
        assert [fetch(exchange, "POST", "/auth", None, body)[0] for _ in range(2)] == [401, 401]
        assert fetch(exchange, "POST", "/auth", None, b"{}")[0] == 400
        assert get(exchange, "/auth")[0] == 400
        assert exchange.logins_accepted == 0


def test_cascade_tells_a_balance_to_the_bearer_only() -> None:
    with cascade() as exchange:
        exchange.set(0, "1000.500000", updated_ms=5)
        target = f"/account/balance?account={exchange.account}&subaccountIndex=0"
        bearer = {"Authorization": f"Bearer {token(exchange)[1]['token']}"}
        assert get(exchange, target, bearer)[:2] == (
            200,
            {
                "account": WALLET.address.lower(),
                "subaccountIndex": 0,
                "balance": "1000.500000",
                "updatedAt": 5,
            },
        )
        assert get(exchange, target)[:2] == (401, "Please add the JWT token to the header")
        assert get(exchange, target, {"Authorization": "Bearer x.y.z"})[0] == 401
        other = f"/account/balance?account={STRANGER.address}&subaccountIndex=0"
        assert get(exchange, other, bearer)[0] == 403
        exchange.revoke()
        assert get(exchange, target, bearer)[0] == 401


def test_cascade_lets_a_token_run_out() -> None:
    with Cascade(WALLET.address, token_life_s=-1) as exchange, dial(exchange, "/ws") as client:
        assert "error" in call(client, "auth", bearer=token(exchange)[1]["token"])
        assert (exchange.auths_accepted, exchange.auths_refused) == (0, 1)


def test_cascade_subscribes_who_is_authenticated_without_a_snapshot() -> None:
    with cascade() as exchange, dial(exchange, "/ws") as client:
        exchange.set(0, "1")
        balance: dict[str, Any] = {
            "source": "balance",
            "account": exchange.account,
            "subaccountIndices": [],
        }
        assert "error" in call(client, "subscribe", **balance)
        assert "error" in call(client, "auth", bearer="wrong")
        assert (
            call(client, "auth", bearer=token(exchange)[1]["token"])["result"]["message"]
            == "Authenticated successfully"
        )
        assert call(client, "subscribe", **balance)["id"] == 7
        assert call(client, "subscribe", **balance)["error"]["message"] == "already subscribed"
        assert call(client, "subscribe", **{**balance, "source": "other"})["error"]["code"] == -32602
        exchange.set(1, "2.5", updated_ms=9)
        pushed = heard(client)
        assert (pushed["type"], pushed["data"]["subaccountIndex"]) == ("Balance Update", 1)
        assert "error" in call(client, "unsubscribe", **{**balance, "subaccountIndices": [1]})
        assert "result" in call(client, "unsubscribe", **balance)
        assert not exchange.subscribed()


def test_cascade_lets_a_delegate_have_named_subaccounts_only() -> None:
    with Cascade(WALLET.address, delegates=(STRANGER.address,)) as exchange, dial(exchange, "/ws") as client:
        call(client, "auth", bearer=token(exchange, STRANGER)[1]["token"])
        balance: dict[str, Any] = {"source": "balance", "account": exchange.account}
        assert "error" in call(client, "subscribe", **balance, subaccountIndices=[])
        assert "result" in call(client, "subscribe", **balance, subaccountIndices=[0])
        exchange.set(1, "1")
        exchange.set(0, "2")
        assert heard(client)["data"]["subaccountIndex"] == 0


# Pacifica ----------------------------------------------------------------------------------------------------------


def history(exchange: Pacifica, more: str = "", headers: dict[str, str] | None = None) -> tuple[int, Any]:
    target = f"/api/v1/account/balance/history?account={exchange.account}{more}"
    status, said, _ = get(exchange, target, headers)
    return status, said


def test_pacifica_pages_the_history_newest_first_while_rows_are_added() -> None:
    with Pacifica(budget=1000) as exchange:
        for number in range(5):
            exchange.add_row(f"{number}.5", "deposit")
        exchange.between_pages = lambda: exchange.add_row("1")
        amounts: list[str] = []
        more = ""
        while True:
            status, said = history(exchange, f"&limit=2{more}")
            assert (status, said["success"]) == (200, True)
            amounts += [row["amount"] for row in said["data"]]
            if not said["has_more"]:
                break
            more = f"&cursor={said['next_cursor']}"
        assert amounts == ["4.5", "3.5", "2.5", "1.5", "0.5"]
        assert len(exchange.rows) == 7
        assert said["next_cursor"] == ""
        assert exchange.rows[-1].balance == "14.5"


def test_pacifica_is_spent_after_its_budget_and_fresh_after_its_window() -> None:
    with Pacifica(budget=24, cost=12, window_s=0.3, api_key="test-key", keyed_budget=36) as exchange:
        target = f"/api/v1/account/balance/history?account={exchange.account}"
        assert [get(exchange, target)[0] for _ in range(2)] == [200, 200]
        status, said, headers = get(exchange, target)
        assert (status, said["success"]) == (429, False)
        assert (headers["retry-after"], headers["ratelimit"]) == ("1", '"credits";r=0;t=1')
        keyed = {"PF-API-KEY": "test-key"}
        assert [get(exchange, target, keyed)[0] for _ in range(4)] == [200, 200, 200, 429]
        time.sleep(0.35)
        assert get(exchange, target)[0] == 200
        assert exchange.too_many == 2


def test_pacifica_refuses_a_body_and_what_it_does_not_know() -> None:
    with Pacifica(budget=1000, api_key="test-key") as exchange:
        target = f"/api/v1/account/balance/history?account={exchange.account}"
        assert get(exchange, target, {"Content-Type": "application/json"})[0] == 403
        assert get(exchange, target, None, b"{}")[0] == 403
        assert get(exchange, target, {"PF-API-KEY": "wrong"})[0] == 401
        assert history(exchange, "&cursor=1115hVka")[0] == 400
        assert history(exchange, "&limit=x")[0] == 400
        assert get(exchange, "/api/v1/account/balance/history")[1]["success"] is False
        assert get(exchange, "/api/v1/account/balance/history?account=other")[1]["data"] == []


def test_pacifica_tells_the_balance_of_the_account_where_it_knows_it() -> None:
    with Pacifica(budget=1000) as exchange:
        row = exchange.add_row("2.50", "deposit", pending="7")
        target = f"/api/v1/account?account={exchange.account}"
        status, said, _ = get(exchange, target)
        assert (200, True) == (status, said["success"])
        told = said["data"]
        assert ("2.50", "7", row.created_at) == (
            told["balance"],
            told["pending_balance"],
            told["updated_at"],
        )
        exchange.account_balance = "3"
        assert "3" == get(exchange, target)[1]["data"]["balance"]
        assert 404 == get(exchange, "/api/v1/account?account=other")[0]
        exchange.tells_account = False
        assert 404 == get(exchange, target)[0]


# What they share ---------------------------------------------------------------------------------------------------


def upgraded(exchange: Exchange, target: str, headers: dict[str, str] | None = None) -> socket.socket:
    """A WebSocket that does nothing by itself."""
    raw = socket.create_connection(("127.0.0.1", exchange.port), timeout=5)
    head = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        **(headers or {}),
    }
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    raw.sendall("\r\n".join(lines).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += raw.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return raw


def test_the_next_logins_are_refused_as_told_and_then_no_more() -> None:
    with DeltaDefi() as exchange:
        exchange.refuse(2, 503, retry_after=7)
        with pytest.raises(InvalidStatus) as caught:
            dial(exchange, DELTADEFI)
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"] == "7"
        assert refused(exchange, DELTADEFI) == 503
        dial(exchange, DELTADEFI).close()
        exchange.refuse(1, 429, retry_after=1, path="/accounts/balance")
        status, _, headers = get(exchange, "/accounts/balance", {"X-API-KEY": exchange.api_key})
        assert (status, headers["retry-after"]) == (429, "1")
        assert (exchange.logins_accepted, exchange.logins_refused) == (1, 2)


def test_all_are_closed_with_a_code_and_the_answer_is_noted() -> None:
    with DeltaDefi() as exchange:
        clients = [dial(exchange, DELTADEFI) for _ in range(3)]
        exchange.until(lambda: len(exchange.live) == 3)
        exchange.close_all(4001, "bye")
        for client in clients:
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=5)
            assert caught.value.rcvd
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "bye")
        exchange.until(lambda: not exchange.live)
        assert [each.closed and each.closed[0] for each in exchange.connections] == [4001] * 3


def test_a_close_that_keeps_tcp_open_keeps_it_open() -> None:
    with DeltaDefi() as exchange, upgraded(exchange, DELTADEFI) as raw:
        exchange.until(lambda: len(exchange.live) == 1)
        exchange.close_all(1001, keep_tcp=True)
        assert raw.recv(100)[0] == 0x88
        raw.settimeout(0.2)
        with pytest.raises(TimeoutError):
            raw.recv(1)


@pytest.mark.parametrize("client_end", ["reset", "fin"])
def test_a_reset_is_a_reset_and_a_fin_is_an_end_of_file(client_end: str) -> None:
    with DeltaDefi() as exchange, upgraded(exchange, DELTADEFI) as raw:
        exchange.until(lambda: len(exchange.live) == 1)
        if client_end == "reset":
            exchange.reset_all()
            with pytest.raises(ConnectionResetError):
                raw.recv(1)
        else:
            exchange.fin_all()
            assert raw.recv(1) == b""
        exchange.until(lambda: not exchange.live)


def test_a_silent_exchange_says_nothing_not_even_a_pong_and_resumes() -> None:
    with DeltaDefi() as exchange, dial(exchange, DELTADEFI) as client:
        exchange.until(lambda: len(exchange.live) == 1)
        exchange.go_silent()
        exchange.set("ada", "1")
        assert not client.ping().wait(0.1)
        exchange.until(lambda: exchange.live[0].pings_received == 1)
        exchange.resume()
        exchange.set("ada", "2")
        assert heard(client)["balance"][0]["free"] == "2"
        assert [json.loads(each)["balance"][0]["free"] for each in exchange.live[0].sent] == ["2"]


def test_an_exchange_that_reads_nothing_does_not_see_what_is_sent_until_it_resumes() -> None:
    with KrakenPrime() as exchange, kraken(exchange) as client:
        exchange.stop_reading()
        subscribe(client, 1)
        time.sleep(0.05)
        assert exchange.live[0].messages == []
        exchange.resume()
        assert heard(client)["type"] == "Balance"


def test_a_pong_is_timed_and_a_missing_one_noticed() -> None:
    with DeltaDefi() as exchange:
        with dial(exchange, DELTADEFI):
            exchange.until(lambda: len(exchange.live) == 1)
            assert 0 <= exchange.ping() < 2
        exchange.until(lambda: not exchange.live)
        with upgraded(exchange, DELTADEFI):
            exchange.until(lambda: len(exchange.live) == 1)
            with pytest.raises(TimeoutError):
                exchange.ping(0.1)


def test_any_frame_can_be_sent_and_bytes_that_are_none() -> None:
    with DeltaDefi() as exchange, dial(exchange, DELTADEFI) as client:
        exchange.until(lambda: len(exchange.live) == 1)
        exchange.send_all("ping", pieces=3)
        exchange.send_all(b"\x00\xff")
        exchange.send_all("")
        assert [client.recv(timeout=5) for _ in range(3)] == ["ping", b"\x00\xff", ""]
        exchange.send_raw_all(b"\xff" * 8)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)


def test_an_answer_is_held_back_while_pushes_go_on_and_says_what_was_true_when_asked() -> None:
    for stale, told in ((True, "1"), (False, "2")):
        with DeltaDefi() as exchange, dial(exchange, DELTADEFI) as client:
            exchange.set("ada", "1", push=False)
            hold = exchange.hold("/accounts/balance", stale=stale)
            asking = http.client.HTTPConnection("127.0.0.1", exchange.port, timeout=5)
            asking.request("GET", "/accounts/balance", headers={"X-API-KEY": exchange.api_key})
            assert hold.asked.wait(5)
            exchange.set("ada", "2")
            assert heard(client)["balance"][0]["free"] == "2"
            hold.release()
            assert json.loads(asking.getresponse().read())[0]["free"] == told
            asking.close()


def test_several_requests_go_over_one_connection() -> None:
    with DeltaDefi() as exchange:
        client = http.client.HTTPConnection("127.0.0.1", exchange.port, timeout=5)
        for _ in range(3):
            client.request("GET", "/accounts/balance", headers={"X-API-KEY": exchange.api_key})
            assert client.getresponse().read() == b"[]"
        client.close()
        assert len(exchange.requests) == 3


def test_a_client_that_does_not_read_stops_nobody() -> None:
    with DeltaDefi() as exchange:
        deaf = upgraded(exchange, DELTADEFI)
        with dial(exchange, DELTADEFI) as client:
            exchange.until(lambda: len(exchange.live) == 2)
            big = "x" * 1_000_000
            for _ in range(8):
                exchange.send_all(big)
                assert client.recv(timeout=5) == big
            exchange.connections[0].reset()
            exchange.until(lambda: len(exchange.live) == 1)
        deaf.close()


def test_ignored_messages_are_logged_and_nothing_comes_of_them() -> None:
    with KrakenPrime() as exchange, kraken(exchange) as client:
        exchange.ignoring = 1
        subscribe(client, 1)
        subscribe(client, 2)
        assert heard(client)["reqid"] == 2
        assert len(exchange.live[0].messages) == 2


MAKERS: Final[list[Callable[[ssl.SSLContext], tuple[Exchange, str]]]] = [
    lambda tls: (DeltaDefi(tls=tls), DELTADEFI),
    lambda tls: (Cascade(WALLET.address, tls=tls), "/ws"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_tls_is_spoken_to_who_trusts_us_and_not_to_others(
    make: Callable[[ssl.SSLContext], tuple[Exchange, str]],
) -> None:
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    theirs = ssl.create_default_context()
    authority.configure_trust(theirs)
    made, target = make(ours)
    with made as exchange:
        assert urlsplit(exchange.ws).scheme == "wss"
        with connect(exchange.ws + target, ssl=theirs, proxy=None, close_timeout=1) as client:
            exchange.until(lambda: len(exchange.live) == 1)
            exchange.send_all("y" * 300_000)
            assert client.recv(timeout=5) == "y" * 300_000
            assert exchange.ping() < 2
            exchange.reset_all()
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=5)
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(exchange.ws + target, proxy=None)
        mute = socket.create_connection(("127.0.0.1", exchange.port))
    mute.close()


def test_who_is_gone_before_tls_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with a reset
        select.select([accepted], [], [], 5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(ConnectionResetError):
                secured(accepted, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            gc.collect()
        assert not caught


def test_compression_is_spoken_when_switched_on() -> None:
    with DeltaDefi(deflate=True) as exchange, connect(exchange.ws + DELTADEFI, proxy=None) as client:
        exchange.until(lambda: len(exchange.live) == 1)
        exchange.send_all("z" * 10_000)
        assert client.recv(timeout=5) == "z" * 10_000
        assert "permessage-deflate" in str(client.response and client.response.headers)
