"""A race: processes wait at one line, start together, and are watched until their files are there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import CannotMeasureError, last_line

_LOOK_S = 0.01
_LEAVE_S = 30.0
"""For processes that end by themselves, after the last file is there."""
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Words before a command that shall not outlive this process, even when that is killed."""
_START = (*DIES_WITH_US, "sh", "-c", 'echo ready; read -r _; exec "$@" </dev/null', "sh")
"""Words before a command that shall wait until its standard input is closed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One process of a race.

    Attributes:
        name: what it is called in messages.
        prefix: words that bring it to its host; the time they take does not count.
        command: what fetches.
        env: added to this process's environment.
        sign: a path that appears when the file is whole: mostly the file itself.
        delay_s: how much later than the others it starts.
        lingers: whether it goes on when it is done, until it is interrupted.
    """

    name: str
    prefix: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    sign: Path
    delay_s: float = 0.0
    lingers: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Seconds from a process's own start.

    Attributes:
        arrived_s: until its file was there.
        ended_s: until it ended; None if it was interrupted.
    """

    arrived_s: float
    ended_s: float | None


@dataclass(slots=True, eq=False)
class _Runner:
    entry: Entry
    process: subprocess.Popen[str]
    errors: Path
    started: float | None = None
    arrived: float | None = None
    ended: float | None = None

    def go(self) -> None:
        assert self.process.stdin
        self.started = time.perf_counter()
        self.process.stdin.close()

    def look(self, now: float) -> None:
        """See what has happened since.

        Raises:
            CannotMeasureError: it has failed.
        """
        if self.arrived is None and os.path.lexists(self.entry.sign):
            self.arrived = now
        if self.ended is None and self.process.poll() is not None:
            self.ended = now
            if self.process.returncode or not os.path.lexists(self.entry.sign):
                raise CannotMeasureError(f"{self.entry.name} failed: {last_line(self.errors.read_text())}")

    def finish(self) -> Finish:
        assert self.started is not None and self.arrived is not None
        ended = None if self.ended is None else self.ended - self.started
        return Finish(self.arrived - self.started, ended)


def race(entries: Sequence[Entry], limit_s: float, logs: Path) -> list[Finish]:
    """Run processes together; returns when all files are there, and all that end by themselves have ended.

    Raises:
        CannotMeasureError: one failed, or was not done within ``limit_s`` seconds.
    """
    with ExitStack() as stack:
        runners = [stack.enter_context(_waiting(entry, logs)) for entry in entries]
        started = time.perf_counter()
        while any(runner.arrived is None for runner in runners):
            now = time.perf_counter()
            for runner in runners:
                if runner.started is None and now - started >= runner.entry.delay_s:
                    runner.go()
                runner.look(now)
            late = [runner.entry.name for runner in runners if runner.arrived is None]
            if late and now - started > limit_s:
                raise CannotMeasureError(f"{', '.join(late)}: not done after {limit_s:.0f} s")
            time.sleep(_LOOK_S)
        _let_end([runner for runner in runners if not runner.entry.lingers])
        return [runner.finish() for runner in runners]


def _let_end(runners: list[_Runner]) -> None:
    limit = time.perf_counter() + _LEAVE_S
    while any(runner.ended is None for runner in runners) and time.perf_counter() < limit:
        for runner in runners:
            runner.look(time.perf_counter())
        time.sleep(_LOOK_S)


@contextmanager
def _waiting(entry: Entry, logs: Path) -> Iterator[_Runner]:
    """A process on its host that waits for its start; it ends with the context at the latest."""
    errors = logs / f"{entry.name}.log"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [*entry.prefix, *_START, *entry.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=dict(os.environ) | dict(entry.env),
            text=True,
            start_new_session=True,
        )
    try:
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise CannotMeasureError(f"{entry.name} failed: {last_line(errors.read_text())}")
        yield _Runner(entry, process, errors)
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt it if it still runs, kill it if that does not help."""
    with process:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
