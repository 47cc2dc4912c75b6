"""What must never happen, whatever is typed: an image lost, a file given away, a terminal obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, NO_BASE, NOT_ALLOWED, WOULD_DESTROY, Lab, until
from tests.torture.rot import host_offset, rot_unseen

pytestmark = pytest.mark.qemu


def test_an_overlay_is_never_written_over_the_master_it_stands_on(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = alice.share(overlay, master)
    bob.fetch(master.stem, "--peer", share.peer)
    before = (bob.place / master.name).read_bytes()

    bob.fails(WOULD_DESTROY, "fetch", overlay.stem, "--peer", share.peer, "--as", master.stem, "--replace")

    assert (bob.place / master.name).read_bytes() == before
    assert bob.files() == {master.name}


@pytest.mark.holds("R5")
def test_a_file_that_others_stand_on_is_not_replaced(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    share = alice.share(master)
    bob.fetch(master.stem, "--peer", share.peer)
    share.stop()
    assert bob.run("new", "vm.qcow2", "--master", bob.place / master.name).code == DONE
    disks.write(master, 0, b"second version")
    share = alice.share(master)

    bob.fails(WOULD_DESTROY, "fetch", master.stem, "--peer", share.peer, "--replace")


@pytest.mark.parametrize("newer", [False, True], ids=["the same version", "a newer version"])
def test_what_a_guest_wrote_is_not_replaced_unasked(lab: Lab, newer: bool) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = alice.share(overlay, master)
    bob.fetch(overlay.stem, "--peer", share.peer)
    own = bob.place / overlay.name
    disks.write(own, 512 * KIB, b"a day's work")
    before = own.read_bytes()
    if newer:
        share.stop()
        disks.write(overlay, 256 * KIB, b"the teacher's next version")
        share = alice.share(overlay, master)
    command = ("fetch", overlay.stem, "--peer", share.peer)

    for words in ([], ["--replace"], ["--dry-run"], ["--replace", "--dry-run"]):
        error = bob.fails(WOULD_DESTROY, *command, *words)
        assert "never published" in error["what"]
    assert own.read_bytes() == before
    bob.fetch(*command[1:], "--as", "theirs")
    assert own.read_bytes() == before and disks.identical(overlay, bob.place / "theirs.qcow2")

    assert bob.run(*command, "--discard-changes", "--dry-run").code == DONE
    assert own.read_bytes() == before
    bob.fetch(*command[1:], "--discard-changes")
    assert disks.identical(overlay, own)


def test_a_link_is_replaced_and_the_file_it_leads_to_is_not(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = disks.make_master(alice.place / f"{lab.name('disk')}.qcow2", size=MIB)
    share = alice.share(image)
    precious = disks.make_master(bob.place / "precious.qcow2", size=MIB, seed="mine")
    before = precious.read_bytes()
    link = bob.place / image.name
    link.symlink_to(precious.name)

    bob.fails(WOULD_DESTROY, "fetch", image.stem, "--peer", share.peer)
    bob.fetch(image.stem, "--peer", share.peer, "--replace")

    assert precious.read_bytes() == before
    assert not link.is_symlink() and disks.identical(image, link)


@pytest.mark.red_without("R5", "a target that exists is refused only after the master has arrived")
def test_nothing_is_brought_along_for_what_is_then_refused(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = alice.share(overlay, master)
    own = disks.make_master(bob.place / overlay.name, size=MIB, seed="mine")
    disks.make_overlay(bob.place / "stands.qcow2", own)

    for words in ([], ["--replace"]):
        bob.fails(WOULD_DESTROY, "fetch", overlay.stem, "--peer", share.peer, *words)

    assert bob.files() == {overlay.name, "stands.qcow2"}


def test_an_overlay_gets_its_lost_master_back(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = alice.share(overlay, master)
    bob.fetch(overlay.stem, "--peer", share.peer)
    (bob.place / master.name).unlink()

    bob.fetch(overlay.stem, "--peer", share.peer)

    assert images.same_content(overlay, bob.place / overlay.name)


@pytest.mark.red_without("R6", "an overlay that was repaired is always made writable")
def test_healing_makes_nothing_writable_that_others_stand_on(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    lower = disks.make_overlay(alice.place / f"{lab.name('lower')}.qcow2", master, (0, 64 * KIB))
    lower.chmod(0o444)
    upper = disks.make_overlay(alice.place / f"{lab.name('upper')}.qcow2", lower, (MIB // 2, 64 * KIB))
    share = alice.share(upper, lower, master)
    bob.fetch(upper.stem, "--peer", share.peer)
    healed = bob.place / lower.name
    rot_unseen(bob.home, healed, host_offset(healed, 512), 3)

    assert bob.json("verify", healed, "--repair", "--peer", share.peer)["verified"][0]["ok"]

    assert disks.identical(lower, healed)
    assert healed.stat().st_mode & 0o777 == 0o444


@pytest.mark.red_without("R6", "a repaired overlay is put on any master with the same content")
def test_healing_leaves_an_overlay_on_the_master_it_stands_on(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = alice.share(overlay, master)
    bob.fetch(overlay.stem, "--peer", share.peer)
    for name in ("0.qcow2", "z.qcow2"):
        (bob.place / name).write_bytes(master.read_bytes())
        bob.json("id", bob.place / name)
    healed = bob.place / overlay.name
    before = healed.read_bytes()
    rot_unseen(bob.home, healed, host_offset(healed, 512), 3)

    assert bob.json("verify", healed, "--repair", "--peer", share.peer)["verified"][0]["ok"]

    assert healed.read_bytes() == before


@pytest.mark.holds("N11")
@pytest.mark.red_without("N11", "a raw file below an overlay is shared although it was not named")
@pytest.mark.parametrize("size", [7000, 7168], ids=["no disk", "named and sized like a disk"])
def test_a_backing_name_gives_no_file_away(lab: Lab, size: int) -> None:
    node = lab.node("alice")
    secret = node.place.parent / "secret.raw"
    secret.write_bytes(b"the key" * (size // 7))
    overlay = disks.make_overlay(node.place / "vm.qcow2", secret)

    error = node.fails(NOT_ALLOWED, "share", overlay)

    assert str(secret) in error["what"]


@pytest.mark.holds("N11")
@pytest.mark.red_without("N11", "links in a shared directory are followed")
def test_a_link_in_a_shared_directory_gives_no_file_away(lab: Lab) -> None:
    node = lab.node("alice")
    secret = node.place.parent / "secret.raw"
    secret.write_bytes(b"the key" * 1000)
    disks.make_master(node.place / f"{lab.name('master')}.raw", size=MIB)
    (node.place / "planted.raw").symlink_to(secret)
    (item,) = node.share(node.place).document()["shared"]
    assert item["name"] == lab.name("master")


def test_an_overlay_whose_master_has_changed_is_not_repaired_into_something_else(lab: Lab) -> None:
    alice = lab.node("alice")
    master = disks.make_master(alice.place / f"{lab.name('master')}.qcow2", size=MIB)
    overlay = disks.make_overlay(alice.place / f"{lab.name('vm')}.qcow2", master, (0, 64 * KIB))
    share = alice.share(overlay, master)
    share.stop()
    before = overlay.read_bytes()
    disks.write(master, 512 * KIB, disks.noise("other", 64 * KIB))

    alice.fails(NO_BASE, "verify", overlay, "--repair", "--peer", "127.0.0.1:1")

    assert overlay.read_bytes() == before


def test_no_overlay_is_made_on_one_that_may_be_written(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / "master.qcow2", size=MIB)
    overlay = disks.make_overlay(node.place / "vm.qcow2", master, (0, 64 * KIB))
    node.fails(WOULD_DESTROY, "new", "other.qcow2", "--master", overlay)
    node.fails(WOULD_DESTROY, "rebase", disks.make_overlay(node.place / "b.qcow2", master), "--onto", overlay)
    overlay.chmod(0o444)
    assert node.run("new", "other.qcow2", "--master", overlay).code == DONE


@pytest.mark.holds("N10")
@pytest.mark.red_without("N10", "text from other machines is printed as it is")
def test_a_terminal_obeys_no_name(lab: Lab) -> None:
    node = lab.node("alice")
    path = node.place / "evil\x1b]0;owned\x07\x9b.raw"
    path.write_bytes(disks.noise("evil", 64 * KIB))
    for command in (["show", path], ["id", path], ["id", f"{path}x"], ["--json", "show", path]):
        result = node.run(*command)
        assert not {"\x1b", "\x07", "\x9b"} & set(result.stdout + result.stderr), command


def test_names_in_any_alphabet_are_shown_on_any_terminal(lab: Lab) -> None:
    node = lab.node("alice")
    path = Path(f"{node.place}/\udcff-é.raw")
    path.write_bytes(disks.noise("odd", 64 * KIB))
    for encoding in ("ascii", "utf-8:strict"):
        for command in (["show", path], ["verify", path], ["--json", "show", path]):
            result = node.run(*command, PYTHONIOENCODING=encoding)
            assert result.code == DONE, (encoding, command, result.stderr)


def test_a_directory_with_an_orphan_is_shared_without_it(lab: Lab) -> None:
    node = lab.node("alice")
    master = disks.make_master(node.place / f"{lab.name('master')}.qcow2", size=MIB)
    base = disks.make_master(node.place / "base.qcow2", size=MIB)
    disks.make_overlay(node.place / "orphan.qcow2", base)
    base.unlink()
    share = node.share(node.place)
    assert [item["name"] for item in share.document()["shared"]] == [master.stem]
    until(lambda: "orphan.qcow2" in share.stderr)
