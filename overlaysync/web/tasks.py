"""Tasks of the page: commands that it runs, with what they print, how far they are and how they ended.

A task is the command line itself, in a process of its own: the same locks, the same words, one
implementation. What tasks have printed is kept in the home, the newest hundred of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlaysync.errors import UsageError
from overlaysync.installed import program_words
from overlaysync.model.names import one_field, printable
from overlaysync.store.files import replace_file
from overlaysync.web.model import TaskView, Transfer
from overlaysync.web.transfers import Rate

MOST_RUNNING = 8
KEPT = 100
_MOST_LINES = 500
_LONGEST = 2000
_MAX_FILE = 2 << 20
_PROGRESS_FD = "OVERLAYSYNC_PROGRESS_FD"
_STOP_S = 5.0


@dataclass(slots=True, eq=False)
class Task:
    """A command that runs or has run.

    Attributes:
        key: tells it from all others.
        action: what was asked for.
        words: the command, without the program.
        begun, ended: seconds since 1970; None while it runs.
        code: its exit code.
        lines: what it has printed, the last of it.
        printed: how many lines it has printed.
        progress: how far it is, as it last said.
        about: name of the image or team that it is about.
    """

    key: str
    action: str
    words: tuple[str, ...]
    begun: float
    ended: float | None = None
    code: int | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_LINES))
    printed: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    about: str = ""
    _rate: Rate = field(default_factory=Rate)
    _view: TaskView | None = None

    @property
    def command(self) -> str:
        """The command as it can be typed."""
        return printable(shlex.join(("overlaysync", *self.words)), _LONGEST)

    def add(self, line: str) -> None:
        """Note a line that it has printed."""
        self.lines.append(printable(line.rstrip("\n"), _LONGEST))
        self.printed += 1

    def view(self) -> TaskView:
        """Return what is shown of it; of one that has ended always the same."""
        if self._view is None or self._view.ended is None:
            last = next((line.strip() for line in reversed(self.lines) if line.strip()), "")
            self._view = TaskView(
                key=self.key,
                action=self.action,
                command=self.command,
                begun=self.begun,
                ended=self.ended,
                code=self.code,
                printed=self.printed,
                last=last,
                about=self.about,
            )
        return self._view

    def transfer(self, now: float) -> Transfer | None:
        """Return what it fetches now, if it does."""
        told = self.progress
        if self.ended is not None or not told.get("what"):
            return None
        with suppress(KeyError, TypeError, ValueError):
            done = int(told["done"])
            return Transfer(
                key=f"task-{self.key}",
                what=printable(str(told["what"])),
                incoming=True,
                done=done,
                total=int(told["total"]),
                rate=self._rate.read(done, now),
                cells=_digits(told["cells"]),
                copies=_digits(told["copies"]),
                sources=tuple(printable(str(name)) for name in told["sources"]),
                stalled_s=float(told["stalled"]),
                task=self.key,
            )
        return None


class Tasks:
    """All tasks of a share.

    Args:
        directory: where what has ended is kept.
        peers: that the share was told of.
    """

    def __init__(self, directory: Path, peers: Sequence[str] = ()) -> None:
        self._directory = directory
        self._peers = tuple(peers)
        self._tasks: dict[str, Task] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._loaded = False

    def all(self) -> list[Task]:
        """Return the tasks, the newest first."""
        self._load()
        return sorted(self._tasks.values(), key=lambda task: -task.begun)

    def put(self, tasks: Sequence[Task]) -> None:
        """Show tasks that were begun elsewhere."""
        self._tasks.update({task.key: task for task in tasks})

    def get(self, key: str) -> Task | None:
        self._load()
        return self._tasks.get(key)

    async def start(self, action: str, words: Sequence[str], about: str) -> Task:
        """Run a command.

        Args:
            action: what was asked for.
            words: the command, without the program.
            about: name of the image or team that it is about, safe to print.

        Raises:
            UsageError: too many run.
        """
        self._load()
        if len(self._processes) >= MOST_RUNNING:
            raise UsageError(f"{MOST_RUNNING} tasks are running", hint="wait until one has ended, or stop it")
        task = Task(secrets.token_hex(6), action, tuple(words), time.time(), about=about)
        reader, writer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *program_words(),
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(writer),
                pass_fds=(writer,),
                start_new_session=True,
                limit=_MAX_FILE,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._tasks[task.key], self._processes[task.key] = task, process
        running = asyncio.create_task(self._follow(task, process, reader))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return task

    def stop(self, task: Task) -> None:
        """End a task as Ctrl-C does: what is verified is kept."""
        process = self._processes.get(task.key)
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)

    async def close(self) -> None:
        """End all that run."""
        for task in list(self._tasks.values()):
            self.stop(task)
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S)
        for process in list(self._processes.values()):
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*self._running, return_exceptions=True)

    # -- inside ----------------------------------------------------------------------------------------

    def _environment(self, fd: int) -> Mapping[str, str]:
        more = {_PROGRESS_FD: str(fd), "NO_COLOR": "1"}
        if self._peers:
            more["OVERLAYSYNC_PEERS"] = " ".join(self._peers)
        return os.environ | more

    async def _follow(self, task: Task, process: asyncio.subprocess.Process, reader: int) -> None:
        assert process.stdout is not None
        loop = asyncio.get_running_loop()
        told = asyncio.StreamReader(limit=_MAX_FILE)
        pipe, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(told), os.fdopen(reader, "rb")
        )
        listening = asyncio.create_task(_listen(task, told))
        try:
            with suppress(ValueError):  # a line longer than any command prints
                async for line in process.stdout:
                    task.add(line.decode(errors="replace"))
            task.code = await process.wait()
        finally:
            pipe.close()
            listening.cancel()
            task.ended = time.time()
            self._processes.pop(task.key, None)
        await asyncio.to_thread(self._keep, task)

    def _keep(self, task: Task) -> None:
        fields = {
            "action": task.action,
            "words": list(task.words),
            "begun": task.begun,
            "ended": task.ended,
            "code": task.code,
            "lines": list(task.lines),
            "about": task.about,
        }
        with suppress(OSError):  # it is in memory as long as the share runs
            self._directory.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._directory / f"{task.key}.json", json.dumps(fields).encode())
            for path in self._kept()[KEPT:]:
                path.unlink()

    def _kept(self) -> list[Path]:
        return sorted(self._directory.glob("*.json"), key=lambda path: -path.stat().st_mtime)

    def _load(self) -> None:
        """Read what was kept, once."""
        if self._loaded:
            return
        self._loaded = True
        with suppress(OSError):
            for path in self._kept()[:KEPT]:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    self._tasks[path.stem] = _read(path)


def _read(path: Path) -> Task:
    with open(path, "rb") as file:
        fields = json.loads(file.read(_MAX_FILE))
    words = tuple(map(str, fields["words"]))
    task = Task(
        path.stem,
        str(fields["action"]),
        words,
        float(fields["begun"]),
        float(fields["ended"]),
        fields["code"],
        about=one_field(str(fields["about"])),
    )
    for line in fields["lines"]:
        task.add(str(line))
    return task


async def _listen(task: Task, told: asyncio.StreamReader) -> None:
    """Take what a task says of its progress."""
    with suppress(ValueError):
        async for line in told:
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    task.progress = found


def _digits(text: Any) -> str:
    """Return a map as a command draws it; anything else is none."""
    return text if isinstance(text, str) and text.isascii() and text.isdecimal() else ""
