"""What the five test exchanges share: the port, the log, the counters, and the knobs that make trouble.

Knows no venue. A venue says `welcome` (an upgrade), `answer` (a request), `opened`, `heard`: all called under the lock.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

from tests.exchanges.served import PATIENCE_S, Answer, Asked, Message, Served


@dataclass
class Hold:
    """Answers to one path held back until `release`. `stale`: they say what was true when they were asked."""

    path: str
    stale: bool = True
    asked: threading.Event = field(default_factory=threading.Event)
    """Set when the first request has come; where stale, when its answer is made."""
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


class Exchange:
    """A server on 127.0.0.1, for the length of a `with` block.

    `requests`: every HTTP request, upgrades too. `connections`: every WebSocket there ever was; `live`: those open now.
    """

    LOGIN: ClassVar[str]
    """The path at which credentials are shown; `refuse` acts there unless told otherwise."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        ping_every_s: float | None = None,
        pong_within_s: float | None = None,
        deflate: bool = False,
    ) -> None:
        self._tls: Final = tls
        self.ping_every_s = ping_every_s
        self.pong_within_s = pong_within_s
        """End the connections that leave a ping unanswered for so long."""
        self.deflate = deflate
        self.lock: Final = threading.RLock()
        self._news: Final = threading.Condition(self.lock)
        self._refusals: dict[str, deque[Answer]] = {}
        self._holds: list[Hold] = []
        self._served: list[Served] = []
        self._listener = socket.socket()
        self._acceptor: Final = threading.Thread(target=self._accept, daemon=True)
        self.port = 0
        self.requests: list[Asked] = []
        self.connections: list[Served] = []
        self.logins_accepted = 0
        self.logins_refused = 0
        self.ignoring = 0
        """So many further messages are logged, and nothing comes of them."""
        self.skew_ms = 0
        """How far the clock of the exchange is ahead of ours."""

    def __enter__(self) -> Self:
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        for hold in self._holds:
            hold.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE_S)
        self._listener.close()
        for served in self._served:
            served.leave()

    @property
    def ws(self) -> str:
        """`ws://127.0.0.1:PORT`, or wss."""
        return f"{'ws' if self._tls is None else 'wss'}://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        """`http://127.0.0.1:PORT`, or https."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def live(self) -> list[Served]:
        """The WebSockets that are open now, oldest first."""
        with self.lock:
            return [each for each in self.connections if each.open]

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.skew_ms

    # Knobs -----------------------------------------------------------------------------------------------------------

    def refuse(
        self,
        times: int,
        status: int,
        *,
        retry_after: int | str | None = None,
        body: bytes = b"",
        path: str | None = None,
    ) -> None:
        """Answer the next so many requests at a path (default: the login) with a status, whatever they are."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        with self.lock:
            queue = self._refusals.setdefault(path or self.LOGIN, deque())
            queue.extend([Answer(status, body, headers)] * times)

    def hold(self, path: str, *, stale: bool = True) -> Hold:
        """Hold back the answers to a path until `release`. `stale`: they are made when asked for, not when released."""
        hold = Hold(path, stale)
        with self.lock:
            self._holds.append(hold)
        return hold

    def send_all(self, message: Message, pieces: int = 1) -> None:
        """Send any message at all to every live connection."""
        for each in self.live:
            each.send(message, pieces)

    def send_raw_all(self, garbage: bytes) -> None:
        for each in self.live:
            each.send_raw(garbage)

    def close_all(self, code: int = 1001, reason: str = "", *, keep_tcp: bool = False) -> None:
        for each in self.live:
            each.close(code, reason, keep_tcp)

    def reset_all(self) -> None:
        for each in self.live:
            each.reset()

    def fin_all(self) -> None:
        for each in self.live:
            each.fin()

    def stop_reading(self) -> None:
        for each in self.live:
            each.stop_reading()

    def go_silent(self) -> None:
        """Send nothing on the live connections any more; those opened later are served as ever."""
        for each in self.live:
            each.go_silent()

    def resume(self) -> None:
        for each in self.live:
            each.resume()

    def ping(self, timeout_s: float = PATIENCE_S) -> float:
        """How long the pong of the newest live connection takes (s). Raises TimeoutError."""
        return self.live[-1].ping(timeout_s)

    # Watching --------------------------------------------------------------------------------------------------------

    def wait_for(self, true: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Wait until something about the exchange is true; False where the time was over first."""
        with self._news:
            return self._news.wait_for(true, timeout_s)

    def until(self, true: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """`wait_for`, or an AssertionError."""
        assert self.wait_for(true, timeout_s), f"not so within {timeout_s} s"

    # What a venue says -----------------------------------------------------------------------------------------------

    def count(self, asked: Asked, accepted: bool) -> None:
        """Count the request, where it is a login."""
        if asked.path == self.LOGIN:
            self.logins_accepted += accepted
            self.logins_refused += not accepted

    def welcome(self, asked: Asked) -> Answer | None:
        """None: the upgrade is accepted."""
        return Answer(404)

    def answer(self, asked: Asked) -> Answer:
        return Answer(404)

    def opened(self, served: Served) -> None:
        """A WebSocket is open: the first to speak is the exchange."""

    def heard(self, served: Served, message: Message) -> None:
        """The client said something."""

    # What the connections call ---------------------------------------------------------------------------------------

    def heard_request(self, asked: Asked) -> Hold | None:
        with self.lock:
            self.requests.append(asked)
            self.changed()
            for hold in self._holds:
                if hold.path == asked.path and not hold.released.is_set():
                    return hold
            return None

    def answered(self, served: Served, asked: Asked) -> Answer | None:
        """The venue's own verdict is always made, so that it has seen the nonce of a login that is refused anyway."""
        with self.lock:
            answer = self.welcome(asked) if asked.upgrade else self.answer(asked)
            refusals = self._refusals.get(asked.path)
            if refusals:
                answer = refusals.popleft()
            self.count(asked, answer is None or answer.status < 400)
            return answer

    def joined(self, served: Served) -> None:
        with self.lock:
            self.connections.append(served)
            self.opened(served)
            self.changed()

    def heard_message(self, served: Served, message: Message) -> None:
        with self.lock:
            if self.ignoring > 0:
                self.ignoring -= 1
                return
            self.heard(served, message)

    def changed(self) -> None:
        with self._news:
            self._news.notify_all()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            served = Served(self, raw, self._tls)
            with self.lock:
                self._served.append(served)
            served.start()
