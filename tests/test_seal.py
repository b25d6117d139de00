"""The seal and its tree: hashes written down again in another way."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ledger.seal import PAGE_LEAVES, SEAL_BYTES, Tree, genesis, leaf, seal

# The test vectors of Certificate Transparency (RFC 6962): leaves, and the root over the first so many of them.
LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, to the letter."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


def test_the_roots_are_those_of_certificate_transparency() -> None:
    leaves = [bytes.fromhex(each) for each in LEAVES]
    tree = Tree()
    assert ROOTS[0] == tree.root().hex() == root([]).hex()
    for size, data in enumerate(leaves, 1):
        tree.append(data)
        assert ROOTS[size] == tree.root().hex() == root(leaves[:size]).hex()


def test_the_root_of_every_size_is_the_one_of_the_definition() -> None:
    tree = Tree()
    leaves: list[bytes] = []
    for number in range(200):
        assert (len(leaves), root(leaves)) == (tree.size, tree.root())
        leaves.append(sha256(str(number).encode()).digest())
        tree.append(leaves[-1])


def test_the_root_is_that_of_the_definition_where_one_page_of_leaves_ends_and_the_next_begins() -> None:
    leaves = [sha256(str(number).encode()).digest() for number in range(7 * PAGE_LEAVES + 2)]
    sizes = {pages * PAGE_LEAVES + more for pages in range(1, 8) for more in (-1, 0, 1, 2)}
    tree = Tree()
    for size, data in enumerate(leaves, 1):
        tree.append(data)
        if size in sizes:
            assert (size, root(leaves[:size])) == (tree.size, tree.root())


def test_asking_for_the_root_changes_nothing() -> None:
    one, other = Tree(), Tree()
    for number in range(PAGE_LEAVES + 13):
        one.append(number.to_bytes(2))
        other.append(number.to_bytes(2))
        other.root()
    assert one.root() == other.root()


def test_a_seal_is_made_as_it_is_written_down() -> None:
    first = sha256(b"accountledger seal v1\nbitopro:main").digest()
    assert first == genesis("bitopro:main")
    plain = sha256(b"\x00" + (7).to_bytes(8, "big") + b"\x0cBalanceDelta" + b"state").digest()
    assert plain == leaf(7, "BalanceDelta", b"state")
    assert sha256(b"\x01" + first + plain).digest() == seal(first, plain)
    assert SEAL_BYTES == len(seal(first, plain))


def test_no_two_events_share_the_bytes_that_are_hashed() -> None:
    """Where the topic ends and the state begins is part of it; so are the version and the account."""
    made = {
        leaf(1, "ab", b"c"),
        leaf(1, "a", b"bc"),
        leaf(2, "ab", b"c"),
        leaf(1 << 32, "ab", b"c"),
        leaf(1, "", b"abc"),
        genesis("a"),
        genesis("b"),
        seal(genesis("a"), genesis("b")),
        seal(genesis("b"), genesis("a")),
    }
    assert 9 == len(made)
