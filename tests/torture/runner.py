"""Runs commands with a fault in a system call, and tells which call it hit.

Faults are injected by strace, which counts the calls of each name for itself in every thread.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import overlaysync

SOURCE = Path(overlaysync.__file__).parents[1]
KILLED = -9
_POLL_S = 0.002

CHANGING = (
    "openat",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "write",
    "writev",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "fchmod",
    "fchown",
    "mkdir",
    "mkdirat",
    "ioctl",
    "copy_file_range",
    "sync_file_range",
)
"""System calls that change files, or make changes last; some exist on some machines only."""

_CALL = re.compile(r"^(\d+) +(\w+)\((.*)$")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that a command made.

    Attributes:
        name: of the system call.
        nth: how many of that name its thread had made, itself included.
        text: arguments and result, as strace prints them.
        injected: whether it was made to fail.
    """

    name: str
    nth: int
    text: str
    injected: bool = False

    def changes(self, place: Path) -> bool:
        """Whether it changes something below ``place``, or makes a change last."""
        if f"{place}/" not in self.text and f"<{place}>" not in self.text and f'"{place}"' not in self.text:
            return False
        if self.name == "openat":
            return "O_CREAT" in self.text
        return self.name != "ioctl" or "CLONE" in self.text


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the ``nth`` call of a name: an error (``ENOSPC``, ``EIO``), or ``kill``."""

    name: str
    nth: int
    what: str

    @property
    def stays(self) -> bool:
        """A full disk stays full; but opening to read, and the terminal, have nothing to do with it."""
        return self.what == "ENOSPC" and self.name not in ("openat", "write", "writev", "ioctl")

    @property
    def option(self) -> str:
        what = "signal=SIGKILL" if self.what == "kill" else f"error={self.what}"
        return f"inject={self.name}:{what}:when={self.nth}{'+' if self.stays else ''}"

    def __str__(self) -> str:
        return f"{self.what} at {self.name} #{self.nth}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended.

    Attributes:
        calls: those of :data:`CHANGING`, when it was traced.
    """

    words: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...] = ()

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """What it says of its failure; empty when it says nothing in the agreed form.

        Where its output has no room, what it says on the other stream is there still.
        """
        for text in (self.stdout, *self.stderr.splitlines()):
            try:
                return dict(json.loads(text)["error"])
            except (ValueError, KeyError, TypeError):
                continue
        return {}

    def __str__(self) -> str:
        return f"{' '.join(self.words)}: exit {self.code}\n{self.stdout}{self.stderr}"


class Runner:
    """A process that forks commands; ``close`` ends it.

    Args:
        place: directory for logs.
        one_thread: see :mod:`tests.torture.forks`.
        checkpoint: bytes after which a part file is synced and claimed; 0 leaves the usual number.
        reserve: bytes to leave free on a file system; None leaves the usual number.
        one_pull: whether one thread stores what is pulled into a vault, instead of several.
        prefix: words before its command, to run it in other namespaces.
    """

    def __init__(
        self,
        place: Path,
        *,
        one_thread: bool = True,
        checkpoint: int = 0,
        reserve: int | None = None,
        one_pull: bool = False,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._logs = Path(tempfile.mkdtemp(prefix="logs-", dir=place))
        self.one_thread = one_thread
        settings = {
            "one_thread": one_thread,
            "checkpoint": checkpoint,
            "reserve": reserve,
            "one_pull": one_pull,
        }
        inside = [*prefix, "env", f"--chdir={SOURCE}"] if prefix else []
        with open(self._logs / "forks", "wb") as errors:
            self._process = subprocess.Popen(
                [*inside, sys.executable, "-m", "tests.torture.forks", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=SOURCE,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(
        self,
        words: tuple[str, ...],
        *,
        directory: Path,
        home: Path,
        fault: Fault | None = None,
        trace: bool = False,
        kill_when: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Run a command to its end; with ``fault`` or ``trace`` under strace.

        Args:
            words: the command.
            directory: where it runs.
            home: OVERLAYSYNC_HOME.
            fault: what happens to it.
            trace: whether to note its system calls.
            kill_when: asked all the time; once it says so, the command is killed.
        """
        stdout, stderr, log = (self._logs / word for word in ("out", "err", "trace"))
        order = {
            "words": words,
            "directory": str(directory),
            "stdout": str(stdout),
            "stderr": str(stderr),
            "environment": {
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(home.parent),
                "OVERLAYSYNC_HOME": str(home),
                "OVERLAYSYNC_USER": "torture",
            },
        }
        self._tell(json.dumps(order))
        pid = int(self._answer())
        tracer = self._trace(pid, log, fault) if fault or trace else None
        self._tell("")
        while kill_when is not None and not self._answered():
            if kill_when():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
        code = int(self._answer())
        if tracer is not None:
            tracer.communicate()
        calls = parse(log.read_text(errors="replace")) if tracer else ()
        return Outcome(words, code, stdout.read_text(), stderr.read_text(errors="replace"), calls)

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            print(line, file=self._process.stdin, flush=True)

    def _answered(self) -> bool:
        """Whether there is an answer to read; waits a little for it."""
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], _POLL_S)[0])

    def _answer(self) -> str:
        assert self._process.stdout
        answer = self._process.stdout.readline()
        assert answer, (self._logs / "forks").read_text()
        return answer

    def _trace(self, pid: int, log: Path, fault: Fault | None) -> subprocess.Popen[str]:
        """A strace that has hold of the process."""
        log.write_bytes(b"")
        command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-p", str(pid)]
        command += ["-e", f"trace={','.join(f'?{name}' for name in CHANGING)}"]
        command += ["-e", fault.option] if fault else []
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        assert "attached" in line, line + tracer.stderr.read()
        return tracer


def parse(log: str) -> tuple[Call, ...]:
    """The calls of a log of strace, in the order in which they began."""
    counts: Counter[tuple[str, str]] = Counter()
    calls = []
    for line in log.splitlines():
        if found := _CALL.match(line):
            thread, name, text = found.groups()
            counts[thread, name] += 1
            calls.append(Call(name, counts[thread, name], text, "(INJECTED)" in text))
    return tuple(calls)
