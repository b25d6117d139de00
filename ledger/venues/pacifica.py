"""What Pacifica says of a balance history and of an account's balance, and how the history is walked: page by page,
newest first, again and again; after a walk the account's balance is asked for, to compare.

A page is rows, each the signed change and the USDC balance after it. `decode` must not know other pages: rows have no
id and pages overlap, so a row is named by what it says, plus a count where one page says the very same thing twice
(document "Get account balance history", and its revision with cursors).

The limit of that naming: rows that are equal in all five fields count as often as the fullest page holds them. Where
a page boundary splits them and no page holds them all, the surplus looks like rows we have. Rows that change the
balance are equal only if others of the same millisecond change it back, so such a loss breaks the running balance and
shows, unless what is lost adds up to nothing.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Generator, Sequence
from hashlib import sha256
from itertools import groupby
from operator import attrgetter, lt
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field, json
from msgspec.json import Decoder
from msgspec.structs import astuple

from ledger import wire
from ledger.chain import in_course
from ledger.errors import ConversationError, Lost, Malformed, Rejected
from ledger.events import (
    Amount,
    Balance,
    BalanceDelta,
    BalanceEventImported,
    FrameQuarantined,
    Statement,
)
from ledger.venue import (
    Action,
    Begun,
    Conversation,
    Frame,
    Ready,
    Remember,
    Reply,
    Request,
    Said,
    Secret,
    Wait,
    address,
    ask,
    path_of,
)

NAME: Final = "pacifica"

ASSET: Final = "USDC"
CHANNEL: Final = "account/balance/history"
ACCOUNT_CHANNEL: Final = "account"
ERROR_CHARS_MAX: Final = 500
ROWS_MAX: Final = 10_000

PATH: Final = "/account/balance/history"
ACCOUNT_PATH: Final = "/account"
ROOT: Final = "/api/v1"
URL: Final = f"https://api.pacifica.fi{ROOT}"
PAGE_ROWS: Final = 100
POLL_S: Final = 10.0
ACCOUNT_NS: Final = 60_000_000_000
"""The least time between one question about the account's balance and the next."""
WINDOW_NS: Final = 60_000_000_000
"""In which the venue counts credits."""
CREDITS: Final = 100
COST: Final = 12
CREDITS_WITH_KEY: Final = 300
COST_WITH_KEY: Final = 4
WAIT_S_MAX: Final = 3600.0


class _Row(Struct, gc=False):
    """All five are required: without `pending_balance` a row would get another key than when told in full,
    and count twice; and a row of the spot balance history, which has none, would be booked as USDC.
    """

    amount: str
    balance: str
    pending: str = field(name="pending_balance")
    # Open: the venue adds causes unannounced.
    cause: Annotated[str, Meta(min_length=1, max_length=100)] = field(name="event_type")
    created_at: int


class _Page(Struct, gc=False):
    """`next_cursor` and `has_more` are for whoever fetches the next page; here they are only known to be there."""

    success: bool
    data: Annotated[list[_Row], Meta(max_length=ROWS_MAX)] | None = None
    error: str | UnsetType | None = UNSET
    code: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | str | UnsetType | None = UNSET
    next_cursor: Raw | UnsetType = UNSET
    has_more: Raw | UnsetType = UNSET

    @property
    def refusal(self) -> tuple[int | str | None, str | None]:
        """The code and the text of an answer that failed."""
        return None if self.code is UNSET else self.code, None if self.error is UNSET else self.error


class _Account(Struct, gc=False):
    """`{"balance":"4970.000323","pending_balance":"0","account_equity":…,"updated_at":1761984000123,…}`

    `balance` is what the history runs to; equity and what may be spent are valuations.
    """

    balance: str
    pending: str | UnsetType = field(default=UNSET, name="pending_balance")
    updated_at: int | UnsetType = UNSET


class _Shape(Struct, gc=False):
    """What tells an account from a page of rows; older documents show the account in an array of one."""

    amount: Raw | UnsetType = UNSET
    balance: Raw | UnsetType = UNSET
    event_type: Raw | UnsetType = UNSET
    created_at: Raw | UnsetType = UNSET


class _Answer(Struct, gc=False):
    success: bool
    data: Annotated[list[_Shape], Meta(max_length=ROWS_MAX)] | _Shape | None = None


class _Told(Struct, gc=False):
    data: Annotated[list[_Account], Meta(min_length=1, max_length=1)] | _Account


_PAGE: Final = Decoder(_Page)
_ANSWER: Final = Decoder(_Answer)
_TOLD: Final = Decoder(_Told)


def decode(frame: Frame) -> Sequence[Statement]:
    """The rows of a page, oldest first, whatever the order of the page (the document promises none); or the balance of
    the account."""
    payload = frame.payload
    try:
        page = wire.decode(_PAGE, payload)
    except Malformed:
        if _is_account(payload):
            return [_balance(frame)]
        raise
    if not page.success:
        code, text = page.refusal
        reason = f"venue error{'' if code is None else f' {code}'}: {text or 'without a text'}"
        refused = FrameQuarantined(frame.source(NAME, CHANNEL), "", reason[:ERROR_CHARS_MAX])
        return [(frame.account, refused)]
    rows = page.data
    if rows is None:
        raise Malformed("success without data")
    _refuse_doubled_keys(payload, page, len(rows))
    wire.amounts(
        [row.amount for row in rows] + [row.balance for row in rows] + [row.pending for row in rows],
    )
    if rows and rows[0].created_at >= rows[-1].created_at:
        rows.reverse()  # the venue answers newest first: assumed of a page within one millisecond too
    times = [row.created_at for row in rows]
    if all(map(lt, times, times[1:])):
        keys = _keys(rows)
    else:
        rows = _chained(rows)
        times, keys = [row.created_at for row in rows], _counted(_keys(rows))
    account, source = frame.account, frame.source(NAME, CHANNEL)
    return [
        (
            account,
            BalanceEventImported(
                source, key, ASSET, ASSET, row.cause, row.amount, row.balance, row.pending, time_ns
            ),
        )
        for row, key, time_ns in zip(rows, keys, wire.epochs_ns(times), strict=True)
    ]


def _refuse_doubled_keys(payload: bytes, page: _Page, rows: int) -> None:
    strings = 2 + 9 * rows  # five keys in a row, and four values that are text
    for part in (page.error, page.code, page.next_cursor, page.has_more):
        if part is not UNSET:
            text = bytes(part).startswith(b'"') if isinstance(part, Raw) else isinstance(part, str)
            strings += 1 + text
    if wire.holds_only(payload, strings):
        return
    wire.unique_keys(
        payload,
        {
            b'"success"': 1,
            b'"data"': 1,
            b'"amount"': rows,
            b'"balance"': rows,
            b'"pending_balance"': rows,
            b'"event_type"': rows,
            b'"created_at"': rows,
        },
    )


def _keys(rows: list[_Row]) -> list[str]:
    """What each row says, by value: the venue writes one amount as `5000` here and as `5000.000000` there."""
    amounts, balances = _plain([row.amount for row in rows]), _plain([row.balance for row in rows])
    pendings = _plain([row.pending for row in rows])
    times = [str(row.created_at) for row in rows]  # each is written twice
    return [
        f"row:{at}:{sha256(f'{at}:{amount}:{balance}:{pending}:{row.cause}'.encode()).hexdigest()[:32]}:1"
        for row, at, amount, balance, pending in zip(rows, times, amounts, balances, pendings, strict=True)
    ]


def _counted(keys: list[str]) -> list[str]:
    """The keys, where a page says the very same thing twice with a count: only within one time it can."""
    told: Counter[str] = Counter()
    for at, key in enumerate(keys):
        told[key] += 1
        keys[at] = f"{key[:-1]}{told[key]}"
    return keys


def _plain(texts: list[Amount]) -> list[str]:
    """One text for one value: there is one zero."""
    plain = wire.canonicals(texts)
    return ["0" if text == "-0" else text for text in plain] if "-0" in plain else plain


def _chained(rows: list[_Row]) -> list[_Row]:
    """By time, and within one millisecond by the running balance where that gives an order."""
    created_at = attrgetter("created_at")
    groups = [list(group) for _, group in groupby(sorted(rows, key=created_at), created_at)]
    if len(groups) == len(rows):
        return [row for (row,) in groups]
    return [row for group, _ in in_course(groups) for row in group]


def _is_account(payload: bytes) -> bool:
    """Whether a frame is an account: an object, or one object with a balance and nothing of a row."""
    if b'"success"' not in payload:
        return False
    try:
        said = wire.decode(_ANSWER, payload)
    except Malformed:
        return False
    if not said.success or said.data is None:
        return False
    if isinstance(said.data, _Shape):
        return True
    told = said.data
    of_a_row = (UNSET,) if len(told) != 1 else (told[0].amount, told[0].event_type, told[0].created_at)
    return len(told) == 1 and told[0].balance is not UNSET and all(part is UNSET for part in of_a_row)


def _balance(frame: Frame) -> Statement:
    """What the account holds, as of when the venue says so: else it is as old as the question, at the most."""
    data = wire.decode(_TOLD, frame.payload).data
    told = data[0] if isinstance(data, list) else data
    pending = None if told.pending is UNSET else told.pending
    wire.unique_keys(
        frame.payload,
        {
            b'"success"': 1,
            b'"data"': 1,
            b'"balance"': 1,
            b'"pending_balance"': pending is not None,
            b'"updated_at"': told.updated_at is not UNSET,
        },
    )
    wire.amounts([told.balance] if pending is None else [told.balance, pending])
    time_ns = None if frame.asked is None else frame.asked.at_ns
    if told.updated_at is not UNSET:
        time_ns = wire.epoch_ns(told.updated_at)
    held, waiting = _plain([told.balance, "0" if pending is None else pending])
    said = f"{time_ns}:{held}:{'' if pending is None else waiting}"
    # Without a time, what is said may be true again later: only the place in the session identifies it.
    key = "" if time_ns is None else f"account:{sha256(said.encode()).hexdigest()[:32]}"
    balance = Balance(ASSET, ASSET, told.balance, pending=pending)
    source = frame.source(NAME, ACCOUNT_CHANNEL, time_ns=time_ns)
    return frame.account, BalanceDelta(source, key, (balance,))


# How Pacifica is spoken to -------------------------------------------------------------------------------------------

_CURSOR_CHARS_MAX: Final = 1024
_LEFT: Final = re.compile(r"\br=([0-9]{1,9})(?![0-9])")
_UNTIL: Final = re.compile(r"\bt=([0-9]{1,9})(?![0-9])")


LABEL: Final = "the address of the wallet"


class Login(Struct, frozen=True, kw_only=True):
    """The account is the label of the login: its wallet address. A key is not needed; it allows more requests."""

    key: Secret | None = None
    url: str | None = None
    """The same as `rest_url`, and before it."""
    rest_url: str = URL


class _Turn(Struct, gc=False):
    """How a page says where the next one is."""

    next_cursor: Annotated[str, Meta(max_length=_CURSOR_CHARS_MAX)] | None = None
    has_more: bool | None = None


class _Memory(Struct, gc=False):
    """Every row up to `floor` (ms) is in the ledger, whatever happened to the walk after it; 0 where none need be."""

    floor: Annotated[int, Meta(ge=0, lt=2**53)] = 0


_TURN: Final = Decoder(_Turn)
_MEMORY: Final = Decoder(_Memory)


def converse(login: Login, begun: Begun) -> Conversation:
    """Walk from the newest row back to what is known, wait, and walk again.

    A walk that is interrupted leaves rows in the ledger and a hole beneath them. So the ledger knowing a row ends no
    walk by itself: the row must be older than the newest one of the last walk that was finished, which is remembered.
    """
    walker = _Walker(login, begun)
    floor = _floor(begun.memory)
    while True:
        walk = yield from walker.walk(floor)
        if walk.newest > floor:
            floor = walk.newest
            yield Remember(json.encode(_Memory(floor)))
        if walk.pages == 1 or not walk.fresh:  # while pages were turned, rows may have come before the first
            yield from walker.compare()
            yield from walker.wait(POLL_S)


def _floor(memory: bytes) -> int:
    try:
        return wire.decode(_MEMORY, memory).floor
    except Malformed:
        return 0


class _Walk(Struct):
    """What was seen of the history, from its newest row back to rows that a finished walk has seen."""

    floor: int
    newest: int = 0
    """The time of the newest row of the first page (ms): what came while pages were turned is not counted."""
    pages: int = 0
    fresh: int = 0
    cursor: str = ""
    """Where the next page begins; empty where none is wanted."""
    last: list[_Row] = []

    def turn(self, rows: list[_Row], fresh: int, more: _Turn) -> None:
        """Another page was told, with so many rows that were not known."""
        times = [row.created_at for row in rows]
        if not self.pages:
            self.newest = max(times, default=0)
        self.pages += 1
        self.fresh += fresh
        # A row that came while the page was turned pushes others over the edge: known, but by this walk.
        again = (Counter(map(astuple, rows)) & Counter(map(astuple, self.last))).total()
        known = len(rows) - fresh - again
        self.last = rows
        # Rows of the very millisecond of the floor may have come after it: only what is older is surely there.
        reached = known > 0 and min(times) < self.floor
        wanted = more.has_more is True or (more.has_more is None and bool(rows))
        self.cursor = more.next_cursor or "" if wanted and not reached else ""


class _Walker:
    """Asks for pages, and now and then for the account, no faster than the venue allows."""

    def __init__(self, login: Login, begun: Begun) -> None:
        url = login.rest_url if login.url is None else login.url
        if not path_of(url):
            url = address(url, ROOT)
        place, mark, query = url.partition("?")
        url = f"{place.rstrip('/').removesuffix(PATH)}{mark}{query}"
        self._url: Final = address(url, PATH, account=begun.account, limit=PAGE_ROWS)
        self._account_url: Final = address(url, ACCOUNT_PATH, account=begun.account)
        self._compared_ns = begun.now_ns - ACCOUNT_NS
        self._comparing = True
        self._account: Final = f"{NAME}:{begun.account}"
        keyed = login.key is not None
        self._headers: Final = () if login.key is None else (("PF-API-KEY", login.key.reveal()),)
        self._cost: Final = COST_WITH_KEY if keyed else COST
        self._requests_max: Final = (CREDITS_WITH_KEY if keyed else CREDITS) // self._cost
        self._asked_ns: Final[deque[int]] = deque()
        self._now_ns = begun.now_ns
        self._broke_s = 0.0
        """How long what is left of the credits, says the venue, does not suffice for another request."""
        self._ready = False

    def walk(self, floor: int) -> Generator[Action, Said, _Walk]:
        """From the newest row back to one that was there before and is older than the floor (ms), or to the last."""
        walk = _Walk(floor)
        cursors = {""}
        while True:
            reply = yield from self._page(walk.cursor)
            rows, more = self._read(reply)
            walk.turn(rows, reply.fresh, more)
            if not self._ready:
                self._ready = True
                yield Ready()
            if not walk.cursor:
                return walk
            if walk.cursor in cursors:
                raise Lost("the cursor repeats")
            cursors.add(walk.cursor)

    def wait(self, seconds: float) -> Generator[Action, Said, None]:
        """Do nothing; nobody tells the time meanwhile."""
        yield Wait(seconds)
        self._now_ns += round(seconds * 1_000_000_000)

    def _page(self, cursor: str) -> Generator[Action, Said, Reply]:
        """The answer with the page at the cursor; the first page at none. Raises Rejected and Lost."""
        url = address(self._url, cursor=cursor) if cursor else self._url
        while True:
            yield from self._afford()
            reply = yield from ask(Request(url, headers=self._headers))
            self._count(reply)
            if reply.status == 429:
                said_s = (reply.retry_after_s, _seconds(_UNTIL, reply), 1.0)
                yield from self.wait(max(said_s))
                continue
            if not 200 <= reply.status < 300:
                raise _refusal(reply)
            return reply

    def compare(self) -> Generator[Action, Said, None]:
        """Ask what the account holds, where that costs the walk nothing: a venue that does not say is not asked again.

        The answer is recorded, and compared with the history by whoever reads the ledger.
        """
        if not self._comparing or self._now_ns < self._compared_ns + ACCOUNT_NS or not self._affords():
            return
        reply = yield from ask(Request(self._account_url, headers=self._headers))
        self._count(reply)
        self._compared_ns = self._now_ns
        self._comparing = 200 <= reply.status < 300 and _tells_balance(self._account, reply)

    def _count(self, reply: Reply) -> None:
        """An answer came: it cost credits."""
        self._now_ns = reply.received_ns
        self._asked_ns.append(reply.received_ns)
        left = _LEFT.search(reply.headers.get("ratelimit", ""))
        if 200 <= reply.status < 300 and left is not None and int(left[1]) < self._cost * 10:
            self._broke_s = _seconds(_UNTIL, reply)  # ten of the header are one credit

    def _affords(self) -> bool:
        """Whether another request is within the credits, now."""
        while self._asked_ns and self._asked_ns[0] + WINDOW_NS <= self._now_ns:
            self._asked_ns.popleft()
        return not self._broke_s and len(self._asked_ns) < self._requests_max

    def _afford(self) -> Generator[Action, Said, None]:
        """Wait until another request is within the credits."""
        if self._broke_s:
            yield from self.wait(self._broke_s)
            self._broke_s = 0.0
        if not self._affords():
            left_ns = self._asked_ns.popleft() + WINDOW_NS - self._now_ns
            yield from self.wait(min(left_ns, WINDOW_NS) / 1_000_000_000)

    def _read(self, reply: Reply) -> tuple[list[_Row], _Turn]:
        """The rows of a page, if every one of them could be recorded: a page in quarantine is a hole."""
        try:
            page = wire.decode(_PAGE, reply.body)
            if page.success:
                decode(Frame(self._account, "", 1, reply.received_ns, reply.body))
            more = wire.decode(_TURN, reply.body)
        except Malformed as why:
            raise Lost(f"a page cannot be read: {wire.legible(str(why))}") from None
        if not page.success:
            raise Lost("the venue answered " + wire.legible("{}: {}".format(*page.refusal)))
        return page.data or [], more


def _tells_balance(account: str, reply: Reply) -> bool:
    try:
        said = decode(Frame(account, "", 1, reply.received_ns, reply.body))
    except Malformed:
        return False
    return all(isinstance(event, BalanceDelta) for _, event in said) and bool(said)


def _refusal(reply: Reply) -> ConversationError:
    if reply.status in (401, 403):
        return Rejected(f"HTTP {reply.status} to GET {PATH}")
    if reply.status == 0:
        return Lost(f"no answer to GET {PATH}: {wire.legible(reply.body[:800].decode(errors='replace'))}")
    return Lost(f"HTTP {reply.status} to GET {PATH}", retry_after_s=reply.retry_after_s)


def _seconds(shape: re.Pattern[str], reply: Reply) -> float:
    found = shape.search(reply.headers.get("ratelimit", ""))
    return 0.0 if found is None else min(float(found[1]), WAIT_S_MAX)
