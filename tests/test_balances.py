"""What the venues last stated, now and as of a moment; late is not new, absent is gone only when all is said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, Recorded
from ledger.events import Balance, BalanceDelta, BalanceSnapshot, Event
from projections import Balances, History, compare
from tests.scripted import MAIN, RECEIVED_NS, VENUE, delta, feed, imported, says, snapshot

SECOND_NS = 1_000_000_000
Held = dict[str, str | None]


def held(*frames: Event | bytes, account: str = MAIN) -> Held:
    """The totals held after these, each a frame of one conversation."""
    with Ledger() as ledger:
        feed(ledger, *(frame if isinstance(frame, bytes) else says(frame) for frame in frames))
        return totals(Balances(ledger), account)


def totals(balances: Balances, account: str = MAIN) -> Held:
    return {row.asset_id: row.total for row in balances.rows(account)}


def held_of_sessions(*sessions: Sequence[Event]) -> Held:
    with Ledger() as ledger:
        for number, events in enumerate(sessions):
            feed(ledger, *map(says, events), session=f"s{number}")
        return totals(Balances(ledger))


# Whole and partial statements


def test_a_snapshot_drops_what_it_does_not_name_and_a_delta_never_does() -> None:
    assert {"A": "1", "B": "2"} == held(snapshot(1, {"A": "1", "B": "2"}))
    assert {"A": "1", "B": "3"} == held(snapshot(1, {"A": "1", "B": "2"}), delta(2, {"B": "3"}))
    assert {"B": "3"} == held(snapshot(1, {"A": "1", "B": "2"}), snapshot(2, {"B": "3"}))
    assert {} == held(snapshot(1, {"A": "1"}), snapshot(2, {}))
    assert {"A": "1"} == held(snapshot(1, {"A": "1"}), delta(2, {}))


def test_zero_is_held() -> None:
    assert {"A": "0.00"} == held(delta(1, {"A": "5"}), delta(2, {"A": "0.00"}))


def test_an_account_is_not_touched_by_another_ones_statement() -> None:
    other = says(snapshot(2, {"B": "9"}), account="scripted:other")
    assert {"A": "1"} == held(snapshot(1, {"A": "1"}), other)
    assert {"B": "9"} == held(snapshot(1, {"A": "1"}), other, account="scripted:other")


def test_the_accounts_of_which_something_is_held_are_in_it_in_order() -> None:
    with Ledger() as ledger:
        balances = Balances(ledger)
        assert [] == list(balances)
        for name in ("b", "c", "a", "gone"):
            feed(ledger, says(snapshot(1, {"A": "1", "B": "2"}), account=f"scripted:{name}"), session=name)
        feed(ledger, says(snapshot(2, {}), account="scripted:gone"), session="last")
        held, before = balances.at(2), balances.at(1)
        assert ["scripted:a", "scripted:b", "scripted:c"] == list(balances) == list(held)
        assert [*list(held), "scripted:gone"] == list(before)
        for mapping in (balances, held):
            assert "scripted:b" in mapping
            for name in ("scripted:gone", "scripted:never", MAIN):
                assert name not in mapping
                assert {} == mapping[name]


def test_a_late_statement_is_kept_and_changes_nothing_newer() -> None:
    with Ledger() as ledger:
        feed(
            ledger,
            says(snapshot(5, {"A": "5", "B": "5"})),
            says(delta(4, {"A": "4", "C": "4"})),
            says(snapshot(3, {"A": "3"})),
            says(delta(4, {}, ["B"])),
        )
        assert {"A": "5", "B": "5"} == totals(Balances(ledger))
        assert 6 == sum(1 for _ in ledger.replay(MAIN))


def test_of_one_time_the_last_to_arrive_wins() -> None:
    assert {"A": "2"} == held(delta(1, {"A": "1"}), delta(1, {"A": "2"}))
    assert {"B": "1"} == held(delta(1, {"A": "1"}), snapshot(1, {"B": "1"}))
    assert {} == held(delta(1, {"A": "1"}), delta(1, {}, ["A"]))
    assert {"A": "1"} == held(delta(1, {}, ["A"]), delta(1, {"A": "1"}))
    assert {"A": "2", "B": "1"} == held(snapshot(1, {"B": "1"}), delta(1, {"A": "2"}))


def test_what_was_removed_is_not_resurrected_by_a_late_statement() -> None:
    assert {} == held(delta(1, {"A": "1"}), delta(3, {}, ["A"]), delta(2, {"A": "2"}))
    assert {} == held(delta(3, {}, ["A"]), delta(2, {"A": "2"}))
    assert {"A": "4"} == held(delta(3, {}, ["A"]), delta(4, {"A": "4"}))


def test_what_a_snapshot_dropped_is_not_resurrected_by_a_late_statement() -> None:
    assert {"B": "1"} == held(snapshot(1, {"A": "1"}), snapshot(3, {"B": "1"}), delta(2, {"A": "2"}))
    assert {"B": "1"} == held(snapshot(3, {"B": "1"}), delta(2, {"A": "2"}))
    removed, whole, late = delta(1, {}, ["A"]), snapshot(3, {"B": "1"}), delta(2, {"A": "2"})
    assert (
        {"B": "1"} == held(removed, whole, late) == held(whole, removed, late) == held(removed, late, whole)
    )


def test_without_a_venues_time_the_time_of_receipt_counts() -> None:
    with Ledger() as ledger:
        feed(ledger, says(delta(None, {"A": "2"})), session="later", received_ns=RECEIVED_NS + 2)
        feed(ledger, says(delta(None, {"A": "1"})), session="sooner", received_ns=RECEIVED_NS + 1)
        assert {"A": "2"} == totals(Balances(ledger))
        assert [RECEIVED_NS + 2] == [row.time_ns for row in Balances(ledger).rows()]


# By sequence, where there is one


def numbered(sequence: int, time_ns: int, held: dict[str, str], *removed: str, of: str = "7") -> Event:
    return delta(time_ns, held, removed, sequence=sequence, subscription=of)


def test_within_a_subscription_the_sequence_says_what_is_late_whatever_the_times() -> None:
    assert {"A": "2"} == held(numbered(1, 9, {"A": "1"}), numbered(2, 5, {"A": "2"}))
    assert {"A": "2"} == held(numbered(2, 5, {"A": "2"}), numbered(1, 9, {"A": "1"}))
    assert {} == held(numbered(1, 9, {"A": "1"}), numbered(2, 5, {}, "A"))
    assert {} == held(numbered(2, 5, {}, "A"), numbered(1, 9, {"A": "1"}))


def test_between_subscriptions_the_time_says_what_is_late() -> None:
    assert {"A": "1"} == held(numbered(1, 9, {"A": "1"}), numbered(2, 5, {"A": "2"}, of="8"))
    assert {"A": "2"} == held(numbered(2, 5, {"A": "1"}), numbered(1, 9, {"A": "2"}, of="8"))
    assert {"A": "2"} == held(numbered(2, 5, {"A": "1"}), delta(6, {"A": "2"}))


# Statements in pages


def page(
    time_ns: int,
    assets: str,
    *,
    part: str = "7",
    first: bool = False,
    last: bool = False,
    number: int | None = None,
) -> Event:
    stated = {asset: str(time_ns) for asset in assets}
    return snapshot(time_ns, stated, part=part, more=not last, begins=first, sequence=number)


def test_a_statement_in_pages_drops_what_no_page_names_and_only_when_it_is_whole() -> None:
    before = delta(1, {"A": "1", "B": "1", "X": "1"})
    first, second, last = page(2, "A", first=True), page(3, "B"), page(4, "C", last=True)
    assert {"A": "2", "B": "1", "X": "1"} == held(before, first)
    assert {"A": "2", "B": "3", "X": "1"} == held(before, first, second)
    assert {"A": "2", "B": "3", "C": "4"} == held(before, first, second, last)


def test_a_statement_whose_first_page_is_missing_drops_nothing() -> None:
    before = delta(1, {"A": "1", "X": "1"})
    assert {"A": "1", "X": "1", "B": "3", "C": "4"} == held(before, page(3, "B"), page(4, "C", last=True))
    assert {"A": "1", "X": "1", "C": "4"} == held(before, page(4, "C", last=True))


def test_a_statement_whose_last_page_is_missing_drops_nothing() -> None:
    assert {"A": "2", "X": "1"} == held(delta(1, {"X": "1"}), page(2, "A", first=True))


def test_a_numbered_statement_drops_when_every_number_is_there_however_they_come() -> None:
    """A page that is lost may have named what the others do not."""
    before = snapshot(1, {"A": "1", "B": "1", "X": "1"})
    first, middle, last = (
        page(2, "A", first=True, number=1),
        page(3, "B", number=2),
        page(4, "C", last=True, number=3),
    )
    assert {"A": "2", "B": "1", "C": "4", "X": "1"} == held(before, first, last)
    whole = {"A": "2", "B": "3", "C": "4"}
    assert whole == held(before, first, last, middle) == held(before, last, middle, first)
    update = numbered(2, 3, {"A": "9"})
    assert {"A": "9", "C": "4"} == held(before, first, last, update)
    assert {"A": "2", "B": "9", "C": "4"} == held(before, first, last, numbered(2, 3, {"B": "9"}))
    assert {**whole, "X": "7"} == held(before, first, last, delta(5, {"X": "7"}), middle)


def test_what_is_stated_between_the_pages_stays() -> None:
    first, last = page(2, "A", first=True), page(4, "B", last=True)
    assert {"A": "2", "B": "4", "C": "3"} == held(first, delta(3, {"C": "3"}), last)
    assert {"A": "3", "B": "4"} == held(first, delta(3, {"A": "3"}), last)
    assert {"B": "4"} == held(first, delta(3, {}, ["A"]), last)
    assert {"A": "2", "B": "4", "C": "3"} == held(
        first, delta(2, {"C": "3"}), last
    )  # at the first page's time


def test_what_is_numbered_between_the_pages_stays_whatever_its_time() -> None:
    first, last = page(2, "A", first=True, number=2), page(4, "B", last=True, number=4)
    assert {"A": "2", "B": "4", "C": "1"} == held(first, numbered(3, 1, {"C": "1"}), last)
    last = page(4, "B", last=True, number=3)
    assert {"A": "2", "B": "4"} == held(numbered(1, 3, {"C": "3"}), first, last)


def test_a_late_statement_between_the_pages_or_after_them_changes_nothing() -> None:
    first, last, late = page(3, "A", first=True), page(4, "B", last=True), delta(2, {"C": "2"})
    assert {"A": "3", "B": "4"} == held(late, first, last)
    assert {"A": "3", "B": "4"} == held(first, late, last)
    assert {"A": "3", "B": "4"} == held(first, last, late)


def test_what_is_stated_while_the_pages_come_counts_when_it_arrives_after_them() -> None:
    first, last, update = page(2, "A", first=True), page(4, "B", last=True), delta(3, {"C": "3"})
    assert {"A": "2", "B": "4", "C": "3"} == held(delta(1, {"C": "1"}), first, last, update)


def test_a_new_whole_statement_overtakes_an_unfinished_one() -> None:
    unfinished = page(2, "AB", first=True)
    assert {"C": "3"} == held(unfinished, snapshot(3, {"C": "3"}))
    assert {"C": "3"} == held(unfinished, page(3, "C", part="8", first=True, last=True))
    whole = [page(3, "C", part="8", first=True), page(4, "D", part="8", last=True)]
    assert {"C": "3", "D": "4"} == held(unfinished, *whole)
    assert {"C": "3", "D": "4", "E": "5"} == held(unfinished, *whole, page(5, "E", last=True))


def test_a_subscription_that_begins_again_overtakes_its_unfinished_statement() -> None:
    unfinished = page(2, "A", first=True, number=1)
    assert {"B": "3", "C": "4"} == held(
        unfinished, page(3, "B", first=True, number=2), page(4, "C", last=True, number=3)
    )


def test_pages_that_all_say_they_begin_are_one_statement_where_nothing_numbers_them() -> None:
    before = delta(1, {"X": "1"})
    pages = [page(2, "A", first=True), page(3, "B", first=True), page(4, "C", first=True, last=True)]
    assert {"A": "2", "B": "3", "C": "4"} == held(before, *pages)


def test_the_pages_of_a_statement_may_come_in_several_sessions() -> None:
    before, first = delta(1, {"X": "1"}), page(2, "A", first=True)
    assert {"A": "2", "B": "3"} == held_of_sessions([before, first], [page(3, "B", last=True)])


def test_statements_whose_pages_come_by_turns_drop_nothing_they_name() -> None:
    """Two connections in the change-over: both state the whole account, page by page, at the same time."""
    one = [page(2, "A", part="one/7", first=True), page(4, "B", part="one/7", last=True)]
    other = [page(3, "A", part="two/7", first=True), page(5, "B", part="two/7", last=True)]
    assert {"A": "3", "B": "4"} == held(one[0], other[0], one[1])
    assert {"A": "3", "B": "5"} == held(one[0], other[0], one[1], other[1])
    assert {"A": "3", "B": "5"} == held(delta(1, {"X": "1"}), one[0], other[0], other[1], one[1])


# Amounts


@pytest.mark.parametrize(
    ("available", "locked", "total"),
    [
        ("1.10", "2.200", "3.300"),
        ("0", "0.000", "0.000"),
        ("-5.5", "5.5", "0.0"),
        ("1E-7", "0", "0.0000001"),
        ("1E+2", "0", "100"),
        ("9" * 38, "0." + "9" * 38, "9" * 38 + "." + "9" * 38),
        ("1e99", "1e-99", "1" + "0" * 99 + "." + "0" * 98 + "1"),
        ("+1", "1", "2"),
        (None, "1", None),
        ("1", None, None),
    ],
)
def test_a_total_that_is_not_stated_is_the_exact_sum_of_its_parts(
    available: str | None, locked: str | None, total: str | None
) -> None:
    said = BalanceDelta(delta(1, {}).source, "", (Balance("A", "A", None, available, locked),))
    with Ledger() as ledger:
        feed(ledger, says(said))
        (row,) = Balances(ledger).rows()
        assert (total, available, locked) == (row.total, row.available, row.locked)
        holding = Balances(ledger)[MAIN]["A"]
        assert (None if total is None else Decimal(total)) == holding.total


def test_a_stated_total_is_kept_as_it_came() -> None:
    said = BalanceDelta(delta(1, {}).source, "", (Balance("A", "Ada", "10.500", "1", "2", "3.0", "4", True),))
    with Ledger() as ledger:
        feed(ledger, says(said))
        (row,) = Balances(ledger).rows()
        assert ("10.500", "1", "2", "3.0", "4", True) == (
            row.total,
            row.available,
            row.locked,
            row.staked,
            row.pending,
            row.tradable,
        )
        assert (MAIN, "A", "Ada", 2, 1) == (row.account, row.asset_id, row.asset, row.version, row.time_ns)


# Imported history


def test_a_memo_row_makes_no_balance() -> None:
    assert {} == held(imported(1, "5", "5", memo=True))
    assert {"USDC": "5"} == held(imported(1, "5", "5"), imported(2, "1", "6", memo=True))


def test_the_newest_row_is_the_balance_whichever_page_comes_first() -> None:
    old = [imported(1, "5", "5"), imported(2, "2", "7")]
    new = [imported(3, "1", "8"), imported(4, "-3", "5.0", pending="1")]
    assert {"USDC": "5.0"} == held(says(*old), says(*new)) == held(says(*new), says(*old))
    with Ledger() as ledger:
        feed(ledger, says(*new), says(*old))
        (row,) = Balances(ledger).rows()
        assert ("1", 3, 4) == (row.pending, row.version, row.time_ns)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_the_rows_of_one_instant_follow_one_another_whatever_their_order(order: tuple[int, ...]) -> None:
    rows = [imported(1, "5", "5"), imported(1, "-2", "3"), imported(1, "7", "10")]
    assert {"USDC": "10"} == held(*(rows[index] for index in order))


def test_an_instant_may_be_split_over_pages_newest_page_first() -> None:
    chain = [imported(1, str(amount), str(amount * (amount + 1) // 2)) for amount in range(1, 9)]
    assert {"USDC": "36"} == held(says(*chain[6:]), says(*chain[3:6]), says(*chain[:3]))


def test_a_withdrawal_without_its_sign_goes_before_what_follows_it() -> None:
    withdrawn, traded = imported(1, "4", "6", cause="withdraw"), imported(1, "1", "7")
    assert {"USDC": "7"} == held(withdrawn, traded) == held(traded, withdrawn)
    half = int("1" * 40)
    opened, withdrawn = (
        imported(1, str(2 * half), str(2 * half)),
        imported(1, str(half), str(half), cause="withdraw"),
    )
    traded = imported(1, str(5 - half), "5")
    assert {"USDC": "5"} == held(traded, withdrawn, opened) == held(opened, withdrawn, traded)


def test_rows_of_one_instant_that_do_not_follow_one_another_leave_the_last_to_arrive() -> None:
    assert {"USDC": "9"} == held(imported(1, "1", "4"), imported(1, "2", "9"))
    assert {"USDC": "4"} == held(imported(1, "2", "9"), imported(1, "1", "4"))


def test_rows_after_a_statement_of_their_own_instant_begin_anew() -> None:
    before, after = imported(5, "5", "5"), imported(5, "-2", "0")
    assert {"USDC": "0"} == held(before, snapshot(5, {}), after)
    assert {"USDC": "0"} == held(before, delta(5, {}, ["USDC"]), after)


def test_a_late_row_is_not_held_after_a_whole_statement_without_its_asset() -> None:
    assert {"A": "1"} == held(snapshot(5, {"A": "1"}), imported(4, "2", "2"))
    assert {"USDC": "1"} == held(snapshot(5, {"USDC": "1"}), imported(4, "2", "2"))
    assert {"USDC": "3"} == held(snapshot(5, {"USDC": "1"}), imported(6, "2", "3"))


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A history whose balances all differ, in pages that overlap and come in any order; and the balance it ends at."""
    amounts = draw(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=10))
    balances = [1000]
    for amount in amounts:
        balances.append(balances[-1] + amount)
    if len(set(balances)) < len(balances):  # a balance that comes back leaves the order open
        amounts = [abs(amount) for amount in amounts]
        balances = [1000 + sum(amounts[:index]) for index in range(len(amounts) + 1)]
    times = sorted(draw(st.lists(st.integers(1, 4), min_size=len(amounts), max_size=len(amounts))))
    rows = [
        imported(times[index], str(amount), f"{balances[index + 1]}.00", key=f"row:{index}")
        for index, amount in enumerate(amounts)
    ]
    cuts = sorted({0, *draw(st.lists(st.integers(0, len(rows)), max_size=4))})
    overlap = draw(st.integers(0, 2))
    pages = [
        says(*rows[max(0, start - overlap) : end])
        for start, end in zip(cuts, [*cuts[1:], len(rows)], strict=True)
    ]
    return f"{balances[-1]}.00", draw(st.permutations(pages))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(history=histories())
def test_the_pages_of_a_history_end_at_its_last_balance_in_any_order(
    history: tuple[str, list[bytes]],
) -> None:
    last, pages = history
    with Ledger() as ledger:
        feed(ledger, *pages)
        assert {"USDC": last} == totals(Balances(ledger))
        *_, newest = History(ledger).rows()
        assert last == newest.balance


# Any interleaving, batching, restart


def by_dictionary(events: Iterable[Recorded]) -> dict[tuple[str, str], tuple[str | None, int]]:
    """Total and version of every balance held, by the rules as they are written down, in a dictionary."""
    known: dict[tuple[str, str], tuple[int, int, str | None]] = {}  # the total None: no longer held
    whole: dict[str, int] = {}
    pages: dict[tuple[str, str | None], tuple[int, int, set[str]]] = {}
    for recorded in events:
        event, account, version = recorded.event, recorded.account, recorded.version
        if not isinstance(event, BalanceSnapshot | BalanceDelta):
            continue
        at = event.source.time_ns or 0
        stated = {balance.asset_id: balance.total for balance in event.balances}
        gone = dict.fromkeys(event.removed) if isinstance(event, BalanceDelta) else {}
        for asset, total in {**stated, **gone}.items():
            if at >= max(known.get((account, asset), (0,))[0], whole.get(account, 0)):
                known[account, asset] = (at, version, total)
        if not isinstance(event, BalanceSnapshot):
            continue
        key = account, event.part
        if event.part is None or key not in pages:
            if not event.begins:
                continue
            pages[key] = (at, version, set())
        since, began, names = pages[key]
        since, names = min(since, at), names | stated.keys()
        pages[key] = (since, began, names)
        if event.more:
            continue
        del pages[key]
        whole[account] = max(whole.get(account, 0), since)
        for (owner, asset), row in known.items():
            if owner == account and asset not in names and row[:2] < (since, began):
                known[owner, asset] = (since, version, None)
    return {key: (total, version) for key, (_, version, total) in known.items() if total is not None}


def scripted(dice: Random) -> list[tuple[str, bytes] | str]:
    """Frames, each with its session; and what happens between them."""
    script: list[tuple[str, bytes] | str] = []
    for _ in range(30):
        stated = {asset: str(dice.randint(0, 10**6)) for asset in "ABC" if dice.random() < 0.5}
        time_ns, kind = dice.randint(1, 6), dice.randint(0, 9)
        event: Event
        if kind < 4:
            removed = [asset for asset in "ABC" if asset not in stated and dice.random() < 0.3]
            event = delta(time_ns, stated, removed)
        elif kind < 5:
            event = snapshot(time_ns, stated)
        else:
            more, begins = dice.random() < 0.6, dice.random() < 0.6
            event = snapshot(time_ns, stated, part=dice.choice("78"), more=more, begins=begins)
        script.append((dice.choice(["s1", "s2"]), says(event, account=dice.choice([MAIN, "scripted:b"]))))
        if dice.random() < 0.2:
            script.append(dice.choice(["read", "reader", "restart"]))
    return [*script, "read"]


@pytest.mark.few
@pytest.mark.parametrize("seed", range(40))
def test_any_interleaving_batching_and_restart_gives_the_balances_of_a_dictionary(
    tmp_path: Path, seed: int
) -> None:
    dice = Random(seed)
    path = tmp_path / "a.db"
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(path))
        balances = Balances(ledger)
        reader = Balances(stack.enter_context(Ledger(path, read_only=True)))
        waiting: list[tuple[str, bytes]] = []
        for step in scripted(dice):
            if not isinstance(step, str):
                waiting.append(step)
                continue
            _feed_batches(ledger, waiting, dice)
            waiting = []
            if step == "restart":
                ledger.close()
                ledger = stack.enter_context(Ledger(path))
                balances = Balances(ledger)
            expected = by_dictionary(ledger.replay())
            for view in [balances, reader] if step != "reader" else [reader]:
                assert expected == {(r.account, r.asset_id): (r.total, r.version) for r in view.rows()}
        last = max((recorded.version for recorded in ledger.replay(MAIN)), default=0)
        for version in range(0, last + 1, 3):
            up_to = by_dictionary(each for each in ledger.replay(MAIN) if each.version <= version)
            rows = balances.at(version, MAIN).rows()
            assert up_to == {(r.account, r.asset_id): (r.total, r.version) for r in rows}
        with Ledger() as scratch:
            fresh = Balances(ledger, scratch)
            fresh.rows()
            assert [] == list(compare(balances, fresh))


def _feed_batches(ledger: Ledger, frames: list[tuple[str, bytes]], dice: Random) -> None:
    """The frames of two conversations by turns, some of them in one commit."""
    at = 0
    while at < len(frames):
        session = frames[at][0]
        run = 1
        while run < dice.randint(1, 4) and at + run < len(frames) and frames[at + run][0] == session:
            run += 1
        intake = ledger.intake(VENUE, "main", session=session, now_ns=lambda: RECEIVED_NS)
        intake._ordinal = ledger._store.last_ordinal(session)  # the conversation goes on where it was
        intake.receive_all([(payload, RECEIVED_NS) for _, payload in frames[at : at + run]])
        at += run
