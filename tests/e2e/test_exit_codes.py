"""What a failing command exits with, what it says, and what it leaves untouched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import (
    BAD_IMAGE,
    DONE,
    IN_USE,
    NETWORK,
    NO_BASE,
    NOT_ALLOWED,
    NOT_FOUND,
    USAGE,
    WOULD_DESTROY,
    Lab,
    Node,
    free_port,
)

pytestmark = pytest.mark.qemu


# -- references --------------------------------------------------------------------------------------


def test_two_things_of_one_name_are_listed_and_none_is_chosen(lab: Lab) -> None:
    name = lab.name("disk")
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    shares = []
    for node in (alice, bob):
        path = disks.make_master(node.place / f"{name}.raw", size=MIB, seed=node.base.name)
        shares.append(node.start_share(path))
    peers = [word for share in shares for word in ("--peer", share.peer)]
    ids = [share.document()["shared"][0]["disk"] for share in shares]

    error = carol.fails(USAGE, "fetch", name, *peers)

    assert len(error["candidates"]) == 2
    for id, node in zip(ids, (alice, bob), strict=True):
        (line,) = (line for line in error["candidates"] if id[:11] in line)
        assert f"by {node.base.name}@" in line
    assert carol.files() == set()
    assert carol.fetch(f"{name}@bob", *peers)[0]["disk"] == ids[1]
    assert carol.fetch(ids[0][:11], *peers, "--as", "other")[0]["disk"] == ids[0]


def test_a_name_that_nobody_has_suggests_near_ones(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("debian-testing")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))

    error = bob.fails(
        NOT_FOUND, "fetch", name.replace("testing", "tseting"), "--peer", share.peer, "--wait", "3"
    )

    assert f"did you mean '{name}'" in error["why"] + error["hint"]
    assert bob.fails(NOT_FOUND, "fetch", f"{name}:2", "--peer", share.peer, "--wait", "1")
    assert bob.fails(NOT_FOUND, "show", lab.name("nothing"), "--peer", share.peer, "--wait", "1")
    assert bob.fails(NOT_FOUND, "verify", bob.place / "nothing.qcow2")
    for command in (("id", name), ("promote", name, "--as", "made")):
        assert f"overlaysync fetch {name}" in bob.fails(NOT_FOUND, *command)["hint"]


def test_a_peer_that_does_not_answer_is_a_network_error(lab: Lab) -> None:
    error = lab.node("bob").fails(
        NETWORK, "fetch", lab.name("disk"), "--peer", f"[::1]:{free_port()}", "--wait", "2"
    )
    assert "::1" in error["why"]
    assert error["hint"]


def test_a_peer_that_does_not_answer_is_named_though_others_do(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))
    dead = f"[::1]:{free_port()}"
    for command in (("ls",), ("fetch", name)):
        result = bob.run(*command, "--peer", share.peer, "--peer", dead, "--wait", "2")
        assert (result.code, result.stderr.count(dead)) == (DONE, 1), command
    result = bob.run("ls", "--peer", dead, "--wait", "2")
    assert dead in result.stderr
    for peer in (dead, "nohost.invalid:99"):
        result = bob.run("peers", "--peer", peer, "--wait", "5", "--json")
        (seen,) = result.document["peers"]
        assert peer in seen["problem"] and "unknown error" not in seen["problem"]


@pytest.mark.parametrize("command", ["ls", "peers", "show disk", "history disk", "fetch disk"])
def test_that_no_machine_answers_is_a_network_error(lab: Lab, command: str) -> None:
    bob = lab.node("bob")
    asked = ("--peer", f"[::1]:{free_port()}", "--wait", "1")
    error = bob.fails(NETWORK, *command.split(), *asked)
    assert error["what"].startswith("No other machine answered")
    assert "overlaysync doctor" in error["hint"]
    result = bob.run(*command.split(), *asked)
    assert result.code == NETWORK and result.stdout.count("\n") <= (command == "peers")
    assert "No other machine answered" in result.stderr


def test_sync_says_of_each_thing_that_no_machine_answers(lab: Lab) -> None:
    asked = ("--peer", f"[::1]:{free_port()}", "--wait", "1")
    result = lab.node("bob").run("sync", "disk", *asked, "--json")
    (failed,) = result.document["failed"]
    assert (result.code, failed["exit_code"]) == (NETWORK, NETWORK)
    assert failed["what"].startswith("No other machine answered")


def test_a_list_is_a_document_whatever_happens(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    dead = ("--peer", f"[::1]:{free_port()}", "--wait", "1")
    assert bob.run("ls", *dead, "--json").document["images"] == []
    (seen,) = bob.run("peers", *dead, "--json").document["peers"]
    assert seen["problem"]
    assert bob.json("ls", "--local") == {"images": []}
    # A share that is empty for this node answers all the same.
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))
    error = bob.fails(NOT_FOUND, "ls", name[:-1], "--peer", share.peer, "--wait", "1")
    assert name in error["why"]
    assert bob.json("ls", name, "--peer", share.peer, "--wait", "1")["images"]
    for word in ("nothing", "nothing*"):
        result = bob.run("ls", word, "--peer", share.peer, "--wait", "1", "--json")
        assert (result.code, result.document["images"]) == (NOT_FOUND, [])
    assert bob.fails(NOT_FOUND, "ls", name, "--local")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fetch",),
        ("fetch", "../etc/passwd"),
        ("fetch", "b3:12"),
        ("fetch", "disk", "--peer", "nowhere:0"),
        ("fetch", "disk", "--as", "../disk"),
        ("fetch", "disk", "--format", "vmdk"),
        ("fetch", "disk", "--limit-rate", "fast"),
        ("fetch", "team/", "--as", "disk"),
        ("share", ".", "--iface", "nonesuch0"),
        ("new", "vm.raw", "--master", "disk"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_usage_errors(lab: Lab, arguments: tuple[str, ...]) -> None:
    node = lab.node("bob")
    disks.make_master(node.place / "disk.raw", size=MIB)
    error = node.fails(USAGE, *arguments)
    assert error["what"]
    assert node.files() == {"disk.raw"}


# -- in use ------------------------------------------------------------------------------------------


def test_images_that_qemu_writes_to_are_left_alone(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    other = disks.make_master(node.place / "other.qcow2", size=MIB)
    overlay = disks.make_overlay(node.place / "vm.qcow2", master, (0, 64 * KIB))
    with disks.opened_by_qemu(overlay) as pid:
        for command in (
            ("share", overlay),
            ("id", overlay),
            ("promote", overlay, "--as", "made"),
            ("discard", overlay, "--yes"),
            ("rebase", overlay, "--onto", other),
        ):
            error = node.fails(IN_USE, *command)
            assert f"pid {pid}" in error["why"], command
        assert node.files() >= {"master.qcow2", "other.qcow2", "vm.qcow2"}
        assert not {name for name in node.files() if "made" in name or "-on-" in name}
    assert disks.qemu_may_write(overlay)
    assert node.run("promote", overlay, "--as", "made").code == DONE


def test_a_directory_is_shared_without_what_is_in_use(lab: Lab) -> None:
    node = lab.node("alice")
    for name in ("free", "busy"):
        disks.make_master(node.place / f"{lab.name(name)}.qcow2", size=MIB)
    with disks.opened_by_qemu(node.place / f"{lab.name('busy')}.qcow2"):
        share = node.share(node.place)
        assert [item["name"] for item in share.document()["shared"]] == [lab.name("free")]
        assert "left out" in share.stderr


@pytest.mark.parametrize(("name", "content"), [("a.qcow2", b"hello"), ("a.qed", b"hello"), ("a.img", b"")])
def test_what_is_no_image_is_not_shared(lab: Lab, name: str, content: bytes) -> None:
    node = lab.node("alice")
    (node.place / name).write_bytes(content)
    assert name in node.fails(BAD_IMAGE, "share", node.place / name)["what"]
    disks.make_master(node.place / f"{lab.name('good')}.qcow2", size=MIB)
    share = node.share(node.place)
    assert [item["name"] for item in share.document()["shared"]] == [lab.name("good")]
    assert "left out" in share.stderr


@pytest.mark.holds("N9")
@pytest.mark.red_without("N9", "a shared master is not locked")
@pytest.mark.parametrize("suffix", ["raw", "qed", "qcow2"])
def test_qemu_cannot_write_to_a_master_while_it_is_shared(lab: Lab, suffix: str) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / f"{lab.name('master')}.{suffix}", size=MIB)
    overlay = disks.make_overlay(node.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = node.share(overlay, master)
    assert not disks.qemu_may_write(master)
    assert disks.qemu_may_write(overlay)
    share.stop()
    assert disks.qemu_may_write(master)


# -- rights ------------------------------------------------------------------------------------------


@pytest.fixture
def plain(lab: Lab) -> Node:
    """A node whose rights are those of files, though root runs it."""
    if os.geteuid() and not lab.prefix:
        return lab.node("alice")
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    return lab.node("alice", prefix=(*lab.prefix, *drop))


def test_what_may_not_be_read_is_a_matter_of_rights(plain: Node) -> None:
    for name in ("one.raw", "two.qcow2"):
        disks.make_master(plain.place / name, size=MIB).chmod(0)
    for command in (("share", plain.place), ("share", "one.raw"), ("id", "one.raw")):
        error = plain.fails(NOT_ALLOWED, *command)
        assert "one.raw" in error["what"] and "chmod" in error["hint"], command
    directory = plain.place / "masters"
    directory.mkdir(mode=0)
    error = plain.fails(NOT_ALLOWED, "share", directory)
    assert str(directory) in error["what"] and "chmod" in error["hint"]


def test_a_home_that_may_not_be_read(plain: Node) -> None:
    plain.home.chmod(0)
    error = plain.fails(NOT_ALLOWED, "ls", "--local")
    plain.home.chmod(0o700)
    assert str(plain.home) in error["what"]
    assert "OVERLAYSYNC_HOME" in error["hint"]


def test_a_directory_of_what_is_in_use(lab: Lab) -> None:
    node = lab.node("alice")
    disks.make_master(node.place / "torn.qed", size=MIB)
    os.truncate(node.place / "torn.qed", 40)
    with disks.opened_by_qemu(disks.make_master(node.place / "busy.qcow2", size=MIB)):
        error = node.fails(IN_USE, "share", node.place)
    assert "busy.qcow2" in error["what"] and "shut the VM down" in error["hint"]
    assert "torn.qed" in node.fails(BAD_IMAGE, "share", "torn.qed")["what"]


# -- masters -----------------------------------------------------------------------------------------


def test_an_overlay_whose_master_is_gone_names_it(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    overlay = disks.make_overlay(node.place / "vm.qcow2", master, (0, 64 * KIB))
    master.rename(node.place / "elsewhere.qcow2")
    for command in (("share", overlay), ("id", overlay), ("promote", overlay, "--as", "made")):
        error = node.fails(NO_BASE, *command)
        assert "master.qcow2" in f"{error['what']} {error['why']}"
    node.json("discard", overlay, "--yes")
    assert node.files() == {"elsewhere.qcow2"}


def test_a_master_with_the_same_name_and_other_content_is_not_used(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    name = lab.name("vm")
    overlay = disks.make_overlay(alice.place / f"{name}.qcow2", master, (0, 64 * KIB))
    own = disks.make_master(bob.place / master.name, size=MIB, seed="mine")
    before = own.read_bytes()
    share = alice.share(overlay)

    fetched = bob.fetch(name, "--peer", share.peer)

    # The teacher's master comes along, beside the student's own.
    assert own.read_bytes() == before
    assert len(fetched) == 2
    assert disks.identical(overlay, bob.place / overlay.name)


# -- files in the way --------------------------------------------------------------------------------


def test_an_existing_file_is_only_replaced_when_told_so(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=4 * MIB))
    target = bob.place / f"{name}.raw"
    target.write_bytes(b"precious".ljust(512))
    command = ("fetch", name, "--peer", share.peer)

    error = bob.fails(WOULD_DESTROY, *command)
    assert str(target) in error["what"]
    assert "--discard-changes" in error["hint"]
    bob.fails(WOULD_DESTROY, *command, "--replace")  # it is nowhere else
    assert target.read_bytes().startswith(b"precious")

    with open(target, "rb") as old:
        bob.fetch(*command[1:], "--discard-changes")
        # The old file was not written to: its name was given to another one.
        assert old.read() == b"precious".ljust(512)
    assert target.read_bytes() == (alice.place / f"{name}.raw").read_bytes()
    assert bob.run(*command).code == DONE


def test_a_master_that_overlays_stand_on_is_not_replaced(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("master")
    share = alice.share(disks.make_master(alice.place / f"{name}.qcow2", size=MIB))
    own = disks.make_master(bob.place / f"{name}.qcow2", size=MIB, seed="mine")
    overlay = disks.make_overlay(bob.place / "vm.qcow2", own, (0, 64 * KIB))
    before = images.content(overlay)

    error = bob.fails(WOULD_DESTROY, "fetch", name, "--peer", share.peer, "--replace")

    assert "vm.qcow2" in f"{error['what']} {error['why']}"
    assert images.content(overlay) == before


def test_a_link_planted_where_the_part_file_goes_is_not_followed(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("disk")
    share = alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))
    victim = bob.base / "victim"
    victim.write_text("precious")
    (bob.place / f".{name}.raw.part").symlink_to(victim)

    error = bob.fails(NOT_ALLOWED, "fetch", name, "--peer", share.peer)

    assert f".{name}.raw.part" in error["why"]
    assert victim.read_text() == "precious"


def test_a_directory_that_is_missing_is_made_and_a_file_is_none(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    overlay = Path(node.json("new", "a/b/vm.qcow2", "--master", master)["path"])
    assert overlay == node.place / "a" / "b" / "vm.qcow2"
    promoted = node.json("promote", overlay, "--as", "made", "--to", "c/d")
    assert promoted["path"] == str(node.place / "c" / "d" / "made.qcow2")
    share = node.share(master)
    for command in (
        ("promote", overlay, "--as", "again"),
        ("rebase", overlay, "--onto", promoted["path"]),
        ("fetch", master.stem, "--peer", share.peer),
    ):
        error = node.fails(USAGE, *command, "--to", master)
        assert "a file" in error["why"] and "name a directory" in error["hint"], command


def test_what_others_stand_on_is_neither_discarded_nor_promoted_over(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    lower = disks.make_overlay(node.place / "lower.qcow2", master, (0, 64 * KIB))
    disks.make_overlay(node.place / "upper.qcow2", lower, (64 * KIB, 64 * KIB))
    assert "upper.qcow2" in node.fails(WOULD_DESTROY, "discard", lower, "--yes")["why"]
    assert node.fails(WOULD_DESTROY, "discard", master, "--yes")["what"]
    assert node.fails(WOULD_DESTROY, "promote", lower, "--as", "master")["what"]
    taken = node.fails(WOULD_DESTROY, "new", "upper.qcow2", "--master", master)
    assert "upper.qcow2 exists" in taken["what"]
    assert taken["hint"] == "choose another name, or remove that file"  # new has no --as
    assert "--yes" in node.fails(USAGE, "discard", node.place / "upper.qcow2")["hint"]
    assert node.files() == {"master.qcow2", "lower.qcow2", "upper.qcow2"}


# -- images that are damaged, hostile or strange -----------------------------------------------------


def cut_off(path: Path) -> None:
    disks.make_master(path, size=MIB)
    os.truncate(path, 70)


def huge_table(path: Path) -> None:
    disks.make_master(path, size=MIB)
    images.patch(path, 36, (1 << 31).to_bytes(4, "big"))


def encrypted(path: Path) -> None:
    disks.make_master(path, size=MIB)
    images.patch(path, 32, (1).to_bytes(4, "big"))


def table_behind_the_end(path: Path) -> None:
    disks.make_master(path, size=MIB)
    images.patch(path, 40, (1 << 40).to_bytes(8, "big"))


def backing_file_in_json(path: Path) -> None:
    backing = 'json:{"driver":"file","filename":"/etc/passwd"}'
    images.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", path, "1M")


def backing_file_on_the_network(path: Path) -> None:
    backing = "http://192.0.2.1/image"
    images.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", path, "1M")


def on_itself(path: Path) -> None:
    images.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", path.name, "-F", "qcow2", path, "1M")


def data_elsewhere(path: Path) -> None:
    images.create(path, MIB, data_file=path.with_name(".data"))


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


STRANGE: tuple[Callable[[Path], None], ...] = (
    cut_off,
    huge_table,
    encrypted,
    table_behind_the_end,
    backing_file_in_json,
    backing_file_on_the_network,
    on_itself,
    data_elsewhere,
    a_pipe,
)


def test_images_that_cannot_be_used_are_said_to_be_so(lab: Lab) -> None:
    node = lab.node("alice")
    paths = [node.place / f"{make.__name__}.qcow2" for make in STRANGE]
    for make, path in zip(STRANGE, paths, strict=True):
        make(path)
    commands = [(command, path) for path in paths for command in ("id",)]
    commands += [(command, paths[1]) for command in ("show", "share")]
    running = [node.start(*command, "--json") for command in commands]
    for (command, path), process in zip(commands, running, strict=True):
        result = process.wait()
        assert result.code == BAD_IMAGE, (command, result.stderr)
        assert path.name in result.error["what"]
        assert result.error["why"]


def test_a_directory_is_shared_without_what_cannot_be_used(lab: Lab) -> None:
    node = lab.node("alice")
    for make in STRANGE:
        make(node.place / f"{make.__name__}.qcow2")
    good = disks.make_master(node.place / f"{lab.name('good')}.qcow2", size=MIB)
    share = node.share(node.place)
    assert [item["path"] for item in share.document()["shared"]] == [str(good)]
    for make in STRANGE[:-1]:  # a pipe is not even looked at
        assert f"{make.__name__}.qcow2" in share.stderr


def test_a_symlink_to_a_master_is_the_master(lab: Lab) -> None:
    node = lab.node("alice")
    masters = node.base / "masters"
    masters.mkdir()
    master = disks.make_master(masters / "master.qcow2", size=MIB)
    link = node.place / "master.qcow2"
    link.symlink_to(master)
    assert node.json("id", link)["path"] == str(master)
    shutil.rmtree(masters)
    assert node.fails(NOT_FOUND, "id", link)["what"]
