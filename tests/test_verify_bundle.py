"""The verifier that is shipped: it proves what is true, and refuses everything else with one line."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Ledger, verify_bundle
from ledger.bundle import VERIFIER
from ledger.notes import new_key
from ledger.seal import leaf, seal
from ledger.venues import bitopro
from ledger.verify_bundle import canonical, main, verify
from tests.proving import (
    KEY,
    LATER,
    OTHER,
    WHOLE,
    Saying,
    bundle_of,
    forged,
    note_of,
    say,
    take_in,
)
from tests.scripted import MAIN, delta, imported, snapshot

PUBLIC: Final = KEY.public.text()
ACCOUNT: Final = "bitopro:main"


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """ADA: stated whole, then 7.25; BTC named later still, and a session closed."""
    with Ledger() as made:
        take_in(made, bitopro, "main", [WHOLE, LATER, OTHER])
        take_in(made, bitopro, "other", [WHOLE], "s2")
        yield made


@pytest.fixture(scope="module")
def bundle(ledger: Ledger) -> bytes:
    return bundle_of(ledger, ACCOUNT, "ADA")[0]


@pytest.fixture(scope="module")
def unsigned() -> Iterator[None]:
    """Signatures are checked once each: they take most of the time."""
    known: dict[tuple[bytes, bytes, bytes], bool] = {}
    real = verify_bundle.signed

    def signed(key: bytes, signature: bytes, message: bytes) -> bool:
        asked = (key, signature, message)
        if asked not in known:
            known[asked] = real(key, signature, message)
        return known[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_bundle, "signed", signed)
        yield


def proves(bundle: bytes, key: str = PUBLIC) -> bool:
    """Whether the bundle is a proof; whatever it raises, it is none."""
    try:
        return bool(verify(io.BytesIO(bundle), key))
    except Exception:
        return False


def lines_of(bundle: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bundle.splitlines()]


def closed(lines: list[dict[str, Any]]) -> bytes:
    """The lines as a bundle, its last line made anew."""
    body = b"".join(map(canonical, lines[:-1]))
    return body + canonical({"sha256": hashlib.sha256(body).hexdigest()})


def redigested(body: bytes) -> bytes:
    """The same, of bytes that need not be lines."""
    return body + canonical({"sha256": hashlib.sha256(body).hexdigest()})


def state_of(line: dict[str, Any]) -> Any:
    return msgspec.msgpack.decode(base64.b64decode(line["state"]))


def test_a_bundle_is_a_proof_and_says_of_what(bundle: bytes) -> None:
    said = verify(io.BytesIO(bundle), PUBLIC)
    assert "PROVED: bitopro:main ADA as of version 5: total 7.25, available 7.25, staked 0" == said[0]
    assert ["total 7.25: bytes 109 to 113"] == [line.strip() for line in said if "total 7.25: bytes" in line]
    assert b"7.25" == LATER[109:113]


@pytest.mark.sqlite
def test_it_runs_on_a_python_with_no_packages_and_nothing_of_ours(bundle: bytes, tmp_path: Path) -> None:
    """Isolated, without site, from a copy in a folder of its own."""
    (tmp_path / "verify.py").write_bytes(VERIFIER.read_bytes())
    (tmp_path / "b.bundle").write_bytes(bundle)
    (tmp_path / "key").write_text(PUBLIC + "\n")

    def ran(*files: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "error", "verify.py", *files],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = ran("b.bundle", "key")
    assert (0, "", True) == (code, err, out.startswith("PROVED: bitopro:main ADA"))
    (tmp_path / "b.bundle").write_bytes(bundle.replace(b'"total":"7.25"', b'"total":"9.25"'))
    code, out, err = ran("b.bundle", "key")
    assert (1, "", 1, True) == (code, out, err.count("\n"), err.startswith("NOT PROVED: "))
    assert (2, "") == ran("b.bundle")[:2]
    assert (2, "") == ran("nothing", "key")[:2]


def test_no_byte_can_be_changed(bundle: bytes, unsigned: None) -> None:
    """Every byte: its lowest bit, its highest, all of them, a digit and a blank. The last line stays as it was."""
    assert proves(bundle)
    survived = [
        (at, value)
        for at, byte in enumerate(bundle)
        for value in {byte ^ 1, byte ^ 0x80, byte ^ 0xFF, ord("7"), ord(" ")} - {byte}
        if proves(bundle[:at] + bytes([value]) + bundle[at + 1 :])
    ]
    assert [] == survived


def test_no_byte_can_be_changed_with_the_digest_made_anew_but_where_the_same_digits_stand_elsewhere(
    bundle: bytes, unsigned: None
) -> None:
    """What only the last line covers are the places of the digits: one that survives must name the same digits."""
    body = bundle[: bundle.rindex(b'{"sha256"')]
    spans = body.index(b'"spans":'), body.index(b"\n", body.index(b'"spans":'))
    survived: list[int] = []
    for at, byte in enumerate(body):
        for value in {byte ^ 1, byte ^ 2, ord("7"), ord("1")} - {byte}:
            changed = body[:at] + bytes([value]) + body[at + 1 :]
            if proves(redigested(changed)):
                survived.append(at)
    assert [] == [at for at in survived if not spans[0] <= at < spans[1]]


def test_bytes_cannot_be_added_or_taken_away(bundle: bytes, unsigned: None) -> None:
    cuts = [bundle[:at] for at in range(len(bundle))]
    missing = [bundle[:at] + bundle[at + 1 :] for at in range(len(bundle))]
    more = [bundle + b"\n", bundle + b" ", b" " + bundle, bundle + bundle, bundle.replace(b"\n", b"\r\n")]
    assert [] == [each for each in (*cuts, *missing, *more) if proves(each)]


Change = Callable[[list[dict[str, Any]]], object]


def _forge(lines: list[dict[str, Any]]) -> None:
    """Other digits in the claim, in the event, in the frame and in the event's hash of the frame."""
    event = state_of(lines[2])
    frame = base64.b64decode(lines[-3]["frame"]).replace(b"7.25", b"9.25")
    event[0][5] = hashlib.sha256(frame).digest()
    event[2][0][2] = event[2][0][3] = "9.25"
    lines[2]["state"] = base64.b64encode(msgspec.msgpack.encode(event)).decode()
    lines[-3]["frame"] = base64.b64encode(frame).decode()
    lines[0]["claim"].update(total="9.25", available="9.25")


def _forge_up_to_the_note(lines: list[dict[str, Any]]) -> None:
    """The same, and the seals and the head in the note made to fit."""
    _forge(lines)
    made = base64.b64decode(lines[0]["seal_before"])
    for version, line in enumerate(lines[1:-3], lines[0]["first_version"]):
        made = seal(made, leaf(version, line["topic"], base64.b64decode(line["state"])))
    note: str = lines[-2]["checkpoint"]
    head = next(line for line in note.split("\n") if line.endswith(json.dumps(ACCOUNT)))
    forged = f"head {head.split(' ')[1]} {base64.b64encode(made).decode()} {json.dumps(ACCOUNT)}"
    lines[-2]["checkpoint"] = note.replace(head, forged)


def _set(at: int, name: str, value: Any) -> Change:
    return lambda lines: lines[at].update({name: value})


ATTACKS: Final[dict[str, Change]] = {
    "forged digits": _forge,
    "forged digits with hashes up to the note": _forge_up_to_the_note,
    "a dropped event": lambda lines: lines.pop(2),
    "a dropped last event": lambda lines: lines.pop(-4),
    "a dropped last event, and a head before it": lambda lines: (
        lines.pop(-4),
        lines[0].update(head=lines[0]["head"] - 1, as_of={"time_ns": None, "version": lines[0]["head"] - 1}),
    ),
    "two events in each other's place": lambda lines: lines.insert(1, lines.pop(2)),
    "an event twice": lambda lines: lines.insert(1, lines[1]),
    "the claim of an earlier event": lambda lines: lines[0]["claim"].update(
        total="5", available="3.50", version=2
    ),
    "the claim of an earlier event, its later ones hidden as leaves": lambda lines: (
        lines[0]["claim"].update(total="5", available="3.50", version=2),
        lines[0]["as_of"].update(version=2),
        lines.__setitem__(
            slice(2, -3),
            [
                {
                    "leaf": base64.b64encode(
                        leaf(line["version"], line["topic"], base64.b64decode(line["state"]))
                    ).decode()
                }
                for line in lines[2:-3]
            ],
        ),
    ),
    "of an earlier time than the events say": lambda lines: lines[0]["as_of"].update(time_ns=1),
    "another account": _set(0, "account", "bitopro:other"),
    "another asset": _set(0, "asset_id", "BTC"),
    "another format": _set(0, "bundle", "accountledger bundle v2"),
    "true for one": lambda lines: lines[0]["claim"].update(held=1),
    "no spans": _set(-3, "spans", {}),
    "an empty span": lambda lines: lines[-3]["spans"].update(total=[0, 0]),
    "a span that ends before it begins": lambda lines: lines[-3]["spans"].update(total=[113, 109]),
    "a span outside": lambda lines: lines[-3]["spans"].update(total=[-4, 10_000]),
    "a span of other digits": lambda lines: lines[-3]["spans"].update(total=[108, 113]),
    "another frame": _set(-3, "frame", base64.b64encode(WHOLE).decode()),
    "a huge number": _set(0, "head", 10**4000),
    "a negative number": _set(0, "first_version", -1),
    "an event nested deep": _set(2, "state", base64.b64encode(b"\x91" * 5_000 + b"\xc0").decode()),
    "an event that says it is huge": _set(2, "state", base64.b64encode(b"\xdd\xff\xff\xff\xff").decode()),
    "an event that is no list": _set(2, "state", base64.b64encode(b"\xc0").decode()),
    "no note": _set(-2, "checkpoint", ""),
    "a note that is no text": _set(-2, "checkpoint", ["note"]),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_made_up_is_refused_in_one_line(
    bundle: bytes, attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], unsigned: None
) -> None:
    lines = lines_of(bundle)
    assert bundle == closed(lines)
    ATTACKS[attack](lines)
    assert refused(closed(lines), tmp_path, capsys).startswith("NOT PROVED: ")


def refused(
    bundle: bytes, folder: Path, capsys: pytest.CaptureFixture[str], key: str = PUBLIC, code: int = 1
) -> str:
    """The one line that the verifier says."""
    (folder / "bundle").write_bytes(bundle)
    (folder / "key").write_text(key)
    assert code == main([str(folder / "bundle"), str(folder / "key")])
    ran = capsys.readouterr()
    assert ("", 1) == (ran.out, ran.err.count("\n"))
    return ran.err


def test_the_events_of_another_account_do_not_pass_for_ours(ledger: Ledger) -> None:
    """Both accounts were told the same; the seals of one do not lead to the head of the other."""
    theirs = lines_of(bundle_of(ledger, "bitopro:other", "ADA")[0])
    assert proves(closed(theirs))
    theirs[0]["account"] = ACCOUNT
    assert not proves(closed(theirs))


def test_an_old_checkpoint_proves_only_what_was_then(ledger: Ledger, bundle: bytes) -> None:
    old = note_of(ledger, upto=2)
    then, claim = bundle_of(ledger, ACCOUNT, "ADA", note=old)
    assert ("5", 2) == (claim.parts["total"], claim.as_of)
    assert proves(then)
    lines = lines_of(bundle)
    lines[-2]["checkpoint"] = old.decode()
    assert not proves(closed(lines))


def test_another_key_of_the_same_name_proves_nothing(ledger: Ledger, bundle: bytes) -> None:
    forger = new_key(KEY.name)
    theirs, _ = bundle_of(ledger, ACCOUNT, "ADA", note=note_of(ledger, forger))
    assert proves(theirs, forger.public.text())
    assert not proves(theirs)
    assert not proves(bundle, forger.public.text())


def test_a_note_of_another_log_proves_nothing_though_our_key_signed_it(bundle: bytes) -> None:
    lines = lines_of(bundle)
    text: str = lines[-2]["checkpoint"].partition("\n\n")[0] + "\n"
    for origin, proof in ((KEY.name, True), ("another-log", False)):
        changed = text.replace(KEY.name, origin, 1)
        signature = Ed25519PrivateKey.from_private_bytes(KEY.seed).sign(changed.encode())
        signed = base64.b64encode(KEY.public.hash + signature).decode()
        lines[-2]["checkpoint"] = f"{changed}\n\u2014 {KEY.name} {signed}\n"
        assert proof == proves(closed(lines))


def test_a_line_with_a_key_twice_is_refused(bundle: bytes) -> None:
    twice = bundle.replace(b'{"account":', b'{"account":"bitopro:x","account":', 1)
    body = twice[: twice.rindex(b'{"sha256"')]
    assert not proves(redigested(body))


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"head":' + b"9" * 10_000 + b"}",
        b'{"head":1e400}',
        b"NaN",
        b"\xff",
    ],
    ids=["lists", "objects", "digits", "exponent", "NaN", "not text"],
)
def test_lines_no_reader_survives_are_refused_in_one_line(
    bundle: bytes, line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in range(bundle.count(b"\n")):
        lines = bundle.split(b"\n")
        lines[at] = line
        refused(b"\n".join(lines), tmp_path, capsys)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    assert not proves(garbage)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_stored_bytes_are_read_as_msgpack_reads_them_or_refused(raw: bytes) -> None:
    try:
        said = verify_bundle.unpacked(raw)
    except Exception:
        return
    assert said == msgspec.msgpack.decode(raw)


def test_stored_events_of_every_shape_are_read_as_msgpack_reads_them() -> None:
    for value in (0, 127, 128, 255, 2**16, 2**32, 2**63, -1, -32, -33, -129, -(2**15), -(2**31), -(2**63)):
        assert [value] == verify_bundle.unpacked(msgspec.msgpack.encode([value]))
    for length in (0, 1, 31, 32, 255, 256, 65_535, 65_536):
        for shape in ("a" * length, b"a" * length, [None] * length):
            assert [shape] == verify_bundle.unpacked(msgspec.msgpack.encode([shape]))


@pytest.mark.parametrize(
    "key",
    ["", "x", "test-log+00000000+AAAA", PUBLIC[:-4], PUBLIC.replace("test-log", "log")],
    ids=["nothing", "a letter", "another's hash", "cut short", "another's name"],
)
def test_a_key_that_is_none_is_refused_in_one_line(
    bundle: bytes, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(bundle, tmp_path, capsys, key)


def test_a_private_key_is_told_to_be_one_and_never_shown(
    bundle: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "NOT PROVED: the key is a private one, for its owner alone: give the public one\n"
    assert said == refused(bundle, tmp_path, capsys, f"\n{KEY.text()}\n")


# Where the events begin is the choice of whoever makes the bundle ----------------------------------------------------

BEGINNINGS: Final[dict[str, tuple[list[Saying], str]]] = {
    "rows of one instant, newest first": (
        [
            (imported(10, "100", "300", asset="A"), False),
            (imported(10, "100", "200", asset="A"), False),
        ],
        "rows of a history",
    ),
    "a lower number of a later time": (
        [
            (delta(10, {"A": "999"}, sequence=7, subscription="p"), False),
            (delta(11, {"A": "123"}, sequence=5, subscription="p"), False),
        ],
        "version 3 does not begin a full statement",
    ),
    "a full statement that does not name it": (
        [
            (delta(10, {"A": "999"}, sequence=7, subscription="p"), False),
            (snapshot(11, {"B": "1"}, part="p", sequence=8), False),
            (delta(12, {"A": "123"}, sequence=6, subscription="p"), False),
        ],
        "older than version 3",
    ),
    "a full statement that does not name it, and what came later": (
        [
            (delta(10, {"A": "999"}, sequence=7, subscription="p"), False),
            (snapshot(11, {"B": "1"}, part="p", sequence=8), False),
            (delta(12, {"A": "123"}, sequence=9, subscription="p"), False),
        ],
        "version 3 does not begin a full statement",
    ),
    "a full statement that is not complete": (
        [
            (delta(1, {"A": "999"}), False),
            (snapshot(2, {"A": "123"}, part="p", more=True, sequence=1), False),
        ],
        "version 3 does not begin a full statement",
    ),
    "the second page of one": (
        [
            (snapshot(2, {"A": "123"}, part="p", more=True, sequence=1), False),
            (snapshot(2, {"B": "1"}, part="p", begins=False, sequence=2), False),
            (delta(3, {"A": "5"}, sequence=3, subscription="p"), False),
        ],
        "begins before the events here",
    ),
    "an answer that does not name it": (
        [
            (delta(1, {"A": "1"}), False),
            (delta(2, {"B": "123"}), True),
            (delta(3, {"A": "2"}), False),
        ],
        "version 3 does not begin a full statement",
    ),
    "an answer, and what is older than it": (
        [
            (delta(1, {"A": "1"}), False),
            (delta(8, {"A": "123"}), True),
            (delta(3, {"A": "2"}, ["A"]), False),
            (delta(9, {"A": "5"}, sequence=4, subscription="p"), False),
            (delta(4, {"A": "6"}, sequence=5, subscription="p"), False),
        ],
        "version 6 states is older than version 3",
    ),
    "an answer, and rows of a history": (
        [
            (delta(1, {"A": "1"}), False),
            (delta(8, {"A": "123"}), True),
            (imported(9, "1", "124", asset="A"), False),
        ],
        "rows of a history",
    ),
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_history_that_begins_where_the_attacker_likes_is_no_proof(beginning: str) -> None:
    """Every hash of it is right, and the checkpoint is signed."""
    said, why = BEGINNINGS[beginning]
    with Ledger() as told:
        say(told, said)
        made = forged(told, MAIN, "A", 3, note_of(told))
    with pytest.raises(verify_bundle.Refused, match=why):
        verify(io.BytesIO(made), PUBLIC)


def test_a_history_that_begins_with_a_full_statement_is_a_proof_and_says_at_once_what_is_taken_on_trust() -> (
    None
):
    for full in (snapshot(2, {"A": "5"}, part="p", sequence=1), delta(2, {"A": "5"})):
        with Ledger() as told:
            say(told, [(delta(1, {"A": "1"}), False), (full, True)])
            proved = verify(io.BytesIO(forged(told, MAIN, "A", 3, note_of(told))), PUBLIC)
            whole = verify(io.BytesIO(forged(told, MAIN, "A", 1, note_of(told))), PUBLIC)
        assert f"PROVED: {MAIN} A as of version 4: total 5" == proved[0] == whole[0]
        assert proved[1].startswith("  TAKEN ON TRUST: that nothing stated before version 3 has a later time")
        assert "TRUST" not in "\n".join(whole)


def test_that_an_asset_is_gone_is_no_proof_where_a_page_is_lost() -> None:
    """The claim `not held` of one who takes no notice of numbers."""
    with Ledger() as told:
        say(told, [(snapshot(1, {"A": "5"}, part="p", sequence=1), False)])
        say(told, [(snapshot(2, {"B": "1"}, part="q", more=True, sequence=1), False)], "s2")
        say(told, [(snapshot(2, {"C": "1"}, part="q", begins=False, sequence=3), False)], "s3")
        lines = lines_of(forged(told, MAIN, "A", 1, note_of(told)))
    assert proves(closed(lines))
    gone = dict.fromkeys(verify_bundle.PARTS)
    version = next(line["version"] for line in lines[1:] if b"q" in base64.b64decode(line["state"]))
    for stated in (version, version + 1, version + 3, version + 4):
        lines[0]["claim"] = {**gone, "held": False, "version": stated}
        assert not proves(closed(lines))


# Signatures ----------------------------------------------------------------------------------------------------------

L: Final = verify_bundle.L


def accepted(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        return verify_bundle.signed(key, signature, message)
    except verify_bundle.Refused:
        return False


def test_signatures_are_those_of_rfc_8032() -> None:
    """Test 3 of section 7.1, and 30 of the library that signs our checkpoints."""
    key = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert accepted(key, signature, b"\xaf\x82")
    assert not accepted(key, signature, b"\xaf\x83")
    for number in range(30):
        private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % number).digest())
        public, message = private.public_key().public_bytes_raw(), b"m" * number
        assert accepted(public, private.sign(message), message)
        assert not accepted(public, private.sign(message + b"x"), message)


def test_no_bit_of_a_signature_can_be_changed() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    public, signature = private.public_key().public_bytes_raw(), private.sign(b"message")
    for bit in range(0, 512, 3):
        flipped = (int.from_bytes(signature, "little") ^ 1 << bit).to_bytes(64, "little")
        assert not accepted(public, flipped, b"message")


def test_the_second_form_of_a_signature_is_refused() -> None:
    """S + L says the same to a careless reader."""
    private = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
    public, signature = private.public_key().public_bytes_raw(), private.sign(b"message")
    doubled = signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")
    assert not accepted(public, doubled, b"message")
    assert not accepted(public, signature + b"\0", b"message")


@pytest.mark.parametrize("y", [0, 1, verify_bundle.P - 1, verify_bundle.P, verify_bundle.P + 1, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_keys_that_sign_everything_are_refused(y: int, sign: int) -> None:
    """Points of small order, and points written in a second way: with such a key and R, S = 0 would do."""
    weak = (y | sign << 255).to_bytes(32, "little")
    for message in (b"", b"a", b"b", b"c"):
        assert not accepted(weak, weak + bytes(32), message)


def test_a_point_has_one_way_to_be_written() -> None:
    """y from 2^255-19 on is a number told twice, and of x = 0 there is no odd form."""
    twice = [*range(verify_bundle.P, 2**255), 1 | 1 << 255, verify_bundle.P - 1 | 1 << 255]
    assert any(point_is_read(y % verify_bundle.P) for y in range(verify_bundle.P + 2, 2**255))
    assert [] == [y for y in twice if point_is_read(y)]


def point_is_read(number: int) -> bool:
    try:
        verify_bundle.point(number.to_bytes(32, "little"))
    except verify_bundle.Refused:
        return False
    return True
