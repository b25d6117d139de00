"""Firsts: what was told first of a fill is found wherever it is stored, near where one was found last."""

from __future__ import annotations

from collections.abc import Sequence

from ledger import Recorded
from ledger.events import FillRecorded
from ledger.firsts import ACCOUNTS_KEPT_MAX, BLOCK_VERSIONS, FILLS_KEPT_MAX, Firsts
from tests.scripted import fill, order

A = "v:a"


class Stored:
    """A fill under each version's key, `1` and so on, of any account; and what was read of them."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.read: list[int] = []
        self.firsts = Firsts(self.fills, lambda account: self.last)

    def fills(self, account: str, after: int, upto: int) -> Sequence[FillRecorded]:
        self.read.append(after // BLOCK_VERSIONS)
        versions = range(after + 1, min(upto, self.last) + 1)
        return [fill(str(version), 1, key=str(version)) for version in versions]

    def look_for(self, *versions: int, account: str = A) -> None:
        """Find them, and no other."""
        found = self.firsts.of(account, map(str, versions))
        assert {str(version): str(version) for version in versions} == {
            key: each.fill_id for key, each in found.items()
        }


def test_a_fill_is_looked_for_from_the_end_then_near_the_one_found_last() -> None:
    stored = Stored(5 * BLOCK_VERSIONS - 1)
    stored.look_for(5 * BLOCK_VERSIONS - 1)
    assert [4] == stored.read
    stored.look_for(1)
    assert [4, 4, 3, 2, 1, 0] == stored.read
    stored.read.clear()
    stored.look_for(BLOCK_VERSIONS + 1)
    assert [0, 1] == stored.read
    stored.look_for(2 * BLOCK_VERSIONS)  # beside it, and read with it
    assert [0, 1] == stored.read


def test_fills_told_again_in_order_are_read_once_more() -> None:
    stored = Stored(3 * BLOCK_VERSIONS)
    stored.look_for(1)
    stored.read.clear()
    for version in range(1, 3 * BLOCK_VERSIONS, 64):
        stored.look_for(*range(version, version + 64))
    assert len(stored.read) <= 2 * 3


def test_what_is_remembered_is_not_read_and_what_is_remembered_has_a_limit() -> None:
    stored = Stored(3 * FILLS_KEPT_MAX)
    told = [fill(str(version), 1, key=str(version)) for version in range(1, stored.last + 1)]
    stored.firsts.remember(Recorded(A, at, each) for at, each in enumerate(told, 1))
    stored.look_for(*range(stored.last - FILLS_KEPT_MAX // 2 + 1, stored.last + 1))
    assert [] == stored.read
    assert FILLS_KEPT_MAX >= len(stored.firsts._kept) + len(stored.firsts._older)
    stored.look_for(8)
    assert [] != stored.read


def test_what_is_remembered_of_one_account_is_not_of_another() -> None:
    stored = Stored(0)
    told = fill("f1", 1, key="fill:f1")
    stored.firsts.remember([Recorded(A, 1, told), Recorded(A, 2, order("o1", 1))])
    assert {"fill:f1": told} == stored.firsts.of(A, ["fill:f1"])
    assert {} == stored.firsts.of("v:b", ["fill:f1"])


def test_where_fills_were_found_is_remembered_of_so_many_accounts() -> None:
    stored = Stored(1)
    for number in range(ACCOUNTS_KEPT_MAX + 2):
        stored.look_for(1, account=f"v:{number}")
    assert len(stored.firsts._near) <= ACCOUNTS_KEPT_MAX
