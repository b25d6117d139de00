"""Why a balance is what it is: the events, their roles, and the bytes; and the command that shows it."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ledger.demo
from ledger import Ledger, Malformed
from ledger.bundle import VERIFIER
from ledger.events import Event
from ledger.venues import bitopro
from projections import Balances
from projections.why import EVENTS_MAX, PARTS, Unknown, Why, why
from tests.proving import KEY, LATER, OTHER, VENUES, WHOLE, note_of, say, take_in
from tests.scripted import MAIN, delta, feed, imported, says, snapshot
from tests.terminal import Ran, run
from tests.terminal import feed as feed_files

DEMO = Path(ledger.demo.__file__).parent
S = 1_000_000_000


def asked(*events: Event, asset: str = "ADA", at: int | str | datetime | None = None) -> Why:
    """Why an asset is what it is, after frames of one event each."""
    with Ledger() as made:
        feed(made, *(says(event) for event in events))
        return why(made, VENUES, MAIN, asset, at)


def roles(said: Why) -> list[tuple[int, str]]:
    return [(each.version, each.role) for each in said.events]


# Version 1 is the opening of the session: the first frame is version 2.


def test_a_balance_rests_on_the_last_full_statement_and_the_changes_since() -> None:
    said = asked(
        snapshot(1, {"ADA": "1"}),
        delta(2, {"ADA": "2"}),
        snapshot(3, {"ADA": "3", "BTC": "1"}),
        delta(4, {"BTC": "2"}),
        delta(5, {"ADA": "5"}),
        delta(6, {"ADA": "6"}),
    )
    assert [(4, "rests on"), (6, "change"), (7, "states")] == roles(said)
    assert (4, 7, "6", True) == (said.rests_on, said.stated_by, said.row.total, said.events[0].full)
    assert ["3", "5", "6"] == [each.amounts["total"] for each in said.events]
    assert ["3", "5", "6"] == [span.text for each in said.events for span in each.spans]


def test_a_full_statement_that_states_todays_amount_states_it() -> None:
    said = asked(delta(1, {"ADA": "1"}), snapshot(3, {"ADA": "3"}), delta(4, {"BTC": "2"}))
    assert [(3, "states")] == roles(said)
    assert (3, 3, True) == (said.rests_on, said.stated_by, said.events[0].full)


def test_a_late_statement_is_told_and_changed_nothing() -> None:
    said = asked(snapshot(5, {"ADA": "5"}), delta(3, {"ADA": "3"}), snapshot(4, {"ADA": "4"}))
    assert [(2, "states"), (3, "late"), (4, "late")] == roles(said)
    assert "5" == said.row.total


def test_the_page_that_names_the_asset_is_what_it_rests_on_once_every_page_is_there() -> None:
    pages = (
        snapshot(1, {"ADA": "1"}, part="p", more=True, sequence=1),
        snapshot(1, {"BTC": "2"}, part="p", begins=False, sequence=2),
    )
    assert 2 == asked(*pages).rests_on
    assert asked(pages[0]).rests_on is None
    assert (
        4
        == asked(
            snapshot(1, {"ADA": "7"}),
            snapshot(2, {"X": "1"}, part="p", more=True),
            snapshot(2, {"ADA": "1"}, part="p", begins=False),
        ).rests_on
    )


@pytest.mark.parametrize(
    "gone", [delta(3, {}, ["ADA"]), snapshot(3, {"BTC": "1"})], ids=["removed", "not in the whole account"]
)
def test_an_asset_no_longer_held_says_since_when_and_by_which_event(gone: Event) -> None:
    said = asked(snapshot(1, {"ADA": "1"}), gone)
    assert [(2, "rests on"), (3, "removed")] == roles(said)
    assert (None, 3, 3) == (said.held, said.stated_by, said.row.time_ns)
    assert [] == said.events[1].spans
    assert said.events[1].frame is not None


def test_history_rows_are_told_the_last_ones_with_how_many_there_were_before() -> None:
    rows = [imported(at, "1", str(at), key=f"k{at}") for at in range(1, 31)]
    said = asked(*rows, asset="USDC")
    assert (EVENTS_MAX, 30 - EVENTS_MAX, None) == (len(said.events), said.changes_before, said.rests_on)
    assert (31, "states") == roles(said)[-1]
    assert {"amount": "1", "total": "30"} == said.events[-1].amounts
    assert [("amount", "1"), ("total", "30")] == [(span.part, span.text) for span in said.events[-1].spans]
    assert "trade" == said.events[-1].cause


def test_of_rows_of_one_instant_that_one_states_the_balance_where_their_chain_ends() -> None:
    said = asked(
        imported(5, "10", "110", key="b"),
        imported(5, "5", "115", key="c"),
        imported(5, "10", "100", key="a"),
        asset="USDC",
    )
    assert ("115", 3) == (said.row.total, said.stated_by)
    assert [(2, "change"), (3, "states"), (4, "change")] == roles(said)


def test_many_changes_and_late_statements_are_counted_when_they_are_too_many() -> None:
    changes = [delta(100 + at, {"ADA": str(at)}) for at in range(30)]
    lates = [delta(at, {"ADA": "0"}) for at in range(30)]
    said = asked(snapshot(90, {"ADA": "1"}), *changes, *lates)
    assert (10, 10) == (said.changes_before, said.late_before)
    assert 1 + 2 * EVENTS_MAX == len(said.events)


def test_what_it_was_is_told_as_of_a_version_and_as_of_a_time() -> None:
    events = (snapshot(1 * S, {"ADA": "1"}), delta(3 * S, {"ADA": "3"}), delta(2 * S, {"ADA": "2"}))
    assert ("1", [(2, "states")]) == ((said := asked(*events, at=2)).row.total, roles(said))
    for then in (
        "1970-01-01T00:00:02Z",
        datetime(1970, 1, 1, 0, 0, 2),
        datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC),
    ):
        said = asked(*events, at=then)
        assert ("2", [(2, "rests on"), (4, "states")]) == (said.row.total, roles(said))
        assert said.held is not None
        assert ("2", 4) == (said.held.total, said.stated_by)


def test_an_asset_is_found_by_its_id_or_by_a_label_that_is_one_assets_alone() -> None:
    assert "ADA" == asked(snapshot(1, {"ADA": "1"}), asset="ada").asset_id
    with pytest.raises(Unknown, match="scripted:main has no XRP; it has: ADA, BTC"):
        asked(snapshot(1, {"ADA": "1", "BTC": "1"}), asset="XRP")
    with pytest.raises(Unknown, match=r"several assets aDA: ADA, ada"):
        asked(snapshot(1, {"ADA": "1", "ada": "1"}), asset="aDA")
    with pytest.raises(Unknown):
        asked(snapshot(1, {"ADA": "1"}), delta(9, {"BTC": "1"}), asset="BTC", at=2)
    with pytest.raises(Malformed):
        asked(snapshot(1, {"ADA": "1"}), at="yesterday")


def test_a_total_that_no_venue_states_is_said_to_be_a_sum() -> None:
    row = b'{"asset":"ada","asset_unit":"","free":"2","locked":"3"}'
    frame = b'{"type":"Account","sub_type":"balance","balance":[%s]}' % row
    with Ledger() as made:
        take_in(made, VENUES["deltadefi"], "main", [frame])
        said = why(made, VENUES, "deltadefi:main", "ada")
    assert ({"total": ["available", "locked"]}, "5") == (said.events[0].derived, said.row.total)
    assert ["2", "3"] == [span.text for span in said.events[0].spans]


_held = st.dictionaries(st.sampled_from(["ADA", "BTC"]), st.sampled_from(["1", "2", "3.5"]), max_size=2)
_said = st.builds(snapshot, st.integers(1, 9), _held) | st.builds(
    delta, st.integers(1, 9), _held, st.lists(st.sampled_from(["ADA", "BTC"]), max_size=1)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_said, min_size=1, max_size=10), st.none() | st.integers(2, 11))
def test_what_is_told_states_the_balance_whatever_was_said(events: list[Event], at: int | None) -> None:
    with Ledger() as made:
        feed(made, *(says(event) for event in events))
        at = None if at is None else min(at, len(events) + 1)
        rows = Balances(made).rows(MAIN) if at is None else Balances(made).at(at, MAIN).rows(MAIN)
        for row in rows:
            said = why(made, VENUES, MAIN, row.asset_id, at)
            assert row == said.held
            (stated,) = [each for each in said.events if each.role == "states"]
            assert (row.version, row.total) == (stated.version, stated.amounts["total"])
            assert stated.frame is not None
            (span,) = stated.spans
            assert row.total == stated.frame[span.start : span.end].decode()
            assert said.rests_on is None or said.rests_on <= stated.version
            assert sorted(roles(said)) == roles(said)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's tapes in `a.db`."""
    folder = tmp_path_factory.mktemp("why")
    for path in sorted(DEMO.glob("*.tape")):
        head = json.loads(path.read_text().partition("\n")[0])
        ran = run(folder, "ingest", "--db", "a.db", head["venue"], head["account"], path)
        assert ran.code in (0, 1), ran.err
    return folder


def told(folder: Path, *args: str) -> dict[str, Any]:
    ran = run(folder, "why", "--db", "a.db", *args, "--json")
    assert ("", True) == (ran.err, ran.code in (0, 1)), ran.err
    said: dict[str, Any] = json.loads(ran.out)
    assert (ran.code == 1) == (said["balance"]["completeness"] == "gap")
    return said


@pytest.mark.sqlite
def test_why_on_every_balance_of_the_demo_leads_to_bytes_that_contain_its_digits(demo: Path) -> None:
    balances: list[dict[str, Any]] = json.loads(run(demo, "balances", "--db", "a.db", "--json").out)
    assert 10 < len(balances)
    for row in balances:
        said = told(demo, row["account"], row["asset_id"])
        assert {
            **said["balance"],
            "account": row["account"],
            "asset": row["asset"],
            "asset_id": row["asset_id"],
        } == {
            **row,
            "held": True,
        }
        (stated,) = [each for each in said["events"] if each["version"] == said["stated_by"]]
        for each in said["events"]:
            frame = base64.b64decode(each["frame_base64"])
            assert sha256(frame).hexdigest() == each["evidence_sha256"]
            assert sorted(each["amounts"]) == sorted(span["part"] for span in each["spans"])
            for span in each["spans"]:
                assert (
                    each["amounts"][span["part"]]
                    == frame[span["start"] : span["end"]].decode()
                    == span["text"]
                )
        for part in PARTS:
            if row[part] is not None and part not in stated["derived"]:
                assert row[part] == stated["amounts"][part]


@pytest.mark.sqlite
def test_people_see_the_digits_in_their_frame(demo: Path) -> None:
    ran = run(demo, "why", "--db", "a.db", "BITOPRO:main", "usdt")
    assert (0, "") == (ran.code, ran.err)
    assert "bitopro:main USDT\n" in ran.out
    assert '"amount":"[[1766.12345678]]"' in ran.out
    assert "rests on  version 2  BalanceSnapshot" in ran.out
    assert "states  version 4  BalanceDelta" in ran.out


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("args", "why_not"),
    [
        (("bitopro:main", "XRP"), "bitopro:main has no XRP; it has: BITO, BTC, TWD, USDT"),
        (("bitopro:nobody", "BTC"), "has no account 'bitopro:nobody'"),
        (("bitopro:main", "BTC", "--at", "99"), "there is no version 99 yet"),
        (("bitopro:main", "BTC", "--at", "yesterday"), "not a time"),
        (("bitopro:main", "BTC", "--at", "2000-01-01"), "bitopro:main has no BTC"),
        (("bitopro:main", "BTC", "--checkpoint", "old"), "--checkpoint goes with --bundle"),
        (("bitopro:main", "BTC", "--bundle", "b"), "a.db.checkpoint: No such file"),
        (
            ("bitopro:main", "USDT", "--bundle", "b", "--checkpoint", "old"),
            "old has bitopro:main at version 2; this balance is stated by version 4: make one: ",
        ),
        (("bitopro:main", "BTC", "--bundle", "b", "--checkpoint", "a.db"), "a.db: not a"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(demo: Path, args: tuple[str, ...], why_not: str) -> None:
    with Ledger(demo / "a.db", read_only=True) as made:
        (demo / "old").write_bytes(note_of(made, upto=2))
    ran = run(demo, "why", "--db", "a.db", *args)
    assert (2, "", 1) == (ran.code, ran.out, ran.err.count("\n"))
    assert why_not in ran.err
    assert not (demo / "b").exists()
    assert [] == list(demo.glob("*.part"))


@pytest.mark.sqlite
def test_a_bundle_is_written_and_it_is_said_how_to_check_it(demo: Path) -> None:
    with Ledger(demo / "a.db", read_only=True) as made:
        (demo / "a.db.checkpoint").write_bytes(note_of(made))
    (demo / "key").write_text(KEY.public.text() + "\n")
    try:
        ran = run(demo, "why", "--db", "a.db", "kraken_prime:desk", "BTC", "--bundle", "b.bundle", "--json")
        assert (0, "13.00000000") == (ran.code, json.loads(ran.out)["balance"]["total"])
        assert f"{VERIFIER} b.bundle PUBLIC_KEY_FILE" in ran.err
        done = subprocess.run(
            [sys.executable, "-I", "-S", VERIFIER, "b.bundle", "key"],
            cwd=demo,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (0, "") == (done.returncode, done.stderr)
        assert "PROVED: kraken_prime:desk BTC as of version" in done.stdout
    finally:
        (demo / "a.db.checkpoint").unlink()


@pytest.mark.sqlite
def test_a_changed_store_makes_no_bundle_on_the_command_line(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as made:
        take_in(made, bitopro, "main", [WHOLE, LATER, OTHER])
        (tmp_path / "a.db.checkpoint").write_bytes(note_of(made))
        made.write([("UPDATE stored_events SET state=CAST(replace(state,'7.25','9.25') AS BLOB)", [()])])
    ran: Ran = run(tmp_path, "why", "--db", "a.db", "bitopro:main", "ADA", "--bundle", "b")
    assert (2, 1) == (ran.code, ran.err.count("\n"))
    assert "bitopro:main version" in ran.err
    assert not (tmp_path / "b").exists()


@pytest.mark.sqlite
def test_a_balance_that_no_bundle_proves_is_said_to_be_one_and_the_checkpoint_is_not_blamed(
    tmp_path: Path,
) -> None:
    pages = [
        snapshot(1, {"A": "5"}),
        snapshot(2, {"B": "1"}, part="q", more=True, sequence=1),
        snapshot(2, {"C": "1"}, part="q", begins=False, sequence=3),
        snapshot(2, {}, part="q", more=True, begins=False, sequence=2),
    ]
    with Ledger(tmp_path / "a.db") as made:
        say(made, [(page, False) for page in pages])
        (tmp_path / "a.db.checkpoint").write_bytes(note_of(made))
    ran = run(tmp_path, "why", "--db", "a.db", MAIN, "B", "--bundle", "b")
    assert (2, "", 1) == (ran.code, ran.out, ran.err.count("\n"))
    assert "this balance cannot be proved by a bundle: a page of a whole statement may have come" in ran.err
    assert "checkpoint" not in ran.err
    assert [] == [*tmp_path.glob("b*")]


@pytest.mark.sqlite
def test_a_checkpoint_before_the_balance_is_said_to_be_too_old(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as made:
        take_in(made, bitopro, "main", [WHOLE])
        (tmp_path / "a.db.checkpoint").write_bytes(note_of(made))
        take_in(made, bitopro, "main", [LATER], "s2")
    ran = run(tmp_path, "why", "--db", "a.db", "bitopro:main", "ADA", "--bundle", "b")
    assert (2, "", 1) == (ran.code, ran.out, ran.err.count("\n"))
    assert "has bitopro:main at version 3; this balance is stated by version 5" in ran.err
    assert [] == [*tmp_path.glob("b*")]


FIRST = (
    b'{"event":"ACCOUNT_BALANCE","eventID":"e1","timestamp":1763712000250,'
    b'"data":{"ADA":{"currency":"ADA","amount":"2.0","available":"2.0"}}}'
)


CHANGED = "UPDATE evidence SET payload=CAST(replace(payload,'2.0','9.0') AS BLOB)"
RETYPED = "UPDATE evidence SET payload=replace(payload,'2.0','9.0')"
"""What it was becomes text."""


@pytest.mark.sqlite
def test_a_frame_that_was_changed_or_is_gone_is_no_proof(tmp_path: Path) -> None:
    """It is shown as what it is, and the exit code says so."""
    feed_files(tmp_path, "bitopro", "main", [FIRST])
    for change, told in (
        (CHANGED, "was changed since"),
        (RETYPED, "was changed since"),
        ("UPDATE evidence SET payload=9", "was changed since"),
        ("DELETE FROM evidence", "is gone"),
    ):
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
            connection.execute(change)
        ran = run(tmp_path, "why", "--db", "a.db", "bitopro:main", "ADA")
        assert (1, True) == (ran.code, told in ran.out)


@pytest.mark.sqlite
def test_an_audit_shows_the_digest_of_what_was_and_says_that_it_was_changed_or_is_gone(
    tmp_path: Path,
) -> None:
    feed_files(tmp_path, "bitopro", "main", [FIRST])
    before = run(tmp_path, "audit", "--db", "a.db", "bitopro:main", "--json")
    assert (0, "") == (before.code, before.err)
    digests = [row["evidence_sha256"] for row in json.loads(before.out)]
    assert [None, sha256(FIRST).hexdigest(), None] == digests
    for change, told in (
        (CHANGED, f"the frame was changed since: it had SHA-256 {digests[1]}"),
        (RETYPED, f"the frame was changed since: it had SHA-256 {digests[1]}"),
        ("DELETE FROM evidence", "the frame it was made of is gone"),
    ):
        with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
            connection.execute(change)
        ran = run(tmp_path, "audit", "--db", "a.db", "bitopro:main", "--json")
        assert (1, f"bitopro:main version 2: {told}: see accountledger verify\n") == (ran.code, ran.err)
        assert digests == [row["evidence_sha256"] for row in json.loads(ran.out)]
        assert 1 == run(tmp_path, "audit", "--db", "a.db", "bitopro:main").code


@pytest.mark.sqlite
def test_a_proof_is_not_written_over_something_else(tmp_path: Path) -> None:
    feed_files(tmp_path, "bitopro", "main", [FIRST])
    assert 0 == run(tmp_path, "keygen").code
    assert 0 == run(tmp_path, "checkpoint", "--db", "a.db").code
    for name in ("a.db", "accountledger.key", "a.db.checkpoint"):
        before = (tmp_path / name).read_bytes()
        ran = run(tmp_path, "why", "--db", "a.db", "bitopro:main", "ADA", "--bundle", name)
        assert (2, before) == (ran.code, (tmp_path / name).read_bytes())
    for _ in range(2):  # an earlier proof may be
        assert 0 == run(tmp_path, "why", "--db", "a.db", "bitopro:main", "ADA", "--bundle", "a.proof").code
