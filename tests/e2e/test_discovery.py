"""Nodes that find each other by mDNS alone: no address, no configuration."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, INTERRUPTED, NOT_FOUND, Lab, Node, until

pytestmark = [pytest.mark.qemu, pytest.mark.lan]

PLACE = disks.BOOT_LBA * 512


def bootable_pair(node: Node, master_name: str, overlay_name: str) -> tuple[Path, Path]:
    """A master with a boot sector, and an overlay that holds the word it prints."""
    suffix = Path(master_name).suffix
    raw = disks.make_master(node.place / f".{master_name}.raw", seed=master_name)
    images.patch(raw, 0, disks.boot_sector("booted"))
    images.patch(raw, PLACE, b"wrong".ljust(512, b"\0"))
    master = node.place / master_name
    if suffix == ".raw":
        raw.rename(master)
    else:
        images.convert(raw, master)
        raw.unlink()
    overlay = disks.make_overlay(node.place / overlay_name, master, (4 * MIB, 300 * KIB))
    disks.write(overlay, PLACE, b"from the overlay".ljust(512, b"\0"))
    return master, overlay


def to_share(master: Path, overlay: Path) -> list[Path]:
    """What to name so that both are shared: any file may be called a raw disk, so that is never implied."""
    return [overlay, master] if master.suffix == ".raw" else [overlay]


@pytest.mark.holds("N7")
@pytest.mark.red_without("N7", "a peer that is announced is not asked")
@pytest.mark.parametrize(
    ("master_suffix", "overlay_suffix"),
    [("qed", "qed"), ("qcow2", "qcow2"), ("raw", "qcow2")],
)
def test_an_overlay_and_its_master_arrive_and_boot(
    open_lab: Lab, master_suffix: str, overlay_suffix: str
) -> None:
    teacher, student = open_lab.node("teacher"), open_lab.node("student")
    name = open_lab.name("vm")
    master, overlay = bootable_pair(
        teacher, f"{open_lab.name('master')}.{master_suffix}", f"{name}.{overlay_suffix}"
    )
    teacher.share(*to_share(master, overlay))

    brought, wanted = student.fetch(name)

    assert brought["path"] == str(student.place / master.name)
    assert wanted["path"] == str(student.place / overlay.name)
    for theirs, ours in ((master, Path(brought["path"])), (overlay, Path(wanted["path"]))):
        assert disks.identical(theirs, ours)
        assert images.format_of(ours) == "raw" or images.check(ours) == 0
    assert images.own_extents(overlay) == images.own_extents(Path(wanted["path"]))
    shutil.rmtree(teacher.place)
    assert disks.boot(Path(wanted["path"])) == "booted from the overlay"


@pytest.mark.parametrize(
    ("here", "there", "overlay_suffix"), [("raw", "qcow2", "qed"), ("qcow2", "raw", "qcow2")]
)
def test_a_master_of_another_format_here_is_as_good(
    open_lab: Lab, here: str, there: str, overlay_suffix: str
) -> None:
    teacher, student = open_lab.node("teacher"), open_lab.node("student")
    name = open_lab.name("vm")
    master, overlay = bootable_pair(teacher, f"{open_lab.name('master')}.{there}", f"{name}.{overlay_suffix}")
    # Neither the file's name nor its format need be the teacher's: content is what counts.
    own = images.convert(master, student.place / f"mine.{here}")
    teacher.share(*to_share(master, overlay))

    (wanted,) = student.fetch(name)

    assert disks.identical(overlay, Path(wanted["path"]))
    assert student.files() == {own.name, overlay.name}
    shutil.rmtree(teacher.place)
    assert disks.boot(Path(wanted["path"])) == "booted from the overlay"


def test_a_team_recovers_from_those_who_fetched(open_lab: Lab) -> None:
    first, second, third = (open_lab.node(name) for name in ("first", "second", "third"))
    team, router, web = (
        open_lab.team("red", first, second, third),
        open_lab.name("router"),
        open_lab.name("web"),
    )
    master = disks.make_master(first.place / f"{open_lab.name('master')}.qcow2")
    content = {}
    for name, suffix in ((router, "qcow2"), (web, "qed")):
        path = disks.make_overlay(
            first.place / f"{name}.{suffix}", master, (2 * MIB, 128 * KIB), (5 * MIB, 640 * KIB)
        )
        content[path.name] = images.content(path)
    share = first.share(first.place / f"{router}.qcow2", first.place / f"{web}.qed", "--team", team)
    second.fetch(f"{team}/")
    second.share(second.place)
    share.kill()
    shutil.rmtree(first.place)
    shutil.rmtree(first.home)

    fetched = third.fetch(f"{team}/")

    assert {item["name"] for item in fetched} == {router, web, open_lab.name("master")}
    assert {item["team"] for item in fetched if item["layer"]} == {team}
    assert third.files() == {*content, master.name}
    for file_name, expected in content.items():
        assert images.content(third.place / file_name) == expected
        assert images.check(third.place / file_name) == 0


def test_seeding_hands_on_what_was_fetched(open_lab: Lab) -> None:
    first, second, third = (open_lab.node(name) for name in ("first", "second", "third"))
    name = open_lab.name("vm")
    master = disks.make_master(first.place / f"{open_lab.name('master')}.qcow2", size=2 * MIB)
    overlay = disks.make_overlay(first.place / f"{name}.qcow2", master, (0, 64 * KIB))
    share = first.share(overlay)
    seeder = second.start("fetch", name, "--seed", "60", "--json")
    seeder.document()
    until(lambda: "sharing for 60 s" in seeder.stderr, what="seeding")
    assert share.stop().code == INTERRUPTED

    fetched = third.fetch(name, "--wait", "15")

    assert disks.identical(overlay, Path(fetched[-1]["path"]))
    assert all(node.startswith("second@") for item in fetched for node in item["sources"])
    ended = seeder.stop()
    assert ended.code == DONE and "interrupted" not in ended.stderr


def test_who_seeds_keeps_to_its_rate(open_lab: Lab) -> None:
    first, second, third = (open_lab.node(name) for name in ("first", "second", "third"))
    master = disks.make_master(first.place / f"{open_lab.name('master')}.raw", size=12 * MIB)
    share = first.share(master)
    seeder = second.start("fetch", master.stem, "--limit-rate", "4M", "--seed", "60", "--json")
    until(lambda: "sharing for 60 s" in seeder.stderr, what="seeding")
    assert share.stop().code == INTERRUPTED

    started = time.monotonic()
    third.fetch(master.stem, "--wait", "15")

    assert time.monotonic() - started > 2.8
    assert seeder.stop().code == DONE


def test_nodes_on_one_host_and_in_one_home_are_told_apart(open_lab: Lab) -> None:
    alice, bob, carol = (open_lab.node(name) for name in ("alice", "bob", "carol"))
    one, two, other = (open_lab.name(word) for word in ("one", "two", "other"))
    for node, name in ((alice, one), (alice, two), (bob, other)):
        disks.make_master(node.place / f"{name}.raw", size=MIB)
    # Two shares of one home have one label and one key, and may share the same: both only read it.
    first = alice.share(alice.place / f"{one}.raw")
    second = alice.start_share(alice.place / f"{one}.raw", alice.place / f"{two}.raw")
    third = bob.share(bob.place / f"{other}.raw")
    where = {one: {first.port, second.port}, two: {second.port}, other: {third.port}}

    def listed() -> dict[str, set[int]]:
        found = carol.json("ls", "--wait", "3")["images"]
        ports = {item["name"]: {int(peer.rpartition(":")[2]) for peer in item["peers"]} for item in found}
        return {name: ports.get(name, set()) for name in where}

    until(lambda: listed() == where, what="everything listed")
    peers = carol.json("peers", "--wait", "3")["peers"]
    for share, images_shared in ((first, 1), (second, 2), (third, 1)):
        (peer,) = (peer for peer in peers if peer["address"].endswith(f":{share.port}"))
        assert (peer["node"], peer["images"], peer["problem"]) == (
            share.document()["node"],
            images_shared,
            "",
        )
    assert carol.fetch(f"{two}@alice")[0]["sources"].keys() == {second.document()["node"]}
    assert carol.fails(NOT_FOUND, "fetch", f"{two}@bob", "--wait", "3")["what"]
