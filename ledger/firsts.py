"""What was told first of fills that are told again: remembered, or looked for in what is stored.

Knows fills by their keys; what is read of the store it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from ledger.account import Recorded
from ledger.events import FillRecorded

FILLS_KEPT_MAX: Final = 8_192
"""Those that were recorded or looked for last; when there are so many, half of them are forgotten at once."""
BLOCK_VERSIONS: Final = 4_096
"""Versions of an account among which a fill is looked for at once."""
ACCOUNTS_KEPT_MAX: Final = 1_024
"""Accounts of which it is remembered where a fill was found last."""

Fills: TypeAlias = Callable[[str, int, int], Sequence[FillRecorded]]
"""The fills of an account after a version, up to another."""


class Firsts:
    """What was told first of fills: remembered, or looked for in what is stored, near where one was found last."""

    def __init__(self, fills: Fills, last_version: Callable[[str], int]) -> None:
        self._fills: Final = fills
        self._last_version: Final = last_version
        self._kept: dict[tuple[str, str], FillRecorded] = {}
        self._older: dict[tuple[str, str], FillRecorded] = {}
        self._near: dict[str, int] = {}

    def remember(self, recorded: Iterable[Recorded]) -> None:
        """These events are stored now."""
        for each in recorded:
            if type(each.event) is FillRecorded:
                self._keep(each.account, each.event)

    def of(self, account: str, keys: Iterable[str]) -> Mapping[str, FillRecorded]:
        """What was told first under keys that are recorded. One that is in no event is missing."""
        found: dict[str, FillRecorded] = {}
        sought: set[str] = set()
        for key in keys:
            fill = self._kept.get((account, key)) or self._older.get((account, key))
            if fill is None:
                sought.add(key)
            else:
                found[key] = fill
        if sought:
            self._look_for(account, sought, found)
        return found

    def _look_for(self, account: str, sought: set[str], found: dict[str, FillRecorded]) -> None:
        last = self._last_version(account) // BLOCK_VERSIONS
        near = self._near.get(account, last)
        for block in sorted(range(last + 1), key=lambda each: abs(each - near)):
            after = block * BLOCK_VERSIONS
            for fill in self._fills(account, after, after + BLOCK_VERSIONS):
                self._keep(account, fill)
                if fill.key in sought:
                    sought.remove(fill.key)
                    found[fill.key] = fill
                    self._near[account] = block
            if not sought:
                break
        if len(self._near) > ACCOUNTS_KEPT_MAX:
            self._near.clear()

    def _keep(self, account: str, fill: FillRecorded) -> None:
        self._kept[account, fill.key] = fill  # one key, one fill
        if len(self._kept) >= FILLS_KEPT_MAX // 2:
            self._older, self._kept = self._kept, {}
