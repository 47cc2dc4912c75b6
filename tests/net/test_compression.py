"""Compressed image data: equal, only when asked for, not tried for long in vain; no lie is believed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlaysync.errors import NotFoundError, PeerError
from overlaysync.model.digest import DIGEST_SIZE
from overlaysync.model.pages import page_digest
from overlaysync.net import compression
from overlaysync.net.bodies import Uploads
from overlaysync.net.bounds import MAX_COMPRESSED_BODY, MAX_PAGE_SIZE, SERVER
from overlaysync.net.client import Client
from overlaysync.net.compression import Compressor, Trials, compress, decompress
from overlaysync.net.membership import PrivateLane
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.net.refusals import GoneError
from overlaysync.net.server import Server
from overlaysync.ops.offer import Offer
from overlaysync.swarm.link import Compression
from overlaysync.trust.teams import new_team
from overlaysync.units import CHUNK, KIB, MIB
from tests.counts import record_counts
from tests.effort import EFFORT, SEEDS
from tests.net import frames
from tests.net.content_provider import (
    HASTY_CLIENT,
    FakeShelf,
    connect,
    make_offer,
    make_shelf,
    ok,
    says,
    scripted,
    serving,
)
from tests.net.fuzzing import LARGE, TEXT
from tests.net.lane import lane, listening, make_private

pytestmark = pytest.mark.holds("N3")

ROOT = Path(__file__).parents[2]
TAIL = 512
PLAIN = (TEXT * 20)[: 40 * CHUNK + TAIL]
"""Compressible; in every chunk other bytes."""
NOISE = os.urandom(len(PLAIN))
MANIFEST = bytes(32)
SAID = "Content-Encoding: zstd"


# -- the codec ---------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=5000))
@example(b"x")
@example(LARGE)
@example(os.urandom(MAX_COMPRESSED_BODY))
def test_what_is_compressed_comes_back(plain: bytes) -> None:
    assert decompress(compress(plain), len(plain)) == plain


@pytest.mark.parametrize("encode", [frames.encode, frames.with_checksum])
def test_other_encoders_are_understood(encode) -> None:
    assert decompress(encode(PLAIN), len(PLAIN)) == PLAIN


@pytest.mark.parametrize("window_log", [10, 17, 22])
def test_a_frame_with_a_window_of_its_own_is_understood(window_log: int) -> None:
    assert (
        decompress(frames.header(size=100, window_log=window_log) + frames.raw(TEXT[:100]), 100) == TEXT[:100]
    )


@pytest.mark.red_without("F2", "a damaged frame does not raise a PeerError")
@pytest.mark.red_without("N3", "a frame may have a window of any size")
def test_a_window_larger_than_any_body_is_refused() -> None:
    """Of a short frame it is ignored: that one is unpacked in one go, without a window."""
    with pytest.raises(PeerError):
        decompress(frames.header(size=MIB, window_log=23) + frames.zeros(MIB), MIB)


LIES = frames.lies(TEXT[:1000])


@pytest.mark.red_without("F2", "bytes may follow a frame")
@pytest.mark.red_without("F2", "a frame need not say how long its content is")
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_anything_else_is_refused(lie: bytes) -> None:
    with pytest.raises(PeerError):
        decompress(lie, 1000)


@given(st.binary(max_size=300), st.integers(1, 1000))
def test_any_bytes_are_unpacked_or_a_peer_error(data: bytes, size: int) -> None:
    with suppress(PeerError):
        assert len(decompress(frames.MAGIC + data, size)) == size


def fuzz(*, cases: int, seed: int) -> dict[str, int]:
    """How many damaged frames were unpacked, and how many refused."""
    command = [sys.executable, "-m", "tests.net.fuzzing", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=280 * EFFORT, check=False
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    outcomes = {name: int(count) for name, count in zip(words[::2], words[1::2], strict=True)}
    record_counts(f"fuzz-frames-{seed}", **outcomes)
    return outcomes


def assert_sensible(outcomes: dict[str, int], cases: int) -> None:
    assert sum(outcomes.values()) == cases
    assert outcomes["unpacked"] > cases // 50
    assert outcomes["refused"] > cases // 10


@pytest.mark.slow
def test_five_thousand_damaged_frames() -> None:
    assert_sensible(fuzz(cases=5000, seed=0), 5000)


@pytest.mark.holds("F2")
@pytest.mark.fuzz
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_many_damaged_frames(seed: int) -> None:
    cases = 60_000 * EFFORT
    assert_sensible(fuzz(cases=cases, seed=seed), cases)


# -- is it worth trying ------------------------------------------------------------------------------


def tried(trials: Trials, shrinks: list[bool]) -> list[int]:
    """Which of these bodies are tried, one after the other."""
    found = []
    for at, shrinks_so in enumerate(shrinks):
        if trials.begin():
            found.append(at)
            trials.end(shrank=shrinks_so)
    return found


def test_what_does_not_shrink_is_tried_less_and_less() -> None:
    indexes = tried(Trials(), [False] * 1000)
    gaps = [after - before - 1 for before, after in pairwise(indexes)]
    assert gaps[:8] == [1, 2, 4, 8, 16, 32, 64, 64]
    assert set(gaps[8:]) == {64}


def test_what_shrinks_is_always_tried() -> None:
    assert tried(Trials(), [True] * 1000) == [*range(1000)]


def test_one_success_and_it_is_tried_as_before() -> None:
    trials = Trials()
    tried(trials, [False] * 200)
    while not trials.begin():
        pass
    trials.end(shrank=True)
    assert tried(trials, [True] * 10) == [*range(10)]
    assert tried(trials, [False] * 3) == [0, 2]


def test_who_goes_away_teaches_nothing() -> None:
    trials = Trials()
    tried(trials, [False] * 1000)
    while not trials.begin():
        pass
    trials.end(shrank=None)
    assert tried(trials, [False] * 100) == [0, 65]


def test_failures_of_one_moment_count_as_one() -> None:
    trials = Trials()
    assert [trials.begin() for _ in range(6)] == [True] * 6
    for _ in range(6):
        trials.end(shrank=False)
    assert [trials.begin() for _ in range(2)] == [False, True]


def test_after_a_failure_one_at_a_time_is_tried() -> None:
    trials = Trials()
    tried(trials, [False, False])
    assert [trials.begin() for _ in range(5)] == [True, False, False, False, False]


# -- client and server -------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> FakeShelf:
    return make_shelf(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of everything that is compressed."""
    lengths: list[int] = []

    def counting(plain: bytes) -> bytes:
        lengths.append(len(plain))
        return compress(plain)

    monkeypatch.setattr(compression, "compress", counting)
    return lengths


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client(compression=Compression.ALWAYS) as client:
        yield client


@asynccontextmanager
async def offering(
    shelf: FakeShelf, path: Path, content: bytes = PLAIN, **options
) -> AsyncIterator[tuple[Address, Offer]]:
    """A server with an image of this content."""
    offer = make_offer(
        path / "image.raw", content, shelf.key, unchanged=options.pop("unchanged", lambda: True)
    )
    shelf.items.append(offer)
    async with serving(Server(shelf, **options)) as address:
        yield address, offer


async def read(client: Client, address: Address, offer: Offer, *runs: tuple[int, int]) -> tuple[bytes, int]:
    """The data of the runs, and how many bytes that was on the wire."""
    buffer = bytearray(sum(offer.data.span(*run) for run in runs))
    received = await client.read_slots(address, offer.manifest.id, runs, memoryview(buffer))
    return bytes(buffer), received


async def fields(
    address: Address, offer: Offer, *asked: str, method: str = "GET", slots: str = "0-3"
) -> bytes:
    """The head of an answer, in small letters."""
    reader, writer = await asyncio.open_connection(*address)
    target = f"/v1/manifests/{offer.manifest.id.hex()}/data?slots={slots}"
    writer.write("\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *asked, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head.lower()


@pytest.mark.parametrize("runs", [((0, 1),), ((0, 41),), ((40, 1),), ((3, 2), (7, 1), (39, 2))])
async def test_a_compressed_body_is_equal_and_shorter(
    shelf: FakeShelf, tmp_path: Path, client: Client, runs: tuple[tuple[int, int], ...]
) -> None:
    async with offering(shelf, tmp_path) as (address, offer):
        data, received = await read(client, address, offer, *runs)
    expected = b"".join(PLAIN[first * CHUNK : (first + count) * CHUNK] for first, count in runs)
    assert data == expected
    assert received < 0.6 * len(expected)


async def test_one_connection_carries_both_kinds(shelf: FakeShelf, tmp_path: Path, client: Client) -> None:
    content = PLAIN[: 20 * CHUNK] + NOISE[: 20 * CHUNK]
    async with offering(shelf, tmp_path, content) as (address, offer):
        for slot in range(0, 40, 3):
            assert (await read(client, address, offer, (slot, 1)))[0] == content[slot * CHUNK :][:CHUNK]
        (host,) = client._pool._hosts.values()
        assert len(host.idle) == 1


async def test_many_at_once(shelf: FakeShelf, tmp_path: Path, client: Client) -> None:
    async with offering(shelf, tmp_path) as (address, offer):
        answers = await asyncio.gather(*(read(client, address, offer, (slot, 3)) for slot in range(0, 39)))
    assert [data for data, _ in answers] == [PLAIN[slot * CHUNK :][: 3 * CHUNK] for slot in range(0, 39)]


async def test_nothing_is_compressed_unasked(shelf: FakeShelf, tmp_path: Path, calls: list[int]) -> None:
    async with offering(shelf, tmp_path) as (address, offer):
        for asked in (
            (),
            ("Accept-Encoding: gzip",),
            ("Accept-Encoding: identity",),
            ("Accept-Encoding: *",),
        ):
            head = await fields(address, offer, *asked)
            assert b"content-encoding" not in head
            assert b"content-length: %d\r\n" % (4 * CHUNK) in head
        async with Client(compression=Compression.NEVER) as client:
            assert await read(client, address, offer, (0, 41)) == (PLAIN, len(PLAIN))
    assert not calls


@pytest.mark.slow
async def test_what_does_not_shrink_goes_plain_and_is_soon_left_alone(
    shelf: FakeShelf, tmp_path: Path, client: Client, calls: list[int]
) -> None:
    async with offering(shelf, tmp_path, NOISE) as (address, offer):
        for _ in range(5):
            for slot in range(40):
                data, received = await read(client, address, offer, (slot, 1))
                assert (data, received) == (NOISE[slot * CHUNK :][:CHUNK], CHUNK)
    assert len(calls) == 9  # of 200: 1, 2, 4, 8, 16, 32, 64, 64 others are between them


async def test_one_image_says_nothing_about_another(
    shelf: FakeShelf, tmp_path: Path, client: Client, calls: list[int]
) -> None:
    other = make_offer(tmp_path / "other.raw", PLAIN, shelf.key)
    shelf.items.append(other)
    async with offering(shelf, tmp_path, NOISE) as (address, offer):
        for slot in range(10):
            await read(client, address, offer, (slot, 1))
            assert (await read(client, address, other, (slot, 1)))[1] < CHUNK
    assert len(calls) < 15


async def test_a_long_body_goes_plain(
    shelf: FakeShelf, tmp_path: Path, client: Client, calls: list[int]
) -> None:
    content = bytes(range(256)) * ((MAX_COMPRESSED_BODY + CHUNK) // 256)
    async with offering(shelf, tmp_path, content) as (address, offer):
        slots = len(content) // CHUNK
        assert (await read(client, address, offer, (0, slots)))[1] == len(content)
        head = await fields(address, offer, "Accept-Encoding: zstd", slots=f"0-{slots - 1}")
        assert b"content-encoding" not in head
        assert not calls
        assert (await read(client, address, offer, (0, slots - 1)))[1] < 100 * KIB


async def test_without_room_a_body_goes_plain(
    shelf: FakeShelf, tmp_path: Path, client: Client, calls: list[int]
) -> None:
    bounds = replace(SERVER, compressed_size=4 * CHUNK)
    async with offering(shelf, tmp_path, bounds=bounds) as (address, offer):
        assert await read(client, address, offer, (0, 5)) == (PLAIN[: 5 * CHUNK], 5 * CHUNK)
        assert not calls
        for _ in range(20):  # room comes back
            assert (await read(client, address, offer, (0, 4)))[1] < 4 * CHUNK


async def test_room_is_shared_and_given_back(shelf: FakeShelf, tmp_path: Path) -> None:
    offer = make_offer(tmp_path / "image.raw", PLAIN, shelf.key)
    compressor = Compressor(5 * CHUNK)
    async with compressor.body(offer, ((0, 4),), 4 * CHUNK) as first:
        assert first
        async with compressor.body(offer, ((0, 4),), 4 * CHUNK) as second:
            assert second is None or len(first) <= CHUNK
        async with compressor.body(offer, ((0, 1),), CHUNK) as small:
            assert small
    assert compressor._room == 5 * CHUNK
    compressor.close()


async def test_a_failed_or_cancelled_body_gives_its_room_back(shelf: FakeShelf, tmp_path: Path) -> None:
    offer = make_offer(tmp_path / "image.raw", PLAIN, shelf.key, unchanged=lambda: False)
    compressor = Compressor(5 * CHUNK)

    async def take() -> None:
        async with compressor.body(offer, ((0, 4),), 4 * CHUNK):
            pass

    for _ in range(3):
        with pytest.raises(NotFoundError):
            await take()
        task = asyncio.create_task(take())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert compressor._room == 5 * CHUNK
    compressor.close()


async def test_a_changed_image_is_gone(shelf: FakeShelf, tmp_path: Path, client: Client) -> None:
    async with offering(shelf, tmp_path, unchanged=lambda: False) as (address, offer):
        with pytest.raises(GoneError):
            await read(client, address, offer, (0, 4))


async def test_a_rate_limit_counts_what_is_on_the_wire(
    shelf: FakeShelf, tmp_path: Path, client: Client
) -> None:
    sent: list[int] = []
    limit = RateLimit(MIB)
    async with offering(
        shelf, tmp_path, uploads=Uploads(limit=limit, sent=lambda *what: sent.append(what[2]))
    ) as (
        address,
        offer,
    ):
        began = asyncio.get_running_loop().time()
        _, received = await read(client, address, offer, (0, 16))
        assert asyncio.get_running_loop().time() - began < 0.9
    assert sent == [received]


async def test_a_client_on_a_slow_link_begins_to_ask(
    shelf: FakeShelf, tmp_path: Path, calls: list[int]
) -> None:
    async with (
        offering(shelf, tmp_path, uploads=Uploads(limit=RateLimit(4 * MIB))) as (address, offer),
        Client() as client,
    ):
        plain = [(await read(client, address, offer, (0, 20)))[1] for _ in range(2)]
        assert plain[0] == 20 * CHUNK
        assert plain[1] < 20 * CHUNK
    assert len(calls) == 1


async def test_a_client_on_a_fast_link_does_not(shelf: FakeShelf, tmp_path: Path, calls: list[int]) -> None:
    async with offering(shelf, tmp_path) as (address, offer), Client() as client:
        for _ in range(50):
            assert (await read(client, address, offer, (0, 41)))[1] == len(PLAIN)
    assert not calls


# -- lies --------------------------------------------------------------------------------------------


async def ask(answer: bytes, size: int, compression: Compression = Compression.ALWAYS) -> bytes:
    buffer = bytearray(size)
    async with Client(compression=compression, bounds=HASTY_CLIENT) as client:
        async with scripted(says(answer, then_close=True)) as address:
            await client.read_slots(address, MANIFEST, ((0, 1),), memoryview(buffer))
    return bytes(buffer)


async def test_a_peer_may_answer_plain_or_compressed() -> None:
    plain = TEXT[:1000]
    assert await ask(ok(plain), 1000) == plain
    assert await ask(ok(compress(plain), SAID), 1000) == plain


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lying_frame_is_a_peer_error(lie: bytes) -> None:
    with pytest.raises(PeerError):
        await ask(ok(lie, SAID), 1000)


SHORT = compress(TEXT[:1000])

ANSWERS = {
    "empty": ok(b"", SAID),
    "longer than the data": ok(frames.header(size=100) + frames.raw(bytes(100)), SAID),
    "short, without a word": ok(SHORT),
    "two encodings": ok(SHORT, SAID, SAID),
    "a list": ok(SHORT, "Content-Encoding: zstd, zstd"),
    "another encoding": ok(SHORT, "Content-Encoding: gzip"),
    "identity": ok(bytes(100), "Content-Encoding: identity"),
    "nothing said": ok(bytes(100), "Content-Encoding:"),
    "cut off": ok(SHORT[:-5], SAID, length=len(SHORT)),
    "more than said": ok(SHORT + b"x", SAID, length=len(SHORT)),
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an encoded refusal": b"HTTP/1.1 404 No\r\nContent-Encoding: zstd\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_a_lying_head_is_a_peer_error(answer: bytes) -> None:
    with pytest.raises(PeerError) as caught:
        await ask(answer, 100)
    assert not isinstance(caught.value, GoneError)


async def test_a_compressed_body_that_was_not_asked_for() -> None:
    with pytest.raises(PeerError, match="not asked for"):
        await ask(ok(compress(TEXT[:1000]), SAID), 1000, Compression.NEVER)


async def test_a_cancelled_read_leaves_the_buffer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it is unpacked, when the thread goes on."""
    buffer = bytearray(1000)
    unpacking = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(frame: bytes, size: int) -> bytes:
        loop.call_soon_threadsafe(unpacking.set)
        return decompress(frame, size)

    monkeypatch.setattr("overlaysync.net.client.decompress", slow)
    async with Client(compression=Compression.ALWAYS) as client:
        async with scripted(says(ok(compress(TEXT[:1000]), SAID))) as address:
            task = asyncio.create_task(client.read_slots(address, MANIFEST, ((0, 1),), memoryview(buffer)))
            await unpacking.wait()
            task.cancel()
            buffer[:] = bytes(1000)
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(lambda: None)
    assert buffer == bytes(1000)


# -- pages -------------------------------------------------------------------------------------------

SPARSE = TEXT[:CHUNK].ljust(100 * CHUNK, b"\0")
"""Of its page nearly everything is markers."""


async def test_a_page_of_markers_is_compressed(shelf: FakeShelf, tmp_path: Path) -> None:
    async with offering(shelf, tmp_path, SPARSE) as (address, offer), Client() as client:
        (digest,) = offer.pages.digests
        page, received = await client.page(address, offer.manifest.id, digest)
    assert page == offer.page(digest)
    assert received < len(page) / 10


async def test_a_page_of_markers_is_compressed_for_members(shelf: FakeShelf, tmp_path: Path) -> None:
    red = {"red": new_team("red")}
    offer = make_private(tmp_path / "image.raw", SPARSE, shelf.key, red["red"])
    shelf.items.append(offer)
    async with (
        listening(Server(shelf, lane=PrivateLane(shelf.key, red))) as server,
        Client(teams=red) as client,
    ):
        (digest,) = offer.pages.digests
        page, received = await client.page(lane(server), offer.manifest.id, digest)
    assert page == offer.page(digest)
    assert received < len(page) / 10


async def test_a_page_that_does_not_shrink_goes_plain(shelf: FakeShelf, tmp_path: Path) -> None:
    async with offering(shelf, tmp_path, NOISE) as (address, offer), Client() as client:
        (digest,) = offer.pages.digests
        page, received = await client.page(address, offer.manifest.id, digest)
    assert page == offer.page(digest)
    assert received == len(page)


async def test_a_page_is_not_compressed_unasked(shelf: FakeShelf, tmp_path: Path) -> None:
    async with offering(shelf, tmp_path, SPARSE) as (address, offer), connect(address) as raw:
        (digest,) = offer.pages.digests
        target = f"/v1/manifests/{offer.manifest.id.hex()}/pages/{digest.hex()}"
        for asked in ((), ("Accept-Encoding: identity",), ("Accept-Encoding: gzip, zstd",)):
            _, fields, body = await raw.ask(target, *asked)
            assert "Content-Encoding" not in fields and body == offer.page(digest)
        async with Client(compression=Compression.NEVER) as client:
            assert (await client.page(address, offer.manifest.id, digest))[1] == len(body)


PAGE = TEXT[: 31 * DIGEST_SIZE]


async def page(answer: bytes, compression: Compression = Compression.AUTO) -> bytes:
    async with Client(compression=compression, bounds=HASTY_CLIENT) as client:
        async with scripted(says(answer, then_close=True)) as address:
            return (await client.page(address, MANIFEST, page_digest(PAGE)))[0]


async def test_a_peer_may_answer_with_a_plain_page_or_a_compressed_one() -> None:
    for answer in (ok(PAGE), ok(compress(PAGE), SAID)):
        assert await page(answer) == PAGE


PAGE_LIES = frames.lies(PAGE) | {
    "empty": b"",
    "a long page": compress(PAGE + bytes(MAX_PAGE_SIZE)),
    "a long frame": frames.header(size=MAX_PAGE_SIZE) + frames.raw(bytes(MAX_PAGE_SIZE)),
}


@pytest.mark.parametrize("lie", PAGE_LIES.values(), ids=PAGE_LIES.keys())
async def test_a_lying_frame_is_no_page(lie: bytes) -> None:
    with pytest.raises(PeerError):
        await page(ok(lie, SAID))


async def test_what_a_page_promises_is_not_unpacked_when_it_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unpacked: list[int] = []
    monkeypatch.setattr(compression, "decompress", lambda frame, size: unpacked.append(size))
    bomb = frames.header(size=1 << 30) + frames.zeros(1 << 30)[: MAX_PAGE_SIZE - 20]
    for frame in (bomb, compress(bytes(MAX_PAGE_SIZE + 1)), frames.without_size(PAGE)):
        with pytest.raises(PeerError, match="more than"):
            await page(ok(frame, SAID))
    assert not unpacked


@pytest.mark.parametrize("encoding", ["gzip", "zstd, zstd", "br"])
async def test_a_page_in_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(PeerError, match="unknown length or form"):
        await page(ok(compress(PAGE), f"Content-Encoding: {encoding}"))


async def test_a_compressed_page_that_was_not_asked_for() -> None:
    with pytest.raises(PeerError, match="not asked for"):
        await page(ok(compress(PAGE), SAID), Compression.NEVER)
