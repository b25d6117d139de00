"""FEEDS.toml: what is given is found; what is wrong is named by file, feed and field; a secret is never repeated."""

from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from msgspec import Struct

from ledger import BadLogin, feeds
from ledger.feeds import SECRET_BYTES_MAX, FeedSettings, read_feeds
from ledger.venue import Secret
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica

CANARY = "canary-7f3a-never-shown"
ENVIRON = {"THE_KEY": "a key", "THE_SECRET": CANARY, "EMPTY": "", "BROKEN": f"{CANARY}\n{CANARY}"}


class StreamLogin(Struct, frozen=True, kw_only=True):
    key: Secret
    secret: Secret | None = None
    url: str = "wss://stream.example/ws/v1"
    rest_url: str = "https://api.example"


class MailLogin(Struct, frozen=True, kw_only=True):
    identity: Secret
    numbers: tuple[int, ...] = ()


class WalletLogin(Struct, frozen=True, kw_only=True):
    address: str


class PolledLogin(Struct, frozen=True, kw_only=True):
    key: Secret | None = None
    rest_url: str = "https://api.example/v1"
    url: str | None = None


def _venue(name: str, login: Any, **more: Any) -> Any:
    return SimpleNamespace(NAME=name, decode=print, Login=login, converse=print, **more)


VENUES: dict[str, Any] = {
    "stream": _venue("stream", StreamLogin),
    "mail": _venue("mail", MailLogin),
    "cascade": _venue("cascade", WalletLogin),
    "pacifica": _venue("pacifica", PolledLogin, LABEL=pacifica.LABEL),
    "mute": SimpleNamespace(NAME="mute", decode=print),
}

GOOD = '[[feed]]\nvenue = "stream"\nkey = "env:THE_KEY"\n'


def read(tmp_path: Path, text: str) -> list[FeedSettings]:
    path = tmp_path / "FEEDS.toml"
    path.write_text(text)
    return read_feeds(path, VENUES, ENVIRON)


def said_of(tmp_path: Path, text: str) -> str:
    """What is said of a file that is wrong: one line, without a secret."""
    with pytest.raises(BadLogin) as caught:
        read(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/FEEDS.toml")
    assert CANARY not in said
    assert "\n" not in said
    assert caught.value.__cause__ is None
    return said


def login(tmp_path: Path, more: str = "") -> Any:
    return read(tmp_path, GOOD + more)[0].login


def test_feeds_are_read_in_their_order(tmp_path: Path) -> None:
    first, second = read(
        tmp_path,
        GOOD
        + 'secret = "env:THE_SECRET"\n[[feed]]\nvenue="mail"\naccount="desk 2"\nidentity="me@example.com"\n'
        "numbers = [1, 2]\n",
    )
    assert ("stream", "main", None) == (first.venue.NAME, first.account, first.tls)
    assert StreamLogin(key=Secret("a key"), secret=Secret(CANARY)) == first.login
    assert ("mail", "desk 2") == (second.venue.NAME, second.account)
    assert MailLogin(identity=Secret("me@example.com"), numbers=(1, 2)) == second.login
    assert CANARY not in repr([first, second])


@pytest.mark.parametrize("text", ["", "# nothing\n", "feed = []\n"])
def test_a_file_of_no_feeds_is_refused(tmp_path: Path, text: str) -> None:
    assert "there is no [[feed]]" in said_of(tmp_path, text)


@pytest.mark.parametrize("text", ["feed = 1", "[feed]\nvenue='stream'", "feed = [1]"])
def test_feeds_are_a_list_of_tables(tmp_path: Path, text: str) -> None:
    assert "[[feed]]" in said_of(tmp_path, text)


def test_what_is_not_toml_is_named_by_its_line_and_not_repeated(tmp_path: Path) -> None:
    assert said_of(tmp_path, f"{GOOD}secret = {CANARY}\n").endswith(
        "FEEDS.toml: not TOML (at line 4, column 10)"
    )
    assert "not TOML" in said_of(tmp_path, "x = " + "9" * 5000)
    assert "not TOML" in said_of(tmp_path, "x = " + "[" * 100_000)


def test_the_mark_of_an_editor_is_none_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch(0o600)
    path.write_bytes(b"\xef\xbb\xbf" + CANARY.encode() + b"\r\n")
    (feed,) = read(tmp_path, "\ufeff" + GOOD + 'secret = "file:s"\n')
    found: Any = feed.login
    assert Secret(CANARY) == found.secret


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "FEEDS.toml"
    with pytest.raises(BadLogin, match=r"FEEDS\.toml: No such file"):
        read_feeds(path, VENUES, ENVIRON)
    path.write_bytes(b"\xff")
    with pytest.raises(BadLogin, match="not UTF-8"):
        read_feeds(path, VENUES, ENVIRON)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(BadLogin, match="bytes"):
        read_feeds(path, VENUES, ENVIRON)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feeds = 1\n", ": unknown field 'feeds'"),
        ("[[feed]]\n", ", feed 1, venue: is missing"),
        ('[[feed]]\nvenue = "other"\n', ", feed 1, venue: is one of stream, mail, cascade, pacifica"),
        ('[[feed]]\nvenue = "mute"\n', ", feed 1, venue: is one of stream"),
        ("[[feed]]\nvenue = 1\n", ", feed 1, venue: is a text"),
        ('[[feed]]\nvenue = "stream"\n', ", feed 1 (stream), key: is missing"),
        (GOOD + "ur = 1\n", ", feed 1 (stream), 'ur': is unknown; known are account, ca_file, key"),
        (GOOD + "account = 1\n", ", feed 1 (stream), account: is a text"),
        (GOOD + 'account = "a/b"\n', ", feed 1 (stream), account: is printable"),
        (GOOD + 'account = "a\\nb"\n', ", feed 1 (stream), account: is printable"),
        (GOOD + f'account = "{"a" * 201}"\n', ", feed 1 (stream), account: is printable"),
        (GOOD + "url = 1\n", ", feed 1 (stream), url: Expected `str`"),
        (GOOD + "secret = 1\n", ", feed 1 (stream), secret: is a text"),
        (GOOD + GOOD, ", feed 2 (stream), account: the same as of feed 1"),
        ('[[feed]]\nvenue = "mail"\nidentity="a"\nnumbers = [true]\n', ", feed 1 (mail), numbers: Expected"),
        ('[[feed]]\nvenue = "mail"\nidentity="a"\nnumbers = ["1"]\n', ", feed 1 (mail), numbers: Expected"),
        ('[[feed]]\nvenue = "cascade"\naddress = ""\n', ", feed 1 (cascade), address: is empty"),
        (
            '[[feed]]\nvenue = "pacifica"\n',
            ", feed 1 (pacifica), account: is missing; here it is the address",
        ),
    ],
)
def test_what_is_wrong_is_named_by_feed_and_field(tmp_path: Path, text: str, said: str) -> None:
    assert said_of(tmp_path, text).startswith(f"{tmp_path}/FEEDS.toml{said}")


def test_a_label_of_two_hundred_characters_is_taken(tmp_path: Path) -> None:
    (feed,) = read(tmp_path, GOOD + f'account = "{"a" * 200}"\n')
    assert "a" * 200 == feed.account


def test_the_account_of_a_wallet_is_its_address(tmp_path: Path) -> None:
    (feed,) = read(tmp_path, '[[feed]]\nvenue = "cascade"\naddress = "0xAbC"\n')
    assert ("0xabc", "0xAbC") == (feed.account, feed.login.address)  # type: ignore[attr-defined]
    (feed,) = read(tmp_path, '[[feed]]\nvenue = "cascade"\naddress = "0xAbC"\naccount="x"\n')
    assert "x" == feed.account


# Secrets


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (CANARY, "never written in the file"),
        (f"env{CANARY}", "never written in the file"),
        (f"ENV:{CANARY}", "never written in the file"),
        (f"env:{CANARY}", "not set, or empty"),
        ("env:", "not set, or empty"),
        ("env:EMPTY", "not set, or empty"),
        ("env:BROKEN", "line break"),
        (f"file:{CANARY}", "there is no such file; a relative path starts at"),
        ("file:", "not a regular file"),
        ("file:nul\\u0000", "not a path"),
        ("file:~nobody-has-this-name/x", "not a path"),
    ],
)
def test_a_secret_that_is_not_there_is_refused(tmp_path: Path, written: str, why: str) -> None:
    said = said_of(tmp_path, GOOD + f'secret = "{written}"\n')
    assert "feed 1 (stream), secret: " in said
    assert why in said


def test_a_secret_is_read_from_a_file_without_its_last_newline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "the secret"
    path.touch(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    for content in (CANARY, CANARY + "\n", CANARY + "\r\n"):
        path.write_text(content, newline="")
        for place in ("the secret", "./the secret", "~/the secret", str(path)):
            assert Secret(CANARY) == login(tmp_path, f'secret = "file:{place}"\n').secret
    path.write_text("é" + "x" * (SECRET_BYTES_MAX - 2))
    assert SECRET_BYTES_MAX - 1 == len(login(tmp_path, 'secret = "file:the secret"\n').secret.reveal())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"  \n", "empty"),
        (f"{CANARY}\n\n".encode(), "line break"),
        (f"{CANARY}\0".encode(), "control character"),
        (f"{CANARY}\xff".encode("latin-1"), "not UTF-8"),
        (CANARY.encode() + b"x" * SECRET_BYTES_MAX, "more than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "s"
    path.touch(0o600)
    path.write_bytes(content)
    assert why in said_of(tmp_path, GOOD + 'secret = "file:s"\n')


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644])
def test_a_file_that_others_may_open_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s"
    path.write_text(CANARY)
    path.chmod(mode)
    assert said_of(tmp_path, GOOD + 'secret = "file:s"\n').endswith(f"run: chmod 600 {path}")


def test_a_pipe_and_a_folder_are_no_secret_and_nobody_waits_for_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s", 0o600)
    (tmp_path / "d").mkdir(0o700)
    for place in ("s", "d", "/dev/null"):
        assert "not a regular file" in said_of(tmp_path, GOOD + f'secret = "file:{place}"\n')


def test_a_secret_that_the_disk_does_not_give_is_named_by_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").touch(0o600)

    def broken(*_: object, **__: object) -> object:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(feeds, "open", broken, raising=False)
    assert said_of(tmp_path, GOOD + 'secret = "file:s"\n').endswith(
        "secret: the file cannot be read: Input/output error"
    )


def test_an_identity_alone_may_be_written(tmp_path: Path) -> None:
    for written, found in (("me@example.com", "me@example.com"), ("env:THE_KEY", "a key")):
        (feed,) = read(tmp_path, f'[[feed]]\nvenue = "mail"\nidentity = "{written}"\n')
        assert MailLogin(identity=Secret(found)) == feed.login


# Addresses


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://x.example", "begins with wss://"),
        ("x.example/ws", "begins with wss://"),
        ("wss://", "not an address"),
        ("wss:///ws", "not an address"),
        ("wss://x.example:x/ws", "not an address"),
        ("wss://x.example:0/ws", "not an address"),
        ("wss://x.example:99999/ws", "not an address"),
        ("wss://[x/ws", "not an address"),
        ("wss://x.exa mple/ws", "not an address"),
        ("wss://x.example\\\\@y/ws", "not an address"),
        ("wss://x.example\\n/ws", "not an address"),
        ("wss://é.example/ws", "not an address"),
        (f"wss://me:{CANARY}@x.example/ws", "user or a password"),
        (f"wss://{CANARY}@x.example/ws", "user or a password"),
        (f"wss://x.example/ws#{CANARY}", "fragment"),
        ("ws://x.example/ws", "only wss:// leaves this machine"),
        ("ws://127.0.0.1.example/ws", "only wss:// leaves this machine"),
        ("ws://127.1/ws", "only wss:// leaves this machine"),
        ("ws://10.0.0.1/ws", "only wss:// leaves this machine"),
    ],
)
def test_an_address_that_will_not_do_is_refused(tmp_path: Path, url: str, why: str) -> None:
    said = said_of(tmp_path, GOOD + f'url = "{url}"\n')
    assert "feed 1 (stream), url: " in said
    assert why in said


def test_plain_http_stays_on_this_machine_too(tmp_path: Path) -> None:
    assert "rest_url: begins with https://" in said_of(tmp_path, GOOD + 'rest_url = "wss://x.example"\n')
    assert "only https:// leaves" in said_of(tmp_path, GOOD + 'rest_url = "http://x.example"\n')


@pytest.mark.parametrize(
    "url",
    [
        "wss://x.example",
        "ws://127.0.0.1:9001/ws",
        "ws://127.8.8.8/",
        "ws://[::1]:9001/a",
        "ws://localhost:1/ws",
    ],
)
def test_an_address_is_taken_as_it_is_written(tmp_path: Path, url: str) -> None:
    assert url == login(tmp_path, f'url = "{url}"\n').url


@pytest.mark.parametrize(
    ("given", "url", "rest_url"),
    [
        ("", "wss://stream.example/ws/v1", "https://api.example"),
        ('url = "ws://127.0.0.1:9001/ws"', "ws://127.0.0.1:9001/ws", "http://127.0.0.1:9001"),
        ('url = "wss://t.example/ws?a=b"', "wss://t.example/ws?a=b", "https://t.example"),
        ('rest_url = "http://[::1]:9/api"', "ws://[::1]:9", "http://[::1]:9/api"),
        ('rest_url = "https://t.example"', "wss://t.example", "https://t.example"),
        ('url = "wss://a.example"\nrest_url = "https://b.example"', "wss://a.example", "https://b.example"),
    ],
)
def test_of_two_addresses_the_one_not_given_is_on_the_same_host(
    tmp_path: Path, given: str, url: str, rest_url: str
) -> None:
    found = login(tmp_path, given + "\n")
    assert (url, rest_url) == (found.url, found.rest_url)


def test_a_venue_that_is_polled_has_its_address_in_url_too(tmp_path: Path) -> None:
    head = '[[feed]]\nvenue = "pacifica"\naccount = "w"\n'
    (feed,) = read(tmp_path, head + 'url = "http://127.0.0.1:9/api/v1"\n')
    assert PolledLogin(rest_url="http://127.0.0.1:9/api/v1", url="http://127.0.0.1:9/api/v1") == feed.login
    (feed,) = read(tmp_path, head + 'rest_url = "https://t.example/api/v1"\n')
    assert PolledLogin(rest_url="https://t.example/api/v1") == feed.login
    assert "begins with https://" in said_of(tmp_path, head + 'url = "wss://t.example"\n')


def test_a_private_authority_is_trusted_where_it_is_named(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    (feed,) = read(tmp_path, GOOD + 'ca_file = "ca.pem"\n')
    assert isinstance(feed.tls, ssl.SSLContext)
    assert feed.tls.verify_mode == ssl.CERT_REQUIRED
    assert "ca_file: No such file" in said_of(tmp_path, GOOD + 'ca_file = "other.pem"\n')
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "ca_file: is not a PEM file" in said_of(tmp_path, GOOD + 'ca_file = "ca.pem"\n')
    assert "ca_file: is a text" in said_of(tmp_path, GOOD + "ca_file = 1\n")


def test_an_authority_that_is_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    assert "ca_file: is not a path" in said_of(tmp_path, GOOD + 'ca_file = "~nobody-of-that-name/ca.pem"\n')
    os.mkfifo(tmp_path / "ca.pem")
    assert "ca_file: is not a regular file" in said_of(tmp_path, GOOD + 'ca_file = "ca.pem"\n')
    assert "ca_file: Is a directory" in said_of(tmp_path, GOOD + 'ca_file = "."\n')


# What a venue's own login refuses


def test_a_login_that_refuses_its_fields_is_named_without_them(tmp_path: Path) -> None:
    class Picky(Struct, frozen=True, kw_only=True):
        key: Secret

        def __post_init__(self) -> None:
            raise (
                BadLogin("key: not a key") if self.key.reveal() == "a key" else ValueError(self.key.reveal())
            )

    Picky.__annotations__["key"] = Secret
    venues = {"picky": _venue("picky", Picky)}
    path = tmp_path / "FEEDS.toml"
    for name, why in (("THE_KEY", "key: not a key"), ("THE_SECRET", "the venue does not take these fields")):
        path.write_text(f'[[feed]]\nvenue = "picky"\nkey = "env:{name}"\n')
        with pytest.raises(BadLogin) as caught:
            read_feeds(path, venues, ENVIRON)
        assert f"{path}, feed 1 (picky): {why}" == str(caught.value)


# The venues themselves


def test_the_venues_are_given_what_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "FEEDS.toml"
    path.write_text(
        """
        [[feed]]
        venue = "deltadefi"
        key = "env:THE_KEY"
        [[feed]]
        venue = "bitopro"
        identity = "me@example.com"
        key = "env:THE_KEY"
        secret = "env:THE_SECRET"
        url = "ws://127.0.0.1:9001/ws/v1/pub/auth/account-balance"
        [[feed]]
        venue = "kraken_prime"
        account = "desk"
        key = "env:THE_KEY"
        secret = "env:THE_SECRET"
        [[feed]]
        venue = "cascade"
        address = "0xDe3005A1e7b0a1a2a3a4a5a6a7a8a9b0b1b2b3b4"
        private_key = "env:THE_SECRET"
        subaccounts = [0, 2]
        rest_url = "https://engine.cascade.example"
        [[feed]]
        venue = "pacifica"
        account = "9xDemoWa11etPacifica"
        """
    )
    venues: dict[str, Any] = {
        venue.NAME: venue for venue in (deltadefi, bitopro, kraken_prime, cascade, pacifica)
    }
    found = read_feeds(path, venues, ENVIRON)
    key, secret = Secret("a key"), Secret(CANARY)
    address = "0xDe3005A1e7b0a1a2a3a4a5a6a7a8a9b0b1b2b3b4"
    assert [
        deltadefi.Login(key=key),
        bitopro.Login(
            identity=Secret("me@example.com"),
            key=key,
            secret=secret,
            url="ws://127.0.0.1:9001/ws/v1/pub/auth/account-balance",
        ),
        kraken_prime.Login(key=key, secret=secret),
        cascade.Login(
            address=address,
            private_key=secret,
            subaccounts=(0, 2),
            url="wss://engine.cascade.example",
            rest_url="https://engine.cascade.example",
        ),
        pacifica.Login(),
    ] == [feed.login for feed in found]
    assert ["main", "main", "desk", address.lower(), "9xDemoWa11etPacifica"] == [
        feed.account for feed in found
    ]
