"""What the rows share: the image, homes, servers; and the lines they give."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import images
from benchmarks.images import GIB
from benchmarks.measure import CannotMeasureError, Done, free_port, run, say, serving

NAME = "debian-lab"
OVERLAYSYNC = (sys.executable, "-m", "overlaysync")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        what: what of ours was measured.
        ours: the figure.
        against: the other's name.
        theirs: the other's figure.
        ratio: ours to theirs; None for a line that is only told.
        reach: what the ratio should be.
        good: whether it is; None for a line that is only told.
    """

    what: str
    ours: str
    against: str = ""
    theirs: str = ""
    ratio: float | None = None
    reach: str = ""
    good: bool | None = None


def at_most(limit: float, ratio: float, **fields: str) -> Line:
    return Line(ratio=ratio, reach=f"≤ {limit:g}", good=ratio <= limit, **fields)


def at_least(limit: float, ratio: float, **fields: str) -> Line:
    return Line(ratio=ratio, reach=f"≥ {limit:g}", good=ratio >= limit, **fields)


@dataclass(slots=False)
class Bench:
    """What the rows share: sizes, images, homes, servers.

    Attributes:
        size: of the image, in bytes.
        runs: measurements of each side.
        quick: whether this is only a smoke test.
        root: the repository.
    """

    size: int
    runs: int
    quick: bool
    root: Path
    filled: str = field(default="", init=False)
    scratch: Path = field(default=Path(), init=False)
    stack: ExitStack = field(default_factory=ExitStack, init=False)
    _homes: int = field(default=0, init=False)

    def start(self, place: Path, needed: int, stack: ExitStack) -> None:
        """Work in a new directory in ``place``; what ``stack`` gets is undone before the directory goes.

        Raises:
            CannotMeasureError: fewer than ``needed`` bytes are free there.
        """
        free = shutil.disk_usage(place).free
        if free < needed:
            raise CannotMeasureError(
                f"{place}: {needed >> 30} GiB are needed, {free >> 30} GiB are free; choose another --dir"
            )
        self.scratch = Path(tempfile.mkdtemp(prefix=".overlaysync-bench-", dir=place))
        self.stack = stack
        stack.callback(shutil.rmtree, self.scratch, ignore_errors=True)

    @property
    def master(self) -> Path:
        """The image, raw."""
        return self.directory("masters") / f"{NAME}.raw"

    def make_master(self) -> None:
        """Make the image."""
        say(f"making an image of {self.size / GIB:g} GiB ...")
        self.filled = images.make_file_system(self.master, self.size)
        say(f"  {self.filled}")

    @cached_property
    def data_size(self) -> int:
        """Allocated bytes of the image."""
        return sum(length for _, length in images.data_runs(self.master))

    @cached_property
    def master_home(self) -> Path:
        """A home that knows the image: rows copy it."""
        home = self.home()
        self.command("id", self.master, home=home)
        return home

    def directory(self, name: str) -> Path:
        path = self.scratch / name
        path.mkdir(exist_ok=True)
        return path

    def home(self, like: Path | None = None) -> Path:
        """A node's home: a new one, or a copy."""
        self._homes += 1
        path = self.scratch / f"home-{self._homes}"
        if like is not None:
            shutil.copytree(like, path)
        return path

    def env(self, home: Path) -> dict[str, str]:
        """As a user's, but with a home of its own; compiled modules are kept, as they are by default."""
        empty = ("OVERLAYSYNC_PEERS", "PYTHONDONTWRITEBYTECODE")
        return dict.fromkeys(empty, "") | {"OVERLAYSYNC_HOME": str(home)}

    def command(self, *words: str | Path, home: Path, good: Collection[int] = (0,)) -> Done:
        """``overlaysync WORDS --json``; it must end with one of the exit codes ``good``."""
        return run([*OVERLAYSYNC, *words, "--json", "--quiet"], self.env(home), good=good)

    def worker(self, name: str, *words: str | Path) -> float:
        """Seconds a worker says it took."""
        return float(run([sys.executable, "-m", "benchmarks.workers", name, *words]).stdout)

    @contextmanager
    def share(self, path: Path, *words: str, home: Path | None = None) -> Iterator[Any]:
        """``overlaysync share``: gives (peer, server)."""
        home = home or self.home()
        command = [*OVERLAYSYNC, "share", path, *words, "--json", "--quiet"]
        with serving(command, self.env(home), self.scratch / "share.log") as server:
            yield f"127.0.0.1:{server.read_document()['port']}", server

    @contextmanager
    def rsync_daemon(self, directory: Path) -> Iterator[str]:
        """An rsync daemon for ``directory``: gives its URL."""
        port = free_port()
        config = self.scratch / "rsyncd.conf"
        lines = [
            "use chroot = no",
            f"pid file = {self.scratch}/rsyncd.pid",
            "[images]",
            f"path = {directory}",
        ]
        if os.geteuid() == 0:
            lines[:0] = ["uid = 0", "gid = 0"]
        config.write_text("\n".join(lines) + "\n")
        (self.scratch / "rsyncd.pid").unlink(missing_ok=True)
        command = ["rsync", "--daemon", "--no-detach", f"--config={config}", "--address=127.0.0.1"]
        if shutil.which("rsync") is None:
            raise CannotMeasureError("rsync is not installed")
        with serving([*command, f"--port={port}"], {}, self.scratch / "rsync.log") as server:
            server.await_port(port)
            yield f"rsync://127.0.0.1:{port}/images"

    @contextmanager
    def ssh_server(self) -> Iterator[str]:
        """An ssh server for this user, with keys and settings of its own: gives the command that logs in."""
        sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if sshd is None or shutil.which("ssh") is None:
            raise CannotMeasureError("ssh is not installed: openssh-server, openssh-client")
        place, port = self.directory("ssh"), free_port()
        place.chmod(0o700)
        for name in ("host", "user"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name])
        shutil.copy(place / "user.pub", place / "authorized")
        settings = {
            "ListenAddress": f"127.0.0.1:{port}",
            "HostKey": place / "host",
            "AuthorizedKeysFile": place / "authorized",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "yes",
        }
        config = place / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        command: list[str | Path] = [sshd, "-D", "-e", "-f", config]
        if os.geteuid() == 0:  # then it wants a directory that its service makes: here in a /run of its own
            script = 'mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, "sh", *command]
        with serving(command, {}, self.scratch / "sshd.log") as server:
            server.await_port(port)
            trust = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            yield f"ssh -F none -p {port} -i {place}/user -o BatchMode=yes -o LogLevel=ERROR {trust}"
