"""Cells as PostgreSQL takes them: whole arrays at once. Knows bytes; knows no table."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, cast

from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from ledger.nul import told

# Arrays in PostgreSQL's binary form (backend/utils/adt/arrayfuncs.c, array_recv), made at once: psycopg makes them
# element by element.


class Array(bytes):
    """An array, as it is sent."""


class _Texts(Array):
    pass


class _Numbers(Array):
    pass


class _Bytes(Array):
    pass


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer | None:
        return cast("bytes", obj)


class _TextsDumper(_ArrayDumper):
    oid = 1009


class _NumbersDumper(_ArrayDumper):
    oid = 1016


class _BytesDumper(_ArrayDumper):
    oid = 1001


ARRAYS: Final = ((_Texts, _TextsDumper), (_Numbers, _NumbersDumper), (_Bytes, _BytesDumper))
_length: Final = struct.Struct("!i").pack
_head: Final = struct.Struct("!iiIii").pack
_number: Final = struct.Struct("!iq").pack
_NULL: Final = _length(-1)


def _array(kind: int, parts: Sequence[bytes | None]) -> bytes:
    """An array of values of a type, by its number in `pg_type`."""
    if not parts:
        return struct.pack("!iiI", 0, 0, kind)
    has_nulls = None in parts
    framed: list[bytes] = [_head(1, has_nulls, kind, len(parts), 1)]
    if has_nulls:
        for part in parts:
            framed += (_NULL,) if part is None else (_length(len(part)), part)
    else:
        known = cast("Sequence[bytes]", parts)
        framed += chain.from_iterable(zip(map(_length, map(len, known)), known, strict=True))
    return b"".join(framed)


def texts(cells: Sequence[str | None]) -> _Texts:
    """An array of texts."""
    count = len(cells)
    # Of a commit often: one account, one session.
    if count > 1 and cells[0] is not None and cells.count(cells[0]) == count:
        part = told(cells[0]).encode()
        return _Texts(_head(1, 0, 25, count, 1) + (_length(len(part)) + part) * count)
    if None in cells:
        return _Texts(_array(25, [None if cell is None else told(cell).encode() for cell in cells]))
    known = cast("Sequence[str]", cells)
    whole = "".join(known)
    if "\x00" in whole or "\x01" in whole:
        known = [told(cell) for cell in known]
    return _Texts(_array(25, [*map(str.encode, known)]))


def blobs(cells: Sequence[bytes | None]) -> _Bytes:
    """An array of bytes."""
    return _Bytes(_array(17, cells))


def numbers(cells: Sequence[int | None]) -> _Numbers:
    """An array of numbers of 64 bits."""
    if None in cells or not cells:
        return _Numbers(_array(20, [None if cell is None else struct.pack("!q", cell) for cell in cells]))
    count = len(cells)
    return _Numbers(b"".join((_head(1, 0, 20, count, 1), *[_number(8, cell) for cell in cells])))


MAKERS: Final[dict[str, Callable[[Any], Array]]] = {"text": texts, "bigint": numbers, "bytea": blobs}
