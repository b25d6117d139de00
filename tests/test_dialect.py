"""SQL said once, as PostgreSQL takes it."""

from __future__ import annotations

import pytest

from ledger.arrays import blobs, numbers, texts
from ledger.dialect import among, at_once, spoken

TYPES = (("account", "text"), ("version", "bigint"), ("state", "bytea"))


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("SELECT a FROM t WHERE a=? AND b>? LIMIT ?", "SELECT a FROM t WHERE a=%s AND b>%s LIMIT %s"),
        ("SELECT a FROM t WHERE a LIKE 'x%'", "SELECT a FROM t WHERE a LIKE 'x%%'"),
        (
            "CREATE TABLE t (a TEXT, b INTEGER, c BLOB, PRIMARY KEY (a))",
            'CREATE TABLE t (a TEXT COLLATE "C", b BIGINT, c BYTEA, PRIMARY KEY (a))',
        ),
        ("SELECT 'TEXT', a FROM t", "SELECT 'TEXT', a FROM t"),
    ],
)
def test_parameters_and_types_are_those_of_postgresql(said: str, taken: str) -> None:
    assert taken == spoken(said)


def test_a_row_into_a_table_is_said_for_many_at_once() -> None:
    conflict = " ON CONFLICT (account) DO UPDATE SET state=excluded.state"
    one = f"INSERT INTO t (account, version, state) VALUES (?, ?, ?){conflict}"
    many = at_once(one, TYPES)
    assert many is not None
    assert str(many.statement).startswith("INSERT INTO t (account, version, state) SELECT unnest(%b)")
    assert str(many.statement).endswith(conflict)
    assert (texts, numbers, blobs) == many.makers


def test_a_row_dropped_is_said_for_many_at_once() -> None:
    many = at_once("DELETE FROM t WHERE account=? AND version=?", TYPES)
    assert many is not None
    assert str(many.statement).startswith("DELETE FROM t USING ")
    assert (texts, numbers) == many.makers


def test_a_list_of_any_length_is_said_as_one_array() -> None:
    for marks in ("?", "?, ?", ", ".join("?" * 500)):
        listed = among(f"SELECT a FROM t WHERE a=? AND b IN ({marks})")
        assert listed is not None
        assert ("SELECT a FROM t WHERE a=%s AND b = ANY(%b)", 1) == listed[:2]
        assert {str: texts, int: numbers, bytes: blobs} == listed.makers
    for said in (
        "SELECT a FROM t WHERE a IN (?) LIMIT ?",
        "SELECT a FROM t WHERE a IN ('b')",
        "DELETE FROM t WHERE a=?",
    ):
        assert among(said) is None


@pytest.mark.parametrize(
    "said",
    [
        "UPDATE t SET state=? WHERE account=?",
        "INSERT INTO t (account, other) VALUES (?, ?)",
        "DELETE FROM t WHERE account<?",
    ],
)
def test_what_cannot_be_said_so_is_said_row_by_row(said: str) -> None:
    assert at_once(said, TYPES) is None
