"""Kraken Prime: a signed upgrade, one subscription, its pages; and a new one wherever a number is missing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import Lost, Rejected
from ledger.venue import Action, Begun, Listen, Open, Ready, Remember, Secret, Send, Spoken, Wait
from ledger.venues import kraken_prime
from tests.conversing import HOSTILE, NOW_NS, Talk, sent

LOGIN = kraken_prime.Login(key=Secret("fake-key"), secret=Secret("fake-secret"))
HELLO = '{"type":"hello","ts":"2026-10-16T10:41:23.168807Z","session_id":"1109RQ13KXR00"}'
SINCE_2020 = NOW_NS // 1_000_000_000 - 1_577_836_800


def begin(memory: bytes = b"10", login: kraken_prime.Login = LOGIN) -> Talk:
    return Talk(kraken_prime.converse(login, Begun("main", NOW_NS, memory)))


def subscribed(memory: bytes = b"10") -> Talk:
    """A conversation that has subscribed, by default under 11."""
    talk = begin(memory)
    talk.take(Open)
    talk.hear(HELLO)
    return talk


def balances(reqid: int, number: int | None, cursor: str | None = None, **more: object) -> str:
    told: dict[str, object] = {"reqid": reqid, "type": "Balance", "ts": "2026-11-01T00:00:00Z", "data": []}
    if number is not None:
        told["seqNum"] = number
    if cursor is not None:
        told["next"] = cursor
    return json.dumps(told | more)


def error(reqid: int, number: int, **more: object) -> str:
    said = {"type": "error", "reqid": reqid, "seq": number, "error": {"code": 9, "msg": "no such stream"}}
    return json.dumps(said | more)


def subscribe(reqid: int) -> list[Action]:
    request = b'{"reqid":%d,"type":"subscribe","streams":[{"name":"Balance"}]}' % reqid
    return [Remember(b"%d" % reqid), Send(request)]


def page(reqid: int, cursor: bytes) -> Send:
    return Send(b'{"reqid":%d,"type":"page","data":[{"name":"Balance","after":"%s"}]}' % (reqid, cursor))


def cancel(reqid: int) -> Send:
    return Send(b'{"reqid":%d,"type":"cancel"}' % reqid)


# The login -----------------------------------------------------------------------------------------------------------


def test_the_upgrade_is_signed_over_method_time_host_and_path() -> None:
    endpoint = begin().now(Open).endpoint
    assert "wss://wss.prime.kraken.com/ws/v1" == endpoint.url
    text = b"GET\n2026-11-03T08:40:01.000000Z\nwss.prime.kraken.com\n/ws/v1"
    digest = hmac.new(b"fake-secret", text, hashlib.sha256).digest()
    assert [
        ("ApiKey", "fake-key"),
        ("ApiSign", base64.urlsafe_b64encode(digest).decode()),
        ("ApiTimestamp", "2026-11-03T08:40:01.000000Z"),
    ] == list(endpoint.headers)


def test_a_signature_has_the_letters_of_urls_and_its_padding() -> None:
    signatures = [
        kraken_prime.signed(f"2026-11-03T08:40:{second:02}.000000Z", "wss://h/p", Secret("fake"))
        for second in range(60)
    ]
    assert {True} == {len(text) == 44 and text.endswith("=") for text in signatures}
    assert not set("+/") & set("".join(signatures))
    assert set("-_") <= set("".join(signatures))


@pytest.mark.parametrize(
    ("url", "opened", "host", "path"),
    [
        ("wss://127.0.0.1:8443", "wss://127.0.0.1:8443/ws/v1", "127.0.0.1", "/ws/v1"),
        ("wss://example.org:8443/", "wss://example.org:8443/ws/v1", "example.org", "/ws/v1"),
        ("wss://example.org/other/?x=1", "wss://example.org/other/?x=1", "example.org", "/other/"),
    ],
)
def test_another_address_is_signed_as_it_is_without_port_and_query(
    url: str, opened: str, host: str, path: str
) -> None:
    login = kraken_prime.Login(key=LOGIN.key, secret=LOGIN.secret, url=url)
    endpoint = begin(login=login).now(Open).endpoint
    assert opened == endpoint.url
    text = f"GET\n2026-11-03T08:40:01.000000Z\n{host}\n{path}".encode()
    digest = hmac.new(b"fake-secret", text, hashlib.sha256).digest()
    assert base64.urlsafe_b64encode(digest).decode() == dict(endpoint.headers)["ApiSign"]


def test_nothing_shows_a_secret() -> None:
    talk = begin()
    shown = f"{LOGIN!r} {talk.now(Open)!r}"
    talk.take(Open)
    talk.hear(HELLO)
    with pytest.raises((Lost, Rejected)) as caught:
        talk.hear(error(11, 1))
    shown += repr(caught.value)
    assert ("fake-key" in shown, "fake-secret" in shown) == (False, False)


def test_it_can_be_spoken_to() -> None:
    assert isinstance(kraken_prime, Spoken)


# The subscription ----------------------------------------------------------------------------------------------------


def test_nothing_is_asked_before_the_server_says_hello() -> None:
    talk = begin()
    talk.take(Open)
    frames: list[bytes | str] = [
        *HOSTILE,
        balances(11, 1),
        error(11, 1),
        '{"type":"Pong","reqid":11,"seqNum":0}',
    ]
    for payload in frames:
        assert [] == talk.hear(payload)
    assert subscribe(11) == talk.hear(HELLO)


@pytest.mark.parametrize(
    ("memory", "reqid"),
    [
        (b"", 1),
        (b"0", 1),
        (b"41", 42),
        (b"x", SINCE_2020 + 1),
        (b"-3", SINCE_2020 + 1),
        (b"1.5", SINCE_2020 + 1),
        ("٣".encode(), SINCE_2020 + 1),
        (b"9" * 16, SINCE_2020 + 1),
        (b"9" * 5000, SINCE_2020 + 1),
    ],
)
def test_a_request_number_is_never_used_twice_and_remembered_before_it_is_used(
    memory: bytes, reqid: int
) -> None:
    talk = begin(memory)
    talk.take(Open)
    assert subscribe(reqid) == talk.hear(HELLO)


def test_the_first_balances_of_the_subscription_say_that_it_stands() -> None:
    talk = subscribed()
    assert [] == talk.hear('{"type":"Pong","reqid":11,"seqNum":0}')
    assert [] == talk.hear(balances(10, 1))
    assert [Ready()] == talk.hear(balances(11, 1, initial=True))
    assert [] == talk.hear(balances(11, 2))


@pytest.mark.parametrize("numbers", [(0, 1, 2), (None, None), (1, 2, 2, 1, 3), (1, None, 2)])
def test_what_counts_on_is_no_hole(numbers: Sequence[int | None]) -> None:
    talk = subscribed()
    done = [action for number in numbers for action in talk.hear(balances(11, number), after_s=5)]
    assert [Ready()] == done


def test_the_other_spelling_of_the_sequence_counts_too() -> None:
    talk = subscribed()
    talk.hear(balances(11, None, seq=1))
    assert [] == talk.hear(balances(11, None, seq=2))
    assert subscribe(12) == talk.hear(balances(11, None, seq=4))


def test_pages_are_asked_for_until_there_is_none_under_the_same_number() -> None:
    talk = subscribed()
    assert [Ready(), page(11, b"cur=1")] == talk.hear(balances(11, 1, "cur=1", initial=True))
    assert [page(11, b"cur=2")] == talk.hear(balances(11, 2, "cur=2"))
    assert [] == talk.hear(balances(11, 3, ""))
    assert [] == talk.hear(balances(11, 4))


def test_a_cursor_that_repeats_ends_the_conversation() -> None:
    talk = subscribed()
    assert [page(11, b"c1")] == talk.hear(balances(11, 1, "c1"))[1:]
    assert [page(11, b"c2")] == talk.hear(balances(11, 2, "c2"))
    with pytest.raises(Lost, match=r"^the cursor repeats$"):
        talk.hear(balances(11, 3, "c1"))


def test_a_new_subscription_may_page_over_the_same_cursors() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1, "c1"))
    talk.hear(balances(11, 3))
    assert [page(12, b"c1")] == talk.hear(balances(12, 1, "c1"))


def test_a_page_told_twice_is_asked_on_from_once() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1, "a"))
    assert [] == talk.hear(balances(11, 1, "a"))


def test_a_refused_subscription_ends_the_conversation_and_says_why() -> None:
    with pytest.raises(Rejected, match=r"^the venue refused the subscription: 9: no such stream$"):
        subscribed().hear(error(11, 1))


@pytest.mark.parametrize("fault", [None, 7, "x", [], {"code": [], "msg": 1}, {"code": 10**300}])
def test_a_refusal_without_a_readable_reason_is_one(fault: object) -> None:
    with pytest.raises((Lost, Rejected), match="no reason was given"):
        subscribed().hear(error(11, 1, error=fault))


def test_the_reason_of_a_refusal_is_short_and_can_be_printed() -> None:
    with pytest.raises((Lost, Rejected)) as caught:
        subscribed().hear(error(11, 1, error={"code": "E\x1b[31m\n", "msg": "\u202e" + "x" * 5000}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_later_error_uses_up_a_number_and_nothing_else() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    assert [] == talk.hear(error(11, 2))
    assert [] == talk.hear(error(99, 1))
    assert [] == talk.hear(balances(11, 3))
    assert subscribe(12) == talk.hear(error(11, 5))


@pytest.mark.parametrize("payload", HOSTILE)
def test_it_survives_frames_of_any_kind(payload: bytes) -> None:
    talk = subscribed()
    assert [] == talk.hear(payload)
    talk.hear(balances(11, 1))
    assert [] == talk.hear(payload)
    talk.now(Listen)


# Holes ---------------------------------------------------------------------------------------------------------------


def test_a_hole_means_a_new_subscription_and_the_old_is_cancelled_when_its_baseline_is_whole() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    assert subscribe(12) == talk.hear(balances(11, 3))
    assert [] == talk.hear(balances(11, 7), after_s=60)
    assert [page(12, b"a")] == talk.hear(balances(12, 1, "a"))
    assert [cancel(11)] == talk.hear(balances(12, 2))
    assert [] == talk.hear(balances(11, 9), after_s=60)
    assert [] == talk.hear(balances(12, 3))


def test_a_subscription_that_does_not_begin_at_one_has_a_hole() -> None:
    talk = subscribed()
    assert [Ready(), *subscribe(12)] == talk.hear(balances(11, 2))
    assert [cancel(11)] == talk.hear(balances(12, 1))


def test_there_is_at_most_one_resubscription_in_a_second_and_it_waits_for_no_other_message() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    assert subscribe(12) == talk.hear(balances(11, 3))
    assert [cancel(11)] == talk.hear(balances(12, 1), after_s=0.1)
    assert [Wait(0.8), *subscribe(13)] == talk.hear(balances(12, 3), after_s=0.1)
    assert [] == talk.hear("not of our subscription", after_s=60)


def test_a_venue_whose_baselines_all_have_a_hole_is_asked_ever_more_seldom() -> None:
    """As it would be if its numbers began elsewhere: `"seq":148191` was seen (2024)."""
    talk = subscribed()
    assert [Ready(), *subscribe(12)] == talk.hear(balances(11, 148_191))
    waited: list[float] = []
    for reqid in range(12, 20):
        wait, *rest = talk.hear(balances(reqid, 148_191))
        assert [*subscribe(reqid + 1), cancel(reqid)] == rest
        assert isinstance(wait, Wait)
        waited.append(wait.seconds)
    assert [2, 4, 8, 16, 32, 60, 60, 60] == waited
    assert [cancel(11)] == talk.hear(balances(20, 1))
    assert [Wait(60), *subscribe(21)] == talk.hear(balances(20, 3))
    assert [cancel(20)] == talk.hear(balances(21, 1))
    assert [Wait(1), *subscribe(22)] == talk.hear(balances(21, 3))


NO_AMOUNT = [{"Currency": "BTC", "Amount": "1_000", "AvailableAmount": "1"}]


def test_an_update_that_cannot_be_read_is_a_hole() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    assert subscribe(12) == talk.hear(balances(11, 2, data=NO_AMOUNT))
    assert [cancel(11)] == talk.hear(balances(12, 1))


def test_a_baseline_that_cannot_be_read_is_not_asked_for_again_and_again() -> None:
    talk = subscribed()
    assert [Ready()] == talk.hear(balances(11, 1, data=NO_AMOUNT))
    assert [] == talk.hear(balances(11, 2, data=NO_AMOUNT), after_s=60)
    assert subscribe(12) == talk.hear(balances(11, 4), after_s=60)


def test_a_baseline_with_a_hole_replaces_nothing() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    talk.hear(balances(11, 3))
    assert [Wait(0.5), *subscribe(13), cancel(12)] == talk.hear(balances(12, 2), after_s=0.5)
    assert [cancel(11)] == talk.hear(balances(13, 1))


def test_an_update_between_two_pages_does_not_make_the_baseline_whole() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    assert subscribe(12) == talk.hear(balances(11, 3))
    assert [page(12, b"a")] == talk.hear(balances(12, 1, "a", initial=True))
    assert [] == talk.hear(balances(12, 2, action="Update"))
    assert [cancel(11)] == talk.hear(balances(12, 3, initial=True))


def test_a_page_that_is_refused_ends_the_conversation() -> None:
    talk = subscribed()
    assert [Ready(), page(11, b"a")] == talk.hear(balances(11, 1, "a", initial=True))
    with pytest.raises(Lost, match="refused the subscription: 9: no such stream"):
        talk.hear(error(11, 2))


def test_a_clock_set_back_does_not_hold_back_a_resubscription() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    talk.hear(balances(11, 3))
    talk.hear(balances(12, 1))
    assert subscribe(13) == talk.hear(balances(12, 3), after_s=-3600)


def test_a_refused_resubscription_ends_the_conversation() -> None:
    talk = subscribed()
    talk.hear(balances(11, 1))
    talk.hear(balances(11, 3))
    assert [] == talk.hear(error(11, 4))
    with pytest.raises((Lost, Rejected), match="refused the subscription: 9: no such stream"):
        talk.hear(error(12, 1))


Frames = st.lists(
    st.tuples(
        st.sampled_from(["Balance", "error", "hello", "Pong"]),
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(0, 6)),
        st.one_of(st.none(), st.just(""), st.just("c")),
        st.integers(0, 2000),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(Frames)
def test_whatever_comes_numbers_grow_and_resubscriptions_keep_their_distance(
    frames: list[tuple[str, int, int | None, str | None, int]],
) -> None:
    talk = subscribed(b"0")
    used, resubscribed_ns, alive = [1], list[int](), {1}
    for kind, reqid, number, cursor, ms in frames:
        more = {"type": kind, "session_id": "s", "error": {"code": 1}}
        try:
            done = talk.hear(balances(reqid, number, cursor, **more), after_s=ms / 1000)
        except (Lost, Rejected):
            break
        for request in map(json.loads, sent(done)):
            if request["type"] == "subscribe":
                used.append(request["reqid"])
                alive.add(request["reqid"])
                resubscribed_ns.append(talk.now_ns)
                assert Remember(b"%d" % request["reqid"]) in done
            elif request["type"] == "cancel":
                alive.remove(request["reqid"])
    assert list(range(1, len(used) + 1)) == used
    assert len(alive) <= 2
    assert all(later - earlier >= 1_000_000_000 for earlier, later in pairwise(resubscribed_ns))
