"""`accountledger run` twice on one feed: the second stands by, and takes over when the first is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from ledger import Ledger
from ledger.errors import LeaseLost, StoreError
from ledger.events import SessionClosed, SessionOpened
from ledger.venues import bitopro as venue
from ledger.venues import pacifica
from projections import Gaps
from tests.contending import Postmaster, frame
from tests.databases import Schemas
from tests.exchanges import Pacifica
from tests.feeding import events
from tests.test_session import until
from tests.test_signals import MAIN, ROOT, VENUE_BITOPRO, Process, bitopro, pushing, stored, write
from transports import Feed, live
from transports.session import DRAIN_S

TAKEOVER_S = 10.0


def test_a_standby_takes_over_a_feed_whose_process_was_killed(schemas: Schemas, tmp_path: Path) -> None:
    url = schemas.url()
    with bitopro() as exchange, pushing(exchange, 0.002):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        first = Process(tmp_path, "--db", url)
        exchange.until(lambda: bool(exchange.live), 15)
        second = Process(tmp_path, "--db", url)
        time.sleep(3.0)
        assert len(exchange.connections) == 1  # it stands by, and does not log in
        killed = time.monotonic()
        assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
        exchange.until(lambda: len(exchange.connections) == 2 and bool(exchange.live), TAKEOVER_S)
        assert time.monotonic() - killed < TAKEOVER_S
        time.sleep(0.5)
        code, out, err = second.end(signal.SIGTERM)
    assert (code, err) == (0, "")
    assert f"{MAIN}  standby: another process feeds this account" in out
    with Ledger(url, read_only=True) as ledger:
        assert not list(ledger.verify([venue]))
        opened = events(ledger, MAIN, SessionOpened)
        assert ["stopped: SIGTERM"] == [each.cause for each in events(ledger, MAIN, SessionClosed)]
        assert len(opened) == 2
        for each, served in zip(
            opened, exchange.connections, strict=True
        ):  # a prefix of what was sent, each once
            frames = stored(ledger, each.source.session)
            assert len(frames) > 20
            assert frames == [str(sent).encode() for sent in served.sent[: len(frames)]]
        blind = [gap for gap in Gaps(ledger).rows() if gap.kind == "blind"]
        assert len(blind) == 1


def test_a_standby_that_is_not_needed_ends_well(schemas: Schemas, tmp_path: Path) -> None:
    url = schemas.url()
    with bitopro() as exchange, Ledger(url) as ledger:
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        assert ledger.lease(MAIN)
        code, out, err = Process(tmp_path, "--db", url, "--for", "1").end(within_s=10)
        assert not exchange.connections
    assert (code, err) == (0, "")
    assert "stood by: another process feeds it" in out.splitlines()[-1]


def test_a_lease_is_had_by_one_and_ends_with_release_and_with_its_ledger(schemas: Schemas) -> None:
    url = schemas.url()
    with Ledger(url) as second:
        with Ledger(url) as first:
            assert first.lease(MAIN)
            assert first.lease(MAIN)
            assert not second.lease(MAIN)
            assert second.lease("bitopro:other")
            first.release(MAIN)
            assert second.lease(MAIN)
            second.release(MAIN)
            assert first.lease(MAIN)
        assert second.lease(MAIN)


def cut(url: str, ledger: Ledger) -> None:
    """End every connection to the server that appended, and wait until they are gone."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND application_name = 'accountledger' AND query LIKE '%%accountledger_append%%'"
        )


def test_a_writer_that_lost_its_lease_cannot_append(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.postgres.LEASE_S", 0.3)
    url = schemas.url()
    with Ledger(url) as first, Ledger(url) as second:
        assert first.lease(MAIN)
        intake = first.intake(venue, "main")
        intake.receive(frame("main", 1))
        cut(url, first)
        assert second.lease(MAIN)
        before = second.position()
        with pytest.raises(LeaseLost, match=f"another process feeds {MAIN} now"):
            intake.receive(frame("main", 2))
        assert second.position() == before
        second.release(MAIN)
        with pytest.raises(LeaseLost):  # nobody has it, but another had it since
            intake.receive(frame("main", 2))
        assert first.lease(MAIN)
        with pytest.raises(LeaseLost):
            intake.close()
        with first.intake(venue, "main") as anew:
            assert 1 == anew.receive(frame("main", 2)).recorded
        assert not second.lease(MAIN)


def lock_lost(url: str) -> None:
    """End the connections that hold a lease, and wait until they are gone."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
        assert (True,) in connection.execute(ended).fetchall()


def test_a_writer_whose_lease_another_had_meanwhile_never_appends_under_it_again(schemas: Schemas) -> None:
    url = schemas.url()
    with Ledger(url) as first, Ledger(url) as second:
        assert first.lease(MAIN)
        intake = first.intake(venue, "main")
        intake.receive(frame("main", 1))
        lock_lost(url)
        assert second.lease(MAIN)
        with second.intake(venue, "main") as other:
            other.receive(frame("main", 2))
        second.release(MAIN)
        refused: list[Callable[[], object]] = [
            lambda: intake.receive(frame("main", 3)),
            intake.keep,
            intake.close,
        ]
        for work in refused:
            with pytest.raises(LeaseLost, match=f"another process feeds {MAIN} now, or has since we did"):
                work()
        with pytest.raises(LeaseLost):
            first.intake(venue, "main")  # under the lease that is lost
        assert second.lease(MAIN)  # who was refused holds nothing
        second.release(MAIN)
        opened, one, *others = first.replay(MAIN)
        assert {intake.session} == {each.event.source.session for each in (opened, one)}
        assert {other.session} == {each.event.source.session for each in others}
        assert 3 == len(others)


def test_a_lease_that_nobody_else_had_is_had_again_whatever_became_of_the_connection(
    schemas: Schemas,
) -> None:
    url = schemas.url()
    with Ledger(url) as first, Ledger(url) as second:
        assert first.lease(MAIN)
        with first.intake(venue, "main") as intake:
            look: list[Callable[[], object]] = [lambda: None, intake.keep, lambda: first.lease(MAIN)]
            for number, again in enumerate(look):
                lock_lost(url)
                again()
                assert 1 == intake.receive(frame("main", number)).recorded
                assert not second.lease(MAIN)
        first.release(MAIN)
        assert second.lease(MAIN)


@pytest.mark.parametrize("pace_s", [0.02, 3600.0], ids=["frames come", "nothing comes"])
def test_a_leader_that_slept_while_another_took_over_stands_by(
    schemas: Schemas, tmp_path: Path, pace_s: float
) -> None:
    url = schemas.url()
    with bitopro() as exchange, pushing(exchange, pace_s):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        first = Process(tmp_path, "--db", url)
        exchange.until(lambda: bool(exchange.live), 15)
        time.sleep(0.5)
        second = Process(tmp_path, "--db", url)
        first.send(signal.SIGSTOP)
        lock_lost(url)
        exchange.until(lambda: len(exchange.connections) == 2, TAKEOVER_S)
        first.send(signal.SIGCONT)
        exchange.until(lambda: not exchange.connections[0].open, TAKEOVER_S)
        time.sleep(1.5)
        assert len(exchange.connections) == 2
        assert "standby: another process feeds this account" in first.end(signal.SIGTERM)[1]
        assert second.end(signal.SIGTERM)[0] == 0
    with Ledger(url, read_only=True) as ledger:
        sessions = [each.event.source.session for each in ledger.replay(MAIN)]
        assert sessions == sorted(sessions, key=list(dict.fromkeys(sessions)).index)  # one after the other
        assert len(set(sessions)) == 2
        assert not list(ledger.verify([venue]))


async def test_a_feed_that_only_polls_stands_by_too_where_another_took_over_and_no_row_comes(
    schemas: Schemas,
) -> None:
    url = schemas.url()
    with Pacifica() as exchange, Ledger(url) as first, Ledger(url) as second:
        exchange.add_row("1.25")
        feed = Feed(pacifica, exchange.account, rest_url=exchange.http)
        async with live(first, feed):
            await until(lambda: feed.health.frames == 2)  # its history, and its account
            lock_lost(url)
            assert second.lease(feed.name)
            await until(lambda: feed.health.state == "standby", TAKEOVER_S)
            answered = exchange.logins_accepted
            second.release(feed.name)
            await until(lambda: feed.health.state == "live", TAKEOVER_S)
            assert exchange.logins_accepted == answered + 1
        assert 2 == len(events(second, feed.name, SessionOpened))


def test_a_writer_whose_connection_was_cut_goes_on_and_holds_its_lease(schemas: Schemas) -> None:
    url = schemas.url()
    with Ledger(url) as ledger, ledger.intake(venue, "main") as intake:
        assert ledger.lease(MAIN)
        for number in range(5):
            intake.receive(frame("main", number))
            cut(url, ledger)
        assert 5 == intake.tally.recorded
    with Ledger(url, read_only=True) as ledger:
        assert not list(ledger.verify([venue]))
        assert 7 == ledger.position()


def follow(url: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ledger", "follow", "--db", url, *args],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_follow_keeps_projections_caught_up_until_it_is_told_to_stop(schemas: Schemas) -> None:
    url = schemas.url()
    with Ledger(url) as ledger:
        following = [follow(url, "--only", "balances"), follow(url, "--only", "orders", "--only", "fills")]
        with ledger.intake(venue, "main") as intake:
            for number in range(30):
                intake.receive(frame("main", number))
        sql = "SELECT name FROM projection_positions WHERE position=? ORDER BY name"
        until = time.monotonic() + 15
        while time.monotonic() < until:
            if ledger.columns("projection_positions") and len(ledger.select(sql, (32,))) == 3:
                break
            time.sleep(0.05)
        assert [("balances",), ("fills",), ("orders",)] == ledger.select(sql, (32,))
        for each in following:
            each.send_signal(signal.SIGTERM)
            out, err = each.communicate(timeout=10)
            assert (each.returncode, err) == (0, "")
            assert out.splitlines()[-1] == "32 events folded; caught up to position 32 of 32"


def test_a_follower_whose_server_is_away_ends_soon_when_it_is_told_to() -> None:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Postmaster(folder)
        with Ledger(server.url) as ledger, ledger.intake(venue, "main") as intake:
            intake.receive(frame("main", 1))
        following = follow(server.url)
        assert following.stdout is not None
        assert following.stdout.readline().startswith("following ")
        time.sleep(1.0)
        server.kill()
        time.sleep(1.0)
        following.send_signal(signal.SIGTERM)
        _, err = following.communicate(timeout=15.0)  # not the 30 s of patience
    assert 2 == following.returncode
    assert err.splitlines()[-1].startswith("accountledger: postgresql://")


def test_what_is_tried_again_already_is_given_up_too() -> None:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Postmaster(folder)
        with Ledger(server.url) as ledger:
            ledger.select("SELECT 1")
            server.kill()
            raised: list[Exception] = []

            def tried(work: Callable[[], object]) -> None:
                try:
                    while True:  # the server's children outlive it for a moment
                        work()
                except StoreError as error:
                    raised.append(error)

            works = (lambda: ledger.select("SELECT 1"), lambda: ledger.write([]))
            threads = [threading.Thread(target=tried, args=(work,), daemon=True) for work in works]
            for each in threads:
                each.start()
            time.sleep(1.0)
            assert not raised
            ledger.give_up_at(time.monotonic())
            for each in threads:
                each.join(5.0)
            assert [False, False] == [each.is_alive() for each in threads]
            assert 2 == len(raised)


def test_who_has_to_end_does_not_wait_for_a_server_that_says_nothing() -> None:
    """Frozen, or behind a proxy that lost it: there is a connection, and no answer on it, and no error."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Postmaster(folder)
        with Ledger(server.url) as ledger, ledger.intake(venue, "main") as intake:
            intake.receive(frame("main", 1))
            with psycopg.connect(server.url) as asked:
                ours = asked.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name='accountledger'"
                )
                frozen = [server.pid, *(pid for (pid,) in ours)]
            raised: list[Exception] = []

            def tried(work: Callable[[], object]) -> None:
                try:
                    work()
                except StoreError as error:
                    raised.append(error)

            works = (lambda: ledger.select("SELECT 1"), lambda: intake.receive(frame("main", 2)))
            threads = [threading.Thread(target=tried, args=(work,), daemon=True) for work in works]
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                for each in threads:
                    each.start()
                time.sleep(0.5)
                ledger.give_up_at(time.monotonic())
                for each in threads:
                    each.join(10.0)
                assert [False, False] == [each.is_alive() for each in threads]
            finally:
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)
            assert 2 == len(raised)
            ledger.give_up_at(None)
            intake.receive(frame("main", 2))  # whether it was stored or not
            intake.receive(frame("main", 3))
            assert [] == list(ledger.verify([venue]))
            assert 3 == len({each.event.key for each in ledger.replay() if each.event.source.evidence})
        server.stop()


def test_who_has_to_end_while_the_server_is_away_ends_and_says_what_is_lost(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Postmaster(folder)
        with bitopro() as exchange, pushing(exchange, 0.01):
            write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
            process = Process(tmp_path, "--db", server.url)
            exchange.until(lambda: bool(exchange.live), 15)
            time.sleep(1.0)
            server.kill()
            time.sleep(1.0)
            code, out, err = process.end(signal.SIGTERM, within_s=DRAIN_S + 12.0)  # not the 30 s of patience
    assert (code, err) == (1, "")
    assert re.search(rf"{MAIN}  .*\d+ frames received are not stored: ", out), out
