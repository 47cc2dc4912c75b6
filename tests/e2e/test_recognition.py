"""What every command takes for an image, and how a user insists."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import BAD_IMAGE, DONE, NOT_ALLOWED, USAGE, WOULD_DESTROY, Lab, Node, until
from tests.images import patch, run

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C3")]

PAGE = b"<!DOCTYPE html>\n<title>404 Not Found</title>\n" * 256
SIZE = len(PAGE) // 512 * 512
"""Whole sectors: size alone does not give it away."""


@pytest.mark.parametrize("name", ["debian.qcow2", "DEBIAN.QED", "README"])
def test_no_command_takes_another_file_for_an_image(lab: Lab, name: str) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    overlay = disks.make_overlay(node.place / "vm.qcow2", master, (0, 64 * KIB))
    page = node.place / name
    page.write_bytes(PAGE[:SIZE])
    before = node.files()
    for command in (
        ("id", page),
        ("share", page),
        ("show", page),
        ("verify", page),
        ("new", "other.qcow2", "--master", page),
        ("promote", page, "--as", "made"),
        ("discard", page, "--yes"),
        ("rebase", page, "--onto", master),
        ("rebase", overlay, "--onto", page),
    ):
        error = node.fails(BAD_IMAGE, *command)
        assert str(page) in error["what"], command
        assert f"--format raw {page}" in error["hint"], command
    assert node.files() == before and page.read_bytes() == PAGE[:SIZE]
    assert node.json("tree")["tree"] != [] and str(page) not in node.run("tree").stdout


def test_a_page_is_neither_a_local_source_nor_a_base_of_a_fetch(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("debian")
    path = alice.place / f"{name}.raw"
    path.write_bytes(PAGE[:SIZE])
    share = alice.share(path)
    (bob.place / "saved.qcow2").write_bytes(PAGE[:SIZE])
    (bob.place / "saved").write_bytes(PAGE[:SIZE])

    (fetched,) = bob.fetch(name, "--peer", share.peer)

    assert fetched["local"] == 0
    assert Path(fetched["path"]).read_bytes() == PAGE[:SIZE]


@pytest.mark.parametrize("command", ["id", "share", "show"])
def test_an_insisted_format_is_remembered(lab: Lab, command: str) -> None:
    node = lab.node("alice")
    page = node.place / "debian.qcow2"
    page.write_bytes(PAGE)
    if command == "share":
        node.share(page, "--format", "raw").stop()
    else:
        assert node.json(command, page, "--format", "raw")["format"] == "raw"

    assert node.json("id", page)["format"] == "raw"
    assert node.json("show", page)["format"] == "raw"
    assert node.json("verify", page)["verified"][0]["ok"]
    assert node.json("verify", page, "--format", "raw")["verified"][0]["ok"]
    node.fails(BAD_IMAGE, "verify", page, "--format", "qcow2")
    node.json("new", "vm.qcow2", "--master", page)
    assert node.json("verify", "vm.qcow2")["verified"][0]["ok"]
    assert node.json("promote", "vm.qcow2", "--as", "made")["disk"] == node.json("id", page)["disk"]


def test_an_insisted_image_that_changes_is_shared_again(lab: Lab) -> None:
    node = lab.node("alice")
    page = node.place / lab.name("page")
    page.write_bytes(PAGE)
    share = node.share(page, "--format", "raw")
    assert share.document()["shared"][0]["format"] == "raw"
    page.write_bytes(PAGE[:1000])
    until(lambda: f"{page.name}:2" in share.stderr, what="a second version")
    assert share.running


def test_a_format_is_insisted_on_for_an_image_alone(lab: Lab) -> None:
    node = lab.node("alice")
    disks.make_master(node.place / "disk.raw", size=MIB)
    assert "directory" in node.fails(USAGE, "share", node.place, "--format", "raw")["why"]
    assert node.fails(USAGE, "show", lab.name("name"), "--format", "raw")["hint"]
    assert node.fails(USAGE, "share", "disk.raw", "--format", "vmdk")["hint"]
    node.fails(BAD_IMAGE, "share", "disk.raw", "--format", "qcow2")


# -- backing files -----------------------------------------------------------------------------------


def test_an_overlay_on_a_file_that_is_no_disk_is_not_read(lab: Lab) -> None:
    node = lab.node("alice")
    secret = node.base / "secret"
    secret.write_bytes(PAGE)
    overlay = node.place / "vm.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", overlay)
    for command in (
        ("id", overlay),
        ("share", overlay),
        ("share", secret.parent / "images"),
        ("show", overlay),
        ("verify", overlay),
        ("promote", overlay, "--as", "made"),
    ):
        error = node.fails(NOT_ALLOWED, *command)
        assert str(secret) in error["what"] and "vm.qcow2" in error["what"], command
        assert f"overlaysync id --format raw {secret}" in error["hint"], command
    assert node.files() == {"vm.qcow2"}

    node.json("id", "--format", "raw", secret)

    parent = node.json("id", overlay)["parent"]
    assert parent == node.json("id", secret)["disk"]
    share = node.share(secret, overlay)
    assert {item["name"] for item in share.document()["shared"]} == {"secret", "vm"}
    assert node.json("verify", overlay)["verified"][0]["ok"]
    assert node.json("promote", overlay, "--as", "made")["disk"] == parent


def test_an_overlay_that_was_fetched_onto_an_insisted_master_goes_on(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master, name = alice.place / "master", lab.name("vm")
    master.write_bytes(PAGE)
    alice.json("id", master, "--format", "raw")
    overlay = disks.make_overlay(alice.place / f"{name}.qcow2", _linked(master), (0, 4 * KIB))
    share = alice.share(master, overlay)
    own = bob.place / "own"
    own.write_bytes(PAGE)
    bob.json("id", own, "--format", "raw")

    (fetched,) = bob.fetch(name, "--peer", share.peer)

    # On the student's own copy of the master, which has no name of an image either.
    assert fetched["parent"] == bob.json("id", own)["disk"]
    assert bob.files() == {"own", f"{name}.qcow2"}
    assert bob.json("verify", fetched["path"])["verified"][0]["ok"]
    assert bob.json("id", fetched["path"])["disk"] == alice.json("id", overlay)["disk"]


def _linked(master: Path) -> Path:
    """A link whose name says to QEMU's tools what the file is."""
    link = master.with_name(f"{master.name}.raw")
    link.symlink_to(master.name)
    return link


def test_an_overlay_with_a_wrong_header_is_named(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.raw", size=MIB)
    overlay = node.place / "vm.qcow2"
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", master.name, "-F", "qcow2", overlay, "1M")
    error = node.fails(BAD_IMAGE, "id", overlay)
    assert str(overlay) in error["what"] and str(master) in error["why"]
    assert error["hint"] == f"qemu-img rebase -u -F raw -b master.raw {overlay}"
    run("qemu-img", "rebase", "-u", "-F", "raw", "-b", master.name, overlay)
    assert node.json("id", overlay)["parent"] == node.json("id", master)["disk"]


# -- directories and names ---------------------------------------------------------------------------


def test_a_directory_is_searched_for_images_of_any_name(lab: Lab) -> None:
    node = lab.node("alice")
    snapshot, shouted = lab.name("web.snap1"), lab.name("disk")
    disks.make_master(node.place / "base.qcow2", size=MIB).rename(node.place / snapshot)
    disks.make_master(node.place / "disk.qcow2", size=MIB).rename(node.place / f"{shouted}.QCOW2")
    disks.make_master(node.place / "live.raw", size=MIB).rename(node.place / "live.iso")
    (node.place / "README").write_bytes(PAGE)
    share = node.share(node.place)
    assert {item["name"] for item in share.document()["shared"]} == {snapshot, shouted}


def test_an_overlay_beside_with_another_ending_keeps_what_it_stands_on(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    overlay = disks.make_overlay(node.place / "web.qcow2", master, (0, 4 * KIB))
    disks.make_overlay(node.place / "s.qcow2", overlay, (0, 4 * KIB)).rename(node.place / "web.snap1")
    error = node.fails(WOULD_DESTROY, "discard", overlay, "--yes")
    assert "web.snap1" in error["why"]


@pytest.mark.parametrize(
    "command",
    [
        ("new", "vm.qed", "--master", "master.qcow2", "--format", "qcow2"),
        ("new", "vm.raw", "--master", "master.qcow2", "--format", "qcow2"),
        ("promote", "web.qcow2", "--as", "made.raw"),
        ("promote", "web.qcow2", "--as", "made.qcow2", "--format", "qed"),
        ("rebase", "web.qcow2", "--onto", "other.qcow2", "--as", "made.iso"),
    ],
    ids=" ".join,
)
def test_a_name_must_fit_the_format(images: Node, command: tuple[str, ...]) -> None:
    before = images.files()
    error = images.fails(USAGE, *command)
    assert "so its name cannot end in ." in error["what"] and error["hint"]
    assert images.files() == before


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("new", "cloud.img", "--master", "master.qcow2"), "cloud.img"),
        (("promote", "web.qcow2", "--as", "cloud.img"), "cloud.img"),
        (("promote", "web.qcow2", "--as", "web.snap2"), "web.snap2.qcow2"),
        (("rebase", "web.qcow2", "--onto", "other.qcow2", "--as", "MOVED.QCOW2"), "MOVED.QCOW2"),
    ],
    ids=str,
)
def test_a_name_that_fits_is_kept(images: Node, command: tuple[str, ...], file: str) -> None:
    before = images.files()
    made = images.json(*command)
    assert images.files() - before == {file} and made["format"] == "qcow2"
    assert images.json("id", file)["disk"] == made["disk"]


@pytest.fixture
def images(lab: Lab) -> Node:
    """A node with two masters and an overlay."""
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    disks.make_master(node.place / "other.qcow2", size=MIB)
    disks.make_overlay(node.place / "web.qcow2", master, (0, 4 * KIB))
    return node


def test_a_raw_disk_whose_guest_wrote_a_header_is_not_taken_for_that_format(lab: Lab) -> None:
    """The header may name any file of the user's as its backing file (CVE-2008-2004)."""
    node = lab.node("alice")
    victim = disks.make_master(node.place / "victim.qcow2", size=MIB)
    header = disks.make_overlay(node.place / "evil.qcow2", victim)
    guest = disks.make_master(node.place / "guest.raw", size=MIB)
    patch(guest, 0, header.read_bytes())
    for command in ("id", "share", "show"):
        assert "named like a raw image" in node.fails(BAD_IMAGE, command, guest)["why"]
    node.fails(BAD_IMAGE, "id", guest, "--format", "raw")
    assert node.run("id", guest, "--format", "qcow2").code == DONE
