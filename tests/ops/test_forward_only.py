"""What fetch --replace may replace that sync may not, and what both may."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from overlaysync.errors import WouldDestroyError
from overlaysync.model.digest import format_id
from overlaysync.ops.manifest_rows import keep_manifest
from overlaysync.ops.publish import Publisher
from overlaysync.ops.replacement import Asked, Rules, Verdict, judge
from overlaysync.ops.versions import State
from overlaysync.trust.envelope import Manifest, sign_header
from overlaysync.trust.keys import load_or_make
from overlaysync.units import MIB
from tests.images import create, draw
from tests.ops.world import NOW, World

pytestmark = pytest.mark.qemu

FETCH = Rules(replace=True)
SYNC = Rules(replace=True, forward_only=True)
CREATED = "2026-01-31T12:00:00Z"


@pytest.fixture
def web(world: World) -> Path:
    path = create(world.images / "web.qcow2", MIB)
    draw(path, "AB")
    return path


def published(world: World, path: Path) -> Manifest:
    publisher = Publisher(world.library, load_or_make(world.home.node_key), "ann@lab-abc234")
    return publisher.publish(world.known(path), team=None, created=CREATED)


def from_bob(world: World, like: Manifest, tmp_path: Path, *follows: Manifest) -> Manifest:
    """Another content that another publisher has signed, seen here."""
    header = msgspec.structs.replace(
        like.header,
        id=format_id(bytes([7]) * 32),
        result=format_id(bytes([7]) * 32),
        version=1 + max((one.header.version for one in follows), default=0),
        follows=tuple(sorted(one.id.hex() for one in follows)),
    )
    manifest = sign_header(header, load_or_make(tmp_path / "bob.key"), None)
    keep_manifest(world.catalog, manifest, at=CREATED)
    return manifest


def judged(world: World, path: Path, offered: Manifest, rules: Rules) -> Verdict:
    own = load_or_make(world.home.node_key).public
    return judge(world.library, str(path), Asked(offered, rules, own, NOW))


def test_both_move_an_unchanged_file_forward(world: World, web: Path, tmp_path: Path) -> None:
    first = published(world, web)
    second = from_bob(world, first, tmp_path, first)
    for rules in (FETCH, SYNC):
        verdict = judged(world, web, second, rules)
        assert verdict.entry and verdict.standing and verdict.standing.state is State.BEHIND


def test_sync_leaves_a_file_of_unknown_origin_also_where_nothing_would_be_lost(
    world: World, web: Path, tmp_path: Path
) -> None:
    """There is a copy of it, so that fetch --replace may; sync never asked whose it is."""
    theirs = from_bob(world, published(world, web), tmp_path)
    stray = create(world.images / "stray.qcow2", MIB)
    draw(stray, "C")
    world.known(Path(shutil.copy(stray, world.images / "copy.qcow2")))
    assert judged(world, stray, theirs, FETCH).entry
    with pytest.raises(WouldDestroyError) as caught:
        judged(world, stray, theirs, SYNC)
    assert "overlaysync fetch web --replace" in caught.value.hint


def test_sync_leaves_a_link(world: World, web: Path, tmp_path: Path) -> None:
    theirs = from_bob(world, published(world, web), tmp_path)
    link = world.images / "link.qcow2"
    link.symlink_to(web)
    assert judged(world, link, theirs, FETCH).entry
    with pytest.raises(WouldDestroyError) as caught:
        judged(world, link, theirs, SYNC)
    assert "overlaysync fetch web --replace" in caught.value.hint


def test_neither_takes_work_or_a_fork_and_what_is_said_can_be_typed(
    world: World, web: Path, tmp_path: Path
) -> None:
    first = published(world, web)
    second = from_bob(world, first, tmp_path, first)
    draw(web, "--C")
    way = "overlaysync fetch web --as NAME"
    for rules in (FETCH, SYNC):
        with pytest.raises(WouldDestroyError) as caught:
            judged(world, web, second, rules)
        assert f"overlaysync share '{web}'" in caught.value.hint and f": {way};" in caught.value.hint
    assert published(world, web).header.version == 2
    for rules in (FETCH, SYNC):
        with pytest.raises(WouldDestroyError, match="different publishers"):
            judged(world, web, second, rules)
