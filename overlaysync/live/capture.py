"""Capture: copies of the disks of running VMs, each as it was at one moment, while their guests write on.

All VMs are prepared first, and then captured one right after the other. Whatever happens, nothing of ours
stays in a QEMU, and no guest stays frozen or stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from overlaysync.live.job_session import JobSession
from overlaysync.live.paused import PausedSession
from overlaysync.live.running import Copies, Copy, Moment, Running


class Session(Protocol):
    """One QEMU while it is captured."""

    @property
    def copies(self) -> Mapping[str, Copy]:
        """The copies, by path of the source."""
        ...

    @property
    def moment(self) -> Moment:
        """The moment that they show, once :meth:`begin` has returned."""
        ...

    async def prepare(self) -> None:
        """Do all that need not be done at that moment."""
        ...

    async def hold(self) -> None:
        """Hold the guest still, if it can be."""
        ...

    async def begin(self) -> None:
        """Begin to copy: what the copies show is this moment."""
        ...

    async def let_go(self) -> None:
        """Let the guest go on."""
        ...

    async def wait(self, progress: Callable[[int], None]) -> None:
        """Wait until all is copied."""
        ...

    async def end(self) -> None:
        """Leave nothing behind but the copies."""
        ...

    def throw_away(self) -> None:
        """Close the copies."""
        ...


def capture(vms: Sequence[Running], scratch: Path, progress: Callable[[int], None]) -> Copies:
    """Copy all sources of running VMs.

    Args:
        vms: each is another QEMU.
        scratch: a directory for the copies.
        progress: told of the bytes copied; may end the work with an exception.

    Raises:
        InUseError: a VM cannot be captured.
        NoSpaceError: there is no room for the copies.
        OverlaysyncError: ``scratch`` cannot be written to.
    """
    return asyncio.run(_capture(vms, scratch, progress))


async def _capture(vms: Sequence[Running], scratch: Path, progress: Callable[[int], None]) -> Copies:
    sessions: list[Session] = [
        PausedSession(vm, scratch) if vm.human else JobSession(vm, scratch) for vm in vms
    ]
    try:
        try:
            for session in sessions:
                await session.prepare()
            await asyncio.gather(*(session.hold() for session in sessions))
            # One after the other, without a pause: each returns as soon as its moment is kept.
            for session in sessions:
                await session.begin()
            await asyncio.gather(*(session.let_go() for session in sessions))
            await asyncio.gather(*(session.wait(progress) for session in sessions))
        finally:
            await _to_the_end(session.end() for session in sessions)
    except BaseException:
        for session in sessions:
            session.throw_away()
        raise
    files = {path: copy for session in sessions for path, copy in session.copies.items()}
    return Copies(files, tuple(session.moment for session in sessions))


async def _to_the_end(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait until all works have ended, also when the command is interrupted meanwhile.

    Interrupted a second time it ends at once, and the next command cleans up.
    """
    together = asyncio.gather(*works, return_exceptions=True)
    interrupted = False
    while not together.done():
        try:
            await asyncio.shield(together)
        except asyncio.CancelledError:
            interrupted = True
    for error in together.result():
        if error is not None:
            raise error
    if interrupted:
        raise asyncio.CancelledError
