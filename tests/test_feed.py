"""What a feed is: a login built from its fields, secrets that show nowhere, and a health anyone may read."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from msgspec import Struct

from ledger import BadLogin
from ledger.venue import Conversation, Open, Ready, Secret
from ledger.venues import pacifica
from tests.scripted import VENUE
from tests.test_session import Speaking, Speaks
from tests.wired import wired
from transports import Feed, login_of


class Signing(Speaks):
    """A venue with every kind of login field."""

    class Login(Struct, frozen=True, kw_only=True):
        key: Secret
        secret: Secret | None = None
        indices: tuple[int, ...] = ()


def test_a_login_is_made_of_its_fields_by_name() -> None:
    feed = Feed(Signing(), key="canary-key", secret="canary-secret", indices=(1, 2))
    assert ["canary-key", "canary-secret"] == feed.secrets
    assert "canary" not in repr(feed) + repr(feed.health) + str(vars(feed))


def test_a_field_that_is_missing_or_unknown_is_named_and_no_value_is() -> None:
    with pytest.raises(BadLogin, match="speaking: Missing required argument 'key'"):
        Feed(Signing())
    with pytest.raises(
        BadLogin, match="speaking has no login field 'kex'; it has: key, secret, indices"
    ) as error:
        Feed(Signing(), kex="canary")
    assert "canary" not in str(error.value)


def test_a_venue_that_cannot_be_spoken_to_needs_a_connect_of_ones_own() -> None:
    with pytest.raises(BadLogin, match="scripted cannot be spoken to"):
        Feed(VENUE)
    conversation = Feed(VENUE, connect=wired()).converse(b"")
    first = next(conversation)
    assert isinstance(first, Open)
    assert isinstance(next(conversation), Ready)


def test_with_a_connect_and_no_login_nothing_is_said_to_a_venue() -> None:
    def converse(_: object) -> Conversation:
        pytest.fail("must not be asked")

    assert isinstance(next(Feed(Speaking(converse), connect=wired()).converse(b"")), Open)


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("canary")
    assert "canary" == secret.reveal()
    assert "canary" not in f"{secret} {secret!r} {[secret]}"
    assert (secret == Secret("canary"), secret == Secret("other"), secret == "canary") == (True, False, False)
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_time_never_goes_back() -> None:
    clock = iter([5, 3, 9])
    feed = Feed(VENUE, connect=wired(), now_ns=lambda: next(clock))
    assert [5, 5, 9] == [feed.now_ns() for _ in range(3)]
    assert [9, 10] == [feed.stamp(7), feed.stamp(10)]


class Asking(Speaks):
    """A venue that is listened to at one address and asked at another."""

    class Login(Struct, frozen=True, kw_only=True):
        key: Secret = Secret("")
        url: str = "wss://stream.venue.example/private"
        rest_url: str = "https://api.venue.example/v1"


@pytest.mark.parametrize(
    ("given", "beside"),
    [
        ({"url": "ws://127.0.0.1:9/private"}, ("ws://127.0.0.1:9/private", "http://127.0.0.1:9")),
        ({"url": "wss://test.example"}, ("wss://test.example", "https://test.example")),
        ({"rest_url": "http://[::1]:9/v1"}, ("ws://[::1]:9", "http://[::1]:9/v1")),
        ({}, ("wss://stream.venue.example/private", "https://api.venue.example/v1")),
        (
            {"url": "wss://a.example", "rest_url": "https://b.example"},
            ("wss://a.example", "https://b.example"),
        ),
    ],
)
def test_no_key_meant_for_one_host_is_sent_to_another(given: dict[str, Any], beside: tuple[str, str]) -> None:
    login: Any = login_of(Asking(), given)
    assert beside == (login.url, login.rest_url)
    key = Secret("a key")
    for feed in (Feed(Asking(), key=key, **given), Feed(Asking(), login=Asking.Login(key=key, **given))):
        used: Any = feed._login
        assert (key, *beside) == (used.key, used.url, used.rest_url)


def test_a_field_by_name_is_before_that_of_a_login() -> None:
    login = Asking.Login(key=Secret("a key"), url="wss://a.example")
    used: Any = Feed(Asking(), login=login, url="wss://b.example")._login
    assert ("wss://b.example", "https://b.example") == (used.url, used.rest_url)
    used = Feed(Asking(), login=login, rest_url="https://api.venue.example/v1")._login
    assert ("wss://a.example", "https://api.venue.example/v1") == (used.url, used.rest_url)


@pytest.mark.parametrize("label", ["", "a/b", "\n", "\udfff", "a" * 201])
def test_a_label_that_no_account_can_have_is_refused(label: str) -> None:
    with pytest.raises(
        BadLogin, match=r'^scripted, account: is printable, without "/", of 1 to 200 characters$'
    ):
        Feed(VENUE, label, connect=wired())
    assert "a" * 200 == Feed(VENUE, "a" * 200, connect=wired()).account


def test_a_venue_that_is_asked_for_a_wallet_is_never_asked_for_main() -> None:
    missing = "^pacifica, account: is missing; here it is the address of the wallet$"
    fields: list[dict[str, Any]] = [{}, {"login": pacifica.Login()}, {"url": "http://127.0.0.1:9"}]
    for given in fields:
        with pytest.raises(BadLogin, match=missing):
            Feed(pacifica, **given)
    assert "pacifica:a wallet" == Feed(pacifica, "a wallet").name
    assert "pacifica:main" == Feed(pacifica, connect=wired()).name  # nothing is said to the venue
    assert "speaking:main" == Feed(Asking()).name
