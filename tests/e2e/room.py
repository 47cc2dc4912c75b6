"""A room: hosts on one switch, each with a link of its own. Network namespaces, a bridge, shaped veth pairs.

What runs on a host is a real process that sees one interface, ``lan0``, and reaches the others through the
switch, multicast included. Nothing of it touches the machine's own network, and it vanishes with the
processes that keep the namespaces. Left out: loss and delay, beyond what a full queue makes of a rate.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.namespaces import Namespace, NoNamespaceError, namespace

MBIT = 1_000_000
"""Bits per second."""
INTERFACE = "lan0"
"""A host's only interface beside its loopback; names like ``veth0`` are left out by overlaysync."""
MOST_HOSTS = 200
SHAPE = "burst 128kb latency 50ms"
"""Of the token bucket that gives a link its rate; the queue before it holds 50 ms of data."""

_NET = "10.77.0"
_SWITCH = "lan"
_TOOLS = ("unshare", "nsenter", "ip", "tc")
# A sysfs of its own shows a host its own interfaces. Where one may not be mounted, the machine's stays.
_HOST = "hostname host{number} && {{ mount -t sysfs sysfs /sys 2>/dev/null || true; }}"
# The kernel's default; a machine may be set to another, and results would differ from room to room.
_CUBIC = "echo cubic >/proc/sys/net/ipv4/tcp_congestion_control 2>/dev/null || true"


@dataclass(frozen=True, slots=True)
class Host:
    """A host in the room.

    Attributes:
        number: 0, 1, 2, ...
        address: IPv4, of ``lan0``.
        port: name of its port on the switch.
        namespace: where its processes run.
    """

    number: int
    address: str
    port: str
    namespace: Namespace

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before a command that shall run on this host; it begins in the root directory."""
        return self.namespace.prefix

    def sent(self) -> int:
        """Bytes that have gone out of ``lan0``, headers included."""
        return int(self._counters()["tx"]["bytes"])

    def received(self) -> int:
        """Bytes that have come in through ``lan0``, headers included."""
        return int(self._counters()["rx"]["bytes"])

    def _counters(self) -> Any:
        shown = _run(self.namespace, f"ip -json -statistics link show dev {INTERFACE}")
        return json.loads(shown)[0]["stats64"]


@dataclass(frozen=True, slots=True)
class Room:
    """Hosts that reach each other through a switch."""

    hosts: tuple[Host, ...]
    switch: Namespace

    def cut(self, host: Host) -> None:
        """Pull the host's cable: its interface stays, but has no carrier."""
        _run(self.switch, f"ip link set {host.port} down")

    def heal(self, host: Host) -> None:
        """Plug the cable in again."""
        _run(self.switch, f"ip link set {host.port} up")

    def shape(self, host: Host, rate: int) -> None:
        """Give the host's link another rate, in bits per second in each direction."""
        shape = f"root tbf rate {rate}bit {SHAPE}"
        _run(self.switch, f"tc qdisc replace dev {host.port} {shape}")
        _run(host.namespace, f"tc qdisc replace dev {INTERFACE} {shape}")


@contextmanager
def room(count: int, *, rate: int | None = None) -> Iterator[Room]:
    """A room with ``count`` hosts for as long as the context lasts; end their processes before.

    Args:
        count: of hosts, at most :data:`MOST_HOSTS`.
        rate: of each link in bits per second, in each direction; None: as fast as it goes.

    Raises:
        NoNamespaceError: such a room cannot be had here.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise NoNamespaceError(f"not installed: {', '.join(missing)}")
    assert 0 < count <= MOST_HOSTS
    with ExitStack() as stack:
        script = f"ip link add {_SWITCH} type bridge && ip link set {_SWITCH} up"
        switch = stack.enter_context(namespace("net", "mount", script=script))
        hosts = tuple(stack.enter_context(_host(switch, number)) for number in range(count))
        made = Room(hosts, switch)
        for host in hosts if rate else ():
            made.shape(host, rate or 0)
        yield made


@contextmanager
def _host(switch: Namespace, number: int) -> Iterator[Host]:
    """A host whose cable is plugged into ``switch``."""
    kinds = ("net", "mount", "uts")
    with namespace(*kinds, script=_HOST.format(number=number), within=switch.prefix) as own:
        host = Host(number, f"{_NET}.{number + 1}", f"port{number}", own)
        _run(
            switch,
            f"ip link add {host.port} type veth peer name {INTERFACE} netns {own.pid}",
            f"ip link set {host.port} master {_SWITCH} up",
        )
        _run(
            own,
            _CUBIC,
            f"ip address add {host.address}/24 dev {INTERFACE}",
            "ip link set lo up",
            f"ip link set {INTERFACE} up",
        )
        yield host


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
