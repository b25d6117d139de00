"""Redaction: what must appear nowhere, taken out of frames and texts before anything keeps or shows them.

Knows secrets as texts and the spellings they travel in (as they are, in a URL, in JSON, in base64); knows no venue.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

from msgspec import Struct

from ledger.venue import Secret

SECRET_CHARS_MIN: Final = 6
"""A shorter text is not looked for: taken out wherever it stands, it would spoil amounts and words."""
MARK: Final = "[redacted]"


class Redaction:
    """Takes secrets out of bytes and texts. A frame that holds none is given back as it is."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._found: list[bytes] = []
        for secret in secrets:
            self.add(secret)

    def __repr__(self) -> str:
        return f"Redaction({len(self._found)} spellings)"

    def add(self, secret: str) -> None:
        """Look for this too, from now on; of several words (`Bearer …`) for each that is long enough."""
        for word in {secret, *secret.split()}:
            if len(word) < SECRET_CHARS_MIN:
                continue
            raw = word.encode()
            spellings = {
                raw,
                quote(word, safe="").encode(),
                quote_plus(word).encode(),
                json.dumps(word)[1:-1].encode(),
                base64.b64encode(raw),
                base64.urlsafe_b64encode(raw),
            }
            self._found += spellings.difference(self._found)
        self._found.sort(key=len, reverse=True)

    def __call__(self, payload: bytes) -> bytes:
        for secret in self._found:
            if secret in payload:
                payload = payload.replace(secret, MARK.encode())
        return payload

    def text(self, text: str) -> str:
        """The same of a text."""
        return self(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def secrets_of(login: Struct | None) -> list[str]:
    """The secrets a login is made of."""
    if login is None:
        return []
    values = (getattr(login, name) for name in login.__struct_fields__)
    return [value.reveal() for value in values if isinstance(value, Secret)]
