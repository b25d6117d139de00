"""Frames as the venues send them, made up here: the `n`th of a kind is always the same bytes, and no other's.

Knows the venues' wire forms; knows no decoder. Every amount that a decoder reads has eight decimals and is unlike the
others of its frame, so that it can be looked for in what a side made of it.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

START_MS: Final = 1_793_695_201_000
"""When the venues begin to speak: 2026-11-03T08:40:01Z."""

_AMOUNT: Final = re.compile(rb"-?[0-9]+\.[0-9]{8}\b")


def amounts(text: bytes) -> set[bytes]:
    """The amounts in a frame, or in anything made of it."""
    return set(_AMOUNT.findall(text))


def deltadefi_balance(n: int, entries: int) -> bytes:
    """Numbers, not strings, as documented."""
    rows = ",".join(
        f'{{"asset":"T{at}","asset_unit":"{at:056x}54{at:04x}",'
        f'"free":{_text(n, 2 * at)},"locked":{_text(n, 2 * at + 1)}}}'
        for at in range(entries)
    )
    return f'{{"type":"Account","sub_type":"balance","balance":[{rows}]}}'.encode()


def deltadefi_order(n: int, *, agrees: bool = False, scattered: bool = False) -> bytes:
    """An order with one execution. Where it agrees, as much of it was executed as the execution says: none is missing,
    and two of its amounts are alike. Ids rise, or are scattered as random ones are."""
    uuid = _scattered_uuid if scattered else _uuid
    order_id, account_id, at = uuid(n, 1), _uuid(0, 2), _moment(n)
    fill = {
        "id": uuid(n, 3),
        "order_id": order_id,
        "account_id": account_id,
        "execution_price": _text(n, 1),
        "filled_base_qty": _text(n, 2),
        "filled_quote_qty": _text(n, 3),
        "commission_unit": "lovelace",
        "commission": _text(n, 4),
        "role": "maker",
        "counter_party_order_id": uuid(n, 4),
        "created_at": at,
    }
    order = {
        "id": order_id,
        "account_id": account_id,
        "status": "open",
        "symbol": "ADAUSDM",
        "base_qty": _text(n, 5),
        "quote_qty": _text(n, 6),
        "side": "buy",
        "price": _text(n, 7),
        "type": "limit",
        "locked_base_qty": "250.00",
        "locked_quote_qty": "153.90",
        "executed_base_qty": _text(n, 2 if agrees else 8),
        "executed_quote_qty": _text(n, 9),
        "ob_open_order_base_qty": "190.00",
        "commission_unit": "lovelace",
        "commission": _text(n, 10),
        "commission_rate_bp": 10,
        "executed_price": _text(n, 11),
        "created_at": at,
        "updated_at": at,
        "order_execution_records": [fill],
    }
    return _json({"type": "Account", "sub_type": "order_info", "order": order})


def bitopro_balance(n: int, entries: int) -> bytes:
    """Strings, keyed by currency."""
    data = {
        f"C{at}": {
            "currency": f"C{at}",
            "amount": _text(n, 3 * at),
            "available": _text(n, 3 * at + 1),
            "stake": _text(n, 3 * at + 2),
            "tradable": True,
        }
        for at in range(entries)
    }
    head = {"event": "ACCOUNT_BALANCE", "eventID": _uuid(n, 5), "timestamp": START_MS + n}
    return _json({**head, "datetime": "2026-11-03T08:40:01.234Z", "data": data})


def kraken_prime_balance(n: int, entries: int, sequence: int = 0) -> bytes:
    """An update with its sequence number: a 1 that is given is of the baseline, which is no update."""
    rows = [
        {"Currency": f"C{at}", "Amount": _text(n, 2 * at), "AvailableAmount": _text(n, 2 * at + 1)}
        for at in range(entries)
    ]
    head = {
        "reqid": 31,
        "type": "Balance",
        "ts": _moment(n),
        "initial": sequence == 1,
        "seqNum": sequence or n + 1,
        "action": "Update",
    }
    return _json({**head, "data": rows})


def cascade_balance(n: int) -> bytes:
    """One subaccount's balance: a message never holds more."""
    data = {
        "account": "0x5b38da6a701c568545dcfcb03fcb875f56beddc4",
        "subaccountIndex": 0,
        "balance": _text(n, 0),
        "updatedAt": START_MS + n,
    }
    return _json({"type": "Balance Update", "data": data})


def pacifica_page(n: int, rows: int) -> bytes:
    """The `n`th page of a history, newest first; each balance is the one before plus the amount."""
    data = [
        {
            "amount": _units((2 * at + 12_345) * 7),
            "balance": _units((at * at + 12_346 * at) * 7),
            "pending_balance": _units(500_000_000 + at),
            "event_type": "trade",
            "created_at": START_MS + at,
        }
        for at in range((n + 1) * rows, n * rows, -1)
    ]
    return _json({"success": True, "data": data, "next_cursor": "1119Zk2Qa", "has_more": True})


def _moment(n: int) -> str:
    """A millisecond after the one before it."""
    return f"{datetime.fromtimestamp((START_MS + n) // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{(START_MS + n) % 1000:03d}000Z"


def _text(n: int, at: int) -> str:
    return _units(100_000_000 + (n * 7_919 + at) * 104_729 % 10**15)


def _units(number: int) -> str:
    return f"{number // 10**8}.{number % 10**8:08d}"


def _uuid(n: int, kind: int) -> str:
    return f"{kind:08x}-0000-4000-8000-{n:012x}"


def _scattered_uuid(n: int, kind: int) -> str:
    return str(UUID(bytes=blake2b(b"%d %d" % (n, kind), digest_size=16).digest(), version=4))


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()
