"""How many bytes a fetch takes from others, as its JSON document says and as the peer counts them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import CHUNK, KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node
from tests.e2e.recorded import RecordedPeer, record

pytestmark = pytest.mark.qemu


def wire(item: dict[str, Any], *, pages: int = 1) -> int:
    """Bytes from others for the data of an image; its description must be no more than so many pages."""
    assert sum(item["sources"].values()) == item["wire"]["data"]
    assert item["wire"]["manifest"] <= 2 * KIB + pages * 32 * KIB
    return int(item["wire"]["data"])


GEOMETRIES: dict[str, tuple[str, dict[str, object]]] = {
    "small": ("qed", {"cluster_size": 4096}),
    "usual": ("qcow2", {"cluster_size": 65536}),
    "parts": ("qcow2", {"cluster_size": 131072, "extended_l2": "on"}),
}


@pytest.mark.slow
def test_overlays_whose_master_is_here_cost_their_allocated_bytes(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=16 * MIB)
    shutil.copy(master, student.place)
    writes = ((4 * KIB, 8 * KIB), (MIB, 300 * KIB), (9 * MIB + 512, 2 * MIB), (16 * MIB - 512, 512))
    for word, (suffix, options) in GEOMETRIES.items():
        path = teacher.place / f"{lab.name(word)}.{suffix}"
        disks.make_overlay(path, master, *writes, **options)
    share = teacher.share(teacher.place)
    for word, (suffix, _) in GEOMETRIES.items():
        overlay = teacher.place / f"{lab.name(word)}.{suffix}"

        (item,) = student.fetch(overlay.stem, "--peer", share.peer)

        # A page describes 1024 clusters; all of these small images is four pages of the smallest.
        assert wire(item, pages=4) <= 1.01 * disks.allocated(overlay)
        assert disks.identical(overlay, Path(item["path"]))
        assert images.check(Path(item["path"])) == 0


def test_a_flat_copy_of_a_master_here_costs_the_chunks_that_differ(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=16 * MIB)
    shutil.copy(master, student.place)
    name = lab.name("flat")
    copy = teacher.place / f"{name}.qcow2"
    shutil.copy(master, copy)
    for offset, length in ((0, 512), (5 * MIB - 256, 512), (10 * MIB, 3 * CHUNK)):
        disks.write(copy, offset, disks.noise(offset, length))
    share = teacher.share(copy)

    (item,) = student.fetch(name, "--peer", share.peer)

    assert wire(item) == (1 + 2 + 3) * CHUNK
    assert item["local"] == 16 * MIB - wire(item)
    assert disks.identical(copy, Path(item["path"]))


def test_a_newer_version_costs_what_changed_and_replaces_the_old_one(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("master")
    path = disks.make_master(teacher.place / f"{name}.qcow2", size=16 * MIB)
    share = teacher.share(path)
    student.fetch(name, "--peer", share.peer)
    share.stop()
    disks.write(path, 3 * MIB, disks.noise("new", 160 * KIB))
    share = teacher.share(path)
    assert share.document()["shared"][0]["version"] == 2

    (item,) = student.fetch(name, "--peer", share.peer, "--replace")

    assert item["version"] == 2
    assert wire(item) == 3 * CHUNK
    assert disks.identical(path, Path(item["path"]))


def test_what_is_here_already_costs_nothing(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("vm")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=4 * MIB)
    overlay = disks.make_overlay(teacher.place / f"{name}.qcow2", master, (MIB, MIB))
    share = teacher.share(overlay)
    student.fetch(name, "--peer", share.peer)

    (again,) = student.fetch(name, "--peer", share.peer)

    assert again["already_here"]
    assert wire(again) == again["local"] == 0
    assert again["path"] == str(student.place / overlay.name)


def test_compressed_data_count_as_they_came(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("text")
    master = teacher.place / f"{name}.raw"
    master.write_bytes(b"".join(b"%015d\n" % number for number in range(8 * MIB // 16)))
    share = teacher.share(master)

    (item,) = student.json(
        "fetch", name, "--to", student.place, "--peer", share.peer, OVERLAYSYNC_COMPRESSION="always"
    )["fetched"]

    assert sum(item["sources"].values()) == 8 * MIB
    assert 0 < item["wire"]["data"] < 4 * MIB
    assert disks.identical(master, Path(item["path"]))


def test_what_the_document_says_is_what_the_peer_counts(open_lab: Lab) -> None:
    teacher, student = open_lab.node("teacher"), open_lab.node("student")
    name = open_lab.name("disk")
    share = teacher.share(disks.make_master(teacher.place / f"{name}.raw", size=4 * MIB))
    recording = record(share.port)
    share.stop()

    with RecordedPeer(recording) as peer:
        (item,) = student.fetch(name, "--peer", peer.address)

    assert item["wire"]["data"] == peer.sent["data"] == 4 * MIB
    described = sum(peer.sent[kind] for kind in ("catalog", "list", "page"))
    # The catalog is JSON with base64 in it, which the document does not count.
    assert item["wire"]["manifest"] <= described <= item["wire"]["manifest"] + 4 * KIB


# -- promoted overlays -------------------------------------------------------------------------------

PROMOTED: dict[str, tuple[str, str, dict[str, object], int]] = {
    "raw": ("raw", "qcow2", {"cluster_size": 65536}, 16 * MIB),
    "small": ("qcow2", "qcow2", {"cluster_size": 4096}, 16 * MIB),
    "large": ("qcow2", "qcow2", {"cluster_size": 2 * MIB}, 16 * MIB),
    "parts": ("raw", "qcow2", {"cluster_size": 131072, "extended_l2": "on"}, 16 * MIB),
    "qed": ("qed", "qed", {"cluster_size": 65536}, 16 * MIB),
    "qed-small": ("qed", "qed", {"cluster_size": 4096}, 16 * MIB),
    "grown": ("qcow2", "qcow2", {"cluster_size": 65536}, 20 * MIB + 512),
    "grown-small": ("raw", "qed", {"cluster_size": 4096}, 20 * MIB + 512),
    "cut": ("qcow2", "qcow2", {"cluster_size": 65536}, 12 * MIB - 512),
    "cut-small": ("raw", "qcow2", {"cluster_size": 4096}, 12 * MIB - 512),
}
"""What the files are: master and overlay, the overlay's clusters and its virtual size."""


def worked_in(lab: Lab, teacher: Node, how: str) -> tuple[Path, Path]:
    """A master of the teacher and an overlay on it: written to, with zeros in it, and at both ends."""
    master_suffix, suffix, options, size = PROMOTED[how]
    # Its last chunk is not a whole one.
    master = disks.make_master(teacher.place / f"{lab.name('master')}.{master_suffix}", size=15 * MIB + 512)
    overlay = teacher.place / f"{lab.name('vm')}.{suffix}"
    images.create(overlay, size, backing=master, **options)
    for offset, length in ((4 * KIB, 8 * KIB), (MIB, 300 * KIB), (9 * MIB + 512, 2 * MIB), (size - 512, 512)):
        disks.write(overlay, offset, disks.noise(offset, length))
    images.apply(overlay, [images.Op("zero", 3 * MIB, 200 * KIB), images.Op("write", 5 * MIB, CHUNK, 0)])
    return master, overlay


def promote(lab: Lab, teacher: Node, overlay: Path) -> Path:
    """The new master that the teacher makes of an overlay."""
    return Path(teacher.json("promote", overlay, "--as", lab.name("new"))["path"])


def assert_made_here(item: dict[str, Any], master: Path) -> None:
    """Nothing but the signed header came from others; a page would be more."""
    assert item["wire"]["data"] == 0
    assert item["wire"]["manifest"] <= KIB
    assert disks.identical(master, Path(item["path"]))
    assert images.format_of(master) == "raw" or images.check(Path(item["path"])) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", PROMOTED)
def test_a_promoted_master_is_made_of_its_parent_and_its_layer(lab: Lab, how: str) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    below, overlay = worked_in(lab, teacher, how)
    share = teacher.share(below, overlay)
    student.fetch(overlay.stem, "--peer", share.peer)
    share.stop()
    master = promote(lab, teacher, overlay)
    share = teacher.share(master)

    (item,) = student.fetch(master.stem, "--peer", share.peer)

    assert_made_here(item, master)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raw", "small", "qed", "grown-small", "cut"])
def test_files_that_nobody_has_looked_at_yet_will_do(lab: Lab, how: str) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    below, overlay = worked_in(lab, teacher, how)
    masters, machines = student.place / "masters", student.place / "vm"
    masters.mkdir()
    machines.mkdir()
    shutil.copy(below, masters)
    shutil.copy(overlay, machines)
    backing = ("-b", masters / below.name, "-F", images.format_of(below))
    images.run(
        "qemu-img", "rebase", "-q", "-u", "-f", images.format_of(overlay), *backing, machines / overlay.name
    )
    master = promote(lab, teacher, overlay)
    share = teacher.share(master)

    (item,) = student.fetch(
        master.stem, "--to", machines, "--masters", masters, "--format", "qcow2", "--peer", share.peer
    )

    assert_made_here(item, master)
