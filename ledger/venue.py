"""What a venue is: a module with a NAME, a pure `decode`, and where it can be spoken to, a `converse` that says how.

Knows no venue, no socket, no clock. A third party's venue is any module of this shape; there is nothing to register.

A conversation is a generator: it yields what is to be done next (`Open`, `Send`, `Ask`, …) and is sent what came of
it.
Who drives it has the sockets and the clock; a frame is durable before the conversation hears of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol, Self, TypeAlias, runtime_checkable
from urllib.parse import urlencode, urlsplit, urlunsplit

from msgspec import Struct

from ledger.errors import BadLogin
from ledger.events import Asked, Source, Statement

RETRY_AFTER_S_MAX: Final = 3600.0
LABEL_CHARS_MAX: Final = 200
USUAL_LABEL: Final = "main"


class Frame(Struct, frozen=True, gc=False):
    """One inbound message, as it came."""

    account: str
    """The account of the login, `venue:label`; events may name others (many subaccounts on one socket)."""
    session: str
    ordinal: int
    """Place in the conversation, from 1. Keeps `decode` pure where only position tells a snapshot from an update."""
    received_ns: int
    payload: bytes
    conversation: str = ""
    """The venue's own name of the conversation where it tells one (`Venue.conversation`), else our session."""
    asked: Asked | None = None
    """The request this frame answers; None where the venue spoke unasked."""

    @classmethod
    def of(cls, source: Source, account: str, payload: bytes) -> Self:
        """The frame an event was made from, to be decoded again: `account` is the login's, the payload its evidence.

        What the conversation was called is taken from the subscription, which begins with it; that of a quarantined
        frame is nothing else.
        """
        conversation = (source.subscription or "").rpartition("/")[0] or source.session
        return cls(
            account, source.session, source.ordinal, source.received_ns, payload, conversation, source.asked
        )

    def source(
        self,
        venue: str,
        channel: str,
        time_ns: int | None = None,
        sequence: int | None = None,
        subscription: str | None = None,
        message_id: str | None = None,
    ) -> Source:
        """Where the events of this frame come from."""
        return Source(
            venue,
            channel,
            self.session,
            self.ordinal,
            self.received_ns,
            sha256(self.payload).digest(),
            time_ns,
            sequence,
            subscription,
            message_id,
            self.asked,
        )


class Venue(Protocol):
    """The shape of a venue module.

    A venue that names its conversations may have one more function, `conversation(payload: bytes) -> str | None`: the
    name, where this frame tells it. Later frames carry it, so that a sequence counts on from one recording to the next.

    A venue that is asked for an account by its label has a constant `LABEL`, which says what that is: it must be given.
    """

    @property
    def NAME(self) -> str:  # noqa: N802 - a module constant
        """The venue's name: the first part of every account id, `bitopro` in `bitopro:main`."""
        ...

    def decode(self, frame: Frame, /) -> Sequence[Statement]:
        """The statements of a frame; the same for the same frame, always. Empty for a control frame.

        Raises `ledger.errors.Malformed` where the frame is not understood: the ledger then keeps it in quarantine, as
        it does where an event is not what `ledger.events` says, or its source not the frame's (`Frame.source`).
        """
        ...


def check_label(place: str, label: str, chars_max: int = LABEL_CHARS_MAX) -> None:
    """See that a label can be part of an account id for ever. Raises BadLogin, which names the place, not the label."""
    if not label or "/" in label or not label.isprintable() or len(label) > chars_max:
        raise BadLogin(f'{place}, account: is printable, without "/", of 1 to {chars_max} characters')


def usual_label(place: str, venue: Venue) -> str:
    """The label of a login that is given none. Raises BadLogin where the venue is asked by it."""
    meant: str | None = getattr(venue, "LABEL", None)
    if meant is not None:
        raise BadLogin(f"{place}, account: is missing; here it is {meant}")
    return USUAL_LABEL


# How a venue is spoken to --------------------------------------------------------------------------------------------


class Secret:
    """A key, a secret, a token: shows itself to nobody who does not ask for it by `reveal()`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text: Final = text

    def reveal(self) -> str:
        """The secret itself: to sign with and to send, never to show."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a secret is not pickled")


def address(url: str, path: str = "", **query: str | int) -> str:
    """A url with a path put after its own, and a query: `address("https://api.example/v1", "/balance", limit=100)`."""
    parts = urlsplit(url)
    asked = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, asked, ""))


def host_of(url: str) -> str:
    """The host of a url, without scheme and port."""
    return urlsplit(url).hostname or ""


def path_of(url: str) -> str:
    """The path of a url, without its query; empty where it has none."""
    path = urlsplit(url).path
    return "" if path == "/" else path


def origin_of(url: str) -> str:
    """Scheme, host and port of a url: what a connection can be kept open to."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3: seconds, or a date); 0 where there is none. `headers`
    by lower-case name; `now_s` since the epoch."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), RETRY_AFTER_S_MAX)
    from email.utils import parsedate_to_datetime  # half the start of this module, and dates are rare

    try:
        due_s = parsedate_to_datetime(said).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, due_s - now_s), RETRY_AFTER_S_MAX)


class Endpoint(Struct, frozen=True):
    """Where a connection is opened. Its parts may be secret: only scheme, host and path are ever shown."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        """The endpoint as it may be shown: without query, user and headers."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        return f"Endpoint({self.place})"


class Request(Struct, frozen=True):
    """An HTTP request. Secrets belong in its headers and its body; the address is recorded with the answer."""

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    kept: bool = True
    """Whether the answer is a frame of the account; False for a login, whose answer is kept nowhere."""

    @property
    def line(self) -> str:
        """What is asked, without the host: `GET /accounts/balance`."""
        parts = urlsplit(self.url)
        return f"{self.method} {parts.path}{'?' if parts.query else ''}{parts.query}"

    def __repr__(self) -> str:
        return f"Request({self.line})"


class Open(Struct, frozen=True):
    """Connect. Nothing is sent back; the frames that come are recorded, and heard by whoever listens."""

    endpoint: Endpoint


class Send(Struct, frozen=True):
    """Send a message on the connection."""

    payload: bytes

    def __repr__(self) -> str:
        return f"Send({len(self.payload)} bytes)"


class Ask(Struct, frozen=True):
    """Make an HTTP request; a `Reply` is sent back. Frames that come on the connection meanwhile are recorded, and not
    shown to the conversation."""

    request: Request


class Listen(Struct, frozen=True):
    """Wait for the next frame, so long at the most; `Heard` is sent back, when it is durable, or None."""

    seconds: float | None = None


class Wait(Struct, frozen=True):
    """Do nothing for so many seconds; frames go on being recorded. `reason` is shown meanwhile, and until a request is
    answered: what is missing, if anything is."""

    seconds: float
    reason: str = ""


class Ready(Struct, frozen=True):
    """The venue accepted us: the login was right, the subscription stands."""


class Hide(Struct, frozen=True):
    """A secret made or learnt in the conversation: it must appear nowhere."""

    text: str

    def __repr__(self) -> str:
        return "Hide(…)"


class Remember(Struct, frozen=True):
    """What the next conversation of this login is given as `memory`, also after a restart. Never a secret."""

    memory: bytes


Action: TypeAlias = Open | Send | Ask | Listen | Wait | Ready | Hide | Remember


class Heard(Struct, frozen=True):
    """A frame that came on the connection, as it is recorded."""

    payload: bytes
    received_ns: int


class Reply(Struct, frozen=True):
    """What came of a request."""

    status: int
    """The HTTP status; 0 where no answer came (then `body` says why)."""
    body: bytes
    received_ns: int
    headers: Mapping[str, str] = {}
    """Names in lower case."""
    fresh: int = 0
    """How many statements of it the ledger did not know."""

    @property
    def retry_after_s(self) -> float:
        """How long the venue asks to be left alone (s); 0 where it does not."""
        return retry_after_s(self.headers, self.received_ns / 1e9)

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


Said: TypeAlias = Heard | Reply | None
Conversation: TypeAlias = Generator[Action, Said, None]


class Begun(Struct, frozen=True):
    """How a conversation begins: whose it is, when (ns since the epoch, UTC), and what the one before remembered."""

    account: str
    """The label of the login, without the venue's name."""
    now_ns: int
    memory: bytes = b""


@runtime_checkable
class Spoken(Protocol):
    """A venue that can be spoken to, besides being understood (`Venue`)."""

    @property
    def Login(self) -> type[Struct]:  # noqa: N802 - a class
        """What it takes to log in: a frozen msgspec Struct with keyword-only fields, those of type `Secret` hidden, and
        `url` (and `rest_url` where two are needed) with the venue's production address as the default."""
        ...

    def converse(self, login: Any, begun: Begun, /) -> Conversation:
        """One conversation from login to end, signed afresh. Returns or raises where it is over:
        `ledger.errors.Rejected` where the venue refuses the login, `ledger.errors.Lost` for anything else."""
        ...


def ask(request: Request) -> Generator[Action, Said, Reply]:
    """`reply = yield from ask(request)`"""
    said = yield Ask(request)
    assert isinstance(said, Reply)
    return said


def listen() -> Generator[Action, Said, Heard]:
    """`heard = yield from listen()`"""
    said = yield Listen()
    assert isinstance(said, Heard)
    return said
