"""Texts for databases that have no character NUL: it is written as two others, so that no two texts become one and
their order stays. Knows cells."""

from __future__ import annotations

from typing import Any


def told(cell: Any) -> Any:
    """A cell as it is stored."""
    if type(cell) is str:
        if "\x00" in cell or "\x01" in cell:
            return cell.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    elif type(cell) is bool:
        return int(cell)
    return cell


def heard(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A stored row as it was told."""
    for cell in row:
        if type(cell) is str and "\x01" in cell:
            return tuple(
                each.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01") if type(each) is str else each
                for each in row
            )
    return row
