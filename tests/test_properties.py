"""What must stay true of any sequence of frames: batching, redelivery and restarts change nothing; replay equals live.

Every frame carries an amount of its own, so a lost, doubled or swapped one changes the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from ledger import Ledger, Venue
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from projections import Balances, Fills, Gaps, History, Orders, Projection, Quarantine, compare

T0_MS = 1_790_000_000_000
Session = tuple[Venue, str, list[bytes]]

assets = st.sampled_from(["ADA", "BTC", "ETH"])
ticks = st.integers(0, 6)
amounts = st.decimals(min_value="-1000", max_value="1000", places=8, allow_nan=False).map(lambda d: f"{d:f}")


def _bitopro(draw: st.DrawFn) -> bytes:
    held = draw(st.dictionaries(assets, amounts, min_size=1))
    data = {
        asset: {"currency": asset, "amount": total, "available": total, "stake": "0", "tradable": True}
        for asset, total in held.items()
    }
    return _json({"event": "ACCOUNT_BALANCE", "timestamp": T0_MS + draw(ticks), "data": data})


def _kraken(draw: st.DrawFn) -> bytes:
    held = draw(st.dictionaries(assets, amounts))
    shape: dict[str, Any] = draw(
        st.sampled_from([{"initial": True}, {"initial": True, "next": "n"}, {}, {"action": "Remove"}])
    )
    data = [{"Currency": asset, "Amount": total, "AvailableAmount": total} for asset, total in held.items()]
    ts = f"2026-01-02T03:04:05.{draw(ticks):06d}Z"
    return _json({"reqid": 1, "type": "Balance", "ts": ts, "seqNum": draw(ticks), **shape, "data": data})


def _cascade(draw: st.DrawFn) -> bytes:
    data = {"account": "0xAB", "subaccountIndex": draw(st.integers(0, 1)), "balance": draw(amounts)}
    return _json({"type": "Balance Update", "data": {**data, "updatedAt": T0_MS + draw(ticks)}})


def _deltadefi(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        held = draw(st.dictionaries(assets, amounts, min_size=1))
        rows = [{"asset": a, "asset_unit": a, "free": total, "locked": 0} for a, total in held.items()]
        return _json({"type": "Account", "sub_type": "balance", "balance": rows})
    number, done = draw(st.integers(0, 2)), draw(st.integers(0, 3))
    fills = [
        {
            "id": f"{number}-{n}",
            "account_id": "a",
            "order_id": f"o-{number}",
            "execution_price": "0.5",
            "filled_base_qty": f"{n}.5",
            "filled_quote_qty": "1",
            "commission_unit": "",
            "commission": "0",
            "role": "maker",
            "counter_party_order_id": "x",
            "created_at": f"2026-01-01T00:00:0{n}Z",
        }
        for n in range(done)
    ]
    order = {
        "id": f"o-{number}",
        "account_id": "a",
        "status": draw(st.sampled_from(["open", "closed", "cancelled"])),
        "symbol": "ADAUSDM",
        "base_qty": "10",
        "quote_qty": "5",
        "side": "buy",
        "price": "0.5",
        "type": "limit",
        "locked_base_qty": "0",
        "locked_quote_qty": "0",
        "executed_base_qty": str(done),
        "executed_quote_qty": "0",
        "ob_open_order_base_qty": "0",
        "commission_unit": "",
        "commission": "0",
        "commission_rate_bp": 10,
        "executed_price": "0",
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": f"2026-01-01T00:00:0{draw(ticks)}Z",
        "order_execution_records": fills,
    }
    return _json({"type": "Account", "sub_type": "order_info", "order": order})


CHAIN = [
    {
        "amount": f"{change}.25",
        "balance": f"{sum(range(1, change + 1)) + change // 4}.{(change % 4) * 25:02d}",
        "pending_balance": "0",
        "event_type": "trade",
        "created_at": T0_MS + change,
    }
    for change in range(1, 12)
]


def _pacifica(draw: st.DrawFn) -> bytes:
    first, length = draw(st.integers(0, len(CHAIN) - 1)), draw(st.integers(1, 6))
    page = CHAIN[first : first + length]
    return _json({"success": True, "data": page[::-1] if draw(st.booleans()) else page})


FRAMES: dict[str, tuple[Venue, Callable[[st.DrawFn], bytes]]] = {
    "bitopro": (bitopro, _bitopro),
    "kraken_prime": (kraken_prime, _kraken),
    "cascade": (cascade, _cascade),
    "deltadefi": (deltadefi, _deltadefi),
    "pacifica": (pacifica, _pacifica),
}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@st.composite
def conversations(draw: st.DrawFn) -> list[Session]:
    """Some conversations with some venues, garbage among the frames."""
    found: list[Session] = []
    for number in range(draw(st.integers(1, 3))):
        venue, frame = FRAMES[draw(st.sampled_from(sorted(FRAMES)))]
        frames = [
            b"garbage %d" % index if draw(st.integers(0, 9)) == 0 else frame(draw)
            for index in range(draw(st.integers(0, 12)))
        ]
        found.append((venue, f"session-{number}", frames))
    return found


PROJECTIONS = (Balances, Orders, Fills, History, Gaps, Quarantine)


def answers(ledger: Ledger) -> list[object]:
    """Balances, orders, fills and history as a reader sees them, without our own numbering."""
    tables = (Orders(ledger).rows(), Fills(ledger).rows(), History(ledger).rows())
    return [
        held(Balances(ledger).rows()),
        *(
            [
                tuple(getattr(row, name) for name in row.__struct_fields__ if name != "version")
                for row in sorted(rows, key=repr)
            ]
            for rows in tables
        ),
    ]


HELD = (
    "account",
    "asset_id",
    "asset",
    "total",
    "available",
    "locked",
    "staked",
    "pending",
    "tradable",
    "time_ns",
)


def held(rows: Sequence[Struct]) -> list[object]:
    """What is held. How complete that is may differ: who was restarted did not listen meanwhile."""
    return [tuple(getattr(row, name) for name in HELD) for row in rows]


def arrivals(session: Session, start: int = 0) -> list[tuple[bytes, int]]:
    """Frames with the time each came at, the same time whenever it is delivered again."""
    name = int(session[1].rpartition("-")[2])
    return [(frame, (T0_MS + 1000 * name + at) * 10**6) for at, frame in enumerate(session[2])][start:]


def clean_pass(sessions: Sequence[Session]) -> list[object]:
    with Ledger() as ledger:
        for venue, name, frames in sessions:
            with ledger.intake(venue, "main", session=name, opened_ns=T0_MS * 10**6) as intake:
                for payload, received_ns in arrivals((venue, name, frames)):
                    intake.receive(payload, received_ns)
        assert_replay_equals_live(ledger)
        return answers(ledger)


def assert_replay_equals_live(ledger: Ledger) -> None:
    with Ledger() as scratch:
        for projection in PROJECTIONS:
            live: Projection = projection(ledger)
            live.subscription.catch_up()
            fresh: Projection = projection(ledger, scratch)
            fresh.subscription.catch_up()
            assert [] == list(compare(live, fresh))


def assert_versions_have_no_holes(ledger: Ledger) -> None:
    versions: dict[str, int] = {}
    for recorded in ledger.replay():
        assert versions.get(recorded.account, 0) + 1 == recorded.version
        versions[recorded.account] = recorded.version


@contextmanager
def folder() -> Generator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@settings(max_examples=80, deadline=None)
@given(sessions=conversations(), data=st.data())
def test_any_batching_redelivery_and_restart_gives_the_ledger_of_one_clean_pass(
    sessions: list[Session], data: st.DataObject
) -> None:
    with folder() as place, ExitStack() as open_ones:
        ledger = open_ones.enter_context(Ledger(place / "a.db"))
        for venue, name, frames in sessions:
            session = (venue, name, frames)
            intake = ledger.intake(venue, "main", session=name, opened_ns=T0_MS * 10**6)
            at = 0
            while at < len(frames):
                size = data.draw(st.integers(1, 5))
                intake.receive_all(arrivals(session, at)[:size])
                at += size
                if data.draw(st.integers(0, 4)) == 4:  # the process dies here and starts the recording again
                    ledger.close()
                    ledger = open_ones.enter_context(Ledger(place / "a.db"))
                    Balances(ledger).rows()
                    intake = ledger.intake(venue, "main", session=name, opened_ns=T0_MS * 10**6)
                    at = 0
            intake.close()
            redeliver(ledger, session, data)
        assert clean_pass(sessions) == answers(ledger)
        assert_replay_equals_live(ledger)
        assert_versions_have_no_holes(ledger)


def redeliver(ledger: Ledger, session: Session, data: st.DataObject) -> None:
    """Deliver some frames again in a conversation of another name (a DeltaDeFi balance has nothing to be known by)."""
    venue, name, _ = session
    known = [
        arrival
        for arrival in arrivals(session)
        if not (arrival[0].startswith(b"garbage") or b'"sub_type": "balance"' in arrival[0])
    ]
    if not known or not data.draw(st.booleans()):
        return
    again = data.draw(st.lists(st.sampled_from(known), max_size=6))
    with ledger.intake(venue, "main", session=f"again-{name}", opened_ns=T0_MS * 10**6) as intake:
        tally = intake.receive_all(again)
    assert tally.frames == tally.duplicates + tally.control


@settings(max_examples=40, deadline=None)
@given(sessions=conversations(), data=st.data())
def test_balances_as_of_a_version_are_the_balances_there_were(
    sessions: list[Session], data: st.DataObject
) -> None:
    with Ledger() as ledger:
        seen: dict[tuple[str, int], object] = {}
        balances = Balances(ledger)
        for venue, name, frames in sessions:
            with ledger.intake(venue, "main", session=name, opened_ns=T0_MS * 10**6) as intake:
                for payload, received_ns in arrivals((venue, name, frames)):
                    intake.receive(payload, received_ns)
                    for recorded in ledger.replay():
                        account = recorded.account
                        seen.setdefault((account, recorded.version), None)
                    for account in {account for account, _ in seen}:
                        last = max(version for each, version in seen if each == account)
                        seen[(account, last)] = held(balances.rows(account))
        for (account, version), rows in seen.items():
            if rows is not None:
                assert rows == held(balances.at(version, account).rows(account))
