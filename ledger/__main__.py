"""`python -m ledger` is the command `accountledger`."""

from __future__ import annotations

import io
import os
import sys
from typing import Final, NoReturn

INTERRUPTED: Final = 130
STREAMS: Final = ("stdin", "stdout", "stderr")


def main() -> NoReturn:
    """Run the command line and exit with its code. It takes a moment to import: Ctrl-C may strike in it, too."""
    try:
        prepare_streams()
        from ledger.cli import main as run
    except KeyboardInterrupt:
        print("\naccountledger: interrupted", file=sys.stderr)  # below the terminal's ^C
        sys.exit(INTERRUPTED)
    run()


def prepare_streams() -> None:
    """JSON is UTF-8, and a name has characters that the encoding of a place may not have. What was closed by who
    started us is opened: a file of the ledger would get its number."""
    for number, name in enumerate(STREAMS):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(_silent(number), "w" if number else "r"))
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _silent(number: int) -> int:
    """A stream that says nothing, and to which nothing is said."""
    found = os.open(os.devnull, os.O_RDWR)
    if found != number:
        os.dup2(found, number)
        os.close(found)
    return number


if __name__ == "__main__":
    main()
