"""Whether the SQL views are defined as they are made.

Knows the views and how a database tells what one is; writes nothing, so that who may only read can ask, too.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import StoreError
from projections.tables import Database
from projections.view_columns import VIEWS, View
from projections.view_sql import on_server, query_of, relations, sql_of

PLANS_MAX: Final = 5
"""How often two plans are compared: between one and the other the server may have counted a table's rows anew."""
_PASSING: Final = "Query Identifier"
"""How a line of a plan begins that tells nothing of it."""


def otherwise(database: Database) -> list[str]:
    """The views that are not there, or not as they are made; none where none is there."""
    found = relations(database)
    if all(view.name not in found for view in VIEWS):
        return []
    same = _is_same_on_server if on_server(database) else _is_same_in_file
    return [view.name for view in VIEWS if found.get(view.name) != "view" or not same(database, view)]


def _is_same_in_file(database: Database, view: View) -> bool:
    sql = "SELECT type, sql FROM sqlite_master WHERE tbl_name=?"
    return database.select(sql, (view.name,)) == [("view", sql_of(view, server=False))]


def _is_same_on_server(database: Database, view: View) -> bool:
    """PostgreSQL keeps a view in words of its own, but plans it as it plans the query it was made of."""
    if database.columns(view.name) != {each.name for each in view.columns}:
        return False
    query = f"({query_of(view, server=True)}) AS {view.name}"
    try:
        return any(_plan(database, view, view.name) == _plan(database, view, query) for _ in range(PLANS_MAX))
    except StoreError:  # the tables it is of are not as they were made
        return False


def _plan(database: Database, view: View, of: str) -> list[str]:
    names = ", ".join(each.name for each in view.columns)
    lines = database.select(f"EXPLAIN (VERBOSE, COSTS OFF) SELECT {names} FROM {of}")
    return [str(line) for (line,) in lines if not str(line).startswith(_PASSING)]
