"""HTTP on both event loops: requests that are asked, and polls that are received."""

from __future__ import annotations

import gzip
import ssl
import time
import traceback
from collections.abc import Callable

import anyio
import pytest
import trustme

from ledger.errors import ConversationError, Lost, Rejected
from ledger.events import Asked
from ledger.venue import Endpoint, Request
from tests.blast import Peer, Server
from tests.conformance import Records, authority, client_tls, everything_logged, guard, server_tls
from transports import connection as bounds
from transports import http

__all__ = ["authority", "everything_logged"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def answering(status: str, *headers: str, body: bytes = b"{}", times: int = 1) -> Callable[[Peer], None]:
    """A server that answers each request of a connection so."""

    def script(peer: Peer) -> None:
        for _ in range(times):
            peer.read_head()
            peer.answer(status, *headers, body=body)
        peer.wait_for_end()

    return script


async def reply_of(script: Callable[[Peer], object]) -> tuple[int, bytes, dict[str, str]]:
    with Server(script) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            reply = await connection.ask(Request(server.http + "/v1/balance?limit=2"))
    return reply.status, reply.body, dict(reply.headers)


async def error_of(script: Callable[[Peer], object]) -> ConversationError:
    with Server(script) as server, pytest.raises(ConversationError) as caught:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            await connection.ask(Request(server.http + "/v1/balance?limit=2"))
    return caught.value


# Asking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", ["200 OK", "204 No Content", "401 Unauthorized", "404 Not Found", "429 Slow", "500 Oh"]
)
async def test_any_status_is_a_reply_with_lower_case_headers(status: str) -> None:
    before = time.time_ns()
    body = b"" if status.startswith("204") else b'{"a":1}'
    with Server(answering(status, "Retry-After: 3", "X-Limit: A", body=body)) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            reply = await connection.ask(Request(server.http + "/x"))
    assert (reply.status, reply.body) == (int(status[:3]), body)
    assert reply.headers["retry-after"] == "3"
    assert reply.headers["x-limit"] == "A"
    assert before <= reply.received_ns <= time.time_ns()


async def test_a_redirect_is_a_reply_and_followed_nowhere() -> None:
    with Server(lambda peer: pytest.fail("followed")) as other:
        status, _, headers = await reply_of(answering("302 Found", f"Location: {other.http}/elsewhere"))
        assert other.connections == 0
    assert status == 302
    assert headers["location"].endswith("/elsewhere")


async def test_a_get_has_no_body_no_type_and_takes_gzip() -> None:
    heads: list[bytes] = []

    def script(peer: Peer) -> None:
        heads.append(peer.read_head())
        peer.answer("200 OK", body=b"{}")
        assert peer.wait_for_end() == b""

    with Server(script) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            await connection.ask(Request(server.http + "/a%2Fb?x=1&y=a%20b", headers=(("X-Key", "k"),)))
    lines = heads[0].decode().lower().split("\r\n")
    assert lines[0] == "get /a%2fb?x=1&y=a%20b http/1.1"
    names = {line.partition(":")[0] for line in lines[1:]}
    assert names == {"host", "user-agent", "accept", "accept-encoding", "x-key"}
    assert "accept-encoding: gzip" in lines


async def test_a_post_carries_its_body() -> None:
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        got.append(peer.read_head())
        peer.answer("200 OK", body=b"{}")
        got.append(peer.wait_for_end())

    with Server(script) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            await connection.ask(Request(server.http + "/login", "POST", body=b'{"a":1}'))
    assert got[0].startswith(b"POST /login HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/json" in got[0]
    assert b"\r\nContent-Length: 7" in got[0]
    assert got[1] == b'{"a":1}'


async def test_a_packed_answer_is_unpacked() -> None:
    packed = gzip.compress(b'{"long":"' + b"x" * 10_000 + b'"}')
    _, body, _ = await reply_of(answering("200 OK", "Content-Encoding: gzip", body=packed))
    assert len(body) == 10_011
    _, body, _ = await reply_of(answering("200 OK", "Content-Encoding: gzip", body=b""))
    assert body == b""


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_an_answer_packed_in_several_members_is_unpacked_to_its_end(piece: int) -> None:
    said = b'{"long":"' + b"x" * 100 + b'"}'
    packed = b"".join(gzip.compress(said[at : at + 40]) for at in range(0, len(said), 40))

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (packed[at : at + piece] for at in range(0, len(packed), piece)):
            peer.send(b"%x\r\n%s\r\n" % (len(part), part))
        peer.send(b"0\r\n\r\n")

    _, body, _ = await reply_of(script)
    assert body == said


async def test_requests_of_one_origin_share_a_connection() -> None:
    with Server(answering("200 OK", times=5)) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            for _ in range(5):
                await connection.ask(Request(server.http + "/x"))
        assert server.connections == 1


async def test_a_cookie_is_not_sent_back() -> None:
    heads: list[bytes] = []

    def script(peer: Peer) -> None:
        for _ in range(2):
            heads.append(peer.read_head())
            peer.answer("200 OK", "Set-Cookie: session=1; Path=/", body=b"{}")

    with Server(script) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            for _ in range(2):
                await connection.ask(Request(server.http + "/x"))
    assert b"cookie" not in heads[1].lower()


async def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    status, _, _ = await reply_of(answering("200 OK"))
    assert status == 200


PACKED = gzip.compress(b'{"long":"' + b"x" * 10_000 + b'"}')


# What goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_refused_port_is_lost() -> None:
    with Server(lambda peer: None) as server:
        pass
    async with guard(), http.connect(Endpoint(server.http)) as connection:
        with pytest.raises(Lost, match=r"^http://127\.0\.0\.1:\d+/x: connection refused$"):
            await connection.ask(Request(server.http + "/x?key=canary"))


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        (lambda peer: (peer.read_head(), peer.reset()), "connection reset"),
        (lambda peer: (peer.read_head(), peer.close()), "the answer is not whole, or not HTTP"),
        (
            lambda peer: (peer.read_head(), peer.send(b"garbage\r\n\r\n")),
            "the answer is not whole, or not HTTP",
        ),
        (
            lambda peer: (peer.read_head(), peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")),
            "the answer is not whole, or not HTTP",
        ),
        (
            answering("200 OK", "Content-Encoding: gzip", body=b"no gzip"),
            "the answer is not packed as it says",
        ),
        (
            answering("200 OK", "Content-Encoding: gzip", body=PACKED + PACKED[:-1]),
            "the answer is not packed as it says",
        ),
        (
            answering("200 OK", "Content-Encoding: gzip", body=PACKED[:5]),
            "the answer is not packed as it says",
        ),
    ],
)
async def test_an_answer_that_is_none_is_lost(script: Callable[[Peer], object], cause: str) -> None:
    error = await error_of(script)
    assert isinstance(error, Lost)
    assert str(error).endswith("/v1/balance: " + cause)


async def test_silence_is_lost_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASK_S", 0.1)
    error = await error_of(lambda peer: peer.wait_for_end())
    assert isinstance(error, Lost)
    assert str(error).endswith("no answer within 0.1 s")


async def test_an_answer_that_trickles_is_lost_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASK_S", 0.2)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            peer.send(b"x")
            time.sleep(0.03)

    assert str(await error_of(script)).endswith("no answer within 0.2 s")


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_that_is_too_large_is_lost(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as it comes, unpacked: a small packed answer may be large."""
    monkeypatch.setattr(bounds, "MESSAGE_BYTES_MAX", 100_000)
    body = b"x" * 50_000_000 if packed else b"x" * 100_001
    headers = ("Content-Encoding: gzip",) if packed else ()
    error = await error_of(answering("200 OK", *headers, body=gzip.compress(body) if packed else body))
    assert isinstance(error, Lost)
    assert "a message of more than 100000 bytes" in str(error)


@pytest.mark.parametrize(
    ("trusted", "named"), [(True, "127.0.0.1"), (False, "127.0.0.1"), (True, "a.example")]
)
async def test_a_certificate_is_verified(authority: trustme.CA, trusted: bool, named: str) -> None:
    tls = client_tls(authority) if trusted else None
    with Server(answering("200 OK"), tls=server_tls(authority, named)) as server:
        async with guard(), http.connect(Endpoint(server.http), tls=tls) as connection:
            if trusted and named == "127.0.0.1":
                assert (await connection.ask(Request(server.http + "/x"))).status == 200
            else:
                with pytest.raises(Lost, match="/x: TLS: certificate verify failed: "):
                    await connection.ask(Request(server.http + "/x"))


async def test_verification_cannot_be_turned_off() -> None:
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="does not verify"):
        async with http.connect(Endpoint("https://127.0.0.1:1"), tls=careless):
            pass


@pytest.mark.parametrize(
    "request_",
    [
        Request("ftp://127.0.0.1/"),
        Request("http://user:canary@127.0.0.1:1/"),
        Request("http://127.0.0.1:1/", headers=(("X-Key", "canary\r\nX: 1"),)),
    ],
)
async def test_what_cannot_be_sent_is_rejected(request_: Request) -> None:
    async with guard(), http.connect(Endpoint("http://127.0.0.1:1")) as connection:
        with pytest.raises(Rejected) as caught:
            await connection.ask(request_)
    assert "canary" not in str(caught.value)


async def test_nothing_can_be_asked_after_leaving() -> None:
    async with http.connect(Endpoint("http://127.0.0.1:1")) as connection:
        pass
    with pytest.raises(Lost):
        await connection.ask(Request("http://127.0.0.1:1/x"))


async def test_cancelling_an_ask_passes_through_and_the_next_one_works() -> None:
    def script(peer: Peer) -> None:
        if b"/slow" in peer.read_head():
            peer.wait_for_end()
        else:
            peer.answer("200 OK", body=b"{}")

    with Server(script) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            with anyio.move_on_after(0.05) as scope:
                await connection.ask(Request(server.http + "/slow"))
            assert scope.cancelled_caught
            assert (await connection.ask(Request(server.http + "/fast"))).status == 200


async def test_an_exception_in_the_body_leaves_as_itself() -> None:
    own = KeyError("own")
    with pytest.raises(KeyError) as caught:
        async with http.connect(Endpoint("http://127.0.0.1:1")):
            raise own
    assert caught.value is own


# Polling -----------------------------------------------------------------------------------------------------------


async def test_polls_are_received_in_order_with_what_was_asked() -> None:
    targets: list[bytes] = []

    def script(peer: Peer) -> None:
        for number in range(3):
            targets.append(peer.read_head().split(b" ")[1])
            peer.answer("200 OK", body=b"%d" % number)

    before = time.time_ns()
    with Server(script) as server:
        endpoint = Endpoint(server.http + "/v1?api_key=canary")
        async with guard(), http.connect(endpoint) as connection:
            await connection.send(b"/balance?limit=10")
            await connection.send(b"?offset=1")
            await connection.send(b"")
            got = await connection.receive()
            await connection.ping()
            assert connection.silent_s() == 0
        assert connection.leftovers() == []
    assert targets == [
        b"/v1/balance?api_key=canary&limit=10",
        b"/v1?api_key=canary&offset=1",
        b"/v1?api_key=canary",
    ]
    assert [arrival[0] for arrival in got] == [b"0", b"1", b"2"]
    asked = [arrival[2] for arrival in got if len(arrival) == 3]
    assert [each.request for each in asked if each] == [
        "GET /v1/balance?limit=10",
        "GET /v1?offset=1",
        "GET /v1",
    ]
    for arrival, each in zip(got, asked, strict=True):
        assert isinstance(each, Asked)
        assert before <= each.at_ns <= arrival[1]


@pytest.mark.parametrize(("status", "kind"), [("401 No", Rejected), ("503 Later", Lost), ("302 Found", Lost)])
async def test_a_poll_that_is_refused_ends_the_connection_after_what_came_before(
    status: str, kind: type
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.answer("200 OK", body=b"first")
        peer.read_head()
        peer.answer(status, "Retry-After: 5", body=b"no")

    with Server(script) as server:
        async with guard(), http.connect(Endpoint(server.http + "/v1?k=canary")) as connection:
            await connection.send(b"/a")
            await connection.send(b"/b?limit=1")
            assert [arrival[0] for arrival in await connection.receive()] == [b"first"]
            with pytest.raises(ConversationError) as caught:
                await connection.receive()
            with pytest.raises(Lost):
                await connection.send(b"/c")
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"HTTP {status[:3]} to the request GET /v1/b?limit=1 of http://")
    assert caught.value.retry_after_s == 5
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "payload", [b"http://elsewhere.example/", b"/a b", b"/a\r\nX: 1", "/é".encode(), b"/a#b"]
)
async def test_a_poll_is_a_path_and_a_query_only(payload: bytes) -> None:
    async with http.connect(Endpoint("http://127.0.0.1:1")) as connection:
        with pytest.raises(ValueError, match="a path and a query"):
            await connection.send(payload)


async def test_what_was_polled_and_not_received_is_left_over() -> None:
    with Server(answering("200 OK", body=b"x", times=2)) as server:
        async with guard(), http.connect(Endpoint(server.http)) as connection:
            await connection.send(b"/a")
            await connection.send(b"/b")
        assert [arrival[0] for arrival in connection.leftovers()] == [b"x", b"x"]


# Secrecy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["well", "401", "refused", "reset", "garbage", "silent"])
async def test_secrets_appear_nowhere(
    how: str, everything_logged: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ASK_S", 0.3)

    def script(peer: Peer) -> None:
        peer.read_head()
        if how == "well":
            peer.answer("200 OK", body=b"{}")
            peer.read_body(30)
            peer.read_head()
            peer.answer("200 OK", body=b"{}")
        elif how == "401":
            peer.answer("200 OK", body=b"{}")
            peer.read_body(30)
            peer.read_head()
            peer.answer("401 No", body=b"no")
        elif how == "reset":
            peer.reset()
        elif how == "garbage":
            peer.send(b"garbage\r\n\r\n")
        peer.wait_for_end()

    said = ""
    raised: ConversationError | None = None
    body = b'{"token":"canary-in-the-body"}'  # not below: a traceback shows the line itself
    with Server(script) as server:
        url = "http://127.0.0.1:1" if how == "refused" else server.http
        endpoint = Endpoint(f"{url}/v1?api_key=canary-in-the-query", (("X-Sign", "canary-in-a-header"),))
        try:
            async with guard(), http.connect(endpoint) as connection:
                said += repr(connection)
                reply = await connection.ask(Request(endpoint.url, "POST", endpoint.headers, body))
                said += repr(reply)
                await connection.send(b"/x")
                await connection.receive()
        except ConversationError as error:
            raised = error
    assert (raised is None) == (how == "well")
    if raised is not None:
        assert raised.__suppress_context__ or raised.__context__ is None
        said += "".join(traceback.format_exception(raised)) + repr(vars(raised))
    assert "canary" not in said
    assert [text for text in everything_logged.texts if "canary" in text] == []
