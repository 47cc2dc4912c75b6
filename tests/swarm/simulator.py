"""A room of nodes in memory: real schedules, piece logs and members on simulated links; no data, no sockets.

Each node does what the program's transfer does: after every event, and every TICK_S, it asks its schedule for
requests and questions until there are none. What is simulated is around that: links and places
(:mod:`tests.swarm.wires`), answers that take their time, and nodes that fail, lie, stall, come late or go.

Leaves out: the time that verifying and writing takes.

A piece is one slot, of PIECE bytes or as large as :attr:`Room.piece` says: for hundreds of nodes take larger
pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import cast

from overlaysync.model.datamap import DataMap
from overlaysync.model.pieces import PIECE, PieceLog
from overlaysync.net.bounds import MAX_TAKEN, MAX_TAKEN_FIELD
from overlaysync.net.swarm_messages import SwarmAnswer
from overlaysync.swarm.handed import Claim, Handed
from overlaysync.swarm.members import MAX_SOURCES, Member, Members, some_of
from overlaysync.swarm.neighbours import Neighbours
from overlaysync.swarm.requests import Request
from overlaysync.swarm.schedule import PER_SOURCE, Asking, Schedule
from overlaysync.swarm.source import Failure
from overlaysync.units import MIB
from tests.swarm.wires import PARTS, Body, Clock, Wire

RATE = 12.5e6
"""100 Mbit/s."""

LATENCY_S = 0.0005
TICK_S = 0.1
SILENCE_S = 10.0
"""A client gives up a body of which nothing has come for so long."""

CONNECT_S = 3.0
NUMBER = 5
"""Bytes of a piece's number in a list."""

QUESTION = 500
TOLD = 80
"""Bytes of a question or an answer, and of each member in it."""


class Manner(Enum):
    """How a node behaves as a source."""

    HONEST = auto()
    STALLING = auto()
    """Takes requests and never sends."""
    LYING = auto()
    """Sends wrong bytes."""
    BOASTING = auto()
    """Says it has everything; says it has not, when asked for it."""


@dataclass(frozen=True, slots=True)
class _Pages:
    unit: int


@dataclass(frozen=True, slots=True)
class Content:
    """What the schedule reads of a data map: ``count`` slots of one piece each."""

    count: int
    pages: _Pages

    @classmethod
    def of(cls, size: int, piece: int) -> DataMap:
        return cast(DataMap, cls(size // piece, _Pages(piece)))

    @property
    def size(self) -> int:
        return self.count * self.pages.unit

    def span(self, first: int, count: int) -> int:
        return count * self.pages.unit


@dataclass(slots=True)
class Counts:
    """What happened in a room.

    Attributes:
        bodies: requests answered with data.
        absent: pieces asked of honest sources that did not have them.
        doubles: pieces asked for while they were under way from elsewhere.
        early: those of them that had been under way for less than EARLY_S.
        busy: requests turned away.
        taken: requests refused because another has the pieces.
        questions: asked of anybody.
    """

    bodies: int = 0
    absent: int = 0
    doubles: int = 0
    early: int = 0
    busy: int = 0
    taken: int = 0
    questions: int = 0


EARLY_S = 2.0


@dataclass(slots=True, eq=False)
class Node:
    """A node of the room; a seed has no schedule."""

    id: str
    wire: Wire
    manner: Manner
    log: PieceLog
    schedule: Schedule | None
    asking: Members = field(default_factory=Members)
    neighbours: Neighbours | None = None
    handed: Handed = field(default_factory=Handed)
    claims: dict[Body, Claim] = field(default_factory=dict)
    flying: dict[Request, Body] = field(default_factory=dict)
    started_at: float = 0.0
    done_at: float | None = None
    gave_up: bool = False
    gone: bool = False
    started: bool = False

    @property
    def whole(self) -> bool:
        return self.schedule is None or self.done_at is not None

    @property
    def wanted(self) -> bool:
        """Whether the room waits for it."""
        return self.schedule is not None and self.done_at is None and not self.gone and not self.gave_up


class Room:
    """Nodes on one network.

    Args:
        size: bytes of the content.
        piece: bytes of a piece.
        seed: of everything that is random.
        neighbours: most sources of a node.
        stay: seconds a node serves after it is done; None for always.
        tick: most seconds between two looks at the schedule.
    """

    def __init__(
        self,
        size: int,
        *,
        piece: int = PIECE,
        seed: int = 0,
        neighbours: int = MAX_SOURCES,
        stay: float | None = None,
        tick: float = TICK_S,
    ) -> None:
        self.clock = Clock()
        self.random = Random(seed)
        self.data = Content.of(size, piece)
        self.size = self.data.size
        self.piece = piece
        self.neighbours = neighbours
        self.stay = stay
        self.tick = tick
        self.nodes: dict[str, Node] = {}
        self.counts = Counts()
        self._unfinished = 0

    # -- who is there -----------------------------------------------------------------------------------

    def seed(self, name: str = "seed", *, manner: Manner = Manner.HONEST, rate: float = RATE) -> Node:
        """A node that has everything from the start."""
        node = self._add(name, None, manner, rate, rate, LATENCY_S)
        for piece in range(self.data.count):
            node.log.add(piece)
        node.started = True
        return node

    def peer(
        self,
        name: str,
        *,
        at: float = 0.0,
        manner: Manner = Manner.HONEST,
        up: float = RATE,
        down: float | None = None,
        latency: float = LATENCY_S,
        per_source: int = PER_SOURCE,
    ) -> Node:
        """A node that fetches from ``at`` on; it knows the seeds."""
        schedule = Schedule(
            [(0, self.data.count)],
            self.data,
            Asking(4 * MIB, per_source=per_source, me=name),
            random=Random(self.random.random()),
        )
        node = self._add(name, schedule, manner, up, up if down is None else down, latency)
        node.neighbours = Neighbours(name, node.asking, self.random, most=self.neighbours)
        node.started_at = at
        self._unfinished += 1
        self.clock.at(at, self._start, node)
        return node

    def peers(self, count: int, **options: float) -> list[Node]:
        return [self.peer(f"p{number}", **options) for number in range(count)]  # type: ignore[arg-type]

    def kill(self, node: Node) -> None:
        """Its connections are cut, and nobody answers any more."""
        if node.gone:
            return
        node.gone = True
        self._unfinished -= node.done_at is None and node.schedule is not None
        for body in [*node.flying.values()]:
            body.server.cancel(body)
        node.flying.clear()
        for body in node.wire.bodies():
            client, request = body.key
            node.wire.cancel(body)
            self._failed(client, request, Failure.LOST)

    def run(self, deadline: float = 3600.0) -> Room:
        """Until all that are still there have everything, or nobody can go on."""
        self.clock.run(lambda: not self._unfinished, deadline)
        return self

    # -- what came out ----------------------------------------------------------------------------------

    def times(self, nodes: Iterable[Node] | None = None) -> list[float]:
        """Seconds each took, rising; infinite for those that did not finish."""
        fetching = [node for node in nodes or self.nodes.values() if node.schedule and not node.gone]
        return sorted((node.done_at or float("inf")) - node.started_at for node in fetching)

    def ratio(self, rate: float = RATE, nodes: Iterable[Node] | None = None) -> float:
        """The last finisher's time to what the bytes alone take."""
        return self.times(nodes)[-1] / (self.size / rate)

    def sent(self, node: Node) -> float:
        """What it sent, in contents."""
        return node.wire.sent_bytes / self.size

    # -- inside -----------------------------------------------------------------------------------------

    def _add(
        self, name: str, schedule: Schedule | None, manner: Manner, up: float, down: float, latency: float
    ) -> Node:
        wire = Wire(self.clock, up, down, latency, self._came, begun=self._begun, left=self._left)
        wire.stalls = manner is Manner.STALLING
        node = Node(name, wire, manner, PieceLog(self.data.count), schedule)
        self.nodes[name] = node
        return node

    def _start(self, node: Node) -> None:
        node.started = True
        for other in self.nodes.values():
            if other.schedule is None and not other.gone and node.schedule:
                node.schedule.add_source(other.id)
        self._tick(node)
        self._watch(node)

    def _tick(self, node: Node) -> None:
        if node.wanted:
            self._look_around(node)
            self._work(node)
            self.clock.after(self.tick, self._tick, node)

    def _look_around(self, node: Node) -> None:
        """Share the work with those that fetch, and ask some of them, as the program does."""
        schedule, others, now = node.schedule, node.neighbours, self.clock.now
        assert schedule is not None and others is not None
        schedule.share_with(others.sharing(self.data.count, now, schedule.doubtful(now)))
        for member in others.to_meet(now, schedule.dropped()):
            others.met(member, member.id)
            schedule.add_source(member.id, whole=False)

    def _watch(self, node: Node) -> None:
        """Gives up what is silent."""
        now = self.clock.now
        for request, body in [*node.flying.items()]:
            if now - body.arrived_at > SILENCE_S:
                body.server.cancel(body)
                self._failed(node, request, Failure.SILENT)
        if node.wanted:
            self.clock.after(1.0, self._watch, node)

    def _work(self, node: Node) -> None:
        """What the program does after each event."""
        schedule, now = node.schedule, self.clock.now
        if schedule is None or not node.wanted:
            return
        for useless in schedule.obsolete():
            schedule.cancelled(useless)
            if body := node.flying.pop(useless, None):
                body.server.cancel(body)
        if schedule.finished:
            self._finished(node)
            return
        while request := schedule.next_request(now):
            self._ask(node, request)
        while name := schedule.next_question(now):
            self.counts.questions += 1
            self.clock.after(node.wire.latency * 2, self._answer, node, self.nodes[name])
        if schedule.exhausted(now):
            node.gave_up = True
            self._unfinished -= 1

    def _finished(self, node: Node) -> None:
        node.done_at = self.clock.now
        self._unfinished -= 1
        self._say_goodbye(node)
        if self.stay is not None:
            self.clock.after(self.stay, self.kill, node)

    # -- bodies -----------------------------------------------------------------------------------------

    def _ask(self, node: Node, request: Request) -> None:
        server = self.nodes[request.source]
        body = Body(
            (node, request), node.wire, server.wire, request.size, self.piece // PARTS, self.clock.now
        )
        self._count(node, request, server)
        node.flying[request] = body
        self.clock.after(node.wire.latency + server.wire.latency, self._request, node, server, request, body)

    def _count(self, node: Node, request: Request, server: Node) -> None:
        if server.manner is Manner.HONEST and not server.gone:
            self.counts.absent += sum(piece not in server.log.held for piece in request.pieces)
        wanted = set(request.pieces)
        for other in node.flying:
            again = len(wanted.intersection(other.pieces))
            self.counts.doubles += again
            if again and self.clock.now - other.began < EARLY_S:
                self.counts.early += again

    def _request(self, node: Node, server: Node, request: Request, body: Body) -> None:
        if request not in node.flying:
            return
        if server.gone:
            self._failed(node, request, Failure.LOST)
        elif server.wire.is_cut or node.wire.is_cut:
            self.clock.after(CONNECT_S, self._failed, node, request, Failure.LOST)
        elif server.manner is Manner.BOASTING and not self._has(server, request):
            self._failed(node, request, Failure.GONE)
        elif not self._claim(node, server, request, body):
            self._refuse(node, server, request)
        elif not server.wire.request(body):
            if claim := server.claims.pop(body, None):
                server.handed.refused(claim)
            self.counts.busy += 1
            self._failed(node, request, Failure.BUSY, retry_after=self.random.uniform(1.0, 2.0))

    def _claim(self, node: Node, server: Node, request: Request, body: Body) -> bool:
        """Whether nobody else has these pieces; who asks a seed has them from now on."""
        if (
            server.schedule is not None
            or node.schedule is None
            or node.schedule.taken_cursor(server.id) is None
        ):
            return True
        now = self.clock.now
        if server.handed.taken(request.pieces, node.id, now):
            return False
        server.claims[body] = server.handed.claim(
            request.pieces, node.id, node.id, now, crowd=len(server.asking)
        )
        return True

    def _refuse(self, node: Node, server: Node, request: Request) -> None:
        """Say that another has them, and what else was handed out."""
        assert node.schedule is not None
        self.counts.taken += 1
        now = self.clock.now
        since = node.schedule.taken_cursor(server.id) or 0
        news = server.handed.news(since, node.id, now, most=MAX_TAKEN_FIELD)
        refused = server.handed.taken(request.pieces, node.id, now)
        pieces = {*news.pieces, *refused}
        node.wire.say(QUESTION)
        server.wire.say(QUESTION + NUMBER * len(pieces))
        self.clock.after(2 * node.wire.latency, self._refused, node, request, pieces, news.cursor)

    def _refused(self, node: Node, request: Request, pieces: set[int], cursor: int) -> None:
        if request in node.flying and node.schedule:
            node.schedule.taken(request.source, [*pieces], cursor, self.clock.now)
            self._failed(node, request, Failure.TAKEN)

    def _begun(self, body: Body) -> None:
        server = self.nodes[body.key[1].source]
        if claim := server.claims.get(body):
            server.handed.sending(claim, self.clock.now)

    def _left(self, body: Body, whole: bool) -> None:
        server = self.nodes[body.key[1].source]
        if claim := server.claims.pop(body, None):
            if whole:
                server.handed.delivered(claim, self.clock.now)
            else:
                server.handed.dropped(claim, self.clock.now)

    def _has(self, server: Node, request: Request) -> bool:
        return all(piece in server.log.held for piece in request.pieces)

    def _failed(self, node: Node, request: Request, failure: Failure, retry_after: float = 0.0) -> None:
        if node.flying.pop(request, None) and node.schedule:
            node.schedule.failed(request, failure, self.clock.now, retry_after=retry_after)
            self._work(node)

    def _came(self, body: Body) -> None:
        node, request = body.key
        if node.flying.pop(request, None) is None:
            return
        now = self.clock.now
        if self.nodes[request.source].manner is Manner.LYING:
            node.schedule.failed(request, Failure.WRONG, now, missing=request.runs)
        else:
            self.counts.bodies += 1
            for piece in node.schedule.succeeded(request, now):
                node.log.add(piece)
        self._work(node)

    # -- questions --------------------------------------------------------------------------------------

    def _answer(self, node: Node, server: Node) -> None:
        """The question has arrived; the answer takes as long to come back."""
        if node.gone:
            return
        now, delay = self.clock.now, 2 * node.wire.latency
        if server.gone or not server.started:
            self.clock.after(delay, self._silent, node, server)
        elif server.wire.is_cut or node.wire.is_cut:
            self.clock.after(CONNECT_S, self._silent, node, server)
        else:
            new = server.asking.seen(self._member(node), self.data.count, now)
            if new and server.wanted:
                self._look_around(server)
            if node.schedule is not None:
                self.clock.after(delay, self._heard, node, server, self._say(node, server))

    def _say(self, node: Node, server: Node) -> SwarmAnswer:
        """What a node answers, and what question and answer weigh."""
        assert node.schedule is not None and node.neighbours is not None
        now, schedule = self.clock.now, node.schedule
        cursor = schedule.cursor(server.id)
        whole = server.whole or server.manner is Manner.BOASTING
        held = None if whole else tuple(server.log.since(cursor))
        others: list[Member] = []
        if server.schedule is None or not cursor:  # a node that fetches tells of the others once
            others = [member for member in server.asking.current(now) if member.id != node.id]
        told = some_of(others, known=len(node.neighbours.known(now)), random=self.random)
        taken, since = None, schedule.taken_cursor(server.id)
        if server.schedule is None and since is not None:
            taken = server.handed.news(since, node.id, now, most=MAX_TAKEN)
        node.wire.say(QUESTION)
        server.wire.say(QUESTION + TOLD * len(told) + NUMBER * len(taken.pieces if taken else ()))
        crowd = len(others) if len(others) > len(told) else 0
        return SwarmAnswer(server.id, self.data.count, held, server.log.cursor, tuple(told), crowd, taken)

    def _say_goodbye(self, node: Node) -> None:
        """Tell the others that it has everything."""
        assert node.schedule is not None
        for name in node.schedule.answering():
            node.wire.say(QUESTION)
            self.nodes[name].wire.say(QUESTION)
            self.nodes[name].asking.seen(self._member(node), self.data.count, self.clock.now)

    def _heard(self, node: Node, server: Node, answer: SwarmAnswer) -> None:
        if node.schedule is None or node.neighbours is None or not node.wanted:
            return
        now = self.clock.now
        for member in answer.members:
            node.neighbours.told(member, self.data.count, now)
        if answer.taken:
            node.schedule.taken(server.id, answer.taken.pieces, answer.taken.cursor, now)
        node.schedule.heard(server.id, held=answer.held, cursor=answer.cursor, crowd=answer.crowd, now=now)
        node.neighbours.answered(server.id)
        if server.schedule is None or answer.members:
            self._look_around(node)
        self._work(node)

    def _silent(self, node: Node, server: Node) -> None:
        if node.schedule and node.wanted:
            node.schedule.silent(server.id, self.clock.now)
            if node.neighbours:
                node.neighbours.unanswered(server.id)
            self._work(node)

    def _member(self, node: Node) -> Member:
        held = self.data.count if node.done_at is not None else node.log.cursor
        return Member(node.id, node.id, 1, held)
