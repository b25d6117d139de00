"""Four processes ingest, two follow, one account is everybody's, and any may be killed: nothing is lost, doubled
or skipped. And a transaction that is held open: no follower reads past it.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger
from ledger.venues import bitopro
from projections import follow
from tests import contending
from tests.contending import Crew, Postmaster, judge, rounds, schema
from tests.databases import Schemas
from tests.test_subscription import Counts

KILLS = 100
SCHEDULES = 200


@pytest.fixture
def postmaster() -> Generator[Postmaster]:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Postmaster(folder)
        yield server
        server.stop()


def test_nothing_is_lost_doubled_or_skipped_whoever_is_killed(postmaster: Postmaster, tmp_path: Path) -> None:
    with schema(postmaster.url, "kills") as url, Crew(url, tmp_path) as crew:
        rounds(crew, postmaster, KILLS, seed=6)
        found = list(judge(url, [(writer, crew.notes(writer)) for writer in range(contending.WRITERS)]))
        assert found == []
        assert sum(crew.kills.values()) == KILLS
        assert min(crew.kills.values()) >= 5
        with Ledger(url, read_only=True) as ledger:
            contended = [each for each in ledger.replay("bitopro:contended") if each.event.source.ordinal]
            writers = {each.event.source.session.split("-")[1] for each in contended}
            assert writers == {"0", "1", "2", "3"}
            assert ledger.position() > 1_000


def test_the_judge_finds_what_is_lost_doubled_and_skipped(schemas: Schemas, tmp_path: Path) -> None:
    url = schemas.url()
    with Ledger(url) as ledger:
        for number in range(3):
            session, frames = contending.chunk("a0", 0, number)
            with ledger.intake(bitopro, "a0", session=session) as intake:
                intake.receive_all(frames)
        for kinds in contending.FOLLOWED:
            for kind in kinds:
                kind(ledger).subscription.catch_up()
    notes = tmp_path / "told"
    notes.write_text("a0 0\na0 1\na0 2\n")
    assert list(judge(url, [(0, notes)])) == []
    notes.write_text("a0 0\na0 1\na0 2\na0 3\n")
    assert list(judge(url, [(0, notes)])) == ["a0-0-3: acknowledged, and not stored"]
    notes.write_text("")
    for planted, said in {
        "UPDATE counts SET count = count + 1": "Difference(table='counts'",
        "UPDATE projection_positions SET position = 1, digest = NULL WHERE name = 'accounts'": "accounts: at",
        "DELETE FROM stored_events WHERE notification_id = 9": "position 10 follows 8",
        "DELETE FROM evidence WHERE ordinal = 2 AND session = 'a0-0-1'": "is gone",
    }.items():
        with psycopg.connect(url) as connection:
            connection.execute(planted.encode())
        assert any(said in each for each in judge(url, [(0, notes)])), planted


# A transaction that is held open ------------------------------------------------------------------------------------


class Late:
    """Somebody who appends, and commits later; or not at all."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url)
        self.version = 0

    def append(self, events: int) -> None:
        versions = [self.version + each for each in range(1, events + 1)]
        state = b"\x92"
        self.connection.execute(
            "SELECT accountledger_append(%s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::bytea[], "
            "'{}', '{}', '{}', '{}', '{}', '{}')",
            (["late:late"] * events, versions, ["SessionOpened"] * events, [state] * events, [b""] * events),
        )
        self._appended = events

    def commit(self) -> None:
        self.connection.commit()
        self.version += self._appended

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.connection.close()


def schedules(url: str, count: int, seed: int) -> tuple[list[int], int]:
    """Somebody holds a transaction open while another appends, again and again; a follower reads on from where it is
    all the time. What it saw, and how many events there are."""
    rand = random.Random(seed)
    seen: list[int] = []
    over = threading.Event()

    def look() -> None:
        with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
            sql = "SELECT notification_id FROM stored_events WHERE notification_id > %s ORDER BY notification_id"
            while True:
                last = over.is_set()
                seen.extend(row[0] for row in cursor.execute(sql, (seen[-1] if seen else 0,)))
                if last:
                    return

    follower = threading.Thread(target=look)
    late = Late(url)
    with Ledger(url) as ledger, ledger.intake(bitopro, "main") as intake:
        follower.start()
        try:
            for number in range(count):
                late.append(rand.randint(1, 3))
                frames = [
                    (contending.frame("main", number * 10 + each), number + 1)
                    for each in range(rand.randint(1, 4))
                ]
                other = threading.Thread(target=intake.receive_all, args=(frames,))
                other.start()
                time.sleep(rand.uniform(0, 0.006))
                late.commit() if rand.random() < 0.8 else late.rollback()
                other.join()
        finally:
            over.set()
            follower.join()
            late.close()
    with psycopg.connect(url) as connection:
        (stored,) = connection.execute("SELECT count(*) FROM stored_events").fetchone() or (0,)
    return seen, int(stored)


def test_a_follower_never_reads_past_a_transaction_that_is_held_open(schemas: Schemas) -> None:
    seen, stored = schedules(schemas.url(), SCHEDULES, seed=7)
    closed = 1  # recorded after the follower's last look
    assert seen[: stored - closed] == list(range(1, stored))


def test_without_the_lock_a_follower_skips_and_it_is_seen(schemas: Schemas) -> None:
    url = schemas.url()
    Ledger(url).close()
    with psycopg.connect(url) as connection:
        (made,) = connection.execute(
            "SELECT pg_get_functiondef('accountledger_append'::regproc)"
        ).fetchone() or ("",)
        planted = made.replace("LOCK TABLE stored_events IN EXCLUSIVE MODE;", "").replace(
            "SELECT coalesce(max(notification_id), 0) INTO before FROM stored_events;",
            "before := nextval('stored_events_notification_id_seq') + 10;",
        )
        assert planted.count("nextval") == 1
        connection.execute(
            planted.replace("before + cardinality(accounts)", "before + cardinality(accounts) + 10")
        )
    seen, stored = schedules(url, 30, seed=7)
    assert len(seen) < stored - 1


def test_a_projection_follows_because_it_is_told(schemas: Schemas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.subscription.FOLLOW_S", 600.0)  # of itself it looks once only
    url = schemas.url()
    stop = threading.Event()
    with Ledger(url) as ledger, Ledger(url) as following:
        counts = Counts(following)
        follower = threading.Thread(target=follow, args=(following, [counts]), kwargs={"stop": stop})
        follower.start()
        try:
            with ledger.intake(bitopro, "main") as intake:
                for number in range(20):
                    intake.receive_all([(contending.frame("main", number), number + 1)])
                    time.sleep(0.002)
            until = time.monotonic() + 10
            while len(counts.seen) < 22 and time.monotonic() < until:
                time.sleep(0.01)
        finally:
            stop.set()
            follower.join()
        assert counts.seen == list(range(1, 23))
        assert counts.counts() == {"bitopro:main": (22, 22)}
