"""What is held when a stream begins, live: Kraken Prime pages and sequences, DeltaDeFi and Cascade ask over REST."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from ledger import Ledger
from ledger.events import BalanceDelta, BalanceSnapshot, FrameQuarantined, SessionClosed
from ledger.venue import Wait
from ledger.venues import cascade, deltadefi
from projections import Balances, Gaps
from tests.exchanges import Cascade, DeltaDefi, Exchange, Hold, KrakenPrime, Served
from tests.exchanges.cascade import BALANCE as CASCADE_BALANCE
from tests.exchanges.cascade import Session
from tests.exchanges.deltadefi import BALANCE as DELTADEFI_BALANCE
from tests.test_venues_live import (
    OWNER,
    anyio_backend,
    events,
    exchange_of,
    feed_of,
    id_of,
    quick,
    shown,
    truth,
    until,
    until_agreed,
)
from transports import http, live

__all__ = ["anyio_backend", "quick"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a conversation waits for is a fiftieth of what it is."""
    for venue in (cascade, deltadefi):
        monkeypatch.setattr(venue, "Wait", lambda seconds, reason="": Wait(seconds / 50, reason))


# Kraken Prime --------------------------------------------------------------------------------------------------------


def kraken_of(currencies: int, page_size: int | None = None) -> KrakenPrime:
    kraken = KrakenPrime(page_size=page_size)
    for number in range(currencies):
        kraken.set(f"C{number:02}", f"{number}.00000001", f"{number}")
    return kraken


def said_by_us(kraken: KrakenPrime) -> list[tuple[str, int]]:
    """What we asked for, on all connections, and under which number."""
    said = [json.loads(message) for served in kraken.connections for message in served.messages]
    return [(each["type"], each["reqid"]) for each in said]


@pytest.mark.parametrize("page_size", [1, 3, 7, None])
async def test_kraken_pages_until_the_baseline_is_whole(page_size: int | None) -> None:
    with kraken_of(7, page_size) as kraken, Ledger() as ledger:
        async with live(ledger, feed_of(kraken)):
            await until_agreed(ledger, kraken)
            kraken.remove("C00")
            await until_agreed(ledger, kraken)
        pages = {1: 6, 3: 2}.get(page_size or 7, 0)
        assert said_by_us(kraken) == [("subscribe", 1), *[("page", 1)] * pages]
        snapshots = events(ledger, BalanceSnapshot)
        assert [each.more for each in snapshots] == [True] * pages + [False]
        assert not kraken.errors_sent


@pytest.mark.parametrize("spelling", ["seqNum", "seq"])
async def test_kraken_after_a_hole_gives_a_new_baseline_and_the_gap_is_recorded(spelling: str) -> None:
    with kraken_of(4, 2) as kraken, Ledger() as ledger:
        kraken.seq_key = spelling
        async with live(ledger, feed_of(kraken)) as running:
            await until_agreed(ledger, kraken)
            kraken.skip(2)
            kraken.set("C01", "77")
            kraken.remove("C02")
            kraken.set("C03", "78")
            await until_agreed(ledger, kraken)
            await until(lambda: [2] == [each.reqid for each in kraken.subscriptions])
            assert 0 == running.health()[0].reconnects
        asked = said_by_us(kraken)
        assert asked == [("subscribe", 1), ("page", 1), ("subscribe", 2), ("page", 2), ("cancel", 1)]
        (gap,) = Gaps(ledger).rows()
        assert ("3", "4") == (gap.start, gap.end)
        assert gap.subscription == f"{kraken.sessions[0]}/1"
        assert not kraken.errors_sent


async def test_kraken_never_sees_a_request_number_twice_over_reconnects_and_restarts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with kraken_of(2) as kraken:
        for restart in (1, 2, 3):
            with Ledger(path) as ledger:
                async with live(ledger, feed_of(kraken)) as running:
                    for reconnect in (0, 1):
                        await until(lambda n=reconnect: n == running.health()[0].reconnects)  # type: ignore[misc]
                        await until(lambda n=2 * restart - 1 + reconnect: len(kraken.reqids) == n)  # type: ignore[misc]
                        await until_agreed(ledger, kraken)
                        if not reconnect:
                            kraken.set("C00", f"{restart}.5", push=False)
                            kraken.reset_all()
        assert [("subscribe", number) for number in range(1, 7)] == said_by_us(kraken)
        assert not kraken.errors_sent


async def test_kraken_saying_a_message_twice_changes_nothing() -> None:
    with kraken_of(3) as kraken, Ledger() as ledger:
        async with live(ledger, feed_of(kraken)) as running:
            await until_agreed(ledger, kraken)
            kraken.set("C00", "5")
            kraken.set("C00", "6")
            await until_agreed(ledger, kraken)
            before = ledger.position()
            for message in kraken.live[0].sent[-2:]:
                kraken.send_all(message)
            # The same number again, and said at another time.
            again = json.loads(kraken.live[0].sent[-3])
            kraken.send_all(json.dumps({**again, "ts": "2026-01-01T00:00:00.000000Z"}))
            await until(lambda: running.health()[0].frames == 7)
            assert 2 == running.health()[0].duplicates
            assert before + 1 == ledger.position()
            kraken.set("C01", "7")
            await until_agreed(ledger, kraken)
        assert [("subscribe", 1)] == said_by_us(kraken)
        assert not Gaps(ledger).rows()


async def test_kraken_refusing_the_subscription_is_no_end_and_its_reason_is_told() -> None:
    with kraken_of(2) as kraken, Ledger() as ledger:
        kraken.reqids.update((1, 2))
        async with live(ledger, feed_of(kraken)) as running:
            await until_agreed(ledger, kraken)
            assert 2 == running.health()[0].reconnects
            kraken.send_error(77, "something else")
            kraken.set("C00", "9")
            await until_agreed(ledger, kraken)
            assert "live" == running.health()[0].state
        causes = [each.cause for each in events(ledger, SessionClosed)]
        assert ["the venue refused the subscription: 5: reqid was used before"] * 2 + ["stopped"] == causes
        reasons = [each.reason for each in events(ledger, FrameQuarantined)]
        assert reasons == ["venue error 5: reqid was used before"] * 2 + ["venue error 77: something else"]


async def test_kraken_a_second_hole_is_mended_also_where_nothing_more_is_said() -> None:
    with kraken_of(4) as kraken, Ledger() as ledger:
        async with live(ledger, feed_of(kraken)):
            await until_agreed(ledger, kraken)
            for number, asked in ((2, 2), (3, 3)):
                # What is skipped shall be of the subscription that counts, not of the one it replaces.
                await until(lambda: len(kraken.subscriptions) == 1)
                kraken.skip(1)
                kraken.set("C00", f"{number}")
                kraken.set("C01", f"{number}")  # tells of the hole; then the venue is quiet
                await until(lambda n=asked: len(kraken.reqids) == n, 2)  # type: ignore[misc]
                await until_agreed(ledger, kraken)


class Unpaging(KrakenPrime):
    """Does not know its own pages, the first time."""

    refused = 0

    def _page(self, served: Served, reqid: int, said: dict[str, Any]) -> None:
        self.refused += 1
        if self.refused == 1:
            self._error(served, 8, "bad page request", reqid)
        else:
            super()._page(served, reqid, said)


async def test_kraken_a_page_that_is_refused_leaves_no_baseline_that_is_not_whole() -> None:
    with Unpaging(page_size=2) as kraken, Ledger() as ledger:
        for number in range(3):
            kraken.set(f"C{number}", "1")
        async with live(ledger, feed_of(kraken)):
            await until(lambda: kraken.refused > 0)
            await until_agreed(ledger, kraken, seconds=1.5)


class Interrupting(KrakenPrime):
    """Says something between two pages of the second baseline; the third page of it is late."""

    late: Callable[[], None] | None = None

    def _page(self, served: Served, reqid: int, said: dict[str, Any]) -> None:
        if reqid == 2 and self.late is None:
            self.set("C00", "55")
            self.late = lambda: KrakenPrime._page(self, served, reqid, said)
        else:
            super()._page(served, reqid, said)


async def test_kraken_keeps_the_old_subscription_until_the_new_baseline_is_whole() -> None:
    with Interrupting(page_size=2) as kraken, Ledger() as ledger:
        for number in range(4):
            kraken.set(f"C{number:02}", "1")
        async with live(ledger, feed_of(kraken)) as running:
            await until_agreed(ledger, kraken)
            kraken.skip(1)
            kraken.set("C01", "2")
            kraken.set("C02", "3")
            await until(lambda: kraken.late is not None)
            frames = running.health()[0].frames
            await until(lambda: running.health()[0].frames >= frames)
            await anyio.sleep(0.1)
            assert [1, 2] == [each.reqid for each in kraken.subscriptions]
            assert kraken.late is not None
            with kraken.lock:
                kraken.late()
            await until(lambda: [2] == [each.reqid for each in kraken.subscriptions])
            await until_agreed(ledger, kraken)


# DeltaDeFi and Cascade -----------------------------------------------------------------------------------------------

REST: Final[dict[type[Exchange], str]] = {DeltaDefi: DELTADEFI_BALANCE, Cascade: CASCADE_BALANCE}
ASKING = pytest.mark.parametrize("kind", [DeltaDefi, Cascade], ids=id_of)


def move(exchange: Exchange, first: str, second: str | None = None, *, push: bool = True) -> None:
    """The first asset (subaccount) changes, and the second."""
    for number, total in enumerate(filter(None, (first, second))):
        if isinstance(exchange, DeltaDefi):
            exchange.set(("ADA", "USDM")[number], total, unit=("", "c0ff.ee")[number], push=push)
        elif isinstance(exchange, Cascade):
            exchange.set(number, total, push=push)


def channels(ledger: Ledger) -> list[str]:
    return [each.source.channel for each in events(ledger, BalanceDelta)]


@ASKING
async def test_what_is_pushed_while_the_answer_is_held_is_what_is_shown(kind: type[Exchange]) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        hold = exchange.hold(REST[kind])
        async with live(ledger, feed_of(exchange)):
            await _pushed_before_the_answer(ledger, exchange, hold)
            hold = exchange.hold(REST[kind])
            exchange.reset_all()
            move(exchange, "4", "5", push=False)  # missed: only the answer tells
            await _pushed_before_the_answer(ledger, exchange, hold)
            move(exchange, "1", "2")
            await until_agreed(ledger, exchange)


async def _pushed_before_the_answer(ledger: Ledger, exchange: Exchange, hold: Hold) -> None:
    await until(hold.asked.is_set)
    before = len(channels(ledger))
    move(exchange, f"33.{before}")
    await until(lambda: len(channels(ledger)) == before + 1)
    hold.release()
    await until_agreed(ledger, exchange)
    first, *answers = channels(ledger)[before:]
    assert "balance" == first
    assert answers
    assert {"rest", "accounts/balance"} >= set(answers)


@ASKING
@pytest.mark.parametrize(("status", "times"), [(403, 2), (503, 3), (500, 3)])
async def test_pushes_are_stored_while_rest_fails_and_the_baseline_is_asked_for_again(
    kind: type[Exchange], status: int, times: int
) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        exchange.refuse(times, status, path=REST[kind])
        hold = exchange.hold(REST[kind])
        async with live(ledger, feed_of(exchange)) as running:
            await until(hold.asked.is_set)
            move(exchange, "8")
            await until(lambda: "balance" in channels(ledger))
            assert ["balance"] == channels(ledger)
            hold.release()
            await until_agreed(ledger, exchange)
            assert 0 == running.health()[0].reconnects
        refused = [each.status for each in exchange.requests if each.path == REST[kind]]
        assert refused[:times] == [status] * times
        assert not events(ledger, FrameQuarantined)


@ASKING
async def test_a_baseline_refused_three_times_in_a_row_is_asked_for_in_another_conversation(
    kind: type[Exchange],
) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        exchange.refuse(3, 403, path=REST[kind])
        async with live(ledger, feed_of(exchange)) as running:
            await until_agreed(ledger, exchange)
            assert ("live", 1) == (running.health()[0].state, running.health()[0].reconnects)
        assert "baseline refused: HTTP 403" == events(ledger, SessionClosed)[0].cause


@ASKING
async def test_pushes_are_stored_while_rest_does_not_answer_in_time(
    kind: type[Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ASK_S", 0.3)
    with exchange_of(kind) as exchange, Ledger() as ledger:
        hold = exchange.hold(REST[kind], stale=False)
        async with live(ledger, feed_of(exchange)) as running:
            await until(lambda: 2 <= sum(each.path == REST[kind] for each in exchange.requests))
            move(exchange, "8", "9")
            await until_agreed(ledger, exchange)
            assert {"balance"} == set(channels(ledger))
            hold.release()
            move(exchange, "10", "11")
            # Cascade's answer is the very statement that was pushed: a duplicate.
            await until(lambda: len(set(channels(ledger))) == 2 or running.health()[0].duplicates == 2)
            await until_agreed(ledger, exchange)
            assert 0 == running.health()[0].reconnects


@ASKING
async def test_what_changed_while_disconnected_is_there_after_the_reconnection(kind: type[Exchange]) -> None:
    with exchange_of(kind) as exchange, Ledger() as ledger:
        async with live(ledger, feed_of(exchange)):
            await until_agreed(ledger, exchange)
            for total in ("3", "4"):
                exchange.refuse(2, 503)
                exchange.close_all()
                move(exchange, total, total, push=False)
                await until_agreed(ledger, exchange)


async def test_a_spelling_of_a_unit_is_no_other_asset() -> None:
    with exchange_of(DeltaDefi) as exchange, Ledger() as ledger:
        assert isinstance(exchange, DeltaDefi)
        async with live(ledger, feed_of(exchange)):
            await until_agreed(ledger, exchange)
            exchange.set("USDM", "9", "8", unit="C0FFEE")
            await until_agreed(ledger, exchange)


# Cascade alone -------------------------------------------------------------------------------------------------------


class Difficult(Cascade):
    """Answers the next requests to log in, or to subscribe, as told."""

    auths: tuple[int, str] | None = None
    subscriptions: tuple[int, str] | None = None
    times = 0

    def _auth(self, session: Session, params: dict[str, Any]) -> str | tuple[int, str]:
        outcome = super()._auth(session, params)
        return self._told(outcome, self.auths)

    def _subscription(self, session: Session, method: str, params: dict[str, Any]) -> str | tuple[int, str]:
        outcome = super()._subscription(session, method, params)
        return self._told(outcome, self.subscriptions)

    def _told(self, outcome: str | tuple[int, str], told: tuple[int, str] | None) -> str | tuple[int, str]:
        if told is None or not self.times:
            return outcome
        self.times -= 1
        return told


def difficult(**held: str) -> Difficult:
    wallet = Difficult(OWNER)
    for number, total in held.items():
        wallet.set(int(number[1:]), total)
    return wallet


@pytest.mark.parametrize("field", ["auths", "subscriptions"])
@pytest.mark.parametrize(
    "error", [(-32602, "Invalid subscription params"), (-32000, "Authentication required")]
)
async def test_cascade_refusing_three_times_is_the_end_and_its_words_are_told(
    field: str, error: tuple[int, str]
) -> None:
    with difficult(s0="1") as wallet, Ledger() as ledger:
        setattr(wallet, field, error)
        wallet.times = 100
        async with live(ledger, feed_of(wallet)) as running:
            await until(lambda: running.health()[0].state == "refused")
            assert f"{error[0]}: {error[1]}" in running.health()[0].reason
            assert 97 == wallet.times


async def test_cascade_already_subscribed_is_subscribed() -> None:
    with difficult(s0="1", s1="2") as wallet, Ledger() as ledger:
        wallet.subscriptions, wallet.times = (-32602, "already subscribed"), 1
        async with live(ledger, feed_of(wallet)) as running:
            await until_agreed(ledger, wallet)
            wallet.set(0, "3")
            await until_agreed(ledger, wallet)
            assert ("live", 0) == (running.health()[0].state, running.health()[0].reconnects)


async def test_cascade_ending_the_login_is_logged_in_to_again() -> None:
    with difficult(s0="1", s1="2") as wallet, Ledger() as ledger:
        async with live(ledger, feed_of(wallet)) as running:
            await until_agreed(ledger, wallet)
            await until(lambda: "live" == running.health()[0].state)
            wallet.revoke()
            wallet.set(1, "5", push=False)
            ended = {"code": -32000, "message": "Token expired"}
            wallet.send_all(json.dumps({"jsonrpc": "2.0", "error": ended, "id": None}))
            await until_agreed(ledger, wallet)
            assert 1 == running.health()[0].reconnects
        assert 2 == len(wallet.tokens) == wallet.auths_accepted
        assert ["venue error -32000: Token expired"] == [
            each.reason for each in events(ledger, FrameQuarantined)
        ]


async def test_cascade_a_token_revoked_before_the_baseline_is_replaced() -> None:
    with difficult(s0="1", s1="2") as wallet, Ledger() as ledger:
        hold = wallet.hold(CASCADE_BALANCE, stale=False)
        async with live(ledger, feed_of(wallet)) as running:
            await until(hold.asked.is_set)
            wallet.revoke()
            hold.release()
            await until_agreed(ledger, wallet)
            assert 1 == running.health()[0].reconnects


async def test_cascade_a_token_is_renewed_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "EXPIRY_NS", 300_000_000)
    with Cascade(OWNER, token_life_s=2) as wallet, Ledger() as ledger:
        wallet.set(0, "1")
        async with live(ledger, feed_of(wallet, subaccounts=())) as running:
            for number in range(60):
                wallet.set(0, f"{number}")
                await until_agreed(ledger, wallet)
                await anyio.sleep(0.05)
                if len(wallet.tokens) > 1:
                    break
            await until(lambda: wallet.auths_accepted > 1)
            assert 2 == len(wallet.tokens) == wallet.auths_accepted
            await until(lambda: running.health()[0].reconnects == 1)
        assert "the token expires" == events(ledger, SessionClosed)[0].cause


async def test_cascade_tokens_that_live_shorter_than_the_renewal_margin_can_be_used() -> None:
    with Cascade(OWNER, token_life_s=30) as wallet, Ledger() as ledger:
        wallet.set(0, "1")
        async with live(ledger, feed_of(wallet, subaccounts=())):
            await until(lambda: bool(wallet.subscribed()), 1)
            await until_agreed(ledger, wallet)


@pytest.mark.parametrize("subaccounts", [(), (0, 2), (2,)])
async def test_cascade_subaccounts_all_or_those_named(subaccounts: tuple[int, ...]) -> None:
    with difficult(s0="1", s1="2", s2="3") as wallet, Ledger() as ledger:
        async with live(ledger, feed_of(wallet, subaccounts=subaccounts)):
            await until(lambda: bool(wallet.subscribed()))
            await until(lambda: bool(events(ledger, BalanceDelta)))
            for number in (0, 1, 2):
                wallet.set(number, f"{number}.5")
            wanted = {f"cascade:{OWNER.lower()}/{number}" for number in subaccounts or (0, 1, 2)}
            balances = Balances(ledger)
            await until(
                lambda: [f"{n}.5" for n in subaccounts or (0, 1, 2)] == [r.total for r in balances.rows()]
            )
            assert wanted == {row.account for row in balances.rows()}
        (subscribed,) = [
            json.loads(each) for each in wallet.connections[0].messages if b"subscribe" in _raw(each)
        ]
        assert subscribed["params"]["subaccountIndices"] == list(subaccounts)


def _raw(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


async def test_cascade_where_all_are_wanted_one_named_for_the_first_time_is_asked_for() -> None:
    with difficult(s0="1") as wallet, Ledger() as ledger:
        async with live(ledger, feed_of(wallet, subaccounts=())):
            await until_agreed(ledger, wallet)
            wallet.set(7, "70")
            await until(lambda: any(each.query.get("subaccountIndex") == "7" for each in wallet.requests))
            await until_agreed(ledger, wallet)
        assert not events(ledger, FrameQuarantined)


async def test_cascade_an_address_in_capitals_and_one_without_are_one_account() -> None:
    with difficult(s0="1", s1="2") as wallet, Ledger() as ledger:
        for address in (OWNER, OWNER.lower()):
            assert address != OWNER.upper()
            async with live(ledger, feed_of(wallet, account=address.lower(), address=address)):
                await until_agreed(ledger, wallet)
                wallet.set(0, f"3.{len(wallet.tokens)}")
                await until_agreed(ledger, wallet)
        held = {account for account, _ in shown(Balances(ledger))}
        assert held == {f"cascade:{OWNER.lower()}/0", f"cascade:{OWNER.lower()}/1"}
        assert truth(wallet) == shown(Balances(ledger))


async def test_cascade_without_a_subaccount_that_was_asked_for_tells_the_others_and_renews_its_login() -> (
    None
):
    with difficult(s1="1") as wallet, Ledger() as ledger:
        async with live(ledger, feed_of(wallet, subaccounts=())):
            await until(lambda: any(each.status == 404 for each in wallet.requests))
            wallet.set(1, "5")
            await until_agreed(ledger, wallet)
            wallet.revoke()
            await until(lambda: len(wallet.tokens) == 2, 3)
