"""The aggregate's rules: gapless versions, a memory that does not grow, and nothing changed before the commit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.account import Account, Draft, Keyed, Recorded
from ledger.events import BalanceDelta, Event, FillRecorded, Source, keyed_ns
from ledger.seal import genesis


def event(key: str, at_ns: int | None = None) -> BalanceDelta:
    """A statement of an instant; of none where the venue tells none."""
    return BalanceDelta(Source("bitopro", "account-balance", "s", 1, 99, b"", at_ns), key, ())


def account_of(*events: Event) -> Account:
    account = Account("bitopro:main")
    for each in events:
        settle(account, each)
    return account


def settle(account: Account, told: Event) -> None:
    """A batch of one event, recorded and committed."""
    draft = Draft(account, ())
    draft.record(told)
    draft.settle(b"seal")


def record(draft: Draft, *keys: str) -> list[int | None]:
    """The versions that the keys were given; None for one that was refused."""
    done = [draft.record(event(key)) for key in keys]
    return [None if each is None else each.version for each in done]


def test_a_new_account_has_no_version_and_no_instant() -> None:
    account = Account("bitopro:main")
    assert ("bitopro:main", 0, 0) == (account.id, account.version, account.newest_ns)


def test_versions_are_gapless_from_one() -> None:
    account = account_of()
    draft = Draft(account, ())
    assert [1, 2, 3] == record(draft, "a", "b", "c")
    draft.settle(b"")
    assert 3 == account.version
    assert [4, 5] == record(Draft(account, ()), "d", "e")


def test_a_refused_event_takes_no_version() -> None:
    known: set[Keyed] = {(0, "known")}
    assert [1, None, 2, None, None, 3] == record(Draft(account_of(), known), "a", "a", "b", "known", "b", "c")


@pytest.mark.parametrize("version", [0, 1, 3, 4, -1])
def test_an_account_refuses_a_batch_whose_versions_do_not_follow(version: int) -> None:
    account = account_of(event("a"), event("b", 5))
    draft = Draft(account, ())
    draft.record(event("c", 7))
    account.version = version  # somebody else moved it
    with pytest.raises(AssertionError, match=f"bitopro:main: version 3 after {version}"):
        draft.settle(b"")
    assert (version, 5) == (account.version, account.newest_ns)


def test_an_account_goes_on_from_where_the_store_has_it() -> None:
    draft = Draft(Account("bitopro:main", 41, 7), ())
    assert [42, 43] == record(draft, "a", "b")


def test_a_key_is_refused_that_the_batch_or_the_store_knows() -> None:
    known: set[Keyed] = {(0, "stored")}
    draft = Draft(account_of(event("mine")), known)
    assert [2, None, None] == record(draft, "fresh", "fresh", "stored")


def test_a_key_at_another_instant_is_another_statement_in_one_batch_as_in_two() -> None:
    draft = Draft(account_of(), {(3, "a")})
    found = [draft.record(event("a", at_ns)) for at_ns in (1, 2, 3, 1, 4)]
    assert [1, 2, None, None, 3] == [None if each is None else each.version for each in found]


def test_an_event_without_a_key_is_never_refused() -> None:
    account = account_of(event(""), event("", 9))
    known: set[Keyed] = {(0, "")}
    draft = Draft(account, known)
    assert [3, 4] == record(draft, "", "")
    draft.settle(b"")
    assert 0 == account.newest_ns


def test_the_account_is_untouched_until_the_draft_is_settled() -> None:
    account = account_of(event("a", 1))
    draft = Draft(account, ())
    draft.record(event("b", 5))
    draft.record(event("c", 3))
    assert (1, 1) == (account.version, account.newest_ns)
    assert [2, 3] == record(Draft(account, ()), "b", "c")  # another batch, had this one failed
    draft.settle(b"")
    assert (3, 5) == (account.version, account.newest_ns)


def test_of_two_drafts_of_one_account_only_the_first_can_be_settled() -> None:
    account = account_of()
    one, other = Draft(account, ()), Draft(account, ())
    record(one, "a")
    record(other, "b")
    one.settle(b"")
    with pytest.raises(AssertionError, match="version 1 after 1"):
        other.settle(b"")
    assert 1 == account.version


def test_the_memory_of_an_account_does_not_grow() -> None:
    account = Account("bitopro:main")
    assert ("id", "newest_ns", "seal", "version") == account.__slots__
    assert genesis("bitopro:main") == account.seal
    for version in range(1, 2_000):
        settle(account, event(f"key-{version}", version))
    assert {"id": "bitopro:main", "newest_ns": 1_999, "seal": b"seal", "version": 1_999} == {
        name: getattr(account, name) for name in account.__slots__
    }


@pytest.mark.parametrize(
    ("told", "may_know"),
    [
        (event("k", 11), False),
        (event("k", 10), True),
        (event("k", 9), True),
        (event("k"), True),
        (event("", 9), False),
        (FillRecorded(event("k", 11).source, "k", "f", "o", "S", "buy", "1", "2"), True),
    ],
    ids=["newer", "of the newest instant", "older", "of no instant", "without a key", "a fill"],
)
def test_only_what_is_newer_than_all_before_it_cannot_have_been_recorded(told: Event, may_know: bool) -> None:
    assert may_know is account_of(event("a", 10), event("b", 7), event("", 99)).may_know(told)


def test_an_event_in_its_envelope_is_named_as_eventsourcing_names_it() -> None:
    recorded = Recorded("bitopro:main", 7, event("a"))
    assert ("bitopro:main", 7, 0) == (recorded.originator_id, recorded.originator_version, recorded.position)


told = st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 3))


@given(st.lists(st.lists(told, max_size=6), max_size=6))
def test_in_any_batching_each_key_of_an_instant_counts_once_and_versions_have_no_holes(
    batches: list[list[tuple[str, int]]],
) -> None:
    account, stored = Account("bitopro:main"), list[Recorded]()
    for batch in batches:
        events = [event(key, at_ns) for key, at_ns in batch]
        recorded: set[Keyed] = {(keyed_ns(each.event), each.event.key) for each in stored}
        suspects: set[Keyed] = {(keyed_ns(each), each.key) for each in events if account.may_know(each)}
        draft = Draft(account, recorded & suspects)
        for each in events:
            draft.record(each)
        stored += draft.recorded
        draft.settle(b"")
    assert list(range(1, len(stored) + 1)) == [each.version for each in stored]
    flat = [pair for batch in batches for pair in batch]
    expected = [pair for index, pair in enumerate(flat) if not pair[0] or pair not in flat[:index]]
    assert expected == [(each.event.key, each.event.source.time_ns) for each in stored]
