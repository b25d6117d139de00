"""The seal: each stored event hashed together with all before it in its account, and a tree over all seals.

Knows bytes and SHA-256; knows no store, no key and no event.

    leaf   = SHA256(0x00, version (8 bytes, big endian), length of the topic (1 byte), topic, stored bytes)
    seal 0 = SHA256("accountledger seal v1\\n", account)
    seal v = SHA256(0x01, seal v-1, leaf v)

Who changes a stored event, its account, its place or its topic has to change every seal after it. Who can do that too
is found out by a seal that was written down elsewhere before: a signed checkpoint (`ledger.notes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final

from msgspec import Struct

SEAL_BYTES: Final = 32
PAGE_LEAVES: Final = 1024
"""How many leaves of a tree are kept to be hashed together; a power of two."""
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


@lru_cache(64)
def _named(topic: str) -> bytes:
    """A topic with its length before it; there are few, but for damaged ones."""
    name = topic.encode()
    return len(name).to_bytes(1, "big") + name


def seal(before: bytes, leaf: bytes) -> bytes:
    """The seal of an event, from the seal before it in its account and its own leaf."""
    return sha256(_NODE + before + leaf).digest()


class Tree:
    """A Merkle tree (RFC 6962, section 2.1) to which leaves are appended; keeps the roots of its full subtrees of
    PAGE_LEAVES leaves and more, and the leaves after them."""

    def __init__(self) -> None:
        self._roots: list[bytes] = []
        """Of the full subtrees, largest first: one for each bit set in the number of full pages."""
        self._pages = 0
        self._leaves: list[bytes] = []

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._pages * PAGE_LEAVES + len(self._leaves)

    def append(self, data: bytes) -> None:
        """Add a leaf at the end."""
        self._leaves.append(data)
        if (
            len(self._leaves) == PAGE_LEAVES
        ):  # hashed a page at a time, level by level: half the cost of one by one
            node = _root(self._leaves)
            full = self._pages
            while full & 1:
                node = sha256(_NODE + self._roots.pop() + node).digest()
                full >>= 1
            self._roots.append(node)
            self._pages += 1
            self._leaves.clear()

    def root(self) -> bytes:
        """The hash over all leaves so far."""
        *others, root = (
            [*self._roots, _root(self._leaves)] if self._leaves or not self._roots else self._roots
        )
        for left in reversed(others):
            root = sha256(_NODE + left + root).digest()
        return root


def _root(leaves: Sequence[bytes]) -> bytes:
    """The hash over leaves, at most a page of them."""
    if not leaves:
        return sha256(b"").digest()
    level = [sha256(_LEAF + data).digest() for data in leaves]
    while len(level) > 1:
        odd = level[len(level) & ~1 :]  # the last of an odd number goes up as it is
        level = [sha256(_NODE + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]
