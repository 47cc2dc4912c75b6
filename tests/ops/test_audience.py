"""Whom an image is for when the user does not say; a team that was left is asked about, by its key."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from overlaysync.errors import NotAllowedError
from overlaysync.ops.publish import Edition, Publisher
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import NodeKey, load_or_make
from overlaysync.trust.teams import Team, new_team
from overlaysync.units import CHUNK
from tests.images import Op, apply, content, create, run
from tests.ops.world import NOW, World

pytestmark = pytest.mark.holds("C1")

AT = "2026-01-10T10:00:00Z"


@dataclass
class Site:
    """A node that is in some teams, and leaves them."""

    world: World
    key: NodeKey
    teams: dict[str, Team] = field(default_factory=dict)

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.world.library, self.key, "pl@bob", self.teams)

    def share(self, path: Path, team: str | None = None) -> Manifest:
        known = self.world.library.examine(str(path), now=NOW, accept_master=True)
        return self.publisher.publish_lineage(known, team=team, edition=Edition(AT))[0][1]

    def audience(self, path: Path) -> str:
        return self.share(path).header.team

    def refused(self, path: Path, team: str | None = None) -> NotAllowedError:
        with pytest.raises(NotAllowedError) as caught:
            self.share(path, team)
        return caught.value


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    world = World.make(tmp_path)
    yield Site(world, load_or_make(tmp_path / "key"), {"red": new_team("red"), "blue": new_team("blue")})
    world.catalog.close()


def raw(site: Site, name: str, byte: int = 1) -> Path:
    path = site.world.images / f"{name}.raw"
    path.write_bytes(bytes([byte]) * CHUNK)
    return path


def leave(site: Site) -> None:
    del site.teams["red"]


def make_anew(site: Site) -> None:
    site.teams["red"] = new_team("red")


LEAVING = pytest.mark.parametrize("change", [leave, make_anew])


def check_ways(error: NotAllowedError, *paths: Path) -> None:
    """It names the team, and has exactly two ways on."""
    named = " ".join(map(str, paths))
    assert "'red'" in error.what and "not in it any more" in error.why
    assert re.findall(r"overlaysync [^,]*", error.hint) == [
        f"overlaysync share --public {named}",
        f"overlaysync share --team TEAM {named}",
    ]


@LEAVING
def test_what_was_a_team_s_is_asked_about_when_the_team_was_left(
    site: Site, change: Callable[[Site], None]
) -> None:
    path = raw(site, "vm")
    site.share(path, "red")
    assert site.audience(path) == "red"
    change(site)
    check_ways(site.refused(path), path)
    # A copy, a changed one, and one that was moved are the team's as well.
    copy = raw(site, "copy")
    check_ways(site.refused(copy), copy)
    raw(site, "vm", 2)
    check_ways(site.refused(path), path)
    (site.world.images / "moved").mkdir()
    moved = path.rename(site.world.images / "moved" / "vm.raw")
    check_ways(site.refused(moved), moved)


@LEAVING
@pytest.mark.parametrize("team", ["", "blue"])
def test_it_can_be_shared_with_others_then_and_stays_so(
    site: Site, change: Callable[[Site], None], team: str
) -> None:
    path = raw(site, "vm")
    site.share(path, "red")
    change(site)
    manifest = site.share(path, team)
    header = manifest.header
    assert (header.team, header.version, header.follows) == (team, 1, ())
    assert manifest.belongs(site.teams)
    assert site.share(path).id == manifest.id


def test_a_team_made_anew_gets_it_when_the_user_says_so_and_nothing_of_the_old_one(site: Site) -> None:
    path = raw(site, "vm")
    old = site.share(path, "red")
    raw(site, "vm", 2)
    assert site.share(path).header.version == 2
    make_anew(site)
    new = site.share(path, "red")
    assert (new.header.version, new.header.follows) == (1, ())
    assert new.belongs(site.teams) and not old.belongs(site.teams)
    assert site.share(path).id == new.id


def test_who_comes_back_with_the_old_code_goes_on(site: Site) -> None:
    path, red = raw(site, "vm"), site.teams["red"]
    first = site.share(path, "red")
    leave(site)
    site.refused(path)
    site.teams["red"] = red
    raw(site, "vm", 2)
    assert site.share(path).header.followed == (first.id,)


@pytest.mark.qemu
@LEAVING
def test_a_master_of_a_team_that_was_left_becomes_nobody_else_s_by_an_overlay(
    site: Site, change: Callable[[Site], None]
) -> None:
    master = raw(site, "master")
    site.share(master, "red")
    overlay = create(site.world.images / "vm.qcow2", backing=master)
    apply(overlay, [Op("write", 0, 512, 3)])
    change(site)
    check_ways(site.refused(overlay), master, overlay)
    for team, option in (("", "--public"), ("blue", "--team blue")):
        error = site.refused(overlay, team)
        assert str(master) in error.why and f"{option} {master} {overlay}" in error.hint
    if "red" in site.teams:
        assert str(master) in site.refused(overlay, "red").hint
    assert len(site.world.catalog.manifests.matching()) == 1, "nothing was published"
    site.share(master, "blue")
    assert site.share(overlay, "blue").header.team == "blue"


@pytest.mark.qemu
def test_a_master_that_has_changed_is_still_the_team_s(site: Site) -> None:
    """Its new content is known to nobody; whom it is for is."""
    master = raw(site, "master")
    site.share(master, "red")
    raw(site, "master", 2)
    overlay = create(site.world.images / "vm.qcow2", backing=master)
    for team in ("", "blue"):
        assert "team 'red' only" in site.refused(overlay, team).why
    assert site.share(overlay, "red").header.team == "red"


def test_what_was_never_published_is_for_everybody(site: Site) -> None:
    path = raw(site, "vm")
    assert site.publisher.known_audience(site.world.known(path)) is None
    assert site.audience(path) == ""
    leave(site)
    assert site.audience(path) == ""


# -- what was made of an image -----------------------------------------------------------------------


def overlay_of(site: Site, name: str, base: Path, byte: int = 3) -> Path:
    overlay = create(site.world.images / f"{name}.qcow2", backing=base)
    apply(overlay, [Op("write", 0, 512, byte)])
    return overlay


def a_team_s_overlay(site: Site) -> tuple[Path, Path]:
    """A public master, and an overlay on it that is a team's and was written to since it was shared."""
    master = raw(site, "master")
    site.share(master, "")
    overlay = overlay_of(site, "web", master)
    site.share(overlay, "red")
    apply(overlay, [Op("write", CHUNK // 2, 512, 4)])
    master.chmod(0o444)
    return master, overlay


def promoted(site: Site, overlay: Path, master: Path) -> Path:
    return Path(site.world.promote(overlay, site.world.images / "pweb.qcow2").path)


def rebased(site: Site, overlay: Path, master: Path) -> Path:
    other = raw(site, "other", 2)
    other.chmod(0o444)
    return Path(site.world.rebase(overlay, other, site.world.images / "xweb.qcow2").path)


def adopted(site: Site, overlay: Path, master: Path) -> Path:
    world = site.world
    known = world.library.examine_over(str(overlay), world.known(master))
    return Path(world.maker.adopt(known, str(world.images / "aweb.qcow2"), now=NOW).path)


MAKING = pytest.mark.parametrize("make", [promoted, rebased, adopted])
Making = Callable[[Site, Path, Path], Path]


@pytest.mark.qemu
@MAKING
def test_what_was_made_of_a_team_s_image_is_the_team_s(site: Site, make: Making) -> None:
    master, overlay = a_team_s_overlay(site)
    made = make(site, overlay, master)
    overlay.unlink()
    # Also when it was written to, was moved, or is the source of something else.
    made.chmod(0o644)
    apply(made, [Op("write", 1024, 512, 7)])
    assert site.publisher.known_audience(site.world.known(made)) == "red"
    moved = site.world.images.rename(site.world.images.parent / "elsewhere") / made.name
    assert site.publisher.known_audience(site.world.known(moved)) == "red"
    assert site.audience(moved) == "red"


@pytest.mark.qemu
@LEAVING
@MAKING
def test_what_was_made_of_an_image_of_a_team_that_was_left_is_asked_about(
    site: Site, make: Making, change: Callable[[Site], None]
) -> None:
    master, overlay = a_team_s_overlay(site)
    made = make(site, overlay, master)
    change(site)
    check_ways(site.refused(made), made)


@pytest.mark.qemu
def test_what_was_made_of_what_was_made_is_the_team_s_as_well(site: Site) -> None:
    master, overlay = a_team_s_overlay(site)
    made = promoted(site, overlay, master)
    assert site.audience(Path(site.world.new(site.world.images / "vm.qcow2", made).path)) == "red"
    by_hand = overlay_of(site, "by_hand", made)
    assert site.audience(by_hand) == "red"
    assert "team 'red' only" in site.refused(by_hand, "").why


@pytest.mark.qemu
def test_what_shows_a_team_s_disk_is_the_team_s_whatever_made_it(site: Site) -> None:
    master = raw(site, "master")
    site.share(master, "")
    overlay = overlay_of(site, "web", master)
    site.share(overlay, "red")
    flat = site.world.images / "flat.raw"
    flat.write_bytes(content(overlay))
    assert site.audience(flat) == "red"


@pytest.mark.qemu
@MAKING
def test_what_was_made_of_a_public_image_is_public(site: Site, make: Making) -> None:
    master, overlay = a_team_s_overlay(site)
    site.share(overlay, "")
    site.share(raw(site, "other", 2), "")
    assert site.audience(make(site, overlay, master)) == ""


@pytest.mark.qemu
def test_a_new_overlay_on_a_public_master_is_public(site: Site) -> None:
    master, _ = a_team_s_overlay(site)
    made = Path(site.world.new(site.world.images / "vm.qcow2", master).path)
    apply(made, [Op("write", 0, 512, 9)])
    assert site.audience(made) == ""


# -- what holds a part of a team's data ----------------------------------------------------------------


def pages_of(first: int, count: int, seed: int = 1) -> list[Op]:
    """Writes of chunks that are like no others."""
    return [Op("write", number * CHUNK, CHUNK, seed + number) for number in range(first, first + count)]


def a_team_s_work(site: Site, cluster: int = CHUNK) -> tuple[Path, Path]:
    """A public master, and an overlay of 7 chunks on it that is a team's."""
    master = site.world.images / "master.raw"
    master.write_bytes(b"".join(bytes([number + 100]) * CHUNK for number in range(16)))
    site.share(master, "")
    overlay = create(site.world.images / "web.qcow2", backing=master, cluster_size=cluster)
    apply(overlay, pages_of(2, 7))
    site.share(overlay, "red")
    return master, overlay


def written_copy(site: Site, overlay: Path, name: str = "copy") -> Path:
    """A copy that a guest wrote to: one new chunk, and one of the team's written over."""
    copy = shutil.copyfile(overlay, site.world.images / f"{name}.qcow2")
    apply(copy, pages_of(8, 2, seed=50))
    return copy


def check_asked(error: NotAllowedError, path: Path, *ways: str) -> None:
    """Whom it is for is asked, and each way is a command about that file."""
    assert "until you choose an audience" in error.what
    assert re.findall(r"overlaysync [^;]*", error.hint) == [f"overlaysync share {way} {path}" for way in ways]


@pytest.mark.qemu
@pytest.mark.parametrize("cluster", [4096, CHUNK, 2 * CHUNK])
def test_a_copy_of_a_team_s_overlay_that_was_written_to_is_asked_about(site: Site, cluster: int) -> None:
    _, overlay = a_team_s_work(site, cluster)
    copy = written_copy(site, overlay)
    error = site.refused(copy)
    check_asked(error, copy, "--team red", "--public")
    assert "red/web:1" in error.why
    assert site.publisher.known_audience(site.world.known(copy)) == "red"
    # So is one that was flattened; and what became public by the user's word stays so.
    flat = site.world.images / "flat.raw"
    flat.write_bytes(content(copy))
    check_asked(site.refused(flat), flat, "--team red", "--public")
    assert site.share(copy, "").header.team == ""
    apply(copy, pages_of(12, 1, seed=90))
    assert site.audience(copy) == ""


@pytest.mark.qemu
@LEAVING
def test_so_it_is_when_the_team_was_left(site: Site, change: Callable[[Site], None]) -> None:
    _, overlay = a_team_s_work(site)
    apply(overlay, pages_of(12, 1))
    change(site)
    copy = shutil.copyfile(overlay, site.world.images / "copy.qcow2")
    error = site.refused(copy)
    check_asked(error, copy, "--team TEAM", "--public")
    assert "not in that team any more" in error.why


@pytest.mark.qemu
def test_a_public_master_that_a_team_s_overlay_was_committed_into_is_asked_about(site: Site) -> None:
    master, overlay = a_team_s_work(site)
    run("qemu-img", "commit", "-q", overlay)
    check_asked(site.refused(master), master, "--team red", "--public")
    # What stands on it is not public either, whoever made it.
    other = create(site.world.images / "other.qcow2", backing=master)
    apply(other, pages_of(14, 1))
    assert str(master) in site.refused(other, "").why


@pytest.mark.qemu
def test_what_has_only_public_data_in_common_with_a_team_s_is_public(site: Site) -> None:
    """The master's, and those of a public overlay that the team's was made of."""
    master, _ = a_team_s_work(site)
    other = create(site.world.images / "other.qcow2", backing=master)
    apply(other, pages_of(8, 8, seed=30))
    assert site.audience(other) == ""
    update = raw(site, "update")
    update.write_bytes(master.read_bytes()[: 15 * CHUNK] + bytes([7]) * CHUNK)
    assert site.audience(update) == ""
    started = create(site.world.images / "started.qcow2", backing=master)
    apply(started, pages_of(2, 7, seed=60))
    site.share(started, "")
    copy = shutil.copyfile(started, site.world.images / "teamwork.qcow2")
    apply(copy, pages_of(12, 1))
    site.share(copy, "red")
    again = written_copy(site, started, "again")
    assert site.audience(again) == ""


@pytest.mark.qemu
def test_an_overlay_that_is_called_like_a_team_s_on_the_same_master_is_asked_about(site: Site) -> None:
    """After a home was lost, only the team's catalog was seen again, and no digest of its data."""
    _, overlay = a_team_s_work(site)
    (row,) = site.world.catalog.manifests.matching(team="red")
    apply(overlay, pages_of(12, 1))
    lost = World.make(site.world.images.parent / "new")
    new = Site(lost, site.key, site.teams)
    assert new.publisher.known_audience(lost.known(overlay)) is None
    lost.catalog.manifests.note_seen([row], at=AT)
    check_asked(new.refused(overlay), overlay, "--team red", "--public")
    moved = overlay.rename(overlay.with_name("another.qcow2"))
    assert new.audience(moved) == ""
    lost.catalog.close()
