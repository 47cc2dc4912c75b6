"""Real nodes for end-to-end tests: a home each, commands run to their end, shares kept in the background.

Every process is this Python running ``-m overlaysync``, or forked from one that has it loaded: see
:mod:`tests.e2e.forks`. No process outlives its :class:`Lab`, and none may print a traceback or break off
without an exit code of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import overlaysync
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import new_team
from tests import documents
from tests.e2e.forks import Forked, Forks
from tests.guest import DIES_WITH_US

DONE, USAGE, NOT_FOUND, NETWORK, NO_BASE, NOT_VERIFIED, IN_USE = 0, 2, 3, 4, 5, 6, 7
NOT_ALLOWED, WOULD_DESTROY, NO_SPACE, BAD_IMAGE, INTERRUPTED = 8, 9, 10, 11, 130
KILLED = -signal.SIGKILL

_SOURCE = Path(overlaysync.__file__).parents[1]
_POLL_S = 0.02
_PYTHON = frozenset(("PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONUTF8", "LC_ALL"))
"""What Python itself looks at when it starts: commands with these are not forked."""
_Value = TypeVar("_Value")


def until(
    condition: Callable[[], _Value],
    *,
    within_s: float = 20,
    what: str | Callable[[], str] = "what was waited for",
) -> _Value:
    """The first true value of ``condition``, asked again and again."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"{what if isinstance(what, str) else what()} did not happen within {within_s} s"
            )
        time.sleep(_POLL_S)
    return value


def check_words(stderr: str) -> None:
    """Whatever happens, a user reads words of ours."""
    assert "Traceback" not in stderr and "never retrieved" not in stderr, stderr


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """Its JSON document."""
        return json.loads(self.stdout)

    @property
    def error(self) -> Any:
        """What its JSON document says about why it failed."""
        assert self.code != DONE, self.stdout
        return self.document["error"]


class Process:
    """A command under way; its output goes to files, so that it never waits for us."""

    def __init__(
        self,
        words: list[str],
        environment: Mapping[str, str],
        directory: Path,
        logs: Path,
        forked: Callable[[Path], Forked] | None = None,
    ) -> None:
        self._name = " ".join(words)
        self._arguments = words[words.index("overlaysync") + 1 :] if "overlaysync" in words else []
        stem = logs / secrets.token_hex(4)
        self._stdout, self._stderr = stem.with_suffix(".out"), stem.with_suffix(".err")
        for log in (self._stdout, self._stderr):
            log.touch()
        self.popen: subprocess.Popen[bytes] | Forked
        if forked is not None:
            self.popen = forked(stem)
            return
        with open(self._stdout, "wb") as stdout, open(self._stderr, "wb") as stderr:
            self.popen = subprocess.Popen(
                words,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, *, within_s: float = 60) -> Result:
        """The result, when it ends by itself."""
        try:
            self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._name} took longer than {within_s} s: {self.stderr}") from None
        assert self.popen.returncode is not None
        result = Result(self.popen.returncode, self.stdout, self.stderr)
        check_words(result.stderr)
        return result

    def document(self, *, within_s: float = 20) -> Any:
        """The JSON document it has printed; a share prints one and stays."""

        def parsed() -> Any:
            assert self.running or self.popen.returncode == DONE, f"{self._name}: {self.stderr}{self.stdout}"
            try:
                return json.loads(self.stdout)
            except ValueError:
                return None

        document = until(parsed, within_s=within_s, what=f"a document of {self._name}")
        documents.check_printed(self._arguments, document)
        return document

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.popen.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill it now, and all it has started."""
        if self.running:
            with suppress(ProcessLookupError):  # it has ended since
                os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> Result:
        """Interrupt it and wait for its end."""
        self.interrupt()
        return self.wait(within_s=20)


class Share(Process):
    """A ``share`` in the background."""

    @property
    def port(self) -> int:
        return int(self.document()["port"])

    @property
    def peer(self) -> str:
        """What goes after ``--peer``; see :func:`~tests.e2e.namespaces.island`."""
        document = self.document()
        return f"127.0.0.1:{self.port}" if document["interfaces"] else f"[::1]:{self.port}"


@dataclass(slots=True, eq=False)
class Node:
    """A node with its own home; commands run in ``place``, where its images are.

    Attributes:
        base: holds everything of this node.
        prefix: words before each command, to run it in other namespaces.
        forks: forks its commands; without, each is a process that starts by itself.
    """

    base: Path
    prefix: tuple[str, ...] = ()
    forks: Forks | None = None
    _started: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        for directory in (self.home, self.place, self.base / "logs", self.base / "user"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def place(self) -> Path:
        return self.base / "images"

    def words(self, *arguments: object, module: str = "overlaysync") -> list[str]:
        """The whole command; what it starts ends with the tests, also if these are killed."""
        # Within the namespaces: to enter them may change rights, and then the kernel forgets the order.
        inside = ["env", f"--chdir={self.place}"] if self.prefix else []
        return [*self.prefix, *DIES_WITH_US, *inside, sys.executable, "-m", module, *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the user's that could change what a command does."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        own = {
            "HOME": str(self.base / "user"),
            "OVERLAYSYNC_HOME": str(self.home),
            "PYTHONPATH": str(_SOURCE),
        }
        return kept | own | {"OVERLAYSYNC_USER": self.base.name} | more

    def start(self, *arguments: object, **environment: str) -> Process:
        """Start a command."""
        return self._start(Process, *arguments, **environment)

    def run(self, *arguments: object, **environment: str) -> Result:
        """Run a command to its end."""
        return self.start(*arguments, **environment).wait()

    def json(self, *arguments: object, **environment: str) -> Any:
        """Run a command that succeeds, for its JSON document."""
        result = self.run(*arguments, "--json", **environment)
        assert result.code == DONE, f"{arguments}: exit {result.code}: {result.stderr}"
        document = result.document
        documents.check_printed(arguments, document)
        return document

    def fails(self, code: int, *arguments: object, **environment: str) -> Any:
        """Run a command that fails with ``code``; what its JSON document says of it."""
        result = self.run(*arguments, "--json", **environment)
        assert result.code == code, f"{arguments}: exit {result.code}: {result.stderr}{result.stdout}"
        assert result.error["exit_code"] == code
        documents.check_printed(arguments, result.document)
        return result.error

    def fetch(self, *arguments: object) -> list[dict[str, Any]]:
        """Run a fetch that succeeds; what it says of each image, the wanted one last."""
        fetched: list[dict[str, Any]] = self.json("fetch", *arguments)["fetched"]
        return fetched

    def start_share(self, *arguments: object) -> Share:
        """Start a share; it may still be hashing."""
        return self._start(Share, "share", *arguments, "--json")

    def start_keep(self, *arguments: object) -> Share:
        """Start a keep that stays: it serves like a share."""
        return self._start(Share, "keep", *arguments, "--json")

    def share(self, *arguments: object) -> Share:
        """Start a share and wait until it serves."""
        share = self.start_share(*arguments)
        share.document()
        return share

    def start_module(self, module: str, *arguments: object) -> Process:
        """Start a module of the tests, with the environment of a command."""
        return self._start(Process, *arguments, module=module)

    def files(self, directory: Path | None = None) -> set[str]:
        """Names in a directory (``place``); part files are hidden, the rest is what a user sees."""
        return {path.name for path in (directory or self.place).iterdir() if not path.name.startswith(".")}

    def close(self) -> None:
        """End what is still running."""
        for process in self._started:
            if process.running:
                process.interrupt()
        for process in self._started:
            try:
                process.popen.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            check_words(process.stderr)

    def _start(
        self, kind: type[_P], *arguments: object, module: str = "overlaysync", **environment: str
    ) -> _P:
        settings, forked = self.environment(**environment), None
        if self.forks is not None and module == "overlaysync" and not _PYTHON & settings.keys():
            forked = partial(Forked, self.forks, [*map(str, arguments)], settings, self.place)
        words = self.words(*arguments, module=module)
        process = kind(words, settings, self.place, self.base / "logs", forked)
        self._started.append(process)
        return process


_P = TypeVar("_P", bound=Process)


@dataclass(slots=True)
class Lab:
    """Nodes of one test, and names that no other test's nodes use: all of a machine may hear each other.

    Attributes:
        root: a directory.
        prefix: words before each command, to run it in other namespaces.
        tag: part of the names.
        forks: see :class:`Node`; of nodes with the lab's prefix.
    """

    root: Path
    prefix: tuple[str, ...] = ()
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    forks: Forks | None = None
    _nodes: dict[str, Node] = field(default_factory=dict)

    def node(self, name: str, *, prefix: tuple[str, ...] | None = None) -> Node:
        """The node of that name, made when it is new."""
        if name not in self._nodes:
            here = prefix is None or prefix == self.prefix
            self._nodes[name] = Node(
                self.root / name, self.prefix if prefix is None else prefix, self.forks if here else None
            )
        return self._nodes[name]

    def name(self, word: str) -> str:
        """A name for an image or a team, of this test alone."""
        return f"{word}-{self.tag}"

    def team(self, word: str, *members: Node) -> str:
        """The name of a new team that these nodes are in."""
        team = new_team(self.name(word))
        for member in members:
            keep_team(member.home / "teams", team)
        return team.name

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for node in self._nodes.values():
            node.close()


def free_port() -> int:
    """A port where nobody listens at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
