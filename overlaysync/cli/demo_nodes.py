"""The demo's nodes: a person with a home and a directory, and the processes that run for one."""

from __future__ import annotations

import json
import os
import secrets
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlaysync.errors import NetworkError, NotFoundError, OverlaysyncError
from overlaysync.installed import program_words

_READY_S = 30.0

_COMMAND_S = 60.0

_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Person:
    """One of the two nodes.

    Attributes:
        name: shown as the prompt.
        user: the first part of the node's label; like no other, for a second demo may run beside this one.
        directory: where their images are.
        home: of their node.
    """

    name: str
    user: str
    directory: Path
    home: Path

    @classmethod
    def at(cls, root: Path, name: str) -> Person:
        """Return a person with a new directory below ``root``."""
        directory = root / name
        directory.mkdir()
        return cls(name, f"{name}-{secrets.token_hex(2)}", directory, root / f"{name}-home")

    @property
    def environment(self) -> dict[str, str]:
        """Ours, without our settings, and with this package on the path."""
        package = str(Path(__file__).resolve().parents[2])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OVERLAYSYNC_")}
        paths = [package, *filter(None, [kept.get("PYTHONPATH")])]
        return kept | {
            "OVERLAYSYNC_HOME": str(self.home),
            "OVERLAYSYNC_USER": self.user,
            "PYTHONPATH": os.pathsep.join(paths),
        }


KEEP = "overlaysync demo --keep, and look at the files that it leaves; overlaysync doctor"

_LOOPBACK = {"share": ["--iface", "lo"], "fetch": ["--iface", "lo"]}
"""What keeps the demo off the LAN; on two machines nobody types it."""


class Processes:
    """The children; none is left after :meth:`end`."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, person: Person, words: list[str], stderr: Any = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a command."""
        verb = next(word for word in words if not word.startswith("-"))
        with _interrupted_later():  # an interrupt between fork and append would lose a child
            self._started.append(
                subprocess.Popen(
                    [*program_words(), *words, *_LOOPBACK.get(verb, [])],
                    cwd=person.directory,
                    env=person.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
            )
        return self._started[-1]

    def run(self, person: Person, words: list[str]) -> str:
        """Return what a command prints.

        Raises:
            OverlaysyncError: it failed; of the same kind where that matters here.
        """
        process = self.start(person, words)
        try:
            stdout, stderr = (text.decode() for text in process.communicate(timeout=_COMMAND_S))
        except subprocess.TimeoutExpired:
            raise OverlaysyncError(
                f"'overlaysync {shlex.join(words)}' did not end in time", hint=KEEP
            ) from None
        if process.returncode:
            kinds = {NotFoundError.exit_code: NotFoundError, NetworkError.exit_code: NetworkError}
            raise kinds.get(process.returncode, OverlaysyncError)(
                f"'overlaysync {shlex.join(words)}' failed", why=_reason(stdout) or stderr.strip()
            )
        return stdout

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ctrl-C, and if that does not help, the end."""
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def end(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block."""
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


def _reason(text: str) -> str:
    """Return what the error document of a failed command says."""
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f"{error['what']}: {error['why']}" if error["why"] else str(error["what"])


def read_document(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Return the JSON document that a running command has printed."""
    assert process.stdout is not None
    text, deadline = b"", time.monotonic() + _READY_S
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            break
        text += part
        try:
            document: dict[str, Any] = json.loads(text)
        except ValueError:
            continue
        if "error" not in document:
            return document
    why = _reason(text.decode()) or log.read_text(errors="replace").strip() or "it did not start in time"
    raise OverlaysyncError("'overlaysync share' failed", why=why, hint="overlaysync doctor")
