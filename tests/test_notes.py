"""Signed checkpoints: the public format, and no other way to write one."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from ledger.errors import BadKey, BadNote
from ledger.notes import (
    Checkpoint,
    Head,
    PrivateKey,
    PublicKey,
    new_key,
    opened,
    parsed,
    private_key,
    public_key,
)

# The published example of golang.org/x/mod/sumdb/note.
PETER: Final = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SAID: Final = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()

KEY: Final = private_key(
    PrivateKey("ledger.example", bytes(range(32))).text()  # always the same signature
)
MADE: Final = Checkpoint(
    "ledger.example",
    3,
    bytes(range(32)),
    {"bitopro:main": Head(1, bytes(32)), "cascade:0xc2/0": Head(2, b"\xff" * 32)},
)
NOTE: Final = KEY.sign(MADE).encode()


def test_the_published_example_of_a_signed_note_verifies_and_is_no_checkpoint() -> None:
    key = public_key(PETER)
    assert (PETER, "c74f20a3") == (key.text(), key.hash.hex())
    with pytest.raises(BadNote, match="not a checkpoint"):
        opened(SAID, key)
    with pytest.raises(BadNote, match="the note was changed"):
        opened(SAID.replace(b"think", b"thimk"), key)


def test_a_checkpoint_is_written_as_the_format_says() -> None:
    text, _, signature = NOTE.decode().rpartition("\n\n")
    assert [
        "ledger.example",
        "3",
        b64encode(bytes(range(32))).decode(),
        f'head 1 {b64encode(bytes(32)).decode()} "bitopro:main"',
        f'head 2 {b64encode(bytes([255] * 32)).decode()} "cascade:0xc2/0"',
    ] == text.split("\n")
    assert signature.startswith("\u2014 ledger.example ")
    assert signature.endswith("\n")
    assert MADE == opened(NOTE, KEY.public)


def test_a_note_with_any_single_byte_changed_is_refused() -> None:
    for at in range(len(NOTE)):
        for byte in {NOTE[at] ^ 1, NOTE[at] ^ 0x20, NOTE[at] ^ 0x80, 10, 32} - {NOTE[at]}:
            with pytest.raises(BadNote):
                opened(NOTE[:at] + bytes([byte]) + NOTE[at + 1 :], KEY.public)


def test_a_note_with_a_byte_more_or_less_anywhere_is_refused() -> None:
    for at in range(len(NOTE) + 1):
        for changed in (
            NOTE[:at] + NOTE[at + 1 :],
            NOTE[:at] + b"\n" + NOTE[at:],
            NOTE[:at] + b"0" + NOTE[at:],
        ):
            if changed != NOTE:
                with pytest.raises(BadNote):
                    opened(changed, KEY.public)


def test_another_key_of_the_same_name_is_not_believed() -> None:
    other = new_key(KEY.name)
    with pytest.raises(BadNote, match="not signed by"):
        opened(other.sign(MADE).encode(), KEY.public)
    forged = other.sign(MADE).replace(
        b64encode(other.public.hash)[:5].decode(), b64encode(KEY.public.hash)[:5].decode()
    )
    with pytest.raises(BadNote):
        opened(forged.encode(), KEY.public)


def test_a_checkpoint_of_another_log_is_refused_also_when_our_key_signed_it() -> None:
    other = replace(MADE, origin="other.example")
    with pytest.raises(BadKey):
        KEY.sign(other)
    signed = PrivateKey("other.example", KEY.seed).sign(other)
    with pytest.raises(BadNote):
        opened(signed.encode(), KEY.public)


def test_signatures_of_witnesses_may_stand_beside_ours() -> None:
    witness = f"\u2014 witness.example {b64encode(bytes(68)).decode()}\n".encode()
    assert MADE == opened(NOTE + witness, KEY.public)
    text, _, ours = NOTE.rpartition(b"\n\n")
    assert MADE == opened(text + b"\n\n" + witness + ours, KEY.public)
    with pytest.raises(BadNote):
        opened(text + b"\n\n" + witness, KEY.public)
    with pytest.raises(BadNote, match="cannot be read"):
        opened(NOTE + b"not a signature\n", KEY.public)


def test_a_signature_that_is_written_in_another_way_is_refused() -> None:
    """Base64 has bits to spare at its end: they are zero."""
    assert NOTE.endswith(b"=\n")
    changed = NOTE[:-3] + bytes([NOTE[-3] + 1]) + b"=\n"
    assert b64decode(NOTE[-93:-1]) == b64decode(changed[-93:-1])
    with pytest.raises(BadNote):
        opened(changed, KEY.public)


def test_two_signatures_of_ours_must_both_be_right() -> None:
    wrong = f"\u2014 {KEY.name} {b64encode(KEY.public.hash + bytes(64)).decode()}\n".encode()
    with pytest.raises(BadNote):
        opened(NOTE + wrong, KEY.public)


def resigned(change: Callable[[str], str]) -> bytes:
    """A text that our own key signs, whatever it is."""
    text = change(MADE.text())
    signature = Ed25519PrivateKey.from_private_bytes(KEY.seed).sign(text.encode())
    return f"{text}\n\u2014 {KEY.name} {b64encode(KEY.public.hash + signature).decode()}\n".encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n",
        lambda text: "\n" + text,
        lambda text: text.replace("\n3\n", "\n03\n"),
        lambda text: text.replace("\n3\n", "\n+3\n"),
        lambda text: text.replace("\n3\n", "\n3 \n"),
        lambda text: text.replace("\n3\n", "\n\u0663\n"),
        lambda text: text.replace("\n3\n", f"\n{10**19}\n"),
        lambda text: text.replace("head 1", "head 01"),
        lambda text: text.replace("head 1", "head  1"),
        lambda text: text.replace("head 1", "tail 1"),
        lambda text: text.replace("head 1", "Head 1"),
        lambda text: text.replace('"bitopro:main"', '"bitopro:m\\u0061in"'),
        lambda text: text.replace('"bitopro:main"', '"bitopro:main" '),
        lambda text: text.replace('"bitopro:main"', "bitopro:main"),
        lambda text: text.replace('"bitopro:main"', '["bitopro:main"]'),
        lambda text: text.replace('"bitopro:main"', "[" * 100_000),
        lambda text: "".join(f"{line}\n" for line in [*text.split("\n")[:3], *text.split("\n")[:2:-1][1:]]),
        lambda text: text + text.split("\n")[3] + "\n",
        lambda text: text + "an extension of somebody else\n",
        lambda text: "\n".join(text.split("\n")[:2]) + "\n",
        lambda text: "\n".join(text.split("\n")[:3]).replace("AAEC", "AAE") + "\n",
        lambda text: "",
        lambda text: text.replace(MADE.origin, f"{MADE.origin} "),
    ],
)
def test_a_checkpoint_that_is_written_in_any_other_way_is_refused(change: Callable[[str], str]) -> None:
    assert MADE == opened(resigned(lambda text: text), KEY.public)
    with pytest.raises(BadNote):
        opened(resigned(change), KEY.public)


def test_names_of_accounts_are_written_in_ascii_and_sorted_by_their_utf8_bytes() -> None:
    heads = {name: Head(1, bytes(32)) for name in ("z", "a b", "\U0001f600", "\ue000", 'q"\n', "é")}
    made = Checkpoint(KEY.name, 6, bytes(32), heads)
    assert made.text().isascii()
    assert sorted(heads, key=str.encode) == list(parsed(made.text()).heads)
    assert made == opened(KEY.sign(made).encode(), KEY.public)


def test_keys_are_written_down_and_read_back() -> None:
    made = new_key()
    assert made == private_key(made.text() + "\n")
    assert made.public == public_key(made.public.text() + "\n")
    assert made.name != new_key().name
    assert made.text() not in repr(made)
    assert repr(made.seed) not in repr(made)


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\nb", "a\u2028b", "a\x00b", "x" * 201, "\ufeffa", "\u200ba"]
)
def test_a_name_that_could_not_be_written_down_is_refused(name: str) -> None:
    with pytest.raises(BadKey):
        new_key(name)


def test_a_damaged_key_is_refused_and_a_private_one_never_shown() -> None:
    public, private = KEY.public.text(), KEY.text()
    for read, text in ((public_key, public), (private_key, private)):
        for at in range(len(text)):
            changed = text[:at] + ("b" if text[at] != "b" else "c") + text[at + 1 :]
            with pytest.raises(BadKey) as error:
                read(changed)
            assert text[-44:] not in str(error.value)
    for read, text in (
        (public_key, private),
        (private_key, public),
        (public_key, ""),
        (private_key, "x+1+2"),
    ):
        with pytest.raises(BadKey):
            read(text)


def test_a_public_key_that_is_no_point_refuses_every_note() -> None:
    bad = PublicKey(KEY.name, b"\xff" * 32)
    with pytest.raises(BadNote):
        opened(NOTE.replace(b64encode(KEY.public.hash)[:5], b64encode(bad.hash)[:5]), bad)
