"""A class in a room: a node on each host, of which some share and others fetch while cables are pulled.

What is waited for is seen from outside: files that appear, and the counters of the links.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlaysync.units import KIB
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, Node, Process, Share, until
from tests.e2e.room import MBIT, Host, Room

HEADERS = 1.1
"""Bytes on a link for a byte of data: Ethernet, IP, TCP, HTTP, questions, and mDNS."""
_NOTHING = 128 * KIB
"""Finding each other, a catalog and a page take less; more on a link is data."""
_TO_RECORD = 1000 * MBIT


@dataclass(slots=True, eq=False)
class Fetch:
    """A ``fetch`` on a host.

    Attributes:
        host: where it runs.
        process: the command.
        path: where its file will appear.
        began: when it was started.
        data_began: when the first data came in; None before.
        arrived: when the file was there, whole; None before.
    """

    host: Host
    process: Process
    path: Path
    began: float
    data_began: float | None = None
    arrived: float | None = None
    _received_before: int = 0

    def __post_init__(self) -> None:
        self._received_before = self.host.received()

    @property
    def received(self) -> int:
        """Bytes that have come to its host since it was started."""
        return self.host.received() - self._received_before

    @property
    def took_s(self) -> float:
        """Seconds from its first data to its file."""
        assert self.arrived is not None and self.data_began is not None
        return self.arrived - self.data_began

    @property
    def document(self) -> Any:
        """What it said of the image it fetched, once it has said it; it may go on passing it on."""
        (fetched,) = self.process.document()["fetched"]
        return fetched

    def look(self) -> None:
        """Note what has happened since the last time."""
        now = time.monotonic()
        if self.data_began is None and self.received > _NOTHING:
            self.data_began = now
        if self.arrived is None and self.path.exists():
            self.arrived = now
        code = self.process.popen.poll()
        assert code in (None, DONE), f"host {self.host.number}: {code}: {self.process.stderr}"


@dataclass(slots=True)
class Class:
    """Nodes on the hosts of a room.

    Attributes:
        room: has the hosts.
        lab: has the nodes.
        rate: of each link, bits per second.
        source: the image that the first node shares.
        shares: who shares it.
    """

    room: Room
    lab: Lab
    rate: int
    source: Path
    shares: dict[Host, Share] = field(default_factory=dict)
    _content: bytes = b""

    @classmethod
    def of(cls, room: Room, lab: Lab, *, size: int, rate: int) -> Class:
        """A class whose first host shares an image of so many random bytes."""
        made = cls(room, lab, rate, Path())
        made.source = disks.make_master(made.node(room.hosts[0]).place / f"{lab.name('disk')}.raw", size=size)
        made._content = made.source.read_bytes()
        made.share(room.hosts[0])
        return made

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return len(self._content)

    @property
    def ideal_s(self) -> float:
        """Size / rate: no link can bring it sooner."""
        return self.size * 8 / self.rate

    @property
    def name(self) -> str:
        """Of the image."""
        return self.source.stem

    @property
    def seed(self) -> Share:
        """The first host's share."""
        return self.shares[self.room.hosts[0]]

    def node(self, host: Host) -> Node:
        return self.lab.node(f"host{host.number}", prefix=host.prefix)

    def share(self, host: Host) -> Share:
        """Share the image on a host."""
        node = self.node(host)
        path = node.place / self.source.name
        if not path.exists():
            path.write_bytes(self._content)
        self.shares[host] = share = node.share(path)
        return share

    def address(self, host: Host) -> str:
        """Of the share on a host."""
        return f"{host.address}:{self.shares[host].port}"

    def liars(self, hosts: Sequence[Host], lie: str, *kinds: str) -> list[str]:
        """Where peers answer on these hosts that lie about what the first one shares."""
        seed = self.room.hosts[0]
        for host in (seed, *hosts):
            self.room.shape(host, _TO_RECORD)
        started = [
            self.node(host).start_module("tests.e2e.lies", self.address(seed), host.address, lie, *kinds)
            for host in hosts
        ]
        peers = [str(liar.document()["peer"]) for liar in started]
        for host in (seed, *hosts):
            self.room.shape(host, self.rate)
        return peers

    def watch_swarm(self, host: Host) -> Callable[[], dict[str, Any]]:
        """What the fetching nodes have, as somebody on a host sees it who does not fetch: the latest news."""
        watcher = self.node(host).start_module(
            "tests.e2e.watcher", self.address(self.room.hosts[0]), self.name
        )

        def latest() -> dict[str, Any]:
            lines = watcher.stdout.splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            return json.loads(whole[-1]) if whole else {}

        return latest

    def fetch(self, host: Host, *arguments: object) -> Fetch:
        """Begin to fetch the image on a host."""
        node = self.node(host)
        process = node.start("fetch", self.name, "--json", *arguments)
        return Fetch(host, process, node.place / self.source.name, time.monotonic())

    def fetch_on(self, hosts: Iterable[Host], *arguments: object) -> list[Fetch]:
        """Begin to fetch it on several at once."""
        return [self.fetch(host, *arguments) for host in hosts]

    def wait(self, fetches: Sequence[Fetch], *, within_s: float) -> None:
        """Wait for the files, and see that they are right."""
        self.watch(fetches, lambda: all(fetch.arrived for fetch in fetches), within_s=within_s)
        for fetch in fetches:
            assert fetch.path.read_bytes() == self._content

    def watch(self, fetches: Sequence[Fetch], done: Callable[[], Any], *, within_s: float) -> None:
        """Look at what these do until something is so."""

        def look() -> bool:
            for fetch in fetches:
                fetch.look()
            return bool(done())

        until(look, within_s=within_s, what="what was watched for")

    def wait_for_data(self, fetches: Sequence[Fetch], share: float) -> None:
        """Wait until each of these has about that share of the image, as its link counts."""
        enough = self.size * share * HEADERS
        self.watch(
            fetches,
            lambda: all(fetch.received >= enough for fetch in fetches),
            within_s=20 + 4 * self.ideal_s,
        )

    def sent_by(self, fetch: Fetch) -> dict[str, int]:
        """Verified bytes that it got, by the name of the node that gave them."""
        return {label.partition("@")[0]: size for label, size in fetch.document["sources"].items()}
