"""The optional packages that accountledger is measured beside: which are here.

Knows names of packages; imports one only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Final

PACKAGES: Final = (
    *("trio-websocket", "websockets", "psycopg"),
    *("ccxt", "orjson", "pydantic", "fastapi", "uvicorn", "matplotlib"),
)
"""What is measured or measured beside, and draws: their versions are told."""
NOT_INSTALLED: Final = "not installed: pip install accountledger[bench]"


def loaded(module: str, *, needs: Sequence[str]) -> ModuleType | None:
    """A module that imports optional packages; None where one of those is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in needs:
            raise
        return None
