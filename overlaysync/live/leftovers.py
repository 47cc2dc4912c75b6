"""What a capture has in a QEMU: jobs, nodes and descriptors; all of it named so that the next run finds it.

A name begins with the process that made it, by its id and its start. So what a killed command left in a QEMU
is told from what a running one has there, and is removed by whoever comes next.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from overlaysync.live.answers import Descriptors, Job, Node, ask_for
from overlaysync.live.monitor import GoneError, Monitor, RefusedError
from overlaysync.live.processes import start_of

_NAME = re.compile(r"os-([0-9a-f]{1,8})-([0-9a-f]{1,12})-[a-z][0-9]{1,3}")
_WAIT_S = 10.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one command in QEMU; QEMU takes 31 characters.

    Attributes:
        prefix: with which they begin.
    """

    prefix: str

    @classmethod
    def of_this_process(cls) -> Names:
        """Return the names of this process."""
        pid = os.getpid()
        return cls(f"os-{pid:x}-{start_of(pid):x}-")

    def job(self, number: int) -> str:
        return f"{self.prefix}j{number}"

    def node(self, number: int) -> str:
        return f"{self.prefix}t{number}"

    def filter(self, number: int) -> str:
        return f"{self.prefix}f{number}"

    def descriptors(self, number: int) -> str:
        return f"{self.prefix}d{number}"

    def is_ours(self, name: str) -> bool:
        return name.startswith(self.prefix) and _NAME.fullmatch(name) is not None


def is_left_over(name: str) -> bool:
    """Whether a name is of a command that has ended, by whatever means."""
    found = _NAME.fullmatch(name)
    return found is not None and start_of(int(found[1], 16)) != int(found[2], 16)


async def sweep(monitor: Monitor, belongs: Callable[[str], bool]) -> bool:
    """Remove from a QEMU all whose name belongs to a command; each step is tried, whatever the others did.

    Returns:
        Whether nothing of it is left there. A QEMU that has ended has nothing left.
    """
    try:
        jobs = await _end_jobs(monitor, belongs)
        for job in jobs:
            await _try(monitor, "job-dismiss", {"id": job})
        for node in await _nodes(monitor, belongs):
            await _try(monitor, "blockdev-del", {"node-name": node})
        for number in await _descriptors(monitor, belongs):
            await _try(monitor, "remove-fd", {"fdset-id": number})
        return not (await _jobs(monitor, belongs) or await _nodes(monitor, belongs))
    except GoneError:
        return True
    except RefusedError:
        return False


async def _end_jobs(monitor: Monitor, belongs: Callable[[str], bool]) -> list[str]:
    """Cancel jobs and wait until they have ended; returns their names."""
    jobs = await _jobs(monitor, belongs)
    for job in jobs:
        if job.status not in ("concluded", "aborting", "null"):
            await _try(monitor, "job-cancel", {"id": job.id})
    for _ in range(int(_WAIT_S / _LOOK_S)):
        jobs = await _jobs(monitor, belongs)
        if all(job.status in ("concluded", "null") for job in jobs):
            break
        await asyncio.sleep(_LOOK_S)
    return [job.id for job in jobs]


async def _jobs(monitor: Monitor, belongs: Callable[[str], bool]) -> list[Job]:
    return [job for job in await ask_for(list[Job], monitor, "query-jobs") if belongs(job.id)]


async def _nodes(monitor: Monitor, belongs: Callable[[str], bool]) -> list[str]:
    nodes = await ask_for(list[Node], monitor, "query-named-block-nodes", {"flat": True})
    return [node.node_name for node in nodes if belongs(node.node_name)]


async def _descriptors(monitor: Monitor, belongs: Callable[[str], bool]) -> list[int]:
    sets = await ask_for(list[Descriptors], monitor, "query-fdsets")
    return [one.fdset_id for one in sets if any(belongs(descriptor.opaque) for descriptor in one.fds)]


async def _try(monitor: Monitor, command: str, arguments: dict[str, Any]) -> None:
    with suppress(RefusedError):  # it was gone already, or goes with another one
        await monitor.ask(command, arguments)
