"""BitoPro is spoken to by one signed upgrade: what is signed, what is sent; nothing that comes later ends it."""

from __future__ import annotations

import base64
import json

import pytest

from ledger.errors import Rejected
from ledger.venue import Begun, Conversation, Listen, Open, Ready, Secret, Spoken
from ledger.venues import bitopro
from tests.conversing import HOSTILE, NOW_NS, Talk

LOGIN = bitopro.Login(
    identity=Secret("someone@example.org"), key=Secret("fake-key"), secret=Secret("fake-secret")
)


def converse(login: bitopro.Login = LOGIN, now_ns: int = NOW_NS) -> Conversation:
    return bitopro.converse(login, Begun("main", now_ns))


def at(url: str) -> bitopro.Login:
    return bitopro.Login(identity=LOGIN.identity, key=LOGIN.key, secret=LOGIN.secret, url=url)


@pytest.mark.parametrize(
    ("payload", "signature"),
    [
        (
            "eyJpZGVudGl0eSI6ImhjbWxpbmpAZ21haWwuY29tIiwibm9uY2UiOjE1NTQzODA5MDkxMzF9",
            "01a85a9083db47c20da7196380598f3feacd3c76a9077aaf7ffaf08ce0091abf65b61778792607b010921adfe1c2941a",
        ),
        (
            "eyJpZGVudGl0eSI6InN1cHBvcnRAZXhhbXBsZS50ZXN0Iiwibm9uY2UiOjE1NTQzODA5MDkxMzF9",
            "4956968712276b3ea246ea8e6e44d26f82e65bbfd310a793ad873183acbb14cef015d826d20608298f96efe9c2e85118",
        ),
    ],
)
def test_a_payload_is_signed_as_the_venue_publishes_it(payload: str, signature: str) -> None:
    assert signature == bitopro.signed(payload, Secret("bitopro"))


def test_the_upgrade_names_key_payload_and_signature() -> None:
    endpoint = Talk(converse()).now(Open).endpoint
    assert "wss://stream.bitopro.com:443/ws/v1/pub/auth/account-balance" == endpoint.url
    headers = dict(endpoint.headers)
    assert ["X-BITOPRO-APIKEY", "X-BITOPRO-PAYLOAD", "X-BITOPRO-SIGNATURE"] == list(headers)
    assert "fake-key" == headers["X-BITOPRO-APIKEY"]
    payload = headers["X-BITOPRO-PAYLOAD"]
    assert b'{"identity":"someone@example.org","nonce":1793695201234}' == base64.b64decode(payload)
    assert bitopro.signed(payload, Secret("fake-secret")) == headers["X-BITOPRO-SIGNATURE"]


def test_the_payload_is_in_standard_base64_with_padding() -> None:
    login = bitopro.Login(identity=Secret("ü??>>~~@example.org"), key=LOGIN.key, secret=LOGIN.secret)
    for ms in range(3):
        payload = dict(Talk(converse(login, ms * 1_000_000)).now(Open).endpoint.headers)["X-BITOPRO-PAYLOAD"]
        assert {"identity": "ü??>>~~@example.org", "nonce": ms} == json.loads(
            base64.b64decode(payload, validate=True)
        )


def test_every_conversation_has_a_nonce_of_its_own() -> None:
    first, second = (
        dict(Talk(converse(now_ns=NOW_NS + later)).now(Open).endpoint.headers) for later in (0, 1_000_000)
    )
    assert first["X-BITOPRO-PAYLOAD"] != second["X-BITOPRO-PAYLOAD"]
    assert first["X-BITOPRO-SIGNATURE"] != second["X-BITOPRO-SIGNATURE"]


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("ws://127.0.0.1:8000", "ws://127.0.0.1:8000/ws/v1/pub/auth/account-balance"),
        ("ws://127.0.0.1:8000/", "ws://127.0.0.1:8000/ws/v1/pub/auth/account-balance"),
        ("ws://127.0.0.1:8000/other/", "ws://127.0.0.1:8000/other/"),
    ],
)
def test_another_address_gets_the_documented_path_where_it_has_none(url: str, opened: str) -> None:
    assert opened == Talk(converse(at(url))).now(Open).endpoint.url


def test_it_is_ready_when_it_is_connected_and_listens_until_it_is_closed() -> None:
    talk = Talk(converse())
    talk.take(Open)
    talk.take(Ready)
    for payload in (*HOSTILE, b'{"event":"ACCOUNT_BALANCE"}', b'{"error":"Invalid Signature"}'):
        assert [] == talk.hear(payload)
    talk.now(Listen)
    talk.close()


def test_an_error_where_the_first_statement_should_be_is_a_refused_login() -> None:
    talk = Talk(converse())
    talk.take(Open)
    talk.take(Ready)
    with pytest.raises(Rejected, match=r"^the venue refused the login: Invalid Signature$"):
        talk.hear(b'{"error":"Invalid Signature"}')


def test_nothing_shows_a_secret() -> None:
    talk = Talk(converse())
    shown = f"{LOGIN!r} {talk.now(Open)!r} {talk.now(Open).endpoint.place}"
    for secret in ("someone@example.org", "fake-key", "fake-secret"):
        assert secret not in shown


def test_it_can_be_spoken_to() -> None:
    assert isinstance(bitopro, Spoken)


@pytest.mark.parametrize("payload", [*HOSTILE, b'{"event":"ACCOUNT_BALANCE"}'], ids=range(len(HOSTILE) + 1))
def test_whatever_stands_where_the_first_statement_should_be_it_is_listened_on(payload: bytes) -> None:
    talk = Talk(converse())
    talk.take(Open)
    talk.take(Ready)
    assert [] == talk.hear(payload)
    talk.now(Listen)
