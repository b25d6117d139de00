"""The benchmark of decoding: all sides read the same, and one that does not is found out. No time is asserted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from benchmarks import decode, extras, frames, plain, samples
from benchmarks.decode import Way
from benchmarks.measure import Absent, Effort, Unequal
from ledger import Frame
from ledger.events import BalanceDelta

TINY = Effort(2, 1_000, (), 0, 0)
KINDS = [f"{sample.venue.NAME} {sample.name}" for sample in samples.SAMPLES]


def ways(sample: samples.Sample) -> list[Way]:
    found = decode.ways(sample)
    assert not any(isinstance(way, Absent) for way in found)
    return [way for way in found if isinstance(way, Way)]


@pytest.mark.parametrize("sample", samples.SAMPLES, ids=KINDS)
def test_every_side_reads_every_amount_of_a_frame(sample: samples.Sample) -> None:
    payload = sample.make(7)
    assert len(frames.amounts(payload)) >= 1
    wanted = {"msgspec.Raw (floor)": "reads nothing"}
    if plain.sends_numbers(sample):
        wanted |= {decode.ORJSON: "not exact: floats", decode.PYDANTIC: "not exact: floats"}
    if sample.form == "bitopro":
        wanted |= {decode.CCXT: "does not read stake; not exact: floats"}
    said = {way.name: decode.check(payload, way) for way in ways(sample)}
    assert wanted == {name: note for name, note in said.items() if note}
    assert [decode.OURS, "msgspec.Raw (floor)", "msgspec, texts", decode.DECIMALS, "json, Decimals"] == [
        *said
    ][:5]


@pytest.mark.parametrize("sample", [samples.UPDATE, samples.SAMPLES[0]], ids=["texts", "numbers"])
def test_a_side_that_reads_one_amount_wrong_is_found_out(sample: samples.Sample) -> None:
    payload = sample.make(1)
    amount = sorted(frames.amounts(re.sub(rb'"stake":"[^"]*"', b"", payload)))[0]
    last = b"1" if amount[-1:] == b"0" else b"0"
    other = payload.replace(amount, amount[:-1] + last)
    for way in ways(sample):
        spoiled = msgspec.structs.replace(way, work=reading(other, way.work))
        with pytest.raises(Unequal, match="did not read every amount"):
            decode.check(payload, spoiled)


def reading(other: bytes, work: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The work, done on another frame than is asked for."""
    return lambda _: work(other)


def test_what_ccxt_keeps_of_the_frame_is_not_taken_for_what_it_read() -> None:
    payload = samples.UPDATE.make(1)
    way = next(way for way in ways(samples.UPDATE) if way.name == decode.CCXT)
    lazy = msgspec.structs.replace(way, work=lambda _: {"info": msgspec.json.decode(payload)})
    with pytest.raises(Unequal):
        decode.check(payload, lazy)


def test_a_side_that_skips_an_amount_is_found_out() -> None:
    payload = samples.UPDATE.make(1)
    for exact in (True, False):
        with pytest.raises(Unequal, match="lazy did not read"):
            decode.check(payload, Way("lazy", lambda _: {"amount": "1.00000000"}, exact=exact))


def test_every_frame_that_is_measured_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    right = plain.standard(samples.UPDATE)
    payloads = decode.several(samples.UPDATE)
    wrong = Way("wrong", lambda payload: right(payloads[0] if payload == payloads[-1] else payload))
    with pytest.raises(Unequal):
        decode.check_all(payloads, wrong)
    monkeypatch.setattr(decode, "ways", lambda sample: [Way(decode.OURS, right), wrong])
    with pytest.raises(Unequal):
        decode.decoded(samples.UPDATE, TINY)


@pytest.mark.parametrize("sample", samples.SAMPLES, ids=KINDS)
def test_the_frames_of_a_kind_are_always_the_same_bytes_and_unlike_each_other(sample: samples.Sample) -> None:
    assert len({sample.make(n) for n in range(50)}) == 50
    assert sample.make(3) == sample.make(3)
    payloads = decode.several(sample)
    assert decode.FRAMES_MIN <= len(payloads) == len(set(payloads)) <= decode.FRAMES_MAX


def test_the_size_in_the_name_of_a_frame_is_its_number_of_entries() -> None:
    for sample in samples.SAMPLES:
        frame = Frame("x:main", "session", 2, 0, sample.make(1))
        events = [event for _, event in sample.venue.decode(frame)]
        entries = sum(len(event.balances) if isinstance(event, BalanceDelta) else 1 for event in events)
        if sample is samples.ORDER:
            assert (2, 1) == (entries, sample.entries)
        else:
            assert entries == sample.entries == int(sample.name.split()[0].replace(",", ""))


def test_large_frames_and_single_updates_are_held_to_their_own_bounds() -> None:
    asked = {
        sample.name: {claim.text: claim.bound for claim in decode.decoded(sample, TINY).claims}
        for sample in (samples.SINGLE, samples.UPDATE, samples.ORDER)
    }
    single = {
        "single updates: our time / bare msgspec's (Decimals)": 1.8,
        "everywhere: our speed / that of orjson with Decimals": 1.0,
    }
    large = {
        "11 or more entries: our time / bare msgspec's (Decimals)": 1.3,
        "everywhere: our speed / that of orjson with Decimals": 1.0,
    }
    ccxt = {"our speed / that of ccxt's handler": 6.0}
    assert {"1 entry": single | ccxt, "11 entries": large | ccxt, "order with fill": single} == asked


def test_a_side_whose_package_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "loaded", lambda module, needs: None)
    result = decode.decoded(samples.UPDATE, TINY)
    wanted = {name: extras.NOT_INSTALLED for name in (decode.ORJSON, decode.PYDANTIC, decode.CCXT)}
    assert wanted == {run.side: run.note for run in result.runs if run.per_s is None}
    assert ["falls short or passes", "not measured", "not measured"] == [
        "falls short or passes" if claim.figure else claim.verdict for claim in result.claims
    ]
    assert f"{decode.CCXT}: {extras.NOT_INSTALLED}" == result.claims[-1].reason


def test_a_module_is_missing_only_where_what_it_needs_is() -> None:
    assert extras.loaded("benchmarks.plain", needs=[]) is plain
    assert extras.loaded("nowhere.at.all", needs=["nowhere"]) is None
    with pytest.raises(ModuleNotFoundError):
        extras.loaded("nowhere.at.all", needs=["orjson"])
