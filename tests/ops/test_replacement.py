"""May an offered version take the place of what is there? Every row of the table, by what the user allows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from overlaysync.errors import InUseError, OverlaysyncError, WouldDestroyError
from overlaysync.ops.loss import would_be_lost
from overlaysync.ops.replacement import Asked, Rules, Verdict, judge
from overlaysync.ops.versions import State
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id
from overlaysync.units import MIB
from tests.images import Op, apply, create, run
from tests.ops.machines import CREATED, Machine, inode_of, machine
from tests.ops.test_discard import opened_by_qemu
from tests.ops.world import NOW, sha

pytestmark = pytest.mark.holds("A1")

qemu = pytest.mark.qemu

NONE, REPLACE, DISCARD = Rules(), Rules(replace=True), Rules(discard_changes=True)
ALL = (NONE, REPLACE, DISCARD)
BOTH = Rules(replace=True, discard_changes=True)
SYNC = Rules(replace=True, forward_only=True)
HERE, DONE = "already here", "replaced"


@dataclass(frozen=True)
class Room:
    """Two machines; what Ann offers is for a place at Bob's."""

    ann: Machine
    bob: Machine

    def offer(self, text: str, file: str = "web.raw", **more: str) -> Manifest:
        """Ann's next version."""
        self.ann.write(file, text)
        return self.ann.publish(file, **more)  # type: ignore[arg-type]

    def taken(self, text: str = "first") -> Manifest:
        """Bob has fetched Ann's first version."""
        manifest = self.offer(text)
        self.bob.take(manifest, self.ann.path("web.raw"), "web.raw")
        return manifest

    def judge(
        self, offered: Manifest, rules: Rules, file: str = "web.raw", *, brought: bool = False
    ) -> Verdict:
        place = str(self.bob.path(file))
        library, own = self.bob.world.library, self.bob.key.public
        return judge(library, place, Asked(offered, rules, own, NOW, brought))

    def outcome(self, offered: Manifest, rules: Rules, file: str = "web.raw", **more: bool) -> str | int:
        """What happens: or the exit code, and then nothing there has been touched."""
        before = tree(self.bob.world.images)
        try:
            verdict = self.judge(offered, rules, file, **more)
        except OverlaysyncError as error:
            assert error.what and error.hint, error
            return error.exit_code
        finally:
            assert tree(self.bob.world.images) == before
        assert (verdict.known is None) == (verdict.entry is not None) or verdict == Verdict()
        return HERE if verdict.known else DONE

    def outcomes(self, offered: Manifest, file: str = "web.raw", **more: bool) -> tuple[str | int, ...]:
        """By what the user allows: nothing, ``--replace``, ``--discard-changes``.

        ``sync`` replaces what ``--replace`` does, but nothing that is no fast-forward.
        """
        none, replace, discard = (self.outcome(offered, rules, file, **more) for rules in ALL)
        assert self.outcome(offered, BOTH, file, **more) == discard
        forward = False
        if discard == DONE:
            standing = self.judge(offered, DISCARD, file, **more).standing
            forward = standing is not None and standing.state is State.BEHIND
        assert self.outcome(offered, SYNC, file, **more) == (replace if forward else none)
        return none, replace, discard


def tree(directory: Path) -> dict[str, tuple[str, bool]]:
    """Every file, what is in it, and whether it is a link."""
    return {
        str(path): (sha(path) if path.is_file() else "", path.is_symlink())
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    with machine(tmp_path, "ann") as ann, machine(tmp_path, "bob") as bob:
        yield Room(ann, bob)


# -- the table ---------------------------------------------------------------------------------------


def test_nothing_is_there(room: Room) -> None:
    offered = room.offer("first")
    for rules in ALL:
        assert room.judge(offered, rules) == Verdict()


def test_the_same_content(room: Room) -> None:
    first = room.taken()
    assert room.outcomes(first) == (HERE, HERE, HERE)
    room.offer("second")
    again = room.offer("first")
    assert again.header.version == 3
    assert room.outcomes(again) == (HERE, HERE, HERE)
    # Also where nothing was noted of the file.
    shutil.copy(room.bob.path("web.raw"), room.bob.path("copy.raw"))
    assert room.outcomes(first, "copy.raw") == (HERE, HERE, HERE)


def test_unchanged_and_nothing_newer_is_offered(room: Room) -> None:
    first = room.taken()
    room.bob.write("web.raw", "second")
    room.bob.publish("web.raw")
    assert room.outcomes(first) == (HERE, HERE, HERE)
    verdict = room.judge(first, NONE)
    assert verdict.standing is not None and verdict.standing.state is State.NEWER
    assert [row.version for row in verdict.standing.held] == [2]


@pytest.mark.parametrize("through", [False, True], ids=["directly", "through others"])
def test_unchanged_and_the_offered_follows_it(room: Room, through: bool) -> None:
    room.taken()
    offered = room.offer("second")
    if through:
        room.bob.sees(offered)
        offered = room.offer("third")
    assert room.outcomes(offered) == (9, DONE, DONE)
    with pytest.raises(WouldDestroyError) as caught:
        room.judge(offered, NONE)
    assert "web:1" in caught.value.what and f"web:{offered.header.version}" in caught.value.what
    assert "--replace" in caught.value.hint
    assert room.judge(offered, REPLACE).superseded == ()


def test_unchanged_what_was_published_here_and_another_went_on_with(room: Room) -> None:
    """Somebody made the next version of it, so it was there as well, whatever is known of who has it now."""
    ann, bob = room.bob, room.ann
    ann.write("web.raw", "first")
    first = ann.publish("web.raw")
    bob.take(first, ann.path("web.raw"), "web.raw")
    assert room.outcomes(room.offer("second")) == (9, DONE, DONE)


def test_unchanged_what_was_published_here_alone(room: Room) -> None:
    """Nobody else is known to have it: a fast-forward to a version of one's own throws it away."""
    bob = room.bob
    bob.write("web.raw", "first")
    first = bob.publish("web.raw")
    saved = bob.write("saved.raw", "second")
    shutil.copy(saved, bob.path("web.raw"))
    second = bob.publish("web.raw")
    bob.write("web.raw", "first")
    assert first.header.version == 1 and room.outcomes(second) == (9, 9, DONE)
    with pytest.raises(WouldDestroyError) as caught:
        room.judge(second, REPLACE)
    assert "--discard-changes" in caught.value.hint
    bob.world.catalog.holders.note(
        first.header.content_id, b"A" * 32, "ann@lab-abc234", at="2026-01-31T12:00:00Z"
    )
    assert room.outcomes(second) == (9, DONE, DONE)


def settled_fork(room: Room) -> tuple[Manifest, Manifest]:
    """Bob has Carl's side of a fork, which Carl gave up for Ann's. (That side, and what follows both.)"""
    ann, bob = room.ann, room.bob
    with machine(bob.world.images.parent.parent, "carl") as carl:
        first = room.offer("first")
        carl.take(first, ann.path("web.raw"), "web.raw")
        theirs = room.offer("ann's")
        carl.write("web.raw", "carl's")
        given_up = carl.publish("web.raw")
        bob.sees(first)
        bob.take(given_up, carl.path("web.raw"), "web.raw")
        carl.take(theirs, ann.path("web.raw"), "web.raw", superseded=(given_up.id,))
        settled = carl.publish("web.raw")
        bob.sees(theirs, settled)
        assert settled.header.version == 3 and settled.header.followed == (theirs.id, given_up.id)
        return given_up, settled


def test_a_side_that_was_given_up_is_not_kept_by_what_follows_it_in_name(room: Room) -> None:
    """Carl had what Bob has; but he chose Ann's over it, and no other machine is known to have it."""
    given_up, settled = settled_fork(room)
    bob, content = room.bob, given_up.header.content_id
    assert room.judge(settled, DISCARD).lost and room.outcomes(settled) == (9, 9, DONE)
    with pytest.raises(WouldDestroyError, match="no other machine") as caught:
        room.judge(settled, SYNC)
    assert "--as NAME" in caught.value.hint and "--discard-changes" in caught.value.hint
    known, own = bob.world.known(bob.path("web.raw")), bob.key.public
    assert would_be_lost(bob.world.library, known, own=own)
    # Carl was seen to have it before he gave it up.
    bob.world.catalog.holders.note(content, given_up.publisher, given_up.header.by, at=CREATED)
    assert would_be_lost(bob.world.library, known, own=own)
    # Another machine, or a file here, that has it is what counts.
    bob.world.catalog.holders.note(content, b"D" * 32, "dora@lab-abc234", at=CREATED)
    assert would_be_lost(bob.world.library, known, own=own) == ""
    assert room.outcomes(settled) == (9, DONE, DONE)


def test_a_side_that_another_went_on_with_is_kept_by_that(room: Room) -> None:
    given_up, settled = settled_fork(room)
    ann, bob = room.ann, room.bob
    ann.take(given_up, bob.path("web.raw"), "side.raw")
    ann.write("side.raw", "more of carl's")
    further = ann.publish("side.raw")
    assert further.header.followed == (given_up.id,)
    bob.sees(further)
    assert room.outcomes(further) == (9, DONE, DONE), "it was made from what is here"
    known = bob.world.known(bob.path("web.raw"))
    assert would_be_lost(bob.world.library, known, own=bob.key.public) == ""
    assert room.judge(settled, SYNC).entry


def test_what_replaces_a_side_says_who_else_has_it(room: Room) -> None:
    room.taken()
    room.bob.write("web.raw", "bob's")
    mine, offered = room.bob.publish("web.raw"), room.offer("ann's")
    verdict = room.judge(offered, DISCARD)
    assert verdict.replaces == "web:2, your side of the fork (no other machine is known to have this version)"
    with pytest.raises(WouldDestroyError, match="no other machine") as caught:
        room.judge(offered, NONE)
    assert "then lost" in caught.value.hint
    room.bob.world.catalog.holders.note(mine.header.content_id, b"D" * 32, "dora@lab-abc234", at=CREATED)
    verdict = room.judge(offered, DISCARD)
    assert verdict.lost == "" and "another machine or file is known" in verdict.replaces
    room.bob.write("web.raw", "work")
    assert "written here since web:2 (what its guest wrote" in room.judge(offered, DISCARD).replaces


@pytest.mark.parametrize("offered", ["what it was", "what follows it", "a fork"])
def test_written_to_since(room: Room, offered: str) -> None:
    first = room.taken()
    manifest = first if offered == "what it was" else room.offer("second")
    if offered == "a fork":
        room.ann.write("other.raw", "other")
        manifest = room.ann.publish("other.raw", name="web", team="")
    room.bob.write("web.raw", "work")
    assert room.outcomes(manifest) == (9, 9, DONE)
    for rules in (NONE, REPLACE):
        with pytest.raises(WouldDestroyError) as caught:
            room.judge(manifest, rules)
        assert "never published" in caught.value.what and "web:1" in caught.value.why
        for way in (f"share '{room.bob.path('web.raw')}'", "--as", "--discard-changes"):
            assert way in caught.value.hint
    assert room.judge(manifest, DISCARD).superseded == (first.id,)


def test_a_fork_names_both_sides(room: Room) -> None:
    first = room.taken()
    room.bob.write("web.raw", "bob's")
    mine = room.bob.publish("web.raw", note="after the crash", created="2026-01-31T10:00:00Z")
    offered = room.offer("ann's", created="2026-01-31T11:00:00Z")
    assert room.outcomes(offered) == (9, 9, DONE)
    for rules in (NONE, REPLACE):
        with pytest.raises(WouldDestroyError) as caught:
            room.judge(offered, rules)
        text = caught.value.why
        assert "different publishers" in caught.value.what and "forked" not in caught.value.what
        for made, word in ((mine, "10:00:00Z"), (offered, "11:00:00Z")):
            assert node_id(made.publisher) in text and made.header.by in text and word in text
        assert text.count("web:2") == 2 and text.count("64 KiB") == 2 and "after the crash" in text
        assert "web:1" in text.splitlines()[-1] and text.count("web:1") == 1, "the last they have in common"
        assert first.header.version == 1
        assert "--as" in caught.value.hint and "--discard-changes" in caught.value.hint
    assert room.judge(offered, DISCARD).superseded == (mine.id,)


def test_a_fork_that_has_nothing_in_common(room: Room) -> None:
    room.bob.write("web.raw", "bob's")
    room.bob.publish("web.raw")
    offered = room.offer("ann's")
    assert room.outcomes(offered) == (9, 9, DONE)
    with pytest.raises(WouldDestroyError, match="no common version"):
        room.judge(offered, NONE)


def test_a_file_of_which_nothing_is_known(room: Room) -> None:
    room.bob.write("web.raw", "nobody has seen it")
    offered = room.offer("first")
    assert room.outcomes(offered) == (9, 9, DONE)
    # With another file here that has it, nothing would be lost.
    shutil.copy(room.bob.path("web.raw"), room.bob.path("copy.raw"))
    room.bob.world.known(room.bob.path("copy.raw"))
    assert room.outcomes(offered) == (9, DONE, DONE)
    # Unless that is the same file by another name.
    room.bob.path("copy.raw").unlink()
    os.link(room.bob.path("web.raw"), room.bob.path("copy.raw"))
    room.bob.world.known(room.bob.path("copy.raw"))
    assert room.outcomes(offered) == (9, 9, DONE)


def test_something_of_another_name(room: Room) -> None:
    other = room.offer("other", "other.raw")
    room.bob.take(other, room.ann.path("other.raw"), "web.raw")
    offered = room.offer("first")
    assert room.outcomes(offered) == (9, DONE, DONE), "its publisher has it"
    with pytest.raises(WouldDestroyError, match="is not web:1"):
        room.judge(offered, NONE)


# -- what else can be there --------------------------------------------------------------------------


def linked(room: Room, target: str) -> Path:
    link = room.bob.path("web.raw")
    link.symlink_to(target)
    return link


def test_a_link_to_the_same_content(room: Room) -> None:
    offered = room.offer("first")
    shutil.copy(room.ann.path("web.raw"), room.bob.path("elsewhere.raw"))
    linked(room, "elsewhere.raw")
    assert room.outcomes(offered) == (HERE, HERE, HERE)


@pytest.mark.parametrize("target", ["work", "nothing", "a directory", "no image"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(room: Room, target: str) -> None:
    elsewhere = room.bob.path("elsewhere.raw")
    if target == "work":
        room.bob.write("elsewhere.raw", "nobody has seen it")
    elif target == "a directory":
        elsewhere.mkdir()
    elif target == "no image":
        elsewhere.write_text("precious")
    link = linked(room, "elsewhere.raw")
    offered = room.offer("first")
    assert room.outcomes(offered) == (9, DONE, DONE)
    with pytest.raises(WouldDestroyError) as caught:
        room.judge(offered, NONE)
    assert str(elsewhere) in caught.value.what and "--replace" in caught.value.hint
    assert room.outcomes(offered, brought=True) == (9, 9, 9)
    assert link.is_symlink()


def test_what_cannot_be_read_as_an_image(room: Room) -> None:
    room.bob.path("web.qcow2").write_bytes(b"QFI\\xfb" + bytes(100))
    offered = room.offer("first")
    assert room.outcomes(offered, "web.qcow2") == (9, 9, DONE)
    assert room.outcomes(offered, "web.qcow2", brought=True) == (9, 9, 9)
    with pytest.raises(WouldDestroyError, match="cannot be read as an image"):
        room.judge(offered, REPLACE, "web.qcow2")


def test_a_directory_is_never_replaced(room: Room) -> None:
    room.bob.path("web.raw").mkdir()
    offered = room.offer("first")
    for code in room.outcomes(offered):
        assert isinstance(code, int) and code > 2


def test_a_master_that_is_brought_along_replaces_nothing(room: Room) -> None:
    first = room.taken()
    assert room.outcomes(first, brought=True) == (HERE, HERE, HERE)
    assert room.outcomes(room.offer("second"), brought=True) == (9, 9, 9)
    room.bob.write("web.raw", "work")
    assert room.outcomes(first, brought=True) == (9, 9, 9)


# -- overlays ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab(Room):
    """A room where Ann and Bob have one master, and Ann offers overlays on it."""

    def overlay(self, at: Machine, byte: int) -> Path:
        """An overlay called ``vm``, made or written to."""
        path = at.path("vm.qcow2")
        if not path.exists():
            create(path, backing=at.path("base.raw"))
        apply(path, [Op("write", 0, 512, byte)])
        return path

    def offer_overlay(self, byte: int) -> Manifest:
        self.overlay(self.ann, byte)
        return self.ann.publish("vm.qcow2")

    def take_overlay(self, manifest: Manifest) -> Path:
        path = self.bob.take(manifest, self.overlay_with(manifest), "vm.qcow2")
        return path

    def overlay_with(self, manifest: Manifest) -> Path:
        """Bob's file with the content of Ann's: on his own master."""
        path = self.bob.path("new.qcow2")
        with suppress(FileNotFoundError):
            path.unlink()
        shutil.copy(self.ann.path("vm.qcow2"), path)
        base = self.bob.path("base.raw")
        run("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "raw", path)
        return path


@pytest.fixture
def lab(room: Room) -> Lab:
    lab = Lab(room.ann, room.bob)
    lab.ann.write("base.raw", "the master")
    master = lab.ann.publish("base.raw")
    lab.bob.take(master, lab.ann.path("base.raw"), "base.raw")
    return lab


@qemu
@pytest.mark.slow
def test_an_overlay_has_a_history_as_a_master_has(lab: Lab) -> None:
    first = lab.offer_overlay(1)
    lab.take_overlay(first)
    assert lab.outcomes(first, "vm.qcow2") == (HERE, HERE, HERE)
    second = lab.offer_overlay(2)
    assert lab.outcomes(second, "vm.qcow2") == (9, DONE, DONE)
    lab.overlay(lab.bob, 7)
    assert lab.outcomes(second, "vm.qcow2") == (9, 9, DONE)


@qemu
@pytest.mark.slow
def test_internal_snapshots_are_work_that_is_nowhere_else(lab: Lab) -> None:
    lab.take_overlay(lab.offer_overlay(1))
    run("qemu-img", "snapshot", "-c", "before the exam", lab.bob.path("vm.qcow2"))
    second = lab.offer_overlay(2)
    assert lab.outcomes(second, "vm.qcow2") == (9, 9, DONE)
    with pytest.raises(WouldDestroyError) as caught:
        lab.judge(second, REPLACE, "vm.qcow2")
    assert "snapshot" in caught.value.why and "--discard-changes" in caught.value.hint


@qemu
@pytest.mark.parametrize("master", ["gone", "another"])
@pytest.mark.slow
def test_an_overlay_that_has_lost_its_master(lab: Lab, master: str) -> None:
    lab.take_overlay(lab.offer_overlay(1))
    if master == "gone":
        lab.bob.path("base.raw").unlink()
    else:
        lab.bob.write("base.raw", "another master")
    assert lab.outcomes(lab.offer_overlay(2), "vm.qcow2") == (5, 5, DONE)


@qemu
@pytest.mark.slow
def test_what_overlays_stand_on_stays_whatever_is_allowed(lab: Lab) -> None:
    lab.take_overlay(lab.offer_overlay(1))
    lab.ann.path("vm.qcow2").unlink()
    newer = lab.offer("a newer master", "base.raw")
    assert lab.outcomes(newer, "base.raw") == (9, 9, 9)
    lab.bob.path("vm.qcow2").unlink()
    lab.bob.path("new.qcow2").unlink()
    assert lab.outcomes(newer, "base.raw") == (9, DONE, DONE)


@qemu
@pytest.mark.parametrize("state", ["behind", "written to", "unknown"])
@pytest.mark.slow
def test_what_a_vm_has_open_stays_whatever_is_allowed(lab: Lab, state: str) -> None:
    path = lab.take_overlay(lab.offer_overlay(1))
    offered = lab.offer_overlay(2)
    if state == "written to":
        lab.overlay(lab.bob, 7)
    elif state == "unknown":
        lab.bob.world.catalog.forget_image(path)
    before = inode_of(path), sha(path)
    with opened_by_qemu(path, read_only=False):
        for rules in (*ALL, BOTH):
            with pytest.raises(InUseError):
                lab.judge(offered, rules, "vm.qcow2")
    assert (inode_of(path), sha(path)) == before


@qemu
@pytest.mark.slow
def test_of_an_overlay_without_data_nothing_is_lost(lab: Lab) -> None:
    """It was made and never started; but zeros that hide the master are a guest's."""
    create(lab.bob.path("vm.qcow2"), backing=lab.bob.path("base.raw"))
    offered = lab.offer_overlay(1)
    assert lab.outcomes(offered, "vm.qcow2") == (9, DONE, DONE)
    apply(lab.bob.path("vm.qcow2"), [Op("zero", 0, 65536)])
    assert lab.outcomes(offered, "vm.qcow2") == (9, 9, DONE)
    assert lab.bob.path("base.raw").stat().st_size < MIB


def test_every_rule_is_listed() -> None:
    """A rule that is added must be tried in every row."""
    assert set(Rules.__dataclass_fields__) == {"replace", "discard_changes", "forward_only"}
