"""What costs space is said before it is spent, and a compressed master stays compressed at the receivers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overlaysync.units import MIB, format_size
from tests.e2e import disks
from tests.e2e.nodes import DONE, Lab, Node, until
from tests.e2e.small_disk import small_disk
from tests.images import check, convert, create, run
from tests.torture.rot import flip

pytestmark = pytest.mark.qemu

SIZE = 4 * MIB


def text(lab: Lab, size: int = SIZE) -> Path:
    """A raw disk that shrinks well, but not to nothing, as a root file system's."""
    path = lab.root / "text.raw"
    line = b"a root file system holds a lot of text, and %08d lines of it are here\n"
    path.write_bytes(b"".join(line % number for number in range(size // 68 + 1))[:size])
    return path


def cloud(lab: Lab, node: Node, size: int = SIZE, **options: object) -> Path:
    """A compressed master."""
    return convert(text(lab, size), node.place / f"{lab.name('cloud')}.qcow2", compress=True, **options)


def is_compressed(path: Path) -> bool:
    """Whether QEMU counts compressed clusters in it."""
    said = re.search(r"([0-9.]+)% compressed clusters", run("qemu-img", "check", path))
    return said is not None and float(said[1]) > 50


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_compressed_master_stays_compressed(lab: Lab, compression: str) -> None:
    alice, bob, cid = lab.node("alice"), lab.node("bob"), lab.node("cid")
    image = cloud(lab, alice, compression_type=compression)
    small = image.stat().st_size

    share = alice.share(image)
    (theirs,) = share.document()["shared"]
    assert "will take" not in share.stderr

    plan = bob.run("fetch", image.stem, "--dry-run", "--peer", share.peer)
    said = f"master, takes {format_size(small)}, compressed, and {format_size(small + SIZE)} until then  from"
    assert said in plan.stderr, plan.stderr
    (item,) = bob.fetch(image.stem, "--peer", share.peer)
    share.stop()
    copy = Path(item["path"])
    assert copy.stat().st_size < 1.5 * small + 5 * 65536
    assert check(copy) == 0 and is_compressed(copy)
    assert f"compression type: {compression}" in run("qemu-img", "info", copy)
    assert disks.identical(image, copy)
    assert [path.name for path in bob.place.iterdir()] == [copy.name]
    assert list(bob.home.glob("journals/*")) == []

    # The receiver passes on the very same version.
    again = bob.share(copy)
    (ours,) = again.document()["shared"]
    assert ours["manifest"] == theirs["manifest"]
    assert "will take" not in again.stderr
    (item,) = cid.fetch(image.stem, "--peer", again.peer)
    assert Path(item["path"]).read_bytes() == copy.read_bytes()


def test_a_format_that_is_asked_for_is_written_plain(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    share = alice.share(image := cloud(lab, alice))
    for format in ("qcow2", "qed", "raw"):
        (item,) = bob.fetch(image.stem, "--format", format, "--peer", share.peer)
        path = Path(item["path"])
        assert path.stat().st_size >= SIZE and disks.identical(image, path)
        path.unlink()


def test_an_overlay_that_is_compressed_says_how_much_room_it_will_take(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    base = create(alice.place / f"{lab.name('base')}.qcow2", size=SIZE)
    vm = alice.place / f"{lab.name('vm')}.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-B", base, "-F", "qcow2", text(lab), vm)
    share = alice.share(vm)
    size = format_size(vm.stat().st_size)
    assert f"compressed: {vm.stem} is {size} here and will take 4 MiB at each receiver" in share.stderr
    (_, item) = bob.fetch(vm.stem, "--peer", share.peer)
    assert disks.identical(vm, Path(item["path"]))


def test_small_clusters_are_not_taken_for_compressed_ones(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = create(alice.place / f"{lab.name('sparse')}.qcow2", size=SIZE, cluster_size=4096)
    for chunk in range(0, SIZE, 65536):
        disks.write(image, chunk, b"x" * 4096)
    assert image.stat().st_size * 2 < SIZE
    share = alice.share(image)
    assert "compressed" not in share.stderr
    plan = bob.run("fetch", image.stem, "--dry-run", "--peer", share.peer)
    assert "master, takes 4 MiB  from" in plan.stderr


def test_a_packed_master_can_be_stood_on_verified_and_healed(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = cloud(lab, alice)
    share = alice.share(image)
    (item,) = bob.fetch(image.stem, "--peer", share.peer)
    copy = Path(item["path"])

    vm = bob.place / "vm.qcow2"
    bob.json("new", vm, "--master", copy)
    disks.write(vm, MIB, b"written by the guest" * 100)
    bob.json("promote", vm, "--as", "kept")
    assert disks.identical(vm, bob.place / "kept.qcow2")
    assert bob.run("verify", copy).code == DONE

    good = copy.read_bytes()
    copy.chmod(0o644)
    flip(copy, len(good) // 2, 3)
    assert bob.run("verify", copy).code != DONE
    result = bob.run("verify", copy, "--repair", "--yes", "--peer", share.peer)
    assert result.code == DONE, result.stderr
    assert copy.read_bytes() == good, "healed, and compressed as before"
    assert bob.run("verify", vm).code == DONE


def test_without_room_for_both_at_once_it_stays_as_it_came(lab: Lab) -> None:
    alice = lab.node("alice")
    image = cloud(lab, alice, 32 * MIB)
    share = alice.share(image)
    # Room for the image and the reserve, and not for its compressed form beside it.
    with small_disk(lab, 64 * MIB + 33 * MIB + image.stat().st_size // 2) as disk:
        command = ("fetch", image.stem, "--to", disk.point, "--peer", share.peer)
        result = disk.student.run(*command)
        assert result.code == DONE, result.stderr
        assert "is not compressed and takes 32 MiB: there is no room for both at once" in result.stderr
        assert [path.name for path in disk.outside.iterdir()] == [image.name]
        copy = disk.outside / image.name
        assert check(copy) == 0 and disks.identical(image, copy)


def test_killed_while_it_compresses_it_begins_that_anew(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = cloud(lab, alice, 96 * MIB)
    share = alice.share(image)
    command = ("fetch", image.stem, "--peer", share.peer)
    pack, part = (bob.place / f".{image.name}.{ending}" for ending in ("pack", "part"))
    fetch = bob.start(*command)
    until(lambda: pack.exists() and pack.stat().st_size > 0, what="compressing")
    fetch.kill()
    assert pack.exists() and part.exists() and not (bob.place / image.name).exists()

    (item,) = bob.fetch(*command[1:])

    assert item["resumed"] == 96 * MIB and item["wire"]["data"] == 0
    assert [path.name for path in bob.place.iterdir()] == [image.name]
    assert check(bob.place / image.name) == 0 and disks.identical(image, bob.place / image.name)


def test_killed_when_it_has_its_name_it_leaves_nothing_for_long(lab: Lab) -> None:
    """A kill between the two last steps: the image is whole, the part file is not yet removed."""
    alice, bob = lab.node("alice"), lab.node("bob")
    image = cloud(lab, alice)
    share = alice.share(image)
    command = (image.stem, "--peer", share.peer)
    fetch = bob.start_module("tests.e2e.packed_and_killed", "fetch", *command)
    fetch.popen.wait(60)
    assert sorted(path.name for path in bob.place.iterdir()) == [f".{image.name}.part", image.name], (
        fetch.stderr
    )
    assert check(bob.place / image.name) == 0
    assert list(bob.home.glob("journals/*")) != []

    (item,) = bob.fetch(*command)

    assert item["already_here"]
    assert [path.name for path in bob.place.iterdir()] == [image.name]
    assert list(bob.home.glob("journals/*")) == []
