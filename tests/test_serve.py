"""A served tape, seen by raw clients: right and wrong credentials, and what comes, byte for byte."""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import hmac
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ledger import BadLogin, BadTape, LedgerError
from ledger import serve as serve_module
from ledger.counterparts import DEMO_LOGINS
from ledger.events import Asked
from ledger.feeds import read_feeds
from ledger.intake import Arrival
from ledger.serve import demo_environ, exchange, feed_text, serve_forever, serving
from ledger.venue import Secret
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from transports.tape import TapeWriter

OPENED_NS = 1_763_629_200_000_000_000  # 2025-11-20T09:00:00Z
SECOND = 1_000_000_000
CANARY = "canary-7f3a-never-shown"
WALLET = DEMO_LOGINS["cascade"]["address"]
PRIVATE_KEY = DEMO_LOGINS["cascade"]["private_key"]
PLAIN = [b'{"type":"Account"}', b"\xff no text", "é {}".encode(), b"", b'{"broken']


def tape_of(tmp_path: Path, venue: str, arrivals: Sequence[Arrival], account: str = "main") -> Path:
    path = tmp_path / f"{venue}.tape"
    path.unlink(missing_ok=True)
    writer = TapeWriter(path, venue=venue, account=account, session="s", opened_ns=OPENED_NS)
    writer.frames(arrivals)
    writer.close(OPENED_NS + SECOND)
    return path


def pushed(*payloads: bytes) -> list[Arrival]:
    return [(payload, OPENED_NS + number * SECOND // 10) for number, payload in enumerate(payloads)]


def answering(request: str, payload: bytes) -> Arrival:
    return payload, OPENED_NS, Asked(request, OPENED_NS)


def received(socket: ClientConnection, count: int) -> list[bytes]:
    """So many messages."""
    found = [socket.recv(timeout=5) for _ in range(count)]
    return [each.encode() if isinstance(each, str) else each for each in found]


def nothing_comes(socket: ClientConnection, for_s: float = 0.1) -> bool:
    try:
        socket.recv(timeout=for_s)
    except TimeoutError:
        return True
    return False


@contextmanager
def client(port: int, target: str, headers: Mapping[str, str] | None = None) -> Generator[ClientConnection]:
    with connect(
        f"ws://127.0.0.1:{port}{target}",
        additional_headers=headers,
        proxy=None,
        max_size=2**25,
        close_timeout=1,
    ) as found:
        yield found


def refused(port: int, target: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as caught, client(port, target, headers):
        pass
    return caught.value.response.status_code, bytes(caught.value.response.body or b"")


def get(
    port: int, target: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: Any = None
) -> tuple[int, bytes]:
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asking.request(method, target, None if body is None else json.dumps(body), dict(headers or {}))
        answer = asking.getresponse()
        return answer.status, answer.read()
    finally:
        asking.close()


# DeltaDeFi


def test_deltadefi_is_served_to_who_has_the_key(tmp_path: Path) -> None:
    balance = "GET /accounts/balance"
    arrivals = [*pushed(*PLAIN), answering(balance, b"first"), answering(balance, b"second")]
    with serving(exchange(tape_of(tmp_path, "deltadefi", arrivals))) as port:
        with client(port, "/accounts/stream?api_key=demo-key") as socket:
            assert PLAIN == received(socket, len(PLAIN))
            assert nothing_comes(socket)
            assert socket.ping().wait(5)
        key = {"X-API-KEY": "demo-key"}
        assert [(200, b"first"), (200, b"second"), (200, b"second")] == [
            get(port, "/accounts/balance", key) for _ in range(3)
        ]
        with client(port, "/accounts/stream?api_key=demo-key") as socket:  # from the beginning again
            assert PLAIN == received(socket, len(PLAIN))
            assert (200, b"first") == get(port, "/accounts/balance", key)
        for target in ("/accounts/stream", "/accounts/stream?api_key=", "/accounts/stream?api_key=other"):
            assert 403 == refused(port, target)[0]
        assert 404 == refused(port, "/other?api_key=demo-key")[0]
        assert 401 == get(port, "/accounts/balance")[0]
        assert 401 == get(port, "/accounts/balance", {"X-API-KEY": "demo-key2"})[0]
        status, body = get(port, "/accounts/other", key)
        assert (404, 4200) == (status, json.loads(body)["code"])


def test_the_credentials_of_a_login_take_the_place_of_those_of_the_demo(tmp_path: Path) -> None:
    path = tape_of(tmp_path, "deltadefi", pushed(b"x"))
    with serving(exchange(path, deltadefi.Login(key=Secret("mine")))) as port:
        assert 403 == refused(port, "/accounts/stream?api_key=demo-key")[0]
        with client(port, "/accounts/stream?api_key=mine") as socket:
            assert [b"x"] == received(socket, 1)


# BitoPro


def bitopro_headers(
    nonce: Any, key: str = "demo-key", secret: str = "demo-secret", identity: str = "demo@example.com"
) -> dict[str, str]:
    payload = base64.b64encode(json.dumps({"identity": identity, "nonce": nonce}).encode()).decode()
    digest = hmac.new(secret.encode(), payload.encode(), "sha384").hexdigest()
    return {"X-BITOPRO-APIKEY": key, "X-BITOPRO-PAYLOAD": payload, "X-BITOPRO-SIGNATURE": digest}


def test_bitopro_is_served_to_who_signs_with_a_new_nonce(tmp_path: Path) -> None:
    stream = "/ws/v1/pub/auth/account-balance"
    with serving(exchange(tape_of(tmp_path, "bitopro", pushed(*PLAIN)))) as port:
        with client(port, stream, bitopro_headers(5)) as socket:
            assert PLAIN == received(socket, len(PLAIN))
        for nonce in (5, 4, 5):
            assert 409 == refused(port, stream, bitopro_headers(nonce))[0]
        for wrong in (
            {},
            bitopro_headers(6, key="other"),
            bitopro_headers(6, secret="other"),
            bitopro_headers(6, identity="other"),
            bitopro_headers("6"),
            bitopro_headers(True),
            bitopro_headers(6) | {"X-BITOPRO-PAYLOAD": "e30="},
            bitopro_headers(6) | {"X-BITOPRO-PAYLOAD": "?"},
            bitopro_headers(6) | {"X-BITOPRO-SIGNATURE": "é"},
        ):
            status, body = refused(port, stream, wrong)
            assert (401, {"error": "Invalid Signature"}) == (status, json.loads(body))
        with client(port, stream, bitopro_headers(6)) as socket:
            assert PLAIN == received(socket, len(PLAIN))
        assert 404 == refused(port, "/ws/v1/pub/auth/orders", bitopro_headers(7))[0]
        assert 404 == get(port, "/v3/accounts/balance", bitopro_headers(8))[0]


# Kraken Prime


def kraken_headers(
    key: str = "demo-key",
    secret: str = "demo-secret",
    host: str = "127.0.0.1",
    path: str = "/ws/v1",
    at: str = "2026-11-22T05:00:00.000000Z",
) -> dict[str, str]:
    digest = hmac.new(secret.encode(), f"GET\n{at}\n{host}\n{path}".encode(), hashlib.sha256).digest()
    return {"ApiKey": key, "ApiSign": base64.urlsafe_b64encode(digest).decode(), "ApiTimestamp": at}


def subscribe(socket: ClientConnection, reqid: Any, **more: Any) -> None:
    socket.send(json.dumps({"reqid": reqid, "type": "subscribe", "streams": [{"name": "Balance"}], **more}))


def said(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(timeout=5))


HELLO = b'{"type":"hello","session_id":"S1"}'


def test_kraken_prime_greets_who_signs_and_sends_when_it_is_subscribed(tmp_path: Path) -> None:
    frames = [
        HELLO,
        b'{"reqid":7,"seqNum":1, "data":["\xc3\xa9"]}',
        b'{"reqid" : 7,"note":"reqid\\":7"}',
        b"???",
        HELLO,
    ]
    with serving(exchange(tape_of(tmp_path, "kraken_prime", pushed(*frames)))) as port:
        for wrong in (
            {},
            kraken_headers(key="other"),
            kraken_headers(secret="other"),
            kraken_headers(host="localhost"),
            kraken_headers(path="/ws/v2"),
            kraken_headers(at="now"),
            kraken_headers() | {"ApiSign": "é"},
        ):
            assert 401 == refused(port, "/ws/v1", wrong)[0]
        with client(port, "/ws/v1", kraken_headers()) as socket:
            assert [HELLO] == received(socket, 1)
            assert nothing_comes(socket)
            subscribe(socket, 7)
            assert frames[1:4] == received(socket, 3)
            assert nothing_comes(socket)
        with client(port, "/ws/v1", kraken_headers()) as socket:
            assert [HELLO] == received(socket, 1)
            subscribe(socket, 12345)
            assert [
                b'{"reqid":12345,"seqNum":1, "data":["\xc3\xa9"]}',
                b'{"reqid" : 12345,"note":"reqid\\":7"}',
                b"???",
            ] == received(socket, 3)
        assert 404 == get(port, "/ws/v1", kraken_headers())[0]


def test_each_subscription_of_a_kraken_tape_goes_to_that_of_the_client(tmp_path: Path) -> None:
    frames = [
        b'{"reqid":3,"n":1}',
        b'{"reqid":9,"n":2}',
        b'{"type":"Pong","reqid":5}',
        b'{"reqid":3,"n":3}',
        b'{"reqid":9,"n":4}',
    ]
    with (
        serving(exchange(tape_of(tmp_path, "kraken_prime", pushed(*frames)), close_at_end=True)) as port,
        client(port, "/ws/v1", kraken_headers()) as socket,
    ):
        hello = said(socket)
        assert "hello" == hello["type"]
        assert hello["session_id"]
        subscribe(socket, 41)
        assert [b'{"reqid":41,"n":1}', b'{"reqid":41,"n":3}'] == received(socket, 2)
        assert nothing_comes(socket)
        subscribe(socket, 42)
        assert [b'{"reqid":42,"n":2}', b'{"reqid":42,"n":4}'] == received(socket, 2)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert 1000 == closed.value.rcvd.code


def test_what_a_kraken_client_says_wrong_is_refused_and_its_pings_are_answered(tmp_path: Path) -> None:
    frames = [b'{"reqid":3,"n":1}', b'{"reqid":4,"n":1}']
    with (
        serving(exchange(tape_of(tmp_path, "kraken_prime", pushed(*frames)))) as port,
        client(port, "/ws/v1", kraken_headers()) as socket,
    ):
        received(socket, 1)
        for text in ("{", "[]", '{"reqid":0,"type":"subscribe"}', '{"reqid":1,"type":"x"}', "[" * 100_000):
            socket.send(text)
            assert "error" == said(socket)["type"]
        socket.send('{"reqid":2,"type":"Ping"}')
        assert "missing Ping data" == said(socket)["error"]["msg"]
        socket.send('{"reqid":2,"type":"ping","data":[{}]}')
        pong = said(socket)
        assert (2, "Pong", [{}]) == (pong["reqid"], pong["type"], pong["data"])
        subscribe(socket, 5, streams=[])
        assert "missing streams" == said(socket)["error"]["msg"]
        subscribe(socket, 5)
        assert [b'{"reqid":5,"n":1}'] == received(socket, 1)
        subscribe(socket, 5)
        assert (5, 1) == ((fault := said(socket))["reqid"], fault["seq"])
        socket.send('{"reqid":5,"type":"page","data":[]}')
        socket.send('{"reqid":5,"type":"cancel"}')
        assert nothing_comes(socket)


# Cascade

ACK = b'{"jsonrpc":"2.0","result":{"message":"Subscribed to trades"},"id":2}'
FAULT = b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":null}'
UPDATE = b'{"type":"Balance Update","data":{"jsonrpc":1}}'


def signature(text: str, key: str = PRIVATE_KEY) -> str:
    account: Any = import_module("eth_account").Account
    message: Any = import_module("eth_account.messages").encode_defunct(text=text)
    return "0x" + bytes(account.sign_message(message, key).signature).hex()


def logged_in(port: int, account: str = WALLET, key: str = PRIVATE_KEY, **forged: str) -> tuple[int, Any]:
    """The answer to a login."""
    status, body = get(port, f"/auth?account={account}")
    assert 200 == status
    challenge = json.loads(body)
    asked = {
        "message": challenge["message"],
        "signature": signature(challenge["signing_payload"], key),
        "server_signature": challenge["server_signature"],
    }
    status, body = get(port, "/auth", {"Content-Type": "application/json"}, "POST", asked | forged)
    return status, json.loads(body)


def token_of(port: int, account: str = WALLET, key: str = PRIVATE_KEY) -> str:
    status, answer = logged_in(port, account, key)
    assert 200 == status
    assert account.lower() == answer["claims"]["sub"]
    return str(answer["token"])


def rpc(socket: ClientConnection, number: Any, method: str, **params: Any) -> Any:
    socket.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": number}))
    answer = said(socket)
    assert number == answer["id"]
    assert answer["usDiff"] == answer["usOut"] - answer["usIn"]
    return answer["error"]["message"] if "error" in answer else answer["result"]["message"]


def test_cascade_is_served_to_who_signs_with_the_wallet(tmp_path: Path) -> None:
    arrivals = [
        *pushed(ACK, UPDATE, FAULT, b'{"broken'),
        answering(f"GET /account/balance?subaccountIndex=0&account={WALLET}", b"[0]"),
    ]
    wallet = WALLET[:6] + WALLET[6:].upper()
    with serving(exchange(tape_of(tmp_path, "cascade", arrivals))) as port:
        bearer = {"Authorization": f"Bearer {token_of(port, wallet)}"}
        with client(port, "/ws") as socket:
            balance: dict[str, Any] = {"source": "balance", "account": wallet, "subaccountIndices": []}
            assert "Unauthorized" == rpc(socket, 1, "subscribe", **balance)
            assert "Invalid token" == rpc(socket, "a", "auth", bearer="x.y.z")
            assert "Unauthorized" == rpc(socket, 2, "subscribe", **balance)
            assert "Authenticated successfully" == rpc(
                socket, None, "auth", bearer=bearer["Authorization"][7:]
            )
            for wrong in (
                {"source": "fill"},
                {"account": "0x1"},
                {"subaccountIndices": None},
                {"subaccountIndices": ["0"]},
            ):
                assert "Invalid subscription params" == rpc(socket, 3, "subscribe", **(balance | wrong))
            assert "Method not found" == rpc(socket, 4, "create")
            assert "not subscribed" == rpc(socket, 4, "unsubscribe", **balance)
            assert "Subscribed to balance" == rpc(socket, 5, "subscribe", **balance)
            assert [UPDATE, b'{"broken'] == received(socket, 2)
            assert "already subscribed" == rpc(socket, 6, "subscribe", **balance)
            assert "Unsubscribed from channel" == rpc(socket, 7, "unsubscribe", **balance)
            assert nothing_comes(socket)
        assert (200, b"[0]") == get(port, "/account/balance?account=0x1&subaccountIndex=0", bearer)
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": bearer["Authorization"] + "x"}):
            status, body = get(port, "/account/balance?account=0x1&subaccountIndex=0", headers)
            assert 401 == status
            assert isinstance(json.loads(body), str)
        assert 404 == get(port, "/account/balance?subaccountIndex=1", bearer)[0]
        assert 400 == get(port, "/auth?account=0x12")[0]


def test_cascade_refuses_who_does_not_sign_right(tmp_path: Path) -> None:
    path = tape_of(tmp_path, "cascade", pushed(UPDATE))
    other = "0x" + "47" * 32
    with serving(exchange(path)) as port:
        assert 401 == logged_in(port, key=other)[0]
        for forged in (
            {"signature": "0x"},
            {"signature": "0x" + "00" * 65},
            {"signature": signature("other")},
            {"server_signature": "x"},
            {"message": f"account {WALLET} nonce 0 at 9999999999"},
            {"message": "\ud800"},
        ):
            assert 401 == logged_in(port, **forged)[0]
        assert 401 == get(port, "/auth", method="POST", body=[])[0]
    login = cascade.Login(address="0x" + "Ab" * 20, private_key=Secret(other))  # a delegate
    with serving(exchange(path, login)) as port:
        assert 401 == logged_in(port)[0]
        assert 401 == logged_in(port, WALLET, other)[0]
        assert token_of(port, login.address, other)
    with pytest.raises(BadLogin, match="private_key: not a private key") as caught:
        exchange(path, cascade.Login(address=WALLET, private_key=Secret(CANARY)))
    assert CANARY not in str(caught.value)


def test_cascade_says_what_it_needs_to_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eth_account", None)
    with pytest.raises(LedgerError, match=r"pip install 'accountledger\[cascade\]'"):
        exchange(tape_of(tmp_path, "cascade", pushed(UPDATE)))


# Pacifica


def page(cursor: str | None, more: bool, name: str) -> bytes:
    return json.dumps(
        {"success": True, "data": [], "name": name, "next_cursor": cursor, "has_more": more}
    ).encode()


def test_the_pages_of_a_pacifica_tape_are_told_by_their_cursors(tmp_path: Path) -> None:
    pages = [
        page("c1", True, "1"),
        page("c 2", True, "2"),
        page("", False, "3"),
        page("c1", True, "4"),
        page("c9", False, "5"),
    ]
    history = "/api/v1/account/balance/history?account=w&limit=100"
    with serving(exchange(tape_of(tmp_path, "pacifica", pushed(*pages)))) as port:
        asked = ("", "&cursor=c1", "&cursor=c%202", "&cursor=", "&cursor=c1", "", "&cursor=c1")
        assert [pages[number] for number in (0, 1, 2, 3, 4, 3, 4)] == [
            get(port, history + cursor)[1] for cursor in asked
        ]
        for target in (history + "&cursor=c9", "/api/v1/account"):
            status, body = get(port, target)
            assert 404 == status
            assert (False, 404) == ((fault := json.loads(body))["success"], fault["code"])
        assert 404 == get(port, history, method="POST", body={})[0]
        assert 404 == refused(port, "/ws")[0]


def test_the_pages_of_a_pacifica_tape_are_told_by_what_they_answer(tmp_path: Path) -> None:
    path = "/api/v1/account/balance/history"
    arrivals = [
        answering(f"GET {path}?account=w&limit=50", b"1"),
        answering(f"GET {path}?account=w&limit=50&cursor=a%2Fb", b"2"),
        answering(f"GET {path}?account=w&limit=50", b"3"),
        *pushed(b"no answer"),
    ]
    with serving(
        exchange(tape_of(tmp_path, "pacifica", arrivals), pacifica.Login(key=Secret("mine")))
    ) as port:
        key = {"PF-API-KEY": "mine"}
        found = [
            get(port, path + query, key)
            for query in ("", "?cursor=a/b&account=x", "", "?account=w", "?cursor=a/b")
        ]
        assert [(200, each) for each in (b"1", b"2", b"3", b"3", b"2")] == found
        assert [401, 401] == [get(port, path, headers)[0] for headers in ({}, {"PF-API-KEY": "other"})]


# Every tape


def test_a_tape_is_played_at_the_recorded_pace(tmp_path: Path) -> None:
    path = tape_of(tmp_path, "deltadefi", pushed(b"0", b"1", b"2", b"3"))
    with (
        serving(exchange(path, speed=1)) as port,
        client(port, "/accounts/stream?api_key=demo-key") as socket,
    ):
        began = time.monotonic()
        came = [(received(socket, 1), time.monotonic() - began) for _ in range(4)]
    assert [[b"0"], [b"1"], [b"2"], [b"3"]] == [payload for payload, _ in came]
    assert 0.25 <= came[-1][1] < 3


def test_a_tape_that_was_cut_short_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tape_of(tmp_path, "deltadefi", pushed(b"x", b"y"))
    path.write_bytes(path.read_bytes()[:-60])  # in the middle of the second frame
    with (
        serving(exchange(path, close_at_end=True)) as port,
        client(port, "/accounts/stream?api_key=demo-key") as socket,
    ):
        assert [b"x"] == received(socket, 1)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=5)


def test_clients_that_leave_or_do_not_read_hold_nobody_up(tmp_path: Path) -> None:
    frames = [b"%d" % number + b"x" * 60_000 for number in range(300)]
    path = tape_of(tmp_path, "deltadefi", pushed(*frames))
    target = "/accounts/stream?api_key=demo-key"
    with serving(exchange(path)) as port:
        with client(port, target) as gone:
            received(gone, 3)
        gone = connect(f"ws://127.0.0.1:{port}{target}", proxy=None)
        gone.socket.close()
        silent = socket.create_connection(("127.0.0.1", port))
        stuck = connect(f"ws://127.0.0.1:{port}{target}", proxy=None, max_queue=1)
        with client(port, target) as reading:
            assert frames == received(reading, 300)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    gc.collect()  # what it left open complains
    for each in (silent, stuck.socket):
        each.close()


UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
STREAM = b"/accounts/stream?api_key=demo-key"


def upgraded(port: int, target: bytes, host: bytes = b"x", more: bytes = b"") -> tuple[socket.socket, bytes]:
    """A raw connection, and the head of the answer to its upgrade."""
    raw = socket.socket()
    raw.settimeout(5)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # little is on its way to who does not read
    raw.connect(("127.0.0.1", port))
    raw.sendall(UPGRADE % (target, host, more))
    head = b""
    while b"\r\n\r\n" not in head and (part := raw.recv(1)):
        head += part
    return raw, head


def masked(code: int, payload: bytes) -> bytes:
    """A WebSocket frame of a client."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xff" + len(payload).to_bytes(8, "big")
    return bytes([0x80 | code]) + size + bytes(4) + payload


def test_what_no_client_says_ends_its_connection_and_nothing_of_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tape_of(tmp_path, "deltadefi", pushed(*[b"x" * 60_000] * 300))
    with serving(exchange(path)) as port:
        raw, head = upgraded(port, STREAM, more=b"Sec-WebSocket-Protocol: \xff\r\n")
        raw.close()
        assert b"" == head
        raw, head = upgraded(port, STREAM)
        raw.sendall(masked(1, b"x" * (serve_module.BODY_BYTES_MAX + 1)))  # while the tape is played
        while raw.recv(65536):
            pass
        raw.close()
        began = time.monotonic()
    assert time.monotonic() - began < 1  # it holds no connection that is gone
    assert [] == [each.getMessage() for each in caplog.records if not each.name.startswith("websockets")]
    hosts = tape_of(tmp_path, "kraken_prime", [])
    with serving(exchange(hosts)) as port:
        raw, head = upgraded(port, b"/", host=b"[")
        raw.close()
    assert head.startswith(b"HTTP/1.1 401 ")


def test_nothing_packed_is_taken(tmp_path: Path) -> None:
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=none\r\n"
    with serving(exchange(tape_of(tmp_path, "deltadefi", []))) as port:
        raw, head = upgraded(port, STREAM, more=offer)
        raw.close()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-extensions" not in head.lower()


def test_pings_are_answered_to_who_reads_and_pile_up_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = serve_module._listener

    def narrow(port: int) -> socket.socket:
        found = listener(port)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return found

    monkeypatch.setattr(serve_module, "_listener", narrow)
    with serving(exchange(tape_of(tmp_path, "deltadefi", []))) as port:
        raw, _ = upgraded(port, STREAM)
        raw.sendall(masked(9, b"one"))
        assert b"\x8a\x03one" == raw.recv(5)
        raw.sendall(masked(9, b"p" * 120) * 10_000)
        for _ in range(20):  # which it answers in between: all pings have been read then
            get(port, "/")
        pongs = 0
        raw.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while part := raw.recv(1 << 20):
                pongs += len(part)
        raw.close()
    assert 0 < pongs < 400_000


def test_every_tape_of_the_demo_can_be_served(tmp_path: Path) -> None:
    for path in sorted((Path(serve_module.__file__).parent / "demo").glob("*.tape")):
        assert path.stem == exchange(path).venue


def test_what_cannot_be_served_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}\n")
    with pytest.raises(BadTape, match="line 1: not a tape"):
        exchange(path)
    with pytest.raises(BadTape, match="a tape of mybank; served are deltadefi, "):
        exchange(tape_of(tmp_path, "mybank", []))
    broken = tape_of(tmp_path, "deltadefi", [])
    broken.write_bytes(broken.read_bytes() + b"wrong\n")
    with pytest.raises(BadTape, match="line 3"):
        exchange(broken)
    with pytest.raises(BadLogin, match="identity: is missing"):
        exchange(tape_of(tmp_path, "bitopro", []), deltadefi.Login(key=Secret("x")))
    for speed in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="speed"):
            exchange(broken, speed=speed)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    app = exchange(tape_of(tmp_path, "deltadefi", []))
    with serving(app) as port:
        with (
            pytest.raises(LedgerError, match=rf"port {port} of 127\.0\.0\.1: Address already in use"),
            serving(app, port),
        ):
            pass
        with pytest.raises(LedgerError, match=r"not a port"), serving(app, 70_000):
            pass
    with serving(app, port) as again:
        assert port == again


# What is never shown


def test_no_log_shows_a_credential_at_any_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    secret = Secret(CANARY)
    plain = tape_of(tmp_path, "deltadefi", pushed(b"x"))
    with serving(exchange(plain, deltadefi.Login(key=secret))) as port:
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "ledger.serve"):
            logging.getLogger(name).setLevel(1)
        with client(port, f"/accounts/stream?api_key={CANARY}") as socket:
            received(socket, 1)
        refused(port, f"/accounts/stream?api_key={CANARY}2")
        get(port, f"/accounts/balance?x={CANARY}", {"X-API-KEY": CANARY})
    signed = tape_of(tmp_path, "bitopro", pushed(b"x"))
    login = bitopro.Login(identity=secret, key=secret, secret=secret)
    with serving(exchange(signed, login)) as port:
        logging.getLogger("uvicorn.error").setLevel(1)
        with client(port, "/account-balance", bitopro_headers(1, CANARY, CANARY, CANARY)) as socket:
            received(socket, 1)
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    ours = [record for record in caplog.records if not record.name.startswith("websockets")]
    assert CANARY not in "".join(f"{record.getMessage()}{record.exc_text}{record.args}" for record in ours)


def test_an_error_of_ours_is_told_by_its_type_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(CANARY)

    app = exchange(tape_of(tmp_path, "deltadefi", []))
    monkeypatch.setattr(app._server, "refusal", broken)
    monkeypatch.setattr(app._server, "answer", broken)
    with serving(app) as port:
        assert 500 == refused(port, f"/accounts/stream?api_key={CANARY}")[0]
        assert 500 == get(port, f"/?{CANARY}")[0]
    told = [record.getMessage() for record in caplog.records if record.name == "ledger.serve"]
    assert ["RuntimeError while serving deltadefi"] * 2 == told
    assert CANARY not in caplog.text


# For who feeds from it


@pytest.mark.parametrize("venue", sorted(DEMO_LOGINS))
def test_the_feed_of_a_served_tape_can_be_pasted(tmp_path: Path, venue: str) -> None:
    venues: dict[str, Any] = {
        each.NAME: each for each in (deltadefi, bitopro, kraken_prime, cascade, pacifica)
    }
    path = tape_of(tmp_path, venue, [], account='a "desk" é')
    text = feed_text(path, None, 9001)
    feeds = tmp_path / "FEEDS.toml"
    feeds.write_text(text)
    (feed,) = read_feeds(feeds, venues, demo_environ(venue))
    assert (venue, 'a "desk" é') == (feed.venue.NAME, feed.account)
    found: Any = feed.login
    for name, value in DEMO_LOGINS[venue].items():
        given = getattr(found, name)
        assert value == (given.reveal() if isinstance(given, Secret) else given)
    for name in ("url", "rest_url"):
        url = getattr(found, name, None)
        assert url is None or "://127.0.0.1:9001" in url
    for name, value in demo_environ(venue).items():
        assert f"# export {name}={value}" in text.splitlines()


def test_a_feed_of_a_login_names_its_secrets_and_shows_none(tmp_path: Path) -> None:
    secret = Secret(CANARY)
    text = feed_text(
        tape_of(tmp_path, "bitopro", []), bitopro.Login(identity=secret, key=secret, secret=secret), 9001
    )
    assert (
        '[[feed]]\nvenue = "bitopro"\naccount = "main"\nidentity = "env:BITOPRO_IDENTITY"\nkey = "env:BITOPRO_KEY"\n'
        'secret = "env:BITOPRO_SECRET"\nurl = "ws://127.0.0.1:9001/ws/v1/pub/auth/account-balance"\n'
    ) == text
    text = feed_text(
        tape_of(tmp_path, "cascade", []), cascade.Login(address=WALLET, private_key=secret), 9001
    )
    assert CANARY not in text
    assert f'address = "{WALLET}"' in text
    assert "PF" not in feed_text(tape_of(tmp_path, "pacifica", []), pacifica.Login(), 9001)


# For ever, until a signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(tmp_path: Path, number: signal.Signals) -> None:
    path = tape_of(tmp_path, "deltadefi", pushed(b"x"))
    program = (
        "import sys; from pathlib import Path; from ledger.serve import exchange, serve_forever\n"
        "serve_forever(exchange(Path(sys.argv[1])), ready=lambda port: print(port, flush=True))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdout is not None
    port = int(running.stdout.readline())
    with client(port, "/accounts/stream?api_key=demo-key") as socket:
        received(socket, 1)
        began = time.monotonic()
        os.kill(running.pid, number)
        _, complaints = running.communicate(timeout=5)
    assert (0, b"") == (running.returncode, complaints)
    assert time.monotonic() - began < 3


def test_the_handlers_of_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ports: list[int] = []

    def ready(port: int) -> None:
        ports.append(port)
        os.kill(os.getpid(), signal.SIGTERM)

    serve_forever(exchange(tape_of(tmp_path, "deltadefi", [])), ready=ready)
    assert [0] != ports
    assert before == signal.getsignal(signal.SIGTERM)
