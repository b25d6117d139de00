"""The SQL views: whether they are defined as they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger import Ledger
from projections.view_check import otherwise
from projections.view_columns import VIEWS, View
from projections.views import Views
from tests.scripted import delta, feed, says

CHANGED = "CREATE VIEW gaps AS SELECT account, 'none' AS kind FROM shown_gaps"


def test_views_that_were_never_made_are_not_missed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        feed(ledger, says(delta(1, {"A": "1"})))
        assert [] == otherwise(ledger)


def test_views_are_as_they_are_made_before_and_after_there_are_rows(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.db") as ledger:
        views = Views(ledger)
        assert [] == otherwise(ledger)
        feed(ledger, says(delta(1, {"A": "1"})))
        views.bring_up()
        assert [] == otherwise(ledger)
    with Ledger(tmp_path / "a.db", read_only=True) as ledger:
        assert [] == otherwise(ledger)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_view_that_is_gone_or_another_is_named_and_made_anew(tmp_path: Path, view: View) -> None:
    name = view.name
    with Ledger(tmp_path / "a.db") as ledger:
        views = Views(ledger)
        for statement in (f"CREATE VIEW {name} AS SELECT 1 AS one FROM stored_events", CHANGED):
            ledger.write([(f"DROP VIEW {name}", [()])])
            assert [name] == otherwise(ledger)
            ledger.write([(statement.replace("VIEW gaps", f"VIEW {name}"), [()])])
            assert [name] == otherwise(ledger)
            views.define()
            assert [] == otherwise(ledger)
