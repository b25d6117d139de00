"""What is to be shown, judged by the figures of a run.

Knows results; measures nothing. A claim that holds of several cases is one claim: its worst case counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, structs

from benchmarks.measure import Claim, Result


class Told(Struct, frozen=True):
    """A claim, its worst figure of all cases, and where that was."""

    benchmark: str
    text: str
    bound: float
    at_least: bool
    figure: float | None
    verdict: str
    case: str
    cases: int
    reason: str


def faster(result: Result, side: str, text: str, bound: float, *, cpu: bool = False) -> Result:
    """The result, with the claim that our speed is at least `bound` times that side's."""
    return _judged(result, side, text, bound, at_least=True, cpu=cpu)


def slower(result: Result, side: str, text: str, bound: float, *, cpu: bool = False) -> Result:
    """The result, with the claim that our time is at most `bound` times that side's."""
    return _judged(result, side, text, bound, at_least=False, cpu=cpu)


def told(results: Iterable[Result]) -> list[Told]:
    """Each claim once, in the order they were made."""
    found: dict[tuple[str, str], list[tuple[Claim, str]]] = {}
    for result in results:
        for claim in result.claims:
            found.setdefault((result.benchmark, claim.text), []).append((claim, result.case))
    return [_worst(benchmark, cases) for (benchmark, _), cases in found.items()]


def count_text(claims: Iterable[Told]) -> str:
    """How many pass, and how many do not."""
    verdicts = [claim.verdict for claim in claims]
    names = {"pass": "pass", "falls short": "fall short", "not measured": "not measured"}
    return ", ".join(f"{verdicts.count(verdict)} {name}" for verdict, name in names.items())


def bound_text(claim: Claim | Told) -> str:
    """What is asked of the figure."""
    return f"at {'least' if claim.at_least else 'most'} {claim.bound:g}"


def _judged(result: Result, side: str, text: str, bound: float, *, at_least: bool, cpu: bool) -> Result:
    """The claim goes into the result, and its figure beside the side that it was taken from."""
    run = result.run(side)
    ours = run.ours_cpu if cpu else run.ours
    if ours is None:
        claim = Claim(text, None, bound, at_least, f"{side}: {run.note}")
        noted = run
    else:
        claim = Claim(text, ours.median if at_least else 1 / ours.median, bound, at_least)
        verdict = f"{claim.figure:.2f}, {bound_text(claim)}: {claim.verdict}"
        noted = structs.replace(run, note="; ".join(filter(None, (verdict, run.note))))
    runs = tuple(noted if each is run else each for each in result.runs)
    return structs.replace(result, runs=runs, claims=(*result.claims, claim))


def _worst(benchmark: str, cases: list[tuple[Claim, str]]) -> Told:
    """One case that falls short is enough; else one that was not measured; else the one nearest to its bound."""
    order = ("falls short", "not measured", "pass")

    def badness(each: tuple[Claim, str]) -> tuple[int, float]:
        figure = each[0].figure or 0.0
        return order.index(each[0].verdict), figure if each[0].at_least else -figure

    claim, case = min(cases, key=badness)
    return Told(
        benchmark,
        claim.text,
        claim.bound,
        claim.at_least,
        claim.figure,
        claim.verdict,
        case,
        len(cases),
        claim.reason,
    )
