"""The SQL views say what the commands say, row by row and digit by digit, in a file and in PostgreSQL."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import Ledger, nul
from ledger.cli import cli
from ledger.cli.proof import refolded
from ledger.errors import ReadOnly
from ledger.events import Event, OrderUpdated
from ledger.wire import time_text
from projections import Balances, Breaks, Gaps, Projection, catch_up, compare
from projections.gaps import STATED
from projections.stated import Stated
from projections.view_columns import AMOUNT, FLAG, VIEWS
from projections.view_sql import on_server
from projections.views import SAME_VERSION_MAX, Views
from tests.databases import Schemas
from tests.scripted import (
    MAIN,
    RECEIVED_NS,
    delta,
    feed,
    fill,
    imported,
    order,
    says,
    snapshot,
    source,
)

COMMANDS: Final = {
    "current_balances": ("balances",),
    "balance_history": ("history",),
    "orders": ("orders",),
    "fills": ("fills",),
    "gaps": ("gaps", "--all"),
    "breaks": ("breaks",),
    "quarantine": ("quarantine",),
}
"""The views, and the commands that print the same."""
RENAMED: Final = {"from": "gap_from", "to": "gap_to", "asset": "asset_id"}
"""Of a gap, what a column is called where the command calls it otherwise."""
ODD: Final = ("1.50", "-0.00", "1e3", "-2.5E-7", "+7", "007.50", "0", "9" * 78 + ".9", "0." + "1" * 78)
"""Amounts as no two venues write them."""
Row = dict[str, Any]
Told = list[list[bytes]]
HISTORY: Final = "scripted:history"


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may be: a file, and a PostgreSQL database."""
    if request.param == "file":
        return str(tmp_path / "a.db")
    url: str = request.getfixturevalue("new_schema")
    return url


def shown(ledger: Ledger) -> dict[str, list[Row]]:
    """What the views say; flags as such, and amounts as the text that any SQL tool shows."""
    return {view.name: rows_of(ledger, view.name) for view in VIEWS if view.name in COMMANDS}


def rows_of(ledger: Ledger, name: str) -> list[Row]:
    (view,) = (each for each in VIEWS if each.name == name)
    names = ", ".join(
        f"{each.name}::text" if each.kind == AMOUNT and on_server(ledger) else each.name
        for each in view.columns
    )
    found: list[Row] = []
    for stored in ledger.select(f"SELECT {names} FROM {name}"):
        row = dict(zip((each.name for each in view.columns), stored, strict=True))
        for each in view.columns:
            if each.kind == FLAG and row[each.name] is not None:
                assert row[each.name] in (0, 1)
                row[each.name] = bool(row[each.name])
        found.append(row)
    return found


def printed(place: str, server: bool) -> dict[str, list[Row]]:
    """What the commands print, with the views' names; in PostgreSQL numbers are written as it writes them."""
    said: dict[str, list[Row]] = {}
    for view in VIEWS:
        if view.name not in COMMANDS:
            continue
        command, *flags = COMMANDS[view.name]
        with redirect_stdout(io.StringIO()) as out:
            cli.main(args=[command, "--db", place, *flags, "--json"], standalone_mode=False)
        rows: list[Row] = [
            {
                str(RENAMED.get(name, name)) if view.name == "gaps" else name: value
                for name, value in row.items()
            }
            for row in json.loads(out.getvalue())
        ]
        for row in rows:
            if view.name == "gaps":
                row["healed"] = row["state"] == "closed" and row["closed_how"] != STATED
            if view.name == "breaks" and row["state"] == "open":
                row["age_s"] = None  # it ages
            for each in view.columns:
                if each.kind == AMOUNT and server and row.get(each.name) is not None:
                    row[each.name] = written(row[each.name])
        said[view.name] = rows
    return said


def written(amount: str) -> str:
    """An amount as PostgreSQL writes it: every digit, no exponent, no sign of zero."""
    number = Decimal(amount)
    return f"{number if number else abs(number):f}"


def differences(place: str) -> list[str]:
    """Where a view and its command differ. Of times the command tells the text alone."""
    with Ledger(place, read_only=True) as ledger:
        ours, server = shown(ledger), on_server(ledger)
    found: list[str] = []
    for name, expected in printed(place, server).items():
        (view,) = (each for each in VIEWS if each.name == name)
        both = [
            each.name for each in view.columns if not each.name.endswith("_ns") and each.name != "tradable"
        ]
        both = [each for each in both if not expected or each in expected[0]]
        left = by(both, expected)
        right = by(both, told_by_command(name, ours[name]))
        if left != right:
            found.append(
                f"{name}: {[row for row in left if row not in right]} {[r for r in right if r not in left]}"
            )
    return found


def told_by_command(name: str, rows: list[Row]) -> list[Row]:
    """The rows that the command prints, too: of the history those of the venue's own."""
    return [row for row in rows if row["kind"] == "row"] if name == "balance_history" else rows


# The same rows, whatever was told


amounts = st.sampled_from(["0", "1", "1.0", "2.50", "-3", *ODD])
assets = st.sampled_from(["A", "B", "USDC"])
at_ns = st.integers(1, 9).map(lambda step: RECEIVED_NS + step * 500_000_007)
numbers = st.integers(1, 9)
held = st.dictionaries(assets, amounts, max_size=3)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Something that a venue says; of every kind, and often with something missing."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return snapshot(draw(at_ns), draw(held), part="7", sequence=draw(st.none() | numbers))
    if kind == 1:
        number = draw(st.none() | numbers)
        return delta(draw(at_ns), draw(held), sequence=number, subscription=None if number is None else "7")
    if kind == 2:
        return order(
            draw(st.sampled_from(["o1", "o2"])), draw(at_ns), draw(st.sampled_from(["0", "1", "2.0"]))
        )
    if kind == 3:
        name, quantity = f"f{draw(numbers)}", draw(st.sampled_from(["1", "0.50", "2"]))
        return fill(name, draw(at_ns), key=draw(st.sampled_from(["", name])), quantity=quantity)
    return imported(
        draw(at_ns), draw(amounts), draw(amounts), asset=draw(assets), pending=draw(st.none() | amounts)
    )


frames = st.lists(
    st.lists(events(), min_size=1, max_size=2).map(lambda said: says(*said)) | st.just(b"junk"), max_size=5
)
conversations = st.lists(frames, min_size=1, max_size=4)


@settings(max_examples=15, deadline=None)
@given(told=conversations, later=conversations)
def test_each_view_says_what_its_command_says_in_a_file(told: Told, later: Told) -> None:
    with TemporaryDirectory() as folder:
        tell(f"{folder}/a.db", told, later)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=conversations, later=conversations)
def test_each_view_says_what_its_command_says_in_postgresql(
    schemas: Schemas, told: Told, later: Told
) -> None:
    tell(schemas.url(), told, later)
    schemas.forget()


def tell(place: str, *parts: Told) -> None:
    """Record conversations, and compare the views with the commands after each part of them."""
    number = 0
    for sessions in parts:
        with Ledger(place) as ledger:
            for each in sessions:
                number += 1
                feed(ledger, *each, session=f"s{number}", received_ns=RECEIVED_NS + number * 2_000_000_000)
            Views(ledger).bring_up()
        assert [] == differences(place)


steps = st.lists(st.sampled_from(["tell", "all", "gaps", "balances", "breaks", "reset"]), max_size=3)


@settings(max_examples=25, deadline=None)
@given(told=st.lists(st.tuples(frames, steps), min_size=1, max_size=5))
def test_views_told_now_and_then_are_what_a_fold_from_zero_tells(told: list[tuple[Any, list[str]]]) -> None:
    """Whatever was caught up, folded again or told in between."""
    with TemporaryDirectory() as folder:
        for number, (said, taken) in enumerate(told):
            with Ledger(f"{folder}/a.db") as ledger:
                feed(ledger, *said, session=f"s{number}", received_ns=RECEIVED_NS + number * 2_000_000_000)
                views, gaps = Views(ledger), Gaps(ledger)
                kept: dict[str, Sequence[Projection]] = {
                    "all": views.projections,
                    "gaps": gaps.projections,
                    "balances": [Balances(ledger)],
                    "breaks": [Gaps(ledger)],
                }
                for step in taken:
                    if step == "tell":
                        views.tell()
                    elif step == "reset":
                        gaps.history.subscription.reset()
                    else:
                        catch_up(ledger, kept[step])
            with Ledger(f"{folder}/a.db", read_only=True) as ledger, refolded(ledger, None, "") as (_, folds):
                assert [] == [found for fold in folds for found in compare(fold.stored, fold.folded)]


def busy(ledger: Ledger) -> None:
    """Every kind of gap and break, and a frame that nobody can read."""
    feed(
        ledger,
        says(snapshot(1, {"A": "1.50", "B": "2"}, part="7", sequence=1)),
        says(delta(3, {"A": "4"}, sequence=3, subscription="7")),
        says(order("o1", 2, "3"), fill("f1", 3)),
        says(imported(5, "1", "1"), imported(6, "1", "5"), account=HISTORY),
        b"junk",
    )
    feed(ledger, says(snapshot(9, {"A": "8"})), session="s2", received_ns=RECEIVED_NS + 5 * 10**9)
    feed(ledger, says(delta(9, {"B": "8"})), session="s3", received_ns=RECEIVED_NS + 9 * 10**9)


@pytest.fixture
def told(place: str) -> str:
    """A ledger with views in which there is something of everything."""
    with Ledger(place) as ledger:
        busy(ledger)
        Views(ledger).bring_up()
        found = shown(ledger)
        assert [] == [name for name, rows in found.items() if not rows]
        assert {"sequence", "chain", "blind", "fills"} == {row["kind"] for row in found["gaps"]}
    return place


PLANTS: Final = (
    ("current_balances", "UPDATE shown_balances SET total='9.99' WHERE asset_id='A'"),
    ("current_balances", "UPDATE shown_balances SET reason='trust me'"),
    ("current_balances", "DELETE FROM shown_balances WHERE asset_id='B'"),
    ("balance_history", "UPDATE history SET amount='1.0' WHERE version>0"),
    ("balance_history", "DELETE FROM chain_gaps"),
    ("balance_history", "UPDATE stated_balances SET kind='row' WHERE kind='delta'"),
    ("orders", "UPDATE order_rows SET executed='3.0'"),
    ("fills", "UPDATE fill_rows SET price='0.50'"),
    ("gaps", "DELETE FROM shown_gaps WHERE kind='blind'"),
    ("gaps", "UPDATE shown_gaps SET closed_ns=closed_ns+1 WHERE closed_ns IS NOT NULL"),
    ("breaks", "UPDATE shown_breaks SET difference='0' WHERE kind='fills'"),
    ("quarantine", "UPDATE quarantine_rows SET reason='none'"),
)


@pytest.mark.parametrize("server", [False, True], ids=["file", "postgres"])
def test_a_view_that_says_otherwise_is_found(
    server: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What a command prints is read first: the commands read some of these tables, too."""
    place = request.getfixturevalue("new_schema") if server else str(tmp_path / "a.db")
    with Ledger(place) as ledger:
        busy(ledger)
        Views(ledger).bring_up()
        right = shown(ledger)
    said = printed(place, server)
    assert [] == differences(place)
    with Ledger(place) as ledger:
        for view, plant in PLANTS:
            table = plant.split()[2 if plant.startswith("DELETE") else 1]
            ledger.write([(f"CREATE TABLE kept AS SELECT * FROM {table}", [()])])
            ledger.write([(plant, [()])])
            wrong = shown(ledger)
            assert wrong[view] != right[view], plant
            columns = [name for name in said[view][0] if name in wrong[view][0] and name != "tradable"]
            assert by(columns, said[view]) != by(columns, told_by_command(view, wrong[view])), plant
            ledger.write([(f"DELETE FROM {table}", [()]), (f"INSERT INTO {table} SELECT * FROM kept", [()])])
            ledger.write([("DROP TABLE kept", [()])])
        assert {name: sorted(rows, key=repr) for name, rows in right.items()} == {
            name: sorted(rows, key=repr) for name, rows in shown(ledger).items()
        }


def by(columns: Sequence[str], rows: list[Row]) -> list[list[Any]]:
    return sorted([[row[name] for name in columns] for row in rows], key=repr)


def test_all_that_is_wrong_with_a_fill_is_told(place: str) -> None:
    with Ledger(place) as ledger:
        told = [fill("f1", 3, key="f1", quantity=quantity) for quantity in ("1", "9", "10", "9")]
        feed(ledger, *[says(each) for each in told], says(fill("f2", 3)))
        Views(ledger).bring_up()
        assert [] != Breaks(ledger).rows()
        found = {row["fill_id"]: row["suspect"] for row in rows_of(ledger, "fills")}
    assert {"f1": "expected 1, stated 10; expected 1, stated 9", "f2": None} == found
    assert [] == differences(place)


@pytest.mark.parametrize("amount", ODD)
def test_an_amount_keeps_its_digits(place: str, amount: str) -> None:
    stated = OrderUpdated(
        source(1),
        "",
        "o",
        "X",
        "buy",
        "limit",
        "open",
        False,
        amount,
        amount,
        amount,
        amount,
        amount,
        amount,
        amount,
    )
    with Ledger(place) as ledger:
        feed(ledger, says(snapshot(1, {"A": amount}), stated, imported(1, amount, amount)))
        Views(ledger).bring_up()
        expected = written(amount) if on_server(ledger) else amount
        (ordered,) = rows_of(ledger, "orders")
        said, row = sorted(rows_of(ledger, "balance_history"), key=lambda row: row["kind"] == "row")
        found = {each["asset_id"]: each["total"] for each in rows_of(ledger, "current_balances")}
        parts = ("price", "quantity", "executed", "quote_quantity", "executed_quote", "average_price", "fee")
        assert {expected} == {
            found["A"],
            said["balance"],
            row["amount"],
            row["balance"],
            *(ordered[part] for part in parts),
        }
        assert Decimal(amount) == Decimal(found["A"])


def test_a_sum_in_postgresql_is_exact(new_schema: str) -> None:
    with Ledger(new_schema) as ledger:
        feed(ledger, says(snapshot(1, {"A": "0.1", "B": "0.2", "C": "9" * 60 + ".000000000000000001"})))
        Views(ledger).bring_up()
        ((total,),) = ledger.select("SELECT sum(total)::text FROM current_balances")
        assert "9" * 60 + ".300000000000000001" == total


def test_a_history_holds_every_statement(told: str) -> None:
    with Ledger(told, read_only=True) as ledger:
        found = [
            (row["kind"], row["asset_id"], row["version"], row["balance"], row["cause"], row["time_ns"])
            for row in rows_of(ledger, "balance_history")
            if row["kind"] != "row"
        ]
        assert [
            (row.kind, row.asset_id, row.version, row.total, None, row.time_ns)
            for row in Stated(ledger).rows()
        ] == sorted(found, key=lambda row: row[1:3])


def test_a_history_shows_any_name(place: str) -> None:
    """NUL, which neither PostgreSQL nor JSON in SQLite holds, as two other characters in balance_history; elsewhere a
    file has it as it is."""
    names = ("a\x00b", "\x01", "\x02", "\\u0000", '"],[{', "\u00e9", "\U0001f4b0", " ")
    with Ledger(place) as ledger:
        feed(ledger, says(snapshot(1, dict.fromkeys(names, "1.50"))), says(delta(2, {}, names[:2])))
        Views(ledger).bring_up()
        expected = [*[(name, "snapshot") for name in names], *[(name, "removed") for name in names[:2]]]
        assert sorted(expected) == sorted((row.asset_id, row.kind) for row in Stated(ledger).rows())
        shows = [(name if on_server(ledger) else nul.told(name), kind) for name, kind in expected]
        assert sorted((name, name, kind) for name, kind in shows) == sorted(
            (row["asset_id"], row["asset"], row["kind"]) for row in rows_of(ledger, "balance_history")
        )


# Kept up to date


def test_times_are_the_same_text_as_everywhere(place: str) -> None:
    times = [
        0,
        1,
        1_000,
        1_000_000,
        999_999_999,
        10**9,
        RECEIVED_NS + 120_000_000,
        RECEIVED_NS + 1,
        7 * 10**18,
    ]
    with Ledger(place) as ledger:
        feed(ledger, says(*(fill(f"f{at}", ns) for at, ns in enumerate(times))))
        Views(ledger).bring_up()
        found = {row["fill_id"]: (row["time_ns"], row["time"]) for row in rows_of(ledger, "fills")}
        assert {f"f{at}": (ns, time_text(ns)) for at, ns in enumerate(times)} == found


def test_what_is_not_known_is_null(place: str) -> None:
    with Ledger(place) as ledger:
        feed(ledger, says(order("o1", 1)))
        Views(ledger).bring_up()
        (row,) = rows_of(ledger, "orders")
        assert [None] * 4 == [row[name] for name in ("price", "fee", "created_ns", "created")]


def test_views_are_as_of_one_position_and_say_how_far_they_go(place: str) -> None:
    with Ledger(place) as ledger:
        busy(ledger)
        views = Views(ledger)
        views.bring_up()
        fresh = {row["name"]: (row["position"], row["behind"]) for row in rows_of(ledger, "freshness")}
        assert {name: (ledger.position(), 0) for name in COMMANDS} == fresh
        before = rows_of(ledger, "current_balances")
        feed(ledger, says(delta(99, {"A": "77"})), session="s9", received_ns=RECEIVED_NS + 10**11)
        Balances(ledger).rows()  # somebody else brings the balances further, and not the views
        Gaps(ledger).rows()
        assert before == rows_of(ledger, "current_balances")
        behind = {row["name"]: row["behind"] for row in rows_of(ledger, "freshness")}
        assert behind["current_balances"] == ledger.position() - views.position == 3
        views.bring_up()
        assert "77" in [row["total"] for row in rows_of(ledger, "current_balances")]
        assert {0} == {row["behind"] for row in rows_of(ledger, "freshness")}


def test_what_is_told_again_is_not_written_again(told: str) -> None:
    """A gap and a break keep their numbers; only what is new or otherwise is written."""
    with Ledger(told) as ledger:
        sql = "SELECT account, number, kind, version FROM shown_gaps ORDER BY account, number"
        before = ledger.select(sql)
        feed(ledger, says(order("o2", 5, "1")), session="s4", received_ns=RECEIVED_NS + 20 * 10**9)
        Views(ledger).bring_up()
        after = ledger.select(sql)
        assert before == after[: len(before)]
        assert len(before) < len(after)


def test_gaps_and_breaks_are_numbered_by_the_version_that_showed_them(told: str) -> None:
    """By the later one of a break, and on from there where a version showed several."""
    with Ledger(told) as ledger:
        gaps = ledger.select("SELECT account, version, number FROM shown_gaps ORDER BY 1, 3")
        breaks = ledger.select(
            "SELECT account, expected_version, stated_version, number FROM shown_breaks ORDER BY 1, 4"
        )
    showed: Counter[tuple[Any, int, str]] = Counter()
    for kind, account, number, versions in (
        *(("gap", account, number, (version,)) for account, version, number in gaps),
        *(("break", account, number, versions) for account, *versions, number in breaks),
    ):
        last = max(int(str(version)) for version in versions if version is not None)
        assert last * SAME_VERSION_MAX + showed[account, last, kind] == number
        showed[account, last, kind] += 1


def test_a_projection_folded_again_is_shown_again(told: str) -> None:
    """Its tables stay where views are of them: only the rows go, and come back."""
    with Ledger(told) as ledger:
        before = shown(ledger)
        views = Views(ledger)
        for each in views.projections:
            each.subscription.reset()
        assert [] == rows_of(ledger, "orders")
        assert before["gaps"] == rows_of(ledger, "gaps")
        views.bring_up()
        assert before == shown(ledger)
        ledger.write([("UPDATE shown_breaks SET stated='5'", [()])])
        views.bring_up()
        assert before == shown(ledger)
    assert [] == differences(told)


def test_several_threads_that_tell_say_it_once(told: str) -> None:
    with Ledger(told) as ledger, ThreadPoolExecutor(4) as pool:
        before = shown(ledger)
        for _ in pool.map(lambda _: Views(ledger).bring_up(), range(4)):
            pass
        assert before == shown(ledger)


def test_beside_writers_and_followers_a_view_is_of_one_position(new_schema: str) -> None:
    """A and B of an account are always stated together: a reader never sees one without the other."""
    done, enough = threading.Event(), threading.Event()

    def append(name: str) -> None:
        with Ledger(new_schema) as ledger:
            for number in range(1, 1_000):
                if enough.is_set():
                    return
                said = snapshot(number, {"A": str(number), "B": str(number)})
                feed(ledger, says(said, account=name), session=f"{name}-{number}")

    def keep(each: int) -> None:
        with Ledger(new_schema) as ledger:
            views, gaps = Views(ledger), Gaps(ledger)
            while not done.is_set():
                if each:
                    views.bring_up()
                else:
                    catch_up(ledger, gaps.projections)

    def read() -> int:
        seen = set[str]()
        with Ledger(new_schema, read_only=True) as ledger:
            while not done.is_set():
                found = [(row["account"], row["total"]) for row in rows_of(ledger, "current_balances")]
                assert {2} >= {*Counter(found).values()}, found
                seen |= {total for _, total in found}
                if len(seen) >= 5:
                    enough.set()
        return len(seen)

    with Ledger(new_schema) as ledger:
        Views(ledger)
    with ThreadPoolExecutor(6) as pool:
        keepers, reader = [pool.submit(keep, each) for each in range(3)], pool.submit(read)
        try:
            for each in [pool.submit(append, f"scripted:w{each}") for each in range(2)]:
                each.result()
        finally:
            enough.set()
            done.set()
        assert [None] * 3 == [each.result() for each in keepers]
        assert 5 <= reader.result()
    with Ledger(new_schema) as ledger:
        Views(ledger).bring_up()
    assert [] == differences(new_schema)


def test_who_only_reads_makes_no_views(told: str, tmp_path: Path) -> None:
    with Ledger(told, read_only=True) as reader:
        with pytest.raises(ReadOnly, match="opened with read_only=True, and views are made and written"):
            Views(reader)
        assert reader.select("SELECT count(*) FROM current_balances") == [(3,)]
        assert len(Breaks(reader).rows()) == len(rows_of(reader, "breaks"))


def test_the_account_is_told_like_everywhere(told: str) -> None:
    with Ledger(told, read_only=True) as ledger:
        for name, rows in shown(ledger).items():
            assert rows, name
            assert {row["account"] for row in rows} <= {MAIN, HISTORY}, name
