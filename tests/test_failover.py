"""A server that is lost, and a standby server that takes over: the ledger goes on there, with all it acknowledged."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from ledger import Ledger
from ledger.venues import bitopro
from projections import Balances
from tests.contending import Postmaster, frame


class Pair:
    """A server, and one that has all of what the first acknowledged."""

    def __init__(self, first: str, second: str) -> None:
        self.server = Postmaster(first)
        self._second = Path(second)
        self._bin = Path(self.server.command[0]).parent
        user = pwd.getpwuid((Path(first) / "PG_VERSION").stat().st_uid).pw_name
        self._who: dict[str, Any] = {"user": user} if os.geteuid() == 0 else {}
        if self._who:
            os.chown(second, pwd.getpwnam(user).pw_uid, -1)
        self._second.chmod(0o700)
        self._run(
            "pg_basebackup", "-h", first, "-U", "postgres", "-D", second, "-R", "-X", "stream", "-c", "fast"
        )
        for left in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self._second / left).unlink(missing_ok=True)
        command = [each.replace(first, second) for each in self.server.command]
        self._log = (self._second / "log").open("ab")
        self._standby = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd=second, **self._who)
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            until = time.monotonic() + 20
            while (
                connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone()
                is None
            ):
                assert time.monotonic() < until, (self._second / "log").read_text()[-1500:]
                time.sleep(0.05)
        both = quote(f"{first},{second}", safe="")
        self.url = f"postgresql://postgres@/postgres?host={both}&target_session_attrs=read-write"

    def _run(self, command: str, *args: str) -> None:
        subprocess.run([self._bin / command, *args], check=True, capture_output=True, **self._who)

    def fail_over(self) -> None:
        self.server.kill()
        time.sleep(0.3)
        self._run("pg_ctl", "-D", str(self._second), "promote", "-w")
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        self._standby.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._standby.wait(10)
        self._standby.kill()
        self._standby.wait()
        self._log.close()


@pytest.fixture
def pair() -> Generator[Pair]:
    with (
        tempfile.TemporaryDirectory(prefix="pga") as first,
        tempfile.TemporaryDirectory(prefix="pgb") as second,
    ):
        made = Pair(first, second)
        yield made
        made.stop()


def test_a_ledger_goes_on_where_the_standby_server_took_over(pair: Pair) -> None:
    with Ledger(pair.url) as ledger, ledger.intake(bitopro, "main") as intake:
        intake.receive_all([(frame("main", number), number + 1) for number in range(300)])
        over = threading.Thread(target=pair.fail_over)
        over.start()
        for number in range(300, 340):
            assert 1 == intake.receive(frame("main", number), number + 1).recorded
            time.sleep(0.02)
        over.join()
        assert 341 == ledger.position()
        assert "339.5" == str(Balances(ledger)["bitopro:main"]["ADA"].total)
        assert not list(ledger.verify([bitopro]))
