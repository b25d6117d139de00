"""`python -m benchmarks`: measure and tell.

Exit codes: 0 done; 1 the sides did not do equal work, so nothing is claimed; 2 bad usage or input, told in one line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import click
from rich.console import Console

from benchmarks.decode import decode
from benchmarks.ingest import ingest
from benchmarks.measure import FULL, QUICK, Effort, Result, Unequal
from benchmarks.replay import replay
from benchmarks.report import load_text, machine, machine_line, table, write_json
from benchmarks.transport import table as table_of_delays
from benchmarks.transport import transport

DONE: Final = 0
FINDINGS: Final = 1
BAD: Final = 2
INTERRUPTED: Final = 130

PIPE_WIDTH: Final = 160
NAME: Final = "python -m benchmarks"

BENCHMARKS: Final[dict[str, Callable[[Effort], Iterator[Result]]]] = {
    "decode": decode,
    "ingest": ingest,
    "replay": replay,
    "transport": transport,
}


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its code."""
    try:
        command.main(args=args, prog_name=NAME, standalone_mode=False)
        code = DONE
    except Unequal as error:
        code = _complain(str(error), FINDINGS)
    except click.ClickException as error:
        code = _complain(f"{error.format_message()} (see {NAME} --help)", BAD)
    except OSError as error:
        code = _complain(str(error), BAD)
    except (click.Abort, KeyboardInterrupt):
        code = _complain("interrupted", INTERRUPTED)
    sys.exit(code)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("which", type=click.Choice([*BENCHMARKS, "all"]), default="all")
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write JSON there too.",
)
@click.option("--quick", is_flag=True, help="Fewer and shorter slices: seconds instead of minutes.")
def command(which: str, path: Path | None, quick: bool) -> None:
    """Measure accountledger beside the alternatives, side by side in one process: medians, and least to most.

    The last columns are the ratio of our speed to that side's, taken slice by slice: 0.50 is half as fast, 2.00 twice.
    `transport` tells times from the wire to the disk instead, and what they are beside.

    Exit codes: 0 done; 1 the sides did not do equal work; 2 bad usage or input.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.absolute().parent}", param_hint="--json")
    run(list(BENCHMARKS) if which == "all" else [which], QUICK if quick else FULL, path)


def run(names: Sequence[str], effort: Effort, path: Path | None) -> None:
    """Measure, print a table for each, and write the JSON."""
    out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    err = Console(stderr=True, highlight=False)
    before = machine()
    out.print(machine_line(before), soft_wrap=True)
    results: list[Result] = []
    for name in names:
        found: list[Result] = []
        with err.status(name) as status:
            for result in BENCHMARKS[name](effort):
                found.append(result)
                status.update(f"{name}: done with {result.case}")
        out.print()
        out.print(table_of_delays(found) if name == "transport" else table(found))
        results += found
    out.print(f"\nload at the end {load_text(machine())}", soft_wrap=True)
    if path is not None:
        write_json(path, before, effort is QUICK, results)


def _complain(message: str, code: int) -> int:
    print(f"{NAME}: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
