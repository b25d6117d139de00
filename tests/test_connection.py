"""What every transport shares: the inbox, the words for what went wrong, the check of address and TLS."""

from __future__ import annotations

import logging
import ssl
import time
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trustme

from ledger.errors import Lost, Rejected
from ledger.events import Asked
from ledger.venue import Endpoint, origin_of, retry_after_s
from transports import connection
from transports.connection import Answer, Inbox


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# The inbox ---------------------------------------------------------------------------------------------------------


async def test_frames_come_out_in_batches_bounded_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BATCH_FRAMES_MAX", 3)
    inbox = Inbox(now_ns=lambda: 7)
    for each in b"abcd":
        inbox.put(bytes((each,)))
    assert await inbox.take() == [(b"a", 7), (b"b", 7), (b"c", 7)]
    assert await inbox.take() == [(b"d", 7)]


async def test_and_by_bytes_though_a_large_one_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BATCH_BYTES_MAX", 10)
    inbox = Inbox(now_ns=lambda: 0)
    for size in (4, 6, 1, 50, 2):
        inbox.put(b"x" * size)
    sizes = [[len(arrival[0]) for arrival in await inbox.take()] for _ in range(4)]
    assert sizes == [[4, 6], [1], [50], [2]]


async def test_an_arrival_keeps_what_was_asked() -> None:
    inbox = Inbox()
    inbox.put_arrival((b"x", 5, Asked("GET /x", 4)))
    assert await inbox.take() == [(b"x", 5, Asked("GET /x", 4))]


async def test_the_end_comes_after_the_frames_and_the_first_end_counts() -> None:
    inbox = Inbox(now_ns=lambda: 0)
    inbox.put(b"x")
    assert inbox.ended is None
    inbox.end(Lost("first"))
    inbox.end(Rejected("second"))
    assert await inbox.take() == [(b"x", 0)]
    for _ in range(2):
        with pytest.raises(Lost, match="first"):
            await inbox.take()


@pytest.mark.parametrize("bound", ["INBOX_FRAMES_MAX", "INBOX_BYTES_MAX"])
async def test_the_putter_waits_for_space_and_says_so(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, bound, 2)
    inbox = Inbox()
    await inbox.space()
    inbox.put(b"a")
    inbox.put(b"b")
    assert inbox.full
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.space)
        await anyio.wait_all_tasks_blocked()
        assert inbox.waiting
        assert len(await inbox.take()) == 2
        with anyio.fail_after(1):
            while inbox.waiting:
                await anyio.lowlevel.checkpoint()


async def test_the_rest_makes_space_and_is_everything() -> None:
    inbox = Inbox(now_ns=lambda: 0)
    for _ in range(1000):
        inbox.put(b"x")
    assert len(inbox.rest()) == 1000
    assert inbox.rest() == []
    assert not inbox.full


# Addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "resource"),
    [
        ("wss://api.example", "api.example", 443, "api.example", "/"),
        ("wss://API.example:443/ws", "api.example", 443, "api.example", "/ws"),
        ("wss://api.example:8080/ws?a=b#part", "api.example", 8080, "api.example:8080", "/ws?a=b"),
        ("wss://[::1]:9/?", "::1", 9, "[::1]:9", "/"),
    ],
)
def test_an_address_is_taken_apart(url: str, host: str, port: int, authority: str, resource: str) -> None:
    target = connection.target(Endpoint(url), "wss", "ws")
    assert (target.secure, target.host, target.port) == (url.startswith("wss"), host, port)
    assert (target.authority, target.resource) == (authority, resource)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_what_is_not_encrypted_stays_on_this_machine(host: str) -> None:
    assert not connection.target(Endpoint(f"ws://{host}:9/a"), "wss", "ws").secure
    for other in ("venue.example", "10.0.0.1", "127.0.0.1.venue.example", "0.0.0.0"):
        with pytest.raises(Rejected, match=r"^ws:// would show the login to others: only wss:// leaves"):
            connection.target(Endpoint(f"ws://{other}/a?key=canary"), "wss", "ws")


def test_our_name_is_told_unless_another_is_given() -> None:
    assert connection.target(Endpoint("wss://a"), "wss", "ws").headers == (("User-Agent", "accountledger"),)
    own = (("user-agent", "mine"),)
    assert connection.target(Endpoint("wss://a", own), "wss", "ws").headers == own


# TLS ---------------------------------------------------------------------------------------------------------------


_DEFAULT = ssl.create_default_context


def careless(cafile: str | None = None, **changes: object) -> ssl.SSLContext:
    context = _DEFAULT(cafile=cafile)
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def test_the_systems_context_verifies() -> None:
    context = connection.trusted(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert connection.trusted(context) is context


@pytest.fixture
def left_to_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Python of Debian and Ubuntu makes contexts: the oldest version is in OpenSSL's settings, not in theirs."""

    def make(*, cafile: str | None = None) -> ssl.SSLContext:
        return careless(cafile, minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED)

    monkeypatch.setattr(ssl, "create_default_context", make)


@pytest.mark.usefixtures("left_to_openssl")
def test_the_systems_context_is_used_where_python_leaves_the_version_to_openssl(tmp_path: Path) -> None:
    context = connection.verifying()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert connection.trusted(context) is context
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    named = connection.verifying(tmp_path / "ca.pem")
    assert connection.trusted(named) is named
    assert 1 == len(named.get_ca_certs())


def test_a_newer_version_that_the_system_asks_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = careless(minimum_version=ssl.TLSVersion.TLSv1_3)
    monkeypatch.setattr(ssl, "create_default_context", lambda *, cafile: newest)
    assert connection.verifying().minimum_version is ssl.TLSVersion.TLSv1_3


def test_whom_the_system_trusts_is_read_once_an_hour_and_not_at_each_connect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000 * connection.SYSTEM_S
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    context = connection.trusted(None)
    now_s += connection.SYSTEM_S - 1
    assert connection.trusted(None) is context
    now_s += 1
    assert connection.trusted(None) is not context


@pytest.mark.parametrize(
    "context",
    [
        careless(check_hostname=False),
        careless(check_hostname=False, verify_mode=ssl.CERT_OPTIONAL),
        careless(check_hostname=False, verify_mode=ssl.CERT_NONE),
        careless(minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED),
    ],
)
def test_a_context_that_trusts_more_is_refused(context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="is not used"):
        connection.trusted(context)


# Words -------------------------------------------------------------------------------------------------------------


def test_the_deepest_known_cause_is_told_in_our_words() -> None:
    error = RuntimeError("GET /?key=canary")
    error.__cause__ = ExceptionGroup("canary", [ValueError("canary"), ConnectionRefusedError(111, "canary")])
    assert connection.told(error) == "connection refused"
    assert connection.told(RuntimeError("canary")) == "connection broken"
    assert connection.told(OSError(113, "No route to host")) == "No route to host"
    assert connection.told(BrokenPipeError()) == "connection reset"


def handshake(served: ssl.SSLContext, trusted: ssl.SSLContext) -> str:
    """What is told of a handshake in memory that fails on our side, with their answers read to the end."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusted.wrap_bio(theirs, ours, server_hostname="localhost")
    server = served.wrap_bio(ours, theirs, server_side=True)
    while True:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            with suppress(ssl.SSLError):
                server.do_handshake()
        except ssl.SSLError as error:
            return connection.told(error)


def test_what_tls_says_is_told_so_that_one_knows_what_to_do(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = connection.verifying(tmp_path / "ca.pem")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(served)
    assert handshake(served, ours).endswith(" (nobody who is trusted here signed it)")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    ours.minimum_version = ssl.TLSVersion.TLSv1_3
    assert handshake(old, ours).startswith("TLS: no version of TLS that is spoken there is new enough (")
    said = ssl.MemoryBIO()
    said.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        ours.wrap_bio(said, ssl.MemoryBIO(), server_hostname="localhost").do_handshake()
    assert connection.told(caught.value).startswith("TLS: what answers there speaks no TLS (")


def test_a_circle_of_causes_ends() -> None:
    first, second = RuntimeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    assert connection.told(first) == "connection broken"


def test_a_reason_is_printable_and_bounded() -> None:
    told = str(connection.closed_by_venue(4000, "a\x07\u202e" + "x" * 1000))
    assert told == "closed by the venue: 4000 a\ufffd\ufffd" + "x" * (connection.REASON_CHARACTERS_MAX - 3)
    assert str(connection.closed_by_venue(4000, None)) == "closed by the venue: 4000"


# Answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_is_read_byte_by_byte() -> None:
    answer = Answer()
    for each in b"HTTP/1.1 429 Slow Down\r\nRetry-After: 5\r\nX: a: b\r\n\r\nbody":
        answer.feed(bytes((each,)))
    assert answer.refused
    assert (answer.status, answer.headers) == (429, {"retry-after": "5", "x": "a: b"})


def test_an_upgrade_is_no_refusal_and_what_follows_is_left_alone() -> None:
    answer = Answer()
    answer.feed(b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n\x81\x01x")
    answer.feed(b"HTTP/1.1 500 not the head\r\n\r\n")
    assert answer.whole
    assert not answer.refused


@pytest.mark.parametrize("raw", [b"S", b"HTTP/2 ", b"HTTP/1.1 1\r\n\r\n", b"HTTP/1.1 200" + b" " * 20_000])
def test_what_is_not_http_is_known_at_once(raw: bytes) -> None:
    answer = Answer()
    answer.feed(raw)
    assert answer.refused
    assert "is not HTTP" in str(answer.refusal("ws://place"))


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Rejected), (404, Rejected), (409, Lost), (429, Lost), (503, Lost), (301, Lost)]
)
def test_a_refusal_is_for_good_or_passes(status: int, kind: type) -> None:
    error = connection.refusal(status, {"retry-after": "2"}, "upgrade of ws://x/")
    assert type(error) is kind
    assert str(error) == f"HTTP {status} to the upgrade of ws://x/"
    assert error.retry_after_s == 2


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", 0),
        ("120", 120),
        ("99999999999", 3600),
        ("soon", 0),
        ("-5", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_within_reason(said: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": said}, 1_800_000_000) == seconds


def test_or_a_date() -> None:
    due = formatdate(time.time() + 60, usegmt=True)
    assert 55 < retry_after_s({"retry-after": due}, time.time()) <= 60


# Loggers -----------------------------------------------------------------------------------------------------------


def test_a_hushed_logger_says_warnings_only_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("hushed.for.a.test")
    connection.hush(logger.name)
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        logger.info("canary")
        logger.warning("heard")
    assert caplog.messages == ["heard"]


@pytest.mark.parametrize("code", [3000, 3003, 4401, 4403])
def test_a_closing_code_may_refuse_the_login(code: int) -> None:
    assert isinstance(connection.closed_by_venue(code, ""), Rejected)
    assert isinstance(connection.closed_by_venue(1008, "idle"), Lost)


def test_an_origin_is_scheme_host_and_port_and_nobody() -> None:
    assert origin_of("https://u:p@api.example:8443/v1?key=x") == "https://api.example:8443"
    assert origin_of("https://api.example/v1") == "https://api.example"
