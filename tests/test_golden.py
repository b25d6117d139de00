"""Every golden frame becomes exactly the events beside it, twice: `decode` is pure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden import FRAMES, said


@pytest.mark.parametrize(
    "path", sorted(FRAMES.glob("*/*.frame")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_golden_frame_becomes_exactly_these_events_twice(path: Path) -> None:
    expected = json.loads(path.with_suffix(".events.json").read_text())
    assert expected == json.loads(json.dumps(said(path), default=repr))
    assert said(path) == said(path)


def test_every_venue_has_golden_frames() -> None:
    venues = {path.stem for path in (Path(__file__).parent.parent / "ledger/venues").glob("[a-z]*.py")}
    assert venues == {path.name for path in FRAMES.iterdir() if path.is_dir()}
