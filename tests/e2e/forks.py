"""Commands as forks of a process that has the program loaded: a few hundredths of a second, not most of one.

To load the program takes longer than nearly all that a test has it do. So one process loads it, once for each
worker of pytest, and forks for every command. The child has a session, environment, directory and streams of
its own, and runs the same entry point. What it has not done is to start: that,
commands do which run in namespaces, in a terminal, or with settings for Python.

Run as ``python -m tests.e2e.forks``: a line of JSON on stdin starts a command, a line on stdout is its pid,
and a file says how it ended. When stdin ends, what still runs is killed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any, Self

_POLL_S = 0.004
_SOURCE = Path(__file__).parents[2]


class Forks:
    """Forks commands; its process starts with the first of them, and ends with the context.

    Args:
        prefix: words before its command, to run all of it in other namespaces.
    """

    def __init__(self, prefix: tuple[str, ...] = ()) -> None:
        self._prefix = prefix
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.communicate()

    def start(self, order: dict[str, Any]) -> int:
        """The pid of a command."""
        if self._process is None:
            inside = [*self._prefix, "env", f"--chdir={_SOURCE}"] if self._prefix else []
            self._process = subprocess.Popen(
                [*inside, sys.executable, "-m", "tests.e2e.forks"],
                env=order["environment"],
                cwd=_SOURCE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin and self._process.stdout
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


class Forked:
    """A command under way; looks like a :class:`subprocess.Popen`.

    Args:
        words: the command, without the program.
        stem: its output goes to files with this name, and how it ended.
    """

    def __init__(
        self, forks: Forks, words: list[str], environment: Mapping[str, str], directory: Path, stem: Path
    ) -> None:
        self._words = words
        self._end = stem.with_suffix(".end")
        self.returncode: int | None = None
        self.pid = forks.start(
            {
                "words": words,
                "environment": dict(environment),
                "directory": str(directory),
                "stem": str(stem),
            }
        )

    def poll(self) -> int | None:
        if self.returncode is None and self._end.exists():
            self.returncode = int(self._end.read_text())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self._words, timeout or 0)
            time.sleep(_POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)


# -- the server ----------------------------------------------------------------------------------------


def _load() -> None:
    """Load all of the program, and what it loads only when it is used."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "SSL_CERT_FILE": os.devnull}
    import overlaysync

    for module in pkgutil.walk_packages(overlaysync.__path__, "overlaysync."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from overlaysync.cli.main import run

    with tempfile.TemporaryDirectory() as home:
        os.environ["OVERLAYSYNC_HOME"] = home
        with suppress(SystemExit), redirect_stdout(StringIO()):
            run(["id", f"{home}/none", "--json", "--quiet"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    gc.collect()
    gc.freeze()


def _serve(answers: int) -> dict[str, Any] | None:
    """Fork for every order, until stdin ends; returns in each child, with its order."""
    children: dict[int, tuple[int, Path]] = {}  # pidfd → pid, and the file that says how it ended
    poller = select.poll()
    poller.register(0, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd:
                poller.unregister(fd)
                _bury(*children.pop(fd))
                os.close(fd)
                continue
            line = _read_line()
            if not line:
                for pid, _ in children.values():  # the tests were killed: nothing else ends these
                    os.kill(pid, signal.SIGKILL)
                return None
            order: dict[str, Any] = json.loads(line)
            if not (pid := os.fork()):
                for other in (*children, answers):
                    os.close(other)
                return order
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid, Path(order["stem"] + ".end")
            poller.register(pidfd, select.POLLIN)
            os.write(answers, f"{pid}\n".encode())


def _read_line() -> bytes:
    """A line of stdin; nothing of the next one is taken."""
    line = bytearray()
    while not line.endswith(b"\n") and (part := os.read(0, 65536)):
        line += part
    return bytes(line)


def _bury(pid: int, end: Path) -> None:
    """Say how a child ended. Its number is nobody else's until that is said."""
    state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert state is not None
    code = state.si_status if state.si_code == os.CLD_EXITED else -state.si_status
    new = end.with_suffix(".new")
    try:
        new.write_text(str(code))
        new.rename(end)
    except OSError:
        pass  # the test has gone, and its directory with it
    os.waitpid(pid, 0)


def _become(order: dict[str, Any]) -> None:
    """Make this process what a shell would have made for the command."""
    os.setsid()
    streams = (
        (0, os.devnull, os.O_RDONLY),
        (1, order["stem"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, order["stem"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    )
    for target, path, flags in streams:
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["overlaysync", *order["words"]]


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing that is printed while it loads is taken for an answer
    _load()
    order = _serve(answers)
    if order is not None:
        _become(order)
        _end(_run())


def _run() -> int:
    from overlaysync.cli.main import run

    try:
        run()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else bool(stop.code)
    except BaseException:
        traceback.print_exc()
        return 1


def _end(code: int) -> None:
    """End as the interpreter does, but without taking apart all that was loaded, which takes longest."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # what was never awaited or retrieved is said now
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
