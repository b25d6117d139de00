"""Where in a frame an amount was read from: the exact bytes, for any venue.

Knows frames, amounts and that `decode` is pure; knows no venue.

An amount is found by writing it otherwise where it may stand, and decoding again: where the other writing turns up in
the event is where the amount was read. Numbers of a JSON frame get zeros at their end (`1.5` becomes `1.5000`: the same
value, so that nothing else changes), many at once. What is not found so is looked for one place at a time with other
digits of the same length, also in frames that are not JSON; then, where a frame says a thing twice and must not
contradict itself, in several places at once.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from ledger.account import Recorded
from ledger.events import (
    AMOUNTS,
    Amount,
    Balance,
    BalanceDelta,
    BalanceSnapshot,
    Event,
    Statement,
    Valuation,
    opened_key,
)
from ledger.ledger import Ledger
from ledger.venue import Frame
from ledger.wire import AMOUNT_CHARS_MAX, decimal

PROBES_MAX: Final = 2_000
"""How often a frame is decoded to find the places of its amounts."""

Place: TypeAlias = tuple[int, str]
"""Where an amount stands in an event: in which of its balances (0 where it has none), and in which field: `available`,
`valuation.total`, `price`."""
S = TypeVar("S", bound=Struct)
Decode: TypeAlias = Callable[[Frame], Sequence[Statement]]

_TOKEN: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"|-?[0-9][0-9.eE+-]*', re.DOTALL)
_AMOUNT: Final = re.compile(r"([+-]?[0-9]+)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_OTHER_DIGITS: Final = str.maketrans("0123456789", "1234567891")
_LOGIN: Final = """
WITH RECURSIVE names(name) AS (
    SELECT min(account) FROM natural_keys
    UNION ALL SELECT (SELECT min(account) FROM natural_keys WHERE account>name) FROM names WHERE name IS NOT NULL
)
SELECT name FROM names JOIN natural_keys AS known ON known.account=name AND known.at_ns=0 AND known.key=?
"""
_ESCAPED_CHARS_MAX: Final = 6 * AMOUNT_CHARS_MAX
"""Of a text whose every character is escaped; a longer one is no amount."""


class Span(Struct, frozen=True, order=True):
    """Bytes `start` to `end` (not included) of a frame; `text` is how they write the amount."""

    start: int
    end: int
    text: str


class _Token(Struct, frozen=True):
    """A place where an amount may stand: the bytes, and the text they mean."""

    start: int
    end: int
    text: str


_Said: TypeAlias = dict[Place, Amount]
_Hit: TypeAlias = tuple[int, Place, str]
"""In which statement and where in it a mark turned up, and the mark."""


def amounts(event: Event) -> Iterator[tuple[Place, Amount]]:
    """Every amount of an event, and where it stands there."""
    if isinstance(event, BalanceSnapshot | BalanceDelta):
        for index, balance in enumerate(event.balances):
            for name in AMOUNTS[Balance]:
                if (text := getattr(balance, name)) is not None:
                    yield (index, name), text
            for name in () if balance.valuation is None else AMOUNTS[Valuation]:
                if (text := getattr(balance.valuation, name)) is not None:
                    yield (index, f"valuation.{name}"), text
    else:
        for name in AMOUNTS.get(type(event), ()):
            if (text := getattr(event, name)) is not None:
                yield (0, name), text


def login_of(ledger: Ledger, account: str, session: str) -> str:
    """The account whose conversation a session is: that of its SessionOpened; `account` where none is recorded."""
    if _has_key(ledger, account, session):
        return account
    found = ledger.select(_LOGIN, (opened_key(session),))
    return str(found[0][0]) if found else account


def _has_key(ledger: Ledger, account: str, session: str) -> bool:
    sql = "SELECT 1 FROM natural_keys WHERE account=? AND at_ns=0 AND key=?"
    return bool(ledger.select(sql, (account, opened_key(session))))


def spans_of(
    ledger: Ledger, decode: Decode, recorded: Recorded, only: Collection[Amount] | None = None
) -> dict[Place, Span]:
    """Where in its frame the amounts of a recorded event were read from (of `only` these texts, if given). Empty where
    no frame stands behind it, or today's decoder does not make this event of it."""
    payload = ledger.evidence(recorded)
    if payload is None:
        return {}
    source = recorded.event.source
    frame = Frame.of(source, login_of(ledger, recorded.account, source.session), payload)
    try:
        index = index_of(decode(frame), recorded.account, recorded.event)
        return {} if index is None else spans(decode, frame, only)[index]
    except Exception:  # it cannot be decoded any more: `verify` says so
        return {}


def index_of(statements: Sequence[Statement], account: str, event: Event) -> int | None:
    """Which statement of a frame a recorded event is; None where today's decoder does not make it."""
    source = msgspec.structs.replace(event.source, late_ns=None)
    said = (account, msgspec.structs.replace(event, source=source))
    return next((index for index, each in enumerate(statements) if each == said), None)


def spans(decode: Decode, frame: Frame, only: Collection[Amount] | None = None) -> list[dict[Place, Span]]:
    """For each statement of the frame, where its amounts were read from (of `only` these texts, if given).

    An amount that is in no one place, because the decoder computed it, has no span. Where a frame says one thing twice,
    the span is the first. Raises Malformed where the frame cannot be decoded.
    """
    search = _Search(decode, frame, only)
    search.padded()
    search.changed()
    search.together()
    return search.found


class _Search:
    """The state of one search: what is to be found, and what has been."""

    def __init__(self, decode: Decode, frame: Frame, only: Collection[Amount] | None) -> None:
        self._decode = decode
        self._frame = frame
        self._probes = 0
        statements = decode(frame)
        self.found: Final[list[dict[Place, Span]]] = [{} for _ in statements]
        self._said: Final = [dict(amounts(event)) for _, event in statements]
        self._texts: Final = {text for said in self._said for text in said.values()}
        self._only: Final = self._texts if only is None else self._texts & set(only)
        self._alike: Final = _alike(statements)
        self._tokens: Final = list(_json_tokens(frame.payload)) if self._only else []

    def padded(self) -> None:
        """Write zeros at the end of as many numbers as can be told apart; halve what is refused."""
        batches: list[dict[str, _Token]] = []
        marks = {text: _padded_marks(text) for text in self._only}
        for token in self._tokens:
            for batch, mark in marks.get(token.text, ()):
                while len(batches) <= batch:
                    batches.append({})
                if mark not in self._texts and mark not in batches[batch]:
                    batches[batch][mark] = token
                    break
        batches.reverse()
        while batches:
            batch_marks = batches.pop()
            if not self._probe(batch_marks) and len(batch_marks) > 1:
                each, half = list(batch_marks.items()), len(batch_marks) // 2
                batches += [dict(each[half:]), dict(each[:half])]

    def changed(self) -> None:
        """Write other digits in one place after the other."""
        for text in sorted(self._missing()):
            for token in self._places(text):
                if text not in self._missing():
                    break
                self._probe({token.text.translate(_OTHER_DIGITS): token})

    def together(self) -> None:
        """Write the same zeros wherever a text stands, then only where they must stand together."""
        for text in sorted(self._missing()):
            tokens = self._places(text)
            mark = next((mark for _, mark in _padded_marks(text) if mark not in self._texts), None)
            while mark is not None and (needed := self._needed(text, mark, tokens)) is not None:
                (index, place), token = needed
                self.found[index][place] = self._span(token)
                tokens = [each for each in tokens if each is not token]

    def _needed(self, text: str, mark: str, tokens: list[_Token]) -> tuple[tuple[int, Place], _Token] | None:
        """An amount of this text that is not found yet, and the first of the fewest tokens that change it together."""

        def open_with(kept: list[_Token]) -> list[tuple[int, Place]]:
            hits = self._hits([(token, mark) for token in kept], {mark: text}) or ()
            return [(index, place) for index, place, _ in hits if place not in self.found[index]]

        first = next(iter(open_with(tokens)), None)
        if first is None:
            return None
        for token in tokens:
            fewer = [each for each in tokens if each is not token]
            if first in open_with(fewer):
                tokens = fewer
        return first, tokens[0]

    def _missing(self) -> set[Amount]:
        return {
            text
            for said, found in zip(self._said, self.found, strict=True)
            for place, text in said.items()
            if text in self._only and place not in found
        }

    def _places(self, text: str) -> list[_Token]:
        """Where an amount may stand: tokens of its text, else of its value, else anywhere in the bytes."""
        tokens = [token for token in self._tokens if token.text == text]
        if not tokens:
            tokens = [token for token in self._tokens if decimal(token.text) == decimal(text)]
        return tokens or [
            _Token(found.start(), found.end(), text)
            for found in re.finditer(re.escape(text.encode()), self._frame.payload)
        ]

    def _probe(self, marks: Mapping[str, _Token]) -> bool:
        """Write the marks and note where they turn up; False where the frame then says something else."""
        hits = self._hits(
            [(token, mark) for mark, token in marks.items()],
            {mark: token.text for mark, token in marks.items()},
        )
        for index, place, mark in hits or ():
            self.found[index].setdefault(place, self._span(marks[mark]))
        return hits is not None

    def _hits(self, writes: Sequence[tuple[_Token, str]], texts: Mapping[str, Amount]) -> list[_Hit] | None:
        """Where the marks turn up when they are written; None where the frame is refused, or says something else."""
        self._probes += 1
        if not writes or self._probes > PROBES_MAX:
            return None
        frame = msgspec.structs.replace(self._frame, payload=_written(self._frame.payload, writes))
        try:
            again = list(self._decode(frame))
        except Exception:  # whatever a venue's decoder makes of it: it is not read any more
            return None
        alike = _alike(again)
        if {key: len(each) for key, each in alike.items()} != {
            key: len(each) for key, each in self._alike.items()
        }:
            return None
        hits: list[_Hit] = []
        for key, group in alike.items():
            made = [dict(amounts(again[index][1])) for index in group]
            if not self._match(self._alike[key], made, texts, hits):
                return None
        return hits

    def _match(
        self, group: Sequence[int], made: list[_Said], texts: Mapping[str, Amount], hits: list[_Hit]
    ) -> bool:
        """Whether statements that only their amounts tell apart say what they said, but for the marks."""
        left = [self._said[index] for index in group]
        marked: list[_Said] = []
        for each in made:  # those without a mark first: a mark may be the true amount of another
            if each in left:
                left.remove(each)
            else:
                marked.append(each)
        for each in marked:
            said = next((said for said in left if self._means(each, said, texts)), None)
            if said is None:
                return False
            left.remove(said)
            for place in [place for place in each if each[place] != said[place]]:
                same = [index for index in group if self._said[index] == said]
                free = [index for index in same if place not in self.found[index]]
                hits.append(((free or same)[0], place, each[place]))
        return True

    def _means(self, made: _Said, said: _Said, texts: Mapping[str, Amount]) -> bool:
        """Whether these are the same amounts, some of them written as marks."""
        return made.keys() == said.keys() and all(
            mark == said[place] or self._is(texts.get(mark), said[place]) for place, mark in made.items()
        )

    def _is(self, text: str | None, said: Amount) -> bool:
        return text is not None and (text == said or (_is_amount(text) and decimal(text) == decimal(said)))

    def _span(self, token: _Token) -> Span:
        raw = self._frame.payload[token.start : token.end]
        return Span(token.start, token.end, raw.decode("utf-8", "replace"))


def _alike(statements: Sequence[Statement]) -> dict[Statement, list[int]]:
    """Which statements say the same besides amounts, and what is computed from the whole frame."""
    groups: dict[Statement, list[int]] = defaultdict(list)
    for index, (account, event) in enumerate(statements):
        source = msgspec.structs.replace(event.source, evidence=b"")
        groups[account, msgspec.structs.replace(_without_amounts(event), source=source, key="")].append(index)
    return groups


def _without_amounts(event: Event) -> Event:
    if isinstance(event, BalanceSnapshot | BalanceDelta):
        return msgspec.structs.replace(event, balances=tuple(map(_blank, event.balances)))
    return _blank(event)


def _blank(said: S) -> S:
    changes: dict[str, Any] = {
        name: "" for name in AMOUNTS.get(type(said), ()) if getattr(said, name) is not None
    }
    if isinstance(said, Balance) and said.valuation is not None:
        changes["valuation"] = _blank(said.valuation)
    return msgspec.structs.replace(said, **changes)


def _json_tokens(payload: bytes) -> Iterator[_Token]:
    """The strings (without their quotes) and numbers of a JSON text that could be amounts."""
    for found in _TOKEN.finditer(payload):
        quoted = found[1] is not None
        start, end = found.span(1 if quoted else 0)
        if end - start > _ESCAPED_CHARS_MAX:
            continue
        raw = payload[start:end]
        try:
            text = json.loads(found[0]) if quoted and b"\\" in raw else raw.decode()
        except ValueError:
            continue
        if _is_amount(text):
            yield _Token(start, end, text)


def _is_amount(text: str) -> bool:
    return len(text) <= AMOUNT_CHARS_MAX and _AMOUNT.fullmatch(text) is not None


def _padded_marks(text: Amount) -> Iterator[tuple[int, str]]:
    """Other ways to write an amount, by zeros at its end; and in which batch, as there are so many only."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        return
    whole, fraction, exponent = found[1], found[2] or ".", found[3] or ""
    room = AMOUNT_CHARS_MAX - len(whole + fraction + exponent)
    for batch in count() if room > 0 else ():
        for zeros in range(1, room + 1):
            yield batch, f"{whole}{fraction}{'0' * zeros}{exponent}"


def _written(payload: bytes, writes: Sequence[tuple[_Token, str]]) -> bytes:
    """The payload with other texts in place of some tokens."""
    parts: list[bytes] = []
    end = 0
    for token, text in sorted(writes, key=lambda each: each[0].start):
        parts += (payload[end : token.start], text.encode())
        end = token.end
    return b"".join((*parts, payload[end:]))
