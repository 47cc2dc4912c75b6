"""Processes and time: run a command, know its seconds and peak memory; take turns; keep servers running."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READY_S = 120.0
_WATCH_S = 0.004


class CannotMeasureError(Exception):
    """A row cannot be measured here; the message says why."""


def say(text: str) -> None:
    """A line for who watches; the table alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended.

    Attributes:
        seconds: from before it was started until it was reaped.
        peak: largest resident memory in bytes; never less than this process's, which the kernel counts in.
        stdout: what it printed.
    """

    seconds: float
    peak: int
    stdout: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def run(
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    good: Collection[int] = (0,),
) -> Done:
    """Run ``command`` to its end, which is to be with one of the exit codes ``good``.

    Raises:
        CannotMeasureError: it failed, or there is no such program.
    """
    words = [str(word) for word in command]
    started = time.perf_counter()
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ) | dict(env or {}),
            text=True,
        )
    except FileNotFoundError:
        raise CannotMeasureError(f"{words[0]} is not installed") from None
    with process:
        errors: list[str] = []
        assert process.stdout and process.stderr
        said = process.stderr
        reader = threading.Thread(target=lambda: errors.append(said.read()))
        reader.start()
        try:
            if process.stdin:
                process.stdin.write(stdin)
                process.stdin.close()
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
    if process.returncode not in good:
        raise CannotMeasureError(f"{_name(words)} failed: {last_line(errors[0] or output)}")
    return Done(seconds, usage.ru_maxrss * 1024, output)


def _name(words: Sequence[str]) -> str:
    """The command without the interpreter before it, and without paths."""
    at = words.index("-m") + 1 if "-m" in words else 0
    return " ".join(words[at : at + 2] if at else words[:1])


def last_line(text: str) -> str:
    """The line of an output that most likely says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("✗", "Error", "ModuleNotFoundError"))]
    return (errors or lines or ["no message"])[-1][:160]


class Server:
    """A process that serves until it is stopped."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], errors: Path) -> None:
        self._errors = errors
        self._words = [str(word) for word in command]
        with errors.open("wb") as stream:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=dict(os.environ) | dict(env),
                text=True,
            )

    def read_document(self) -> Any:
        """The JSON document it prints when it is ready."""
        assert self._process.stdout
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if line in ("}\n", "{}\n") or line.rstrip().isdigit():
                return json.loads("".join(lines))
        raise CannotMeasureError(f"{_name(self._words)} failed: {last_line(self._errors.read_text())}")

    def await_port(self, port: int) -> None:
        """Wait until it listens."""
        end = time.monotonic() + _READY_S
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise CannotMeasureError(f"{self._words[0]} does not listen: {last_line(self._errors.read_text())}")

    def peak(self) -> int:
        """Largest resident memory in bytes until now."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise CannotMeasureError("the kernel does not tell a process's peak memory")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


@contextmanager
def serving(command: Sequence[str | Path], env: Mapping[str, str], errors: Path) -> Iterator[Server]:
    """A server for as long as the context lasts."""
    server = Server(command, env, errors)
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class FileWatch:
    """How long a file took from the appearance of its part file to that of its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._seen: list[float] = []

    def __enter__(self) -> FileWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        if len(self._seen) < 2:
            raise CannotMeasureError("the part file was not seen")
        return self._seen[1] - self._seen[0]

    def _watch(self) -> None:
        for path in (self._part, self._path):
            while not os.path.lexists(path):
                if self._stop.wait(_WATCH_S):
                    return
            self._seen.append(time.perf_counter())


@dataclass(frozen=True, slots=True)
class Series:
    """Measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, unit: str = "s", scale: float = 1.0, digits: int = 2) -> str:
        """``median unit (min–max)``."""
        low, high = min(self.values) * scale, max(self.values) * scale
        middle = f"{self.median * scale:.{digits}f} {unit}"
        return middle if len(self.values) == 1 else f"{middle} ({low:.{digits}f}–{high:.{digits}f})"


Measurement = float | Mapping[str, float]


def take_turns(runs: int, sides: Mapping[str, Callable[[], Measurement]]) -> dict[str, Series]:
    """Measure every side once, then again, ``runs`` times; what is dirty is written back before each.

    A side gives one figure, or several by name (then they are called ``side name``).
    """
    values: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, side in sides.items():
            os.sync()
            measured = side()
            named = {name: measured} if isinstance(measured, float) else measured
            for label, value in named.items():
                full = label if label == name else f"{name} {label}"
                values.setdefault(full, []).append(value)
            say(f"   {name}: {', '.join(f'{label} {value:.2f}' for label, value in named.items())}")
    return {name: Series(tuple(series)) for name, series in values.items()}
