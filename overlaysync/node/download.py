"""The network part of making one image, driven by the schedule.

Asks all sources at once: peers that list the content, and peers that are fetching it (:mod:`.company`), which
are given what they ask for (:mod:`.reshare`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from overlaysync.errors import (
    DecodeError,
    NetworkError,
    NotFoundError,
    OverlaysyncError,
    PeerError,
    VerificationError,
)
from overlaysync.model.names import printable
from overlaysync.net.receiving import SilentError
from overlaysync.net.refusals import BusyError, GoneError, TakenError
from overlaysync.node.company import Company
from overlaysync.node.node import now
from overlaysync.node.reach import Reach
from overlaysync.node.reshare import PartialSeeder
from overlaysync.ops.assemble import BATCH, Assembly
from overlaysync.ops.offer import PartOffer
from overlaysync.ops.plan import Step
from overlaysync.store.direct import aligned_buffer
from overlaysync.swarm.requests import Request
from overlaysync.swarm.schedule import PER_SOURCE, Asking, Schedule
from overlaysync.swarm.source import Failure
from overlaysync.units import KIB

_TICK_S = 0.2
_CELLS = 64
"""Parts that a transfer is drawn in."""
_REQUEST_S = 4
_LEAST_SHARE = 256 * KIB


@dataclass(slots=True)
class TransferStats:
    """Where the bytes of one image came from.

    Attributes:
        data: bytes of whole bodies of data from peers: compressed ones as they came, wrong ones included.
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


def _schedule(assembly: Assembly, rate: int | None, me: str) -> Schedule:
    """Under a limit few and small requests, so that each moves fast enough not to be taken for dead."""
    if rate is None:
        asking = Asking(BATCH, me=me)
    else:
        per_source = max(1, min(PER_SOURCE, rate // _LEAST_SHARE))
        asking = Asking(min(BATCH, rate * _REQUEST_S), per_source, me)
    return Schedule(assembly.missing(), assembly.data, asking)


@dataclass(frozen=True, slots=True)
class Making:
    """One image that is being made.

    Attributes:
        step: what it is.
        assembly: takes its bytes.
        offer: gives what there is of it to others.
        transfer: counts what comes.
    """

    step: Step
    assembly: Assembly
    offer: PartOffer
    transfer: TransferStats


class Download:
    """The network part of making one image.

    Args:
        reach: who is there.
        making: what is made.
        threads: verify and write.
        seeder: knows who else fetches it.

    Attributes:
        company: who is asked.
        schedule: what is asked of whom.
    """

    def __init__(
        self,
        reach: Reach,
        making: Making,
        threads: ThreadPoolExecutor,
        seeder: PartialSeeder,
    ) -> None:
        self._reach = reach
        self._step, assembly = making.step, making.assembly
        self._assembly = assembly
        self._offer = making.offer
        self._transfer = making.transfer
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self.schedule = _schedule(assembly, reach.client.rate, seeder.member)
        self.company = Company(reach, making.step, self.schedule, seeder)
        self._buffers: list[memoryview] = []
        self._asking: dict[Request, asyncio.Task[None]] = {}
        self._writing: set[asyncio.Future[list[tuple[int, int]]]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._wake = asyncio.Event()
        self._last_error = ""
        self._arrived = 0
        self._arrived_at = self._tell_at = self._loop.time()
        self._waited_for: list[str] = []

    async def run(self) -> None:
        """Ask until everything is here.

        Raises:
            VerificationError: nobody is left to ask, and somebody sent wrong bytes.
            NetworkError: nobody is left to ask.
        """
        schedule = self.schedule
        self._log(schedule.held())
        try:
            while not schedule.finished:
                self.company.look_around()
                self._start_all()
                self._tell_waiting()
                if schedule.exhausted(self._loop.time()):
                    if self.company.waiting:
                        continue
                    if not self._reach.looking:
                        raise self._give_up()
                await self._something()
        finally:
            for task in self._tasks:
                task.cancel()
            # What is being written goes on when nobody waits for it, and must not outlive the part file.
            await asyncio.gather(*self._tasks, *self._writing, return_exceptions=True)
            for source, size in schedule.delivered().items():
                label = self.company.label(source)
                self._transfer.sources[label] = self._transfer.sources.get(label, 0) + size

    # -- what is under way -------------------------------------------------------------------------

    def _start_all(self) -> None:
        """Begin what the schedule wants to be done now."""
        now = self._loop.time()
        while source := self.schedule.next_question(now):
            self._start(self.company.question(source))
        while request := self.schedule.next_request(now):
            self._asking[request] = self._start(self._ask(request))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
        self._wake.set()

    async def _something(self) -> None:
        """Wait until something has happened, or may have."""
        try:
            async with asyncio.timeout(_TICK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        self._reach.check()
        if self._failure is not None:
            raise self._failure

    def _log(self, pieces: list[int]) -> None:
        for piece in pieces:
            self._offer.log.add(piece)

    # -- data ----------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> None:
        schedule = self.schedule
        address, manifest = self.company.where(request.source)
        buffer = self._buffers.pop() if self._buffers else aligned_buffer(BATCH)
        part = buffer[: request.size]
        try:
            received = await self._reach.client.read_slots(
                address,
                manifest.id,
                request.runs,
                part,
                claim=self.company.claim(request.source),
                pieces=schedule.pieces.count,
            )
        except TakenError as error:
            now = self._loop.time()
            schedule.taken(request.source, error.news.pieces, error.news.cursor, now)
            schedule.failed(request, Failure.TAKEN, now)
        except BusyError as error:
            schedule.failed(request, Failure.BUSY, self._loop.time(), retry_after=error.retry_after)
        except Exception as error:
            failure = self._reach.faults.contain(error, "asking a source for data")
            self._last_error = str(failure)
            schedule.failed(request, _kind_of(failure), self._loop.time())
        except asyncio.CancelledError:
            schedule.cancelled(request)
            raise
        else:
            del self._asking[request]  # bytes that are here are not given up any more
            self._transfer.data += received
            schedule.arrived(request)
            self._verified(request, await self._in_thread(request, part))
        finally:
            self._asking.pop(request, None)
        self._buffers.append(buffer)

    async def _in_thread(self, request: Request, part: memoryview) -> list[tuple[int, int]]:
        writing = self._loop.run_in_executor(self._threads, self._accept, request, part)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    def _accept(self, request: Request, part: memoryview) -> list[tuple[int, int]]:
        """Verify and write what came; returns the slots that were wrong."""
        wrong = []
        at = 0
        for first, count in request.runs:
            size = self._assembly.data.span(first, count)
            wrong.extend(self._assembly.accept(first, count, part[at : at + size]))
            at += size
        self._assembly.checkpoint(now())
        return wrong

    def _verified(self, request: Request, wrong: list[tuple[int, int]]) -> None:
        schedule = self.schedule
        before = schedule.missing_size
        if wrong:
            self._last_error = f"{request.source} sent wrong bytes"
            self._reach.observer.note(f"{request.source} sent wrong bytes and is not asked again")
            self._log(schedule.failed(request, Failure.WRONG, self._loop.time(), missing=wrong))
        else:
            self._log(schedule.succeeded(request, self._loop.time()))
            self.company.came(request.source)
        self._reach.observer.advance(before - schedule.missing_size, self.company.label(request.source))
        for needless in schedule.obsolete():
            if task := self._asking.pop(needless, None):
                task.cancel()

    # -- words -------------------------------------------------------------------------------------

    def _tell_waiting(self) -> None:
        """Say which sources are asked for data, and for how long none has come from any."""
        now = self._loop.time()
        if now < self._tell_at:
            return
        self._tell_at = now + _TICK_S
        arrived = self._reach.client.arrived
        if arrived > self._arrived or self._writing:  # while this disk writes it is not they who are late
            self._arrived_at = now
        self._arrived = arrived
        asked = {self.company.label(request.source) for request in self._asking}
        if asked:  # else all of them have failed, and will be asked again
            self._waited_for = sorted(asked)
        parts = self.schedule.cells(_CELLS) if self.schedule.pieces.count else ()
        self._reach.observer.fetching(self._waited_for, now - self._arrived_at, *parts)

    def _give_up(self) -> OverlaysyncError:
        name = printable(self._step.header.name)
        lost = self.schedule.dropped()
        hint = "repeat the command to go on where it stopped"
        if Failure.WRONG in lost.values():
            bad = ", ".join(sorted(source for source, why in lost.items() if why is Failure.WRONG))
            return VerificationError(
                f"Cannot fetch '{name}'",
                why=f"{bad} sent wrong bytes, and no other machine has it",
                hint=hint,
            )
        if all(why is Failure.GONE for why in lost.values()):
            return NotFoundError(f"No machine within reach has '{name}' any more", hint=hint)
        return NetworkError(f"Cannot fetch '{name}'", why=self._last_error or "no peer answers", hint=hint)


def _kind_of(error: PeerError | DecodeError) -> Failure:
    if isinstance(error, GoneError):
        return Failure.GONE
    return Failure.SILENT if isinstance(error, SilentError) else Failure.LOST
