"""The seal: each stored event hashed together with all before it in its account, and a tree over all seals.

Knows bytes and SHA-256; knows no store, no key and no event.

    leaf   = SHA256(0x00, version (8 bytes, big endian), length of the topic (1 byte), topic, stored bytes)
    seal 0 = SHA256("accountledger seal v1\\n", account)
    seal v = SHA256(0x01, seal v-1, leaf v)

Who changes a stored event, its account, its place or its topic has to change every seal after it. Who can do that too
is found out by a seal that was written down elsewhere before: a signed checkpoint (`ledger.notes`).
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Final

from msgspec import Struct

SEAL_BYTES: Final = 32
_FIRST: Final = b"accountledger seal v1\n"
_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


class Sealed(Struct, frozen=True, gc=False):
    """An event as it is stored, with its seal; `seal` None where it has none."""

    account: str
    version: int
    topic: str
    state: bytes
    position: int
    seal: bytes | None


def genesis(account: str) -> bytes:
    """The seal of an account in which nothing has happened yet."""
    return sha256(_FIRST + account.encode()).digest()


def leaf(version: int, topic: str, state: bytes) -> bytes:
    """The hash of one stored event, whatever came before it."""
    return sha256(b"".join((_LEAF, version.to_bytes(8, "big"), _named(topic), state))).digest()


@cache
def _named(topic: str) -> bytes:
    """A topic with its length before it; there are few."""
    name = topic.encode()
    return len(name).to_bytes(1, "big") + name


def seal(before: bytes, leaf: bytes) -> bytes:
    """The seal of an event, from the seal before it in its account and its own leaf."""
    return sha256(_NODE + before + leaf).digest()


class Tree:
    """A Merkle tree (RFC 6962, section 2.1) to which leaves are appended; keeps the roots of its full subtrees only."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []
        """Of the full subtrees, largest first: one for each bit set in `size`."""

    def append(self, data: bytes) -> None:
        """Add a leaf at the end."""
        node = sha256(_LEAF + data).digest()
        full = self.size
        while full & 1:
            node = sha256(_NODE + self._roots.pop() + node).digest()
            full >>= 1
        self._roots.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The hash over all leaves so far."""
        if not self._roots:
            return sha256(b"").digest()
        *others, root = self._roots
        for left in reversed(others):
            root = sha256(_NODE + left + root).digest()
        return root
