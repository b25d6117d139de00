"""A store of every kind of event, and everything that may happen to its bytes.

Knows tables and bytes; whether a change matters is judged by what the tables hold, not by what `verify` thinks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from ledger import Frame, Ledger, Venue
from ledger.errors import BadNote, Corrupt
from ledger.events import Statement, keyed_ns
from ledger.findings import Finding, first_bad
from ledger.notes import Checkpoint, new_key, opened
from ledger.seal import genesis, leaf, seal
from ledger.venues import bitopro, cascade, deltadefi, kraken_prime, pacifica
from tests import scripted
from tests.scripted import delta, fault, fill, imported, order, said, says, snapshot

T: Final = 1_790_000_000_000_000_000
FRAMES: Final = Path(__file__).parent / "frames"
TABLES: Final = ("stored_events", "evidence", "natural_keys", "seals")
KEY: Final = new_key("log")
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


def record(ledger: Ledger, *, retried: bool = True, keep: Callable[[], None] = lambda: None) -> None:
    """A store of every kind of event; `keep` is called as it grows."""
    with ledger.intake(scripted.VENUE, "main", session="s1", opened_ns=T, now_ns=lambda: T) as intake:
        for number, payload in enumerate(spoken()):
            intake.receive(payload, T + number)
            keep()
    for venue, names in _real.items():
        with ledger.intake(
            venue, "desk", session=f"s-{venue.NAME}", opened_ns=T, now_ns=lambda: T + 99
        ) as intake:
            for number, name in enumerate(names):
                intake.receive((FRAMES / venue.NAME / f"{name}.frame").read_bytes(), T + number)
        keep()
    if retried:
        for recorded in [each for each in ledger.replay() if type(each.event).__name__ == "FrameQuarantined"]:
            ledger.retry(VENUES, recorded.account, recorded.version)
    keep()
    with ledger.intake(
        scripted.VENUE, "main", session="s2", opened_ns=T + 100, now_ns=lambda: T + 200
    ) as intake:
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
            for table, place in (
                ("stored_events", "rowid"),
                ("evidence", "1"),
                ("natural_keys", "1"),
                ("seals", "1"),
            ):
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
    return (finding.account, finding.version) == (
        place.account,
        place.version,
    ) or finding.position == place.position


def flipped(random: Random, cell: Any) -> Any:
    """A cell with one of its bits flipped."""
    if isinstance(cell, int):
        return cell ^ 1 << random.randrange(62)
    raw = bytearray(cell.encode() if isinstance(cell, str) else cell)
    bit = random.randrange(8 * len(raw))
    raw[bit // 8] ^= 1 << bit % 8
    return bytes(raw)


class Subject:
    """One clean store in a file, to be tampered with again and again, and what verify says of it then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.backups: list[bytes] = []
        with Ledger(path) as ledger:
            self._keep(ledger)
            record(ledger, keep=lambda: self._keep(ledger))
            self.checkpoint = ledger.checkpoint("log")
            recorded = list(ledger.replay())
        self.clean = image(path)
        self.content = content(path)
        self.places = {each.position: Place(each.account, each.version, each.position) for each in recorded}
        self.of_frame: dict[tuple[str, int], Place] = {}
        self.of_key: dict[tuple[str, int, str], Place] = {}
        for each in recorded:
            source, place = each.event.source, self.places[each.position]
            if source.evidence:
                self.of_frame.setdefault((source.session, source.ordinal), place)
            if each.event.key:
                self.of_key[each.account, keyed_ns(each.event), each.event.key] = place

    def _keep(self, ledger: Ledger) -> None:
        with closing(sqlite3.connect(self.path)) as store, closing(sqlite3.connect(":memory:")) as copy:
            store.backup(copy)
            self.backups.append(copy.serialize())

    def write(self, data: bytes | None = None) -> None:
        """Put the clean store in place, or these bytes."""
        self.path.write_bytes(self.clean if data is None else data)

    def verify(self, *checkpoints: Checkpoint) -> list[Finding]:
        """Everything that is found; a ledger that cannot even be opened is a finding too."""
        try:
            with Ledger(self.path, read_only=True) as ledger:
                return list(ledger.verify(VENUES, checkpoints=checkpoints))
        except Corrupt as error:
            return [Finding("file", str(error))]

    @contextmanager
    def sql(self) -> Generator[sqlite3.Connection]:
        """The clean store, to be changed by SQL."""
        self.write()
        with closing(sqlite3.connect(self.path)) as store:
            store.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
            yield store
            store.commit()

    def bit_of_the_file(self, random: Random) -> str | None:
        """Flip one bit of the file. What is wrong with verify's answer, if anything."""
        data = bytearray(self.clean)
        bit = random.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        self.write(bytes(data))
        if self.verify() or content(self.path) == self.content:
            return None
        return f"bit {bit} of the file: not found"

    def bit_of_a_cell(self, random: Random) -> str | None:
        """Flip one bit of one cell. The first bad event must be the one it belongs to."""
        table, column = random.choice(CELLS)
        with self.sql() as store:
            rows = store.execute(f"SELECT {_keys[table]}, {column} FROM {table}").fetchall()
            *key, cell = random.choice(rows)
            place = self._place(table, key)
            given = "CAST(? AS TEXT)" if isinstance(cell, str) else "?"
            where = " AND ".join(f"{name}=?" for name in _keys[table].split(", "))
            try:
                store.execute(
                    f"UPDATE {table} SET {column}={given} WHERE {where}", (flipped(random, cell), *key)
                )
            except sqlite3.IntegrityError:
                return None  # SQLite itself does not take it
        return self._judged(place, self.verify(), f"{column} of {table} at {key}")

    def _place(self, table: str, key: Sequence[Any]) -> Place:
        if table == "evidence":
            return self.of_frame[key[0], key[1]]
        return self.of_key[key[0], key[1], key[2]] if table == "natural_keys" else self.places[key[0]]

    def swap(self, random: Random) -> str | None:
        """Exchange two events of different accounts: their rows, or only what they say; with their seals, or not."""
        one, other = random.sample(sorted(self.places), 2)
        columns = random.choice(
            ("originator_id, originator_version", "state", "topic, state", "originator_id")
        )
        tables = ["stored_events", *(["seals"] if random.random() < 0.5 else [])]
        with self.sql() as store:
            try:
                for table in tables:
                    where, names = ("rowid", columns) if table == "stored_events" else ("position", "seal")
                    rows = [
                        store.execute(f"SELECT {names} FROM {table} WHERE {where}=?", (place,)).fetchone()
                        for place in (one, other)
                    ]
                    if len(tables) == 1 and rows[0] == rows[1]:
                        return None
                    marks = ", ".join(f"{name}=?" for name in names.split(", "))
                    store.execute(
                        f"UPDATE {table} SET {marks} WHERE {where}=?",
                        (*[-1 if isinstance(cell, int) else cell for cell in rows[1]], one),
                    )
                    for row, place in ((rows[0], other), (rows[1], one)):
                        store.execute(f"UPDATE {table} SET {marks} WHERE {where}=?", (*row, place))
            except sqlite3.IntegrityError:
                return None
        if content(self.path) == self.content:
            return None
        return self._judged(self.places[min(one, other)], self.verify(), f"{columns} of {one} and {other}")

    def tail(self, random: Random) -> str | None:
        """Delete the last events, and with them whatever would tell of it, or some of that."""
        last = max(self.places)
        first = random.randint(max(1, last - 20), last)
        return self._gone(first, last, random.random() < 0.7, random, self.checkpoint)

    def middle(self, random: Random) -> str | None:
        """Delete events in the middle, and with them whatever would tell of it, or some of that."""
        first = random.randint(1, max(self.places) - 2)
        last = min(first + random.choice((0, 0, 1, 5, 20)), max(self.places) - 1)
        return self._gone(first, last, random.random() < 0.7, random)

    def _gone(
        self, first: int, last: int, whole: bool, random: Random, *checkpoints: Checkpoint
    ) -> str | None:
        with self.sql() as store:
            kept = set() if whole else set(random.sample(TABLES[1:], random.randint(1, 3)))
            for position in range(first, last + 1):
                store.execute("DELETE FROM stored_events WHERE rowid=?", (position,))
                if "seals" not in kept:
                    store.execute("DELETE FROM seals WHERE position=?", (position,))
            gone = {place: key for key, place in self.of_frame.items() if first <= place.position <= last}
            if "evidence" not in kept:
                store.executemany("DELETE FROM evidence WHERE session=? AND ordinal=?", gone.values())
            if "natural_keys" not in kept:
                keys = [key for key, place in self.of_key.items() if first <= place.position <= last]
                store.executemany("DELETE FROM natural_keys WHERE account=? AND at_ns=? AND key=?", keys)
        places = [place for place in self.places.values() if first <= place.position <= last]
        found = self.verify(*checkpoints)
        bad = first_bad(found)
        if bad is not None and any(names(bad, place) for place in places):
            return None
        return f"events {first} to {last} deleted: {'misnamed' if found else 'not found'} {bad}"

    def backup(self, random: Random) -> str | None:
        """Put an old backup in place; perhaps other events were taken in since."""
        position = random.randrange(1, len(self.backups))
        self.write(self.backups[position])
        if random.random() < 0.5:
            with Ledger(self.path) as ledger:
                account = random.choice(("main", "other"))
                with ledger.intake(
                    scripted.VENUE, account, session=f"new-{position}", now_ns=lambda: T + 999
                ) as intake:
                    for number in range(random.randrange(60)):
                        intake.receive(
                            says(delta(999 + number, {"A": "7"}), account=f"scripted:{account}"), T
                        )
        found = self.verify(self.checkpoint)
        if any(
            each.what in ("missing", "checkpoint") and each.account in self.checkpoint.heads for each in found
        ):
            return None
        return f"backup of {position} events: not found"

    def note(self, random: Random) -> str | None:
        """Change one byte of a signed checkpoint."""
        note = bytearray(KEY.sign(replace(self.checkpoint, origin=KEY.name)).encode())
        at = random.randrange(len(note))
        note[at] = random.choice([byte for byte in range(256) if byte != note[at]])
        try:
            opened(bytes(note), KEY.public)
        except BadNote:
            return None
        return f"byte {at} of the note: not found"

    def _judged(self, place: Place, found: list[Finding], what: str) -> str | None:
        bad = first_bad(found)
        if bad is not None and names(bad, place):
            return None
        return f"{what}: {'misnamed' if found else 'not found'} {bad}"


CELLS: Final = (
    *(("stored_events", each) for each in ("originator_id", "originator_version", "topic", "state", "rowid")),
    *(("evidence", each) for each in ("session", "ordinal", "payload")),
    *(("natural_keys", each) for each in ("account", "at_ns", "key")),
    *(("seals", each) for each in ("position", "seal")),
)
_keys: Final = {
    "stored_events": "rowid",
    "seals": "position",
    "evidence": "session, ordinal",
    "natural_keys": "account, at_ns, key",
}


def resealed(store: sqlite3.Connection) -> None:
    """Make every seal anew, as who can write the store can do."""
    heads: dict[str, bytes] = {}
    for position, account, version, topic, state in store.execute(
        "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events ORDER BY rowid"
    ).fetchall():
        heads[account] = seal(heads.get(account) or genesis(account), leaf(version, topic, state))
        store.execute("INSERT OR REPLACE INTO seals VALUES (?,?)", (position, heads[account]))
    store.execute("DELETE FROM seals WHERE position NOT IN (SELECT rowid FROM stored_events)")
