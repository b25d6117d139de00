"""Redaction: what must appear nowhere, taken out of frames and texts before anything keeps or shows them.

Knows secrets as texts and the spellings they travel in (as they are, in a URL, in JSON, in HTML, in base64);
knows no venue.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import deque
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

from msgspec import Struct

from ledger.venue import Secret

SECRET_CHARS_MIN: Final = 6
"""A shorter text is not looked for: taken out wherever it stands, it would spoil amounts and words."""
HEADERS_MAX: Final = 64
"""How many requests back their signatures are looked for."""
MARK: Final = "[redacted]"

_SCHEMES: Final = frozenset({"Basic", "Bearer", "Digest", "Negotiate"})
_PLAIN: Final = re.compile(r"[0-9.]+|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|[a-z]+/[a-z*+.-]+")
_PERCENT: Final = re.compile(r"%[0-9A-F]{2}")
_UNICODE: Final = re.compile(r"\\u[0-9a-f]{4}")
_LEFT_IN_URLS: Final = ("", "/", "!'()*", "!#$&'()*+,/:;=?@")
"""What is left as it is: by who is strict, in a path, by encodeURIComponent, by encodeURI."""
_ESCAPED_IN_JSON: Final = ("", "&<>", "&'<=>", "\"&'+<>`")
"""What is escaped where it need not be: by most nothing, by Go, by Gson, by .NET."""


class Redaction:
    """Takes secrets out of bytes and texts. A frame that holds none is given back as it is."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lasting: dict[bytes, None] = {}
        self._passing: deque[set[bytes]] = deque(maxlen=HEADERS_MAX)
        self._found: list[bytes] = []
        for secret in secrets:
            self.add(secret)

    def __repr__(self) -> str:
        return f"Redaction({len(self._found)} spellings)"

    def add(self, secret: str) -> None:
        """Look for this too, from now on."""
        if len(secret) >= SECRET_CHARS_MIN:
            self._lasting |= dict.fromkeys(_spellings(secret))
            self._sort()

    def add_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Look for what is secret in the headers of the latest HEADERS_MAX requests. A scheme (`Bearer`), a
        number and a time are no secrets."""
        for _, value in headers:
            words = {word for word in (value, *value.split()) if len(word) >= SECRET_CHARS_MIN}
            secret = {word for word in words if word not in _SCHEMES and _PLAIN.fullmatch(word) is None}
            spellings = {spelled for word in secret for spelled in _spellings(word)}
            if spellings and spellings not in self._passing:
                self._passing.append(spellings)
        self._sort()

    def _sort(self) -> None:
        self._found = sorted(
            {*self._lasting, *(each for one in self._passing for each in one)}, key=len, reverse=True
        )

    def __call__(self, payload: bytes) -> bytes:
        for secret in self._found:
            if secret in payload:
                if secret.isdigit():  # digits within other digits are an amount, or a time
                    payload = re.sub(rb"(?<![0-9.])" + secret + rb"(?![0-9.])", MARK.encode(), payload)
                else:
                    payload = payload.replace(secret, MARK.encode())
        return payload

    def text(self, text: str) -> str:
        """The same of a text."""
        return self(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _spellings(secret: str) -> set[bytes]:
    """A secret as it is, in a URL, in JSON, in HTML and in base64."""
    raw = secret.encode("utf-8", "surrogateescape")
    quoted = {quote(secret, safe=safe) for safe in _LEFT_IN_URLS} | {quote_plus(secret)}
    quoted |= {_PERCENT.sub(lambda code: code[0].lower(), text) for text in quoted}
    told = {_in_json(secret, also) for also in _ESCAPED_IN_JSON}
    told |= {_UNICODE.sub(lambda code: code[0][:2] + code[0][2:].upper(), text) for text in told}
    told.add(json.dumps(secret, ensure_ascii=False)[1:-1])
    told |= {text.replace("/", "\\/") for text in told}
    shown = {
        html.escape(secret, quote=False),
        html.escape(secret),
        html.escape(secret).replace("x27;", "39;"),
    }
    return {
        raw,
        *(text.encode("utf-8", "surrogateescape") for text in quoted | told | shown),
        base64.b64encode(raw),
        base64.urlsafe_b64encode(raw),
    }


def _in_json(text: str, also: str) -> str:
    """A text in JSON, between the quotes, by a writer that escapes these characters, too."""
    return "".join(f"\\u{ord(char):04x}" if char in also else json.dumps(char)[1:-1] for char in text)


def secrets_of(login: Struct | None) -> list[str]:
    """The secrets a login is made of."""
    if login is None:
        return []
    values = (getattr(login, name) for name in login.__struct_fields__)
    return [value.reveal() for value in values if isinstance(value, Secret)]
