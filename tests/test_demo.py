"""The demo shows, on one screen, what was planted in its tapes."""

from __future__ import annotations

from pathlib import Path

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
        ("kraken_prime:desk", "4"),
        ("pacifica:9xDemoWa11etPacifica", "rows that change USDC by -12.250000"),
    ] == [(gap["account"], gap["missing"]) for gap in rows(tmp_path, "gaps")]
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
    named = [line.split("-m ledger ")[1].split() for line in ran.out.splitlines() if "-m ledger " in line]
    assert 5 == len(named) == len(commands)
    for args in named:
        assert run(tmp_path, *args).code in (0, 1), args


def test_the_demo_makes_a_new_file_when_none_is_named(tmp_path: Path) -> None:
    first, second = (run(tmp_path, "demo").out.splitlines()[0] for _ in range(2))
    assert first != second
    assert [] == list(tmp_path.iterdir())
