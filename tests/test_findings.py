"""What is found wrong: how it is told, and which of many names the first bad event."""

from __future__ import annotations

from random import Random

from ledger.findings import Finding, first_bad, weight


def test_a_finding_names_the_event_and_says_what_is_wrong_with_it() -> None:
    whole = Finding("seal", "its seal is gone", "scripted:main", 3, 7)
    assert "scripted:main version 3 (position 7): its seal is gone" == whole.sentence()
    assert "scripted:main version 3" == Finding("missing", "", "scripted:main", 3).place
    assert "position 7" == Finding("missing", "", position=7).place
    assert "the file is cut off" == Finding("file", "the file is cut off").sentence()


def test_the_first_bad_event_is_that_of_the_lowest_position_whatever_is_found_first() -> None:
    """What a decoder or a checkpoint says comes after what is wrong with the events themselves."""
    ordered = [
        Finding("seal", "", "a", 1, 4),
        Finding("frame", "", "b", 1, 6),
        Finding("missing", "", "a", 9),
        Finding("decode", "", "a", 1, 2),
        Finding("checkpoint", "", "a", 2, 3),
    ]
    shuffled = [Finding("file", "names none"), *ordered]
    Random(7).shuffle(shuffled)
    assert ordered == sorted((each for each in shuffled if each.place), key=weight)
    assert ordered[0] == first_bad(shuffled)
    assert ordered[3] == first_bad(ordered[3:])
    assert first_bad([Finding("file", "names none")]) is None
