"""A JSON frame with one of its members twice, in every place and spelling: what a decoder must never let through."""

from __future__ import annotations

import json
from collections.abc import Iterator


class _Object(list[tuple[str, object]]):
    """A JSON object as its members."""


def doublings(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Each key of a frame, with the frame that says it twice: before all others of its object and after them, with the
    same value and with others, the key plain, with a blank and escaped."""
    whole = json.loads(payload, object_pairs_hook=_Object, parse_int=_Digits, parse_float=_Digits)
    for members in list(_objects(whole)):
        for key, value in list(members):
            for place in (0, len(members)):
                for other in (_text(value), "null", '"x"', "{}"):
                    for spelt in (
                        f'"{key}":',
                        f' "{key}" : ',
                        f'"\\u{ord(key[0]):04x}{key[1:]}":' if key else '"":',
                    ):
                        members.insert(place, (_AGAIN, _Digits(spelt + other)))
                        yield key, _text(whole).encode()
                        del members[place]


class _Digits(str):
    """What is written without quotes."""


_AGAIN = "again"


def _objects(value: object) -> Iterator[_Object]:
    if isinstance(value, _Object):
        yield value
        for _, inner in value:
            yield from _objects(inner)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _text(value: object) -> str:
    if isinstance(value, _Digits):
        return value
    if isinstance(value, _Object):
        members = (
            _text(told) if key == _AGAIN else f"{json.dumps(key)}:{_text(told)}" for key, told in value
        )
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return json.dumps(value, ensure_ascii=False)
