"""Names of shared images: one name, one image; folders, lineages, copies, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlaysync.errors import AmbiguousError
from overlaysync.ops.again import ShareAgain
from overlaysync.ops.naming import Candidate, assign_names

pytestmark = pytest.mark.holds("C1")

A, B, C = b"A" * 32, b"B" * 32, b"C" * 32


def image(path: str, content: bytes = A, *below: str, **more: object) -> Candidate:
    """An image that was asked for; one of a folder when the path says so."""
    return replace(Candidate(path, content, below=below), **more)  # type: ignore[arg-type]


def test_an_image_is_called_like_its_file() -> None:
    assert assign_names([image("/vm/web.qcow2")], {}) == {"/vm/web.qcow2": "web"}
    assert assign_names([image("/vm/disk.qcow2")], {}) == {"/vm/disk.qcow2": "disk"}


@pytest.mark.parametrize(
    "file", ["disk", "hda", "hda_disk", "vda", "drive", "root", "image", "disk0", "disk-1", "VDA", "diffdisk"]
)
def test_a_folder_with_one_vm_gives_it_its_name(file: str) -> None:
    found = [image(f"/lab/vm{n}/{file}.qcow2", bytes([n]) * 32, folder=f"/lab/vm{n}") for n in (1, 2, 3)]
    assert list(assign_names(found, {}).values()) == ["vm1", "vm2", "vm3"]


def test_disks_of_folders_with_several_are_told_apart_where_they_must_be() -> None:
    found = [
        image(f"/lab/{folder}/{disk}.qcow2", bytes([number]) * 32, folder=f"/lab/{folder}", alone=False)
        for number, (folder, disk) in enumerate(
            (f, d) for f in ("r1", "r2") for d in ("hda_disk", "hdb_disk")
        )
    ]
    assert list(assign_names(found[:2], {}).values()) == ["hda_disk", "hdb_disk"]
    names = ["r1-hda_disk", "r1-hdb_disk", "r2-hda_disk", "r2-hdb_disk"]
    assert list(assign_names(found, {}).values()) == names


def test_a_name_of_its_own_stays_in_a_folder() -> None:
    assert assign_names([image("/lab/vm1/web.qcow2", folder="/lab/vm1")], {}) == {"/lab/vm1/web.qcow2": "web"}


def test_files_with_generic_names_that_were_named_themselves_are_called_by_their_folders() -> None:
    named = [image("/p/u1/hda_disk.qcow2", A), image("/p/u2/hda_disk.qcow2", B)]
    assert list(assign_names(named, {}).values()) == ["u1", "u2"]


@pytest.mark.parametrize("asked", [True, False], ids=["both named", "the base brought along"])
def test_a_base_called_like_what_stands_on_it_gives_way(asked: bool) -> None:
    base = image("/vm/ubuntu.img", A, asked=asked)
    top = image("/vm/ubuntu.qcow2", B, "/vm/ubuntu.img")
    for order in ([base, top], [top, base]):
        assert assign_names(order, {}) == {"/vm/ubuntu.img": "ubuntu.img", "/vm/ubuntu.qcow2": "ubuntu"}


def test_bases_of_one_name_that_are_only_brought_along_are_told_apart() -> None:
    tops = [image("/1/a.qcow2", A, "/m1/base.qcow2"), image("/2/b.qcow2", B, "/m2/base.qcow2")]
    bases = [image("/m1/base.qcow2", B, asked=False), image("/m2/base.qcow2", C, asked=False)]
    names = assign_names([*tops, *bases], {})
    assert len(set(names.values())) == 4
    assert names["/m1/base.qcow2"] == "base-42424242"


def test_two_images_never_share_a_name() -> None:
    with pytest.raises(AmbiguousError) as caught:
        assign_names([image("/vm/x.qcow2", A), image("/vm/x.raw", B)], {})
    assert caught.value.exit_code == 2
    assert caught.value.candidates == ("/vm/x.qcow2", "/vm/x.raw")
    assert "share --as NAME" in caught.value.hint


def test_copies_of_one_image_may() -> None:
    assert set(assign_names([image("/1/x.qcow2", A), image("/2/x.qcow2", A)], {}).values()) == {"x"}


def test_the_name_of_another_file_of_this_machine_is_taken() -> None:
    with pytest.raises(AmbiguousError) as caught:
        assign_names([image("/new/web.qcow2", A)], {"web": "/old/web.qcow2"})
    assert caught.value.candidates == ("/old/web.qcow2", "/new/web.qcow2")
    # Unless the user says so, or it is the file that has the name.
    assert assign_names([image("/new/web.qcow2", A, given="web")], {"web": "/old/web.qcow2"})
    assert assign_names([image("/old/web.qcow2", A)], {"web": "/old/web.qcow2"})
    assert assign_names([image("/new/web.qcow2", A, noted="web")], {"web": "/old/web.qcow2"})


def test_a_file_keeps_the_name_it_was_published_under() -> None:
    published = image("/lab/vm1/disk.qcow2", A, noted="router")
    assert assign_names([published], {}) == {"/lab/vm1/disk.qcow2": "router"}
    assert assign_names([replace(published, given="core")], {}) == {"/lab/vm1/disk.qcow2": "core"}


def test_what_has_another_publisher_keeps_the_name_it_has_there() -> None:
    """So an overlay of one's own cannot be called like the teacher's master below it."""
    base = image("/m/ubuntu.img", A, asked=False, fixed="ubuntu")
    with pytest.raises(AmbiguousError):
        assign_names([base, image("/vm/ubuntu.qcow2", B, "/m/ubuntu.img")], {})
    assert assign_names([base, image("/vm/mine.qcow2", B, "/m/ubuntu.img")], {})["/m/ubuntu.img"] == "ubuntu"


def test_snapshots_that_are_files_have_names_of_their_own() -> None:
    chain = [
        image("/vm/web.snap2", A, "/vm/web.snap1", "/vm/web.qcow2"),
        image("/vm/web.snap1", B, "/vm/web.qcow2", asked=False),
        image("/vm/web.qcow2", C, asked=False),
    ]
    names = assign_names(chain, {})
    assert len(set(names.values())) == 3


# -- what is passed on -------------------------------------------------------------------------------


def test_versions_of_one_thing_that_are_passed_on_have_one_name() -> None:
    """Two versions of a master below two overlays, and a side of a fork beside one's own next version."""
    masters = [
        image("/m/m.raw", A, asked=False, fixed="m"),
        image("/m/m-2026.raw", B, asked=False, fixed="m"),
        image("/m/m-2027.raw", C, noted="m", passed=True),
    ]
    assert set(assign_names(masters, {}).values()) == {"m"}
    sides = [image("/vm/web.raw", A, noted="web"), image("/vm/web-ben.raw", B, noted="web", passed=True)]
    assert set(assign_names(sides, {}).values()) == {"web"}


def test_a_fetched_file_keeps_its_thing_s_name_in_a_folder() -> None:
    found = image("/lab/vm9/disk.raw", A, folder="/lab/vm9", noted="vm01")
    assert assign_names([found], {}) == {"/lab/vm9/disk.raw": "vm01"}


def test_two_files_that_both_go_on_from_one_thing_do_not_share_its_name() -> None:
    sides = [image("/vm/web.raw", A, noted="web"), image("/vm/web-ben.raw", B, noted="web")]
    assert list(assign_names(sides, {}).values()) == ["web", "web-ben"]
    disks = [image(f"/lab/{n}/disk.raw", n.encode() * 32, noted="web") for n in "xy"]
    with pytest.raises(AmbiguousError):
        assign_names(disks, {})


def test_the_command_of_a_refusal_settles_it() -> None:
    """It names a file that may get another name, and keeps the audience."""
    again = ShareAgain(("--team", "red"), ("-m", "secret"))
    passed = image("/m/web.raw", A, noted="web", passed=True)
    new = image("/vm/my vm/web.raw", B)
    with pytest.raises(AmbiguousError) as caught:
        assign_names([passed, new], {}, again=again)
    assert caught.value.hint.endswith("overlaysync share --team red -m secret --as NAME '/vm/my vm/web.raw'")
    names = assign_names([passed, replace(new, noted="other")], {}, again=again)
    assert list(names.values()) == ["web", "other"]
    with pytest.raises(AmbiguousError) as caught:
        assign_names([new], {"web": "/old/web.raw"}, again=again)
    assert caught.value.hint.count("overlaysync share --team red -m secret --as ") == 2
