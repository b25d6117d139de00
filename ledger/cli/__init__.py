"""The command line: `accountledger`. It knows projections and transports, as do the rooms it opens: `feeds`,
`run`, `serve` and the demo.

Exit codes: 0 done; 1 done, and something was found wrong (a quarantined frame, a gap, a difference); 2 bad usage or bad
input, told in one line; 70 a defect of ours, with its traceback; 130 interrupted; 141 whoever read the output is gone.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from ledger.cli import (
    copying,
    explain,
    feeding,
    following,
    proof,
    quarantine,
    seals,
    state,
    statements,
    views,
)
from ledger.cli.options import BAD, DEFECT, DONE, INTERRUPTED, VENUES, cli, end_output
from ledger.console import printable
from ledger.errors import LedgerError

__all__ = [
    "VENUES",
    "cli",
    "copying",
    "explain",
    "feeding",
    "following",
    "main",
    "proof",
    "quarantine",
    "seals",
    "state",
    "statements",
    "views",
]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        code = cli.main(args=args, prog_name="accountledger", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        code = BAD
    except click.ClickException as error:
        where = (
            error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "accountledger"
        )
        _complain(f"{error.format_message()} (see {where} --help)")
        code = BAD
    except LedgerError as error:
        _complain(str(error))
        code = BAD
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted; what was acknowledged is stored")
        code = INTERRUPTED
    except OSError as error:
        whose = error.filename if end_output() else "standard output"
        _complain(": ".join(filter(None, (whose, error.strerror or str(error)))))
        code = BAD
    except Exception as error:
        told = "".join(traceback.format_exception(error)).rstrip()
        _say("\n".join(map(printable, told.split("\n"))))
        _complain("this is a defect of accountledger: please report it; what was acknowledged is stored")
        code = DEFECT
    sys.exit(code if isinstance(code, int) else DONE)


def _complain(message: str) -> None:
    _say(f"accountledger: {printable(' '.join(message.split()))}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the exit code says it, too
        print(text, file=sys.stderr)
    end_output(sys.stderr)
