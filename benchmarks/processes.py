"""A module of ours in a process of its own: it says `ready`, is told to begin, and says what it did in JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

from benchmarks.measure import Unequal


class Process:
    """One that runs; killed where it does not end by itself. Raises Unequal where it is no more."""

    def __init__(self, module: str, *args: object) -> None:
        command = [sys.executable, "-m", module, *map(str, args)]
        root = Path(__file__).parent.parent
        self._module = module
        # In a session of its own it hears no Ctrl-C: that is for us, who end it.
        self._process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def is_ready(self) -> None:
        """Wait until it is."""
        self.line()

    def begin(self) -> None:
        """Let it do its work."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unequal(f"{self._module} ended with exit code {self._process.wait()}")
        return line
