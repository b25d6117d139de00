"""The demo shows, on one screen, what was planted in its tapes."""

from __future__ import annotations

import base64
import json
import shlex
from collections import Counter, defaultdict
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from ledger import Lost, demo
from ledger.venues import bitopro
from tests.terminal import rows, run


def test_the_demo_finds_the_trouble_planted_in_its_tapes_and_nothing_else(tmp_path: Path) -> None:
    ran = run(tmp_path, "demo", "--db", "a.db")
    assert (0, "") == (ran.code, ran.err)
    for trouble in ("sequence gap", "chain gap", "unreadable frame", "late balance"):
        assert 1 == ran.out.count(trouble), trouble
    assert 1 == len(
        [line for line in ran.out.splitlines() if "delivered again" in line and "deltadefi" in line]
    )
    assert [
        ("pacifica:9xDemoWa11etPacifica", "chain", "rows that change USDC by -12.250000", "open", None),
        ("kraken_prime:desk", "sequence", "4", "closed", 7),
    ] == [
        (gap["account"], gap["kind"], gap["missing"], gap["state"], gap["closed_by"])
        for gap in rows(tmp_path, "gaps")
    ]
    assert [
        ("kraken_prime:desk", "snapshot", "BTC", "total", "0.25000000", "sequence gap 4", "closed", 7),
    ] == [
        tuple(
            each[name]
            for name in (
                "account",
                "kind",
                "subject",
                "part",
                "difference",
                "explained_by",
                "state",
                "closed_by",
            )
        )
        for each in rows(tmp_path, "breaks")
    ]
    assert {"proven": 3, "gap": 1, "unprovable": 8} == Counter(
        row["completeness"] for row in rows(tmp_path, "balances")
    )
    assert [] == rows(tmp_path, "verify")
    assert 1 == len(rows(tmp_path, "fills"))
    assert 1 == len(rows(tmp_path, "quarantine"))
    assert ("1140000", "2026-11-20T09:18:40.900Z") == next(
        (row["total"], row["time"]) for row in rows(tmp_path, "balances") if row["asset"] == "TWD"
    )
    assert ["SOL"] == [
        row["asset"]
        for row in rows(tmp_path, "balances", "kraken_prime:desk", "--at", "2026-11-20T09:20:00Z")
        if row["asset"] not in ("BTC", "ETH", "USD")
    ]


def test_the_commands_the_demo_names_work(tmp_path: Path) -> None:
    ran = run(tmp_path, "demo", "--db", "a.db")
    commands = [line.split(" ", 5)[-1] for line in ran.out.splitlines() if "-m ledger" in line]
    named = [
        shlex.split(line.split("-m ledger ")[1]) for line in ran.out.splitlines() if "-m ledger " in line
    ]
    assert 5 == len(named) == len(commands)
    for args in named:
        assert run(tmp_path, *args).code in (0, 1), args


@pytest.mark.sqlite
def test_the_demo_makes_a_new_file_when_none_is_named(tmp_path: Path) -> None:
    first, second = (run(tmp_path, "demo").out.splitlines()[0] for _ in range(2))
    assert first != second
    assert [] == list(tmp_path.iterdir())


def test_a_demo_whose_feeds_do_not_come_through_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PATIENCE_S", 0.0)
    with pytest.raises(Lost, match=r"^bitopro:main: \d of \d+ frames came in 0 s: "):
        demo.show(str(tmp_path / "a.db"), {"bitopro": bitopro})


def test_why_on_every_balance_of_the_demo_leads_to_bytes_that_contain_those_digits(tmp_path: Path) -> None:
    """The digits of each part stated are at its span, in the frame whose hash the stored event names."""
    assert 0 == run(tmp_path, "demo", "--db", "a.db").code
    for row in rows(tmp_path, "balances"):
        ran = run(tmp_path, "why", "--db", "a.db", row["account"], row["asset_id"], "--json")
        why = json.loads(ran.out)
        assert (row["completeness"] == "gap", row["total"]) == (ran.code == 1, why["balance"]["total"])
        (states,) = [each for each in why["events"] if each["role"] == "states"]
        frame = base64.b64decode(states["frame_base64"])
        assert states["evidence_sha256"] == sha256(frame).hexdigest()
        found: dict[str, Decimal] = defaultdict(Decimal)
        for span in states["spans"]:
            assert span["text"].encode() == frame[span["start"] : span["end"]]
            found[span["part"]] += Decimal(span["text"])
        if "total" not in found:  # not stated: the sum of what is
            found["total"] = found["available"] + found["locked"]
        for part in ("total", "available", "locked", "staked", "pending"):
            if row[part] is not None:
                assert Decimal(row[part]) == found[part], (row, part)
