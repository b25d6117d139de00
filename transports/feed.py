"""What a feed is: one login at one venue, how it connects, and how it is.

Knows no venue and no event loop; `transports.session` converses for it, `transports.live` keeps it live.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ledger.account import Recorded
from ledger.appender import Tally
from ledger.errors import BadLogin
from ledger.venue import (
    USUAL_LABEL,
    Begun,
    Conversation,
    Endpoint,
    Open,
    Ready,
    Secret,
    Spoken,
    Venue,
    check_label,
    listen,
    usual_label,
)
from transports.connection import Connect, trusted, websocket_for_running_loop
from transports.redaction import secrets_of

log: Final = logging.getLogger("accountledger")
Clock: TypeAlias = Callable[[], int]


class Health(Struct, frozen=True):
    """How a feed is, at a glance. Times are ns since the epoch; counts are since the feed was started."""

    account: str
    state: str
    """`standby` (another process feeds the account), `connecting`, `live`, `waiting` (to connect again, or for
    a store that fails or gives no answer), `refused` (the login; over), `failed` (a store that cannot be written
    to; over), `stopped`."""
    reason: str = ""
    """Why it is not live, or why it was not the last time."""
    since_ns: int = 0
    """Since when it is in this state."""
    last_frame_ns: int | None = None
    lag_s: float = 0.0
    """How long the last frame took from its arrival to the disk."""
    frames: int = 0
    recorded: int = 0
    duplicates: int = 0
    control: int = 0
    quarantined: int = 0
    reconnects: int = 0
    unstored: int = 0
    """Frames that were received and could not be stored: a failing store, and no time left."""
    unstored_why: str = ""
    """Why the last of them could not be; once said, it stays."""
    session: str = ""
    standby: bool = False
    """Whether it stood by to its end: another process fed the account."""
    untaped: str = ""
    """Why a conversation is not, or not to its end, on tape, where tapes were asked for; once said, it stays."""

    @property
    def loss(self) -> str:
        """What was received and could not be stored, and why; empty where nothing was."""
        if not self.unstored:
            return ""
        frames = "1 frame received is" if self.unstored == 1 else f"{self.unstored} frames received are"
        return f"{frames} not stored: {self.unstored_why}"


class Feed:
    """One login at one venue. `account` is the label its account gets (`venue:account`), `main` if not given; of a
    venue that is asked by it (Pacifica: the wallet) it must be.

    How to log in is given by the venue's `Login`, or by its fields: `Feed(kraken_prime, "desk", key=…, secret=…)`.
    A field of the `Login` that is its default counts as not given (`login_of` derives one address from the other).
    Without either, a `connect` of your own says where the frames come from, and nothing is said to the venue.
    `tls` trusts what it trusts, and cannot be told not to look; `tapes` is a folder to record tapes in.
    Raises BadLogin where a field is missing or unknown, and for a label that is empty, longer than 200 characters, not
    printable or with a "/"; ValueError for a `tls` that does not verify.
    """

    def __init__(
        self,
        venue: Venue,
        account: str | None = None,
        *,
        login: Struct | None = None,
        connect: Connect | None = None,
        tls: ssl.SSLContext | None = None,
        tapes: str | os.PathLike[str] | None = None,
        now_ns: Clock = time.time_ns,
        **fields: Any,
    ) -> None:
        self.venue: Final = venue
        self.tapes: Final = None if tapes is None else Path(tapes)
        self.tls: Final = None if tls is None else trusted(tls)
        given = {**({} if login is None else _given(login)), **fields}
        self._login: Final = login_of(venue, given) if given or login is not None or connect is None else None
        if account is None:
            account = USUAL_LABEL if self._login is None else usual_label(venue.NAME, venue)
        check_label(venue.NAME, account)
        self.account: Final = account
        self.name: Final = f"{venue.NAME}:{account}"
        self._connect: Final = connect
        self._wall_ns: Final = now_ns
        self._last_ns = 0
        self._noting: Final = threading.RLock()
        self._health = Health(self.name, "stopped")

    def __repr__(self) -> str:
        return f"Feed({self.name})"

    @property
    def health(self) -> Health:
        """How it is, now. From any thread."""
        return self._health

    @property
    def secrets(self) -> list[str]:
        """What must appear nowhere."""
        return secrets_of(self._login)

    def begin(self, last: Recorded | None) -> None:
        """Begin anew: counts from zero, and time from the last that was recorded of the account."""
        self.go_on_from(last)
        self._health = Health(self.name, "connecting", since_ns=self._wall_ns())

    def go_on_from(self, last: Recorded | None) -> None:
        """Let time go on from the last that was recorded of the account, whoever fed it."""
        if last is not None:
            self.stamp(last.event.source.received_ns)

    def stamp(self, received_ns: int) -> int:
        """When something was received, as a time that never goes back."""
        with self._noting:
            self._last_ns = max(received_ns, self._last_ns)
            return self._last_ns

    def now_ns(self) -> int:
        """The time, never going back: where a venue gives no time of its own, ours says what is late."""
        return self.stamp(self._wall_ns())

    def converse(self, memory: bytes) -> Conversation:
        """A conversation with the venue; without a login, we only listen."""
        if self._login is None or not isinstance(self.venue, Spoken):
            return _only_listen(Endpoint(self.name))
        # Signed with the time it is, also where what was recorded before is of a clock that was ahead.
        return self.venue.converse(self._login, Begun(self.account, self._wall_ns(), memory))

    def connect(self) -> Connect:
        """How to connect: as told, else as the running event loop does it."""
        return self._connect or partial(websocket_for_running_loop(), tls=self.tls)

    def note(self, **changes: Any) -> None:
        """Keep what has changed in the health."""
        with self._noting:
            before = self._health
            if changes.get("state", before.state) != before.state:
                changes.setdefault("since_ns", self._wall_ns())
            self._health = replace(before, **changes)
        if self._health.state != before.state:
            level = logging.WARNING if self._health.state in ("refused", "failed") else logging.INFO
            log.log(level, "%s: %s %s", self.name, self._health.state, self._health.reason)

    def lose(self, frames: int, why: str) -> None:
        """Count what was received and cannot be stored."""
        with self._noting:
            self.note(unstored=self._health.unstored + frames, unstored_why=why)
            self.note(reason=self._health.loss)
        log.error("%s: %s", self.name, self._health.loss)

    def count(self, tally: Tally, last_ns: int) -> None:
        """Count what was stored."""
        with self._noting:
            health = self._health
            self.note(
                frames=health.frames + tally.frames,
                recorded=health.recorded + tally.recorded,
                duplicates=health.duplicates + tally.duplicates,
                control=health.control + tally.control,
                quarantined=health.quarantined + tally.quarantined,
                last_frame_ns=last_ns,
                lag_s=max(0.0, (self._wall_ns() - last_ns) / 1e9),
            )


def login_of(venue: Venue, fields: dict[str, Any]) -> Struct:
    """What a venue logs in with, from its fields by name; texts of secret fields become secrets. Raises BadLogin.

    Of two addresses of which one is given, the other is on the same host: no key meant for it goes elsewhere.
    """
    if not isinstance(venue, Spoken):
        raise BadLogin(
            f"{venue.NAME} cannot be spoken to: its module has no Login; give the feed a `connect`"
        )
    hints = get_type_hints(venue.Login)
    unknown = sorted(fields.keys() - hints.keys())
    if unknown:
        raise BadLogin(f"{venue.NAME} has no login field {unknown[0]!r}; it has: {', '.join(hints)}")
    values = {name: _field(venue.NAME, name, value, hints[name]) for name, value in fields.items()}
    defaults = {field.name: field.default for field in msgspec.structs.fields(venue.Login)}
    for given, other in (("url", "rest_url"), ("rest_url", "url")):
        url, usual = values.get(given), defaults.get(other)
        if isinstance(url, str) and isinstance(usual, str) and other not in values:
            values[other] = _beside(url, usual)
    try:
        return venue.Login(**values)
    except TypeError as error:  # names what is missing, never a value
        raise BadLogin(f"{venue.NAME}: {error}") from None


def _given(login: Struct) -> dict[str, Any]:
    """The fields of a login that are not their defaults."""
    values = ((field, getattr(login, field.name)) for field in msgspec.structs.fields(login))
    return {field.name: value for field, value in values if value != field.default}


def _field(venue: str, name: str, value: Any, hint: Any) -> Any:
    """A field as the login wants it. Raises BadLogin for one of another kind; its value is not shown."""
    if _is_secret(hint) and isinstance(value, str):
        if not value or value.startswith(("env:", "file:")):
            raise BadLogin(f"{venue}, {name}: is empty, or names a place: only FEEDS.toml does that")
        return Secret(value)
    try:
        return value if isinstance(value, Secret) and _is_secret(hint) else msgspec.convert(value, hint)
    except (msgspec.ValidationError, TypeError):
        raise BadLogin(f"{venue}, {name}: not one: {type(value).__name__}") from None


def _beside(url: str, usual: str) -> str:
    """The address beside a given one: the same host, spoken to as the usual one is, as safely as the given one."""
    scheme, _, rest = url.partition("://")
    spoken = "http" if usual.startswith("http") else "ws"
    if scheme.startswith(spoken):
        return url
    return f"{spoken}{'s' if scheme.endswith('s') and scheme != 'ws' else ''}://{rest.partition('/')[0].partition('?')[0]}"


def _is_secret(hint: Any) -> bool:
    return hint is Secret or Secret in getattr(hint, "__args__", ())


def _only_listen(endpoint: Endpoint) -> Conversation:
    yield Open(endpoint)
    yield Ready()
    while True:
        yield from listen()
