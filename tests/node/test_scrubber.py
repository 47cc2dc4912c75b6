"""Re-checking what is served: rot that the file system does not know of is found on the disk itself."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.node import scrubber
from overlaysync.node.node import Node, now
from overlaysync.node.offered import Shared
from overlaysync.node.scrubber import Scrubber, rechecked
from overlaysync.node.sharing import Share
from overlaysync.ops.offer import ImageOffer
from overlaysync.ops.scrub import recheck
from overlaysync.store.images import ImageRow
from overlaysync.swarm.members import Member
from overlaysync.units import CHUNK, MIB
from tests.filesystems import entered, mounted
from tests.images import convert, create
from tests.images import draw as draw_image
from tests.node.observers import Heard

pytestmark = pytest.mark.holds("R6")

DAY_S = 86400.0
WEEK_S = 7 * DAY_S


def distinct(seed: int, count: int = 8) -> bytes:
    """``count`` chunks, no two alike."""
    return b"".join((seed << 32 | number).to_bytes(8, "little") * (CHUNK // 8) for number in range(count))


def raw(path: Path, seed: int, count: int = 8) -> str:
    path.write_bytes(distinct(seed, count))
    return str(path)


def sharing(node: Node, *paths: str) -> tuple[Share, Heard]:
    heard = Heard()
    share = Share(node, paths, None, heard)
    share.publish_all()
    return share, heard


def row_of(node: Node, path: str) -> ImageRow:
    row = node.catalog.images.at(os.path.realpath(path))
    assert row is not None
    return row


def grow_old(node: Node, *paths: str, by_s: float = WEEK_S + 60) -> None:
    """As if they had last been read so long ago."""
    for path in paths:
        row = row_of(node, path)
        node.catalog.images.remember(replace(row, verified_at=now() - by_s))


def rot(node: Node, path: str, offset: int) -> None:
    """Flip a bit, and make the catalog and the open offers believe that nothing was written."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def names(share: Share) -> set[str]:
    return {shared.manifest.header.name for shared in share.shared}


def check_all(share: Share, *, age_s: float = WEEK_S) -> list[bool]:
    checker = Scrubber(share, age_s, rate=1 << 40)
    return [checker.check(shared) for shared in share.shared]


# -- what is found -----------------------------------------------------------------------------------


def flip_on_device(file: Path, pattern: bytes) -> None:
    """Flip a bit of the only place of the device's file that holds ``pattern``; the image is not touched."""
    with open(file, "r+b", buffering=0) as device, mmap.mmap(device.fileno(), 0) as data:
        place, end = -1, os.lseek(device.fileno(), 0, os.SEEK_DATA)
        while place < 0:  # nearly all of it is a hole
            start = os.lseek(device.fileno(), end, os.SEEK_DATA)
            end = os.lseek(device.fileno(), start, os.SEEK_HOLE)
            place = data.find(pattern, start, end)
        data[place] ^= 4


@pytest.mark.red_without("R6", "the kernel is not told to drop what it has read of the image from its cache")
def test_a_bit_that_flips_on_the_device_is_found_and_the_image_withdrawn(home: Path, tmp_path: Path) -> None:
    """What is in the page cache is still right, and no time of the file has changed."""
    with mounted("ext4", tmp_path) as (made, point), entered(made):
        node = Node.open(dict(os.environ))
        bad, good = raw(point / "bad.raw", 1), raw(point / "good.raw", 2)
        fd = os.open(point, os.O_RDONLY)
        os.sync()
        os.close(fd)
        share, heard = sharing(node, bad, good)
        grow_old(node, bad, good)
        before = os.stat(bad)
        flip_on_device(tmp_path / "ext4-file", (1 << 32 | 5).to_bytes(8, "little") * (CHUNK // 8))

        assert Path(bad).read_bytes() == distinct(1), "the kernel remembers what it has read"
        assert check_all(share) == [True, True]
        assert (
            os.stat(bad).st_ctime_ns == before.st_ctime_ns and os.stat(bad).st_mtime_ns == before.st_mtime_ns
        )
        assert names(share) == {"bad", "good"}, "withdrawn by the next look, in its thread"
        assert share.refresh()

        assert names(share) == {"good"}
        (note,) = heard.notes
        assert note == (
            f"No longer shared: bad:1 ({bad} is damaged: guest offset {5 * CHUNK:#x}, {CHUNK} bytes; "
            f"to heal it from peers: overlaysync verify '{bad}' --repair)"
        )
        assert now() - row_of(node, good).verified_at < 60
        assert now() - row_of(node, bad).verified_at > WEEK_S
        assert not any(share.refresh() for _ in range(4)), "not published again"
        share.close()
        node.close()


def believe(monkeypatch: pytest.MonkeyPatch, node: Node, share: Share, path: str) -> None:
    """The catalog and the offers take the file as it is now for the one that was hashed."""
    row = row_of(node, path)
    status = os.stat(path)
    known = row.fingerprint._replace(mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)
    node.catalog.images.remember(replace(row, chain=(known, *row.chain[1:])))
    for shared in share.shared:
        offer = share.offer(shared.manifest.id)
        assert isinstance(offer, ImageOffer)
        if offer.path == os.path.realpath(path):
            monkeypatch.setattr(offer, "unchanged", lambda: True)


@pytest.mark.red_without("R6", "an image that was found rotten is not withdrawn")
def test_only_the_damaged_image_is_withdrawn_and_a_healed_one_comes_back(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [raw(tmp_path / f"{name}.raw", seed) for seed, name in enumerate("abc", 1)]
    share, heard = sharing(node, *paths)
    rot(node, paths[1], 3 * CHUNK + 7)
    believe(monkeypatch, node, share, paths[1])
    grow_old(node, *paths)

    assert check_all(share) == [True, True, True]
    assert share.refresh() and names(share) == {"a", "c"}
    assert f"guest offset {3 * CHUNK:#x}, {CHUNK} bytes" in heard.notes[0]

    healed = tmp_path / "healed"
    healed.write_bytes(distinct(2))
    healed.replace(paths[1])
    while not share.refresh():
        pass
    assert names(share) == {"a", "b", "c"}
    share.close()


@pytest.mark.qemu
def test_several_places_and_a_bad_table(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice, base = raw(tmp_path / "twice.raw", 1), raw(tmp_path / "base.raw", 2)
    table = str(convert(Path(base), tmp_path / "table.qcow2", cluster_size=CHUNK))
    share, heard = sharing(node, twice, table)
    for offset in (0, 7 * CHUNK):
        rot(node, twice, offset)
    with open(table, "r+b") as file:  # the L1 table: at the header's bytes 40 to 47
        file.seek(40)
        l1 = int.from_bytes(file.read(8), "big")
        file.seek(l1)
        file.write(b"\xff" * 8)
    for path in (twice, table):
        believe(monkeypatch, node, share, path)
    grow_old(node, twice, table)

    check_all(share)
    assert share.refresh() and names(share) == set()
    assert any(f"guest offset 0x0, {CHUNK} bytes and 1 more places" in note for note in heard.notes)
    assert any(f"{table} is damaged: " in note for note in heard.notes)


@pytest.mark.qemu
def test_a_layer_is_compared_with_its_own_list_and_its_master_with_its_own(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = raw(tmp_path / "master.raw", 1)
    overlay = create(tmp_path / "overlay.qcow2", backing=Path(master))
    draw_image(overlay, "AB-")
    share, _ = sharing(node, master, str(overlay))
    grow_old(node, master, str(overlay))
    assert check_all(share) == [True, True]
    assert not share.refresh() and names(share) == {"master", "overlay"}

    rot(node, master, 5 * CHUNK)
    believe(monkeypatch, node, share, master)
    for shared in share.shared:
        monkeypatch.setattr(share.offer(shared.manifest.id), "unchanged", lambda: True)
    grow_old(node, master, str(overlay))
    check_all(share)
    share.refresh()
    assert names(share) == {"overlay"}, "what it gives is its own and whole"


@pytest.mark.red_without("R6", "a master that was found rotten is offered again with an overlay on it")
@pytest.mark.qemu
def test_a_rotten_master_does_not_come_back_with_an_overlay(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "images"
    directory.mkdir()
    master = raw(directory / "master.raw", 1)
    share, _ = sharing(node, str(directory))
    share.found_rotten(master, row_of(node, master).fingerprint, "it has rotted")
    assert share.refresh() and names(share) == set()

    create(directory / "overlay.qcow2", backing=Path(master))
    while not share.refresh():
        pass
    assert names(share) == {"overlay"}
    share.close()


# -- when --------------------------------------------------------------------------------------------


@pytest.mark.red_without("R6", "the scrubber ignores when an image was last verified")
def test_what_is_young_is_not_read(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw(tmp_path / "disk.raw", 1)
    share, _ = sharing(node, path)
    monkeypatch.setattr(scrubber, "recheck", lambda *_args, **_options: pytest.fail("it was read"))
    assert check_all(share) == [False]
    grow_old(node, path, by_s=WEEK_S - 60)
    assert check_all(share) == [False]


def test_a_time_to_come_is_no_reason_never_to_look(node: Node, tmp_path: Path) -> None:
    path = raw(tmp_path / "disk.raw", 1)
    share, _ = sharing(node, path)
    grow_old(node, path, by_s=-DAY_S)
    assert check_all(share) == [True]
    assert abs(now() - row_of(node, path).verified_at) < 60


def test_what_is_being_fetched_waits_but_not_for_ever(node: Node, tmp_path: Path) -> None:
    path = raw(tmp_path / "disk.raw", 1)
    share, _ = sharing(node, path)
    grow_old(node, path)
    (shared,) = share.shared
    checker = Scrubber(share, WEEK_S)
    assert not checker.check(shared, wanted=True)
    grow_old(node, path, by_s=2 * WEEK_S + 60)
    assert checker.check(shared, wanted=True)


def test_what_is_changed_while_it_is_read_is_no_rot(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = raw(tmp_path / "disk.raw", 1)
    share, _ = sharing(node, path)
    grow_old(node, path)
    real = recheck

    def changed(*arguments, **options):
        rot(node, path, CHUNK)
        return real(*arguments, **options)

    monkeypatch.setattr(scrubber, "recheck", changed)
    assert check_all(share) == [False]
    assert share.refresh()  # as changed: it comes back as a new version
    assert now() - row_of(node, path).verified_at > WEEK_S


# -- gently ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_keeps_the_rate(node: Node, tmp_path: Path) -> None:
    path = raw(tmp_path / "disk.raw", 1, count=512)
    share, _ = sharing(node, path)
    grow_old(node, path)
    began = time.monotonic()
    assert Scrubber(share, WEEK_S, rate=32 * MIB).check(share.shared[0])
    assert time.monotonic() - began >= 0.7  # 32 MiB in windows of 8; there is no wait after the last


@pytest.mark.red_without("R6", "the pause between two reads cannot be interrupted")
@pytest.mark.slow
async def test_it_goes_round_by_itself_and_ends_at_once(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = raw(tmp_path / "disk.raw", 1, count=512)
    share, _ = sharing(node, path)
    grow_old(node, path)
    begun = threading.Event()
    monkeypatch.setattr(scrubber, "RATE", MIB)
    monkeypatch.setattr(scrubber, "ROUND_S", 0.0)
    real = scrubber.Pacer.__call__

    def noticed(pacer: scrubber.Pacer, size: int) -> None:
        begun.set()
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == 19
        real(pacer, size)

    monkeypatch.setattr(scrubber.Pacer, "__call__", noticed)
    monkeypatch.setattr(Scrubber.__init__, "__kwdefaults__", {"rate": MIB})
    async with rechecked(share, WEEK_S):
        assert await asyncio.to_thread(begun.wait, 20)
        await asyncio.sleep(0.2)  # the second window would begin in eight seconds
        began = time.monotonic()
    assert time.monotonic() - began < 5.0
    assert now() - row_of(node, path).verified_at > WEEK_S
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19, "the others keep their priority"


async def test_without_an_age_nothing_is_read(node: Node, tmp_path: Path) -> None:
    share, _ = sharing(node, raw(tmp_path / "disk.raw", 1))
    async with rechecked(share, None):
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("recheck")]


@pytest.mark.slow
async def test_the_round_leaves_out_what_others_fetch(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, _ = sharing(node, raw(tmp_path / "a.raw", 1), raw(tmp_path / "b.raw", 2))
    seen: dict[str, bool] = {}

    def check(_: Scrubber, shared: Shared, wanted: bool) -> bool:
        seen[shared.manifest.header.name] = wanted
        return False

    monkeypatch.setattr(Scrubber, "check", check)
    (fetched,) = [shared for shared in share.shared if shared.manifest.header.name == "a"]
    member = Member("5f0c9d1e22ab7740", "192.0.2.9", 40007, 1)
    share.swarms.of(fetched.manifest.id).seen(member, 8, asyncio.get_running_loop().time())
    async with rechecked(share, 0.01):
        while len(seen) < 2:
            await asyncio.sleep(0.01)
    assert seen == {"a": True, "b": False}
