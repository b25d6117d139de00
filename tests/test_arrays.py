"""Cells come back from PostgreSQL as they were told, in arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.arrays import ARRAYS, blobs, numbers, texts
from ledger.nul import heard

text = st.text(st.characters(exclude_categories=["Cs"])) | st.text("\0\1\2ab")


@pytest.fixture(scope="module")
def server(postgres_server: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        for kind, dumper in ARRAYS:
            connection.adapters.register_dumper(kind, dumper)
        yield connection


def asked(server: psycopg.Connection[Any], *arrays: object) -> list[tuple[Any, ...]]:
    """Rows that PostgreSQL makes of arrays."""
    sql = f"SELECT * FROM unnest({', '.join(['%b'] * len(arrays))})"
    return [heard(row) for row in server.execute(cast("Any", sql), arrays)]


number = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.none() | text, st.none() | number, st.none() | st.binary())))
def test_arrays_come_back_as_they_were(
    server: psycopg.Connection[Any], rows: list[tuple[str | None, int | None, bytes | None]]
) -> None:
    columns = [
        texts([row[0] for row in rows]),
        numbers([row[1] for row in rows]),
        blobs([row[2] for row in rows]),
    ]
    assert rows == asked(server, *columns)


def test_many_and_none_come_back_as_they_were(server: psycopg.Connection[Any]) -> None:
    assert [] == asked(server, texts([]), numbers([]), blobs([]))
    assert [(each,) for each in range(5_000)] == asked(server, numbers(range(5_000)))
    assert [("",), ("x" * 100_000,)] == asked(server, texts(["", "x" * 100_000]))
    for same in ("", "é", "a\0b", "\1"):
        assert [(same,)] * 300 == asked(server, texts([same] * 300))


@pytest.mark.parametrize("wrong", [2**63, -(2**63) - 1])
def test_a_number_of_more_than_64_bits_is_refused(wrong: int) -> None:
    for cells in ([wrong], [1, wrong], [None, wrong]):
        with pytest.raises(Exception, match=r"argument out of range|format requires|too large"):
            numbers(cells)


def test_a_text_that_is_none_in_utf8_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        texts(["\ud800"])
