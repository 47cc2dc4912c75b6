"""The network part of making one image, driven by the schedule.

Asks all sources at once: peers that list the content, and peers that are fetching it. Any source tells of the
latter; they are asked what they have, are told at the same time what is here, and are given what they ask for
(:mod:`.reshare`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from overlaysync.errors import (
    DecodeError,
    NetworkError,
    NotFoundError,
    OverlaysyncError,
    PeerError,
    VerificationError,
)
from overlaysync.model.addresses import host_key
from overlaysync.model.names import printable
from overlaysync.net.client import BusyError, GoneError
from overlaysync.net.messages import Address, Endpoint, PrivateAddress
from overlaysync.net.receiving import SilentError
from overlaysync.net.swarm_messages import SwarmAnswer, SwarmQuestion
from overlaysync.node.node import now
from overlaysync.node.reach import Reach
from overlaysync.node.reshare import PartialSeeder
from overlaysync.ops.assemble import BATCH, Assembly
from overlaysync.ops.offer import PartOffer
from overlaysync.ops.plan import Step
from overlaysync.store.direct import aligned_buffer
from overlaysync.swarm.introductions import Introductions
from overlaysync.swarm.members import MAX_SOURCES, Member, Members
from overlaysync.swarm.requests import Request
from overlaysync.swarm.schedule import PER_SOURCE, Schedule
from overlaysync.swarm.source import Failure
from overlaysync.trust.envelope import Manifest
from overlaysync.units import KIB

_TICK_S = 0.2
_REQUEST_S = 4
_LEAST_SHARE = 256 * KIB
_GOODBYE_S = 0.5
_MET = 256
"""Members dialled in one transfer at most: somebody may invent them."""
_UNHEARD = 3
"""A member that has left so many questions unanswered is no company; another one may be asked instead."""

_INVENTED = 5
"""A member that has left so many questions unanswered is not asked again: it may be another's address."""


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
        return Schedule(assembly.missing(), assembly.data, request_size=BATCH, me=me)
    return Schedule(
        assembly.missing(),
        assembly.data,
        request_size=min(BATCH, rate * _REQUEST_S),
        per_source=max(1, min(PER_SOURCE, rate // _LEAST_SHARE)),
        me=me,
    )


class Download:
    """The network part of making one image.

    Args:
        reach: who is there.
        step: what is made.
        assembly: takes the bytes.
        offer: gives what there is of it to others.
        transfer: counts what comes.
        threads: verify and write.
        seeder: knows who else fetches it.
    """

    def __init__(
        self,
        reach: Reach,
        step: Step,
        assembly: Assembly,
        offer: PartOffer,
        transfer: TransferStats,
        threads: ThreadPoolExecutor,
        seeder: PartialSeeder,
    ) -> None:
        self._reach = reach
        self._step = step
        self._assembly = assembly
        self._offer = offer
        self._transfer = transfer
        self._threads = threads
        self._seeder = seeder
        self._loop = asyncio.get_running_loop()
        self._schedule = _schedule(assembly, reach.client.rate, seeder.member)
        self._members = seeder.swarms.of(step.listing.manifest.id)
        self._told = Members()
        self._buffers: list[memoryview] = []
        self._team = step.header.team
        self._sources: dict[str, tuple[Endpoint, Manifest]] = {}
        self._introductions = Introductions()
        self._labels: dict[str, str] = {}
        self._asking: dict[Request, asyncio.Task[None]] = {}
        self._writing: set[asyncio.Future[list[tuple[int, int]]]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._wake = asyncio.Event()
        self._met: dict[str, str] = {}  # member id → source
        self._unheard: Counter[str] = Counter()  # questions in a row without an answer
        self._choose_at = 0.0
        self._random = Random()
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
        schedule = self._schedule
        self._log(schedule.held())
        try:
            while not schedule.finished:
                self._look_around()
                self._start_all()
                self._tell_waiting()
                if schedule.exhausted(self._loop.time()):
                    if self._introductions.waiting:
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
                label = self._label(source)
                self._transfer.sources[label] = self._transfer.sources.get(label, 0) + size

    # -- whom to ask ---------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Take in new sources: those who list the content, and those who fetch it."""
        now = self._loop.time()
        self._introduce(now)
        others = {
            member.id: member
            for known in (self._told, self._members)
            for member in known.current(now)
            if member.id != self._seeder.member
        }
        whole, useless = self._schedule.pieces.count, self._useless(now)
        self._schedule.share_with(
            id for id, member in others.items() if member.held < whole and id not in useless
        )
        for member in self._members.current(now):  # who is done stays for a moment, and longer when asked
            self._add_member(member, MAX_SOURCES)
        if now >= self._choose_at and self._company() < MAX_SOURCES // 2:
            for member in self._told.strangers(self._met, now, self._random):
                self._add_member(member, MAX_SOURCES // 2)
                self._choose_at = now + _TICK_S

    def _introduce(self, now: float) -> None:
        """Add those who list the content, one of each host at first."""
        for source, where in self._reach.sources(self._step.header.content_id, self._team).items():
            self._sources[source] = where
            self._introductions.know(source, host_key(where[0].host))
        for source in self._introductions.next(now, at_a_loss=self._schedule.exhausted(now)):
            self._schedule.add_source(source)

    def _company(self) -> int:
        """How many of the members met are still there."""
        dropped = self._schedule.dropped()
        return sum(
            source not in dropped and self._unheard[source] < _UNHEARD for source in self._met.values()
        )

    def _useless(self, now: float) -> set[str]:
        """Members met that do not do what they are asked for: the work is not shared with them."""
        doubtful = self._schedule.doubtful(now)
        return {
            id for id, source in self._met.items() if source in doubtful or self._unheard[source] >= _UNHEARD
        }

    def _add_member(self, member: Member, most: int) -> None:
        """Ask this one as well, unless ``most`` are asked already."""
        if member.id in self._met or member.id == self._seeder.member:
            return
        if len(self._met) >= _MET or self._company() >= most:
            return
        address: Endpoint = Address(member.host, member.port)
        # Those that asked us told of themselves; of the others a source has told, and was believed.
        if not self._reach.directory.may_dial(member.host, member.port, told_by=address):
            return
        if not self._reach.dials.take(member.host, member.port, self._loop.time()):
            return
        if self._team:
            address = PrivateAddress(member.host, member.port, self._team)
        source = self._met[member.id] = str(address)
        if source not in self._sources:
            self._sources[source] = address, self._step.listing.manifest
            self._schedule.add_source(source, whole=False)

    def _start_all(self) -> None:
        """Begin what the schedule wants to be done now."""
        now = self._loop.time()
        while source := self._schedule.next_question(now):
            self._start(self._question(source))
        while request := self._schedule.next_request(now):
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

    # -- what it has ---------------------------------------------------------------------------------

    async def _question(self, source: str) -> None:
        address, manifest = self._sources[source]
        schedule = self._schedule
        port = self._seeder.port_for(self._team)
        question = SwarmQuestion(
            self._seeder.member if port else "",
            port,
            schedule.whole_count,
            schedule.cursor(source),
            self._reach.node.label,
        )
        try:
            answer = await self._reach.client.swarm(address, manifest.id, schedule.pieces.count, question)
            self._labels[source] = answer.label
            self._hear_of(answer, address)
            schedule.heard(source, held=answer.held, cursor=answer.cursor, now=self._loop.time())
        except Exception as error:
            failure = self._reach.faults.contain(error, "asking a source what it has")
            self._unheard[source] += 1
            self._reach.dials.failed(address.host, address.port, self._loop.time())
            # One that knows no such manifest has the same content by another: it has everything.
            for_good = isinstance(failure, GoneError | DecodeError) or self._is_invented(source)
            schedule.silent(source, self._loop.time(), for_good=for_good)
        else:
            self._unheard[source] = 0
            self._reach.dials.answered(address.host, address.port)

    def _is_invented(self, source: str) -> bool:
        """Whether a member has left all questions unanswered, and enough of them to give it up."""
        never = source in self._met.values() and source not in self._labels
        return never and self._unheard[source] >= _INVENTED

    async def say_goodbye(self) -> None:
        """Tell the others that everything is here, so that nobody waits for this node."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await asyncio.gather(*map(self._question, self._schedule.answering()))

    def _hear_of(self, answer: SwarmAnswer, teller: Endpoint) -> None:
        for member in answer.members:
            if self._reach.directory.may_dial(member.host, member.port, told_by=teller):
                self._told.seen(member, answer.pieces, self._loop.time())

    def _log(self, pieces: list[int]) -> None:
        for piece in pieces:
            self._offer.log.add(piece)

    # -- data ----------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> None:
        schedule = self._schedule
        address, manifest = self._sources[request.source]
        buffer = self._buffers.pop() if self._buffers else aligned_buffer(BATCH)
        part = buffer[: request.size]
        try:
            received = await self._reach.client.read_slots(address, manifest.id, request.runs, part)
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
        schedule = self._schedule
        before = schedule.missing_size
        if wrong:
            self._last_error = f"{request.source} sent wrong bytes"
            self._reach.observer.note(f"{request.source} sent wrong bytes and is not asked again")
            self._log(schedule.failed(request, Failure.WRONG, self._loop.time(), missing=wrong))
        else:
            self._log(schedule.succeeded(request, self._loop.time()))
            self._introductions.came(request.source, self._loop.time())
        self._reach.observer.advance(before - schedule.missing_size, self._label(request.source))
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
        asked = {self._label(request.source) for request in self._asking}
        if asked:  # else all of them have failed, and will be asked again
            self._waited_for = sorted(asked)
        self._reach.observer.waiting(self._waited_for, now - self._arrived_at)

    def _label(self, source: str) -> str:
        return self._labels.get(source) or self._reach.directory.label_of(source)

    def _give_up(self) -> OverlaysyncError:
        name = printable(self._step.header.name)
        lost = self._schedule.dropped()
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
