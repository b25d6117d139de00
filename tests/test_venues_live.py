"""The five venues live against servers of their own: logins, TLS and health, on trio and on asyncio.

What the other `test_venues_live_*` share is here: a feed of each venue, what its exchange holds and what we show.
"""

from __future__ import annotations

import importlib
import itertools
import json
import ssl
import time
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import pytest
import trustme
from eth_account import Account

from ledger import Ledger, Recorded
from ledger.events import FrameQuarantined, SessionClosed, SessionOpened
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from projections import Balances
from tests.conformance import authority, client_tls, server_tls
from tests.exchanges import BitoPro, Cascade, DeltaDefi, Exchange, KrakenPrime, Pacifica
from transports import Feed, Health, live

__all__ = ["authority"]

WALLET: Final = Account.create()
STRANGER: Final = Account.create()
OWNER: Final = str(WALLET.address)
KINDS: Final[tuple[type[Exchange], ...]] = (BitoPro, KrakenPrime, Cascade, DeltaDefi, Pacifica)
PATIENCE_S: Final = 8.0
KEEPING: Final = importlib.import_module("transports.live")
"""The module; the package has a function of that name."""
Shown = dict[tuple[str, str], tuple[str | None, ...]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between two attempts."""
    monkeypatch.setattr(KEEPING, "BACKOFF_S", 0.02)
    monkeypatch.setattr(KEEPING, "REJECTED_S", 0.02)
    monkeypatch.setattr(KEEPING, "BACKOFF_S_MAX", 0.05)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def exchange_of(kind: type[Exchange], tls: ssl.SSLContext | None = None) -> Exchange:
    """An exchange that holds something."""
    if kind is BitoPro:
        bito = BitoPro(tls=tls)
        bito.set("ADA", "999999999999.999999990000000000", "0.000000010000000000")
        bito.set("BTC", "1.5", "1")
        return bito
    if kind is KrakenPrime:
        kraken = KrakenPrime(page_size=2, tls=tls)
        for currency, total in (("BTC", "40.15480673"), ("ETH", "3"), ("USD", "-5.25"), ("XRP", "0.000001")):
            kraken.set(currency, total)
        return kraken
    if kind is Cascade:
        wallet = Cascade(OWNER, tls=tls)
        wallet.set(0, "1000.500000")
        wallet.set(1, "0.000001")
        return wallet
    if kind is DeltaDefi:
        delta = DeltaDefi(tls=tls)
        delta.set("ADA", "12.5", "10.25")
        delta.set("USDM", "3", "3", unit="c0ff.ee")
        return delta
    history = Pacifica(tls=tls)
    for _ in range(3):
        history.add_row("1.25")
    return history


def feed_of(exchange: Exchange, **changes: Any) -> Feed:
    """The feed of the right login."""
    given: dict[str, Any]
    if isinstance(exchange, BitoPro):
        given = {"identity": exchange.identity, "key": exchange.key, "secret": exchange.secret}
        given = {**given, "url": exchange.ws, **changes}
        return Feed(bitopro, **given)
    if isinstance(exchange, KrakenPrime):
        given = {"key": exchange.key, "secret": exchange.secret, "url": exchange.ws}
        return Feed(kraken_prime, **{**given, **changes})
    if isinstance(exchange, Cascade):
        given = {"address": OWNER, "private_key": WALLET.key.hex(), "subaccounts": (0, 1)}
        given = {**given, "url": exchange.ws, "rest_url": exchange.http, **changes}
        return Feed(cascade, **given)
    if isinstance(exchange, DeltaDefi):
        given = {"key": exchange.api_key, "url": exchange.ws, "rest_url": exchange.http}
        return Feed(deltadefi, **{**given, **changes})
    assert isinstance(exchange, Pacifica)
    given = {"rest_url": exchange.http, **changes}
    return Feed(pacifica, exchange.account, **given)


def truth(exchange: Exchange) -> Shown:
    """What the exchange says is held: by account and asset, total and available (DeltaDeFi: available and locked)."""
    if isinstance(exchange, BitoPro):
        return {("bitopro:main", at): (each.total, each.available) for at, each in exchange.truth.items()}
    if isinstance(exchange, KrakenPrime):
        return {
            ("kraken_prime:main", at): (each.total, each.available) for at, each in exchange.truth.items()
        }
    if isinstance(exchange, Cascade):
        place = f"cascade:{OWNER.lower()}"
        return {(f"{place}/{at}", "USDC"): (each.total, None) for at, each in exchange.truth.items()}
    if isinstance(exchange, DeltaDefi):
        return {("deltadefi:main", at): (each.available, each.locked) for at, each in exchange.truth.items()}
    assert isinstance(exchange, Pacifica)
    return {(f"pacifica:{exchange.account}", "USDC"): (exchange.rows[-1].balance, None)}


def shown(balances: Balances) -> Shown:
    """The same as the ledger has it, texts and all."""
    return {
        (row.account, row.asset): (row.available, row.locked)
        if row.account.startswith("deltadefi:")
        else (row.total, row.available)
        for row in balances.rows()
    }


def change(exchange: Exchange, amount: str) -> None:
    """Something is held that was not held so before, and the venue says so in its way."""
    if isinstance(exchange, BitoPro | KrakenPrime):
        exchange.set("BTC", amount)
    elif isinstance(exchange, Cascade):
        exchange.set(1, amount)
    elif isinstance(exchange, DeltaDefi):
        exchange.set("ADA", amount)
    elif isinstance(exchange, Pacifica):
        exchange.add_row(amount)


async def until(true: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait on the event loop until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not so in time"
        await anyio.sleep(0.01)


async def until_agreed(ledger: Ledger, *exchanges: Exchange, seconds: float = PATIENCE_S) -> None:
    """Wait until the ledger shows what the exchanges hold, of all of them and nothing else."""
    balances = Balances(ledger)
    deadline = time.monotonic() + seconds
    while True:
        wanted = {key: held for exchange in exchanges for key, held in truth(exchange).items()}
        if shown(balances) == wanted:
            return
        assert time.monotonic() < deadline, (shown(balances), wanted)
        await anyio.sleep(0.02)


def events(ledger: Ledger, kind: type = object, account: str | None = None) -> list[Any]:
    return [each.event for each in ledger.replay(account) if isinstance(each.event, kind)]


def statements(ledger: Ledger) -> list[Recorded]:
    """What venues said, without the records of sessions."""
    return [each for each in ledger.replay() if not isinstance(each.event, SessionOpened | SessionClosed)]


def id_of(kind: type[Exchange]) -> str:
    return kind.__name__


# Logins --------------------------------------------------------------------------------------------------------------


async def test_the_right_logins_are_accepted_and_the_balances_are_the_exchanges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacifica, "POLL_S", 0.1)
    exchanges = [exchange_of(kind) for kind in KINDS]
    bito, kraken, wallet, delta, history = exchanges
    with bito, kraken, wallet, delta, history, Ledger() as ledger:
        async with live(ledger, *map(feed_of, exchanges)) as running:
            await until_agreed(ledger, *exchanges)
            await until(lambda: {each.state for each in running.health()} == {"live"})
            for exchange in exchanges:
                change(exchange, "7.000000")
            await until_agreed(ledger, *exchanges)
        assert [0] * 5 == [each.logins_refused for each in exchanges]
        assert [1] * 4 == [each.logins_accepted for each in exchanges[:4]]
        assert not events(ledger, FrameQuarantined)


WRONG: Final[list[tuple[type[Exchange], str, str, str]]] = [
    (BitoPro, "key", "another-test-key", "HTTP 401"),
    (BitoPro, "secret", "another-test-secret", "HTTP 401"),
    (BitoPro, "identity", "somebody.else@example.org", "HTTP 401"),
    (KrakenPrime, "key", "another-test-key", "HTTP 401"),
    (KrakenPrime, "secret", "another-test-secret", "HTTP 401"),
    (Cascade, "private_key", STRANGER.key.hex(), "HTTP 401"),
    (DeltaDefi, "key", "another-test-key", "HTTP 403"),
    (Pacifica, "key", "another-test-key", "HTTP 401"),
]


@pytest.mark.parametrize(
    ("kind", "field", "value", "reason"), WRONG, ids=[f"{kind.__name__}-{name}" for kind, name, *_ in WRONG]
)
async def test_a_wrong_login_is_tried_three_times_then_refused_and_the_others_run_on(
    kind: type[Exchange], field: str, value: str, reason: str
) -> None:
    with exchange_of(kind) as exchange, BitoPro() as other, Ledger() as ledger:
        other.set("ADA", "1")
        wrong, well = feed_of(exchange, **{field: value}), feed_of(other, account="other")
        async with live(ledger, wrong, well) as running:
            await until(lambda: running.health()[0].state == "refused")
            assert reason in running.health()[0].reason
            assert value not in running.health()[0].reason
            await anyio.sleep(0.1)
            assert (3, 0) == (exchange.logins_refused, exchange.logins_accepted)
            other.set("ADA", "2")
            await until(lambda: running.health()[1].frames == 2)
            assert running.health()[1].state == "live"
        assert running.health()[0].state == "refused"
        assert not events(ledger, account=wrong.name)


def ticking() -> Callable[[], int]:
    """A clock that is a second later each time it is looked at."""
    ticks = itertools.count(time.time_ns(), 1_000_000_000)
    return lambda: next(ticks)


@pytest.mark.parametrize("kind", [BitoPro, KrakenPrime], ids=id_of)
async def test_every_attempt_is_signed_afresh(kind: type[Exchange]) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        exchange.refuse(2, 403)
        async with live(ledger, feed_of(exchange, now_ns=ticking())) as running:
            await until(lambda: running.health()[0].frames > 0)
        names = ("x-bitopro-signature", "apisign")
        signatures = [
            each.headers[name] for each in exchange.requests for name in names if name in each.headers
        ]
        assert 3 == len(signatures) == len(set(signatures))
    if isinstance(exchange, BitoPro):
        sent = [json.loads(b64decode(each.headers["x-bitopro-payload"])) for each in exchange.requests]
        assert sorted({each["nonce"] for each in sent}) == [each["nonce"] for each in sent]


async def test_no_nonce_is_made_twice_at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KEEPING, "BACKOFF_S_MAX", 0.0)
    with exchange_of(BitoPro) as exchange, Ledger() as ledger:
        assert isinstance(exchange, BitoPro)
        exchange.refuse(6, 503)
        async with live(ledger, feed_of(exchange)):
            await until_agreed(ledger, exchange)
        assert 7 == len(exchange.nonces) == len(set(exchange.nonces))
        assert exchange.nonces == sorted(exchange.nonces)


async def test_a_wallet_asks_for_another_challenge_each_time() -> None:
    with exchange_of(Cascade) as exchange, Ledger() as ledger:
        assert isinstance(exchange, Cascade)
        async with live(ledger, feed_of(exchange)) as running:
            for attempt in (1, 2, 3):
                await until_agreed(ledger, exchange)
                await until(lambda: len(exchange.subscribed()) == 1)
                assert attempt == exchange.auths_accepted
                exchange.reset_all()
                await until(lambda n=attempt: running.health()[0].reconnects == n)  # type: ignore[misc]
        posted = [json.loads(each.body)["signature"] for each in exchange.requests if each.method == "POST"]
        assert len(posted) >= 3
        assert len(set(posted)) == len(posted)
        assert len(set(exchange.tokens)) == len(exchange.tokens)


@pytest.mark.few(1)
@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_a_refusal_that_passes_is_no_refusal_of_the_login(status: int) -> None:
    with exchange_of(BitoPro) as exchange, Ledger() as ledger:
        exchange.refuse(5, status)
        async with live(ledger, feed_of(exchange)) as running:
            await until_agreed(ledger, exchange)
            assert 5 == running.health()[0].reconnects
        assert 5 == exchange.logins_refused


async def test_a_clock_that_is_off_is_no_wrong_login() -> None:
    with exchange_of(BitoPro) as exchange, Ledger() as ledger:
        exchange.skew_ms = 120_000
        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: exchange.logins_refused >= 5)
            assert running.health()[0].state != "refused"
            assert "HTTP 409" in running.health()[0].reason
            exchange.skew_ms = 0
            await until_agreed(ledger, exchange)


async def test_a_venue_that_says_when_to_come_again_is_obeyed() -> None:
    kinds = (BitoPro, KrakenPrime, Cascade, Pacifica)
    exchanges = [exchange_of(kind) for kind in kinds]
    bito, kraken, wallet, history = exchanges
    with bito, kraken, wallet, history, Ledger() as ledger:
        for exchange, status in zip(exchanges, (403, 503, 429, 503), strict=True):
            exchange.refuse(1, status, retry_after=1)
        async with live(ledger, *map(feed_of, exchanges)):
            await until(lambda: all(each.logins_refused == 1 for each in exchanges))
            await anyio.sleep(0.6)
            assert [0] * 4 == [each.logins_accepted for each in exchanges]
            await until_agreed(ledger, *exchanges)
        assert [1] * 4 == [each.logins_refused for each in exchanges]


# TLS -----------------------------------------------------------------------------------------------------------------


async def test_tls_is_spoken_where_the_authority_is_trusted(authority: trustme.CA) -> None:
    tls, trusting = server_tls(authority, "127.0.0.1"), client_tls(authority)
    exchanges = [exchange_of(kind, tls) for kind in KINDS]
    bito, kraken, wallet, delta, history = exchanges
    with bito, kraken, wallet, delta, history, Ledger() as ledger:
        async with live(ledger, *(feed_of(each, tls=trusting) for each in exchanges)):
            await until_agreed(ledger, *exchanges)


def expired(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    day = datetime.now(UTC)
    authority.issue_cert(
        "127.0.0.1", not_before=day - timedelta(days=9), not_after=day - timedelta(days=1)
    ).configure_cert(context)
    return context


@pytest.mark.few(0)
@pytest.mark.parametrize("wrong", ["authority", "name", "date"])
async def test_a_certificate_that_cannot_be_trusted_gets_no_byte(authority: trustme.CA, wrong: str) -> None:
    tls = expired(authority) if wrong == "date" else None
    tls = tls or server_tls(authority, "venue.example" if wrong == "name" else "127.0.0.1")
    trusting = None if wrong == "authority" else client_tls(authority)
    exchanges = [exchange_of(kind, tls) for kind in KINDS if kind is not Cascade]
    bito, kraken, delta, history = exchanges
    with bito, kraken, delta, history, Ledger() as ledger:
        async with live(ledger, *(feed_of(each, tls=trusting) for each in exchanges)) as running:
            for number in range(len(exchanges)):
                await until(lambda n=number: "TLS: certificate verify failed" in running.health()[n].reason)  # type: ignore[misc]
                await until(lambda n=number: running.health()[n].reconnects > 3)  # type: ignore[misc]
                assert running.health()[number].state in ("waiting", "connecting")
        assert [[]] * 4 == [each.requests for each in exchanges]
        assert not list(ledger.replay())


async def test_a_wallet_signs_nothing_for_a_certificate_that_cannot_be_trusted(authority: trustme.CA) -> None:
    tls = server_tls(authority, "127.0.0.1")
    with exchange_of(Cascade, tls) as exchange, Ledger() as ledger:
        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: running.health()[0].reconnects > 3)
            assert "TLS: certificate verify failed" in running.health()[0].reason
        assert not exchange.requests


@pytest.mark.parametrize("kind", [BitoPro, Pacifica], ids=id_of)
def test_a_feed_does_not_take_a_context_that_does_not_look(kind: type[Exchange]) -> None:
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    with exchange_of(kind) as exchange, pytest.raises(ValueError, match="does not verify"):
        feed_of(exchange, tls=careless)


# Health --------------------------------------------------------------------------------------------------------------


async def test_the_health_of_a_feed_tells_how_it_is() -> None:
    began = time.time_ns()
    with exchange_of(BitoPro) as exchange, Ledger() as ledger:

        def health() -> Health:
            return running.health()[0]

        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: health().frames == 1)
            first = health()
            assert ("bitopro:main", "live", "") == (first.account, first.state, first.reason)
            assert (1, 1, 0, 0, 0, 0) == (
                first.frames,
                first.recorded,
                first.duplicates,
                first.quarantined,
                first.reconnects,
                first.unstored,
            )
            assert first.last_frame_ns is not None
            assert began < first.since_ns < time.time_ns()
            assert began < first.last_frame_ns < time.time_ns()
            assert 0 < first.lag_s < 2
            assert first.session == events(ledger, SessionOpened)[0].source.session
            exchange.send_all("no json")
            await until(lambda: health().frames == 2)
            assert (1, first.since_ns) == (health().quarantined, health().since_ns)
            assert (health().last_frame_ns or 0) > first.last_frame_ns
            exchange.refuse(1, 503, retry_after=1)
            exchange.close_all(1001, "bye")
            await until(lambda: "HTTP 503" in health().reason)
            assert ("waiting", 1) == (health().state, health().reconnects)
            await until(lambda: health().state == "live" and health().frames == 3)
            assert (2, 2, 1, "") == (
                health().reconnects,
                health().recorded,
                health().quarantined,
                health().reason,
            )
            assert health().since_ns > first.since_ns
        assert ("stopped", "stopped") == (health().state, health().reason)
        causes = [each.cause for each in events(ledger, SessionClosed)]
        assert causes == ["closed by the venue: 1001 bye", "stopped"]
