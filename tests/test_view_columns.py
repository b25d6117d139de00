"""What is said of views and columns is said once: the README's table is that of the code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from projections import view_sql
from projections.fills import FillRow
from projections.history import HistoryRow
from projections.orders import OrderRow
from projections.quarantine import QuarantineRow
from projections.view_columns import TIME, VIEWS, View
from projections.views import BalanceShown, BreakShown, GapShown

README = (Path(__file__).parent.parent / "README.md").read_text()
ROWS = {
    "current_balances": BalanceShown,
    "balance_history": HistoryRow,
    "orders": OrderRow,
    "fills": FillRow,
    "gaps": GapShown,
    "breaks": BreakShown,
    "quarantine": QuarantineRow,
}


def table(view: View) -> str:
    """A view as the README shows it."""
    lines = [
        f"**`{view.name}`**: {view.meaning}",
        "",
        "| column | PostgreSQL | SQLite | |",
        "|---|---|---|---|",
    ]
    for each in view.columns:
        server, file = view_sql.TYPES[each.kind]
        lines.append(f"| `{each.name}` | `{server}` | `{file}` | {each.meaning} |")
    return "\n".join(lines)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: str(view.name))
def test_the_readme_says_of_each_column_what_the_code_says(view: View) -> None:
    assert table(view) in README


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: str(view.name))
def test_each_column_is_said_to_mean_something_in_one_line(view: View) -> None:
    assert re.fullmatch(r"[^\n?|$]+\.", view.meaning.replace(" | ", ""))
    for each in view.columns:
        assert re.fullmatch(r"[^\n?|$]+\.", each.meaning), each.name
        assert re.fullmatch(r"[a-z_0-9]+", each.name)
    assert [] == [name for name, times in Counter(each.name for each in view.columns).items() if times > 1]


def test_nothing_that_a_row_says_is_left_out() -> None:
    """But the number by which a row of gaps and breaks is told apart."""
    for view in VIEWS:
        if view.name in ROWS:
            fields = {*ROWS[view.name].__struct_fields__} - {"number"}
            names = [each.name for each in view.columns]
            assert fields <= {*names}, view.name
            texts = {each.name for each in view.columns if each.kind == TIME}
            assert texts == {name.removesuffix("_ns") for name in fields if name.endswith("_ns")}
            stated = (
                {"kind", "available", "locked", "staked"} if view.name == "balance_history" else set[str]()
            )
            assert {*names} - fields - texts - stated <= {"suspect"}


def test_a_planted_column_without_a_meaning_is_found() -> None:
    first = VIEWS[0]
    planted = View(
        first.name, first.meaning, first.rows, (*first.columns, *first.columns[:1]), first.projection
    )
    with pytest.raises(AssertionError):
        test_each_column_is_said_to_mean_something_in_one_line(planted)
    assert table(planted) != table(first)


def test_no_view_has_the_name_of_a_projections_table() -> None:
    assert not {view.name for view in VIEWS} & {
        *view_sql.TABLES,
        "accounts",
        "balances",
        "projection_positions",
    }
