"""A store of every kind of event, and everything that may happen to its bytes.

Knows tables and bytes; whether a change matters is judged by what the tables hold, not by what `verify` thinks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from ledger import Frame, Ledger, Venue
from ledger.events import Statement
from ledger.verify import Finding
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from tests import scripted
from tests.scripted import delta, fault, fill, imported, order, said, says, snapshot

T: Final = 1_790_000_000_000_000_000
FRAMES: Final = Path(__file__).parent / "frames"
TABLES: Final = ("stored_events", "evidence", "natural_keys", "seals")
LATE: Final = b"\x01"
"""What a frame begins with that only a venue module of later days can read."""

_real: Final[Mapping[Venue, tuple[str, ...]]] = {
    bitopro: ("first_message_states_all_currencies", "later_message_states_what_moved@2"),
    kraken_prime: ("hello", "baseline_with_equivalents", "update_not_initial"),
    pacifica: ("page_newest_first_with_cursor", "page_two_equal_rows", "page_last_cursor_null"),
    deltadefi: ("balance", "order_info", "order_info_closed", "dlta_points", "trading_history", "not_json"),
    cascade: ("balance_update", "balance_update_older_spelling", "reply_subscribed"),
}


class Later:
    """The scripted venue as it is understood later: it reads what it could not read before."""

    NAME = scripted.NAME

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        if not frame.payload.startswith(LATE):
            return scripted.decode(frame)
        digest = sha256(frame.payload).digest()
        return [
            (account, replace(event, source=replace(event.source, evidence=digest)))
            for account, event in scripted.decode(replace(frame, payload=frame.payload[1:]))
        ]


LATER: Final[Venue] = Later()
VENUES: Final[tuple[Venue, ...]] = (LATER, bitopro, kraken_prime, pacifica, deltadefi, cascade)


def spoken() -> list[bytes]:
    """Frames of the scripted venue: every topic, keyed and keyless, of one account and of several."""
    a, b = "scripted:main", "scripted:other"
    return [
        says(snapshot(1, {"A": "1", "B": "2.50"}, key="whole-1")),
        said((a, delta(2, {"A": "2"})), (b, snapshot(2, {"A": "0.00000001"})), (a, order("o1", 2, "1"))),
        says(fill("f1", 3, key="fill:f1"), fill("f2", 3, key="fill:f2"), order("o1", 4, "2", closed=True)),
        says(imported(5, "-1", "1", key="r1"), imported(6, "1", "2", key="r2"), account=b),
        LATE + said((a, delta(7, {"A": "3"})), (a, delta(7, {"B": "3"})), (b, fill("f9", 7, key="fill:f9"))),
        says(fault(9, "s", "the venue says no")),
        b"\xff\x00 nothing to be read",
        LATE + b"\x90",
        says(fill("f1", 3, key="fill:f1")),
        says(),
        *(says(delta(10 + n, {"A": str(n)}), account=(a, b)[n % 2]) for n in range(12)),
    ]


def record(ledger: Ledger, *, retried: bool = True) -> None:
    """A store of every kind of event."""
    with ledger.intake(scripted.VENUE, "main", session="s1", opened_ns=T, now_ns=lambda: T) as intake:
        for number, payload in enumerate(spoken()):
            intake.receive(payload, T + number)
    for venue, names in _real.items():
        with ledger.intake(
            venue, "desk", session=f"s-{venue.NAME}", opened_ns=T, now_ns=lambda: T + 99
        ) as intake:
            for number, name in enumerate(names):
                intake.receive((FRAMES / venue.NAME / f"{name}.frame").read_bytes(), T + number)
    if retried:
        for recorded in [each for each in ledger.replay() if type(each.event).__name__ == "FrameQuarantined"]:
            ledger.retry(VENUES, recorded.account, recorded.version)
    with ledger.intake(scripted.VENUE, "main", session="s2", opened_ns=T + 100, now_ns=lambda: T + 200) as intake:
        for number in range(10):
            intake.receive(says(delta(50 + number, {"A": str(number)})), T + 101 + number)


def image(path: Path) -> bytes:
    """The bytes of a closed ledger, made one file without a write-ahead log."""
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA journal_mode=DELETE")
    return path.read_bytes()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]] | None:
    """Everything the ledger's tables hold, to the type of each cell; None where SQLite cannot read it."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
            store.text_factory = _Text
            for table, place in (*((name, "rowid") for name in TABLES[:2]), ("natural_keys", "at_ns"), ("seals", "position")):
                found[table] = sorted(map(repr, store.execute(f"SELECT {place}, * FROM {table} NOT INDEXED")))  # type: ignore[arg-type]
            found["schema"] = store.execute(
                "SELECT type, CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_master"
            ).fetchall()
    except (sqlite3.Error, UnicodeDecodeError):
        return None
    return found


class _Text(bytes):
    """Text as it is stored, told from a blob of the same bytes."""

    def __repr__(self) -> str:
        return f"text {bytes(self)!r}"


class Place(NamedTuple):
    """An event: its account, version and position."""

    account: str
    version: int
    position: int


def names(finding: Finding, place: Place) -> bool:
    """Whether a finding names that event: by account and version, or by its position."""
    if finding.account is not None and finding.version is not None:
        return (finding.account, finding.version) == (place.account, place.version)
    return finding.position == place.position


def flipped(random: Random, cell: Any) -> Any:
    """A cell with one of its bits flipped."""
    if isinstance(cell, int):
        return cell ^ 1 << random.randrange(62)
    raw = bytearray(cell.encode() if isinstance(cell, str) else cell)
    bit = random.randrange(8 * len(raw))
    raw[bit // 8] ^= 1 << bit % 8
    return bytes(raw)
