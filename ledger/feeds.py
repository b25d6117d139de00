"""FEEDS.toml: which accounts are listened to, and with what to log in.

Part of the command line; knows files and the environment, and of a venue only what its `Login` asks for. A secret never
stands in the file: it says where the secret is, and no message repeats what was written or found there.

    [[feed]]
    venue = "bitopro"
    account = "main"                       the label of the account, `main` if not given
    identity = "me@example.com"
    key = "env:BITOPRO_KEY"                an environment variable
    secret = "file:keys/bitopro"           a file nobody else may read; a relative path starts where FEEDS.toml is
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_type_hints
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import NODEFAULT, Struct

from ledger.errors import BadLogin
from ledger.venue import Secret, Spoken, Venue, check_label, usual_label
from transports import login_of
from transports.connection import is_loopback, verifying

FEEDS_BYTES_MAX: Final = 1024 * 1024
SECRET_BYTES_MAX: Final = 64 * 1024
SHOWN_CHARS_MAX: Final = 40

_TEXT: Final = "utf-8-sig"
"""UTF-8; the mark that some editors put in front of it is none of the text."""
_COMMON: Final = frozenset({"venue", "account", "ca_file"})
_MAY_BE_PLAIN: Final = frozenset({"identity"})

_URL: Final = re.compile(r"[!-\[\]-~]+")
"""Printable ASCII without blank and backslash, which parsers of addresses read in more than one way."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SECURE: Final = {"ws": ("wss", "ws"), "http": ("https", "http")}


class FeedSettings(NamedTuple):
    """One feed: a venue that can be spoken to, the label of the account, its `venue.Login`, and whom TLS trusts."""

    venue: Venue
    account: str
    login: Struct
    tls: ssl.SSLContext | None
    """None: whom the system trusts."""


def read_feeds(
    path: Path, venues: Mapping[str, Venue], environ: Mapping[str, str] = os.environ
) -> list[FeedSettings]:
    """The feeds of a file, in its order. Raises BadLogin, which names the file, the feed and the field."""
    found: list[FeedSettings] = []
    numbers: dict[tuple[str, str], int] = {}
    for number, table in enumerate(_tables(path), 1):
        feed = _Table(path, number, table, environ).settings(venues)
        name = (feed.venue.NAME, feed.account)
        if name in numbers:
            raise BadLogin(
                f"{path}, feed {number} ({feed.venue.NAME}), account: the same as of feed {numbers[name]}"
            )
        numbers[name] = number
        found.append(feed)
    return found


def _tables(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            content = file.read(FEEDS_BYTES_MAX + 1)
        if len(content) > FEEDS_BYTES_MAX:
            raise BadLogin(f"{path}: more than {FEEDS_BYTES_MAX} bytes")
        said = tomllib.loads(content.decode(_TEXT))
    except OSError as error:
        raise BadLogin(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadLogin(f"{path}: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        where = re.search(r"\(at [^()]*\)\Z", str(error))  # the rest may repeat what was written
        raise BadLogin(f"{path}: not TOML{' ' + where[0] if where else ''}") from None
    for name in said:
        if name != "feed":
            raise BadLogin(f"{path}: unknown field {_shown(name)}; feeds are written as [[feed]]")
    tables = said.get("feed")
    if not tables:
        raise BadLogin(f"{path}: there is no [[feed]]")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise BadLogin(f"{path}: feeds are written as [[feed]]")
    return tables


def _shown(name: str) -> str:
    return repr(name[:SHOWN_CHARS_MAX])


class _Table:
    """One [[feed]] of the file."""

    def __init__(self, path: Path, number: int, table: dict[str, Any], environ: Mapping[str, str]) -> None:
        self._folder = path.parent
        self._table = table
        self._environ = environ
        self._place = f"{path}, feed {number}"

    def settings(self, venues: Mapping[str, Venue]) -> FeedSettings:
        venue = venues.get(self._text("venue"))
        speaking = [name for name, each in venues.items() if isinstance(each, Spoken)]
        if venue is None or not isinstance(venue, Spoken):
            raise self._bad("venue", f"is one of {', '.join(speaking)}")
        self._place += f" ({venue.NAME})"
        login = self._login(venue, venue.Login)
        return FeedSettings(venue, self._account(venue, login), login, self._tls())

    def _login(self, venue: Venue, kind: type[Struct]) -> Struct:
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for name in self._table:
            if name not in fields and name not in _COMMON:
                raise self._bad(
                    _shown(name), f"is unknown; known are {', '.join(sorted(_COMMON | fields.keys()))}"
                )
        for name, field in fields.items():
            if field.required and name not in self._table:
                raise self._bad(name, "is missing")
        hints = get_type_hints(kind)
        values = {
            name: self._value(name, hints[name], fields[name].default)
            for name in fields
            if name in self._table
        }
        try:
            return login_of(venue, values)
        except BadLogin as error:
            raise BadLogin(f"{self._place}: {error}") from None
        except (TypeError, ValueError):
            raise BadLogin(f"{self._place}: the venue does not take these fields") from None

    def _value(self, name: str, hint: Any, default: Any) -> Any:
        if Secret in (hint, *get_args(hint)):
            return Secret(self._secret(name))
        try:
            value = msgspec.convert(self._table[name], hint)
        except msgspec.ValidationError as error:
            raise self._bad(name, str(error)) from None
        if name in ("url", "rest_url"):
            kind = "http" if name == "rest_url" or _is_http(default) else "ws"
            _, why = _address(value, kind)
            if why:
                raise self._bad(name, why)
        elif isinstance(value, str) and (not value.strip() or _CONTROL.search(value)):
            raise self._bad(name, "is empty, or holds a control character")
        return value

    def _account(self, venue: Venue, login: Struct) -> str:
        if "account" not in self._table:
            address = getattr(login, "address", None)
            account = address.lower() if isinstance(address, str) else usual_label(self._place, venue)
        else:
            account = self._text("account")
        check_label(self._place, account)
        return account

    def _tls(self) -> ssl.SSLContext | None:
        if "ca_file" not in self._table:
            return None
        said = self._text("ca_file")
        try:
            place = self._folder / Path(said).expanduser()
            if not place.exists() or place.is_file() or place.is_dir():  # nobody waits for a pipe
                return verifying(place)
        except ssl.SSLError:
            raise self._bad("ca_file", "is not a PEM file of certificates") from None
        except RuntimeError:  # a user without a home
            raise self._bad("ca_file", "is not a path") from None
        except (OSError, ValueError) as error:
            raise self._bad("ca_file", f"{getattr(error, 'strerror', None) or 'cannot be opened'}") from None
        raise self._bad("ca_file", "is not a regular file")

    # Secrets: nothing of what is written or found may get into a message

    def _secret(self, name: str) -> str:
        said = self._text(name)
        kind, colon, place = said.partition(":")
        if kind == "env" and colon:
            found = self._environ.get(place, "")
            if not found:
                raise self._bad(name, "the environment variable it names is not set, or empty")
        elif kind == "file" and colon:
            found = self._secret_file(name, place)
        elif name in _MAY_BE_PLAIN:
            found = said
        else:
            raise self._bad(name, 'is never written in the file; write "env:NAME" or "file:PATH"')
        if not found.strip() or _CONTROL.search(found):
            raise self._bad(name, "the secret is empty, or holds a line break or another control character")
        return found

    def _secret_file(self, name: str, place: str) -> str:
        try:
            path = self._folder / Path(place).expanduser()
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # nobody waits for a pipe
        except OSError as error:
            said = "there is no such file" if error.errno == errno.ENOENT else error.strerror
            raise self._bad(name, f"{said}; a relative path starts at {self._folder.resolve()}") from None
        except (ValueError, RuntimeError):  # a zero byte; a user without a home
            raise self._bad(name, "not a path") from None
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise self._bad(name, "not a regular file")
            if mode & 0o077:
                raise self._bad(name, f"others may read or write the file; run: chmod 600 {path}")
            with open(handle, "rb", closefd=False) as file:
                content = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            raise self._bad(name, f"the file cannot be read: {error.strerror}") from None
        finally:
            os.close(handle)
        if len(content) > SECRET_BYTES_MAX:
            raise self._bad(name, f"the file has more than {SECRET_BYTES_MAX} bytes")
        try:
            text = content.decode(_TEXT)
        except UnicodeDecodeError:
            raise self._bad(name, "the file is not UTF-8") from None
        return text.removesuffix("\n").removesuffix("\r")

    def _text(self, name: str) -> str:
        if name not in self._table:
            raise self._bad(name, "is missing")
        said = self._table[name]
        if not isinstance(said, str):
            raise self._bad(name, "is a text in quotes")
        if not said:
            raise self._bad(name, "is empty")
        return said

    def _bad(self, field: str, why: str) -> BadLogin:
        return BadLogin(f"{self._place}, {field}: {why}")


# Addresses -----------------------------------------------------------------------------------------------------------


def _is_http(default: Any) -> bool:
    """Whether the address beside such a default is asked, not listened to: what is polled has None there."""
    return default is None or (default is not NODEFAULT and str(default).startswith("http"))


def _address(url: Any, kind: str) -> tuple[SplitResult | None, str]:
    """The parts of an address, and what is wrong with it."""
    secure, plain = _SECURE[kind]
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None, "is not an address"
    host = parts.hostname or ""
    if parts.scheme not in (secure, plain):
        return None, f"begins with {secure}:// (or {plain}:// on this machine)"
    if _URL.fullmatch(url) is None or not host or port == 0:
        return None, "is not an address"
    if "@" in parts.netloc:
        return None, "holds a user or a password"
    if "#" in url:
        return None, "holds a fragment"
    if parts.scheme == plain and not is_loopback(host):
        return None, f"{plain}:// would show the login to others; only {secure}:// leaves this machine"
    return parts, ""
