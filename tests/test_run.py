"""`accountledger run` and `serve` as a user types them: a served tape, the feed it prints, and what comes of it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from ledger import run as run_module
from ledger.feeds import read_feeds
from ledger.run import feeds_of, status, summary
from ledger.venues import deltadefi
from tests.terminal import Ran, rows, run, unheard
from transports import Health

TAPES = Path(run_module.__file__).parent / "demo"
VENUES = ("bitopro", "cascade", "deltadefi", "kraken_prime", "pacifica")
DEMO = {
    "BITOPRO_IDENTITY": "demo@example.com",
    "BITOPRO_KEY": "demo-key",
    "BITOPRO_SECRET": "demo-secret",
    "KRAKEN_PRIME_KEY": "demo-key",
    "KRAKEN_PRIME_SECRET": "demo-secret",
    "CASCADE_PRIVATE_KEY": "0x" + "46" * 32,
    "DELTADEFI_KEY": "demo-key",
}


@contextmanager
def served(*venues: str) -> Generator[str]:
    """The FEEDS.toml that `accountledger serve` prints for each of these tapes, while they are served."""
    started: list[subprocess.Popen[str]] = []
    try:
        for venue in venues:
            command = [sys.executable, "-W", "error", "-m", "ledger", "serve", str(TAPES / f"{venue}.tape")]
            started.append(
                subprocess.Popen(
                    [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        yield "".join(printed(each) for each in started)
    finally:
        for each in started:
            each.send_signal(signal.SIGTERM)
            out, err = each.communicate(timeout=10)
            assert (each.returncode, err) == (0, ""), out


def printed(process: subprocess.Popen[str]) -> str:
    """What it prints before it waits: a comment, and a feed that ends with its last address."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not (lines[-1].startswith(("url", "rest_url")) and "[[feed]]\n" in lines):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        lines.append(line)
        venue = next((each for each in lines if each.startswith("venue")), "")
        if line.startswith("url") and ("cascade" in venue or "deltadefi" in venue):
            lines.append(process.stdout.readline())
    return "".join(lines)


def run_feeds(folder: Path, feeds: str, *args: str) -> Ran:
    (folder / "FEEDS.toml").write_text(feeds)
    return run(folder, "run", "FEEDS.toml", "--db", "a.db", *args)


@pytest.fixture(autouse=True)
def _demo_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DEMO.items():
        monkeypatch.setenv(name, value)


def test_what_serve_prints_is_a_feed_that_runs(tmp_path: Path) -> None:
    with served(*VENUES) as feeds:
        assert 5 == feeds.count("[[feed]]")
        ran = run_feeds(tmp_path, feeds, "--for", "8", "--tape", "tapes")
    assert (ran.code, ran.err) == (1, "")  # a frame of the Cascade tape is unreadable: that is a finding
    last = ran.out.splitlines()[-5:]
    assert [re.sub(r"^([a-z_]+):.*", r"\1", line) for line in last] == list(VENUES)
    assert (
        "bitopro:main  4 frames: 4 recorded, 0 duplicates, 0 control, 0 quarantined; 0 reconnects; "
        in last[0]
    )
    assert last[0].endswith("0 reconnects; stopped: after 8 s")
    held = {(row["account"], row["asset"]): row for row in rows(tmp_path, "balances")}
    assert "1140000" == held["bitopro:main", "TWD"]["total"]
    assert "13.00000000" == held["kraken_prime:desk", "BTC"]["total"]
    assert "1050.25" == held["deltadefi:main", "ada"]["available"]
    wallet = "cascade:0x9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f"
    assert ["14862.104500", "2500.500000"] == [
        held[f"{wallet}/{number}", "USDC"]["total"] for number in (0, 1)
    ]

    tapes = sorted((tmp_path / "tapes").iterdir())
    assert 5 == len(tapes)
    assert not [
        tape for tape in tapes if b"demo-key" in tape.read_bytes() or b"demo-secret" in tape.read_bytes()
    ]
    (tmp_path / "again").mkdir()
    for tape in tapes:
        venue, account = re.findall(r'"(?:venue|account)": "([^"]+)"', tape.read_text().splitlines()[0])
        assert run(tmp_path / "again", "ingest", "--db", "a.db", venue, account, tape).code in (0, 1)
    assert rows(tmp_path, "balances") == rows(tmp_path / "again", "balances")
    assert rows(tmp_path, "gaps") == rows(tmp_path / "again", "gaps")


def test_a_wrong_key_is_told_and_the_other_feed_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served("bitopro", "kraken_prime") as feeds:
        monkeypatch.setenv("KRAKEN_PRIME_SECRET", "wrong-secret-of-test")
        ran = run_feeds(tmp_path, feeds, "--for", "4")
    assert (ran.code, ran.err) == (1, "")
    assert "kraken_prime:desk  refused: HTTP 401 to the upgrade of ws://127.0.0.1:" in ran.out
    assert "bitopro:main  4 frames: 4 recorded" in ran.out
    assert "wrong-secret" not in ran.out


def test_feeds_go_on_where_nobody_reads_any_more_what_is_printed(tmp_path: Path) -> None:
    with served("bitopro") as feeds:
        (tmp_path / "FEEDS.toml").write_text(feeds)
        assert (0, "") == unheard(tmp_path, "run", "FEEDS.toml", "--db", "a.db", "--for", "3")
    assert [("bitopro:main", 6)] == [(row["account"], row["events"]) for row in rows(tmp_path, "accounts")]


def test_when_every_login_is_refused_it_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITOPRO_SECRET", "wrong-secret-of-test")
    with served("bitopro") as feeds:
        began = time.monotonic()
        ran = run_feeds(tmp_path, feeds, "--for", "60")
    assert ran.code == 1
    assert time.monotonic() - began < 30


def test_a_venue_that_never_answers_is_a_finding(tmp_path: Path) -> None:
    feeds = '[[feed]]\nvenue = "bitopro"\nidentity = "me@example.com"\nkey = "env:BITOPRO_KEY"\n'
    ran = run_feeds(
        tmp_path, feeds + 'secret = "env:BITOPRO_SECRET"\nurl = "ws://127.0.0.1:9"\n', "--for", "1"
    )
    assert ran.code == 1
    assert "connection refused" in ran.out


def test_an_address_that_the_file_names_is_used_though_it_be_the_usual_one(tmp_path: Path) -> None:
    path = tmp_path / "FEEDS.toml"
    feed = '[[feed]]\nvenue = "deltadefi"\nkey = "env:DELTADEFI_KEY"\nurl = "ws://127.0.0.1:9"\n'
    for more, used in (
        ("", "http://127.0.0.1:9"),
        (f'rest_url = "{deltadefi.REST_URL}"\n', deltadefi.REST_URL),
    ):
        path.write_text(feed + more)
        (login,) = [each._login for each in feeds_of(read_feeds(path, {"deltadefi": deltadefi}), None)]
        assert isinstance(login, deltadefi.Login)
        assert ("ws://127.0.0.1:9", used) == (login.url, login.rest_url)


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        ("", "no [[feed]]"),
        ('[[feed]]\nvenue = "nowhere"\n', "is one of deltadefi, bitopro"),
        (
            '[[feed]]\nvenue = "bitopro"\nidentity = "a@b"\nkey = "literal-canary"\nsecret = "env:BITOPRO_SECRET"\n',
            "key",
        ),
        ('[[feed]]\nvenue = "deltadefi"\nkey = "env:NO_SUCH_VARIABLE"\n', "key"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(tmp_path: Path, feeds: str, told: str) -> None:
    ran = run_feeds(tmp_path, feeds, "--for", "1")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert told in ran.err
    assert "literal-canary" not in ran.err
    assert not (tmp_path / "a.db").exists()


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary-of-a-file\n")
    os.chmod(tmp_path / "key", 0o640)
    ran = run_feeds(tmp_path, '[[feed]]\nvenue = "deltadefi"\nkey = "file:key"\n', "--for", "1")
    assert (ran.code, "chmod 600" in ran.err, "canary" in ran.err) == (2, True, False)


def test_a_folder_for_tapes_that_cannot_be_had_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    ran = run_feeds(tmp_path, '[[feed]]\nvenue = "deltadefi"\nkey = "env:DELTADEFI_KEY"\n', "--tape", "taken")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)


def test_serve_tells_what_it_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "a.tape").write_text('{"tape": 2}\n')
    ran = run(tmp_path, "serve", "a.tape", "--port", "0")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    (tmp_path / "FEEDS.toml").write_text('[[feed]]\nvenue = "deltadefi"\nkey = "env:DELTADEFI_KEY"\n')
    ran = run(tmp_path, "serve", TAPES / "bitopro.tape", "--port", "0", "--feeds", "FEEDS.toml")
    assert (ran.code, "no feed of bitopro:main" in ran.err) == (2, True)


@pytest.mark.parametrize("width", [80, 200])
def test_the_status_table_shows_every_feed_and_what_there_is_to_say_of_it(width: int) -> None:
    reason = "HTTP 401: the venue refused the login: [red]no such key"
    console = Console(width=width, record=True, file=io.StringIO())
    feeds = [
        Health("bitopro:main", "live", last_frame_ns=time.time_ns() - 2_000_000_000, lag_s=0.0042, frames=7),
        Health("kraken_prime:desk", "waiting", reason, reconnects=2),
    ]
    console.print(status(feeds))
    text = console.export_text()
    assert "bitopro:main" in text
    assert "2 s ago" in text
    assert "4.2 ms" in text
    assert f"kraken_prime:desk waiting: {reason}" in " ".join(text.split())
    assert summary(feeds[0]).startswith("bitopro:main  7 frames: 0 recorded")


def test_a_feed_that_lost_what_it_received_says_so_also_when_it_is_live_again() -> None:
    lost = Health("bitopro:main", "live", unstored=2, unstored_why="disk full")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status([lost]))
    assert "bitopro:main live; 2 frames received are not stored: disk full" in " ".join(
        console.export_text().split()
    )
    assert summary(lost).endswith("; live; 2 frames received are not stored: disk full")
    one = Health("bitopro:main", "standby", "another feeds it", unstored=1, unstored_why="disk full")
    assert summary(one).endswith("; standby: another feeds it; 1 frame received is not stored: disk full")


def test_a_feed_that_is_not_all_on_tape_says_so_in_its_last_line() -> None:
    health = Health("bitopro:main", "stopped", "stopped: SIGTERM", untaped="No space left on device")
    assert summary(health).endswith("; stopped: SIGTERM; not all on tape: No space left on device")
