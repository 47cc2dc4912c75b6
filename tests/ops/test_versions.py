"""How a file here stands to a version that is offered for its place: every state, and what is in between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.ops.loss import would_be_lost
from overlaysync.ops.manifest_rows import manifest_row
from overlaysync.ops.versions import (
    MAX_PAST,
    Standing,
    State,
    compare,
    history_of,
    hold_again,
    is_news,
    left_behind,
    past_envelopes,
    settled,
)
from overlaysync.trust.envelope import Manifest, open_envelope
from overlaysync.trust.teams import new_team
from tests.ops.machines import CREATED, Machine, machine

pytestmark = pytest.mark.holds("A1")

RED = new_team("red")


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, "ann", red=RED) as made:
        yield made


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path, "bob", red=RED) as made:
        yield made


def standing(at: Machine, file: str, offered: Manifest) -> Standing:
    known = at.world.known(at.path(file))
    return compare(at.world.catalog, known.path, known.content.id, offered)


def state(at: Machine, file: str, offered: Manifest) -> State:
    return standing(at, file, offered).state


def versions_of(standing: Standing) -> list[int]:
    return [row.version for row in standing.held]


def line(at: Machine, count: int, file: str = "web.raw") -> list[Manifest]:
    """Versions of one file, each following the one before."""
    made = []
    for number in range(1, count + 1):
        at.write(file, f"{at.name} {number}")
        made.append(at.publish(file))
    return made


def taken(ann: Machine, bob: Machine) -> Manifest:
    """Bob has fetched Ann's first version."""
    path = ann.write("web.raw", "first")
    manifest = ann.publish("web.raw")
    bob.take(manifest, path, "web.raw")
    return manifest


def next_of(at: Machine, text: str, file: str = "web.raw") -> Manifest:
    at.write(file, text)
    return at.publish(file)


# -- every state -------------------------------------------------------------------------------------


def test_the_same_content_is_the_same_whatever_its_history(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    assert state(bob, "web.raw", first) is State.SAME
    next_of(ann, "second")
    again = next_of(ann, "first")
    assert again.header.version == 3 and again.header.id == first.header.id
    assert state(bob, "web.raw", again) is State.SAME
    # Even where nothing is known of the file but what is in it.
    shutil.copy(bob.path("web.raw"), bob.path("copy.raw"))
    assert standing(bob, "copy.raw", first) == Standing(State.SAME)


def test_what_follows_the_version_here_directly_or_through_others_is_a_fast_forward(
    ann: Machine, bob: Machine
) -> None:
    taken(ann, bob)
    second, third, fourth = (next_of(ann, text) for text in ("second", "third", "fourth"))
    assert state(bob, "web.raw", second) is State.BEHIND
    bob.sees(second, third)
    found = standing(bob, "web.raw", fourth)
    assert (found.state, versions_of(found)) == (State.BEHIND, [1])


def test_without_the_headers_in_between_it_is_no_fast_forward(ann: Machine, bob: Machine) -> None:
    taken(ann, bob)
    second, third = next_of(ann, "second"), next_of(ann, "third")
    assert state(bob, "web.raw", third) is State.FORKED
    bob.sees(second)
    assert state(bob, "web.raw", third) is State.BEHIND


def test_what_the_version_here_follows_is_older(ann: Machine) -> None:
    first, second, third = line(ann, 3)
    for older in (first, second):
        found = standing(ann, "web.raw", older)
        assert (found.state, versions_of(found)) == (State.NEWER, [3])
    assert state(ann, "web.raw", third) is State.SAME


def test_two_that_follow_the_same_one_are_a_fork(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    mine, theirs = next_of(bob, "bob's"), next_of(ann, "ann's")
    assert mine.header.version == theirs.header.version == 2
    found = standing(bob, "web.raw", theirs)
    assert (found.state, versions_of(found)) == (State.FORKED, [2])
    assert found.common is not None and found.common.id == first.id
    found = standing(ann, "web.raw", mine)
    assert (found.state, versions_of(found)) == (State.FORKED, [2])
    # A longer side is no newer.
    bob.sees(theirs)
    assert state(bob, "web.raw", next_of(ann, "more of ann's")) is State.FORKED


def test_two_that_have_nothing_in_common_are_a_fork(ann: Machine, bob: Machine) -> None:
    mine, theirs = next_of(ann, "ann's"), next_of(bob, "bob's")
    assert mine.header.version == theirs.header.version == 1
    found = standing(ann, "web.raw", theirs)
    assert (found.state, found.common) == (State.FORKED, None)


@pytest.mark.parametrize("offered", ["the same", "newer", "a fork"])
def test_what_was_written_to_is_unpublished_work_whatever_is_offered(
    ann: Machine, bob: Machine, offered: str
) -> None:
    first = taken(ann, bob)
    bob.write("web.raw", "work")
    manifest = first if offered == "the same" else next_of(ann, "second")
    if offered == "a fork":
        bob.write("other.raw", "else")
        manifest = bob.publish("other.raw", name="web")
    found = standing(bob, "web.raw", manifest)
    assert (found.state, versions_of(found)) == (State.CHANGED, [1])


def test_what_nothing_is_known_of_is_unknown(ann: Machine, bob: Machine) -> None:
    bob.write("web.raw", "nobody has seen it")
    offered = next_of(ann, "first")
    assert standing(bob, "web.raw", offered) == Standing(State.UNKNOWN)
    bob.sees(offered)
    assert standing(bob, "web.raw", offered) == Standing(State.UNKNOWN)


def test_what_is_published_under_another_name_or_for_another_team_is_no_fork(ann: Machine) -> None:
    ann.write("web.raw", "mine")
    ann.publish("web.raw", name="db")
    ann.write("other.raw", "other")
    for offered in (ann.publish("other.raw", name="web"), ann.publish("other.raw", name="db", team="red")):
        found = standing(ann, "web.raw", offered)
        assert (found.state, versions_of(found)) == (State.UNKNOWN, [1])


# -- in between --------------------------------------------------------------------------------------


def test_a_file_that_was_copied_here_holds_the_version_that_it_is(ann: Machine, bob: Machine) -> None:
    """By a USB stick, say: there is no note of it, but its content is a version that was seen."""
    path = ann.write("web.raw", "first")
    first = ann.publish("web.raw")
    shutil.copy(path, bob.path("web.raw"))
    second, third = next_of(ann, "second"), next_of(ann, "third")
    assert state(bob, "web.raw", second) is State.UNKNOWN
    bob.sees(first, second, third)
    assert state(bob, "web.raw", third) is State.BEHIND


def test_a_file_that_was_put_back_holds_the_version_that_it_is(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    backup = shutil.copy(bob.path("web.raw"), bob.path("backup.raw"))
    second = next_of(ann, "second")
    bob.take(second, ann.path("web.raw"), "web.raw")
    shutil.copy(backup, bob.path("web.raw"))
    found = standing(bob, "web.raw", second)
    assert (found.state, versions_of(found)) == (State.BEHIND, [1])
    assert first.header.version == 1


def test_after_a_fork_was_settled_what_follows_either_side_is_judged_by_what_is_in_the_file(
    ann: Machine, bob: Machine
) -> None:
    taken(ann, bob)
    mine, theirs = next_of(bob, "bob's"), next_of(ann, "ann's")
    bob.take(theirs, ann.path("web.raw"), "web.raw", superseded=(mine.id,))
    assert state(bob, "web.raw", theirs) is State.SAME
    assert state(bob, "web.raw", next_of(ann, "more of ann's")) is State.BEHIND
    assert state(bob, "web.raw", mine) is State.FORKED


# -- what a file holds -------------------------------------------------------------------------------


def test_what_was_chosen_over_others_is_held_with_them(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    mine, theirs = next_of(bob, "bob's"), next_of(ann, "ann's")
    catalog = bob.world.catalog
    assert settled(catalog, theirs, (mine.id,)) == (theirs.id, mine.id)
    # What it follows itself, or is, adds nothing.
    assert settled(catalog, theirs, (first.id, theirs.id)) == (theirs.id,)
    assert settled(catalog, theirs, (mine.id, mine.id)) == (theirs.id, mine.id)
    many = tuple(bytes([number]) * 32 for number in range(20))
    assert settled(catalog, theirs, many) == (theirs.id, *many[:15])


def test_what_is_newer_than_what_a_file_holds_is_news(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    second, third = next_of(ann, "second"), next_of(ann, "first")
    catalog = bob.world.catalog
    assert is_news(catalog, (first.id,), second)
    assert not is_news(catalog, (first.id,), third), "how they hang together is not known here"
    bob.sees(second)
    assert is_news(catalog, (first.id,), third)
    assert not is_news(catalog, (third.id,), first) and not is_news(catalog, (first.id,), first)
    assert not is_news(catalog, (), third)


def test_a_file_that_was_written_anew_holds_what_it_held(ann: Machine) -> None:
    manifest = next_of(ann, "first")
    path = ann.path("web.raw")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    known = ann.world.known(path)
    hold_again(ann.world.catalog, known)
    held = ann.world.catalog.held.at(str(path))
    assert held is not None and (held.manifests, held.file) == ((manifest.id,), known.files[0])
    other = ann.world.known(ann.write("other.raw", "x"))
    hold_again(ann.world.catalog, other)
    assert ann.world.catalog.held.at(other.path) is None


def test_what_another_version_was_only_chosen_over_is_not_kept_by_it(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    mine, theirs = next_of(ann, "ann's"), next_of(bob, "bob's")
    # Bob looks at Ann's side, and then decides for his own.
    own = bob.path("web.raw").read_bytes()
    bob.sees(mine)
    bob.take(mine, ann.path("web.raw"), "web.raw", superseded=(theirs.id,))
    bob.path("web.raw").write_bytes(own)
    settled_by_bob = bob.publish("web.raw")
    assert settled_by_bob.header.followed == (theirs.id, mine.id)
    ann.sees(first, theirs, settled_by_bob)
    assert state(ann, "web.raw", settled_by_bob) is State.BEHIND
    known = ann.world.known(ann.path("web.raw"))
    assert would_be_lost(ann.world.library, known, own=ann.key.public)


def test_a_machine_that_lists_what_follows_a_version_has_that_no_longer(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    second = next_of(ann, "second")
    catalog, label = bob.world.catalog, first.header.by
    catalog.holders.note(first.header.content_id, first.publisher, label, at=CREATED)

    def gone(*listed: Manifest) -> set[bytes]:
        return left_behind(catalog, first.publisher, label, [*map(manifest_row, listed)])

    assert gone(first) == gone(first, second) == gone() == set()
    assert gone(second) == {first.header.content_id}
    bob.sees(second)
    assert gone(next_of(ann, "third")) == {first.header.content_id}
    assert left_behind(catalog, b"C" * 32, "carl@lab", [manifest_row(second)]) == set()
    catalog.holders.forget(b"C" * 32, "carl@lab", gone(second))
    assert catalog.holders.of(first.header.content_id)
    catalog.holders.forget(first.publisher, label, gone(second))
    assert catalog.holders.of(first.header.content_id) == []


# -- what is told to others --------------------------------------------------------------------------


def test_the_past_of_a_version_the_newest_first(ann: Machine) -> None:
    made = line(ann, 4)
    catalog = ann.world.catalog
    assert [*map(open_envelope, past_envelopes(catalog, made[3]))] == [made[2], made[1], made[0]]
    assert past_envelopes(catalog, made[0]) == ()
    history = history_of(catalog, [made[3]])
    assert history.is_before(made[0].id, made[3].id)


def test_the_other_side_of_a_fork_is_in_no_past(ann: Machine, bob: Machine) -> None:
    first = taken(ann, bob)
    mine, theirs = next_of(bob, "bob's"), next_of(ann, "ann's")
    bob.sees(theirs)
    assert [*map(open_envelope, past_envelopes(bob.world.catalog, mine))] == [first]
    bob.take(theirs, ann.path("web.raw"), "web.raw", superseded=(mine.id,))
    merged = bob.publish("web.raw")
    past = {open_envelope(one).id for one in past_envelopes(bob.world.catalog, merged)}
    assert past == {first.id, mine.id, theirs.id}


def test_the_past_that_is_told_is_bounded(ann: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlaysync.ops.versions.MAX_PAST", 2)
    made = line(ann, 5)
    past = past_envelopes(ann.world.catalog, made[4])
    assert [open_envelope(one).header.version for one in past] == [4, 3]
    assert MAX_PAST == 1024
