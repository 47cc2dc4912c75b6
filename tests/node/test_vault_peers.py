"""The vault of a peer over real sockets: what it gives, what it proves, what it never does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from overlaysync.errors import (
    DecodeError,
    NotAllowedError,
    NotFoundError,
    OverlaysyncError,
    StoppedError,
)
from overlaysync.net.client import Client
from overlaysync.net.messages import Address
from overlaysync.net.refusals import GoneError
from overlaysync.net.server import Server
from overlaysync.net.vault_wire import (
    MAX_HEADS,
    MAX_SPACES,
    VaultOffer,
    answer,
    decode_heads,
    decode_offer,
    proof_of,
)
from overlaysync.node.peer_objects import PeerObjects
from overlaysync.node.vault_serving import ServedVault
from overlaysync.ops.recovery.placement import Kept
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.units import MIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import encode_head
from overlaysync.vault.objects import Kind, Stored, checked_parts, get_whole, hash_of, object_name
from tests.net.content_provider import connect, make_shelf, serving
from tests.vault.samples import ANN, BOB, RED, a_head, key_of, noise, store

T = TypeVar("T")
PACK = noise("pack", 3 * MIB + 17)
NAME = object_name(RED.tag, Kind.PACK, hash_of(PACK))
NONCE = bytes(range(16))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Peer:
    """A peer with a vault.

    Attributes:
        objects: its vault.
        remote: the same, over the network.
    """

    objects: DirectoryObjects
    served: ServedVault
    clock: Clock
    client: Client
    address: Address

    @property
    def remote(self) -> PeerObjects:
        return PeerObjects(self.client, self.address, asyncio.get_running_loop())

    async def do(self, work: Callable[[PeerObjects], T]) -> T:
        """As the pull does: from a thread."""
        return await asyncio.to_thread(work, self.remote)


@asynccontextmanager
async def peer(place: Path) -> AsyncIterator[Peer]:
    place.mkdir(exist_ok=True)
    objects, clock = DirectoryObjects(place / "vault"), Clock()
    served = ServedVault(objects.root, lambda: Kept((RED.tag,), 5), clock)
    server = Server(make_shelf(place), vault=served)
    async with serving(server) as address, Client() as client:
        yield Peer(objects, served, clock, client, address)


@pytest.fixture
async def bob(tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer(tmp_path / "bob") as made:
        made.objects.put(NAME, PACK)
        yield made


# -- objects -----------------------------------------------------------------------------------------


@pytest.mark.holds("D1")
async def test_objects_come_whole_and_in_ranges(bob: Peer) -> None:
    assert await bob.do(lambda remote: get_whole(remote, NAME)) == PACK
    for offset, length in (
        (0, 40),
        (5, 9),
        (3 * MIB, 99),
        (0, 2 * MIB),
        (len(PACK), 5),
        (len(PACK) + 9, 1),
        (7, 0),
    ):
        read = await asyncio.to_thread(bob.remote.get, NAME, offset, length)
        assert read == PACK[offset : offset + length]
    assert await bob.do(lambda remote: remote.get(NAME, 9)) == PACK[9:]
    assert await bob.do(lambda remote: remote.size(NAME)) == len(PACK)


async def test_small_objects_and_large_ones(bob: Peer) -> None:
    for data in (b"", b"x", noise("large", 20 * MIB)):
        name = object_name(RED.tag, Kind.INDEX, hash_of(data))
        bob.objects.put(name, data)
        assert await asyncio.to_thread(get_whole, bob.remote, name) == data


async def test_an_object_comes_in_parts_that_lie_in_one_place(bob: Peer) -> None:
    """So what a pull takes of memory depends neither on the size of objects nor on what a peer sends."""
    data = noise("large", 20 * MIB + 5)
    name = object_name(RED.tag, Kind.PACK, hash_of(data))
    bob.objects.put(name, data)

    def read(remote: PeerObjects) -> tuple[bytes, set[int], int]:
        whole, places, longest = b"", set(), 0
        for part in checked_parts(remote, name):
            assert isinstance(part, memoryview)
            whole += part
            places.add(np.frombuffer(part, np.uint8).ctypes.data)
            longest = max(longest, len(part))
        return whole, places, longest

    whole, places, longest = await bob.do(read)
    assert whole == data and len(places) == 1 and longest == 4 * MIB


async def test_what_is_being_read_can_be_broken_off(tmp_path: Path) -> None:
    """The peer takes the connection, and says nothing."""
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname()[:2])
    async with server, Client() as client:
        remote = PeerObjects(client, address, asyncio.get_running_loop())
        reading = asyncio.create_task(asyncio.to_thread(next, remote.parts(NAME)))
        await asked.wait()
        remote.stop()
        with pytest.raises(StoppedError):
            await asyncio.wait_for(reading, 10)


async def test_what_it_does_not_have(bob: Peer) -> None:
    name = object_name(RED.tag, Kind.PACK, bytes(32))
    assert await bob.do(lambda remote: remote.size(name)) is None
    with pytest.raises(NotFoundError):
        await bob.do(lambda remote: remote.get(name, 0, 40))
    with pytest.raises(NotFoundError):
        await bob.do(lambda remote: get_whole(remote, name))


async def test_only_heads_are_listed_and_only_the_newest(bob: Peer) -> None:
    made = [encode_head(a_head(counter=counter), ANN, RED) for counter in (9, 10)]
    made.append(encode_head(a_head(BOB), BOB, RED))
    for head in made:
        bob.objects.put(head.head.name, head.data)
    listed = await bob.do(lambda remote: list(remote.list(f"{RED.tag}/heads/")))
    assert listed == sorted(Stored(head.head.name, len(head.data)) for head in made[1:])
    assert await bob.do(lambda remote: list(remote.list(f"{RED.tag}/heads/{BOB.public.hex()}/"))) == [
        Stored(made[2].head.name, len(made[2].data))
    ]
    assert await bob.do(lambda remote: list(remote.list(f"{'0' * 32}/heads/"))) == []
    with pytest.raises(ValueError, match="only heads"):
        await bob.do(lambda remote: list(remote.list(f"{RED.tag}/packs/")))


@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "all heads of a space are looked for at each question")
def test_many_heads_are_not_listed_at_each_question(tmp_path: Path) -> None:
    objects, clock = DirectoryObjects(tmp_path), Clock()
    served = ServedVault(objects.root, Kept, clock)

    def add(*names: str) -> int:
        for name in names:
            head = encode_head(a_head(key_of(name)), key_of(name), RED)
            objects.put(head.head.name, head.data)
        return len(served.heads(RED.tag))

    assert [add("a"), add("b")] == [1, 2], "few are"
    assert [add(*map(str, range(64))), add("c")] == [66, 66]
    clock.now += 3
    assert len(served.heads(RED.tag)) == 67


async def test_it_is_read_only(bob: Peer) -> None:
    for change in (lambda remote: remote.put(NAME, b"x"), lambda remote: remote.delete(NAME)):
        with pytest.raises(NotAllowedError):
            await bob.do(change)
    assert get_whole(bob.objects, NAME) == PACK


@pytest.mark.holds("D1")
async def test_a_vault_is_pulled_over_the_network(bob: Peer, tmp_path: Path) -> None:
    for number in range(10):
        store(bob.objects, RED, [noise(str(number), 200_000)])
    names = [one.name for one in bob.objects.list("")]
    target = DirectoryObjects(tmp_path / "target")
    pull = Pull([Place("bob", bob.remote)], target)
    assert await asyncio.to_thread(pull.run, names) == []
    assert all(get_whole(target, name) == bob.objects.get(name) for name in names)


@pytest.mark.holds("D6")
async def test_a_peer_that_goes_away_leaves_what_had_come(bob: Peer, tmp_path: Path) -> None:
    async with peer(tmp_path / "gone") as gone:
        for number in range(30):
            store(gone.objects, RED, [noise(str(number), 200_000)])
        names = [one.name for one in gone.objects.list("")]
        away = Place("gone", gone.remote)
    target = DirectoryObjects(tmp_path / "target")
    pull = Pull([away, Place("bob", bob.remote)], target)
    missing = await asyncio.to_thread(pull.run, [*names, NAME])
    assert sorted(missing) == sorted(names) and get_whole(target, NAME) == PACK and away.problem


async def test_what_it_says_of_itself(bob: Peer) -> None:
    (bob.objects.root / "not a tag").mkdir()
    assert await bob.client.vault(bob.address) == VaultOffer((RED.tag,), (RED.tag,), others=True)


@pytest.mark.holds("N11")
@pytest.mark.red_without("N11", "a node serves of its vault what a link points to")
async def test_a_link_in_a_vault_gives_nothing_away(bob: Peer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    path = bob.objects.root / NAME
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    assert await bob.do(lambda remote: remote.size(NAME)) is None
    path.unlink()
    os.mkfifo(path)
    assert await bob.do(lambda remote: remote.size(NAME)) is None


@pytest.mark.holds("N10")
@pytest.mark.parametrize(
    "path",
    [
        "vault/../catalog",
        f"vault/{RED.tag}/packs/../../../key",
        f"vault/{RED.tag}/packs/%2e%2e%2f%2e%2e%2fkey",
        f"vault/{RED.tag}/packs/{'0' * 63}",
        f"vault/{RED.tag}/states",
        f"vault/{RED.tag}",
        f"vault/{RED.tag.upper()}/heads",
        "vault/.lock",
        f"vault/{NAME}",
        f"vault/{NAME}?from=0",
        f"vault/{NAME}?from=-1&length=1",
        f"vault/{NAME}?from=0&length=99999999999",
        f"vault/{NAME}?from=٠&length=1",
        f"vault/{NAME}?proof=00",
        f"vault/{NAME}?size&size",
    ],
)
async def test_what_is_no_question_is_refused(bob: Peer, path: str) -> None:
    (bob.objects.root / ".lock").touch()
    async with connect(bob.address) as raw:
        raw.writer.write(f"GET /v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = (await raw.reader.read()).split(b"\r\n")[0]
    assert head.split()[1] in (b"400", b"404"), head


async def test_nothing_is_served_where_there_is_no_vault(tmp_path: Path) -> None:
    async with peer(tmp_path / "new") as new:
        assert (await new.client.vault(new.address)).spaces == ()
        assert await new.do(lambda remote: list(remote.list(f"{RED.tag}/heads/"))) == []
        assert not new.objects.root.exists()
    async with serving(Server(make_shelf(tmp_path))) as address, Client() as client:
        with pytest.raises(GoneError):
            await client.vault(address)


# -- proofs ------------------------------------------------------------------------------------------


@pytest.mark.holds("D2")
async def test_a_proof_is_made_of_the_whole_pack(bob: Peer) -> None:
    proof = await bob.client.vault_proof(bob.address, NAME, NONCE)
    assert proof == proof_of(NONCE, PACK)
    assert (
        len({proof, proof_of(NONCE[::-1], PACK), proof_of(NONCE, PACK[:-1]), proof_of(NONCE, PACK + b"x")})
        == 4
    )


async def test_who_has_lost_a_pack_or_a_byte_of_it_cannot_prove_it(bob: Peer) -> None:
    path = bob.objects.root / NAME
    path.write_bytes(PACK[:-1] + b"x")
    assert await bob.client.vault_proof(bob.address, NAME, NONCE) != proof_of(NONCE, PACK)
    path.unlink()
    with pytest.raises(GoneError):
        await bob.client.vault_proof(bob.address, NAME, NONCE)


@pytest.mark.holds("N3")
@pytest.mark.red_without("N3", "as many proofs are made as anybody asks for")
async def test_proofs_are_limited_in_an_hour(bob: Peer) -> None:
    big = noise("big", 60 * MIB)
    name = object_name(RED.tag, Kind.PACK, hash_of(big))
    bob.objects.put(name, big)
    served = 0
    with pytest.raises(GoneError):
        for _ in range(20):
            await bob.client.vault_proof(bob.address, name, NONCE)
            served += 1
    assert served == 17, "1 GiB in all"
    assert await bob.do(lambda remote: remote.get(NAME, 0, 9)) == PACK[:9], "objects are given all the same"
    bob.clock.now += 3601
    assert await bob.client.vault_proof(bob.address, name, NONCE) == proof_of(NONCE, big)


@pytest.mark.holds("N3")
def test_askers_are_limited_too(tmp_path: Path) -> None:
    clock = Clock()
    served = ServedVault(tmp_path, Kept, clock)
    assert all(served.may_prove(f"192.0.2.{number}", 1) for number in range(1024))
    assert not served.may_prove("192.0.3.1", 1) and served.may_prove("192.0.2.1", 1)
    clock.now += 3601
    assert served.may_prove("192.0.3.1", 1)
    assert len(served._proven) == 1


# -- answers, from who lies ----------------------------------------------------------------------------


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[ServedVault]:
    objects = DirectoryObjects(tmp_path / "vault")
    objects.put(NAME, PACK)
    yield ServedVault(objects.root, Kept, Clock())


def test_an_answer_leaves_nothing_open(provider: ServedVault) -> None:
    count = len(os.listdir("/proc/self/fd"))
    for query in ("size", f"proof={NONCE.hex()}", "size=1", "", "from=x&length=1"):
        try:
            answer(provider, NAME.split("/"), query, "192.0.2.1")
        except OverlaysyncError:
            continue
    provider.may_prove = lambda asker, size: False  # type: ignore[method-assign]
    with pytest.raises(NotFoundError):
        answer(provider, NAME.split("/"), f"proof={NONCE.hex()}", "192.0.2.1")
    assert len(os.listdir("/proc/self/fd")) == count


@pytest.mark.holds("F2")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}x",
        b"[]",
        b'{"spaces":["x"]}',
        b'{"spaces":["../../../../../../../../../../../.."]}',
        b'{"spaces":[],"keeps":[1]}',
        b'{"keeps":[' + b",".join([b'"%032d"' % at for at in range(MAX_SPACES + 1)]) + b"]}",
        b"[" * 200_000,
        b"\xff",
    ],
)
def test_what_nobody_says_of_a_vault(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_offer(body)


HEAD = a_head().name


@pytest.mark.holds("F2")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"heads":[["x",1]]}',
        b'{"heads":[["%s",0]]}' % HEAD.encode(),
        b'{"heads":[["%s",-5]]}' % HEAD.encode(),
        b'{"heads":[["%s",99999999999]]}' % HEAD.encode(),
        b'{"heads":[["%s"]]}' % HEAD.encode(),
        b'{"heads":[["%s",1,2]]}' % HEAD.encode(),
        b'{"heads":[["%s",1.5]]}' % HEAD.encode(),
        b'{"heads":[["%s",1]]}' % NAME.encode(),
        b'{"heads":[["%s",1]]}' % HEAD.replace(RED.tag, "0" * 32).encode(),
        b'{"heads":[["../%s",1]]}' % HEAD.encode(),
        b'{"heads":[' + b",".join([b'["%s",1]' % HEAD.encode()] * (MAX_HEADS + 1)) + b"]}",
    ],
)
def test_what_is_no_list_of_heads(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_heads(body, RED.tag)


def test_a_list_of_heads() -> None:
    assert decode_heads(b'{"heads":[["%s",9]]}' % HEAD.encode(), RED.tag) == [Stored(HEAD, 9)]
