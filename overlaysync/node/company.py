"""Whom one transfer asks: those who list the content, and those who fetch it; and what they say they have.

Any source tells of those who fetch. They are asked what they have, and told at the same time what is here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random

from overlaysync.errors import DecodeError
from overlaysync.model.addresses import host_key
from overlaysync.net.messages import Address, Endpoint, PrivateAddress
from overlaysync.net.refusals import GoneError
from overlaysync.net.swarm_messages import Claim, SwarmAnswer, SwarmQuestion
from overlaysync.node.reach import Reach
from overlaysync.node.reshare import PartialSeeder
from overlaysync.ops.plan import Step
from overlaysync.swarm.introductions import Introductions
from overlaysync.swarm.members import Member
from overlaysync.swarm.neighbours import Neighbours
from overlaysync.swarm.schedule import Schedule
from overlaysync.trust.envelope import Manifest

_GOODBYE_S = 0.5


class Company:
    """The sources of one transfer.

    Args:
        reach: who is there.
        step: what is made.
        schedule: is told of sources, and of what they have.
        seeder: knows who asks this node.
    """

    def __init__(self, reach: Reach, step: Step, schedule: Schedule, seeder: PartialSeeder) -> None:
        self._reach = reach
        self._step = step
        self._schedule = schedule
        self._seeder = seeder
        self._team = step.header.team
        self._port = seeder.port_for(self._team)
        self._loop = asyncio.get_running_loop()
        self._sources: dict[str, tuple[Endpoint, Manifest]] = {}
        self._introductions = Introductions()
        self._labels: dict[str, str] = {}
        asking = seeder.swarms.of(step.listing.manifest.id)
        self._neighbours = Neighbours(seeder.member, asking, Random())

    # -- who is there --------------------------------------------------------------------------------

    def look_around(self) -> None:
        """Take in new sources: those who list the content, and those who fetch it."""
        now = self._loop.time()
        schedule, neighbours = self._schedule, self._neighbours
        self._introduce(now)
        schedule.share_with(neighbours.sharing(schedule.pieces.count, now, schedule.doubtful(now)))
        for member in neighbours.to_meet(now, schedule.dropped()):
            self._meet(member, now)

    @property
    def waiting(self) -> bool:
        """Whether some of those who list the content have not been tried."""
        return self._introductions.waiting

    def came(self, source: str) -> None:
        """Note that a source gave what it was asked for."""
        self._introductions.came(source, self._loop.time())

    def where(self, source: str) -> tuple[Endpoint, Manifest]:
        """Return where a source is, and by which manifest it has the content."""
        return self._sources[source]

    def label(self, source: str) -> str:
        """Return what to call a source."""
        return self._labels.get(source) or self._reach.directory.label_of(source)

    def members(self) -> int:
        """Return how many of the members met are still there."""
        return self._neighbours.company(self._schedule.dropped())

    def useless(self) -> set[str]:
        """Return the members met with whom no work is shared."""
        return self._neighbours.useless(self._schedule.doubtful(self._loop.time()))

    def _introduce(self, now: float) -> None:
        """Add those who list the content, one of each host at first."""
        for source, where in self._reach.sources(self._step.header.content_id, self._team).items():
            self._sources[source] = where
            self._introductions.know(source, host_key(where[0].host))
        for source in self._introductions.next(now, at_a_loss=self._schedule.exhausted(now)):
            self._schedule.add_source(source)

    def _meet(self, member: Member, now: float) -> None:
        """Ask this one as well, where it may be dialled."""
        address: Endpoint = Address(member.host, member.port)
        # Those that asked us told of themselves; of the others a source has told, and was believed.
        if not self._reach.directory.may_dial(member.host, member.port, told_by=address):
            return
        if not self._reach.dials.take(member.host, member.port, now):
            return
        if self._team:
            address = PrivateAddress(member.host, member.port, self._team)
        source = str(address)
        self._neighbours.met(member, source)
        if source not in self._sources:
            self._sources[source] = address, self._step.listing.manifest
            self._schedule.add_source(source, whole=False)

    # -- what it has ---------------------------------------------------------------------------------

    async def question(self, source: str) -> None:
        """Ask a source what it has."""
        address, manifest = self._sources[source]
        schedule, neighbours = self._schedule, self._neighbours
        try:
            answer = await self._reach.client.swarm(
                address, manifest.id, schedule.pieces.count, self._question(source)
            )
            self._labels[source] = answer.label
            self.hear(source, answer, address)
        except Exception as error:
            failure = self._reach.faults.contain(error, "asking a source what it has")
            neighbours.unanswered(source)
            self._reach.dials.failed(address.host, address.port, self._loop.time())
            # One that knows no such manifest has the same content by another: it has everything.
            for_good = isinstance(failure, GoneError | DecodeError) or neighbours.is_invented(source)
            schedule.silent(source, self._loop.time(), for_good=for_good)
        else:
            neighbours.answered(source)
            self._reach.dials.answered(address.host, address.port)

    async def say_goodbye(self) -> None:
        """Tell the others that everything is here, so that nobody waits for this node."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await asyncio.gather(*map(self.question, self._schedule.answering()))

    def claim(self, source: str) -> Claim | None:
        """Return what to say to a source that is asked for data: whether this node will pass them on."""
        cursor = self._schedule.taken_cursor(source)
        return Claim(self._seeder.member, cursor) if self._port and cursor is not None else None

    def _question(self, source: str) -> SwarmQuestion:
        schedule = self._schedule
        return SwarmQuestion(
            self._seeder.member if self._port else "",
            self._port,
            schedule.whole_count,
            schedule.cursor(source),
            self._reach.node.label,
            len(self._neighbours.known(self._loop.time())),
            schedule.taken_cursor(source),
        )

    def hear(self, source: str, answer: SwarmAnswer, teller: Endpoint) -> None:
        """Take in what a source says."""
        now = self._loop.time()
        for member in answer.members:
            if self._reach.directory.may_dial(member.host, member.port, told_by=teller):
                self._neighbours.told(member, answer.pieces, now)
        if answer.taken is not None:
            self._schedule.taken(source, answer.taken.pieces, answer.taken.cursor, now)
        self._schedule.heard(source, held=answer.held, cursor=answer.cursor, crowd=answer.crowd, now=now)
