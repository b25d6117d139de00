"""Statements between any two dates: they add up, continue one another, and name the cause where it is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console

from ledger import Ledger, Malformed, Venue, console
from ledger.cli import statements
from ledger.events import Event, known_ns, time_of
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from ledger.wire import decimal, time_text
from projections.balances_fold import BalancesFold
from projections.course import standing
from projections.statement import AssetStatement, Movement, Statement, statement
from tests.scripted import MAIN, RECEIVED_NS, delta, feed, fill, imported, says, snapshot
from tests.terminal import run
from transports import open_recording, play

Story = Sequence[tuple[str, int, Sequence[Event]]]
"""Sessions: name, when its frames came, and what each frame says."""

DEMO = Path(__file__).parents[1] / "ledger" / "demo"
YEAR = ("2026-01-01", "2027-01-01")


def at(tick: int) -> int:
    return RECEIVED_NS + tick * 1_000_000_000


def told(*sessions: tuple[str, int, Sequence[Event]]) -> Ledger:
    ledger = Ledger()
    for name, received_ns, events in sessions:
        feed(ledger, *(says(event) for event in events), session=name, received_ns=received_ns)
    return ledger


def of(ledger: Ledger, start: int, end: int, known: int | None = None) -> Statement:
    known_at = None if known is None else time_text(at(known))
    return statement(ledger, MAIN, time_text(at(start)), time_text(at(end)), known_at=known_at)


def moved(found: Statement | AssetStatement) -> list[tuple[str, str, str]]:
    assets = found.assets if isinstance(found, Statement) else (found,)
    return [(each.amount, each.balance, each.cause) for asset in assets for each in asset.movements]


def one(found: Statement) -> AssetStatement:
    (asset,) = found.assets
    return asset


# Random histories

ticks = st.integers(1, 8).map(at)
names = st.sampled_from(["A", "B", "C"])
amounts = st.integers(0, 5).map(str)
held = st.dictionaries(names, amounts, max_size=3)
numbers = st.none() | st.integers(1, 6)
parts = st.sampled_from(["p", "q"])
ROWS = [("5", "5"), ("-2", "3"), ("4", "7"), ("-4", "3"), ("0", "3"), ("1", "9"), ("2", "4")]

deltas = st.builds(
    lambda tick, said, removed, sequence, part: delta(
        tick,
        said,
        sorted(removed - set(said)),
        sequence=sequence,
        subscription=None if sequence is None else part,
    ),
    ticks,
    held,
    st.frozensets(names, max_size=1),
    numbers,
    parts,
)
snapshots = st.builds(
    lambda tick, said, part, more, begins, sequence: snapshot(
        tick, said, part=part, more=more, begins=begins, sequence=sequence
    ),
    ticks,
    held,
    parts,
    st.booleans(),
    st.booleans(),
    numbers,
)
wholes = st.builds(lambda tick, said: snapshot(tick, said), ticks, held)
rows = st.builds(
    lambda tick, row, asset: imported(tick, *row, asset=asset),
    ticks,
    st.sampled_from(ROWS),
    st.sampled_from(["R", "A"]),
)
fills = st.builds(
    lambda name, quantity: structs.replace(fill(name, None, quantity=quantity), symbol="AB"), names, amounts
)
events = deltas | fills | snapshots | wholes | rows
stories: st.SearchStrategy[Story] = st.lists(
    st.tuples(st.integers(0, 9).map(at), st.lists(events, max_size=7)), min_size=1, max_size=3
).map(lambda said: [(f"s{number}", received_ns, each) for number, (received_ns, each) in enumerate(said)])
dates = st.lists(st.integers(0, 9), min_size=3, max_size=3, unique=True).map(sorted)
moments = st.none() | st.integers(0, 9)


def held_at(ledger: Ledger, until: int, known: int | None) -> dict[str, str]:
    fold = BalancesFold(None)
    for recorded in ledger.replay(MAIN):
        event = recorded.event
        if time_of(event) <= at(until) and (known is None or known_ns(event) <= at(known)):
            fold.apply(recorded)
    return {row.asset_id: standing(row).amount for row in fold.held(MAIN)}


@settings(max_examples=100, deadline=None)
@given(stories, dates, moments)
def test_statements_between_any_dates_add_up_and_continue_one_another(
    story: Story, three: list[int], known: int | None
) -> None:
    first, second, third = three
    with told(*story) as ledger:
        early, later, both = (
            of(ledger, first, second, known),
            of(ledger, second, third, known),
            of(ledger, first, third, known),
        )
        ends = {tick: held_at(ledger, tick, known) for tick in three}
    for found, start, end in ((early, first, second), (later, second, third), (both, first, third)):
        assert found.adds_up
        assert ends[start] == {each.asset_id: each.opening for each in found.assets if each.opening_held}
        assert ends[end] == {each.asset_id: each.closing for each in found.assets if each.closing_held}
        for each in found.assets:
            total = decimal(each.opening)
            for movement in each.movements:
                total += decimal(movement.amount)
                assert total == decimal(movement.balance)
                assert at(start) < movement.time_ns <= at(end)
            assert total == decimal(each.closing)
    assert movements_by_asset(both) == joined(movements_by_asset(early), movements_by_asset(later))


def movements_by_asset(found: Statement) -> dict[str, tuple[Movement, ...]]:
    return {each.asset_id: each.movements for each in found.assets if each.movements}


def joined(
    one: dict[str, tuple[Movement, ...]], other: dict[str, tuple[Movement, ...]]
) -> dict[str, tuple[Movement, ...]]:
    return {asset: one.get(asset, ()) + other.get(asset, ()) for asset in sorted(one | other)}


# What a statement says


def tape(venue: Venue, name: str) -> Ledger:
    ledger = Ledger()
    with open_recording(DEMO / f"{venue.NAME}.tape") as recording:
        account = str(recording.account)
        with ledger.intake(
            venue, account, session=recording.session, opened_ns=recording.opened_ns
        ) as intake:
            play(recording, intake)
    assert name in {recorded.account for recorded in ledger.replay()}
    return ledger


def reasons(found: AssetStatement) -> list[str | None]:
    return [movement.reason for movement in found.movements]


def test_the_period_begins_after_its_start_and_ends_with_its_end() -> None:
    with told(("s1", at(0), [delta(at(tick), {"A": str(tick)}) for tick in (1, 2, 3)])) as ledger:
        found = one(of(ledger, 1, 2))
    assert ("1", [("1", "2", "unexplained")], "2") == (found.opening, moved(found), found.closing)


def test_an_asset_that_is_not_held_stands_at_zero_and_says_so() -> None:
    with told(("s1", at(0), [delta(at(1), {"A": "5"}), delta(at(3), {}, ["A"])])) as ledger:
        found = one(of(ledger, 0, 4))
    assert ("0", False, "0", False) == (found.opening, found.opening_held, found.closing, found.closing_held)
    assert [("5", "5", "unexplained"), ("-5", "0", "unexplained")] == moved(found)
    assert "the venue names it no more" in str(reasons(found)[1])
    assert (None, None) == (found.opening_completeness, found.closing_completeness)


def test_what_changes_only_a_part_is_no_movement() -> None:
    with Ledger() as ledger:
        rows = [balances("100", "0"), balances("40", "60")]
        with ledger.intake(deltadefi, "main", session="s1", opened_ns=at(0)) as intake:
            intake.receive_all([(frame, at(1 + number)) for number, frame in enumerate(rows)])
        found = one(statement(ledger, "deltadefi:main", *YEAR))
    assert [("100", "100", "unexplained")] == moved(found)


def balances(free: str, locked: str) -> bytes:
    return (
        b'{"type":"Account","sub_type":"balance","balance":[{"asset":"ada","asset_unit":"",'
        b'"free":%s,"locked":%s}]}' % (free.encode(), locked.encode())
    )


def test_rows_of_one_instant_follow_one_another_however_they_came() -> None:
    rows = [imported(at(1), *row) for row in (("5", "5"), ("-4", "3"), ("2", "7"))]
    with told(("s1", at(0), rows)) as ledger:
        found = one(of(ledger, 0, 1))
    assert [("5", "5", "trade"), ("2", "7", "trade"), ("-4", "3", "trade")] == moved(found)


UP, DOWN = imported(at(1), "5", "5"), imported(at(1), "-5", "0")


@pytest.mark.parametrize("first", [[UP, DOWN], [DOWN, UP]])
@pytest.mark.parametrize(("begins", "last"), [("0", "2"), ("5", "7")])
def test_rows_that_lead_back_to_where_they_begin_end_where_the_next_row_begins(
    first: list[Event], begins: str, last: str
) -> None:
    with told(("s1", at(0), [*first, imported(at(2), "2", last)])) as ledger:
        found = one(of(ledger, 0, 3))
    before = [] if begins == "0" else [(begins, begins, "unexplained")]
    middle = [("5", "5", "trade"), ("-5", "0", "trade")]
    rows = [*(middle if begins == "0" else middle[::-1]), ("2", last, "trade")]
    assert before + rows == moved(found)


@pytest.mark.parametrize("first", [[UP, DOWN], [DOWN, UP]])
def test_rows_that_lead_back_to_where_they_begin_lead_to_what_is_held_at_the_end(first: list[Event]) -> None:
    with told(("s1", at(0), first)) as ledger:
        found = one(of(ledger, 0, 1))
    assert "unprovable" == found.closing_completeness
    assert Counter({"5": 1, "-5": 1}) == Counter(
        amount for amount, _, cause in moved(found) if cause == "trade"
    )
    assert [] == [reason for reason in reasons(found) if reason and "do not follow" in reason]


def test_what_only_a_later_row_tells_of_the_opening_is_said_so() -> None:
    with told(("s1", at(0), [UP, DOWN, imported(at(2), "2", "7")])) as ledger:
        found = one(of(ledger, 1, 3))
    assert ("0", [("5", "5", "unexplained"), ("2", "7", "trade")]) == (found.opening, moved(found))
    assert "at which balance they ended, only version 4 tells" in str(reasons(found)[0])


def test_a_balance_stated_before_its_row_came_is_explained_by_the_row() -> None:
    rows: list[Event] = [imported(at(1), "5", "5"), delta(at(3), {"USDC": "7"}), imported(at(3), "2", "7")]
    with told(("s1", at(0), rows)) as ledger:
        found = one(of(ledger, 0, 3))
    assert [("5", "5", "trade"), ("2", "7", "trade")] == moved(found)


def test_missing_rows_are_a_movement_of_their_own_that_names_the_gap() -> None:
    rows = [imported(at(1), "5", "5", cause="deposit"), imported(at(3), "1", "9")]
    with told(("s1", at(0), rows)) as ledger:
        made = of(ledger, 0, 4)
    found = one(made)
    assert [("5", "5", "deposit"), ("3", "8", "unexplained"), ("1", "9", "trade")] == moved(found)
    assert str(reasons(found)[1]).startswith("found after the chain gap: rows that change USDC by 3")
    assert [0, 1, 0] == [len(movement.suspect) for movement in found.movements]
    assert 1 == len(made.wrong)


def test_a_history_known_from_its_middle_says_that_what_was_before_is_not_known() -> None:
    with told(("s1", at(0), [imported(at(1), "-5", "95", cause="fee")])) as ledger:
        found = one(of(ledger, 0, 1))
    assert [("100", "100", "unexplained"), ("-5", "95", "fee")] == moved(found)
    assert "what was before is not known" in str(reasons(found)[0])


def test_rows_that_lead_nowhere_are_added_up_as_the_balances_say() -> None:
    rows: list[Event] = [imported(at(1), "5", "5"), imported(at(1), "0", "5"), delta(at(1), {"USDC": "9"})]
    with told(("s1", at(0), rows)) as ledger:
        found = one(of(ledger, 0, 1))
    assert ("9", True) == (found.closing, found.adds_up)


def test_a_statement_that_came_late_is_at_its_time_and_says_that_it_came_late() -> None:
    with told(("s1", at(0), [delta(at(tick), {"A": str(tick)}) for tick in (1, 3, 2)])) as ledger:
        found = one(of(ledger, 0, 4))
    assert ["1", "2", "3"] == [movement.balance for movement in found.movements]
    assert [False, True, False] == [movement.late for movement in found.movements]
    assert [2, 4, 3] == [movement.version for movement in found.movements]


def test_a_history_told_backwards_is_not_late_but_one_told_by_a_later_session_is() -> None:
    first = [imported(at(3), "1", "6"), imported(at(2), "5", "5")]
    with told(("s1", at(0), first), ("s2", at(5), [imported(at(1), "0", "0")])) as ledger:
        found = one(of(ledger, 0, 4))
    assert [True, False, False] == [movement.late for movement in found.movements]


def test_as_known_then_is_what_had_come_by_then() -> None:
    story = (("s1", at(2), [delta(at(1), {"A": "1"})]), ("s2", at(6), [delta(at(3), {"A": "4"})]))
    with told(*story) as ledger:
        assert [("1", "1", "unexplained")] == moved(of(ledger, 0, 5, 5))
        assert [("1", "1", "unexplained"), ("3", "4", "unexplained")] == moved(of(ledger, 0, 5, 6))
        assert [("1", "1", "unexplained"), ("3", "4", "unexplained")] == moved(of(ledger, 0, 5))
        assert [] == moved(of(ledger, 0, 5, 1))


def test_of_a_time_before_anything_is_known_it_says_so_and_not_that_nothing_was_held() -> None:
    unknown = f"nothing is known of {MAIN}"
    first = f"{unknown} before {time_text(at(3))}"
    with told(("s1", at(5), [snapshot(at(3), {})]), ("s2", at(6), [delta(at(4), {"A": "1"})])) as ledger:
        assert [(first,), ()] == [of(ledger, 0, end).wrong for end in (2, 3)]
        never = f"{unknown}: no balance was stated by {time_text(at(4))}"
        assert [(never,), (first,), ()] == [
            of(ledger, *told).wrong for told in ((0, 9, 4), (0, 2, 5), (0, 9, 5))
        ]
    with told(("s1", at(1), [fill("f1", at(1))])) as ledger:
        assert (f"{unknown}: no balance was stated",) == of(ledger, 0, 9).wrong


def test_the_gap_that_was_open_then_is_shown_as_known_then() -> None:
    story = (
        ("s1", at(2), [delta(at(1), {"A": "1"}, sequence=1, subscription="7"), third()]),
        ("s2", at(6), [delta(at(2), {"A": "2"}, sequence=2, subscription="7")]),
    )
    with told(*story) as ledger:
        then, now = of(ledger, 0, 4, 5), of(ledger, 0, 4)
    assert [1, 0] == [sum("sequence gap" in wrong for wrong in each.wrong) for each in (then, now)]
    assert [True, False] == [bool(each.assets[0].movements[-1].suspect) for each in (then, now)]


def third() -> Event:
    return delta(at(3), {"A": "3"}, sequence=3, subscription="7")


def test_one_asset_is_found_by_its_id_or_label() -> None:
    with tape(deltadefi, "deltadefi:main") as ledger:
        for name in ("lovelace", "ada", "ADA"):
            found = statement(ledger, "deltadefi:main", *YEAR, asset=name)
            assert ["lovelace"] == [each.asset_id for each in found.assets]
        assert () == statement(ledger, "deltadefi:main", *YEAR, asset="BTC").assets


def test_a_statement_begins_before_it_ends_and_times_are_times() -> None:
    with Ledger() as ledger:
        with pytest.raises(ValueError, match="begins before"):
            statement(ledger, MAIN, "2026-01-02", "2026-01-02")
        with pytest.raises(Malformed, match="not a time"):
            statement(ledger, MAIN, "soon", "2026-01-02")


# What the venues say


def test_deltadefi_fills_explain_the_balances_pushed_after_them() -> None:
    with tape(deltadefi, "deltadefi:main") as ledger:
        usdm, ada = sorted(statement(ledger, "deltadefi:main", *YEAR).assets, key=lambda each: each.asset)[
            ::-1
        ]
    fills = "fills 7d1c9a44-5b02-4c6e-8a11-e0a4d3f9aa01"
    assert [("2100.250001", "2100.250001", "unexplained"), ("-152.500000", "1947.750001", fills)] == moved(
        usdm
    )
    assert [("800.5", "800.5", "unexplained"), ("249.75", "1050.25", fills)] == moved(ada)


def test_pacifica_rows_bring_their_cause_and_the_chain_gap_its_difference() -> None:
    with tape(pacifica, "pacifica:9xDemoWa11etPacifica") as ledger:
        made = statement(ledger, "pacifica:9xDemoWa11etPacifica", *YEAR)
    causes = [movement.cause for movement in one(made).movements]
    assert ["deposit", "trade", "trade", "trade", "trade", "unexplained", "withdraw", "payout"] == causes
    assert ("-12.250000", "629.715911") == (one(made).movements[5].amount, one(made).closing)
    assert ["gap", True] == [one(made).closing_completeness, bool(made.wrong)]


def test_kraken_movements_after_a_hole_are_suspect_until_the_next_baseline() -> None:
    with tape(kraken_prime, "kraken_prime:desk") as ledger:
        made = statement(ledger, "kraken_prime:desk", *YEAR)
    suspect = {each.asset_id: [bool(movement.suspect) for movement in each.movements] for each in made.assets}
    assert {
        "BTC": [False, False, True],
        "ETH": [False],
        "SOL": [False, True],
        "USD": [False, True],
    } == suspect
    assert ((), True) == (made.wrong, made.adds_up)


def test_bitopro_statements_move_by_what_differs() -> None:
    with tape(bitopro, "bitopro:main") as ledger:
        made = statement(ledger, "bitopro:main", "2026-11-20T09:14:00Z", "2026-11-21")
    (twd,) = [each for each in made.assets if each.asset == "TWD"]
    assert ("1250000", ["-54199.5", "-25300.5", "-30500"], "1140000") == (
        twd.opening,
        [movement.amount for movement in twd.movements],
        twd.closing,
    )


def test_cascade_states_one_balance_of_a_subaccount() -> None:
    account = "cascade:0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f/0"
    with tape(cascade, account) as ledger:
        found = one(statement(ledger, account, *YEAR))
    assert ["15250.750000", "15000.000000", "14862.104500"] == [each.balance for each in found.movements]


def test_the_first_full_statement_after_a_blind_interval_names_it() -> None:
    with Ledger() as ledger:
        for session, tick, amount in (("s1", 1, "5"), ("s2", 9, "7")):
            with ledger.intake(
                bitopro, "main", session=session, opened_ns=at(tick), now_ns=partial(at, tick)
            ) as intake:
                intake.receive_all([(stated(amount, tick), at(tick))])
        made = statement(ledger, "bitopro:main", *YEAR)
    first, last = one(made).movements
    assert ((), ("2", "7")) == (first.suspect, (last.amount, last.balance))
    blind = f"blind interval {time_text(at(1))} to {time_text(at(9))}"
    assert str(last.reason).startswith(f"found after the {blind}; ")
    assert last.suspect[0].startswith(f"{blind} (closed by version")
    assert (True, ()) == (made.adds_up, made.wrong)


def stated(amount: str, tick: int) -> bytes:
    row = {"currency": "ADA", "amount": amount, "available": amount, "stake": "0", "tradable": True}
    said = {"event": "ACCOUNT_BALANCE", "timestamp": at(tick) // 1_000_000, "data": {"ADA": row}}
    return json.dumps(said).encode()


# The command


def test_in_a_narrow_window_no_amount_of_a_statement_is_broken_or_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    total = "123456789012345678901234567890.123456789"
    with told(("s1", at(0), [delta(at(1), {"A": total})])) as ledger:
        made = of(ledger, 0, 2)
    for width in (60, 400):
        monkeypatch.setattr(console, "out", Console(force_terminal=True, width=width, color_system=None))
        statements._show(made)
        printed = capsys.readouterr().out
        assert ["A"] == [line.strip() for line in printed.splitlines() if line.strip() == "A"]
        assert 3 == printed.count(total)


def test_the_command_prints_one_object_or_a_table_and_says_what_is_wrong(tmp_path: Path) -> None:
    assert 0 == run(tmp_path, "demo", "--db", "a.db").code
    period = ("--from", "2026-11-20", "--to", "2026-11-21")
    ran = run(tmp_path, "statement", "--db", "a.db", "bitopro:main", *period, "--json")
    told = json.loads(ran.out)
    assert (0, "", "bitopro:main") == (ran.code, ran.err, told["account"])
    assert ("2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z", None) == (
        told["from"],
        told["to"],
        told["known_at"],
    )
    assert all(each["adds_up"] for each in told["assets"])
    gone = run(tmp_path, "statement", "--db", "a.db", "pacifica:9xDemoWa11etPacifica", *period)
    assert (1, "") == (gone.code, gone.err)
    assert "unexplained" in gone.out
    assert "wrong: chain gap: rows that change USDC by -12.250000" in gone.out
    years = ("--from", "2001-01-01", "--to", "2002-01-01")
    unheard = run(tmp_path, "statement", "--db", "a.db", "bitopro:main", *years)
    assert (1, "") == (unheard.code, unheard.err)
    assert "wrong: nothing is known of bitopro:main before 2026-11-20T09:13:00.250Z" in unheard.out
    assert "nothing was held" not in unheard.out
    for args in (("nobody:main", *period), ("bitopro:main", "--from", "2026-11-21", "--to", "2026-11-20")):
        assert 2 == run(tmp_path, "statement", "--db", "a.db", *args).code
    assert 2 == run(tmp_path, "statement", "--db", "a.db", "bitopro:main", *period, "--asset", "DOGE").code
    assert (
        2
        == run(
            tmp_path, "statement", "--db", "a.db", "bitopro:main", "--from", "x", "--to", "2026-11-20"
        ).code
    )
