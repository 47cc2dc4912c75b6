"""Who fetches in a room: ours, libtorrent, plain HTTP. Each can serve from one host and fetch on another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from benchmarks.bench import OVERLAYSYNC, Bench
from benchmarks.measure import run, serving
from benchmarks.race import DIES_WITH_US, Entry
from tests.e2e.room import Host, Room

OTHERS = ("libtorrent", "HTTP")
"""Names of the sides that are not ours."""
_FIND_S = "20"


class Side(Protocol):
    """One way to bring a file from the first host of a room to others."""

    name: str

    def serving(self, room: Room, source: Path) -> Any:
        """A context in which the first host serves ``source``, and the others can find it."""

    def entry(self, host: Host, room: Room, source: Path, target: Path) -> Entry:
        """What ``host`` does to have the file in the directory ``target``."""


def libtorrent_version() -> str:
    """ "" where it is not installed."""
    try:
        return version("libtorrent")
    except PackageNotFoundError:
        return ""


@dataclass(slots=True)
class Ours:
    """``overlaysync share`` and ``overlaysync fetch``, found by mDNS.

    Attributes:
        bench: gives homes.
        name: of the side.
        env: added to that of each ``fetch``.
    """

    bench: Bench
    name: str = "overlaysync"
    env: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def serving(self, room: Room, source: Path) -> Iterator[None]:
        first, other = room.hosts[:2]
        command: list[str | Path] = [
            *first.prefix,
            *DIES_WITH_US,
            *OVERLAYSYNC,
            "share",
            source,
            "--json",
            "--quiet",
        ]
        log = self.bench.scratch / "share.log"
        with serving(command, self.bench.env(self.bench.home()), log) as server:
            server.read_document()
            # Over when it is found, while "ls" and "show" look for as long as they are told.
            look = ("fetch", source.stem, "--dry-run", "--wait", _FIND_S, "--json", "--quiet")
            run([*other.prefix, *OVERLAYSYNC, *look], self.bench.env(self.bench.home()))
            yield

    def entry(self, host: Host, room: Room, source: Path, target: Path) -> Entry:
        words = ("fetch", source.stem, "--to", str(target), "--json", "--quiet")
        env = self.bench.env(self.bench.home()) | self.env
        return Entry(_name(self, host), host.prefix, (*OVERLAYSYNC, *words), env, target / source.name)


@dataclass(slots=True)
class Torrent:
    """libtorrent: those who are done go on serving until all are."""

    bench: Bench
    name: str = "libtorrent"

    @contextmanager
    def serving(self, room: Room, source: Path) -> Iterator[None]:
        torrent, first = self._torrent(source), room.hosts[0]
        if not torrent.exists():
            run([*self._command("make"), source, torrent])
        command: list[str | Path] = [
            *first.prefix,
            *self._command("seed"),
            torrent,
            source.parent,
            first.address,
        ]
        with serving(command, {}, self.bench.scratch / "torrent.log") as server:
            server.read_document()
            yield

    def entry(self, host: Host, room: Room, source: Path, target: Path) -> Entry:
        sign = target / "whole"
        words = (str(self._torrent(source)), str(target), str(sign), host.address)
        # Each pair has one that calls: when both do, both connections may be given up as doubles.
        peers = (other.address for other in room.hosts[: host.number])
        command = (*self._command("fetch"), *words, *peers)
        return Entry(_name(self, host), host.prefix, command, {}, sign, lingers=True)

    def _torrent(self, source: Path) -> Path:
        return self.bench.scratch / f"{source.name}.torrent"

    @staticmethod
    def _command(part: str) -> tuple[str, ...]:
        return sys.executable, "-m", "benchmarks.torrents", part


@dataclass(slots=True)
class Http:
    """Everyone fetches all of it from the first host; nothing is checked or flushed."""

    bench: Bench
    name: str = "HTTP"
    _port: int = 0

    @contextmanager
    def serving(self, room: Room, source: Path) -> Iterator[None]:
        first = room.hosts[0]
        command: list[str | Path] = [
            *first.prefix,
            *DIES_WITH_US,
            *self._command("serve_http"),
            first.address,
            source,
        ]
        with serving(command, {}, self.bench.scratch / "http.log") as server:
            self._port = server.read_document()
            yield

    def entry(self, host: Host, room: Room, source: Path, target: Path) -> Entry:
        path = target / source.name
        url = f"http://{room.hosts[0].address}:{self._port}/"
        command = (*self._command("fetch_http"), url, str(path))
        return Entry(_name(self, host), host.prefix, command, {}, path)

    @staticmethod
    def _command(worker: str) -> tuple[str, ...]:
        return sys.executable, "-m", "benchmarks.workers", worker


def _name(side: Side, host: Host) -> str:
    return f"{side.name}-host{host.number}"
