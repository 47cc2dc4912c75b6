"""Transfer: the network part of making one image, driven by the schedule."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from overlaysync.errors import NetworkError, NotFoundError, OverlaysyncError, PeerError, VerificationError
from overlaysync.model.names import printable
from overlaysync.net.client import BusyError, GoneError
from overlaysync.net.messages import Address
from overlaysync.node.node import now
from overlaysync.node.reach import Reach
from overlaysync.ops.assemble import BATCH, Assembly
from overlaysync.ops.plan import Step
from overlaysync.store.direct import aligned_buffer
from overlaysync.swarm.schedule import PER_SOURCE, Failure, Request, Schedule
from overlaysync.trust.envelope import Manifest
from overlaysync.units import KIB

_RETRY_S = 0.25
_REQUEST_S = 4
_LEAST_SHARE = 256 * KIB


@dataclass(slots=True)
class Transfer:
    """Where the bytes of one image came from.

    Attributes:
        data: data bytes on the wire from peers: compressed ones as they came, wrong ones included.
        manifest: bytes of manifest, page list and pages received.
        local: bytes taken from images here.
        resumed: bytes an interrupted run had already written.
        sources: verified bytes by node.
    """

    data: int = 0
    manifest: int = 0
    local: int = 0
    resumed: int = 0
    sources: dict[str, int] = field(default_factory=dict)


def _schedule(assembly: Assembly, rate: int | None) -> Schedule:
    """Under a limit few and small requests, so that each moves fast enough not to be taken for dead."""
    if rate is None:
        return Schedule(assembly.missing(), assembly.data, request_size=BATCH)
    return Schedule(
        assembly.missing(),
        assembly.data,
        request_size=min(BATCH, rate * _REQUEST_S),
        per_source=max(1, min(PER_SOURCE, rate // _LEAST_SHARE)),
    )


class Transferring:
    """The network part of making one image."""

    def __init__(
        self, reach: Reach, step: Step, assembly: Assembly, transfer: Transfer, threads: ThreadPoolExecutor
    ) -> None:
        self._reach = reach
        self._step = step
        self._assembly = assembly
        self._transfer = transfer
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._schedule = _schedule(assembly, reach.client.rate)
        self._buffers: list[memoryview] = []
        self._sources: dict[str, tuple[Address, Manifest]] = {}
        self._last_error = ""

    async def run(self) -> None:
        """Ask until everything is here.

        Raises:
            VerificationError: nobody is left to ask, and somebody sent wrong bytes.
            NetworkError: nobody is left to ask.
        """
        schedule = self._schedule
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not schedule.finished:
                for source, where in self._reach.sources(self._step.header.content_id).items():
                    self._sources[source] = where
                    schedule.add_source(source)
                while request := schedule.next_request(self._loop.time()):
                    tasks.add(asyncio.create_task(self._ask(request)))
                if not tasks:
                    if schedule.exhausted and not self._reach.looking:
                        raise self._give_up()
                    await asyncio.sleep(_RETRY_S)
                    continue
                done, tasks = await asyncio.wait(tasks, timeout=_RETRY_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for source, size in schedule.delivered().items():
                label = self._reach.label_of(source)
                self._transfer.sources[label] = self._transfer.sources.get(label, 0) + size

    async def _ask(self, request: Request) -> None:
        schedule = self._schedule
        address, manifest = self._sources[request.source]
        buffer = self._buffers.pop() if self._buffers else aligned_buffer(BATCH)
        part = buffer[: request.size]
        try:
            received = await self._reach.client.read_slots(address, manifest.id, request.runs, part)
        except BusyError as error:
            schedule.failed(request, Failure.BUSY, self._loop.time(), retry_after=error.retry_after)
        except GoneError as error:
            self._last_error = str(error)
            schedule.failed(request, Failure.GONE, self._loop.time())
        except PeerError as error:
            self._last_error = str(error)
            schedule.failed(request, Failure.LOST, self._loop.time())
        else:
            self._transfer.data += received
            wrong = await self._loop.run_in_executor(self._threads, self._accept, request, part)
            if wrong:
                self._last_error = f"{request.source} sent wrong bytes"
                self._reach.observer.note(f"{request.source} sent wrong bytes and is not asked again")
                schedule.failed(request, Failure.WRONG, self._loop.time(), missing=wrong)
            else:
                schedule.succeeded(request)
        self._buffers.append(buffer)

    def _accept(self, request: Request, part: memoryview) -> list[tuple[int, int]]:
        """Verify and write what came; returns the slots that were wrong."""
        wrong = []
        at = 0
        for first, count in request.runs:
            size = self._assembly.data.span(first, count)
            wrong.extend(self._assembly.accept(first, count, part[at : at + size]))
            at += size
        self._reach.observer.advance(at - sum(self._assembly.data.span(*run) for run in wrong))
        self._assembly.checkpoint(now())
        return wrong

    def _give_up(self) -> OverlaysyncError:
        name = printable(self._step.header.name)
        lost = self._schedule.dropped()
        hint = "repeat the command to go on where it stopped"
        if Failure.WRONG in lost.values():
            bad = ", ".join(sorted(source for source, why in lost.items() if why is Failure.WRONG))
            return VerificationError(
                f"Cannot fetch '{name}'", why=f"{bad} sent wrong bytes and nobody else has it", hint=hint
            )
        if all(why is Failure.GONE for why in lost.values()):
            return NotFoundError(f"Nobody has '{name}' any more", hint=hint)
        return NetworkError(f"Cannot fetch '{name}'", why=self._last_error or "no peer answers", hint=hint)
