"""DeltaDeFi: connecting is subscribing, the key is in no place that is shown, and the balance is asked for once."""

from __future__ import annotations

import pytest

from ledger.errors import Lost
from ledger.events import Asked, BalanceDelta
from ledger.venue import Begun, Frame, Listen, Open, Ready, Request, Secret, Spoken, Wait
from ledger.venues import deltadefi
from tests.conversing import HOSTILE, NOW_NS, Talk

KEY = "fake/key&1"
LOGIN = deltadefi.Login(key=Secret(KEY))
BALANCE = b'[{"asset":"ada","asset_unit":"","free":"1","locked":"0"}]'


def begin(login: deltadefi.Login = LOGIN) -> Talk:
    return Talk(deltadefi.converse(login, Begun("main", NOW_NS)))


def connected() -> Talk:
    talk = begin()
    talk.take(Open)
    talk.take(Ready)
    return talk


def test_the_key_is_in_the_query_of_the_connection_and_in_a_header_of_the_question() -> None:
    talk = begin()
    endpoint = talk.take(Open).endpoint
    assert "wss://stream.deltadefi.io/accounts/stream?api_key=fake%2Fkey%261" == endpoint.url
    assert "wss://stream.deltadefi.io/accounts/stream" == endpoint.place
    talk.take(Ready)
    question = Request("https://api.deltadefi.io/accounts/balance", headers=(("X-API-KEY", KEY),))
    assert question == talk.asked()
    assert talk.asked().kept


def test_it_listens_when_the_balance_was_told_until_it_is_closed() -> None:
    talk = connected()
    talk.reply(BALANCE)
    for payload in (*HOSTILE, b'{"error":"x","code":4010}', b'{"type":"Account"}'):
        assert [] == talk.hear(payload)
    talk.now(Listen)
    talk.close()


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("ws://h:1", "ws://h:1/accounts/stream?api_key=fake%2Fkey%261"),
        ("ws://h:1/", "ws://h:1/accounts/stream?api_key=fake%2Fkey%261"),
        ("ws://h:1/x?y=1", "ws://h:1/x?y=1&api_key=fake%2Fkey%261"),
    ],
)
def test_another_address_gets_the_documented_path_where_it_has_none(url: str, opened: str) -> None:
    assert opened == begin(deltadefi.Login(key=LOGIN.key, url=url)).now(Open).endpoint.url


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://h:1", "http://h:1/accounts/balance"),
        ("http://h:1/v2/", "http://h:1/v2/accounts/balance"),
        ("http://h:1/v2/accounts/balance", "http://h:1/v2/accounts/balance"),
    ],
)
def test_another_address_is_asked_for_the_documented_path(url: str, asked: str) -> None:
    talk = begin(deltadefi.Login(key=LOGIN.key, rest_url=url))
    talk.take(Open)
    talk.take(Ready)
    assert asked == talk.asked().url


def test_an_answer_that_does_not_come_is_asked_for_again_and_again() -> None:
    talk = connected()
    asked = talk.asked()
    for seconds, status in zip((1, 2, 4, 8, 16, 30, 30), (0, 403, 403, 503, 429, 401, 302), strict=True):
        talk.reply(b"", status)
        assert seconds == talk.take(Wait).seconds
        assert asked == talk.asked()
    for unreadable in (b"", b"<html>", b'{"error":"later","code":5000}', b'"later"'):
        talk.reply(unreadable, 200)
        assert 30 == talk.take(Wait).seconds
    talk.reply(b"[]", 200)
    talk.now(Listen)


@pytest.mark.parametrize("status", [401, 403])
def test_a_balance_that_is_refused_three_times_in_a_row_ends_the_conversation(status: int) -> None:
    talk = connected()
    for _ in range(2):
        talk.reply(b"", status)
        talk.take(Wait)
    with pytest.raises(Lost, match=f"^baseline refused: HTTP {status}$") as caught:
        talk.reply(b"", status)
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_refusal_is_known_by_its_code_whatever_the_status(status: int) -> None:
    talk = connected()
    for _ in range(2):
        talk.reply(b'{"error":"unauthorized","code":4010}', status)
        talk.take(Wait)
    talk.reply(b'{"error":"locked","code":5002}', status)
    talk.take(Wait)
    for _ in range(2):
        talk.reply(b'{"error":"unauthorized","code":4010}', status)
        talk.take(Wait)
    with pytest.raises(Lost, match=f"^baseline refused: HTTP {status}$"):
        talk.reply(b'{"error":"unauthorized","code":4010}', status)


def test_the_venue_is_left_alone_as_long_as_it_asks_for() -> None:
    talk = connected()
    for asked_s, seconds in (("120", 120), ("0", 2), ("3", 4), ("9", 9)):
        talk.reply(b'{"error":"rate","code":4290}', 429, headers={"retry-after": asked_s})
        assert seconds == talk.take(Wait).seconds


def test_what_the_venue_says_is_told_while_it_is_asked_again() -> None:
    talk = connected()
    talk.reply(b'{"error":"Trading is\\u0007locked","code":5002}', 400)
    assert (
        "no balance asked for yet: HTTP 400, venue error 5002: Trading is\ufffdlocked"
        == talk.take(Wait).reason
    )
    talk.reply(b"<html>", 503)
    assert "no balance asked for yet: HTTP 503, 6 bytes" == talk.take(Wait).reason


def test_nothing_shows_the_key() -> None:
    talk = begin()
    shown = f"{LOGIN!r} {talk.take(Open)!r}"
    talk.take(Ready)
    shown += f"{talk.action!r} {talk.asked().url}"
    assert (False, False) == (KEY in shown, "fake" in shown)


def test_it_can_be_spoken_to() -> None:
    assert isinstance(deltadefi, Spoken)


def test_an_answer_is_as_old_as_its_question_and_a_push_has_no_time() -> None:
    asked = Asked("GET /accounts/balance", NOW_NS)
    pushed = b'{"type":"Account","sub_type":"balance","balance":' + BALANCE + b"}"
    times: list[int | None] = []
    for payload, question in ((BALANCE, asked), (BALANCE, None), (pushed, None), (pushed, asked)):
        frame = Frame("deltadefi:main", "s", 2, NOW_NS + 9, payload, "", question)
        ((_, event),) = deltadefi.decode(frame)
        assert isinstance(event, BalanceDelta)
        times.append(event.source.time_ns)
    assert [NOW_NS, NOW_NS + 9, None, None] == times


@pytest.mark.parametrize("status", [199, 300])
def test_a_balance_is_no_answer_with_a_status_beside_those_of_success(status: int) -> None:
    talk = connected()
    talk.reply(BALANCE, status)
    talk.take(Wait)
    talk.asked()


@pytest.mark.parametrize("status", [200, 299])
def test_a_balance_is_the_answer_with_any_status_of_success(status: int) -> None:
    talk = connected()
    talk.reply(BALANCE, status)
    talk.now(Listen)
