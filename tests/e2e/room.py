"""A room: hosts on one switch, each with a link of its own. Network namespaces, a bridge, shaped veth pairs.

What runs on a host is a real process that sees one interface, ``lan0``, and reaches the others through the
switch, multicast included. A room may have several networks, each with a switch, and a router between them
that lets no multicast through. Nothing of it touches the machine's own network, and it vanishes with the
processes that keep the namespaces. Left out: loss and delay, beyond what a full queue makes of a rate.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import Namespace, NoNamespaceError, namespace

MBIT = 1_000_000
"""Bits per second."""
INTERFACE = "lan0"
"""A host's only interface beside its loopback; names like ``veth0`` are left out by overlaysync."""
MOST_HOSTS = 200
SHAPE = "burst 128kb latency 50ms"
"""Of the token bucket that gives a link its rate; the queue before it holds 50 ms of data."""

_NET = "10.77"
_ROUTER = 254
_SWITCH = "lan"
_APART = "apart"
_TOOLS = ("unshare", "nsenter", "ip", "tc")
# A sysfs of its own shows a host its own interfaces. Where one may not be mounted, the machine's stays.
_HOST = "hostname host{number} && {{ mount -t sysfs sysfs /sys 2>/dev/null || true; }}"
_FORWARD = "echo 1 >/proc/sys/net/ipv4/ip_forward"
# The kernel's default; a machine may be set to another, and results would differ from room to room.
_CUBIC = "echo cubic >/proc/sys/net/ipv4/tcp_congestion_control 2>/dev/null || true"


@dataclass(frozen=True, slots=True)
class Host:
    """A host in the room.

    Attributes:
        number: 0, 1, 2, ...
        address: IPv4, of ``lan0``.
        port: name of its port on the switch.
        switch: that the port belongs to.
        namespace: where its processes run.
    """

    number: int
    address: str
    port: str
    switch: str
    namespace: Namespace

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that shall run on this host; it begins in the root directory."""
        return self.namespace.prefix

    def sent(self) -> int:
        """Bytes that have gone out of ``lan0``, headers included."""
        return self._counters()[8]

    def received(self) -> int:
        """Bytes that have come in through ``lan0``, headers included."""
        return self._counters()[0]

    def _counters(self) -> list[int]:
        """Received: bytes, packets and six more; then the same of what was sent."""
        lines = Path(f"/proc/{self.namespace.pid}/net/dev").read_text().splitlines()
        found = dict(line.strip().split(":", 1) for line in lines if ":" in line)
        return [int(word) for word in found[INTERFACE].split()]


@dataclass(frozen=True, slots=True)
class Room:
    """Hosts that reach each other.

    Attributes:
        hosts: in their order.
        switch: where the switches are, and the router if there is one.
    """

    hosts: tuple[Host, ...]
    switch: Namespace

    def cut(self, host: Host) -> None:
        """Pull the host's cable: its interface stays, but has no carrier."""
        _run(self.switch, f"ip link set {host.port} down")

    def heal(self, host: Host) -> None:
        """Plug the cable in again."""
        _run(self.switch, f"ip link set {host.port} up")

    def part(self, hosts: Iterable[Host]) -> None:
        """Move these hosts to a switch that nobody else is on; no cable is pulled for that."""
        _run(self.switch, *(f"ip link set {host.port} master {_APART}" for host in hosts))

    def join(self) -> None:
        """Everybody back to where they were."""
        _run(self.switch, *(f"ip link set {host.port} master {host.switch}" for host in self.hosts))

    def shape(self, host: Host, rate: int, *, up: int | None = None) -> None:
        """Give the host's link another rate, in bits per second; what it sends may have a rate of its own."""
        _run(self.switch, f"tc qdisc replace dev {host.port} root tbf rate {rate}bit {SHAPE}")
        _run(host.namespace, f"tc qdisc replace dev {INTERFACE} root tbf rate {up or rate}bit {SHAPE}")


@contextmanager
def room(count: int, *, rate: int | None = None, networks: int = 1) -> Iterator[Room]:
    """A room with ``count`` hosts for as long as the context lasts; end their processes before.

    Args:
        count: of hosts, at most :data:`MOST_HOSTS`.
        rate: of each link in bits per second, in each direction; None: as fast as it goes.
        networks: how many the hosts are spread over, in turn; a router as fast as it goes is between them.

    Raises:
        NoNamespaceError: such a room cannot be had here.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise NoNamespaceError(f"not installed: {', '.join(missing)}")
    assert 0 < count <= MOST_HOSTS
    with ExitStack() as stack:
        switch = stack.enter_context(namespace("net", "mount", script="true"))
        switches = [f"{_SWITCH}{number}" for number in range(networks)]
        _run(
            switch,
            *(f"ip link add {name} type bridge && ip link set {name} up" for name in (*switches, _APART)),
        )
        if networks > 1:
            addresses = (
                f"ip address add {_address(number, _ROUTER)} dev {name}"
                for number, name in enumerate(switches)
            )
            _run(switch, *addresses, _FORWARD)
        hosts = tuple(stack.enter_context(_host(switch, number, networks)) for number in range(count))
        made = Room(hosts, switch)
        for host in hosts if rate else ():
            made.shape(host, rate or 0)
        yield made


@contextmanager
def _host(switch: Namespace, number: int, networks: int) -> Iterator[Host]:
    """A host whose cable is plugged into one of the switches."""
    kinds = ("net", "mount", "uts")
    network = number % networks
    with namespace(*kinds, script=_HOST.format(number=number), within=switch.prefix) as own:
        host = Host(number, f"{_NET}.{network}.{number + 1}", f"port{number}", f"{_SWITCH}{network}", own)
        _run(
            switch,
            f"ip link add {host.port} type veth peer name {INTERFACE} netns {own.pid}",
            f"ip link set {host.port} master {host.switch} up",
        )
        _run(
            own,
            _CUBIC,
            f"ip address add {host.address}/24 dev {INTERFACE}",
            "ip link set lo up",
            f"ip link set {INTERFACE} up",
        )
        if networks > 1:
            _run(own, f"ip route add default via {_NET}.{network}.{_ROUTER}")
        yield host


def _address(network: int, number: int) -> str:
    return f"{_NET}.{network}.{number}/24"


def _run(where: Namespace, *lines: str) -> str:
    """What shell commands print.

    Raises:
        NoNamespaceError: one of them failed.
    """
    command = [*where.prefix, "sh", "-e", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaceError(f"{lines[-1]}: {done.stderr.strip()}")
    return done.stdout
