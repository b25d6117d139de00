"""The command line's contract: names, JSON fields, exit codes, one clear line where something is wrong."""

from __future__ import annotations

import ctypes
import json
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import ledger.cli
from ledger.notes import new_key
from tests.terminal import feed, rows, run, unheard

U = "5066154a102ee037390c5236f78db23239b49c5748d3d349f3ccf04b55534458"


def bitopro(event_id: str, ms: int, **amounts: tuple[str, str]) -> bytes:
    data = {
        currency: {"currency": currency, "amount": total, "available": free, "stake": "0", "tradable": True}
        for currency, (total, free) in amounts.items()
    }
    frame = {"event": "ACCOUNT_BALANCE", "eventID": event_id, "timestamp": ms, "data": data}
    return json.dumps(frame).encode()


def kraken(number: int, second: int, *held: tuple[str, str], name: str = "seqNum", **more: object) -> bytes:
    data = [{"Currency": asset, "Amount": total, "AvailableAmount": total} for asset, total in held]
    ts = f"2026-01-02T03:04:{second:02d}.123456Z"
    return json.dumps({"reqid": 3, "type": "Balance", "ts": ts, name: number, **more, "data": data}).encode()


def pacifica(*told: tuple[int, str, str], newest_first: bool = True, **more: object) -> bytes:
    data = [
        {
            "amount": amount,
            "balance": balance,
            "pending_balance": "0",
            "event_type": "trade",
            "created_at": 1_780_000_000_000 + ms,
        }
        for ms, amount, balance in told
    ]
    return json.dumps({"success": True, "data": data[::-1] if newest_first else data, **more}).encode()


def order(order_id: str, status: str, updated: int, **more: object) -> dict[str, object]:
    return {
        "order_id": order_id,
        "status": status,
        "symbol": "ADAUSDM",
        "orig_qty": "10",
        "executed_qty": "0",
        "side": "buy",
        "price": 0.68,
        "type": "limit",
        "fee_charged": "0",
        "fee_unit": "lovelace",
        "executed_price": 0,
        "slippage": "0",
        "create_time": 1755747489,
        "update_time": updated,
        **more,
    }


def deltadefi(sub_type: str, *orders: dict[str, object]) -> bytes:
    body = {
        "type": "Account",
        "sub_type": sub_type,
        "data": [{"orders": orders, "order_filling_records": []}],
    }
    return json.dumps({**body, "total_count": 2, "total_page": 1}).encode()


def test_two_messages_make_the_balances_and_the_same_file_again_changes_nothing(tmp_path: Path) -> None:
    big = "999999999999.99999999"
    frames = [
        bitopro("a", 1639553303365, ADA=(big, big), BTC=(big, big), EOS=("0", "0")),
        bitopro("b", 1639553303365, ADA=(big, "0")),
    ]
    assert 0 == feed(tmp_path, "bitopro", "main", frames).code
    before = rows(tmp_path, "balances", "bitopro:main")
    assert {"ADA": (big, "0"), "BTC": (big, big), "EOS": ("0", "0")} == {
        row["asset"]: (row["total"], row["available"]) for row in before
    }
    assert 0 == feed(tmp_path, "bitopro", "main", frames, frames[1:], frames[:1]).code
    assert before == rows(tmp_path, "balances", "bitopro:main")


def test_a_balance_row_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1.50", "1"))])
    expected = {
        "account": "bitopro:main",
        "asset": "ADA",
        "asset_id": "ADA",
        "total": "1.50",
        "available": "1",
        "locked": None,
        "staked": "0",
        "pending": None,
        "version": 2,
        "time": "2021-12-15T07:28:23.365Z",
        "completeness": "unprovable",
        "reason": "stated with the whole account (version 2), and nothing before to compare it with",
    }
    assert [expected] == rows(tmp_path, "balances")
    assert list(expected) == list(rows(tmp_path, "balances")[0])


def test_an_audit_row_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    feed(tmp_path, "kraken_prime", "desk", [kraken(1, 1, ("USD", "-5"), initial=True)])
    audit = rows(tmp_path, "audit", "kraken_prime:desk")
    envelope = "version position topic time received channel session ordinal sequence"
    fields = f"{envelope} evidence_bytes evidence_sha256 event"
    assert [fields.split()] * 3 == [list(row) for row in audit]
    assert ["SessionOpened", "BalanceSnapshot", "SessionClosed"] == [row["topic"] for row in audit]
    assert [1, 2, 3] == [row["version"] for row in audit]
    assert (1, 1, "Balance") == (audit[1]["sequence"], audit[1]["ordinal"], audit[1]["channel"])


@pytest.mark.parametrize("name", ["seqNum", "seq"])
def test_sequence_1_2_4_is_one_gap_that_names_3_and_the_removed_currency_is_gone(
    tmp_path: Path, name: str
) -> None:
    frames = [
        kraken(1, 1, ("USD", "-1928479.77953598"), ("BTC", "40.15480673"), name=name, initial=True),
        kraken(2, 2, ("USD", "-1928479.5"), name=name, action="Update"),
        kraken(4, 4, ("BTC", "0"), name=name, action="Remove"),
    ]
    assert 0 == feed(tmp_path, "kraken_prime", "main", frames).code
    assert [("USD", "-1928479.5")] == [(row["asset"], row["total"]) for row in rows(tmp_path, "balances")]
    (gap,) = rows(tmp_path, "gaps")
    assert ("kraken_prime:main", "sequence", "3", "3", "3") == tuple(
        gap[field] for field in ("account", "kind", "from", "to", "missing")
    )
    assert 1 == run(tmp_path, "gaps", "--db", "a.db").code


def test_the_order_of_deltadefi_files_and_how_often_each_is_fed_does_not_matter(tmp_path: Path) -> None:
    fill = {
        "id": "f-1",
        "order_id": "o-2",
        "execution_price": 0.78,
        "filled_amount": "10",
        "fee_unit": "lovelace",
        "fee_amount": "0.02",
        "role": "taker",
        "counter_party_order_id": "o-9",
        "create_time": 1755747761,
    }
    opened = deltadefi("open_orders", order("o-1", "open", 1755747490))
    traded = deltadefi(
        "trading_history", order("o-2", "fully_filled", 1755747761, executed_qty="10", fills=[fill])
    )
    cancelled = deltadefi("orders_history", order("o-1", "cancelled", 1755747662))
    results: list[object] = []
    for index, frames in enumerate(
        (
            [opened, traded, cancelled],
            [cancelled, traded, opened, traded],
            [traded, opened, cancelled, opened],
        )
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert 0 == feed(folder, "deltadefi", "main", *[[frame] for frame in frames]).code
        orders = [(row["order_id"], row["status"], row["executed"]) for row in rows(folder, "orders")]
        results.append((orders, [(row["fill_id"], row["quantity"]) for row in rows(folder, "fills")]))
    assert [([("o-1", "cancelled", "0"), ("o-2", "fully_filled", "10")], [("f-1", "10")])] * 3 == results


def test_deltadefi_amounts_come_out_digit_for_digit_from_json_numbers_and_strings(tmp_path: Path) -> None:
    frame = (
        b'{"type":"Account","sub_type":"balance","balance":[{"asset":"usdx","asset_unit":"%s","free":1153.006812,'
        b'"locked":0},{"asset":"ada","asset_unit":"","free":"1383.52097","locked":"0"}]}' % U.encode()
    )
    feed(tmp_path, "deltadefi", "main", [frame])
    found = {row["asset_id"]: (row["total"], row["available"]) for row in rows(tmp_path, "balances")}
    assert {U: ("1153.006812", "1153.006812"), "lovelace": ("1383.52097", "1383.52097")} == found


def test_two_subaccounts_on_one_cascade_socket_become_two_accounts(tmp_path: Path) -> None:
    address = "0xC2cBbb5bEa8FdeFb1F441fEaf017a0dF72e89C9F"
    frames = [
        json.dumps(
            {
                "type": "Balance Update",
                "data": {
                    "account": address,
                    "subaccountIndex": index,
                    "balance": "5.5",
                    "updatedAt": 1752846925000,
                },
            }
        ).encode()
        for index in (0, "1")
    ]
    assert 0 == feed(tmp_path, "cascade", address, frames).code
    expected = [f"cascade:{address.lower()}/{index}" for index in (0, 1)]
    assert expected == [row["account"] for row in rows(tmp_path, "accounts")]
    assert expected == [row["account"] for row in rows(tmp_path, "balances")]


def test_overlapping_pages_import_each_row_once_and_a_missing_row_is_one_chain_gap(tmp_path: Path) -> None:
    told = [(ms, "1", str(ms)) for ms in range(1, 10)]
    pages = [pacifica(*told[5:], next_cursor="x", has_more=True), pacifica(*told[2:7]), pacifica(*told[:4])]
    assert 0 == feed(tmp_path, "pacifica", "W", pages).code
    assert [str(ms) for ms in range(1, 10)] == [row["balance"] for row in rows(tmp_path, "history")]
    assert ([], "9") == (rows(tmp_path, "gaps"), rows(tmp_path, "balances")[0]["total"])

    feed(tmp_path, "pacifica", "V", [pacifica(*told[:4], *told[5:], newest_first=False)])
    assert [("pacifica:V", "chain")] == [(gap["account"], gap["kind"]) for gap in rows(tmp_path, "gaps")]
    feed(tmp_path, "pacifica", "V", [pacifica(*told[3:6])])
    assert [] == rows(tmp_path, "gaps")


def test_two_equal_rows_both_count(tmp_path: Path) -> None:
    equal = [(1, "5", "5"), (2, "0", "5"), (2, "0", "5"), (3, "1", "6")]
    feed(tmp_path, "pacifica", "W", [pacifica(*equal)], [pacifica(*equal[1:])])
    assert ["5", "0", "0", "1"] == [row["amount"] for row in rows(tmp_path, "history", "pacifica:W")]


HOSTILE = {
    "NaN": '"NaN"',
    "bare NaN": "NaN",
    "Infinity": '"Infinity"',
    "huge exponent": '"1e1000000"',
    "bare huge exponent": "1e1000000",
    "underscore": '"1_000"',
    "blank": '" 1"',
    "Arabic digit": '"١"',
    "empty text": '""',
    "null": "null",
    "true": "true",
    "5,000 digits": f'"{"9" * 5000}"',
    "duplicated key": '"1","amount":"2"',
    "deep": "[" * 1100 + "]" * 1100,
}


def test_hostile_numbers_are_quarantined_each_and_the_next_frame_is_accepted(tmp_path: Path) -> None:
    good = bitopro("a", 1639553303365, ADA=("0.1234567890123456789", "9" * 38))
    frames = [good]
    for index, text in enumerate(HOSTILE.values()):
        bad = good.replace(b'"0.1234567890123456789"', text.encode()).replace(b'"a"', b'"bad-%d"' % index)
        frames += [bad, bitopro(f"good-{index}", 1639553303365 + index, BTC=(str(index), "0"))]
    raw = [
        b"",
        good.replace(b"ADA", b"\xff\xfe"),
        b"[" * 1100,
        b'{"a":"' + b"x" * (20 << 20) + b'"}',
        good[:-9],
    ]
    for index, bad in enumerate(raw):
        frames += [bad, bitopro(f"after-{index}", 1639553304365 + index, ETH=(str(index), "0"))]
    ran = feed(tmp_path, "bitopro", "main", frames)
    assert (1, "") == (ran.code, ran.err)
    found = {row["asset"]: (row["total"], row["available"]) for row in rows(tmp_path, "balances")}
    assert {
        "ADA": ("0.1234567890123456789", "9" * 38),
        "BTC": (str(len(HOSTILE) - 1), "0"),
        "ETH": (str(len(raw) - 1), "0"),
    } == found
    quarantined = [row["ordinal"] for row in rows(tmp_path, "quarantine")]
    assert list(range(2, 2 * (len(HOSTILE) + len(raw)) + 1, 2)) == quarantined
    assert 0 == run(tmp_path, "replay", "--db", "a.db").code


def test_balances_as_of_a_version_and_as_of_a_time(tmp_path: Path) -> None:
    frames = [bitopro(str(n), 1_700_000_000_000 + 60_000 * n, ADA=(str(n), "0")) for n in range(5)]
    feed(tmp_path, "bitopro", "main", frames)
    for moment, expected in {
        "1": [],
        "2": ["0"],
        "4": ["2"],
        "2023-11-14T22:13:19Z": [],
        "2023-11-14T22:14:20Z": ["1"],
        "2023-11-14T22:14:59.999999999Z": ["1"],
        "2023-11-15": ["4"],
        "0001-01-01": [],
        "1677-09-21": [],
        "9999-12-31T23:59:59.999999999Z": ["4"],
    }.items():
        found = rows(tmp_path, "balances", "bitopro:main", "--at", moment)
        assert expected == [row["total"] for row in found], moment


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["balances", "--db", "none.db"], "none.db"),
        (["balances", "--db", "a.db", "bitopro:nobody"], "bitopro:nobody"),
        (["balances", "--db", "a.db", "\udcff"], "a.db has no account '\\udcff'"),
        (["balances", "--db", "loop"], "loop: there is no ledger here"),
        (["ingest", "--db", "loop", "bitopro", "main", "text.txt"], "loop: "),
        (["checkpoint", "--db", "postgresql://[::1/db", "--key", "text.txt"], "text.txt: not a private key"),
        (["checkpoint", "--db", "postgresql://[::1/db", "--key", "a.key"], "not the URL of a PostgreSQL"),
        (["balances", "--db", "a.db", "--at", "yesterday"], "yesterday"),
        (["balances", "--db", "a.db", "bitopro:main", "--at", "4"], "no version 4 yet, the last is 3"),
        (["balances", "--db", "a.db", "--at", "1716200000001"], "2026-11-21T12:00:00Z"),
        (["balances"], "--db"),
        (["views", "--db", "none.db"], "none.db: there is no ledger here"),
        (["follow", "--db", "a.db", "--for", "nan"], "'--for': 'nan' is not a number"),
        (["follow", "--db", "a.db", "--for", "inf"], "'--for': inf is not in the range"),
        (["run", "text.txt", "--db", "a.db", "--for", "nan"], "'--for': 'nan' is not a number"),
        (["serve", "bad.tape", "--port", "0", "--speed", "nan"], "'--speed': 'nan' is not a number"),
        (["follow", "--db", "none.db", "--for", "0"], "none.db: there is no ledger here"),
        (["balances", "--db", "text.txt"], "text.txt"),
        (["ingest", "--db", "a.db", "bitopro", "main", "none.json"], "none.json"),
        (["ingest", "--db", "a.db", "binance", "main", "text.txt"], "binance"),
        (["ingest", "--db", "a.db", "bitopro", "a/b", "text.txt"], "a/b"),
        (["ingest", "--db", "none/a.db", "bitopro", "main", "text.txt"], "none"),
        (["ingest", "--db", "a.db", "bitopro", "main", "bad.tape"], "bad.tape, line 3"),
        (["ingest", "--db", "a.db", "kraken_prime", "main", "bad.tape"], "bad.tape, line 1"),
        (["ingest", "--db", "a.db", "bitopro", "other", "bad.tape"], "bad.tape, line 1"),
        (["demo", "--db", "a.db"], "a.db"),
        (["nonsense"], "nonsense"),
        (["ingest", "--db", "a.db", "bitopro", "x" * 201, "text.txt"], "not an account name"),
        (["ingest", "--db", "a.db", "bitopro", "main", "blank.tape"], "blank.tape, line 2: an empty line"),
        (
            ["ingest", "--db", "a.db", "bitopro", "main", "after.tape"],
            "line 3: a line after the closing line",
        ),
    ],
)
def test_bad_usage_and_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, args: list[str], said: str
) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1", "1"))])
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "a.key").write_text(new_key("any").text())
    (tmp_path / "loop").symlink_to("loop")
    frame = json.dumps({"received": "2026-01-01T00:00:00Z", "text": bitopro("t", 1639553303365).decode()})
    header = {
        "tape": 1,
        "venue": "bitopro",
        "account": "main",
        "session": "s",
        "opened": "2026-01-01T00:00:00Z",
    }
    (tmp_path / "bad.tape").write_text(f"{json.dumps(header)}\n{frame}\nnot a line of a tape\n")
    (tmp_path / "blank.tape").write_text(f"{json.dumps(header)}\n\n{frame}\n")
    closed = json.dumps({"closed": "2026-01-01T00:00:09Z"})
    (tmp_path / "after.tape").write_text(f"{json.dumps(header)}\n{closed}\n{frame}\n")
    ran = run(tmp_path, *args)
    assert (2, "", 1) == (ran.code, ran.out, ran.err.count("\n"))
    assert said in ran.err
    assert not (tmp_path / "none.db").exists()


def test_what_came_before_a_bad_line_of_a_tape_is_stored(tmp_path: Path) -> None:
    header = {
        "tape": 1,
        "venue": "bitopro",
        "account": "main",
        "session": "s",
        "opened": "2026-01-01T00:00:00Z",
    }
    frame = {"received": "2026-01-01T00:00:01Z", "text": bitopro("t", 1639553303365, ADA=("7", "7")).decode()}
    (tmp_path / "bad.tape").write_text(f"{json.dumps(header)}\n{json.dumps(frame)}\n{{}}\n")
    assert 2 == run(tmp_path, "ingest", "--db", "a.db", "bitopro", "main", "bad.tape").code
    assert ["7"] == [row["total"] for row in rows(tmp_path, "balances")]


def test_frames_come_from_standard_input_too(tmp_path: Path) -> None:
    frame = bitopro("a", 1639553303365, ADA=("1", "1"))
    ran = run(tmp_path, "ingest", "--db", "a.db", "bitopro", "main", "-", stdin=frame + b"\n")
    assert (0, "bitopro:main  -: 1 frame: 1 recorded, 0 duplicates, 0 control, 0 quarantined\n") == ran[:2]


def test_a_venue_error_is_a_finding_and_control_frames_are_not(tmp_path: Path) -> None:
    control = [
        b'{"type":"hello","ts":"2026-01-02T03:04:05.000000Z","session_id":"S1"}',
        b'{"reqid":2,"type":"Pong","seqNum":0,"ts":"2026-01-02T03:04:05.000000Z"}',
    ]
    assert 0 == feed(tmp_path, "kraken_prime", "main", control).code
    error = (
        b'{"reqid":2,"type":"error","seq":1,"ts":"2026-01-02T03:04:05.000000Z","error":{"code":7,"msg":"no"}}'
    )
    assert 1 == feed(tmp_path, "kraken_prime", "main", [error]).code
    assert ["venue error 7: no"] == [row["reason"] for row in rows(tmp_path, "quarantine")]


@pytest.mark.sqlite
def test_replay_finds_a_changed_projection_and_rebuild_mends_it(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1", "1"), BTC=("2", "2"))])
    assert 0 == run(tmp_path, "replay", "--db", "a.db").code
    with sqlite3.connect(tmp_path / "a.db") as db:
        db.execute("UPDATE balances SET total='1000000' WHERE asset_id='ADA'")
        db.execute("DELETE FROM balances WHERE asset_id='BTC'")
    db.close()
    ran = run(tmp_path, "replay", "--db", "a.db")
    assert (1, "") == (ran.code, ran.err)
    assert "2 differences" in ran.out
    assert 1 == run(tmp_path, "replay", "--db", "a.db", "--rebuild").code
    assert 0 == run(tmp_path, "replay", "--db", "a.db", "bitopro:main").code
    assert ["1", "2"] == [row["total"] for row in rows(tmp_path, "balances")]


@pytest.mark.sqlite
@pytest.mark.parametrize("made", ["version='two'", "id=x'ff'", "id=NULL"])
def test_an_event_of_no_account_or_version_is_named_by_what_folds_it(tmp_path: Path, made: str) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("e1", 1, ADA=("2", "1"))])
    with closing(sqlite3.connect(tmp_path / "a.db")) as store, store:
        store.execute(f"UPDATE stored_events SET originator_{made} WHERE rowid=2")
        store.execute("DELETE FROM projection_positions")
    for command in (("replay",), ("follow", "--for", "20")):
        ran = run(tmp_path, *command, "--db", "a.db")
        assert (2, "accountledger: position 2: its row is damaged\n") == (ran.code, ran.err)


def test_every_command_prints_an_empty_array_of_an_empty_ledger(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "main", [])
    for command in ("accounts", "balances", "orders", "fills", "history", "gaps", "quarantine"):
        assert [] == rows(tmp_path, command)
        ran = run(tmp_path, command, "--db", "a.db")
        assert (0, "no ") == (ran.code, ran.out[:3])


HELLO = b'{"type":"hello","ts":"2026-01-02T03:04:00.000000Z","session_id":"S1"}'


def held(folder: Path) -> dict[str, str]:
    return {row["asset"]: row["total"] for row in rows(folder, "balances")}


def test_a_recording_that_has_grown_is_the_same_session_and_its_pages_make_one_statement(
    tmp_path: Path,
) -> None:
    frames = [kraken(1, 1, ("USD", "2"), initial=True, next="p2"), kraken(2, 2, ("BTC", "3"), initial=True)]
    for upto in (1, 2, 1, 2):
        assert 0 == feed(tmp_path, "kraken_prime", "main", frames[:upto]).code
    assert {"USD": "2", "BTC": "3"} == held(tmp_path)
    assert [] == rows(tmp_path, "gaps")
    topics = [row["topic"] for row in rows(tmp_path, "audit", "kraken_prime:main")]
    assert ["SessionOpened", "BalanceSnapshot", "SessionClosed", "BalanceSnapshot", "SessionClosed"] == topics


def test_one_conversation_in_two_files_has_one_sequence(tmp_path: Path) -> None:
    first = [HELLO, kraken(1, 1, ("USD", "2"), initial=True), kraken(2, 2, ("USD", "3"))]
    feed(
        tmp_path,
        "kraken_prime",
        "main",
        first,
        [HELLO, kraken(3, 3, ("USD", "4")), kraken(4, 4, ("USD", "5"))],
    )
    assert [] == rows(tmp_path, "gaps")
    feed(tmp_path, "kraken_prime", "main", [HELLO, kraken(7, 7, ("USD", "7"))])
    assert ["5-6"] == [gap["missing"] for gap in rows(tmp_path, "gaps")]
    feed(tmp_path, "kraken_prime", "main", [HELLO, *(kraken(n, n, ("USD", str(n))) for n in (5, 6, 7))])
    assert [] == rows(tmp_path, "gaps")
    assert {"USD": "7"} == held(tmp_path)


def test_pages_in_the_wrong_order_lose_no_asset(tmp_path: Path) -> None:
    pages = [kraken(2, 2, ("BTC", "3"), initial=True), kraken(1, 1, ("USD", "2"), initial=True, next="p2")]
    feed(tmp_path, "kraken_prime", "main", pages)
    assert {"USD": "2", "BTC": "3"} == held(tmp_path)


def test_within_a_subscription_the_sequence_tells_what_is_late(tmp_path: Path) -> None:
    feed(tmp_path, "kraken_prime", "main", [kraken(3, 1, ("USD", "3")), kraken(2, 1, ("USD", "2"))])
    assert {"USD": "3"} == held(tmp_path)


def deltadefi_balance(free: int) -> bytes:
    row = {"asset": "ada", "asset_unit": "", "free": free, "locked": 0}
    return json.dumps({"type": "Account", "sub_type": "balance", "balance": [row]}).encode()


def test_a_part_from_the_beginning_of_a_recording_changes_nothing(tmp_path: Path) -> None:
    frames = [deltadefi_balance(10), deltadefi_balance(20), deltadefi_balance(10)]
    for upto in (3, 2, 1, 3):
        feed(tmp_path, "deltadefi", "main", frames[:upto])
        assert {"ada": "10"} == held(tmp_path)
    feed(tmp_path, "deltadefi", "main", [*frames, deltadefi_balance(30)])
    assert {"ada": "30"} == held(tmp_path)


def test_another_recording_that_begins_alike_is_another_session(tmp_path: Path) -> None:
    feed(tmp_path, "deltadefi", "main", [deltadefi_balance(10), deltadefi_balance(20)])
    feed(tmp_path, "deltadefi", "main", [deltadefi_balance(10), deltadefi_balance(5)])
    assert {"ada": "5"} == held(tmp_path)
    assert 2 == len({row["session"] for row in rows(tmp_path, "audit", "deltadefi:main")})


def test_a_tape_keeps_its_times_and_one_cut_in_the_middle_of_a_line_is_read_up_to_there(
    tmp_path: Path,
) -> None:
    header = {
        "tape": 1,
        "venue": "bitopro",
        "account": "main",
        "session": "s",
        "opened": "2026-01-01T00:00:00Z",
    }
    frame = {"received": "2026-01-01T00:00:01Z", "text": bitopro("t", 1639553303365, ADA=("7", "7")).decode()}
    closed = {"closed": "2026-01-01T00:00:09Z", "cause": "planned"}
    lines = [json.dumps(each) for each in (header, frame, closed)]
    (tmp_path / "a.tape").write_text("\n".join(lines)[:-5])
    assert 0 == run(tmp_path, "ingest", "--db", "a.db", "bitopro", "main", "a.tape").code
    (tmp_path / "a.tape").write_text("\n".join(lines))
    assert 0 == run(tmp_path, "ingest", "--db", "a.db", "bitopro", "main", "a.tape").code
    closings = [row for row in rows(tmp_path, "audit", "bitopro:main") if row["topic"] == "SessionClosed"]
    assert [("2026-01-01T00:00:01Z", True)] == [
        (row["received"], "middle of a line" in row["event"]["cause"]) for row in closings
    ]
    (account,) = rows(tmp_path, "accounts")
    assert ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z") == (
        account["first_received"],
        account["last_received"],
    )


def test_a_venues_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "main", [b"\x1b]0;pwned\x07\x1b[31mred"])
    ran = run(tmp_path, "quarantine", "--db", "a.db")
    assert "\\x1b]0;pwned\\x07" in ran.out
    assert "\x1b" not in ran.out


def test_an_account_is_found_whatever_the_case_of_its_letters(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "Main", [bitopro("a", 1639553303365, ADA=("1", "1"))])
    assert ["1"] == [row["total"] for row in rows(tmp_path, "balances", "bitopro:main")]


def test_a_piped_table_breaks_no_name_over_lines(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "m" * 150, [bitopro("a", 1639553303365, ADA=("1", "9" * 38))])
    line = run(tmp_path, "balances", "--db", "a.db").out.splitlines()[1]
    assert ["bitopro:" + "m" * 150, "9" * 38] == [line.split()[0], line.split()[4]]


def test_no_command_at_all_shows_the_help(tmp_path: Path) -> None:
    ran = run(tmp_path)
    assert (2, "") == (ran.code, ran.out)
    assert "Commands:" in ran.err.splitlines()


INTERRUPT = """
import runpy, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv = ["accountledger", "ingest", "--db", "a.db", "bitopro", "main", "-"]
runpy.run_module("ledger", run_name="__main__")
"""


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "module", ["msgspec", "ledger.errors", "click", "rich.console", "projections.why", "transports"]
)
def test_an_interrupt_that_strikes_while_it_imports_ends_in_one_line(tmp_path: Path, module: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPT.format(module=module)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (130, "", 1) == (ran.returncode, ran.stdout, len(ran.stderr.split("\n")[1:-1]))
    assert ran.stderr.startswith("\naccountledger: interrupted")


@pytest.mark.sqlite
def test_the_command_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert {"accountledger": "ledger.__main__:main"} == project["project"]["scripts"]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "args", [("balances",), ("balances", "--json"), ("why", "bitopro:main", "ADA"), ("verify",)], ids=" ".join
)
def test_what_nobody_heard_is_neither_done_nor_a_finding(tmp_path: Path, args: tuple[str, ...]) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1", "1"))])
    assert (141, "") == unheard(tmp_path, args[0], "--db", "a.db", *args[1:])


@pytest.mark.sqlite
def test_a_defect_of_ours_is_no_finding_and_tells_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defect(**_: object) -> None:
        raise ZeroDivisionError("by \x1b[2Jnothing")

    monkeypatch.setattr(ledger.cli.cli, "main", defect)
    with pytest.raises(SystemExit) as ended:
        ledger.cli.main(["balances"])
    out, err = capsys.readouterr()
    first, *_, where, last = err.splitlines()
    assert (70, "") == (ended.value.code, out)
    assert "Traceback (most recent call last):" == first
    assert r"ZeroDivisionError: by \x1b[2Jnothing" == where
    assert last.startswith("accountledger: this is a defect of accountledger: please report it")


@pytest.mark.parametrize("more", [(), ("balances",)])
def test_the_version_is_told_and_nothing_else_done(
    capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ledger.cli.main(["--version", *more])
    assert (0, f"accountledger, version {version('accountledger')}\n") == (
        ended.value.code,
        capsys.readouterr().out,
    )


def test_a_source_tree_that_is_not_installed_has_no_version_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", none)
    with pytest.raises(SystemExit) as ended:
        ledger.cli.main(["--version"])
    told = "accountledger, version from a source tree, not installed\n"
    assert (0, told) == (ended.value.code, capsys.readouterr().out)


@pytest.mark.sqlite
@pytest.mark.parametrize("args", [("--help",), ("--version",), ("balances", "--help")], ids=" ".join)
def test_help_that_nobody_heard_is_no_finding(tmp_path: Path, args: tuple[str, ...]) -> None:
    assert (141, "") == unheard(tmp_path, *args)


@pytest.mark.sqlite
@pytest.mark.parametrize("args", [("balances", "--db", "none.db"), ("balances",), ()], ids=" ".join)
def test_a_complaint_that_nobody_heard_is_bad_usage_all_the_same(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    assert (2, "", "") == _in_shell(tmp_path, "2>/dev/full", *args)


@pytest.mark.sqlite
@pytest.mark.parametrize("args", [("balances",), ("balances", "--json")], ids=" ".join)
def test_what_cannot_be_written_is_one_line_and_exit_code_2(tmp_path: Path, args: tuple[str, ...]) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1", "1"))])
    said = _in_shell(tmp_path, ">/dev/full", *args, "--db", "a.db")
    assert (2, "", "accountledger: standard output: No space left on device\n") == said


@pytest.mark.sqlite
@pytest.mark.parametrize("args", [("accounts",), ("accounts", "--json"), ("coverage",)], ids=" ".join)
def test_what_is_printed_is_utf_8_whatever_the_encoding_of_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    (tmp_path / "a.ndjson").write_bytes(bitopro("a", 1639553303365, ADA=("1", "1")))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert 0 == run(tmp_path, "ingest", "--db", "a.db", "bitopro", "kassé €", "a.ndjson").code
    ran = run(tmp_path, args[0], "--db", "a.db", *args[1:])
    assert (0, "") == (ran.code, ran.err)
    assert "bitopro:kassé €" in ran.out


@pytest.mark.sqlite
def test_streams_that_were_closed_are_not_files_of_the_ledger(tmp_path: Path) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1", "1"))])
    assert (0, "", "") == _in_shell(tmp_path, "<&- >&- 2>&-", "balances", "--db", "a.db")
    assert (2, "", "") == _in_shell(tmp_path, "<&- >&- 2>&-", "balances", "--db", "none.db")
    nothing = "bitopro:main  -: 0 frames: 0 recorded, 0 duplicates, 0 control, 0 quarantined\n"
    assert (0, nothing, "") == _in_shell(tmp_path, "<&-", "ingest", "--db", "a.db", "bitopro", "main", "-")


def _in_shell(folder: Path, streams: str, *args: str) -> tuple[int, str, str]:
    """Run `accountledger` with its streams led elsewhere by a shell."""
    command = ["sh", "-c", f'exec "$0" -m ledger "$@" {streams}', sys.executable, *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.sqlite
@pytest.mark.parametrize("beside", [(), ("-wal",)], ids=["written whole", "written ahead"])
def test_a_ledger_in_a_folder_that_cannot_be_written_to_is_not_said_to_be_none(
    tmp_path: Path, beside: tuple[str, ...]
) -> None:
    feed(tmp_path, "bitopro", "main", [bitopro("a", 1639553303365, ADA=("1", "1"))])
    shut = tmp_path / "shut"
    shut.mkdir()
    with closing(sqlite3.connect(tmp_path / "a.db")) as writing:
        writing.execute("CREATE TABLE more (a)")
        for end in ("", *beside):
            (shut / f"a.db{end}").write_bytes((tmp_path / f"a.db{end}").read_bytes())
    shut.chmod(0o500)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "ledger", "verify", "--db", "shut/a.db"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            preexec_fn=_as_anybody,
        )
    finally:
        shut.chmod(0o700)
    assert (2, "", 1) == (ran.returncode, ran.stdout, ran.stderr.count("\n"))
    assert ran.stderr.startswith("accountledger: shut/a.db: nothing can be written in its folder")


def _as_anybody() -> None:
    """Let root be held up by the rights of files, too (capabilities(7): CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH)."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
