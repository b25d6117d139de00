"""Golden frames: `frames/<venue>/<case>.frame` (raw bytes) and `<case>.events.json` (what they become).

`<case>` may end in `@N`: the frame's ordinal in its session (1 where it does not say).
Run `python -m tests.golden` to write the expectation of frames that have none; then read it as a critic.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import cast

import msgspec

from ledger.errors import Malformed
from ledger.venue import Frame, Venue

FRAMES = Path(__file__).parent / "frames"
RECEIVED_NS = 1_790_000_000_000_000_000


def frame_of(path: Path) -> Frame:
    """The golden frame at `path`, as an intake would number it."""
    _, _, ordinal = path.stem.partition("@")
    return Frame(f"{path.parent.name}:main", "golden", int(ordinal or 1), RECEIVED_NS, path.read_bytes())


def said(path: Path) -> object:
    """What the venue module makes of the golden frame, as plain JSON."""
    venue = cast("Venue", importlib.import_module(f"ledger.venues.{path.parent.name}"))
    try:
        statements = venue.decode(frame_of(path))
    except Malformed as error:
        return {"malformed": str(error)}
    return [
        {"account": account, "topic": type(event).__name__, **plain(event)} for account, event in statements
    ]


def plain(event: msgspec.Struct) -> dict[str, object]:
    """The event's fields by name, without the place and digest that the test itself chose."""
    fields = {name: _plain(getattr(event, name)) for name in event.__struct_fields__}
    source = fields["source"]
    assert isinstance(source, dict)
    for name in ("session", "ordinal", "received_ns", "evidence"):
        del source[name]
    return {name: value for name, value in fields.items() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        pairs = {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        return {name: part for name, part in pairs.items() if part is not None}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


if __name__ == "__main__":
    for path in sorted(FRAMES.glob("*/*.frame")):
        expected = path.with_suffix(".events.json")
        if not expected.exists():
            expected.write_text(json.dumps(said(path), indent=1, ensure_ascii=False, default=repr) + "\n")
            print("wrote", expected.relative_to(FRAMES))
