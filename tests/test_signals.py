"""`accountledger run` as a process: it is stopped by a signal or a timer and keeps what it received, is killed and goes
on, tells what a venue refused, and shows a secret nowhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Ledger
from ledger.events import SessionClosed, SessionOpened
from projections import Balances
from tests import terminal
from tests.exchanges import BitoPro, Cascade, DeltaDefi, Exchange, KrakenPrime, Pacifica
from tests.feeding import WALLET, events
from tests.terminal import run

EXIT_S: Final = 7.0
ROOT: Final = Path(__file__).parents[1]
MAIN: Final = "bitopro:main"
ENVIRON: Final = {
    "BITOPRO_IDENTITY": "canary-somebody@example.org",
    "BITOPRO_KEY": "canary-test-bitopro-key",
    "BITOPRO_SECRET": "canary-test-bitopro-secret",
    "KRAKEN_KEY": "canary-test-kraken-key",
    "KRAKEN_SECRET": "canary-test-kraken-secret",
    "DELTADEFI_KEY": "canary-test-deltadefi-key+/=&",
    "CASCADE_KEY": WALLET.key.hex(),
    "PACIFICA_KEY": "canary-test-pacifica-key",
}
VENUE_BITOPRO: Final = """
[[feed]]
venue = "bitopro"
account = "{account}"
identity = "env:BITOPRO_IDENTITY"
key = "env:BITOPRO_KEY"
secret = "env:{secret}"
url = "{url}"
"""
OTHERS: Final = """
[[feed]]
venue = "kraken_prime"
account = "desk"
key = "env:KRAKEN_KEY"
secret = "env:KRAKEN_SECRET"
url = "{kraken_prime.ws}"

[[feed]]
venue = "deltadefi"
key = "env:DELTADEFI_KEY"
url = "{deltadefi.ws}"
rest_url = "{deltadefi.http}"

[[feed]]
venue = "cascade"
address = "{address}"
private_key = "env:CASCADE_KEY"
subaccounts = [0]
url = "{cascade.ws}"
rest_url = "{cascade.http}"

[[feed]]
venue = "pacifica"
account = "42trU9A5exampleWallet"
key = "env:PACIFICA_KEY"
rest_url = "{pacifica.http}"
"""
LOUD: Final = """
import logging, warnings
logging.basicConfig(level=logging.DEBUG)
warnings.simplefilter("always")
"""
FAILS_ONCE: Final = """
import pathlib, ledger.errors, ledger.run
catch_up = ledger.run.catch_up

def once(*arguments, **more):
    ledger.run.catch_up = catch_up
    pathlib.Path("failed").touch()
    raise {error}

ledger.run.catch_up = once
"""


def bitopro(secret: str = ENVIRON["BITOPRO_SECRET"]) -> BitoPro:
    return BitoPro(ENVIRON["BITOPRO_KEY"], secret, ENVIRON["BITOPRO_IDENTITY"])


class Process:
    """`accountledger run` in a process of its own."""

    stdout: int = subprocess.PIPE

    def __init__(self, folder: Path, *args: str, **environ: str) -> None:
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ledger",
                "run",
                "FEEDS.toml",
                "--db",
                terminal.place(folder / "a.db"),
                *args,
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **ENVIRON, **environ},
            stdout=self.stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, number: signal.Signals | None = None, within_s: float = EXIT_S) -> tuple[int, str, str]:
        """Send it a signal, if any, and wait for its end: exit code, output, error output."""
        if number is not None:
            self._process.send_signal(number)
        try:
            out, err = self._process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            raise AssertionError(f"not over within {within_s} s: {out}{err}") from None
        return self._process.returncode, out, err


@contextmanager
def pushing(exchange: BitoPro, pace_s: float = 0.0005) -> Generator[None]:
    """The exchange never stops talking."""
    over = threading.Event()

    def push() -> None:
        number = 0
        while not over.wait(pace_s):
            number += 1
            if exchange.live:
                exchange.set("BTC", f"{number}.00000001")

    thread = threading.Thread(target=push)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stored(ledger: Ledger, session: str) -> list[bytes]:
    frames: list[bytes] = []
    while (payload := ledger.frame_bytes(session, len(frames) + 1)) is not None:
        frames.append(payload)
    return frames


def check(folder: Path, exchange: BitoPro, causes: list[str]) -> None:
    """Each connection's frames are stored from the first on, none twice; the ends are these."""
    with Ledger(folder / "a.db", read_only=True) as ledger:
        closed = events(ledger, MAIN, SessionClosed)
        assert causes == [each.cause for each in closed]
        opened = events(ledger, MAIN, SessionOpened)
        assert len(opened) == len(exchange.connections)
        for each, served in zip(opened, exchange.connections, strict=True):
            frames = stored(ledger, each.source.session)
            assert frames == [str(sent).encode() for sent in served.sent[: len(frames)]]
            assert len(frames) > 100
            for end in closed:
                if end.source.session == each.source.session:
                    assert (end.frames, end.recorded) == (len(frames), len(frames))
                    assert (end.duplicates, end.control, end.quarantined) == (0, 0, 0)
        last = [
            str(served.sent[len(stored(ledger, each.source.session)) - 1])
            for each, served in zip(opened, exchange.connections, strict=True)
        ][-1]
        assert f'"amount":"{Balances(ledger)[MAIN]["BTC"].total}"' in last


def write(folder: Path, *feeds: str) -> None:
    (folder / "FEEDS.toml").write_text("".join(feeds))


@pytest.mark.few(1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_under_load_and_what_was_received_is_stored(
    number: signal.Signals, tmp_path: Path
) -> None:
    with bitopro() as exchange, pushing(exchange):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        process = Process(tmp_path)
        exchange.until(lambda: bool(exchange.live), 10)
        time.sleep(0.6)
        began = time.monotonic()
        code, out, err = process.end(number)
        assert time.monotonic() - began < EXIT_S
    assert (code, err) == (0, "")
    assert f"stopped: {number.name}" in out.splitlines()[-1]
    check(tmp_path, exchange, [f"stopped: {number.name}"])


@pytest.mark.few(0)
def test_it_stops_by_itself_after_so_many_seconds(tmp_path: Path) -> None:
    with bitopro() as exchange, pushing(exchange):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        code, out, err = Process(tmp_path, "--for", "1.5").end(within_s=10)
    assert (code, err) == (0, "")
    assert "stopped: after 1.5 s" in out.splitlines()[-1]
    check(tmp_path, exchange, ["stopped: after 1.5 s"])


def test_killed_and_run_again_it_goes_on_and_doubles_nothing(tmp_path: Path) -> None:
    with bitopro() as exchange, pushing(exchange):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        process = Process(tmp_path)
        exchange.until(lambda: bool(exchange.live), 10)
        time.sleep(0.6)
        assert process.end(signal.SIGKILL)[0] == -signal.SIGKILL
        exchange.until(lambda: not exchange.live)
        code, _, err = Process(tmp_path, "--for", "1.5").end(within_s=10)
    assert (code, err) == (0, "")
    check(tmp_path, exchange, ["stopped: after 1.5 s"])


@pytest.mark.few(0)
def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    with bitopro() as exchange, pushing(exchange):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        process = Process(tmp_path)
        exchange.until(lambda: bool(exchange.live), 10)
        time.sleep(0.6)
        process._process.send_signal(signal.SIGINT)
        code, _, err = process.end(signal.SIGINT)
    assert (code, err) == (0, "")
    check(tmp_path, exchange, ["stopped: SIGINT"])


SLOW_TO_TELL: Final = """
import time
from projections import Views

def tell(self):
    print("telling", flush=True)
    time.sleep(1)

Views.tell = tell
Views.tell_at_times = lambda self: None
"""


@pytest.mark.few(0)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_when_the_feeds_have_ended_changes_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_TELL)
    with bitopro() as exchange, pushing(exchange):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        process = Process(tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        exchange.until(lambda: bool(exchange.live), 10)
        time.sleep(0.6)
        process.send(signal.SIGTERM)
        assert process._process.stdout is not None
        assert any(line == "telling\n" for line in process._process.stdout)
        code, _, err = process.end(number)
    assert (code, err) == (0, "")
    check(tmp_path, exchange, ["stopped: SIGTERM"])


@pytest.mark.few(0)
def test_a_refused_login_is_told_and_the_other_feed_goes_on(tmp_path: Path) -> None:
    with bitopro() as well, bitopro("another-test-secret") as wrong, pushing(well):
        write(
            tmp_path,
            VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=well.ws),
            VENUE_BITOPRO.format(account="wrong", secret="BITOPRO_SECRET", url=wrong.ws),
        )
        process = Process(tmp_path)
        wrong.until(lambda: wrong.logins_refused == 3, 15)
        time.sleep(0.7)
        assert len(well.live) == 1
        code, out, err = process.end(signal.SIGTERM)
        assert wrong.logins_refused == 3
    assert code == 1, out
    assert err == ""
    assert "bitopro:wrong  refused: HTTP 401 to the upgrade of ws://127.0.0.1" in out
    assert f"{MAIN}  live" in out
    check(tmp_path, well, ["stopped: SIGTERM"])


@contextmanager
def five(folder: Path) -> Generator[list[Exchange]]:
    """The five exchanges, and a FEEDS.toml of them."""
    with ExitStack() as stack:
        enter = stack.enter_context
        first, kraken_prime = (
            enter(bitopro()),
            enter(KrakenPrime(ENVIRON["KRAKEN_KEY"], ENVIRON["KRAKEN_SECRET"])),
        )
        deltadefi, cascade = enter(DeltaDefi(ENVIRON["DELTADEFI_KEY"])), enter(Cascade(str(WALLET.address)))
        pacifica = enter(Pacifica(api_key=ENVIRON["PACIFICA_KEY"]))
        first.set("BTC", "1.50", "1.25")
        kraken_prime.set("USD", "-5.25", "0")
        deltadefi.set("ada", "12.5", "10.25", unit="lovelace")
        cascade.set(0, "1000.500000")
        for _ in range(3):
            pacifica.add_row("1.25")
        write(
            folder,
            VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=first.ws),
            OTHERS.format(
                kraken_prime=kraken_prime,
                deltadefi=deltadefi,
                cascade=cascade,
                pacifica=pacifica,
                address=WALLET.address,
            ),
        )
        yield [first, kraken_prime, deltadefi, cascade, pacifica]


def spellings(secret: str) -> Iterable[bytes]:
    from base64 import b64encode, urlsafe_b64encode
    from urllib.parse import quote, quote_plus

    raw = secret.encode()
    yield from (raw, quote(secret, safe="").encode(), quote_plus(secret).encode())
    yield from (b64encode(raw).rstrip(b"="), urlsafe_b64encode(raw).rstrip(b"="))


def rows(folder: Path, name: str) -> list[tuple[Any, ...]]:
    with Ledger(folder / name) as ledger:
        return [(row.account, row.asset_id, row.total, row.available) for row in Balances(ledger).rows()]


def stored_in(folder: Path, when: str) -> dict[str, bytes]:
    """Every byte of the ledger: its files, or where it has none every cell of its tables."""
    if files := {f"{each.name} {when}": each.read_bytes() for each in folder.glob("a.db*")}:
        assert f"a.db-wal {when}" in files or when == "at the end"
        return files
    with Ledger(folder / "a.db", read_only=True) as ledger:
        tables = ledger.select(
            "SELECT table_name FROM information_schema.tables WHERE table_schema=current_schema()"
        )
        assert ("stored_events",) in tables
        names = [str(name) for (name,) in tables]
        return {f"{name} {when}": repr(ledger.select(f"SELECT * FROM {name}")).encode() for name in names}


@pytest.mark.few(1)
@pytest.mark.parametrize("loud", ["PYTHONDEVMODE", "logging"])
def test_no_secret_is_shown_or_kept_and_the_tapes_make_the_same_ledger(loud: str, tmp_path: Path) -> None:
    environ = {"PYTHONDEVMODE": "1"} if loud == "PYTHONDEVMODE" else {}
    if loud == "logging":
        (tmp_path / "sitecustomize.py").write_text(LOUD)
        environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    with five(tmp_path) as exchanges:
        process = Process(tmp_path, "--tape", "tapes", **environ)
        for each in exchanges[:4]:
            each.until(lambda: bool(each.live), 15)  # noqa: B023
        exchanges[4].until(lambda: bool(exchanges[4].logins_accepted))
        cascade = exchanges[3]
        assert isinstance(cascade, Cascade)
        cascade.until(lambda: bool(cascade.subscribed()))
        time.sleep(0.5)
        for each, name in zip(exchanges, ("BITOPRO_KEY", "KRAKEN_KEY", "DELTADEFI_KEY"), strict=False):
            each.send_all(f'{{"error":"not with {ENVIRON[name]}"}}')  # a venue that repeats what it was told
        cascade.send_all(f'{{"token":"{cascade.tokens[0]}"}}')
        cascade.send_all(f'{{"signature":"{WALLET.key.hex()}"}}')
        time.sleep(0.5)
        kept = stored_in(tmp_path, "while it ran")
        code, out, err = process.end(signal.SIGTERM)
    assert code == 1, out + err  # what was repeated is in quarantine
    kept |= {"out": out.encode(), "err": err.encode()} | stored_in(tmp_path, "at the end")
    kept |= {path.name: path.read_bytes() for path in (tmp_path / "tapes").iterdir()}
    for name, secret in [*ENVIRON.items(), ("TOKEN", cascade.tokens[0])]:
        for spelled in spellings(secret):
            shown = [place for place, content in kept.items() if spelled in content]
            assert not shown, f"{name} is shown in {shown}"
    assert "ResourceWarning" not in err
    for path in sorted((tmp_path / "tapes").iterdir()):
        venue, _, rest = path.name.partition("-")
        account = rest.rsplit("-", 2)[0]
        ran = run(tmp_path, "ingest", "--db", "b.db", venue, account, path)
        assert ran.code in (0, 1), ran
        assert ran.err == ""
    assert rows(tmp_path, "a.db") == rows(tmp_path, "b.db")
    assert len(rows(tmp_path, "a.db")) == 5


@pytest.mark.few(0)
def test_a_folder_for_tapes_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url="ws://127.0.0.1:9"))
    (tmp_path / "tapes").write_text("a file")
    for folder in ("tapes", "tapes/below", "/proc/nothing"):
        code, out, err = Process(tmp_path, "--tape", folder).end()
        assert (code, out) == (2, "")
        assert err.startswith("accountledger: ")
        assert folder in err
        assert len(err.splitlines()) == 1


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "error", ['ledger.errors.StoreError("a.db: database or disk is full")', 'OverflowError("a defect")']
)
def test_projections_that_cannot_be_kept_caught_up_stop_no_feed(error: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILS_ONCE.format(error=error))
    with bitopro() as exchange, pushing(exchange):
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        environ = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        code, _, err = Process(tmp_path, "--for", "3", **environ).end(within_s=12)
        assert (tmp_path / "failed").exists()
    assert code == 0, err
    assert "Traceback" not in err
    check(tmp_path, exchange, ["stopped: after 3 s"])


@contextmanager
def full_disk() -> Generator[int]:
    with open("/dev/full", "wb") as file:
        yield file.fileno()


@contextmanager
def nobody_reads() -> Generator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("output", [full_disk, nobody_reads])
def test_output_that_cannot_be_written_stops_no_feed(
    output: Callable[[], AbstractContextManager[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bitopro() as exchange, pushing(exchange), output() as stdout:
        write(tmp_path, VENUE_BITOPRO.format(account="main", secret="BITOPRO_SECRET", url=exchange.ws))
        monkeypatch.setattr(Process, "stdout", stdout)
        code, _, err = Process(tmp_path, "--for", "1.5").end()
    assert (code, err) == (0, "")
    check(tmp_path, exchange, ["stopped: after 1.5 s"])
