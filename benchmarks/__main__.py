"""`python -m benchmarks`: measure and tell.

A benchmark is a module here with a generator of its own name; where it has a `table`, that is how its results are
shown, and where it has `cases`, that is how many there will be. It is imported when it is run, not before.
Exit codes: 0 done; 1 the sides did not do equal work, so nothing is claimed; 2 bad usage or input, told in one line;
130 interrupted; 141 whoever read the output is gone. Claims that fall short change no exit code: they are told.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

import click
from rich.console import Console

from benchmarks import report
from benchmarks.claims import count_text, told
from benchmarks.extras import NOT_INSTALLED, loaded
from benchmarks.measure import FULL, QUICK, Effort, Result, Unequal
from ledger.__main__ import prepare_streams

DONE: Final = 0
FINDINGS: Final = 1
BAD: Final = 2
INTERRUPTED: Final = 130
UNHEARD: Final = 141

PIPE_WIDTH: Final = 180
NAME: Final = "python -m benchmarks"

BENCHMARKS: Final = ("decode", "ingest", "replay", "growth", "transport", "postgres")


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its code."""
    prepare_streams()
    try:
        command.main(args=args, prog_name=NAME, standalone_mode=False)
        code = DONE
    except Unequal as error:
        code = _complain(str(error), FINDINGS)
    except click.ClickException as error:
        code = _complain(f"{error.format_message()} (see {NAME} --help)", BAD)
    except OSError as error:
        code = _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), BAD)
    except (click.Abort, KeyboardInterrupt):
        code = _complain("interrupted", INTERRUPTED)
    except BaseExceptionGroup as group:  # of an event loop that was interrupted
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        code = _complain("interrupted", INTERRUPTED)
    sys.exit(code)


class _Piped(Console):
    """A console whose reader may go away: that is no finding."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()  # what is left to be written goes to nobody
        sys.exit(UNHEARD)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("which", type=click.Choice([*BENCHMARKS, "all"]), default="all")
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write JSON there too.",
)
@click.option(
    "--pictures",
    "folder",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Draw each table there too, as SVG.",
)
@click.option("--quick", is_flag=True, help="Fewer and shorter slices: seconds instead of minutes.")
def command(which: str, path: Path | None, folder: Path | None, quick: bool) -> None:
    """Measure accountledger beside the alternatives, side by side in one process: medians, and least to most.

    "our speed / its" is taken slice by slice, by the clock on the wall and by CPU time: 0.50 is half as fast, 2.00
    twice. `transport` tells times from the wire to the disk instead, and what they are beside. Under each table stands
    what is claimed of it, with the figure of this run: pass, or falls short.

    Exit codes: 0 done, whatever the claims; 1 the sides did not do equal work; 2 bad usage or input; 130 interrupted;
    141 nobody reads the output any more.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.absolute().parent}", param_hint="--json")
    paint = None if folder is None else _painter(folder)
    if path is not None:
        report.check_writable(path)
    names = list(BENCHMARKS) if which == "all" else [which]
    run(names, QUICK if quick else FULL, path, paint)


def run(
    names: Sequence[str],
    effort: Effort,
    path: Path | None,
    paint: Callable[[list[Result]], list[Path]] | None,
) -> None:
    """Measure, print a table for each with its claims, draw it, and write the JSON of all so far."""
    piped = not sys.stdout.isatty()
    out = _Piped(width=PIPE_WIDTH if piped else None, highlight=False, markup=False)
    before = report.machine()
    out.print(report.machine_line(before), soft_wrap=piped)
    results: list[Result] = []
    for name in names:
        module = import_module(f"benchmarks.{name}")
        found = _measured(name, module, effort)
        out.print()
        out.print(getattr(module, "table", report.table)(found))
        out.print()
        out.print(report.claims_table(told(found), f"{name}: claims"))
        if paint is not None:
            out.print(f"\ndrawn: {', '.join(map(str, paint(found))) or 'nothing'}", soft_wrap=True)
        results += found
        if path is not None and (path.is_file() or name == names[-1]):  # what is no file is written once
            report.write_json(path, before, effort is QUICK, results)
    out.print()
    if len(names) > 1:
        out.print(report.claims_table(told(results), "all claims"))
    out.print(f"claims: {count_text(told(results))}")
    out.print(f"load at the end {report.load_text(report.machine())}", soft_wrap=piped)


def _measured(name: str, module: ModuleType, effort: Effort) -> list[Result]:
    """The results, one by one, with the progress on the terminal."""
    cases = getattr(module, "cases", None)
    of = "" if cases is None else f" of {cases(effort)}"
    found: list[Result] = []
    with Console(stderr=True, highlight=False, markup=False).status(f"{name}: case 1{of}") as status:
        for result in getattr(module, name)(effort):
            found.append(result)
            status.update(f"{name}: case {len(found) + 1}{of} (done with {result.case})")
    return found


def _painter(folder: Path) -> Callable[[list[Result]], list[Path]]:
    """Draws results into that folder, which is made."""
    pictures = loaded("benchmarks.pictures", needs=["matplotlib"])
    if pictures is None:
        raise click.BadParameter(f"matplotlib is {NOT_INSTALLED}", param_hint="--pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return lambda results: pictures.draw(results, folder)


def _complain(message: str, code: int) -> int:
    print(f"{NAME}: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
