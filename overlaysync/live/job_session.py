"""One QEMU with a QMP monitor while it is captured.

All its disks are copied by jobs that begin in one transaction: from that moment on, QEMU copies a cluster
before the guest may change it. The targets are ours, see :mod:`overlaysync.live.targets`. Source: QEMU
docs/interop/live-block-operations.rst and qapi/block-core.json, "blockdev-backup".
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from overlaysync.errors import InUseError, OverlaysyncError
from overlaysync.formats.image import Format
from overlaysync.live.answers import Added, Job, Node, Status, ask_for
from overlaysync.live.blocks import nodes_for
from overlaysync.live.guardian import Guardian
from overlaysync.live.leftovers import Names, is_left_over, sweep
from overlaysync.live.monitor import GoneError, Monitor, RefusedError
from overlaysync.live.running import NO_MOMENT, Copy, Moment, Running
from overlaysync.live.targets import Source, make_target, reserve

T = TypeVar("T")

_LOOK_S = (0.01, 0.25)
"""How often jobs are looked at, at first and later."""
_STALLED_S = 30.0
"""A copy that makes no progress for so long is given up: while it lasts, the guest's writes wait for it."""


@dataclass(slots=True)
class JobSession:
    """See :class:`overlaysync.live.capture.Session`."""

    vm: Running
    scratch: Path
    copies: dict[str, Copy] = field(default_factory=dict)
    moment: Moment = NO_MOMENT
    _monitor: Monitor | None = None
    _names: Names = field(default_factory=Names.of_this_process)
    _nodes: dict[str, str] = field(default_factory=dict)
    _freezer: Guardian | None = None
    _frozen: bool = False
    _ran: bool = False
    """Whether the guest ran when we came."""

    async def prepare(self) -> None:
        """Connect, remove what a killed command has left, and give QEMU the targets."""
        self._monitor = await self.vm.connect()
        await sweep(self._monitor, is_left_over)
        self._nodes = await self._find_nodes()
        self._ran = await self._status() == "running"
        for number, source in enumerate(self.vm.sources):
            file = make_target(source, self.scratch)
            self.copies[source.path] = Copy(file, source.copied_as)
            await self._add_target(number, source)
        if self.vm.agent and self._ran:
            self._freezer = await Guardian.start(self.vm.agent)

    async def hold(self) -> None:
        """Freeze the guest's file systems, if it has an agent."""
        if self._freezer is not None:
            self._frozen = await self._freezer.begin()

    async def let_go(self) -> None:
        """Thaw them, and note whether they were frozen until now."""
        if self._freezer is not None and self._frozen:
            in_time = await self._freezer.end()
            self.moment = replace(self.moment, frozen=in_time)

    async def _find_nodes(self) -> dict[str, str]:
        listed = await self._ask(list[Node], "query-named-block-nodes", {"flat": True})
        nodes = nodes_for(self.vm.sources, listed, self.vm.process)
        for source in self.vm.sources:
            if source.path not in nodes:
                raise InUseError(
                    f"The monitor of {self.vm.name} does not know {source.path}",
                    why="it is the monitor of another VM, or that VM does not write to the file",
                    hint="name a monitor of the VM that has the file open with --qmp SOCKET",
                )
        return nodes

    async def _add_target(self, number: int, source: Source) -> None:
        """Hand QEMU a target: a descriptor of its own, so that it takes its locks as another than we."""
        file = os.open(f"/proc/self/fd/{self.copies[source.path].file}", os.O_RDWR | os.O_CLOEXEC)
        try:
            opaque = {"opaque": self._names.descriptors(number)}
            added = await self._ask(Added, "add-fd", opaque, file=file)
        finally:
            os.close(file)
        protocol = {"driver": "file", "filename": f"/dev/fdset/{added.fdset_id}"}
        node: dict[str, Any] = {
            "driver": source.copied_as.value,
            "node-name": self._names.node(number),
            "file": protocol,
        }
        if source.copied_as is Format.QCOW2:
            node["backing"] = None
        await self._ask(object, "blockdev-add", node)

    async def begin(self) -> None:
        """Begin to copy: what the copies show is this moment."""
        for source in self.vm.sources:  # the guest may have allocated more meanwhile
            reserve(source, self.copies[source.path].file, self.scratch)
        at = time.time()
        actions = [self._job(number, source) for number, source in enumerate(self.vm.sources)]
        properties = {"completion-mode": "grouped"} if len(actions) > 1 else {}
        await self._ask(object, "transaction", {"actions": actions, "properties": properties})
        self.moment = Moment(at)
        self.vm.at_once()

    def _job(self, number: int, source: Source) -> dict[str, Any]:
        return {
            "type": "blockdev-backup",
            "data": {
                "job-id": self._names.job(number),
                "device": self._nodes[source.path],
                "target": self._names.node(number),
                # A raw file has no layer of its own: all of it is copied.
                "sync": "full" if source.format is Format.RAW else "top",
                "auto-dismiss": False,
                "filter-node-name": self._names.filter(number),
                "on-source-error": "report",
                "on-target-error": "report",
            },
        }

    async def wait(self, progress: Callable[[int], None]) -> None:
        """Wait until all is copied."""
        done, idle_s, pause_s = 0, 0.0, _LOOK_S[0]
        while True:
            listed = await self._ask(list[Job], "query-jobs")
            jobs = [job for job in listed if self._names.is_ours(job.id)]
            now = sum(job.current_progress for job in jobs)
            progress(max(0, now - done))
            idle_s = 0.0 if now > done else idle_s + pause_s
            done = max(done, now)
            if all(job.status == "concluded" for job in jobs):
                break
            if idle_s > _STALLED_S or (self._ran and await self._status() == "io-error"):
                raise InUseError(
                    f"Gave up copying {self.vm.name}",
                    why="the disk that it is copied to is too slow, or the VM cannot write to its own",
                    hint="dmesg",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LOOK_S[1])
        failed = next((job.error for job in jobs if job.error), "")
        if failed or len(jobs) != len(self.vm.sources):
            raise self._failed(RefusedError(failed or "a copy was ended by another program"))

    async def end(self) -> None:
        """Remove all of ours from QEMU."""
        try:
            if self._freezer is not None:
                await self._freezer.close()
            if self._monitor is not None:
                await sweep(self._monitor, self._names.is_ours)
                await self._go_on()
        finally:
            if self._monitor is not None:
                await self._monitor.close()

    def throw_away(self) -> None:
        """Close the copies."""
        for copy in self.copies.values():
            os.close(copy.file)
        self.copies.clear()

    async def _go_on(self) -> None:
        """Let a guest run again that QEMU has stopped for a failed write."""
        with suppress(RefusedError, GoneError):
            assert self._monitor is not None
            if self._ran and (await ask_for(Status, self._monitor, "query-status")).status == "io-error":
                await self._monitor.ask("cont")

    async def _status(self) -> str:
        return (await self._ask(Status, "query-status")).status

    async def _ask(
        self,
        kind: type[T],
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        file: int | None = None,
    ) -> T:
        assert self._monitor is not None
        try:
            return await ask_for(kind, self._monitor, command, arguments, file=file)
        except (RefusedError, GoneError) as error:
            raise self._failed(error) from None

    def _failed(self, error: RefusedError | GoneError) -> OverlaysyncError:
        if isinstance(error, RefusedError):
            return InUseError(
                f"{self.vm.name} cannot be captured while it runs",
                why=f"QEMU says: {error}",
                hint="repeat the command later, or shut the VM down first",
            )
        ended = self.vm.process is not None and not self.vm.process.runs
        return InUseError(
            f"{self.vm.name} {'has ended' if ended else 'answers no more'}: nothing was captured",
            why="" if ended else str(error),
            hint="repeat the command",
        )
