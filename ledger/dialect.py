"""SQL said once, as PostgreSQL takes it: parameters, types, and one row at a time as many at once.

Knows text; knows no table and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

from ledger.arrays import MAKERS, Array, blobs, numbers, texts

UPSERT: Final = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES \((?:\?, )*\?\)( ON CONFLICT .*)?")
DELETE: Final = re.compile(r"DELETE FROM (\w+) WHERE (\w+=\?(?: AND \w+=\?)*)")
AMONG: Final = re.compile(r"(SELECT .* WHERE .*\w) IN \((?:\?, )*\?\)")
DEFINES: Final = ("CREATE ", "DROP ", "ALTER ")
_TYPES: Final = (
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
)


class AtOnce(NamedTuple):
    statement: Any
    makers: tuple[Callable[[Any], Array], ...]


@cache
def at_once(sql: str, types: tuple[tuple[str, str], ...]) -> AtOnce | None:
    """A statement for one row as one for many, given as an array for each parameter; None where it cannot be."""
    kinds = dict(types)
    if found := UPSERT.fullmatch(sql):
        table, names, conflict = found[1], found[2].split(", "), found[3] or ""
        given = ", ".join(["unnest(%b)"] * len(names))  # side by side: faster than one of many columns
        said = f"INSERT INTO {table} ({', '.join(names)}) SELECT {given}{conflict}"
    elif found := DELETE.fullmatch(sql):
        table, names = found[1], [each.removesuffix("=?") for each in found[2].split(" AND ")]
        gone = " AND ".join(f"{table}.{name}=gone.{name}" for name in names)
        given = ", ".join(["%b"] * len(names))
        said = f"DELETE FROM {table} USING unnest({given}) AS gone({', '.join(names)}) WHERE {gone}"
    else:
        return None
    if any(kinds.get(name) not in MAKERS for name in names):
        return None
    return AtOnce(query(said), tuple(MAKERS[kinds[name]] for name in names))


class Among(NamedTuple):
    """A query whose last parameters are one array."""

    statement: Any
    before: int
    """How many parameters come before it."""
    makers: dict[type, Callable[[Any], Array]]


@cache
def among(sql: str) -> Among | None:
    """A query that ends in a list of parameters, with an array for it: whatever its length, it is one statement that
    the server knows. None where it does not."""
    found = AMONG.fullmatch(sql)
    if found is None:
        return None
    statement = query(spoken(found[1]) + " = ANY(%b)")
    return Among(statement, found[1].count("?"), {str: texts, int: numbers, bytes: blobs})


@cache
def spoken(sql: str) -> Any:
    """A statement as psycopg and PostgreSQL take it."""
    said = sql.replace("%", "%%").replace("?", "%s")
    if sql.startswith(DEFINES):
        for kind, ours in _TYPES:
            said = kind.sub(ours, said)
    return query(said)


def query(text: str) -> Any:
    """Text as psycopg takes a query: its types want it to stand in the program."""
    return text
