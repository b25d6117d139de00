"""The proxy that breaks things: every kind of break is seen from a raw socket, the same seed breaks the same way."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Generator
from typing import Final

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from tests.chaos import KINDS, Chaos, Frames, Kind, decide
from tests.exchanges import DeltaDefi

SENT: Final = bytes(range(256)) * 40


class Fountain:
    """Sends SENT to everyone, then waits; keeps what it is told."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.told = bytearray()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client.sendall(SENT)
            while data := client.recv(4096):
                self.told += data
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)
        for client in self._open:
            client.close()


@pytest.fixture
def fountain() -> Generator[Fountain]:
    made = Fountain()
    yield made
    made.close()


def dial(chaos: Chaos) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", chaos.port), timeout=5)
    try:
        client.sendall(b"?")
    except OSError:
        client.close()
        raise
    return client


def drink(client: socket.socket, most: int = 1 << 20) -> bytes:
    """What comes until the end, or so many bytes."""
    data = b""
    while len(data) < most and (piece := client.recv(most - len(data))):
        data += piece
    return data


def drink_until_reset(client: socket.socket) -> bytes:
    """What comes before the reset there must be."""
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        return data
    raise AssertionError("ended in good order, without a reset")


def test_what_passes_is_forwarded_whole_in_both_directions(fountain: Fountain) -> None:
    with Chaos(1, fountain.port, plan=["pass"]) as chaos, dial(chaos) as client:
        client.sendall(b"hello")
        assert drink(client, len(SENT)) == SENT
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        chaos.until(lambda: chaos.passages[0].over)
        assert fountain.told == b"?hello"
        passage = chaos.passages[0]
        assert (passage.down, passage.up, passage.broken) == (len(SENT), 6, False)


def test_a_reset_is_felt_as_one_after_exactly_the_bytes_it_was_decided_for(fountain: Fountain) -> None:
    with Chaos(2, fountain.port, kinds=["reset"], after=(0, 5000)) as chaos:
        for _ in range(5):
            with dial(chaos) as client:
                got = drink_until_reset(client)
            passage = chaos.passages[-1]
            assert got == SENT[: passage.after]
            assert (passage.down, passage.broken) == (len(got), True)
        assert len({passage.after for passage in chaos.passages}) > 1


def test_a_refused_connection_is_reset_before_a_byte(fountain: Fountain) -> None:
    with (
        Chaos(3, fountain.port, plan=["refuse"]) as chaos,
        pytest.raises((ConnectionResetError, BrokenPipeError)),
        dial(chaos) as client,
    ):
        client.recv(1)


def test_a_half_closed_connection_ends_downstream_and_still_carries_upstream(fountain: Fountain) -> None:
    with Chaos(4, fountain.port, plan=["half_close"]) as chaos, dial(chaos) as client:
        got = drink(client)
        assert got == SENT[: chaos.passages[0].after]
        client.sendall(b"still here")
        chaos.until(lambda: chaos.passages[0].up == 11)
        chaos.heal()
        chaos.until(lambda: chaos.passages[0].over)


def test_a_stalled_connection_stays_open_without_a_byte_until_it_is_healed(fountain: Fountain) -> None:
    with Chaos(5, fountain.port, plan=["stall", "stall"]) as chaos:
        with dial(chaos) as client:
            after = chaos.passages[0].after if chaos.passages else decide(5, 0, ["stall"], (0, 4000))[1]
            got = drink(client, after)
            assert got == SENT[:after]
            client.sendall(b"lost")
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1)
            assert not chaos.passages[0].over
            chaos.heal()
            client.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
            assert b"lost" not in fountain.told
        with dial(chaos) as client:
            assert drink(client, len(SENT)) == SENT


def test_slices_carry_everything_in_small_pieces(fountain: Fountain) -> None:
    with Chaos(6, fountain.port, plan=["slices"]) as chaos, dial(chaos) as client:
        pieces: list[int] = []
        got = b""
        while len(got) < len(SENT):
            piece = client.recv(65536)
            pieces.append(len(piece))
            got += piece
        assert got == SENT
        assert len(pieces) > 3


def test_garbage_is_inserted_and_everything_else_arrives(fountain: Fountain) -> None:
    with Chaos(7, fountain.port, plan=["garbage"]) as chaos, dial(chaos) as client:
        after = decide(7, 0, ["garbage"], (0, 4000))[1]
        chaos.until(lambda: bool(chaos.passages and chaos.passages[0].broken))
        garbage = chaos.passages[0].injected
        assert 1 <= len(garbage) <= 40
        assert drink(client, len(SENT) + len(garbage)) == SENT[:after] + garbage + SENT[after:]
        assert chaos.passages[0].down == after


@pytest.mark.parametrize("kind", ["cut", "fin"])
def test_a_cut_ends_the_stream_by_a_fin_even_where_the_client_has_just_sent(
    fountain: Fountain, kind: Kind
) -> None:
    with Chaos(8, fountain.port, plan=[kind]) as chaos, dial(chaos) as client:
        client.sendall(b"unread")
        got = drink(client)
        assert got == SENT[: max(1, chaos.passages[0].after)]
        assert chaos.passages[0].broken


# With an exchange --------------------------------------------------------------------------------------------------

STREAM: Final = "/accounts/stream?api_key=test-deltadefi-key"


def listen_to_the_break(kind: Kind, after: int, *, seed: int = 9) -> tuple[Chaos, list[str], int]:
    """What a client of a talkative exchange gets before the connection breaks, and the code it then sees."""
    messages: list[str] = []
    with DeltaDefi() as exchange, Chaos(seed, exchange.port, plan=[kind], after=(after, after)) as chaos:
        with connect(chaos.ws + STREAM, proxy=None, compression=None, close_timeout=1) as client:
            exchange.until(lambda: len(exchange.live) == 1)
            for number in range(100):
                exchange.set("ada", str(number))
            code = collect(client, messages)
        assert messages == exchange.connections[0].sent[: len(messages)]
    return chaos, messages, code


def collect(client: ClientConnection, messages: list[str]) -> int:
    """All messages until the connection breaks; the code it broke with."""
    try:
        while True:
            messages.append(str(client.recv(timeout=5)))
    except ConnectionClosedError as broken:
        return broken.rcvd.code if broken.rcvd else 1006


def test_a_fin_comes_between_two_frames_and_a_cut_inside_one() -> None:
    for after in (500, 1000, 1001):
        chaos, messages, code = listen_to_the_break("fin", after)
        assert (len(messages), code) == (chaos.passages[0].whole, 1006)
        assert chaos.passages[0].frames.between
        chaos, messages, code = listen_to_the_break("cut", after)
        assert (len(messages), code) == (chaos.passages[0].whole, 1006)
        assert not chaos.passages[0].frames.between


def test_every_whole_frame_before_a_reset_is_received_and_counted() -> None:
    chaos, messages, _ = listen_to_the_break("reset", 2345)
    assert chaos.passages[0].down == 2345
    assert len(messages) == chaos.passages[0].whole > 5


def test_garbage_in_a_stream_of_frames_ends_it() -> None:
    chaos, messages, code = listen_to_the_break("garbage", 3000)
    assert chaos.passages[0].injected
    assert len(messages) >= chaos.passages[0].whole
    assert code == 1006


def test_after_healing_connections_pass_whatever_the_seed_had_for_them() -> None:
    with DeltaDefi() as exchange, Chaos(10, exchange.port, kinds=["refuse"]) as chaos:
        with pytest.raises((ConnectionResetError, BrokenPipeError)), dial(chaos) as client:
            drink(client)
        chaos.heal()
        for _ in range(3):
            asking = http.client.HTTPConnection("127.0.0.1", chaos.port, timeout=5)
            asking.request("GET", "/accounts/balance", headers={"X-API-KEY": exchange.api_key})
            assert json.loads(asking.getresponse().read()) == []
            asking.close()
        assert [passage.kind for passage in chaos.passages] == ["refuse", "pass", "pass", "pass"]


def test_a_break_that_was_still_to_come_does_not_come_after_healing() -> None:
    with (
        DeltaDefi() as exchange,
        Chaos(11, exchange.port, plan=["reset"], after=(10_000, 10_000)) as chaos,
        connect(chaos.ws + STREAM, proxy=None, compression=None) as client,
    ):
        exchange.until(lambda: len(exchange.live) == 1)
        chaos.heal()
        exchange.send_all("x" * 20_000)
        assert len(client.recv(timeout=5)) == 20_000


def test_the_end_of_the_exchange_is_passed_on_as_it_was() -> None:
    with DeltaDefi() as exchange, Chaos(12, exchange.port, plan=[]) as chaos:
        head = (
            f"GET {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        for reset in (True, False):
            with socket.create_connection(("127.0.0.1", chaos.port), timeout=5) as client:
                client.sendall(head.encode())
                exchange.until(lambda: bool(exchange.live))
                exchange.reset_all() if reset else exchange.fin_all()
                if reset:
                    drink_until_reset(client)
                else:
                    assert drink(client).startswith(b"HTTP/1.1 101")


# Decisions ---------------------------------------------------------------------------------------------------------


def test_the_same_seed_decides_the_same_and_another_does_not() -> None:
    decided = [[decide(seed, number, KINDS, (0, 4000)) for number in range(100)] for seed in (1, 1, 2)]
    assert decided[0] == decided[1] != decided[2]
    assert {kind for kind, _, _ in decided[0]} == set(KINDS)


def test_the_same_seed_breaks_real_connections_at_the_same_bytes(fountain: Fountain) -> None:
    def run() -> list[tuple[str, int, int, bytes]]:
        with Chaos(13, fountain.port, kinds=["reset", "cut", "garbage", "refuse"]) as chaos:
            for _ in range(8):
                with contextlib.suppress(ConnectionResetError, BrokenPipeError), dial(chaos) as client:
                    drink(client, len(SENT))
            chaos.until(lambda: all(passage.broken for passage in chaos.passages))
            return [(each.kind, each.after, each.down, each.injected) for each in chaos.passages]

    assert run() == run()


def test_frames_are_counted_whole_whatever_the_slices() -> None:
    stream = (
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        b"\x81\x02hi"  # a message
        b"\x89\x01p"  # a ping
        b"\x01\x01a\x80\x01b"  # a message in two pieces
        b"\x82\x7e\x01\x00" + bytes(256) + b"\x88\x02\x03\xe8"
    )
    for size in (1, 3, 7, len(stream)):
        frames = Frames()
        for start in range(0, len(stream), size):
            frames.feed(stream[start : start + size])
        assert (frames.whole, frames.between) == (3, True)
    frames = Frames()
    frames.feed(stream[:-1])
    assert not frames.between
    frames = Frames()
    frames.feed(b"\x16\x03\x01")
    assert frames.opaque


def test_leaving_the_proxy_takes_no_time_whatever_is_open(fountain: Fountain) -> None:
    with contextlib.ExitStack() as clients:
        with Chaos(14, fountain.port, plan=list(KINDS)) as chaos:
            for _ in KINDS:
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    clients.enter_context(dial(chaos))
            chaos.until(lambda: len(chaos.passages) == len(KINDS))
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
