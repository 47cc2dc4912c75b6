"""Transfers with several sources: fetching nodes that help each other, and those that only say they do."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from overlaysync.errors import NetworkError, NotFoundError, PeerError, VerificationError
from overlaysync.net.answers import Answer
from overlaysync.net.bodies import Uploads
from overlaysync.net.bounds import CLIENT, SERVER
from overlaysync.net.client import Client
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.net.server import Server
from overlaysync.net.swarm_messages import SwarmAnswer, SwarmQuestion
from overlaysync.node.host_budget import TOLD_PORTS
from overlaysync.ops.offer import Offer, Segment
from overlaysync.swarm.assignment import Assignment
from overlaysync.swarm.members import MAX_SOURCES, Member
from overlaysync.swarm.source import Failure
from overlaysync.units import CHUNK, KIB, MIB
from tests.net.content_provider import FakeShelf, make_offer, make_shelf, serving, unused_port
from tests.node.fetchers import Fetcher, fetcher, soon

SIZE = 16 * MIB
CONTENT = os.urandom(SIZE)
LIAR = "0123456789abcdef"


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    return make_shelf(tmp_path)


@pytest.fixture
def whole(shelf: FakeShelf, tmp_path: Path) -> Offer:
    shelf.items.append(make_offer(tmp_path / "image.raw", CONTENT, shelf.key))
    return shelf.items[0]


@dataclass
class Seed:
    """A node that has everything, and counts what it gives."""

    address: Address
    sent: list[int]


@pytest.fixture
async def seed(shelf: FakeShelf, whole: Offer) -> AsyncIterator[Seed]:
    sent: list[int] = []
    async with serving(
        Server(shelf, uploads=Uploads(sent=lambda manifest, host, size, _: sent.append(size)))
    ) as address:
        yield Seed(address, sent)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def run(*fetchers: Fetcher, within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        await asyncio.gather(*(fetcher.run() for fetcher in fetchers))
    for each in fetchers:
        assert each.content == CONTENT


def slots(pieces: range) -> Iterator[tuple[int, bytes]]:
    """What a node has that holds these pieces."""
    for piece in pieces:
        for slot in range(4 * piece, 4 * piece + 4):
            yield slot, CONTENT[slot * CHUNK : (slot + 1) * CHUNK]


# -- helping each other ------------------------------------------------------------------------------


async def test_one_alone_gets_everything_from_the_seed(tmp_path: Path, whole: Offer, seed: Seed) -> None:
    async with fetcher(tmp_path / "a", whole, [seed.address]) as a:
        await run(a)
    assert sum(seed.sent) == a.transfer.data == SIZE
    assert a.transfer.sources == {"pl@bob": SIZE}
    assert a.around.observer.advanced == {"pl@bob": SIZE}


async def test_one_alone_claims_what_it_asks_for_since_others_may_come(
    tmp_path: Path, whole: Offer, seed: Seed, shelf: FakeShelf
) -> None:
    async with fetcher(tmp_path / "a", whole, [seed.address]) as a:
        await run(a)
    now = asyncio.get_running_loop().time()
    claimed = shelf.swarms.handed(whole.manifest.id).news(0, "of another", now, most=0).cursor - 1
    assert claimed >= whole.pieces.count


@pytest.mark.slow
async def test_three_that_fetch_at_once_take_little_more_than_one_copy_from_the_seed(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, stack: AsyncExitStack
) -> None:
    sent: list[int] = []
    # So slow that nobody is through before the others have begun.
    server = Server(
        shelf,
        uploads=Uploads(limit=RateLimit(16 * MIB), sent=lambda manifest, host, size, _: sent.append(size)),
    )
    address = await stack.enter_async_context(serving(server))
    labels = ("a@x", "b@x", "c@x")
    fetchers = [
        await stack.enter_async_context(fetcher(tmp_path / label, whole, [address], label=label))
        for label in labels
    ]
    await run(*fetchers)
    assert SIZE <= sum(sent) < 2 * SIZE
    for each in fetchers:
        others = {label for label in labels if label != each.label}
        assert set(each.transfer.sources) & others, each.transfer.sources
        assert SIZE <= sum(each.transfer.sources.values()) <= each.transfer.data
        assert set(each.transfer.sources) <= others | {"pl@bob"}


@pytest.mark.slow
@pytest.mark.holds("N5")
@pytest.mark.red_without("N5", "a seed gives a piece to whoever asks for it, claimed or not")
async def test_what_is_claimed_by_another_comes_from_it_and_not_from_the_seed(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that each hold everything for their duty ask a seed for the same: it gives each piece once."""
    monkeypatch.setattr("overlaysync.swarm.handed._LEAST_PATIENCE", 1.0)
    monkeypatch.setattr(Assignment, "share_with", lambda assignment, others: False)
    sent: list[int] = []
    server = Server(
        shelf,
        uploads=Uploads(limit=RateLimit(8 * MIB), sent=lambda manifest, host, size, _: sent.append(size)),
    )
    address = await stack.enter_async_context(serving(server))
    a, b = [
        await stack.enter_async_context(fetcher(tmp_path / label, whole, [address], label=label))
        for label in ("a@x", "b@x")
    ]
    await run(a, b)
    assert SIZE <= sum(sent) <= 1.25 * SIZE
    assert a.transfer.sources.keys() == {"pl@bob", "b@x"} and a.dropped == b.dropped == {}


@pytest.mark.slow
async def test_what_fetchers_have_among_them_is_enough(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, stack: AsyncExitStack
) -> None:
    """The seed only tells them of each other, and dies."""
    seed = Server(shelf, bounds=replace(SERVER, places=0, waiting=0))  # always busy
    port = await seed.start(["127.0.0.1"])
    address = Address("127.0.0.1", port)
    a, b = [
        await stack.enter_async_context(
            fetcher(tmp_path / name, whole, [address], label=name, held=slots(held))
        )
        for name, held in (("a", range(0, 64, 2)), ("b", range(1, 64, 2)))
    ]
    members = shelf.swarms.of(whole.manifest.id)
    # Until they know of each other nothing can be had.
    running = asyncio.create_task(run(a, b))
    await soon(lambda: len(members) == 2)
    await soon(lambda: bool(a.transfer.data or b.transfer.data or running.done()))
    await seed.stop()
    await running
    assert (a.transfer.sources, b.transfer.sources) == ({"b": SIZE // 2}, {"a": SIZE // 2})


@pytest.mark.slow
async def test_a_seed_that_dies_before_a_copy_is_out_leaves_the_fetch_to_be_resumed(
    tmp_path: Path, whole: Offer, shelf: FakeShelf
) -> None:
    seed = Server(shelf, uploads=Uploads(limit=RateLimit(8 * MIB)))
    port = await seed.start(["127.0.0.1"])
    async with fetcher(tmp_path / "a", whole, [Address("127.0.0.1", port)]) as a:
        running = asyncio.create_task(a.download.run())
        await soon(lambda: a.transfer.data > MIB)
        await seed.stop()
        with pytest.raises(NetworkError):
            await asyncio.wait_for(running, 20)
        assert 0 < a.assembly.written < SIZE


@pytest.mark.slow
async def test_who_is_done_says_so(tmp_path: Path, whole: Offer, seed: Seed, shelf: FakeShelf) -> None:
    members = shelf.swarms.of(whole.manifest.id)
    async with (
        fetcher(tmp_path / "a", whole, [seed.address], label="a@x") as a,
        fetcher(tmp_path / "b", whole, [seed.address], label="b@x") as b,
    ):
        await run(a, b)
        assert members.done == {"a@x", "b@x"}
        for each in (a, b):
            assert each.seeder.waiting() == []


async def test_a_source_of_an_older_version_is_a_source(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, seed: Seed
) -> None:
    class Older(Server):
        def get_swarm(self, request: web.BaseRequest, offer: Offer) -> web.Response:
            raise Answer(404)

    sent: list[int] = []
    older = Older(shelf, uploads=Uploads(sent=lambda manifest, host, size, _: sent.append(size)))
    async with serving(older) as address:
        async with fetcher(tmp_path / "a", whole, [address]) as a:
            await run(a)
        assert (a.transfer.sources, sum(sent)) == ({str(address): SIZE}, SIZE)
        async with fetcher(tmp_path / "b", whole, [address, seed.address]) as b:
            await run(b)
        assert set(b.transfer.sources) == {str(address), "pl@bob"}
        assert a.dropped == b.dropped == {}


async def test_the_swarm_is_asked_for_what_is_not_here(tmp_path: Path, whole: Offer, seed: Seed) -> None:
    async with fetcher(tmp_path / "a", whole, [seed.address], held=slots(range(60))) as a:
        assert a.part.log.cursor == 0
        await run(a)
        assert a.part.log.held.complete()
    assert sum(seed.sent) == a.transfer.data == SIZE // 16


# -- limits ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_rate_holds_for_all_sources_together(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, stack: AsyncExitStack
) -> None:
    seeds = [await stack.enter_async_context(serving(Server(shelf))) for _ in range(3)]
    loop = asyncio.get_running_loop()
    async with fetcher(tmp_path / "a", whole, seeds, rate=8 * MIB) as a:
        began = loop.time()
        await run(a)
        elapsed = loop.time() - began
    assert 1.6 < elapsed < 6  # two seconds
    assert a.dropped == {}


@pytest.mark.slow
async def test_a_rate_holds_for_what_a_fetcher_gives(tmp_path: Path, whole: Offer) -> None:
    loop = asyncio.get_running_loop()
    async with (
        fetcher(tmp_path / "a", whole, [], held=slots(range(64)), rate=4 * MIB) as a,
        Client() as client,
    ):
        for piece in a.download.schedule.held():
            a.part.log.add(piece)
        address = Address("127.0.0.1", a.seeder.port)
        began = loop.time()
        reads = (
            client.read_slots(
                address, whole.manifest.id, ((32 * part, 32),), memoryview(bytearray(32 * CHUNK))
            )
            for part in range(4)
        )
        await asyncio.gather(*reads)
        elapsed = loop.time() - began
    assert 1.6 < elapsed < 6  # 8 MiB


# -- liars -------------------------------------------------------------------------------------------


class Liar(Server):
    """A node that says it has everything, and answers requests for data in its own way."""

    asked = 0
    questions = 0

    async def get_data(self, request: web.BaseRequest, offer: Offer) -> web.StreamResponse:
        self.asked += 1
        return await super().get_data(request, offer)

    def get_swarm(self, request: web.BaseRequest, offer: Offer) -> web.Response:
        self.questions += 1
        return super().get_swarm(request, offer)


class Refusing(Liar):
    status = 0

    async def get_data(self, request: web.BaseRequest, offer: Offer) -> web.StreamResponse:
        self.asked += 1
        raise Answer(self.status)


class Gone(Refusing):
    status = 404


class NotHere(Refusing):
    status = 416


class Stalling(Liar):
    async def get_data(self, request: web.BaseRequest, offer: Offer) -> web.StreamResponse:
        self.asked += 1
        await asyncio.sleep(3600)
        raise AssertionError("nobody waits for so long")


class Held(Liar):
    """Gives the first body that anybody asks for when it is told to."""

    def __init__(self, shelf: FakeShelf, first: list[str], release: asyncio.Event) -> None:
        super().__init__(shelf)
        self._first = first
        self._release = release

    async def get_data(self, request: web.BaseRequest, offer: Offer) -> web.StreamResponse:
        self._first.append(self._provider.label)
        if len(self._first) == 1:
            await self._release.wait()
        return await super().get_data(request, offer)


class Babbling(Liar):
    body = b'{"label":"x","pieces":64,"news":[64]}'

    def get_swarm(self, request: web.BaseRequest, offer: Offer) -> web.Response:
        self.questions += 1
        return web.Response(body=self.body)


class Miscounting(Babbling):
    body = b'{"label":"x","pieces":65,"whole":true}'


class Flooding(Babbling):
    body = b" " * (65 * KIB)


def false_offer(directory: Path, whole: Offer, shelf: FakeShelf) -> Offer:
    """The same manifest with other bytes behind it."""
    offer = make_offer(directory / "false.raw", CONTENT, shelf.key)
    offer.manifest = whole.manifest

    def segments(runs: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        for run in runs:
            yield bytes(offer.data.span(*run))

    offer.segments = segments  # type: ignore[method-assign]
    return offer


@dataclass
class Lie:
    kind: type[Liar]
    most_asked: int
    dropped: Failure | None
    wrong: bool = False
    within_s: float = 30
    words: list[str] = field(default_factory=list)


LIES = {
    "wrong bytes": Lie(Liar, 1, Failure.WRONG, wrong=True, words=["sent wrong bytes"]),
    "404": Lie(Gone, 1, Failure.GONE),
    "416": Lie(NotHere, 4, None),
    "stalls": Lie(Stalling, 4, None, within_s=9),
    "pieces there are not": Lie(Babbling, 0, None),
    "another number of pieces": Lie(Miscounting, 0, None),
    "too much": Lie(Flooding, 0, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_member_that_lies_costs_nothing_and_is_dropped(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, seed: Seed, lie: Lie
) -> None:
    items = [false_offer(tmp_path, whole, shelf) if lie.wrong else whole]
    liar = lie.kind(replace(shelf, items=items, label="liar@x"))
    async with serving(liar) as address, Client() as client:
        question = SwarmQuestion(LIAR, address.port, label="liar@x")
        await client.swarm(seed.address, whole.manifest.id, whole.pieces.count, question)
        async with fetcher(tmp_path / "a", whole, [seed.address]) as a:
            await run(a, within_s=lie.within_s)
        useless = a.download.company.useless()
    assert useless == ({LIAR} if liar.asked or liar.questions > 2 else set())
    assert liar.questions >= 1
    assert liar.asked <= lie.most_asked
    assert a.dropped == ({str(address): lie.dropped} if lie.dropped else {})
    assert a.transfer.sources == {"pl@bob": SIZE}
    assert [note.partition(" ")[2].partition(" and")[0] for note in a.around.observer.notes] == lie.words


@pytest.mark.slow
async def test_what_is_being_written_ends_before_the_transfer(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, stack: AsyncExitStack
) -> None:
    """One piece is missing and asked for twice; who writes it first stands still while the other is done."""
    asked: list[str] = []
    late, go_on = asyncio.Event(), threading.Event()
    seeds = [
        await stack.enter_async_context(serving(Held(replace(shelf, label=label), asked, late)))
        for label in "ab"
    ]
    a = await stack.enter_async_context(fetcher(tmp_path / "a", whole, seeds, held=slots(range(1, 64))))
    loop, accept, calls = asyncio.get_running_loop(), a.assembly.accept, itertools.count()

    def slow(*args: Any) -> list[tuple[int, int]]:
        if next(calls) == 0:
            loop.call_soon_threadsafe(late.set)
            go_on.wait(20)
        return accept(*args)

    a.assembly.accept = slow  # type: ignore[assignment,method-assign]
    running = asyncio.create_task(a.download.run())
    await soon(a.assembly.have.complete)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not running.done() and sorted(asked) == ["a", "b"]
    go_on.set()
    await running
    os.close(a.assembly.finish(mode=0o644))
    assert a.content == CONTENT


async def test_liars_alone_are_named(tmp_path: Path, whole: Offer, shelf: FakeShelf) -> None:
    liar = Server(replace(shelf, items=[false_offer(tmp_path, whole, shelf)]))
    async with serving(liar) as address, fetcher(tmp_path / "a", whole, [address]) as a:
        with pytest.raises(VerificationError, match="sent wrong bytes"):
            await asyncio.wait_for(a.download.run(), 20)
        assert not a.path.exists()
        assert a.assembly.written == 0


async def test_who_may_not_be_dialled_is_not_dialled(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, seed: Seed
) -> None:
    other = Liar(shelf)
    asked: list[str] = []

    def believed(host: str) -> bool:
        asked.append(host)
        return False

    async with serving(other) as address, Client() as client:
        await client.swarm(
            seed.address, whole.manifest.id, whole.pieces.count, SwarmQuestion(LIAR, address.port)
        )
        async with fetcher(tmp_path / "a", whole, [seed.address], believed=believed) as a:
            await run(a)
    assert (other.questions, other.asked) == (0, 0)
    assert set(asked) == {"127.0.0.1"}


@pytest.mark.slow
async def test_invented_members_make_nobody_dial_a_host_much(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source tells of members on a third host, others each time, and of ports of system services."""
    dialled: list[Address] = []
    numbers = itertools.count()
    real = Client.swarm

    async def swarm(client: Client, address: Address, *rest: Any) -> SwarmAnswer:
        dialled.append(address)
        if address.host == "127.0.0.2":
            raise PeerError("refused")
        answer = await real(client, address, *rest)
        told = [
            Member(f"{number:016x}", "127.0.0.2", 1 + number * 7 % 60_000, 1)
            for number in itertools.islice(numbers, 200)
        ]
        return replace(answer, members=tuple(told))

    monkeypatch.setattr(Client, "swarm", swarm)
    async with serving(Server(shelf, uploads=Uploads(limit=RateLimit(4 * MIB)))) as address:
        async with fetcher(tmp_path / "a", whole, [address]) as a:
            await run(a)
    third = [address for address in dialled if address.host == "127.0.0.2"]
    assert 0 < len({address.port for address in third}) <= TOLD_PORTS
    assert len(third) <= 5 * TOLD_PORTS
    assert all(address.port >= 1024 for address in third)


async def test_a_member_that_says_it_is_at_a_system_service_is_not_dialled(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, seed: Seed
) -> None:
    """It asks us itself; nobody told of it."""
    async with fetcher(tmp_path / "a", whole, [seed.address]) as a:
        now = asyncio.get_running_loop().time()
        for number, port in enumerate((22, 80, 1023)):
            a.seeder.swarms.of(whole.manifest.id).seen(
                Member(f"{number:016x}", "127.0.0.1", port, 0), 64, now
            )
        a.download.company.look_around()
        assert a.download.schedule.sources() == [str(seed.address)]


@pytest.mark.slow
async def test_a_crowd_of_members_that_are_not_there_costs_little(
    tmp_path: Path, whole: Offer, seed: Seed
) -> None:
    """All of them refuse, and only some are asked."""
    async with Client() as client:
        for number in range(60):
            question = SwarmQuestion(f"{number:016x}", 2000 + number)
            await client.swarm(seed.address, whole.manifest.id, whole.pieces.count, question)
    async with fetcher(tmp_path / "a", whole, [seed.address], bounds=replace(CLIENT, connect_s=1)) as a:
        await run(a, within_s=10)
    assert a.transfer.sources == {"pl@bob": SIZE}
    assert 1 < len(a.download.schedule.sources()) <= 1 + 256
    assert a.download.company.members() <= MAX_SOURCES // 2


@pytest.mark.slow
async def test_somebody_who_registers_and_never_answers_does_not_keep_a_fetch_alive(
    tmp_path: Path, whole: Offer, shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only source knows no swarm, and has gone; who has registered here has nothing."""
    monkeypatch.setattr("overlaysync.swarm.schedule._HOPELESS_S", 1.0)
    without = Server(replace(shelf, items=[]))
    async with (
        serving(without) as address,
        Client() as client,
        fetcher(tmp_path / "a", whole, [address]) as a,
    ):
        own = Address("127.0.0.1", a.seeder.port)
        await client.swarm(own, whole.manifest.id, whole.pieces.count, SwarmQuestion(LIAR, 2001))
        with pytest.raises(NotFoundError):
            await asyncio.wait_for(a.download.run(), 8)


@pytest.mark.slow
async def test_many_silent_sources_of_one_host_do_not_stretch_a_fetch(
    tmp_path: Path, whole: Offer, seed: Seed
) -> None:
    with ExitStack() as stack:
        silent = []
        for _ in range(60):  # the kernel takes the connections, and nobody reads
            sock = stack.enter_context(socket.create_server(("127.0.0.2", 0)))
            silent.append(Address("127.0.0.2", sock.getsockname()[1]))
        async with fetcher(tmp_path / "a", whole, [*silent, seed.address]) as a:
            await run(a, within_s=5)
        tried = set(a.download.schedule.sources()) & set(map(str, silent))
    assert len(tried) <= 2
    assert a.transfer.sources == {"pl@bob": SIZE}


@pytest.mark.slow
async def test_the_only_good_source_among_many_that_refuse_on_its_host_is_found(
    tmp_path: Path, whole: Offer, seed: Seed
) -> None:
    refusing = [Address("127.0.0.1", unused_port()) for _ in range(20)]
    async with fetcher(tmp_path / "a", whole, [*refusing, seed.address]) as a:
        await run(a, within_s=25)
    assert a.transfer.sources == {"pl@bob": SIZE}
