"""A process that has imported the command line, and forks one for each command: the imports cost more than most tests.

Each command has a process of its own, its streams and its folder. Of the environment it finds what there was when the
first was run: where that is another now, `Forking` does not serve, and the command is started as a user starts it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from socket import AF_UNIX, SOCK_SEQPACKET, recv_fds, send_fds, socket, socketpair
from typing import IO, Final, NamedTuple, Self

MESSAGE_BYTES_MAX: Final = 128 * 1024
TOLD_APART: Final = "PYTEST_CURRENT_TEST"
"""The variable that differs from test to test, and says nothing to a command."""


class Command(NamedTuple):
    """What is to be run, and in which folder."""

    folder: str
    args: Sequence[str]


class Forking:
    """Runs commands in processes forked from one that is ready for them. It ends with the process that has it."""

    def __init__(self) -> None:
        self._environment = _environment()
        self._ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._sending = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that forks; commands under way go on."""
        self._ours.close()
        self._process.wait()

    def serves(self) -> bool:
        """Whether a command forked would find the environment that one started anew would find."""
        return _environment() == self._environment

    def run(self, command: Command, stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """How a command ended, what it printed and what it complained of. Raises TimeoutExpired."""
        told, status = os.pipe()
        read, write = os.pipe()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                with self._sending:
                    fds = [status, read, out.fileno(), err.fileno()]
                    send_fds(self._ours, [b"\0".join(map(os.fsencode, [command.folder, *command.args]))], fds)
            finally:
                os.close(status)
                os.close(read)
            feeding = threading.Thread(target=_feed, args=(write, stdin))
            feeding.start()
            try:
                pid = _number(told, timeout_s)
                try:
                    code = _number(told, timeout_s)
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    _number(told, timeout_s)  # it is over: no lock is held any more
                    raise subprocess.TimeoutExpired(command.args, timeout_s, _all(out), _all(err)) from None
            finally:
                os.close(told)
                feeding.join()
            return code, _all(out), _all(err)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != TOLD_APART}


def _feed(writer: int, told: bytes) -> None:
    try:
        with os.fdopen(writer, "wb") as stream:
            stream.write(told)
    except BrokenPipeError:
        pass  # as where a shell feeds who does not read


def _number(reader: int, timeout_s: float) -> int:
    if not select.select([reader], [], [], timeout_s)[0]:
        raise TimeoutError
    told = os.read(reader, 8)
    assert len(told) == 8, "the process that forks has died"
    return int.from_bytes(told, "big", signed=True)


def _all(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


# In the process that forks ---------------------------------------------------------------------------------------


def _tell(writer: int, number: int) -> None:
    os.write(writer, number.to_bytes(8, "big", signed=True))


def _next(channel: socket) -> Command:
    """The command this process is to run: it is forked for it. Never back in the one that forks."""
    minders = set[int]()
    while True:
        message, fds, _, _ = recv_fds(channel, MESSAGE_BYTES_MAX, 4)
        if not message:
            os._exit(0)
        if (minder := os.fork()) == 0:
            status, *streams = fds
            if (pid := os.fork()) == 0:
                channel.close()
                os.close(status)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                    os.close(stream)
                folder, *args = map(os.fsdecode, message.split(b"\0"))
                return Command(folder, args)
            with contextlib.suppress(BrokenPipeError):  # who asked for it has given up
                _tell(status, pid)
                _tell(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            os._exit(0)
        for each in fds:
            os.close(each)
        minders.add(minder)
        minders -= {each for each in minders if os.waitpid(each, os.WNOHANG) != (0, 0)}


def _main(channel: socket) -> None:
    for module in ("ledger.cli", "projections", "transports", "psycopg", "anyio"):
        __import__(module)
    gc.freeze()  # what is never looked at again is never copied
    command = _next(channel)
    os.chdir(command.folder)
    sys.path[0] = command.folder
    sys.argv = ["accountledger", *command.args]
    runpy.run_module("ledger", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(socket(fileno=int(sys.argv[1])))
