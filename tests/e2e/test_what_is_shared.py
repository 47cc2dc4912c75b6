"""What a share publishes: under which names, from which folders, for whom, on whose word."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import NOT_ALLOWED, NOT_FOUND, USAGE, Lab, Node, Share, until
from tests.images import create, draw, run

pytestmark = [pytest.mark.qemu, pytest.mark.holds("C1")]


def names(share: Share) -> dict[str, str]:
    """File by published name."""
    return {item["name"]: item["path"] for item in share.document()["shared"]}


def overlay_on(base: Path, path: Path, pattern: str) -> Path:
    """An overlay made by qemu-img, as a user makes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", base.suffix[1:], path)
    draw(path, pattern)
    return path


def master(path: Path, pattern: str = "A") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = create(path, 4 * MIB)
    draw(image, pattern)
    return image


# -- names and folders -------------------------------------------------------------------------------


def test_three_vms_in_folders_are_three_things(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    folders = []
    for number, pattern in enumerate(("A", "B", "C"), 1):
        folders.append(alice.place / f"{lab.name('vm')}{number}")
        master(folders[-1] / "disk.qcow2", pattern)
    share = alice.share(*folders)
    assert names(share) == {folder.name: str(folder / "disk.qcow2") for folder in folders}
    for folder in folders:
        (item,) = bob.fetch(folder.name, "--peer", share.peer)
        assert item["version"] == 1
        assert disks.identical(folder / "disk.qcow2", Path(item["path"]))
    share.stop()
    # The same when they are found by going into folders; and they keep their names, so no new versions.
    again = alice.share("-r", alice.place)
    assert {item["name"]: item["version"] for item in again.document()["shared"]} == {
        folder.name: 1 for folder in folders
    }


def test_folders_below_are_spoken_of_and_entered_on_demand(lab: Lab) -> None:
    alice = lab.node("alice")
    for number in range(4):
        master(alice.place / f"vm{number}" / "disk.qcow2", "ABCD"[number])
    error = alice.fails(NOT_FOUND, "share", alice.place)
    assert "4" in error["why"] and "share -r" in error["hint"]
    share = alice.share("-r", alice.place, "--exclude", "vm2", "--exclude", "vm3/disk*")
    assert set(names(share)) == {"vm0", "vm1"}


def test_the_command_that_a_refusal_prints_shares_with_the_same_team_in_the_same_words(lab: Lab) -> None:
    alice, stranger = lab.node("alice"), lab.node("stranger")
    team = lab.team("red", alice)
    folder = alice.place / "our vms"
    for number in range(3):
        master(folder / f"vm{number}" / "hda.qcow2", "ABC"[number])
    words = ("--team", team, "-m", "not for others", "--exclude", "vm2", "--limit-rate", "20M")
    error = alice.fails(NOT_FOUND, "share", *words, folder)
    command = shlex.split(error["hint"])
    assert command[:2] == ["overlaysync", "share"] and "-r" in command
    share = alice.share(*command[2:])
    assert {(item["team"], item["name"]) for item in share.document()["shared"]} == {
        (team, "vm0"),
        (team, "vm1"),
    }
    assert {item["note"] for item in share.document()["shared"]} == {"not for others"}
    assert "vm0" not in stranger.run("ls", "--peer", share.peer).stdout
    share.stop()
    several = alice.fails(USAGE, "share", *words, "--as", "lab", folder / "vm0", folder / "vm1")
    command = shlex.split(several["hint"])
    assert sorted(command[2:]) == sorted([*words, "--as", "lab", "PATH"])


def test_what_is_left_out_is_said(lab: Lab) -> None:
    alice = lab.node("alice")
    image = master(alice.place / f"{lab.name('web')}.qcow2")
    (alice.place / "link.qcow2").symlink_to(image)
    (alice.place / "broken.qcow2").write_bytes(b"<html>not found</html>")
    master(alice.place / "below" / "x.qcow2", "B")
    share = alice.share(alice.place)
    assert list(names(share).values()) == [str(image)]
    for word in ("link.qcow2", "broken.qcow2", "1 of 2 images is not", "share -r"):
        assert word in share.stderr
    missing = alice.fails(NOT_FOUND, "share", alice.place / "typo.qcow2")
    assert "any more" not in missing["what"], "it never was there"
    directory = alice.fails(NOT_FOUND, "verify", "below/")
    assert "is a directory" in directory["what"] and "below/*.qcow2" in directory["hint"]
    none = alice.fails(NOT_FOUND, "fetch", f"{image.stem}:9", "--peer", share.peer, "--wait", "0.5")
    assert f"{image.stem}:1" in none["why"] and "these" not in none["hint"]


def test_an_overlay_and_its_base_of_one_stem(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    name = lab.name("ubuntu")
    base = master(alice.place / f"{name}.img.qcow2").rename(alice.place / f"{name}.img")
    overlay = alice.place / f"{name}.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    draw(overlay, "-B")
    share = alice.share(alice.place)
    assert names(share) == {name: str(overlay), f"{name}.img": str(base)}
    bob.fetch(name, "--peer", share.peer)
    assert disks.identical(overlay, bob.place / f"{name}.qcow2")


def test_two_files_of_one_name_are_refused_and_named(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    first, second = master(alice.place / "x.qcow2"), master(alice.place / "x.raw", "B")
    error = alice.fails(USAGE, "share", alice.place)
    assert error["candidates"] == [str(first), str(second)]
    one = alice.share(first)
    name = lab.name("other")
    other = alice.share("--as", name, second)
    assert names(other) == {name: str(second)}
    (item,) = bob.fetch(name, "--peer", other.peer)
    assert Path(item["path"]).read_bytes() == second.read_bytes()
    # A third file of that name, elsewhere: not the next version of the first.
    third = master(alice.place / "elsewhere" / "x.qcow2", "C")
    assert str(first) in alice.fails(USAGE, "share", third)["candidates"]
    one.stop()
    following = alice.share("--as", "x", third)
    assert [item["version"] for item in following.document()["shared"]] == [2]


def test_the_publishers_own_ending_is_accepted(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = master(alice.place / "disk.qcow2")
    share = alice.share("--as", "cloud.img", image)
    (item,) = bob.fetch("cloud.img", "--peer", share.peer)
    assert disks.identical(image, Path(item["path"]))


# -- audiences ---------------------------------------------------------------------------------------


def teams_of(alice: Node, bob: Node, team: str) -> None:
    code = alice.json("team", "create", team)["code"]
    file = bob.base / "code"
    file.write_text(code)
    file.chmod(0o600)
    bob.json("team", "join", team, "--code-file", file)


def test_an_empty_team_is_a_mistake_and_publishes_nothing(lab: Lab) -> None:
    alice = lab.node("alice")
    image = master(alice.place / "secret.qcow2")
    error = alice.fails(USAGE, "share", "--team", "", image)
    alice.json("team", "create", "red")
    typed = alice.fails(NOT_ALLOWED, "share", "--team", "rde", image)
    assert typed["hint"].startswith(f"if you meant 'red': overlaysync share --team red {image};")
    assert "team show" in error["hint"] and "--public" not in error["hint"]
    assert alice.json("ls", "--local")["images"] == []
    assert alice.fails(USAGE, "share", "--team", "red", "--public", image)


def test_making_public_what_was_a_teams_asks(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = master(alice.place / f"{lab.name('web')}.qcow2")
    alice.json("team", "create", "red")
    alice.share("--team", "red", image).stop()
    error = alice.fails(USAGE, "share", "--public", image)
    assert f"red/{image.stem}" in error["what"] and "--yes" in error["hint"]
    # Without a word it stays the team's.
    share = alice.share(image)
    assert share.document()["shared"][0]["team"] == "red"
    assert bob.fails(NOT_FOUND, "fetch", image.stem, "--peer", share.peer, "--wait", "1")
    share.stop()
    public = alice.share("--public", "--yes", image)
    bob.fetch(image.stem, "--peer", public.peer)


def test_what_appears_later_goes_to_no_other_audience_than_it_had(lab: Lab) -> None:
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    teams_of(alice, bob, "red")
    plan = master(bob.place / f"{lab.name('plan')}.qcow2", "B")
    theirs = bob.share("--team", "red", plan)
    shown = master(alice.place / f"{lab.name('shown')}.qcow2")
    share = alice.share(alice.place)
    alice.fetch(f"red/{plan.stem}", "--peer", theirs.peer)
    until(lambda: f"red/{plan.stem}" in share.stderr, what="word of the new image")
    assert "team 'red'" in share.stderr

    def seen(node: Node) -> list[Any]:
        listed = node.json("ls", "--peer", share.peer, "--wait", "0.5")["images"]
        return sorted(item["name"] for item in listed)

    assert seen(carol) == [shown.stem]
    assert seen(bob) == sorted([shown.stem, plan.stem])


def test_an_overlay_goes_to_no_team_that_cannot_get_its_master(lab: Lab) -> None:
    alice = lab.node("alice")
    alice.json("team", "create", "red")
    alice.json("team", "create", "blue")
    base = master(alice.place / f"{lab.name('base')}.qcow2")
    alice.share("--team", "red", base).stop()
    overlay = overlay_on(base, alice.place / f"{lab.name('vm')}.qcow2", "-B")
    for option, whom in ((("--team", "blue"), "team 'blue'"), (("--public",), "everybody")):
        error = alice.fails(NOT_ALLOWED, "share", *option, overlay)
        assert whom in error["what"] and "team 'red' only" in error["why"] and str(base) in error["hint"]
    assert {item["team"] for item in alice.json("ls", "--local")["images"]} == {"red"}
    both = alice.share("--team", "blue", base, overlay)
    assert {item["team"] for item in both.document()["shared"]} == {"blue"}


# -- backing files that nobody meant -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".qcow2", ".qed", ".raw"])
def test_a_header_does_not_make_us_share_a_file(lab: Lab, suffix: str) -> None:
    alice = lab.node("alice")
    private = master(alice.base / "private" / f"{lab.name('secret')}{suffix}")
    overlay = overlay_on(private, alice.place / f"{lab.name('vm')}.qcow2", "-B")
    error = alice.fails(NOT_ALLOWED, "share", overlay)
    assert str(private) in error["what"] and str(private) in error["hint"]
    assert alice.fails(NOT_ALLOWED, "share", alice.place)
    assert alice.fails(NOT_ALLOWED, "promote", overlay, "--as", lab.name("new"))
    assert alice.json("ls", "--local")["images"] == []
    share = alice.share(private, overlay)
    assert len(names(share)) == 2


def test_a_master_beside_or_above_is_meant(lab: Lab) -> None:
    alice = lab.node("alice")
    base = master(alice.place / f"{lab.name('vyos')}.qcow2")
    overlay = overlay_on(base, alice.place / "p" / "u1" / f"{lab.name('vm')}.qcow2", "-B")
    assert set(names(alice.share(overlay))) == {base.stem, overlay.stem}


def test_a_master_that_was_named_before_is_meant(lab: Lab) -> None:
    alice = lab.node("alice")
    base = master(alice.base / "masters" / f"{lab.name('base')}.qcow2")
    os.chmod(base, 0o444)
    made = alice.place / f"{lab.name('vm')}.qcow2"
    alice.json("new", made, "--master", base)
    assert base.stem in names(alice.share(made))


def test_a_note_travels_with_its_version(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    image = master(alice.place / f"{lab.name('web')}.qcow2")
    alice.share("-m", "routing works", image).stop()
    share = alice.share("-m", "again", image)
    assert "its note stays as it is" in share.stderr
    (listed,) = bob.json("ls", "--peer", share.peer, "--wait", "0.5")["images"]
    assert listed["version"] == 1
    assert alice.fails(USAGE, "share", "-m", "two\nlines", image)
    assert alice.fails(USAGE, "share", "-m", "x" * 201, image)
    shutil.rmtree(bob.home)


# -- what was fetched --------------------------------------------------------------------------------


def test_a_fetched_file_is_passed_on_as_itself_and_goes_on_as_itself(lab: Lab) -> None:
    """Under whatever file name; and the note of a share that runs is not that of what it publishes later."""
    alice, bob = lab.node("alice"), lab.node("bob")
    teams_of(alice, bob, "red")
    base = master(bob.place / f"{lab.name('base')}.qcow2", "B")
    web = overlay_on(base, bob.place / f"{lab.name('web')}.qcow2", "-B")
    theirs = bob.share("--team", "red", web, base)
    item = theirs.document()["shared"][0]
    mine = master(alice.place / f"{lab.name('mine')}.qcow2")
    share = alice.share("-m", "first day", "--team", "red", alice.place)
    alice.fetch(f"red/{web.stem}", "--as", "disk", "--peer", theirs.peer)
    until(lambda: f"red/{web.stem}:1" in share.stderr, what="word of the fetched image")
    shown = {one["name"]: one for one in listed(bob, share)}
    assert set(shown) == {mine.stem, base.stem, web.stem}
    assert (shown[web.stem]["publisher"], shown[web.stem]["note"]) == (item["publisher"], "")
    draw(alice.place / "disk.qcow2", "--C")
    until(lambda: f"red/{web.stem}:2" in share.stderr, what="word of the next version")
    shown = {one["name"]: one for one in listed(bob, share)}
    assert set(shown) == {mine.stem, base.stem, web.stem}
    assert (shown[web.stem]["version"], shown[web.stem]["note"]) == (2, "")
    assert "its note stays" not in share.stderr
    share.stop()
    again = alice.share("--team", "red", alice.place)
    assert {one["name"]: one["version"] for one in again.document()["shared"]} == {
        mine.stem: 1,
        base.stem: 1,
        web.stem: 2,
    }


def listed(node: Node, share: Share) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = node.json("ls", "--peer", share.peer, "--wait", "0.5")["images"]
    return images


def test_overlays_on_two_versions_of_one_master_are_shared_together(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    base = master(bob.place / f"{lab.name('m')}.qcow2")
    overlays = []
    for name in (base.stem, f"{base.stem}-2026"):
        theirs = bob.share(base)
        alice.fetch(base.stem, "--as", name, "--to", alice.base / "masters", "--peer", theirs.peer)
        theirs.stop()
        overlays.append(alice.place / f"{name}-vm.qcow2")
        alice.json("new", overlays[-1], "--master", alice.base / "masters" / f"{name}.qcow2")
        draw(overlays[-1], "-B")
        os.chmod(base, 0o644)
        draw(base, "C")
    share = alice.share(alice.place)
    shared = [(item["name"], item["version"]) for item in share.document()["shared"]]
    assert sorted(shared) == sorted([(base.stem, 1), (base.stem, 2), *((one.stem, 1) for one in overlays)])


def test_what_was_made_of_a_team_s_image_becomes_public_on_a_yes_alone(lab: Lab) -> None:
    alice = lab.node("alice")
    alice.json("team", "create", "red")
    base = master(alice.place / f"{lab.name('base')}.qcow2")
    overlay = overlay_on(base, alice.place / f"{lab.name('web')}.qcow2", "-B")
    alice.share("--public", base).stop()
    alice.share("--team", "red", overlay).stop()
    alice.json("promote", overlay, "--as", lab.name("pweb"))
    made = alice.place / f"{lab.name('pweb')}.qcow2"
    assert f"red/{made.stem}" in alice.fails(USAGE, "share", "--public", made)["what"]
    share = alice.share(made)
    assert {item["team"] for item in share.document()["shared"]} == {"red"}
