"""Publishing: what a version follows, how it is numbered, and that one file has one line of versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from overlaysync.errors import NotAllowedError, UsageError
from overlaysync.model.manifest import MAX_FOLLOWS, MAX_VERSION
from overlaysync.model.pin import Pin
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.versions import other_sides
from overlaysync.store.held import Held
from overlaysync.trust.envelope import Manifest, sign_header
from overlaysync.trust.teams import new_team
from tests.ops.machines import CREATED, Machine, machine

RED = new_team("red")


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, "ann", red=RED) as made:
        yield made


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, "bob", red=RED) as made:
        yield made


def next_of(at: Machine, text: str, file: str = "web.raw", team: str | None = None) -> Manifest:
    at.write(file, text)
    return at.publish(file, team=team)


def sides(at: Machine, manifest: Manifest) -> list[bytes]:
    """The other sides of a fork, as far as a machine knows."""
    header = manifest.header
    return [
        row.id for row in other_sides(at.world.catalog.manifests.versions(header.team, header.name), manifest)
    ]


def follows(manifest: Manifest, *before: Manifest) -> bool:
    """Whether it follows exactly these."""
    return sorted(manifest.header.followed) == sorted(one.id for one in before)


# -- numbers -----------------------------------------------------------------------------------------


def test_a_new_name_is_version_1_and_follows_nothing(ann: Machine) -> None:
    first = next_of(ann, "first")
    assert (first.header.full_name, first.header.version, first.header.follows) == ("web", 1, ())
    assert (first.header.created, first.header.by) == (CREATED, "ann@lab-abc234")


def test_a_file_that_was_written_to_is_the_next_version(ann: Machine) -> None:
    first, second, third = (next_of(ann, text) for text in ("1", "2", "3"))
    assert [one.header.version for one in (first, second, third)] == [1, 2, 3]
    assert follows(second, first) and follows(third, second)


def test_what_has_not_changed_is_published_once(ann: Machine) -> None:
    first = next_of(ann, "first")
    assert ann.publish("web.raw") == first
    ann.path("web.raw").touch()
    assert ann.publish("web.raw", note="a note comes too late") == first
    assert ann.world.catalog.manifests.matching() == ann.world.catalog.manifests.versions("", "web")


def test_going_back_to_older_content_is_a_new_version(ann: Machine) -> None:
    """So that nobody who has seen the one before is told of an old state."""
    first, second = next_of(ann, "first"), next_of(ann, "second")
    back = next_of(ann, "first")
    assert back.header.id == first.header.id
    assert back.header.version == 3 and follows(back, second)


def test_a_fetched_file_goes_on_from_the_version_it_came_as(ann: Machine, bob: Machine) -> None:
    first = next_of(ann, "first")
    bob.take(first, ann.path("web.raw"), "web.raw")
    assert bob.publish("web.raw") == first, "it is passed on as its publisher signed it"
    second = next_of(bob, "bob's")
    assert second.publisher == bob.key.public
    assert second.header.version == 2 and follows(second, first)


def test_numbers_of_strangers_count_for_nothing(ann: Machine, bob: Machine) -> None:
    for text in ("1", "2", "3"):
        ann.sees(next_of(bob, text))
    first = next_of(ann, "ann's")
    assert (first.header.version, first.header.follows) == (1, ())
    assert next_of(ann, "ann's second").header.version == 2


def test_numbers_end(ann: Machine) -> None:
    first = next_of(ann, "first")
    last = sign_header(
        msgspec.structs.replace(first.header, version=MAX_VERSION, follows=(first.id.hex(),)), ann.key
    )
    keep_manifest(ann.world.catalog, last)
    known = ann.world.known(ann.write("web.raw", "last"))
    ann.world.catalog.held.hold(Held(known.path, "", "web", (last.id,), known.files[0]))
    with pytest.raises(UsageError) as caught:
        next_of(ann, "one more")
    assert "no next version of 'web'" in caught.value.what and "--as" in caught.value.hint
    assert ann.publish("web.raw", name="web2").header.version == 1


# -- forks -------------------------------------------------------------------------------------------


def test_two_machines_that_go_on_from_one_version_make_a_fork(ann: Machine, bob: Machine) -> None:
    first = next_of(ann, "first")
    bob.take(first, ann.path("web.raw"), "web.raw")
    mine, theirs = next_of(ann, "ann's"), next_of(bob, "bob's")
    bob.sees(mine)
    assert mine.header.version == theirs.header.version == 2
    assert follows(mine, first) and follows(theirs, first)
    assert follows(next_of(bob, "bob's next"), theirs), "what was only seen is not followed"


@pytest.mark.parametrize("change", [True, False], ids=["with more work", "as it was taken"])
def test_a_version_after_a_fork_was_settled_follows_both_sides(
    ann: Machine, bob: Machine, change: bool
) -> None:
    first = next_of(ann, "first")
    bob.take(first, ann.path("web.raw"), "web.raw")
    theirs, mine = next_of(ann, "ann's"), next_of(bob, "bob's")
    bob.take(theirs, ann.path("web.raw"), "web.raw", superseded=(mine.id,))
    if change:
        bob.write("web.raw", "bob's next")
    settled = bob.publish("web.raw")
    assert settled.header.version == 3 and follows(settled, mine, theirs)
    assert bob.publish("web.raw") == settled
    assert follows(next_of(bob, "after that"), settled)


def test_a_side_of_a_fork_knows_the_other_newest_ones(ann: Machine, bob: Machine) -> None:
    first = next_of(ann, "first", team="red")
    bob.take(first, ann.path("web.raw"), "web.raw")
    second, mine = next_of(ann, "ann's"), next_of(bob, "bob's")
    assert sides(bob, mine) == [], "what was not seen is not known"
    bob.sees(second, third := next_of(ann, "ann's next"))
    assert sides(bob, mine) == [third.id]
    assert sides(bob, first) == [], "both sides follow it"
    bob.take(third, ann.path("web.raw"), "web.raw", superseded=(mine.id,))
    settled = next_of(bob, "both")
    assert sides(bob, settled) == sides(bob, mine) == []


def test_two_members_that_begin_one_name_at_the_same_time_make_a_fork(ann: Machine, bob: Machine) -> None:
    theirs, mine = next_of(ann, "ann's", team="red"), next_of(bob, "bob's", team="red")
    bob.sees(theirs)
    assert sides(bob, mine) == [theirs.id]


def test_a_name_that_its_publisher_begins_anew_is_no_fork(ann: Machine) -> None:
    """The file was discarded, say, and another VM has its name now."""
    next_of(ann, "first", team="red")
    ann.world.catalog.forget_image(ann.path("web.raw"))
    assert sides(ann, next_of(ann, "another VM", team="red")) == []


@pytest.mark.parametrize("common", [False, True], ids=["no common past", "one past"])
def test_a_stranger_s_version_of_a_name_is_no_side_of_a_fork(
    ann: Machine, bob: Machine, common: bool
) -> None:
    """Outside teams a name belongs to a publisher, whatever others make of its versions."""
    first = next_of(ann, "first")
    if common:
        bob.take(first, ann.path("web.raw"), "web.raw")
    theirs, mine = next_of(bob, "bob's"), next_of(ann, "ann's")
    ann.sees(theirs)
    bob.sees(mine)
    assert sides(ann, mine) == sides(bob, theirs) == []


def test_a_file_that_was_moved_over_another_is_the_version_that_it_is(ann: Machine) -> None:
    """It was put right under another name, published, and moved to where it belongs."""
    first = next_of(ann, "first", team="red")
    ann.write("rescued.raw", "put right")
    second = ann.publish("rescued.raw", team="red", name="web", note="put right", continues=True)
    assert follows(second, first)
    os.replace(ann.path("rescued.raw"), ann.path("web.raw"))
    assert ann.publish("web.raw") == second
    assert sides(ann, second) == []
    assert follows(next_of(ann, "third"), second)


def test_what_was_thrown_away_for_what_follows_it_makes_no_new_version(ann: Machine, bob: Machine) -> None:
    """Unpublished changes were dropped for the next version: the file is that, and nothing else."""
    first = next_of(ann, "first")
    bob.take(first, ann.path("web.raw"), "web.raw")
    second = next_of(ann, "second")
    bob.write("web.raw", "work that nobody needs")
    bob.take(second, ann.path("web.raw"), "web.raw", superseded=(first.id,))
    assert bob.publish("web.raw") == second


def test_so_many_sides_are_followed_as_may_be(ann: Machine, bob: Machine) -> None:
    sides = []
    for number in range(MAX_FOLLOWS + 2):
        bob.write(f"{number}.raw", str(number))
        sides.append(bob.publish(f"{number}.raw", name="web"))
        keep_manifest(ann.world.catalog, sides[-1])
    known = ann.world.known(ann.write("web.raw", "ann's"))
    held = Held(known.path, "", "web", tuple(side.id for side in sides), known.files[0])
    ann.world.catalog.held.hold(held)
    assert follows(ann.publish("web.raw"), *sides[:MAX_FOLLOWS]), "the one that it holds comes first"


# -- one file, one line ------------------------------------------------------------------------------


def test_a_file_that_is_moved_keeps_its_history(ann: Machine) -> None:
    manifests = [next_of(ann, "1", "a/web.raw")]
    for number, place in enumerate(["b", "c", "d"], 2):
        path = ann.path(f"{place}/web.raw")
        path.parent.mkdir()
        shutil.move(ann.path(f"{chr(ord(place) - 1)}/web.raw"), path)
        manifests.append(next_of(ann, str(number), f"{place}/web.raw"))
    assert [one.header.version for one in manifests] == [1, 2, 3, 4]
    assert all(follows(later, before) for before, later in pairwise(manifests))


def test_a_file_that_is_moved_and_not_changed_is_published_as_it_was(ann: Machine) -> None:
    first = next_of(ann, "1", "a/web.raw")
    ann.path("b").mkdir()
    shutil.move(ann.path("a/web.raw"), ann.path("b/web.raw"))
    assert ann.publish("b/web.raw") == first


def test_a_copy_is_no_version_and_no_fork(ann: Machine) -> None:
    first = next_of(ann, "first", "a/web.raw")
    ann.path("b").mkdir()
    shutil.copy(ann.path("a/web.raw"), ann.path("b/web.raw"))
    assert ann.publish("b/web.raw") == first
    second = next_of(ann, "second", "a/web.raw")
    assert ann.publish("b/web.raw") == first, "it holds what it held"
    assert follows(second, first)
    assert [row.version for row in ann.world.catalog.manifests.versions("", "web")] == [2, 1]


def test_a_copy_of_several_versions_of_one_content_is_the_newest(ann: Machine) -> None:
    next_of(ann, "first", "a/web.raw")
    next_of(ann, "second", "a/web.raw")
    third = next_of(ann, "first", "a/web.raw")
    ann.path("b").mkdir()
    shutil.copy(ann.path("a/web.raw"), ann.path("b/web.raw"))
    assert ann.publish("b/web.raw") == third


def test_a_file_goes_by_the_name_it_was_published_under(ann: Machine) -> None:
    first = ann.publish(ann.write("disk.raw", "first").name, name="router")
    second = next_of(ann, "second", "disk.raw")
    assert second.header.name == "router" and follows(second, first)


def test_a_file_that_is_called_otherwise_is_still_a_version_of_what_was_fetched(
    ann: Machine, bob: Machine
) -> None:
    first = next_of(ann, "first")
    bob.take(first, ann.path("web.raw"), "vm01/disk.raw")
    assert bob.publisher.held_version(bob.world.known(bob.path("vm01/disk.raw")), None) == first
    assert bob.publish("vm01/disk.raw") == first
    second = next_of(bob, "next", "vm01/disk.raw")
    assert (second.header.name, second.header.version) == ("web", 2) and follows(second, first)


def test_what_was_written_to_or_is_for_others_is_not_passed_on(ann: Machine, bob: Machine) -> None:
    first = next_of(ann, "first")
    bob.take(first, ann.path("web.raw"), "web.raw")
    known = bob.world.known(bob.path("web.raw"))
    assert bob.publisher.held_version(known, "") == first
    assert bob.publisher.held_version(known, "red") is None
    bob.write("web.raw", "next")
    assert bob.publisher.held_version(bob.world.known(bob.path("web.raw")), "") is None


def test_another_file_that_continues_a_name_is_its_next_version(ann: Machine) -> None:
    first = next_of(ann, "first")
    ann.write("rebuilt.raw", "second")
    second = ann.publish("rebuilt.raw", name="web", continues=True)
    assert second.header.version == 2 and follows(second, first)
    ann.write("other.raw", "other")
    assert ann.publish("other.raw", name="web").header.follows == ()


PUBLISHER = """
import sys
from pathlib import Path
from overlaysync.ops.library import Library
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.ops.publish import Publisher
from overlaysync.trust.keys import load_or_make
root = Path(sys.argv[1])
catalog = Catalog.open(Home(root / "home", root / "config").prepare())
library = Library(catalog)
known = library.examine(root / "images" / "web.raw", now=1.0)
publisher = Publisher(library, load_or_make(root / "key"), "ann@lab")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    print(publisher.publish(known, team=None, created="2026-01-31T12:00:00Z").id.hex())
catalog.close()
"""


@pytest.mark.slow
def test_processes_that_publish_one_file_make_one_version(ann: Machine, tmp_path: Path) -> None:
    first = next_of(ann, "first")
    ann.write("web.raw", "second")
    command = [sys.executable, "-c", PUBLISHER, str(tmp_path / "ann")]
    start = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(4)]
    for process in start:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in start:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    told = {line for process in start for line in process.communicate()[0].split()}
    assert [process.returncode for process in start] == [0] * 4
    (second, before) = ann.world.catalog.manifests.versions("", "web")
    assert told == {second.id.hex()}
    assert before.id == first.id and second.follows == (first.id,)


# -- notes, names, teams -----------------------------------------------------------------------------


def test_a_note_is_of_one_version(ann: Machine) -> None:
    ann.write("web.raw", "1")
    assert ann.publish("web.raw", note="week 3").header.note == "week 3"
    assert next_of(ann, "2").header.note == ""


def test_a_public_name_becomes_one_s_own_when_it_is_nobody_s(ann: Machine, bob: Machine) -> None:
    next_of(ann, "1")
    pins = ann.world.catalog.pins
    assert pins.pins() == [Pin("", "web", ann.key.public, CREATED, label="ann@lab-abc234")]
    theirs = next_of(bob, "bob's", "db.raw")
    pins.pin_first(Pin("", "db", theirs.publisher, CREATED))
    ann.take(theirs, bob.path("db.raw"), "db.raw")
    next_of(ann, "ann's", "db.raw")
    ann.write("in-team.raw", "x")
    ann.publish("in-team.raw", team="red")
    assert [(pin.name, pin.publisher) for pin in pins.pins()] == [
        ("db", bob.key.public),
        ("web", ann.key.public),
    ]


def test_members_go_on_from_each_other_s_versions(ann: Machine, bob: Machine) -> None:
    ann.write("web.raw", "1")
    first = ann.publish("web.raw", team="red")
    assert first.belongs({"red": RED})
    bob.take(first, ann.path("web.raw"), "web.raw")
    second = next_of(bob, "2")
    assert second.header.full_name == "red/web" and second.belongs({"red": RED})
    assert second.header.version == 2 and follows(second, first)


def test_a_team_s_history_and_the_public_one_are_two(ann: Machine) -> None:
    ann.write("web.raw", "1")
    public = ann.publish("web.raw", team="")
    private = ann.publish("web.raw", team="red")
    assert private.header.version == 1 and not private.header.follows and public.id != private.id
    ann.write("web.raw", "2")
    assert follows(ann.publish("web.raw", team=""), public)
    assert follows(ann.publish("web.raw"), public), "it is for whom it was last"
    assert follows(ann.publish("web.raw", team="red"), private)


def test_a_file_that_is_published_under_two_names_goes_on_in_both(ann: Machine) -> None:
    first = next_of(ann, "1")
    other = ann.publish("web.raw", name="router")
    assert other.header.version == 1 and not other.header.follows
    second = next_of(ann, "2")
    assert second.header.name == "router" and follows(second, other)
    assert follows(ann.publish("web.raw", name="web"), first)


def test_a_team_that_was_left_is_not_forgotten_for_what_was_public_as_well(ann: Machine) -> None:
    ann.write("web.raw", "1")
    ann.publish("web.raw", team="")
    ann.publish("web.raw", team="red")
    ann.write("web.raw", "2")
    outside = Machine(ann.name, ann.world, ann.key, {"red": new_team("red")})
    with pytest.raises(NotAllowedError):
        outside.publish("web.raw")


def test_who_is_not_in_a_team_publishes_nothing_for_it(ann: Machine) -> None:
    ann.write("web.raw", "1")
    with pytest.raises(NotAllowedError) as caught:
        ann.publish("web.raw", team="blue")
    assert "team join blue" in caught.value.hint
    assert ann.world.catalog.manifests.versions("blue", "web") == [] and ann.world.catalog.held.all() == []


def test_what_was_published_with_another_key_of_the_team_is_not_gone_on_from(tmp_path: Path) -> None:
    """A team that was made anew has the same name, and an ex-member's key counts no more."""
    old, new = new_team("red"), new_team("red")
    with machine(tmp_path, "ann", red=old) as before:
        before.write("web.raw", "1")
        first = before.publish("web.raw", team="red")
    assert first.belongs({"red": old}) and not first.belongs({"red": new})
    with machine(tmp_path / "after", "ann", red=new) as ann:
        path = ann.write("web.raw", "1")
        keep_manifest(ann.world.catalog, first)
        known = ann.world.known(path)
        ann.world.catalog.held.hold(Held(known.path, "red", "web", (first.id,), known.files[0]))
        anew = ann.publish("web.raw", team="red")
        assert anew.id != first.id and anew.belongs({"red": new}) and not anew.header.follows


@pytest.mark.parametrize("moved", [True, False])
def test_a_team_s_file_that_was_moved_and_written_to_does_not_become_public(
    ann: Machine, moved: bool
) -> None:
    ann.write("a/web.raw", "1")
    first = ann.publish("a/web.raw", team="red")
    file = "a/web.raw"
    if moved:
        ann.path("b").mkdir()
        file = "b/web.raw"
        shutil.move(ann.path("a/web.raw"), ann.path(file))
    ann.write(file, "2")
    known = ann.world.known(ann.path(file))
    assert ann.publisher.known_audience(known) == "red"
    second = ann.publish(file)
    assert second.header.full_name == "red/web" and follows(second, first)
