"""Drives a venue's conversation by hand: what it wants done, one action at a time, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ledger.venue import Action, Ask, Conversation, Heard, Listen, Reply, Request, Said, Send, Wait

A = TypeVar("A")

NOW_NS = 1_793_695_201_234_567_890  # 2026-11-03T08:40:01.234567890Z


class Talk:
    """A conversation, stopped at each of its actions."""

    def __init__(self, conversation: Conversation, now_ns: int = NOW_NS) -> None:
        self._conversation = conversation
        self.now_ns = now_ns
        self.action: Action = next(conversation)

    def done(self) -> Action:
        """The action was done, if it is a wait after its time; the next one."""
        if isinstance(self.action, Wait):
            self.now_ns += round(self.action.seconds * 1_000_000_000)
        return self.tell(None)

    def tell(self, said: Said) -> Action:
        self.action = self._conversation.send(said)
        return self.action

    def now(self, wanted: type[A]) -> A:
        """The action it is stopped at, which must be of that type."""
        assert isinstance(self.action, wanted), self.action
        return self.action

    def take(self, wanted: type[A]) -> A:
        """The same, done: the conversation goes on to the next."""
        action = self.now(wanted)
        assert not isinstance(action, Listen | Ask), f"{action} is to be answered"
        self.done()
        return action

    def hear(self, payload: bytes | str, *, after_s: float = 0.0) -> list[Action]:
        """A frame comes, so many seconds after the last; what is done until it listens or asks again."""
        self.now(Listen)
        self.now_ns += round(after_s * 1_000_000_000)
        self.tell(Heard(payload if isinstance(payload, bytes) else payload.encode(), self.now_ns))
        return self.actions()

    def quiet(self) -> Action:
        """No frame comes, as long as it listens at the most; the next action."""
        seconds = self.now(Listen).seconds
        assert seconds is not None, "it listens for ever"
        self.now_ns += round(seconds * 1_000_000_000)
        return self.tell(None)

    def actions(self) -> list[Action]:
        """What it does until it wants to be told something."""
        done: list[Action] = []
        while not isinstance(self.action, Listen | Ask):
            done.append(self.action)
            self.done()
        return done

    def asked(self) -> Request:
        return self.now(Ask).request

    def reply(
        self,
        body: bytes | str = b"",
        status: int = 200,
        *,
        headers: Mapping[str, str] | None = None,
        fresh: int = 0,
        after_s: float = 0.0,
    ) -> Action:
        """The answer to what is asked, so many seconds later; the next action."""
        self.now(Ask)
        self.now_ns += round(after_s * 1_000_000_000)
        payload = body if isinstance(body, bytes) else body.encode()
        return self.tell(Reply(status, payload, self.now_ns, headers or {}, fresh))

    def close(self) -> None:
        self._conversation.close()


def sent(actions: list[Action]) -> list[bytes]:
    """The messages among the actions."""
    return [action.payload for action in actions if isinstance(action, Send)]


HOSTILE: tuple[bytes, ...] = (
    b"",
    b"ping",
    b"{",
    b"null",
    b"[]",
    b"[1]",
    b'"text"',
    b"1e999",
    b"9" * 5000,
    b"\xff\xfe",
    b'{"type":"\xff"}',
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"{}",
    b'{"type":1}',
    b'{"type":null,"id":[],"data":3}',
    b'{"type":"nothing known"}',
    b'{"jsonrpc":"2.0"}',
    b'{"jsonrpc":2,"id":{},"error":7,"result":[]}',
    b'{"id":' + b"9" * 400 + b',"reqid":' + b"9" * 400 + b',"seqNum":-1,"type":"Balance"}',
    b'{"id":1.5,"reqid":1.5,"seqNum":"1","type":"Balance"}',
)
"""Frames of no venue: whoever listens survives each of them."""
