"""Pacifica's history is walked: every row is obtained, whenever it comes and wherever a walk is interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.errors import Lost, Rejected
from ledger.events import BalanceEventImported
from ledger.venue import Action, Ask, Begun, Frame, Ready, Remember, Reply, Request, Secret, Spoken, Wait
from ledger.venues import pacifica
from tests.conversing import HOSTILE, NOW_NS, Talk

WALLET = "42trU9A5example"
FIRST = f"https://api.pacifica.fi/api/v1/account/balance/history?account={WALLET}&limit=100"
ACCOUNT = f"https://api.pacifica.fi/api/v1/account?account={WALLET}"
START_MS = 1_790_000_000_000


class Row(NamedTuple):
    created_at: int
    amount: str
    event_type: str = "trade"

    def told(self) -> dict[str, object]:
        return {**self._asdict(), "balance": "7", "pending_balance": "0"}


def page(rows: Iterable[Row] = (), cursor: str | None = None, more: object = None) -> bytes:
    more = cursor is not None if more is None else more
    told = {"success": True, "data": [row.told() for row in rows], "next_cursor": cursor, "has_more": more}
    return json.dumps(told).encode()


def rows(*times: int) -> list[Row]:
    return [Row(START_MS + time, str(time)) for time in times]


def begin(memory: bytes = b"", login: pacifica.Login | None = None) -> Talk:
    return Talk(pacifica.converse(login or pacifica.Login(), Begun(WALLET, NOW_NS, memory)))


def account(balance: str = "7", **fields: object) -> bytes:
    told = {"balance": balance, "pending_balance": "0", "updated_at": START_MS + 9, **fields}
    return json.dumps({"success": True, "data": told}).encode()


def unanswered(talk: Talk) -> list[Action]:
    """What it does until it asks for the account, and, when that is not known here, until it asks again."""
    before = talk.actions()
    assert Request(ACCOUNT) == talk.asked()
    talk.reply(b"no such path", 404)
    return [*before, *talk.actions()]


def floor(time: int) -> bytes:
    return b'{"floor":%d}' % (START_MS + time)


# The requests --------------------------------------------------------------------------------------------------------


def test_the_first_page_is_asked_for_without_anything_else() -> None:
    assert Request(FIRST) == begin().asked()


def test_a_key_goes_in_a_header_and_is_not_shown() -> None:
    login = pacifica.Login(key=Secret("fake-key"))
    talk = begin(login=login)
    assert (("PF-API-KEY", "fake-key"),) == talk.asked().headers
    assert FIRST == talk.asked().url
    assert "fake-key" not in f"{login!r} {talk.action!r}"
    with pytest.raises(Rejected) as caught:
        talk.reply(status=401)
    assert "fake-key" not in repr(caught.value)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v1/account/balance/history?"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/api/v1/account/balance/history?"),
        ("http://h/v2", "http://h/v2/account/balance/history?"),
        ("http://h/x/account/balance/history", "http://h/x/account/balance/history?"),
        ("http://h/v2?z=1", "http://h/v2/account/balance/history?z=1&"),
    ],
)
def test_another_address_gets_the_part_of_the_documented_path_that_it_lacks(url: str, asked: str) -> None:
    for login in (pacifica.Login(url=url), pacifica.Login(rest_url=url)):
        assert f"{asked}account={WALLET}&limit=100" == begin(login=login).asked().url


def test_it_can_be_spoken_to() -> None:
    assert isinstance(pacifica, Spoken)


# One walk ------------------------------------------------------------------------------------------------------------


def test_the_first_walk_goes_to_the_end_even_over_rows_that_are_known() -> None:
    talk = begin()
    talk.reply(page(rows(9, 8), "cur/9"), fresh=2)
    assert Ready() == talk.take(Ready)
    assert Request(f"{FIRST}&cursor=cur%2F9") == talk.asked()
    talk.reply(page(rows(7, 6), "c2"), fresh=0)
    assert f"{FIRST}&cursor=c2" == talk.asked().url
    talk.reply(page(rows(5)), fresh=0)
    assert Remember(floor(9)) == talk.take(Remember)
    assert Request(FIRST) == talk.asked()  # at once: rows may have come while pages were turned


def test_the_history_is_asked_for_again_after_a_while() -> None:
    talk = begin()
    talk.reply(page())
    assert [Ready(), Wait(10)] == unanswered(talk)
    for _ in range(3):
        assert Request(FIRST) == talk.asked()
        talk.reply(page(), after_s=0)
        assert Wait(10) == talk.take(Wait)


def test_a_walk_ends_at_a_row_that_was_known_and_is_older_than_the_last_walk() -> None:
    talk = begin(floor(5))
    talk.reply(page(rows(9, 8), "a"), fresh=2)
    talk.take(Ready)
    talk.reply(page(rows(7, 6), "b"), fresh=0)  # known from a walk that was interrupted
    talk.reply(page(rows(5), "c"), fresh=0)  # more rows of that millisecond may have come after it
    talk.reply(page(rows(4, 3), "d"), fresh=0)
    assert Remember(floor(9)) == talk.take(Remember)


def test_older_rows_that_were_not_known_are_followed_to_one_that_was() -> None:
    talk = begin(floor(5))
    talk.reply(page(rows(9, 4), "a"), fresh=2)
    talk.take(Ready)
    talk.reply(page(rows(4, 3), "b"), fresh=1)  # 4 was told before, by this walk
    talk.reply(page(rows(2, 1), "c"), fresh=1)
    talk.take(Remember)


def test_only_rows_of_the_first_page_say_how_far_a_walk_has_seen() -> None:
    """A newer row on a later page came while the page was turned: others may have come with it."""
    talk = begin()
    talk.reply(page(rows(9, 8), "a"), fresh=2)
    talk.take(Ready)
    talk.reply(page(rows(10, 7)), fresh=2)
    assert Remember(floor(9)) == talk.take(Remember)


def test_equal_rows_that_are_told_again_are_no_tail() -> None:
    talk = begin(floor(5))
    same = rows(4, 4)
    talk.reply(page(same, "a"), fresh=2)
    talk.take(Ready)
    talk.reply(page(same, "b"), fresh=0)
    assert f"{FIRST}&cursor=b" == talk.asked().url
    talk.reply(page([*same, *rows(4)], "c"), fresh=0)  # once more than the page before
    assert FIRST == talk.asked().url


@pytest.mark.parametrize("more", [False, None])
def test_a_page_without_a_cursor_or_without_more_is_the_last(more: bool | None) -> None:
    talk = begin()
    talk.reply(page(rows(2, 1), None if more is None else "x", more), fresh=2)
    assert [Ready(), Remember(floor(2)), Wait(10)] == unanswered(talk)


def test_a_page_that_does_not_say_whether_there_is_more_is_followed_by_its_cursor() -> None:
    talk = begin()
    told = json.loads(page(rows(2, 1), "x"))
    del told["has_more"]
    talk.reply(json.dumps(told))
    talk.take(Ready)
    assert f"{FIRST}&cursor=x" == talk.asked().url


def test_a_cursor_that_repeats_ends_the_conversation() -> None:
    talk = begin()
    talk.reply(page(rows(9), "a"), fresh=1)
    talk.take(Ready)
    talk.reply(page(rows(8), "b"), fresh=1)
    with pytest.raises(Lost, match=r"^the cursor repeats$"):
        talk.reply(page(rows(7), "a"), fresh=1)


@pytest.mark.parametrize("memory", [*HOSTILE, b'{"floor":null}', b'{"floor":-1}', b'{"floor":1e99}'])
def test_a_memory_that_cannot_be_read_means_the_whole_history(memory: bytes) -> None:
    talk = begin(memory)
    talk.reply(page(rows(9, 8), "a"), fresh=0)
    talk.take(Ready)
    assert f"{FIRST}&cursor=a" == talk.asked().url


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_login_that_is_refused_says_so(status: int) -> None:
    with pytest.raises(Rejected, match=f"^HTTP {status} to GET /account/balance/history$"):
        begin().reply(b'{"success":false}', status)


@pytest.mark.parametrize("status", [301, 400, 404, 422, 500, 503])
def test_any_other_refusal_ends_the_conversation(status: int) -> None:
    with pytest.raises(Lost, match=f"^HTTP {status} to GET /account/balance/history$") as caught:
        begin().reply(page(), status, headers={"retry-after": "7"})
    assert 7 == caught.value.retry_after_s


def test_no_answer_ends_the_conversation_and_says_why() -> None:
    with pytest.raises(Lost, match=r"no answer to GET /account/balance/history: the name.+ is unknown"):
        begin().reply("the name\n is unknown\xff", 0)


def test_an_answer_without_success_ends_the_conversation_and_says_why() -> None:
    told = {"success": False, "data": None, "error": "Order\x1b amount too low" + "x" * 500, "code": 0}
    with pytest.raises(Lost, match=r"^the venue answered 0: Order.+ amount too low") as caught:
        begin().reply(json.dumps(told))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("body", [*HOSTILE, b'{"success":true}', b'{"success":1}'])
def test_a_page_that_cannot_be_read_ends_the_conversation(body: bytes) -> None:
    with pytest.raises(Lost, match=r"^a page cannot be read: "):
        begin().reply(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"next_cursor": 7},
        {"next_cursor": "x" * 2000},
        {"has_more": "yes"},
        {"data": [{"created_at": 1}]},
        {"data": [rows(1)[0].told() | {"amount": "NaN"}]},
        {"data": [rows(1)[0].told() | {"created_at": 10**300}]},
        {"data": [rows(1)[0].told() | {"created_at": -1}]},
    ],
)
def test_a_page_that_would_leave_a_hole_ends_the_conversation(changes: dict[str, object]) -> None:
    with pytest.raises(Lost, match=r"^a page cannot be read: "):
        begin().reply(json.dumps(json.loads(page(rows(2), "a")) | changes))


def test_unknown_fields_of_a_page_are_no_matter() -> None:
    told = json.loads(page(rows(2))) | {"new": {"deep": [10**300]}}
    talk = begin()
    talk.reply(json.dumps(told))
    talk.take(Ready)


# Credits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7", "ratelimit": '"credits";r=0;t=32'}, 32),
        ({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, 3600),
        ({"retry-after": "9" * 300, "ratelimit": "t=x"}, 3600),
        ({"ratelimit": '"credits";r=0;t=' + "9" * 300}, 1),
    ],
)
def test_too_many_requests_are_waited_out_and_the_same_page_asked_for(
    headers: dict[str, str], seconds: float
) -> None:
    talk = begin()
    talk.reply(page(rows(9), "a"), fresh=1)
    talk.take(Ready)
    asked = talk.asked()
    talk.reply(b"slow down", 429, headers=headers)
    assert Wait(seconds) == talk.take(Wait)
    assert asked == talk.asked()


@pytest.mark.parametrize(("key", "in_a_minute"), [(None, 8), (Secret("fake"), 75)])
def test_no_more_is_asked_than_the_credits_of_a_minute_allow(key: Secret | None, in_a_minute: int) -> None:
    talk = begin(login=pacifica.Login(key=key))
    for number in range(in_a_minute):
        talk.reply(page(rows(in_a_minute - number), str(number)), fresh=1, after_s=0.5)
        if number == 0:
            talk.take(Ready)
    assert Wait(60 - 0.5 * (in_a_minute - 1)) == talk.take(Wait)
    talk.reply(page(rows(0), "next"), fresh=1, after_s=0)
    assert Wait(0.5) == talk.take(Wait)


def test_a_wait_counts_as_time_that_has_passed() -> None:
    talk = begin()
    for _ in range(8):
        talk.reply(b"slow down", 429)
        assert Wait(1) == talk.take(Wait)
    assert Wait(60 - 8) == talk.take(Wait)


def test_polls_are_never_held_back() -> None:
    talk = begin()
    talk.reply(page())
    unanswered(talk)
    for _ in range(30):
        talk.reply(page())
        assert Wait(10) == talk.take(Wait)


def test_polls_are_never_held_back_by_questions_for_the_account() -> None:
    talk = begin()
    waits: list[float] = []
    asked = 0
    for _ in range(100):
        asked += talk.asked().url == ACCOUNT
        talk.reply(account() if talk.asked().url == ACCOUNT else page(), after_s=0)
        waits += [action.seconds for action in talk.actions() if isinstance(action, Wait)]
    assert {10.0} == set(waits)
    assert 15 == asked  # one in a minute of six polls


@pytest.mark.parametrize(
    ("left", "waits"),
    [
        ('"credits";r=110;t=32', [32.0, 10.0]),
        ('"credits";r=120;t=32', [10.0]),
        ('"credits";r=0', [10.0]),
        ("r=;t=", [10.0]),
        ("\xff" * 1000, [10.0]),
    ],
)
def test_the_credits_the_venue_says_are_left_are_kept_to(left: str, waits: list[float]) -> None:
    talk = begin()
    talk.reply(page(), headers={"ratelimit": left})
    done = talk.actions()
    if len(waits) == 1:  # with what is left, the account can be asked for
        assert Request(ACCOUNT) == talk.asked()
        talk.reply(account(), after_s=0)
        done += talk.actions()
    assert Request(FIRST) == talk.asked()
    assert sorted(waits) == sorted(action.seconds for action in done if isinstance(action, Wait))


# The account ---------------------------------------------------------------------------------------------------------


def test_after_a_walk_with_nothing_new_the_account_is_asked_for() -> None:
    talk = begin()
    talk.reply(page(rows(9, 8), "a"), fresh=2)
    talk.take(Ready)
    talk.reply(page(rows(7)), fresh=1)
    talk.take(Remember)
    assert Request(FIRST) == talk.asked()  # rows may have come meanwhile: first they are walked
    talk.reply(page(rows(9, 8)), fresh=0)
    assert Request(ACCOUNT) == talk.asked()
    talk.reply(account())
    assert Wait(10) == talk.take(Wait)


def test_the_account_is_asked_for_once_a_minute_at_most() -> None:
    talk = begin()
    times: list[int] = []
    for _ in range(60):
        if talk.asked().url == ACCOUNT:
            times.append(talk.now_ns)
        talk.reply(page() if talk.asked().url == FIRST else account(), after_s=0)
        talk.actions()
    apart = [later - sooner for sooner, later in pairwise(times)]
    assert len(apart) > 5
    assert {60_000_000_000} == set(apart)


def test_a_key_goes_with_the_question_for_the_account() -> None:
    talk = begin(login=pacifica.Login(key=Secret("fake-key")))
    talk.reply(page())
    talk.take(Ready)
    assert Request(ACCOUNT, headers=(("PF-API-KEY", "fake-key"),)) == talk.asked()


@pytest.mark.parametrize("status", [0, 301, 400, 401, 403, 404, 429, 500, 503])
def test_a_venue_that_does_not_tell_the_account_is_not_asked_again_and_the_walk_goes_on(status: int) -> None:
    talk = begin()
    talk.reply(page())
    talk.take(Ready)
    talk.reply(account(), status, headers={"retry-after": "3000", "ratelimit": '"credits";r=0;t=32'})
    for _ in range(30):
        assert Wait(10) == talk.take(Wait)
        assert Request(FIRST) == talk.asked()
        talk.reply(page(), after_s=0)


@pytest.mark.parametrize(
    "body",
    [*HOSTILE, page(), page(rows(1)), b'{"success":false,"data":null,"error":"x","code":7}', account("NaN")],
)
def test_an_answer_that_is_no_account_is_not_asked_for_again_and_the_walk_goes_on(body: bytes) -> None:
    talk = begin()
    talk.reply(page())
    talk.take(Ready)
    talk.reply(body)
    for _ in range(30):
        assert Wait(10) == talk.take(Wait)
        assert Request(FIRST) == talk.asked()
        talk.reply(page(), after_s=0)


def test_the_account_is_not_asked_for_where_the_walk_needs_the_credits() -> None:
    talk = begin()
    for number in range(7):
        talk.reply(page(rows(20 - number), str(number)), fresh=1, after_s=0.1)
        if number == 0:
            talk.take(Ready)
    talk.reply(page(rows(1)), fresh=1, after_s=0.1)  # the eighth, and the last page
    talk.take(Remember)
    talk.take(Wait)  # for credits, not for the next poll
    assert Request(FIRST) == talk.asked()


def test_the_question_for_the_account_counts_as_a_request() -> None:
    talk = begin()
    talk.reply(page(), after_s=0)
    talk.take(Ready)
    talk.reply(account(), after_s=0)
    talk.take(Wait)
    for number in range(6):
        talk.reply(page(rows(20 - number), str(number)), fresh=1, after_s=0)
    assert Wait(50) == talk.take(Wait)  # ten seconds ago two were asked


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v1/account?"),
        ("http://h/v2", "http://h/v2/account?"),
        ("http://h/x/account/balance/history", "http://h/x/account?"),
        ("http://h/v2?z=1", "http://h/v2/account?z=1&"),
    ],
)
def test_the_account_is_beside_its_history(url: str, asked: str) -> None:
    talk = begin(login=pacifica.Login(url=url))
    talk.reply(page())
    talk.take(Ready)
    assert f"{asked}account={WALLET}" == talk.asked().url


# Every row is obtained -----------------------------------------------------------------------------------------------


class History:
    """The venue: its rows, oldest first, told newest first in pages. A cursor is a row, or so many rows to skip."""

    def __init__(self, page_rows: int, skipping: bool) -> None:
        self.rows: list[Row] = []
        self._page_rows = page_rows
        self._skipping = skipping

    def add(self, ms_later: int, amount: str) -> None:
        self.rows.append(Row(self.rows[-1].created_at + ms_later if self.rows else START_MS, amount))

    def answer(self, request: Request) -> bytes:
        found = re.search(r"&cursor=(\d+)\Z", request.url)
        end = len(self.rows)
        if found is not None:
            end = end - int(found[1]) if self._skipping else int(found[1])
        begin = max(0, end - self._page_rows)
        cursor = str(len(self.rows) - begin if self._skipping else begin)
        return page(reversed(self.rows[begin:end]), cursor if begin else None)


class Ledger:
    """What is recorded: a row once, as `decode` names it."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def record(self, body: bytes) -> int:
        events = [event for _, event in pacifica.decode(Frame("pacifica:x", "s", 1, NOW_NS, body))]
        keys = {event.key for event in events if isinstance(event, BalanceEventImported)}
        fresh = len(keys - self.keys)
        self.keys |= keys
        return fresh


class Run:
    """A ledger fed by one conversation after another, each interrupted at some action, told of it or not."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.ledger = Ledger()
        self.memory = b""

    def converse(self, arrivals: list[tuple[int, str]], actions: int | None) -> None:
        """So many actions of a conversation; without a number until it has polled twice with nothing new."""
        talk = begin(self.memory)
        quiet = 0
        while actions != 0 and quiet < 2:
            actions = None if actions is None else actions - 1
            action = talk.action
            if isinstance(action, Ask) and action.request.url == ACCOUNT:
                talk.reply(b"", 404)
                continue
            if isinstance(action, Ask):
                for _ in range(2):
                    if arrivals:
                        self.history.add(*arrivals.pop())
                body = self.history.answer(action.request)
                fresh = self.ledger.record(body)  # durable before it is heard of
                if actions == 0:
                    return
                talk.now_ns += 10_000_000_000  # never too fast for the credits
                talk.tell(Reply(200, body, talk.now_ns, {}, fresh))
                continue
            if isinstance(action, Remember):
                self.memory = action.memory
            quiet += isinstance(action, Wait) and not arrivals
            talk.done()
        talk.close()

    def missing(self) -> set[Row]:
        alone = ((row, page([row])) for row in self.history.rows)
        return {row for row, body in alone if Ledger.record(self.ledger, body)}


def obtained(
    before: Sequence[tuple[int, str]],
    arrivals: Sequence[tuple[int, str]],
    page_rows: int,
    skipping: bool,
    interruptions: Sequence[int],
) -> set[Row]:
    """What is missing in the end."""
    history = History(page_rows, skipping)
    for row in before:
        history.add(*row)
    run = Run(history)
    later = list(arrivals)
    for actions in interruptions:
        run.converse(later, actions)
    run.converse(later, None)
    return run.missing()


ROWS = [(1, str(number)) for number in range(23)]


@pytest.mark.parametrize("skipping", [False, True], ids=["cursor-is-a-row", "cursor-is-an-offset"])
@pytest.mark.parametrize("actions", range(1, 30))
def test_a_walk_that_is_interrupted_at_any_point_leaves_no_hole(actions: int, skipping: bool) -> None:
    assert set() == obtained(ROWS, ROWS[:9], 3, skipping, [actions])
    assert set() == obtained(ROWS, [(1, f"9{row}") for _, row in ROWS], 3, skipping, [100, actions, actions])


def test_an_interruption_between_the_first_page_and_the_next_leaves_no_hole() -> None:
    """The first page is in the ledger before the conversation can say anything of it."""
    history = History(3, skipping=False)
    for row in ROWS:
        history.add(*row)
    run = Run(history)
    run.converse([], actions=1)
    assert (b"", 3) == (run.memory, len(run.ledger.keys))
    run.converse([], None)
    assert set() == run.missing()


Rows = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["1", "-1", "0"])), max_size=25)


@settings(max_examples=300, deadline=None)
@given(Rows, Rows, st.integers(1, 6), st.booleans(), st.lists(st.integers(1, 25), max_size=4))
@example([(0, "1")] * 3, [(0, "0"), (0, "-1")], 1, False, [20, 1])
def test_every_row_is_obtained_whatever_comes_meanwhile_and_wherever_it_is_interrupted(
    before: list[tuple[int, str]],
    arrivals: list[tuple[int, str]],
    page_rows: int,
    skipping: bool,
    interruptions: list[int],
) -> None:
    assert set() == obtained(before, arrivals, page_rows, skipping, interruptions)


@pytest.mark.parametrize("status", [200, 299])
def test_a_page_is_read_with_any_status_of_success(status: int) -> None:
    talk = begin()
    talk.reply(page(), status)
    talk.take(Ready)


@pytest.mark.parametrize("status", [199, 300])
def test_a_page_is_not_read_with_a_status_beside_those_of_success(status: int) -> None:
    with pytest.raises(Lost, match=f"^HTTP {status} to GET /account/balance/history$"):
        begin().reply(page(), status)
