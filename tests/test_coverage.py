"""Coverage: when we listened to what, what evidence there is, and how people see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.events import Asked, Event
from ledger.intake import Arrival
from ledger.venues import pacifica
from projections import Coverage, Coverages
from tests.scripted import MAIN, VENUE, delta, fill, imported, order, said, says, snapshot
from tests.terminal import rows, run

S = 1_000_000_000
T0 = 1_790_000_000 * S
ASKED = Asked("GET /balances", T0)


def session(
    ledger: Ledger, name: str, since: int, until: int | None, *frames: tuple[Event | bytes, int]
) -> None:
    """A conversation from `since` to `until` (s from T0; None: it crashed), its frames and when they came."""
    intake = ledger.intake(VENUE, "main", session=name, opened_ns=T0 + since * S)
    arrivals: list[Arrival] = [
        (frame if isinstance(frame, bytes) else says(frame), T0 + at * S) for frame, at in frames
    ]
    intake.receive_all(arrivals)
    if until is not None:
        intake.close("end", T0 + until * S)


def covered(ledger: Ledger, account: str | None = None) -> Coverage:
    (row,) = Coverages(ledger).rows(account)
    return row


def since(intervals: Any) -> list[tuple[int, ...]]:
    return [tuple((at - T0) // S for at in each[:2]) for each in intervals]


def test_coverage_is_when_we_listened_and_when_nobody_did() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 0, 10, (snapshot(None, {"A": "1"}), 2))
        session(ledger, "b", 30, 40, (delta(None, {"A": "2"}), 31), (b"garbage", 32))
        session(ledger, "c", 35, None, (delta(None, {"A": "3"}), 50))
        unreadable, row = Coverages(ledger).rows()
        assert ("", 1, "none") == (unreadable.channel, unreadable.events, unreadable.evidence)
        assert (MAIN, "script", True, 3, 1, 0) == (
            row.account,
            row.channel,
            row.open,
            row.sessions,
            row.unclosed,
            row.files,
        )
        assert [(0, 10), (30, 50)] == since(row.listening)
        assert ([(10, 30)], [False]) == (since(row.blind), [closed for _, _, closed in row.blind])
        assert (30, 20, 3) == (row.listened_ns // S, row.blind_ns // S, row.events)
        assert (4, 1, 1) == (row.frames, row.quarantined, row.open_gaps)
        assert (T0, T0 + 50 * S, T0 + 2 * S) == (row.since_ns, row.until_ns, row.last_full_ns)


def test_a_crashed_session_is_not_open_when_another_followed_but_counted() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 0, None, (snapshot(None, {"A": "1"}), 2))
        assert (True, 1) == (covered(ledger).open, covered(ledger).unclosed)
        session(ledger, "b", 30, 40, (snapshot(None, {"A": "1"}), 31))
        assert (False, 1) == (covered(ledger).open, covered(ledger).unclosed)


@pytest.mark.parametrize(
    ("events", "evidence"),
    [
        ([delta(1, {"A": "1"}, sequence=1, subscription="7"), snapshot(1, {"A": "1"})], "sequence"),
        ([delta(1, {"A": "1"}, sequence=1)], "none"),
        ([imported(1, "1", "1")], "running balance"),
        ([imported(1, "1", "1", memo=True)], "running balance"),
        ([snapshot(1, {"A": "1"})], "full statements"),
        ([snapshot(1, {"A": "1"}, part="p", more=True)], "none"),
        ([delta(1, {"A": "1"})], "none"),
        ([order("o1", 1), fill("f1", 1)], "executed quantities"),
        ([fill("f1", 1)], "none"),
    ],
)
def test_evidence_is_decided_from_what_was_said(events: list[Event], evidence: str) -> None:
    with Ledger() as ledger:
        session(ledger, "a", 0, 10, (says(*events), 2))
        assert evidence == covered(ledger).evidence


def test_an_answer_is_evidence_and_the_last_full_statement() -> None:
    with Ledger() as ledger:
        intake = ledger.intake(VENUE, "main", session="a", opened_ns=T0)
        intake.receive_all([(says(delta(T0 + 5, {"A": "1"})), T0 + 7, ASKED)])
        assert ("full statements", T0 + 5) == (covered(ledger).evidence, covered(ledger).last_full_ns)


def test_a_history_that_begins_with_a_balance_says_that_something_came_before() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 0, 10, (imported(T0 + 7, "-2.5", "97.50"), 2))
        row = covered(ledger)
        assert (T0 + 7, "100.00", "USDC") == (row.history_from_ns, row.history_opening, row.history_asset)
    with Ledger() as ledger:
        session(ledger, "a", 0, 10, (imported(T0 + 7, "2.5", "2.50"), 2))
        assert (None, None) == (covered(ledger).history_from_ns, covered(ledger).history_opening)


def test_accounts_of_one_login_are_covered_from_when_each_was_heard() -> None:
    one, two = "scripted:main/1", "scripted:main/2"
    with Ledger() as ledger:
        session(ledger, "a", 0, 10, (said((one, snapshot(None, {"A": "1"}))), 2))
        session(ledger, "b", 30, 40, (said((two, snapshot(None, {"A": "1"}))), 32))
        found = {row.account: (since(row.listening), since(row.blind)) for row in Coverages(ledger).rows()}
        assert {one: ([(0, 10), (30, 40)], [(10, 30)]), two: ([(30, 40)], [])} == found


def test_a_login_that_was_told_nothing_shows_that_we_listened() -> None:
    with Ledger() as ledger:
        session(ledger, "a", 0, 10)
        row = covered(ledger)
        assert (MAIN, None, 0, "none", [(0, 10)]) == (
            row.account,
            row.channel,
            row.events,
            row.evidence,
            since(row.listening),
        )


def test_sessions_read_from_files_without_times_are_told_apart() -> None:
    with Ledger() as ledger:
        session(ledger, "file-1-1", 0, 0, (snapshot(None, {"A": "1"}), 0))
        session(ledger, "file-2-1", 30, 30, (snapshot(None, {"A": "1"}), 30))
        row = covered(ledger)
        assert (2, 2, [(0, 0), (30, 30)], []) == (row.sessions, row.files, since(row.listening), row.blind)


# The command


PAGE = (
    b'{"success":true,"data":[{"amount":"-1","balance":"9","pending_balance":"0","event_type":"trade",'
    b'"created_at":1790000000000}],"next_cursor":"","has_more":false}'
)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    with Ledger(tmp_path / "a.db") as ledger:
        session(ledger, "a", 0, 100, (snapshot(None, {"A": "1"}), 2))
        session(ledger, "b", 190, 300, (delta(None, {"A": "2"}), 191))
        intake = ledger.intake(pacifica, "W", opened_ns=T0)
        intake.receive(PAGE, T0 + S)
        intake.close("end", T0 + 4 * S)
    return tmp_path


def test_coverage_for_programs(recorded: Path) -> None:
    history, scripted = rows(recorded, "coverage")
    assert {
        "account": MAIN,
        "channel": "script",
        "since": "2026-09-21T14:13:20Z",
        "until": "2026-09-21T14:18:20Z",
        "open": False,
        "sessions": 2,
        "unclosed": 0,
        "files": 0,
        "listened_s": 210.0,
        "blind_s": 90.0,
        "blind_count": 1,
        "events": 2,
        "evidence": "full statements",
        "last_heard": "2026-09-21T14:16:31Z",
        "last_full": "2026-09-21T14:13:22Z",
        "frames": 2,
        "quarantined": 0,
        "open_gaps": 1,
        "history_from": None,
        "history_opening": None,
        "history_asset": None,
        "listening": [
            {"from": "2026-09-21T14:13:20Z", "to": "2026-09-21T14:15:00Z"},
            {"from": "2026-09-21T14:16:30Z", "to": "2026-09-21T14:18:20Z"},
        ],
        "blind": [{"from": "2026-09-21T14:15:00Z", "to": "2026-09-21T14:16:30Z", "closed": False}],
    } == scripted
    assert ("pacifica:W", "account/balance/history", "running balance") == (
        history["account"],
        history["channel"],
        history["evidence"],
    )
    assert ("2026-09-21T14:13:20Z", "10", "USDC") == (
        history["history_from"],
        history["history_opening"],
        history["history_asset"],
    )
    assert [scripted] == rows(recorded, "coverage", MAIN)


def test_coverage_for_people_is_a_timeline(recorded: Path) -> None:
    ran = run(recorded, "coverage", "--db", "a.db")
    assert (0, "") == (ran.code, ran.err)
    (line,) = [line for line in ran.out.splitlines() if line.startswith(MAIN) and "▇" in line]
    assert "▇▇▇▇▇·····▃▇▇▇▇▇" in line
    assert "1m 30s in 1" in line
    assert "3m 30s" in line
    assert (
        "pacifica:W: the history begins at 2026-09-21T14:13:20Z with a balance of 10 USDC: "
        "what came before is not here"
    ) in ran.out.splitlines()
    assert 2 == run(recorded, "coverage", "--db", "a.db", "nobody").code


def test_gaps_are_listed_open_ones_first_and_the_exit_code_is_about_open_ones(recorded: Path) -> None:
    def ran(*args: str) -> tuple[int, list[tuple[str, str]]]:
        found = run(recorded, "gaps", "--db", "a.db", *args, "--json")
        return found.code, [(gap["kind"], gap["state"]) for gap in json.loads(found.out)]

    assert (1, [("blind", "open")]) == ran()
    assert (0, "no gaps\n") == run(recorded, "gaps", "--db", "a.db", "pacifica:W")[:2]
    with Ledger(recorded / "a.db") as ledger:
        session(ledger, "c", 300, 310, (snapshot(None, {"A": "2"}), 301))
    assert (0, [("blind", "closed")]) == ran()
    assert (0, []) == ran("--open")
    assert (0, "no gaps\n") == run(recorded, "gaps", "--db", "a.db", "--open")[:2]
    assert (0, [("blind", "closed")]) == ran(MAIN)
    shown = run(recorded, "gaps", "--db", "a.db")
    assert shown.out.splitlines()[1].startswith("closed ")
    (gap,) = rows(recorded, "gaps")
    names = "account kind from to missing suspect session subscription version time"
    assert [*names.split(), "state", "closed_by", "closed", "closed_how", "asset"] == list(gap)
    assert (
        MAIN,
        "2026-09-21T14:15:00Z",
        "2026-09-21T14:16:30Z",
        "closed",
        8,
        "2026-09-21T14:18:21Z",
        "the whole account was stated again",
    ) == tuple(gap[name] for name in ("account", "from", "to", "state", "closed_by", "closed", "closed_how"))


WRITER = """
import sys, time
from ledger import Ledger
from tests.scripted import VENUE, delta, says
with Ledger(sys.argv[1]) as ledger, ledger.intake(VENUE, "main", session="killed") as intake:
    intake.receive(says(delta(None, {"A": "1"})))
    print("durable", flush=True)
    time.sleep(60)
"""


@pytest.mark.sqlite
def test_a_killed_process_leaves_a_session_that_shows_as_open(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "a.db")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdout is not None
        assert b"durable\n" == process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    (row,) = rows(tmp_path, "coverage")
    assert (True, 1, 1) == (row["open"], row["unclosed"], row["frames"])
    assert row["until"] == row["last_heard"]
    assert "open" in run(tmp_path, "coverage", "--db", "a.db").out.splitlines()[1].split()
    time.sleep(0.01)
    with Ledger(tmp_path / "a.db") as ledger, ledger.intake(VENUE, "main", session="next") as intake:
        intake.receive(says(snapshot(None, {"A": "1"})))
    (gap,) = rows(tmp_path, "gaps")
    assert ("blind", row["until"], "closed") == (gap["kind"], gap["from"], gap["state"])
