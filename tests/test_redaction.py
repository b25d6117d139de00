"""What must appear nowhere is taken out, in each spelling it travels in; everything else stays byte for byte."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from ledger.venue import Secret
from transports.redaction import MARK, SECRET_CHARS_MIN, Redaction, secrets_of

CANARY = 'canary+/= "secret"'


@pytest.mark.parametrize(
    "spelling",
    [
        CANARY,
        quote(CANARY, safe=""),
        json.dumps(CANARY)[1:-1],
        base64.b64encode(CANARY.encode()).decode(),
        base64.urlsafe_b64encode(CANARY.encode()).decode(),
    ],
)
def test_a_secret_is_taken_out_in_every_spelling_it_travels_in(spelling: str) -> None:
    redaction = Redaction([CANARY])
    assert f'{{"echo":"{MARK}","n":1}}'.encode() == redaction(f'{{"echo":"{spelling}","n":1}}'.encode())
    assert f"a {MARK} b" == redaction.text(f"a {spelling} b")


@pytest.mark.parametrize(
    "spelling",
    [
        r"canary+/\u003d\u0026\u003cse\u0027cr\u00e9t\u003e\"",
        r"canary+/=\u0026\u003cse'cr\u00e9t\u003e\"",
        r"canary\u002B/=\u0026\u003Cse\u0027cr\u00E9t\u003E\u0022",
        r"canary+\/=&<se'crét>\"",
        "canary+/=&amp;&lt;se'crét&gt;\"",
        "canary+/=&amp;&lt;se&#x27;crét&gt;&quot;",
        "canary+/=&amp;&lt;se&#39;crét&gt;&quot;",
        "canary%2B/%3D%26%3Cse%27cr%C3%A9t%3E%22",
        "canary%2B%2F%3D%26%3Cse'cr%C3%A9t%3E%22",
        "canary+/=&%3Cse'cr%C3%A9t%3E%22",
        "canary+/=&%3cse'cr%c3%a9t%3e%22",
    ],
    ids=["Gson", "Go", ".NET", "UTF-8", "HTML text", "HTML", "HTML 4", "path", "component", "URI", "lower"],
)
def test_a_secret_is_taken_out_where_more_is_escaped_than_need_be_or_less(spelling: str) -> None:
    redaction = Redaction(["canary+/=&<se'crét>\""])
    assert f"a {MARK} b" == redaction.text(f"a {spelling} b")


def test_a_bearer_token_is_hidden_without_its_scheme_too() -> None:
    redaction = Redaction()
    redaction.add_headers([("Authorization", "Bearer token-of-nobody")])
    assert MARK.encode() == redaction(b"token-of-nobody")
    assert b'{"token_type":"Bearer"}' == redaction(b'{"token_type":"Bearer"}')


def test_a_text_too_short_to_be_a_secret_spoils_nothing() -> None:
    redaction = Redaction(["1", "ADA", "x" * (SECRET_CHARS_MIN - 1)])
    assert b'{"ADA":"1.001"}' == redaction(b'{"ADA":"1.001"}')


def test_a_header_that_is_a_number_or_a_time_is_no_secret() -> None:
    redaction = Redaction()
    redaction.add_headers([("ApiTimestamp", "2026-11-20T09:00:00.000000Z"), ("X-Nonce", "1763712000250")])
    frame = b'{"ts":"2026-11-20T09:00:00.000000Z","at":1763712000250}'
    assert frame == redaction(frame)


def test_a_secret_of_digits_is_not_taken_out_of_an_amount() -> None:
    redaction = Redaction(["123456"])
    assert b'{"amount":"1234567.5","fee":0.123456,"pin":"[redacted]"}' == redaction(
        b'{"amount":"1234567.5","fee":0.123456,"pin":"123456"}'
    )


def test_of_signed_requests_only_the_latest_are_looked_for() -> None:
    redaction = Redaction(["lasting-secret"])
    for number in range(1000):
        redaction.add_headers([("Signature", f"signature-{number:04}")])
    assert b"signature-0000 [redacted] [redacted]" == redaction(
        b"signature-0000 signature-0999 lasting-secret"
    )
    assert repr(redaction) < "Redaction(400"


@pytest.mark.parametrize("spelled", ["a\\/b+c/secret".replace("/secret", "\\/secret"), "a%2fb%2bc%2fsecret"])
def test_slashes_are_found_however_they_are_escaped(spelled: str) -> None:
    assert MARK == Redaction(["a/b+c/secret"]).text(spelled)


@given(st.binary())
def test_a_frame_without_a_secret_is_left_byte_for_byte(payload: bytes) -> None:
    redaction = Redaction(["no-such-secret-anywhere"])
    assert payload == redaction(payload)


def test_text_that_is_no_utf8_survives() -> None:
    assert "\udcff" == Redaction([CANARY]).text("\udcff")


def test_a_redaction_shows_nothing_of_what_it_looks_for() -> None:
    assert CANARY not in repr(Redaction([CANARY]))


class Login(Struct, frozen=True):
    key: Secret
    url: str
    other: Secret | None = None


def test_the_secrets_of_a_login_are_its_secret_fields() -> None:
    assert ["s1"] == secrets_of(Login(Secret("s1"), "u"))
    assert ["s1", "s2"] == secrets_of(Login(Secret("s1"), "u", Secret("s2")))
    assert [] == secrets_of(None)
