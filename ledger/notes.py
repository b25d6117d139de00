"""Signed checkpoints: where every account stood, in a text that other tools read and nobody can change.

Knows keys and texts; knows no store. The formats are C2SP's signed-note and tlog-checkpoint: a note is lines of text,
an empty line, and signature lines; a key is `name+hash+base64`, as in golang.org/x/mod/sumdb/note. Ed25519 only.

    accountledger-1f0c...           the log: the name of its key
    1042                            how many events it has
    base64                          the root of the tree over their seals (`ledger.seal.Tree`), in order of position
    head 57 base64 "bitopro:main"   for each account: its last version, the seal of that, its name as JSON

    - name base64                   (an em dash) four bytes of the key's hash, and the signature of all lines above
"""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from ledger.errors import BadKey, BadNote
from ledger.seal import SEAL_BYTES

NOTE_BYTES_MAX: Final = 64 * 1024 * 1024
NAME_CHARS_MAX: Final = 200
_ED25519: Final = b"\x01"
_NAME: Final = re.compile(r"[^\s+]+")
_PUBLIC: Final = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")
_PRIVATE: Final = re.compile(r"PRIVATE\+KEY\+([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNED: Final = re.compile("\u2014 ([^\\s+]+) ([A-Za-z0-9+/=]+)")


class Head(Struct, frozen=True, gc=False):
    """The last version of an account at a checkpoint, and its seal."""

    version: int
    seal: bytes


class Checkpoint(Struct, frozen=True):
    """Where a ledger stood: the name of its log, how many events it has, the root over their seals, the heads."""

    origin: str
    size: int
    root: bytes
    heads: Mapping[str, Head]

    def text(self) -> str:
        """The lines that are signed."""
        lines = [self.origin, str(self.size), _text(self.root)]
        for account in sorted(self.heads, key=str.encode):
            head = self.heads[account]
            lines.append(f"head {head.version} {_text(head.seal)} {json.dumps(account)}")
        return "".join(f"{line}\n" for line in lines)


class PublicKey(Struct, frozen=True):
    """What checks a signature: the name of a key and its 32 bytes."""

    name: str
    key: bytes

    @property
    def hash(self) -> bytes:
        """The four bytes by which signature lines name the key (C2SP signed-note)."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:4]

    def text(self) -> str:
        """The key as it is written down."""
        return f"{self.name}+{self.hash.hex()}+{_text(_ED25519 + self.key)}"


class PrivateKey(Struct, frozen=True):
    """What signs. Its repr shows no secret."""

    name: str
    seed: bytes

    def __repr__(self) -> str:
        return f"PrivateKey({self.name!r}, ...)"

    @property
    def public(self) -> PublicKey:
        """The key that checks what this one signs."""
        return PublicKey(
            self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        )

    def text(self) -> str:
        """The key as it is written down: a secret."""
        return f"PRIVATE+KEY+{self.name}+{self.public.hash.hex()}+{_text(_ED25519 + self.seed)}"

    def sign(self, checkpoint: Checkpoint) -> str:
        """The checkpoint as a signed note. Raises BadKey where the checkpoint is another log's."""
        if checkpoint.origin != self.name:
            raise BadKey(f"the key {self.name} does not sign for {checkpoint.origin}")
        text = checkpoint.text()
        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return f"{text}\n\u2014 {self.name} {_text(self.public.hash + signature)}\n"


def new_key(name: str | None = None) -> PrivateKey:
    """A new key; without a name it gets one of its own, as every log should have. Raises BadKey."""
    if name is None:
        name = f"accountledger-{secrets.token_hex(8)}"
    if _NAME.fullmatch(name) is None or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise BadKey(f"not a name for a key: {name[:NAME_CHARS_MAX]!r} (printable, no blanks, no plus)")
    return PrivateKey(name, Ed25519PrivateKey.generate().private_bytes_raw())


def private_key(text: str) -> PrivateKey:
    """A key read back. Raises BadKey, which never shows it."""
    found = _PRIVATE.fullmatch(text.strip())
    key = None if found is None else _key_bytes(found[3])
    if found is None or key is None:
        raise BadKey("not a private key: it begins with PRIVATE+KEY+ (accountledger keygen makes one)")
    made = PrivateKey(found[1], key)
    if made.public.hash.hex() != found[2]:
        raise BadKey("this private key is damaged: its hash does not fit")
    return made


def public_key(text: str) -> PublicKey:
    """A key read back. Raises BadKey."""
    if text.strip().startswith("PRIVATE+"):
        raise BadKey("this is a private key, for its owner alone: give the public one")
    found = _PUBLIC.fullmatch(text.strip())
    key = None if found is None else _key_bytes(found[3])
    if found is None or key is None:
        raise BadKey("not a public key: it is written name+hash+base64")
    made = PublicKey(found[1], key)
    if made.hash.hex() != found[2]:
        raise BadKey("this public key is damaged: its hash does not fit")
    return made


def opened(note: bytes, key: PublicKey) -> Checkpoint:
    """What a signed note says. Raises BadNote where the key did not sign these bytes, or they are no checkpoint."""
    if len(note) > NOTE_BYTES_MAX:
        raise BadNote(f"a note of {len(note)} bytes is not read")
    try:
        said = note.decode()
    except UnicodeDecodeError:
        raise BadNote("not a signed note: not UTF-8") from None
    text, blank, signatures = said.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise BadNote("not a signed note: no signature lines at its end")
    _check_signature(f"{text}\n", signatures, key)
    checkpoint = parsed(f"{text}\n")
    if checkpoint.origin != key.name:
        raise BadNote(f"a checkpoint of {checkpoint.origin[:NAME_CHARS_MAX]!r}, signed by {key.name}")
    return checkpoint


def _check_signature(text: str, signatures: str, key: PublicKey) -> None:
    signed = False
    for line in signatures[:-1].split("\n"):
        found = _SIGNED.fullmatch(line)
        signature = None if found is None else _bytes(found[2])
        if found is None or signature is None or len(signature) < 5:
            raise BadNote("not a signed note: a signature line cannot be read")
        if found[1] != key.name or signature[:4] != key.hash:
            continue  # somebody else's, such as a witness
        try:
            Ed25519PublicKey.from_public_bytes(key.key).verify(signature[4:], text.encode())
        except (InvalidSignature, ValueError):
            raise BadNote(f"the signature is not of {key.name}: the note was changed") from None
        signed = True
    if not signed:
        raise BadNote(f"not signed by {key.name}")


def parsed(text: str) -> Checkpoint:
    """The lines of a checkpoint. Raises BadNote. Lines that are no heads are somebody else's, and refused."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not lines[0]:
        raise BadNote("not a checkpoint: a name, a size and a root are wanted")
    root = _bytes(lines[2])
    if _NUMBER.fullmatch(lines[1]) is None or root is None or len(root) != SEAL_BYTES:
        raise BadNote("not a checkpoint: its size or its root cannot be read")
    heads: dict[str, Head] = {}
    for line in lines[3:-1]:
        account, head = _head(line)
        heads[account] = head
    checkpoint = Checkpoint(lines[0], int(lines[1]), root, heads)
    if checkpoint.text() != text:  # written otherwise, doubled or out of order: there is one way
        raise BadNote("not a checkpoint of an accountledger: it is written in another way")
    return checkpoint


def _head(line: str) -> tuple[str, Head]:
    parts = line.split(" ", 3)
    seal = _bytes(parts[2]) if len(parts) == 4 else None
    if parts[0] != "head" or seal is None or len(seal) != SEAL_BYTES or not _NUMBER.fullmatch(parts[1]):
        raise BadNote(f"not a checkpoint: line {line[:80]!r}")
    try:
        account = json.loads(parts[3])
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, str):
        raise BadNote(f"not a checkpoint: line {line[:80]!r}")
    return account, Head(int(parts[1]), seal)


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: str) -> bytes | None:
    try:
        data = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        return None
    return data if _text(data) == text else None


def _key_bytes(text: str) -> bytes | None:
    data = _bytes(text)
    return data[1:] if data is not None and len(data) == 33 and data[:1] == _ED25519 else None
