"""Texts without NUL are themselves when they are read; what differs stays different and in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.nul import heard, told

text = st.text(st.characters(exclude_categories=["Cs"])) | st.text("\0\1\2ab")


@given(text)
def test_a_text_has_no_nul_when_it_is_stored_and_is_itself_when_it_is_read(said: str) -> None:
    assert "\0" not in told(said)
    assert (said, 1) == heard((told(said), 1))


@given(text, text)
def test_texts_keep_their_order_and_differ_where_they_differed(one: str, other: str) -> None:
    assert (one < other, one == other) == (told(one) < told(other), told(one) == told(other))


def test_what_is_no_text_is_told_as_it_is() -> None:
    assert [1, b"\0\1", None] == [told(1), told(b"\0\1"), told(None)]
    assert (1, 0) == (told(True), told(False))
    assert int is type(told(True))
    assert (b"\0\1", None, 5) == heard((b"\0\1", None, 5))


def test_a_told_that_loses_the_difference_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "told", lambda said: said.replace("\0", ""))
    with pytest.raises(AssertionError):
        test_texts_keep_their_order_and_differ_where_they_differed()
