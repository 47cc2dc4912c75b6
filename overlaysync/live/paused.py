"""One QEMU that has only a monitor for people: it is stopped while its disks are copied.

Where the file system lets files share blocks that takes milliseconds; elsewhere what is allocated is copied,
and the VM stands still for so long. A copy that is not finished in time is thrown away.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import InUseError
from overlaysync.live.guardian import Guardian
from overlaysync.live.human import Pause
from overlaysync.live.running import NO_MOMENT, Copy, Moment, Running
from overlaysync.store.freezing import freeze


@dataclass(slots=True)
class PausedSession:
    """See :class:`overlaysync.live.capture.Session`."""

    vm: Running
    scratch: Path
    copies: dict[str, Copy] = field(default_factory=dict)
    moment: Moment = NO_MOMENT
    _pauser: Guardian | None = None

    async def prepare(self) -> None:
        """Connect to the monitor."""
        self._pauser = await Guardian.start(self.vm.human)
        if self._pauser is None:
            raise InUseError(
                f"The monitor of {self.vm.name} does not answer",
                why="another program may hold it",
                hint="end that program, or shut the VM down first",
            )

    async def hold(self) -> None:
        """Do nothing: the VM is stopped for no longer than its disks are copied."""

    async def begin(self) -> None:
        """Stop the VM, copy its disks, and let it go on."""
        assert self._pauser is not None
        if not await self._pauser.begin():
            raise InUseError(f"{self.vm.name} could not be stopped", hint="shut the VM down first")
        self.moment = Moment(time.time())
        deadline = time.monotonic() + Pause.held_s
        self.vm.at_once()
        await asyncio.to_thread(self._copy, deadline)
        if not await self._pauser.end():
            raise self._too_long()

    def _copy(self, deadline: float) -> None:
        def progress(_size: int) -> None:
            if time.monotonic() > deadline:
                raise self._too_long()

        for source in self.vm.sources:
            file = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self.copies[source.path] = Copy(freeze(file, self.scratch, progress), source.format)
            finally:
                os.close(file)

    async def let_go(self) -> None:
        """Do nothing: the VM goes on."""

    async def wait(self, progress: Callable[[int], None]) -> None:
        """Tell that all is copied."""
        progress(sum(source.room for source in self.vm.sources))

    async def end(self) -> None:
        """Let the VM go on, whatever happened."""
        if self._pauser is not None:
            await self._pauser.close()

    def throw_away(self) -> None:
        """Close the copies."""
        for copy in self.copies.values():
            os.close(copy.file)
        self.copies.clear()

    def _too_long(self) -> InUseError:
        return InUseError(
            f"{self.vm.name} was not saved",
            why=f"copying its disks takes longer than the {Pause.held_s:.0f} s for which it may be stopped",
            hint="shut the VM down first, or give QEMU a QMP monitor: -qmp unix:PATH,server=on,wait=off",
        )
