"""Cascade: a signed login, a token that is shown nowhere, one subscription, and every balance asked for once."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import BadLogin, Lost, Malformed, Rejected
from ledger.events import Asked, BalanceDelta, FrameQuarantined, Statement
from ledger.venue import (
    Ask,
    Begun,
    Frame,
    Hide,
    Listen,
    Open,
    Ready,
    Request,
    Secret,
    Send,
    Spoken,
    Wait,
    host_of,
)
from ledger.venues import cascade
from tests.conversing import HOSTILE, NOW_NS, Talk, sent

KEY = "0x" + "fe" * 32
WALLET = "0xe11d6A43AaAEe32096486114353f251A4eD8da08"
NOW_S = NOW_NS // 1_000_000_000
CHALLENGE = b'{"message":{"nonce": 7},"signing_payload":"Sign in: 7","server_signature":"0xabc","more":[]}'
BALANCE = '{"balance":"10.5","updatedAt":1761984000123}'


def jwt(exp: object = None) -> str:
    parts = [{"alg": "HS512", "typ": "JWT"}, {} if exp is None else {"exp": exp}]
    told = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*told, "c2lnbmF0dXJl"])


def login_of(*subaccounts: int, private_key: str = KEY, url: str = cascade.URL) -> cascade.Login:
    rest = f"http://{host_of(url)}/rest" if url != cascade.URL else cascade.REST_URL
    return cascade.Login(
        address=WALLET, private_key=Secret(private_key), subaccounts=subaccounts, url=url, rest_url=rest
    )


def begin(*subaccounts: int) -> Talk:
    return Talk(cascade.converse(login_of(*subaccounts), Begun("main", NOW_NS)))


def given_token(*subaccounts: int, token: str | None = None) -> Talk:
    talk = begin(*subaccounts)
    talk.reply(CHALLENGE)
    talk.take(Hide)
    talk.reply(json.dumps({"token": jwt() if token is None else token, "claims": {}}))
    return talk


def authenticating(*subaccounts: int, token: str | None = None) -> Talk:
    """Stopped where it waits to be told that its token is good."""
    talk = given_token(*subaccounts, token=token)
    talk.take(Hide)
    talk.take(Open)
    talk.take(Send)
    return talk


def subscribing(*subaccounts: int, token: str | None = None) -> Talk:
    talk = authenticating(*subaccounts, token=token)
    talk.hear(granted(1))
    return talk


def listening(*subaccounts: int, token: str | None = None) -> Talk:
    """Subscribed, and every balance asked for was told."""
    talk = subscribing(*subaccounts, token=token)
    talk.hear(granted(2))
    while isinstance(talk.action, Ask):
        talk.reply(BALANCE)
    return talk


def granted(number: int | str) -> str:
    return json.dumps({"jsonrpc": "2.0", "result": {"message": "Subscribed to trades"}, "id": number})


def refused(number: object, message: str, code: object = -32602) -> str:
    return json.dumps({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": number})


def push(index: object, account: str = WALLET, field: str = "subaccountIndex") -> str:
    data = {"account": account.lower(), field: index, "balance": "1", "updatedAt": 1_761_984_000_123}
    return json.dumps({"type": "Balance Update", "data": data})


def question(index: int, token: str | None = None) -> Request:
    url = f"https://engine.cascade.xyz/account/balance?account={WALLET}&subaccountIndex={index}"
    return Request(url, headers=(("Authorization", f"Bearer {jwt() if token is None else token}"),))


def signer_of(text: str, signature: str) -> str:
    """Imported here, after `converse` has: at the top it would lift the recursion limit of every test."""
    from eth_account import Account
    from eth_account.messages import encode_defunct

    return str(Account.recover_message(encode_defunct(text=text), signature=signature))


# The login -----------------------------------------------------------------------------------------------------------


def test_the_login_signs_what_the_venue_wants_signed_and_keeps_neither_answer() -> None:
    talk = begin()
    assert Request(f"https://engine.cascade.xyz/auth?account={WALLET}", kept=False) == talk.asked()
    talk.reply(CHALLENGE)
    signature = talk.take(Hide).text
    asked = talk.asked()
    assert ("POST", "https://engine.cascade.xyz/auth", False) == (asked.method, asked.url, asked.kept)
    body = b'{"message":{"nonce": 7},"signature":"%s","server_signature":"0xabc"}' % signature.encode()
    assert body == asked.body
    assert WALLET == signer_of("Sign in: 7", signature)
    talk.reply(json.dumps({"token": jwt()}))
    assert jwt() == talk.take(Hide).text
    assert "wss://engine.cascade.xyz/ws" == talk.take(Open).endpoint.url
    token = jwt().encode()
    bearer = b'{"jsonrpc":"2.0","method":"auth","params":{"bearer":"%s"},"id":1}' % token
    assert bearer == talk.take(Send).payload


@pytest.mark.parametrize("subaccounts", [(), (0,), (3, 1)])
def test_it_subscribes_when_the_token_is_accepted_and_is_ready_when_that_is_granted(
    subaccounts: tuple[int, ...],
) -> None:
    talk = authenticating(*subaccounts)
    assert [] == talk.hear(granted(2))
    indices = json.dumps(list(subaccounts), separators=(",", ":"))
    params = f'{{"source":"balance","account":"{WALLET}","subaccountIndices":{indices}}}'
    request = f'{{"jsonrpc":"2.0","method":"subscribe","params":{params},"id":2}}'
    assert [request.encode()] == sent(talk.hear(granted(1)))
    assert [] == talk.hear(push(0))
    assert [Ready()] == talk.hear(granted("2"))


def test_another_address_gets_the_documented_path_where_it_has_none() -> None:
    for url, opened in (("ws://h", "ws://h/ws"), ("ws://h/", "ws://h/ws"), ("ws://h/x", "ws://h/x")):
        talk = Talk(cascade.converse(login_of(url=url), Begun("main", NOW_NS)))
        assert f"http://h/rest/auth?account={WALLET}" == talk.asked().url
        talk.reply(CHALLENGE)
        talk.take(Hide)
        assert "http://h/rest/auth" == talk.asked().url
        talk.reply(json.dumps({"token": "t"}))
        talk.take(Hide)
        assert opened == talk.now(Open).endpoint.url


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Rejected), (401, Rejected), (404, Rejected), (408, Lost), (429, Lost), (500, Lost), (302, Lost)],
)
def test_a_login_that_is_refused_is_not_one_that_failed(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^the venue refused the login: HTTP {status} to GET /auth$"):
        begin().reply(b'"no"', status)
    talk = begin()
    talk.reply(CHALLENGE)
    talk.take(Hide)
    with pytest.raises(error, match=rf"HTTP {status} to POST /auth$"):
        talk.reply(b'"no"', status)


def test_no_answer_to_the_login_is_a_loss() -> None:
    with pytest.raises(Lost, match=r"^no answer to GET /auth"):
        begin().reply(b"refused", 0)


def test_the_venue_is_left_alone_as_long_as_it_asks_for() -> None:
    with pytest.raises(Lost) as caught:
        begin().reply(b"", 429, headers={"retry-after": "12"})
    assert 12 == caught.value.retry_after_s


@pytest.mark.parametrize("body", [*HOSTILE, b'{"signing_payload":7,"message":1,"server_signature":2}'])
def test_a_login_that_cannot_be_read_is_a_loss(body: bytes) -> None:
    with pytest.raises(Lost, match="what is to be signed cannot be read"):
        begin().reply(body)
    talk = begin()
    talk.reply(CHALLENGE)
    talk.take(Hide)
    with pytest.raises(Lost, match="the token of the login cannot be read"):
        talk.reply(body)


@pytest.mark.parametrize("token", ["", "a b", 'a"b', "a\nb", "ü", "x" * 10_000])
def test_a_token_that_no_header_can_hold_is_a_loss(token: str) -> None:
    with pytest.raises(Lost, match="the token of the login cannot be read"):
        given_token(token=token)


@pytest.mark.parametrize("key", ["", "nonsense", "0x" + "00" * 32, "0x" + "fe" * 31, KEY + "\n\ud800"])
def test_a_private_key_that_is_none_is_the_callers_fault_and_is_not_shown(key: str) -> None:
    with pytest.raises(BadLogin, match=r"^private_key is not one$") as caught:
        Talk(cascade.converse(login_of(private_key=key), Begun("main", NOW_NS)))
    assert (None, None) == (caught.value.__context__, caught.value.__cause__)


@pytest.fixture
def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eth_account", None)


@pytest.mark.usefixtures("unsigned")
def test_without_the_library_that_signs_it_says_what_to_install() -> None:
    with pytest.raises(BadLogin) as caught:
        begin()
    assert 'cascade needs: pip install "accountledger[cascade]"' == str(caught.value)


def test_the_library_that_signs_does_not_take_away_the_guard_against_deep_nesting() -> None:
    """In a process of its own: a library is imported once."""
    code = (
        "import sys, tests.test_cascade_conversation as t\n"
        "limit = sys.getrecursionlimit()\n"
        "t.listening()\n"
        "assert 'eth_account' in sys.modules\n"
        "assert limit == sys.getrecursionlimit(), sys.getrecursionlimit()\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)


def test_nothing_shows_a_secret() -> None:
    talk = begin()
    shown = [repr(login_of()), repr(talk.action)]
    talk.reply(CHALLENGE)
    signature = talk.now(Hide).text
    shown.append(repr(talk.take(Hide)))
    shown.append(repr(talk.action))
    talk.reply(json.dumps({"token": jwt()}))
    shown += map(repr, (talk.take(Hide), talk.take(Open), talk.take(Send)))
    talk.hear(granted(1))
    talk.hear(granted(2))
    shown.append(f"{talk.action!r} {talk.asked().url}")
    talk.reply(b"", 401)
    talk.take(Wait)
    talk.reply(b"", 401)
    talk.take(Wait)
    with pytest.raises(Lost) as caught:
        talk.reply(b"", 401)
    shown.append(repr(caught.value))
    for secret in (KEY, KEY[2:], signature, jwt()):
        assert [] == [text for text in shown if secret in text]


def test_it_can_be_spoken_to() -> None:
    assert isinstance(cascade, Spoken)


# The subscription ----------------------------------------------------------------------------------------------------


def test_a_token_that_is_refused_ends_the_conversation() -> None:
    with pytest.raises(Rejected, match=r"^the venue refused the token: -32000: Invalid bearer$"):
        authenticating().hear(refused(1, "Invalid bearer", -32000))


def test_a_subscription_that_is_refused_ends_the_conversation_and_says_why() -> None:
    why = "^the venue refused the subscription: -32602: Invalid subscription params$"
    with pytest.raises(Rejected, match=why):
        subscribing().hear(refused(2, "Invalid subscription params"))


def test_to_be_subscribed_already_is_to_be_subscribed() -> None:
    assert [Ready()] == subscribing().hear(refused(2, "Client is Already Subscribed to balance"))


@pytest.mark.parametrize("error", ["text", 7, {"code": "x"}, {"code": 10**300, "message": "m"}])
def test_a_refusal_without_a_readable_reason_is_one(error: object) -> None:
    with pytest.raises(Rejected, match="no reason was given"):
        subscribing().hear(json.dumps({"jsonrpc": "2.0", "id": 2, "error": error}))


def test_the_reason_of_a_refusal_is_short_and_can_be_printed() -> None:
    with pytest.raises(Rejected) as caught:
        subscribing().hear(refused(2, "\x1b[31m\n" + "x" * 5000))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", [None, 99, "x"])
def test_a_login_the_venue_ends_later_ends_the_conversation(number: object) -> None:
    for talk in (authenticating(), subscribing(), listening()):
        with pytest.raises(Lost, match="the venue ended the login: -32001: JWT Expired"):
            talk.hear(refused(number, "JWT Expired", -32001))


def test_other_errors_are_no_matter() -> None:
    talk = listening()
    for payload in (refused(None, "busy"), refused(2, "not authorized"), refused(7, "x")):
        assert [] == talk.hear(payload)


def test_the_conversation_ends_a_minute_before_the_token() -> None:
    talk = listening(token=jwt(NOW_S + 120))
    assert [] == talk.hear(push(0), after_s=59)
    with pytest.raises(Lost, match=r"^the token expires$"):
        talk.hear(push(0), after_s=2)


@pytest.mark.parametrize("begun", [authenticating, subscribing, listening])
def test_a_token_ends_also_where_nothing_is_said(begun: Callable[..., Talk]) -> None:
    talk = begun(token=jwt(NOW_S + 120))
    talk.hear(push(0), after_s=10)
    with pytest.raises(Lost, match=r"^the token expires$"):
        talk.quiet()
    assert NOW_S + 60 == talk.now_ns // 1_000_000_000


def test_what_it_asks_meanwhile_takes_of_the_tokens_time() -> None:
    talk = subscribing(token=jwt(NOW_S + 120))
    talk.hear(granted(2))
    talk.reply(BALANCE, after_s=50)
    assert 10.0 == round(talk.now(Listen).seconds or 0)


@pytest.mark.parametrize(
    "token",
    [
        "t",
        "a.b",
        "a.b.c",
        "a.====.c",
        "a.A.c",
        "..",
        "a.bnVsbA.c",
        jwt("soon"),
        jwt(10**400),
        jwt(-5),
        jwt([]),
    ],
)
def test_a_token_that_does_not_tell_its_end_has_none(token: str) -> None:
    talk = listening(token=token)
    assert talk.now(Listen).seconds is None
    assert [] == talk.hear(push(0), after_s=10**6)


@pytest.mark.parametrize("payload", HOSTILE)
def test_it_survives_frames_of_any_kind(payload: bytes) -> None:
    for talk in (authenticating(), subscribing(), listening()):
        assert [] == talk.hear(payload)
        talk.now(Listen)


Values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner)),
    max_leaves=6,
)
Messages = st.dictionaries(
    st.sampled_from(["jsonrpc", "id", "error", "result", "type", "data"]), st.one_of(Values, st.just("2.0"))
)


@settings(max_examples=100, deadline=None)
@given(st.lists(Messages, max_size=5))
def test_it_survives_replies_of_any_shape(messages: list[dict[str, object]]) -> None:
    for talk in (authenticating(), listening()):
        try:
            for message in messages:
                talk.hear(json.dumps(message))
        except (Lost, Rejected):
            continue


# The balances --------------------------------------------------------------------------------------------------------


def test_every_subaccount_is_asked_for_when_the_subscription_stands() -> None:
    talk = subscribing(3, 1, 3)
    talk.hear(granted(2))
    for index in (3, 1):
        assert question(index) == talk.asked()
        talk.reply(BALANCE)
    assert [] == talk.hear(push(7))
    talk.now(Listen)


def test_where_all_are_wanted_those_named_are_asked_for_once() -> None:
    talk = authenticating()
    assert [] == talk.hear(push(4))
    talk.hear(granted(1))
    talk.hear(granted(2))
    for index in (0, 4):
        assert question(index) == talk.asked()
        talk.reply(BALANCE)
    assert [] == talk.hear(push(0))
    assert [] == talk.hear(push("2", field="subaccount_index"))
    assert question(2) == talk.asked()
    talk.reply(BALANCE)
    for again in (push(2), push(9, account="0x" + "00" * 20), push(-1), push("x"), push(2**31), push(None)):
        assert [] == talk.hear(again)
    talk.now(Listen)


def test_no_more_than_so_many_subaccounts_are_asked_for() -> None:
    talk, asked = listening(), 0
    for index in range(1, cascade.SUBACCOUNTS_MAX + 5):
        talk.hear(push(index))
        if isinstance(talk.action, Ask):
            talk.reply(BALANCE)
            asked += 1
    assert cascade.SUBACCOUNTS_MAX - 1 == asked


def test_an_answer_that_does_not_come_is_asked_for_again_and_again() -> None:
    talk = subscribing(0)
    talk.hear(granted(2))
    for seconds, status in zip((1, 2, 4, 8, 16, 30, 30), (0, 500, 404, 429, 401, 403, 503), strict=True):
        assert question(0) == talk.asked()
        talk.reply(b'"no"', status)
        assert seconds == talk.take(Wait).seconds
    talk.reply(BALANCE)
    talk.now(Listen)


@pytest.mark.parametrize("status", [401, 403])
def test_balances_that_are_refused_three_times_in_a_row_end_the_conversation(status: int) -> None:
    talk = subscribing(0)
    talk.hear(granted(2))
    for _ in range(2):
        talk.reply(b"", status)
        talk.take(Wait)
    with pytest.raises(Lost, match=f"^baseline refused: HTTP {status}$"):
        talk.reply(b"", status)


def test_what_the_venue_says_is_told_while_it_is_asked_again() -> None:
    talk = subscribing(7)
    talk.hear(granted(2))
    talk.reply(b'"Delegation not allowed for request"', 400)
    expected = (
        "no balance asked for yet of subaccount 7: HTTP 400, venue error: Delegation not allowed for request"
    )
    assert expected == talk.take(Wait).reason
    talk.reply(b"<html>", 503)
    assert "no balance asked for yet of subaccount 7: HTTP 503, 6 bytes" == talk.take(Wait).reason


def test_one_subaccount_without_an_answer_does_not_keep_the_others_waiting() -> None:
    talk = subscribing(5, 6)
    talk.hear(granted(2))
    talk.reply(b"", 500)
    assert question(6) == talk.asked()
    talk.reply(BALANCE)
    assert 1 == talk.take(Wait).seconds
    assert question(5) == talk.asked()


def test_who_is_asked_for_balances_too_often_is_left_alone_by_all_of_them() -> None:
    talk = subscribing(5, 6)
    talk.hear(granted(2))
    talk.reply(b"", 429, headers={"retry-after": "90"})
    assert 90 == talk.take(Wait).seconds
    assert question(5) == talk.asked()
    talk.reply(BALANCE)
    assert question(6) == talk.asked()
    talk.reply(b"", 429)
    assert 2 == talk.take(Wait).seconds


# What an answer says -------------------------------------------------------------------------------------------------

ASKED = Asked(f"GET /account/balance?account={WALLET}&subaccountIndex=3", NOW_NS)


def answered(body: str, asked: Asked = ASKED) -> list[Statement]:
    frame = Frame("cascade:main", "s1", 3, NOW_NS + 5, body.encode(), "", asked)
    return list(cascade.decode(frame))


def only(statements: list[Statement]) -> tuple[str, BalanceDelta]:
    ((account, event),) = statements
    assert isinstance(event, BalanceDelta)
    return account, event


def test_what_an_answer_does_not_name_is_what_was_asked_for() -> None:
    account, event = only(answered('{"balance":"10.5","more":{"deep":[]}}'))
    assert (f"cascade:{WALLET.lower()}/3", "rest") == (account, event.source.channel)
    assert f"answer:{WALLET.lower()}/3:{NOW_NS}:10.5" == event.key
    assert (NOW_NS, ASKED) == (event.source.time_ns, event.source.asked)
    assert ["10.5"] == [balance.total for balance in event.balances]


def test_an_answer_that_says_what_was_pushed_is_news_of_the_same_time() -> None:
    told = json.loads(push(3))["data"]
    account, event = only(answered(json.dumps(told)))
    ((pushed_account, pushed),) = cascade.decode(Frame("cascade:main", "s1", 2, 1, push(3).encode()))
    assert isinstance(pushed, BalanceDelta)
    assert pushed_account == account
    assert pushed.key != event.key  # it is so still: that is what ends a blind interval
    assert pushed.source.time_ns == event.source.time_ns


@pytest.mark.parametrize("named", [{"subaccountIndex": 8}, {"subaccount_index": 8}, {"subaccountIndex": "8"}])
def test_what_an_answer_names_is_what_it_is_about(named: dict[str, object]) -> None:
    other = "0x" + "AB" * 20
    account, _ = only(answered(json.dumps({"balance": "1", "account": other, **named})))
    assert f"cascade:{other.lower()}/8" == account


def test_a_balance_may_be_a_number_in_an_answer() -> None:
    assert ["10.50"] == [balance.total for balance in only(answered('{"balance":10.50}'))[1].balances]


def test_an_answer_may_be_of_several_subaccounts() -> None:
    told = [
        {"balance": "1", "subaccountIndex": 0},
        {"balance": "2", "subaccountIndex": 1, "updatedAt": 1761984000123},
    ]
    statements = answered(json.dumps(told))
    assert [f"cascade:{WALLET.lower()}/{index}" for index in (0, 1)] == [account for account, _ in statements]
    assert [] == answered("[]")


def test_an_answer_that_is_a_text_is_a_refusal() -> None:
    ((account, event),) = answered('"Unauthorized to query account"')
    assert isinstance(event, FrameQuarantined)
    assert ("cascade:main", "venue error: Unauthorized to query account") == (account, event.reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{}", "balance"),
        ('{"balance":null}', "not an amount"),
        ('{"balance":"NaN"}', "not an amount"),
        ('{"balance":"1","balance":"2"}', "duplicated key"),
        ('{"balance":"1","subaccountIndex":-1}', "out of range"),
        ('{"balance":"1","subaccountIndex":1,"subaccount_index":1}', "both"),
        ('{"balance":"1","updatedAt":1}', "out of range"),
        ('{"balance":"1","account":"a/b"}', "account"),
        ('[{"balance":"1"},{"balance":"2"}]', "one subaccount twice"),
        (push(0), "balance"),
        ("[[]]", "Expected"),
    ],
)
def test_an_answer_that_cannot_be_read_is_malformed(body: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        answered(body)


@pytest.mark.parametrize(
    "request_line",
    ["GET /account/balance", "GET /x?account=&subaccountIndex=0", "GET /x?account=a%2Fb&subaccountIndex=0"],
)
def test_an_answer_of_nobody_is_malformed(request_line: str) -> None:
    with pytest.raises(Malformed, match="no account in the answer, nor in the question"):
        answered('{"balance":"1"}', Asked(request_line, NOW_NS))


def test_a_push_is_never_read_as_an_answer_nor_the_other_way_round() -> None:
    with pytest.raises(Malformed):
        cascade.decode(Frame("cascade:main", "s1", 3, NOW_NS, BALANCE.encode()))


@pytest.mark.parametrize("status", [199, 300])
def test_what_comes_with_a_status_beside_those_of_success_is_no_answer(status: int) -> None:
    with pytest.raises(Lost, match=f"HTTP {status} to GET /auth$"):
        begin().reply(CHALLENGE, status)
    talk = subscribing()
    talk.hear(granted(2))
    talk.reply(BALANCE, status)
    talk.take(Wait)
    talk.asked()


@pytest.mark.parametrize("status", [200, 299])
def test_what_comes_with_any_status_of_success_is_an_answer(status: int) -> None:
    talk = begin()
    talk.reply(CHALLENGE, status)
    talk.take(Hide)
    talk = subscribing()
    talk.hear(granted(2))
    talk.reply(BALANCE, status)
    talk.now(Listen)
