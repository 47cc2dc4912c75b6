"""Which monitor leads to a QEMU."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from itertools import islice

from overlaysync.errors import InUseError
from overlaysync.live.arguments import Speech
from overlaysync.live.monitor import Monitor, QmpMonitor
from overlaysync.live.processes import Process


def agent_of(process: Process | None, paths: Sequence[str]) -> tuple[str, ...]:
    """Return the words that lead to a guest agent for :mod:`overlaysync.live.thawer`; none without one."""
    if process is None or process.arguments.agent is None:
        return ()
    near = [os.path.dirname(path) for path in paths]
    return tuple(islice(process.paths_of(process.arguments.agent, near), 1))


async def monitor_of(process: Process | None, paths: Sequence[str], sockets: Sequence[str]) -> Monitor:
    """Return a monitor of a QEMU.

    Args:
        process: the QEMU; None if it cannot be seen.
        paths: of the disks that it writes to.
        sockets: of monitors that the user has named; then those of its command line are tried.

    Raises:
        InUseError: it has none that can be used.
    """
    near = [os.path.dirname(path) for path in paths]
    for path in sockets:
        monitor = await QmpMonitor.connect(path)
        if process is None or monitor.peer in (0, process.pid):
            return monitor
        await monitor.close()
    if process is None:
        raise InUseError(
            f"{paths[0]} is open for writing",
            why="by a program of another user, which cannot be seen from here",
            hint="save it as the user who runs the VM, name its monitor with --qmp SOCKET, or shut it down",
        )
    for speech, channel in process.arguments.monitors:
        if speech is Speech.QMP:
            for path in process.paths_of(channel, near):
                return await QmpMonitor.connect(path)
    name = os.path.splitext(os.path.basename(paths[0]))[0]
    socket = shlex.quote(os.path.join(near[0], f"{name}.qmp"))
    raise InUseError(
        f"{paths[0]} is open for writing",
        why=f"its VM (pid {process.pid}) runs, and its QEMU has no QMP monitor",
        hint=f"shut the VM down; from its next start on, it can be saved while it runs if you add to the "
        f"QEMU command: -qmp unix:{socket},server=on,wait=off",
    )
