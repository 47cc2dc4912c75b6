"""Which monitor leads to a QEMU, and which way to the agent of its guest."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from overlaysync.errors import InUseError
from overlaysync.live.arguments import Speech
from overlaysync.live.monitor import Monitor, QmpMonitor
from overlaysync.live.processes import Identity, Process, writers_of
from overlaysync.live.virsh import Domain, VirshMonitor, domain_named, domains_with


@dataclass(frozen=True, slots=True)
class Machine:
    """A QEMU that writes to images.

    Attributes:
        paths: of the images.
        process: None if it cannot be seen, since another user runs it.
        domain: of libvirt, if libvirt runs it.
    """

    paths: tuple[str, ...]
    process: Process | None
    domain: Domain | None

    @property
    def agent(self) -> tuple[str, ...]:
        """The words that lead to the guest agent for :mod:`overlaysync.live.watch`; none without one."""
        if self.domain is not None:
            return "virsh", self.domain.uri, self.domain.uuid
        if self.process is None or self.process.arguments.agent is None:
            return ()
        found = next(self.process.paths_of(self.process.arguments.agent, self._near), "")
        return ("agent", found, str(self.process.pid)) if found else ()

    @property
    def human(self) -> tuple[str, ...]:
        """The words that lead to its monitor for people, likewise; none without one, or if it has QMP."""
        if self.process is None or self.domain is not None:
            return ()
        monitors = self.process.arguments.monitors
        if any(speech is Speech.QMP for speech, _ in monitors):
            return ()
        for _, channel in monitors:
            if channel.host:
                return "tcp", channel.host, str(channel.port)
            for path in self.process.paths_of(channel, self._near):
                return "human", path, str(self.process.pid)
        return ()

    @property
    def _near(self) -> list[str]:
        return [os.path.dirname(path) for path in self.paths]

    async def monitor(self, sockets: Sequence[str] = ()) -> Monitor:
        """Return a monitor of it.

        Args:
            sockets: of monitors that the user has named; then those of its command line are tried.

        Raises:
            InUseError: it has none that can be used.
        """
        for path in sockets:
            monitor = await QmpMonitor.connect(path)
            if self.process is None or monitor.peer in (0, self.process.pid):
                return monitor
            await monitor.close()
        if self.domain is not None:
            return VirshMonitor(self.domain)
        if self.process is None:
            raise InUseError(
                f"{self.paths[0]} is open for writing",
                why="by a program of another user, which cannot be seen from here",
                hint="save it as the user who runs the VM, name its monitor (--qmp SOCKET), or shut it down",
            )
        for speech, channel in self.process.arguments.monitors:
            if speech is Speech.QMP:
                for path in self.process.paths_of(channel, self._near):
                    monitor = await QmpMonitor.connect(path)
                    if monitor.peer in (0, self.process.pid):
                        return monitor
                    await monitor.close()  # a socket of that name elsewhere
        raise self._no_monitor(self.process)

    def _no_monitor(self, process: Process) -> InUseError:
        if not process.is_vm:
            return InUseError(
                f"{self.paths[0]} is open for writing",
                why=f"by {process.name} (pid {process.pid})",
                hint="end that program, and repeat the command",
            )
        name = os.path.splitext(os.path.basename(self.paths[0]))[0]
        socket = shlex.quote(os.path.join(self._near[0], f"{name}.qmp"))
        return InUseError(
            f"{self.paths[0]} is open for writing",
            why=f"its VM (pid {process.pid}) runs, and its QEMU has no QMP monitor",
            hint=(
                "to save it: overlaysync save --pause, which stops the VM while its disks are copied; "
                if self.human
                else "shut the VM down, or have it saved as soon as it is: overlaysync save --when-off; "
            )
            + "to capture it while it runs from its next start on, add to the QEMU command: "
            f"-qmp unix:{socket},server=on,wait=off",
        )


def machines_of(disks: Mapping[str, Identity]) -> Iterator[Machine]:
    """Yield each QEMU that writes to images; those that cannot be seen as one.

    Args:
        disks: the images that are written to, by path.
    """
    missing = dict(disks)
    for process in writers_of(disks.values()):
        paths = tuple(path for path, identity in missing.items() if identity in process.files)
        uuid = process.arguments.uuid
        # libvirt gives QEMU its monitor as an open descriptor, which has no path.
        domain = domain_named(uuid) if uuid and not process.arguments.monitors else None
        missing = {path: identity for path, identity in missing.items() if path not in paths}
        if paths:
            yield Machine(paths, process, domain)
    if missing:
        for domain, identities in domains_with(missing.values()):
            paths = _paths(missing, identities)
            missing = {path: identity for path, identity in missing.items() if path not in paths}
            yield Machine(paths, None, domain)
    if missing:
        yield Machine(tuple(sorted(missing)), None, None)


def _paths(disks: Mapping[str, Identity], identities: Iterable[Identity]) -> tuple[str, ...]:
    wanted = set(identities)
    return tuple(path for path, identity in disks.items() if identity in wanted)
