"""The writing half of a ledger: statements in, one commit a batch, and only then the accounts advance.

Knows accounts, their rules and the store; knows no venue, and of a frame its place and its bytes. One batch at a time,
whoever brings it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, TypeAlias
from weakref import WeakSet

from msgspec import Struct

from ledger.account import Account, Draft, Recorded
from ledger.errors import Closed, Conflict
from ledger.events import Event, FillRecorded, FrameQuarantined, Statement
from ledger.firsts import Firsts
from ledger.retold import told_again
from ledger.rows import Change, Evidence, Lease, Once, Rows
from ledger.store import Store
from ledger.venue import Frame

ACCOUNTS_CACHED_MAX: Final = 1024
CONFLICTS_MAX: Final = 50
CONFLICT_S: Final = 0.02
"""How long one waits at most who lost an account's next version to another twice."""


class Tally(Struct):
    """What became of the frames: `frames` = `recorded` + `duplicates` + `control` + `quarantined`."""

    frames: int = 0
    recorded: int = 0
    duplicates: int = 0
    control: int = 0
    quarantined: int = 0

    def count(self, first: Recorded | None, statements: Sequence[Statement]) -> None:
        """Count one frame: the first of what was new of it, and what it said."""
        self.frames += 1
        if not statements:
            self.control += 1
        elif first is None:
            self.duplicates += 1
        elif isinstance(first.event, FrameQuarantined):
            self.quarantined += 1
        else:
            self.recorded += 1


Taken: TypeAlias = tuple[Frame | None, Sequence[Statement]]
"""A frame and what it says; no frame for the records of a session itself."""
Done: TypeAlias = tuple[Tally, int]
"""What became of the frames of a batch, and how many of their statements were new."""


class Appender:
    """Whatever is written to a store goes through here. From any thread."""

    def __init__(self, store: Store) -> None:
        self.store: Final = store
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._firsts: Final = Firsts(store.fills, store.last_version)
        self._turn = threading.Lock()
        self._aside = ThreadPoolExecutor(1, f"{store.name} commits")  # no thread before it is used
        self._open = True
        _opened.add(self)

    def close(self) -> None:
        """Close the store, when the commit under way is done. Idempotent."""
        with self._turn:
            self._open = False
            self.store.close()
        self._aside.shutdown()

    def leave(self) -> None:
        """In a process that was forked from ours: connections cannot be shared, and other threads are not there."""
        self._turn = threading.Lock()
        self._aside = ThreadPoolExecutor(1)
        self.store.leave()

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Our turn to write. Raises Closed."""
        with self._turn:
            if not self._open:
                raise Closed(f"{self.store.name}: the ledger is closed")
            yield

    def write(self, statements: Iterable[Change], once: Sequence[Once] = ()) -> None:
        """As `ledger.rows.Engine.write`."""
        with self._writing():
            self.store.write(statements, once)

    def take(self, rows: Rows) -> None:
        """Store rows as they are, in one transaction."""
        with self._writing():
            self._accounts.clear()
            self.store.take(rows)

    def known_places(self, frames: Sequence[Frame]) -> Set[int]:
        """The ordinals whose frame is stored. A place is known by its bytes: one that left none is read again. Raises
        Conflict where the bytes are others, because two recordings share a session's name."""
        if not frames:
            return frozenset()
        first, last = frames[0], frames[-1]
        stored = self.store.evidence_between(first.session, first.ordinal, last.ordinal)
        for frame in frames:
            if stored.get(frame.ordinal, frame.payload) != frame.payload:
                raise Conflict(
                    f"{self.store.name}: frame {frame.ordinal} of session {frame.session} is recorded with other "
                    "bytes: two recordings share one session name. Give this one a name of its own"
                )
        return stored.keys()

    def record(
        self,
        frames: Sequence[Taken],
        committing: Callable[[], object] = lambda: None,
        lease: Lease | None = None,
    ) -> Done:
        """Record the statements of a batch in one commit; what was recorded before is refused. `committing` is called
        when all that is left to do is the commit. Raises LeaseLost where `lease` is another process's, or was since."""
        with self._writing():
            stored: Set[int] = frozenset()
            for conflicts in range(CONFLICTS_MAX):
                try:
                    return self._append(frames, committing, lease, stored)
                except Conflict:  # somebody else appended first: take their events in, try again
                    self._accounts.clear()
                    if conflicts:  # not all at once again
                        time.sleep(random.uniform(0, CONFLICT_S))
                    stored = self.known_places([frame for frame, _ in frames if frame is not None])
            return self._append(frames, committing, lease, stored)

    def record_aside(self, frames: Sequence[Taken], lease: Lease | None) -> Future[Done]:
        """Record a batch; back when all that is left to do is the commit, which goes on in a thread of its own: the
        disk needs no interpreter. The result says when it is durable."""
        committing = threading.Event()
        try:
            done = self._aside.submit(self.record, frames, committing.set, lease)
        except RuntimeError:
            if self._open:  # the interpreter is ending
                raise
            raise Closed(f"{self.store.name}: the ledger is closed") from None
        done.add_done_callback(lambda _: committing.set())
        committing.wait()
        return done

    def _append(
        self,
        frames: Sequence[Taken],
        committing: Callable[[], object],
        lease: Lease | None,
        stored: Set[int],
    ) -> Done:
        """Of the frames those `stored`, by their ordinals, came to be so meanwhile."""
        drafts = self._drafts(frames)
        tally = Tally()
        events: list[Recorded] = []
        evidence: list[Evidence] = []
        for frame, statements in frames:
            if frame is not None and frame.ordinal in stored:
                tally.frames += 1
                tally.duplicates += 1
                continue
            first: Recorded | None = None
            for account, event in statements:
                recorded = drafts[account].record(event)
                if recorded is not None:
                    events.append(recorded)
                    first = first or recorded
            if frame is not None:
                tally.count(first, statements)
                if first is not None:
                    evidence.append((frame.session, frame.ordinal, frame.payload))
        if events:
            before = {account: draft.before for account, draft in drafts.items()}
            heads = self.store.append(events, evidence, before, committing, lease)
            for account, draft in drafts.items():
                draft.settle(heads[account])
                self._accounts.move_to_end(account)
            self._firsts.remember(events)
        while len(self._accounts) > ACCOUNTS_CACHED_MAX:
            self._accounts.popitem(last=False)
        return tally, len(events)

    def _drafts(self, frames: Sequence[Taken]) -> dict[str, Draft]:
        suspects: dict[str, list[Event]] = {}
        accounts: dict[str, Account] = {}
        for _, statements in frames:
            for name, event in statements:
                account = accounts.get(name)
                if account is None:
                    account = accounts[name] = self._account(name)
                if account.may_know(event):
                    suspects.setdefault(name, []).append(event)
        return {
            name: self._draft(account, suspects[name]) if name in suspects else Draft(account, frozenset())
            for name, account in accounts.items()
        }

    def _draft(self, account: Account, suspects: Sequence[Event]) -> Draft:
        """What is known already of the events that may be; and of fills, what was told first."""
        known = self.store.known(account.id, suspects)
        if not known:
            return Draft(account, known)
        retold = [each for each in suspects if type(each) is FillRecorded and (0, each.key) in known]
        firsts = self._firsts.of(account.id, {each.key for each in retold})
        others = [told_again(firsts[each.key], each) for each in retold if each.key in firsts]
        if otherwise := [each for each in others if each is not None]:
            known |= self.store.known(account.id, otherwise)
        return Draft(account, known, firsts)

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self.store.account(name)
        return account


_opened: Final[WeakSet[Appender]] = WeakSet()


def _forked() -> None:
    for each in _opened:
        each.leave()


if hasattr(os, "register_at_fork"):  # not off POSIX
    os.register_at_fork(after_in_child=_forked)
