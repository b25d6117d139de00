"""What the five venues said live, again: told twice by the venue, or played from the tapes that were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import asdict

from ledger import Ledger, Recorded
from ledger.events import FillRecorded, FrameQuarantined, OrderUpdated
from ledger.venues import pacifica
from projections import Balances, Fills
from tests.exchanges import BitoPro, Cascade, DeltaDefi, Exchange, KrakenPrime, Pacifica
from tests.test_venues_live import (
    KINDS,
    WALLET,
    anyio_backend,
    change,
    events,
    exchange_of,
    feed_of,
    id_of,
    quick,
    shown,
    statements,
    until,
    until_agreed,
)
from transports import Feed, live, open_recording, play, replay

__all__ = ["anyio_backend", "quick"]

EACH = pytest.mark.parametrize("kind", KINDS, ids=id_of)


@pytest.fixture(autouse=True)
def polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacifica, "POLL_S", 0.1)


def break_off(exchange: Exchange) -> None:
    """End what is open; the next request, too, where that is all there is."""
    exchange.refuse(1, 503)
    exchange.reset_all()


async def lived(ledger: Ledger, exchange: Exchange, feed: Feed) -> None:
    """Two conversations, with what a venue says in them: balances, orders, errors that show what it was sent."""
    async with live(ledger, feed) as running:
        await until_agreed(ledger, exchange)
        change(exchange, "5.5")
        if isinstance(exchange, DeltaDefi):
            exchange.push_fills(2)
            exchange.push_fills(1, generation=1)
            exchange.send_all(json.dumps({"error": f"bad {exchange.api_key}", "code": 1}))
        elif isinstance(exchange, Cascade):
            told = {"code": -1, "message": f"no {exchange.tokens[0]}, {WALLET.key.hex()}"}
            exchange.send_all(json.dumps({"jsonrpc": "2.0", "error": told, "id": None}))
        elif isinstance(exchange, KrakenPrime):
            exchange.skip(1)
            exchange.set("XRP", "7")
            exchange.send_error(3, f"not {exchange.secret} nor {exchange.key}")
        elif isinstance(exchange, BitoPro):
            exchange.send_all(json.dumps({"error": f"not {exchange.secret} nor {exchange.key}"}))
            exchange.send_all(b"\xff\xfe no text")
        change(exchange, "6.5")
        await until_agreed(ledger, exchange)
        break_off(exchange)
        change(exchange, "7.25")
        await until_agreed(ledger, exchange)
        await until(lambda: "live" == running.health()[0].state)


def facts(recorded: list[Recorded]) -> list[tuple[str, int, type, dict[str, Any]]]:
    """Account, version, kind and every field, the source with its times, session and question too."""
    return [
        (each.account, each.version, type(each.event), {**asdict(each.event), "source": each.event.source})
        for each in recorded
    ]


def secrets(exchange: Exchange, feed: Feed) -> list[bytes]:
    tokens = exchange.tokens if isinstance(exchange, Cascade) else []
    return [text.removeprefix("0x").encode() for text in (*feed.secrets, *tokens)]


@EACH
async def test_the_tapes_ingested_are_what_was_lived(kind: type[Exchange], tmp_path: Path) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        feed = feed_of(exchange, tapes=tmp_path, **({"key": "test-pacifica-key"} if kind is Pacifica else {}))
        if isinstance(exchange, Pacifica):
            exchange.api_key = "test-pacifica-key"
        await lived(ledger, exchange, feed)
        files = sorted(tmp_path.iterdir(), key=lambda file: open_times(file))
        assert len(files) >= 2
        hidden = secrets(exchange, feed)
        assert hidden
        for file in files:
            tape = file.read_bytes()
            assert not [each for each in hidden if each in tape]
            assert all(each not in file.name.encode() for each in hidden)
        for each in ledger.replay():
            assert not [text for text in hidden if text in (ledger.evidence(each) or b"")]
            assert not [text for text in hidden if text in repr(each.event).encode()]
        with Ledger() as again:
            ingest(again, feed, files)
            assert facts(list(ledger.replay())) == facts(list(again.replay()))
            assert shown(Balances(ledger)) == shown(Balances(again))
            ingest(again, feed, files)
            assert facts(list(ledger.replay())) == facts(list(again.replay()))
        with Ledger() as again:
            await replayed(again, feed, files)
            assert facts(statements(ledger)) == _as_numbered(again, ledger)
            assert shown(Balances(ledger)) == shown(Balances(again))


def _as_numbered(again: Ledger, ledger: Ledger) -> list[tuple[str, int, type, dict[str, Any]]]:
    """The facts of a replay. Its records of sessions are as many, so the versions are the same."""
    assert len(list(again.replay())) == len(list(ledger.replay()))
    return facts(statements(again))


def open_times(file: Path) -> int:
    with open_recording(file) as recording:
        assert recording.opened_ns is not None
        return recording.opened_ns


def ingest(ledger: Ledger, feed: Feed, files: list[Path]) -> None:
    """As the command line does it."""
    for file in files:
        with open_recording(file) as recording:
            assert (feed.venue.NAME, feed.account) == (recording.venue, recording.account)
            with ledger.intake(
                feed.venue, feed.account, session=recording.session, opened_ns=recording.opened_ns
            ) as intake:
                play(recording, intake)


async def replayed(ledger: Ledger, feed: Feed, files: list[Path]) -> None:
    """Each tape as a venue that is listened to; twice, which changes nothing."""
    for file in (each for each in files for _ in range(2)):
        async with live(ledger, Feed(feed.venue, feed.account, connect=replay(file))) as running:
            with anyio.fail_after(10):
                await running.ended()


# Told twice ----------------------------------------------------------------------------------------------------------


def again_of(exchange: Exchange) -> list[str | bytes]:
    """What the venue said on its connections that can be known again: all, or what has an identity."""
    said = [each for served in exchange.connections for each in served.sent]
    if isinstance(exchange, DeltaDefi):  # balances have none: said again, they are said anew
        return [each for each in said if "order_info" in str(each) or "trading_history" in str(each)]
    if isinstance(exchange, Cascade):
        return [each for each in said if "Balance Update" in str(each)]
    if isinstance(exchange, BitoPro):
        return [each for served in exchange.connections for each in served.sent[1:]]
    return [each for each in said if "hello" not in str(each)]


@EACH
async def test_what_is_told_again_after_a_reconnection_changes_nothing(kind: type[Exchange]) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        login: dict[str, str] = {}
        if isinstance(
            exchange, Pacifica
        ):  # without a key so few requests are allowed that the test would wait
            login["key"] = exchange.api_key = "test-pacifica-key"
        async with live(ledger, feed_of(exchange, **login)) as running:
            await until_agreed(ledger, exchange)
            for amount in ("2.5", "3.5"):
                change(exchange, amount)
            if isinstance(exchange, DeltaDefi):
                exchange.push_fills(3)
                exchange.push_fills(2, generation=1)
            await until_agreed(ledger, exchange)
            again = again_of(exchange)
            break_off(exchange)
            await until(lambda: "live" == running.health()[0].state and running.health()[0].reconnects > 0)
            change(exchange, "4.5")
            await until_agreed(ledger, exchange)
            requests = len(exchange.requests)
            if kind is Pacifica:  # after a walk the account is asked once what it holds: that is told, too
                await until(lambda: len(exchange.requests) > requests + 2)
            else:
                await anyio.sleep(0.3)  # what was asked after the reconnection is told, too
            before, frames = told(ledger), running.health()[0].frames
            requests = len(exchange.requests)
            for message in again:
                exchange.send_all(message)
            await until(lambda: running.health()[0].frames >= frames + len(again))
            if kind is Pacifica:
                await until(lambda: len(exchange.requests) > requests + 2)
            assert before == told(ledger)
            await until_agreed(ledger, exchange)
        assert not events(ledger, FrameQuarantined)
        if isinstance(exchange, DeltaDefi):
            assert sorted(each["id"] for each in exchange.fills) == sorted(
                row.fill_id for row in Fills(ledger).rows()
            )
            assert 5 == len(events(ledger, FillRecorded))
            states = {each.key for each in events(ledger, OrderUpdated)}
            assert 5 == len(states) == len(events(ledger, OrderUpdated))


def told(ledger: Ledger) -> int:
    """How many statements there are, but for the account's own balance, which is asked for now and then."""
    return len([each for each in statements(ledger) if each.event.source.channel != "account"])


@EACH
async def test_a_feed_that_is_started_again_goes_on_where_it_was(
    kind: type[Exchange], tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    with exchange_of(kind) as exchange:
        for amount in ("2.5", "3.5", "4.5"):
            change(exchange, amount)
            with Ledger(path) as ledger:
                async with live(ledger, feed_of(exchange)):
                    await until_agreed(ledger, exchange)
                assert not events(ledger, FrameQuarantined)
        with Ledger(path, read_only=True) as ledger:
            rows = len(exchange.rows) if isinstance(exchange, Pacifica) else 0
            if rows:
                assert rows == told(ledger)
