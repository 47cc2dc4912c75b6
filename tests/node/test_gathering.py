"""What a share takes from a directory that others may write to: its owner's own files, opened once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overlaysync.errors import ImageError, InUseError, NotAllowedError
from overlaysync.formats.folders import DEEPEST, Folder, images_in
from overlaysync.node.node import Node
from overlaysync.node.sharing import Share
from overlaysync.units import CHUNK, MIB
from tests.images import Op, apply, convert, create, draw, run
from tests.node.observers import Heard

OTHER = 12345
"""A user beside the one that runs the tests."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def common(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    made = tmp_path / "common"
    made.mkdir()
    made.chmod(0o1777)
    return made


class Meddling(Heard):
    """Does something as soon as an image is hashed."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__()
        self._meddle: Callable[[], None] | None = meddle

    def advance(self, size: int, source: str = "") -> None:
        meddle, self._meddle = self._meddle, None
        if meddle is not None:
            meddle()


def disk(path: Path, seed: int = 1, count: int = 4) -> Path:
    path.write_bytes(bytes([seed]) * (count * CHUNK))
    return path


def given_away(path: Path) -> Path:
    os.chown(path, OTHER, OTHER)
    return path


def shared(share: Share) -> dict[str, str]:
    """Name and version by path."""
    headers = {one.known.path: one.manifest.header for one in share.shared}
    return {path: f"{header.name}:{header.version}" for path, header in headers.items()}


def sharing(node: Node, heard: Heard, *paths: Path) -> Share:
    share = Share(node, [str(path) for path in paths], None, heard)
    share.publish_all()
    return share


# -- what others put there ---------------------------------------------------------------------------


def test_a_file_swapped_for_a_link_while_others_are_hashed_is_not_followed(
    node: Node, common: Path, tmp_path: Path
) -> None:
    secret = disk(tmp_path / "secret.raw", 7)
    first, second = disk(common / "a.raw"), disk(common / "b.raw", 2)

    def swap() -> None:
        second.unlink()
        second.symlink_to(secret)

    heard = Meddling(swap)
    share = sharing(node, heard, common)
    assert shared(share) == {str(first): "a:1"}
    assert any("left out" in note and "b.raw" in note and "symlink" in note for note in heard.notes)
    assert not any(share.refresh() for _ in range(3))
    assert node.catalog.images.at(secret) is None, "not even read"
    share.close()


def test_a_named_file_swapped_for_a_link_is_not_followed(node: Node, common: Path, tmp_path: Path) -> None:
    secret = disk(tmp_path / "secret.raw", 7)
    first, second = disk(common / "a.raw"), given_away(disk(common / "b.raw", 2))

    def swap() -> None:
        second.unlink()
        second.symlink_to(secret)

    with pytest.raises(ImageError, match="symlink"):
        sharing(node, Meddling(swap), first, second)
    second.unlink()
    share = sharing(node, Heard(), first, given_away(disk(second, 2)))
    assert set(shared(share)) == {str(first), str(second)}, "naming is asking"
    swap()
    for _ in range(3):
        share.refresh()
    assert set(shared(share)) == {str(first)}
    share.close()


@pytest.mark.red_without("R5", "a directory on the way to a named file may become a link")
def test_the_directory_of_a_named_file_swapped_for_a_link_is_not_followed(
    node: Node, common: Path, tmp_path: Path
) -> None:
    for directory in (tmp_path / "private", common / "below"):
        directory.mkdir()
    secret = disk(tmp_path / "private" / "a.raw", 7)
    named = disk(common / "below" / "a.raw")
    share = sharing(node, Heard(), named)
    assert set(shared(share)) == {str(named)}
    named.parent.rename(common / "moved")
    named.parent.symlink_to(secret.parent)
    disk(common / "moved" / "a.raw", 3)  # so that it is looked at again
    for _ in range(3):
        share.refresh()
    assert shared(share) == {}
    share.close()


def test_a_directory_swapped_for_a_link_is_not_followed(node: Node, common: Path, tmp_path: Path) -> None:
    home = tmp_path / "private"
    home.mkdir()
    disk(home / "secret.raw", 7)
    below = common / "below"
    below.mkdir()
    disk(below / "a.raw")

    def swap() -> None:
        shutil.rmtree(below)
        below.symlink_to(home)

    with_link = Folder.open(str(common))
    found = {item.below: item for item in with_link.images(lambda _: True)}
    swap()
    with pytest.raises(OSError):
        found["below/a.raw"].open()
    assert not list(with_link.images(lambda _: True))
    with_link.close()
    # The directory that was named itself.
    below.unlink()
    below.mkdir()
    image = disk(below / "a.raw")
    share = sharing(node, Heard(), below)
    assert set(shared(share)) == {str(image)}
    swap()
    for _ in range(3):
        share.refresh()
    assert shared(share) == {}
    share.close()


@pytest.mark.qemu
def test_anothers_overlay_is_not_read_through(node: Node, common: Path) -> None:
    secret = create(common / "private.qcow2", MIB)
    draw(secret, "S")
    secret.chmod(0o600)
    mine = disk(common / "mine.raw")
    bait = common / "bait.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "qcow2", bait)
    given_away(bait)
    share = Share(node, [str(common)], None, heard := Heard())
    hidden = secret.rename(common / ".private.qcow2")  # not a file to be shared by itself
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", hidden, bait)
    share.publish_all()
    assert set(shared(share)) == {str(mine)}
    assert any("left out" in note and "bait.qcow2" in note and str(OTHER) in note for note in heard.notes)
    assert node.catalog.images.at(hidden) is None
    share.close()
    # Nor when an overlay of one's own stands on it, or it is found where masters are looked for.
    own = common / "own.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", bait, "-F", "qcow2", own)
    with pytest.raises(NotAllowedError, match="belongs to user 12345") as caught:
        node.library.examine(own, now=1.0)
    assert caught.value.hint.endswith(f"overlaysync id {bait}")
    with images_in([str(common)]) as found:
        bad = next(item for item in found if item.path == str(bait))
        with pytest.raises(NotAllowedError):
            bad.open()
    # Until that very file is named.
    node.library.examine(bait, now=1.0)
    node.catalog.images.mark_named(str(bait))
    assert node.library.examine(own, now=1.0).parent is not None
    given_away(bait.rename(common / "old.qcow2"))
    shutil.copy(common / "old.qcow2", bait)
    given_away(bait)
    with pytest.raises(NotAllowedError):
        node.library.examine(own, now=1.0)


@pytest.mark.qemu
def test_anothers_file_of_ones_own_name_is_not_the_next_version(node: Node, common: Path) -> None:
    mine = create(common / "debian.qcow2", MIB)
    draw(mine, "D")
    share = sharing(node, Heard(), common)
    assert shared(share) == {str(mine): "debian:1"}
    evil = given_away(disk(common / "debian.raw", 9))
    for _ in range(3):
        share.refresh()
    assert shared(share) == {str(mine): "debian:1"}
    share.close()
    heard = Heard()
    share = sharing(node, heard, common)
    assert shared(share) == {str(mine): "debian:1"}
    assert any("debian.raw" in note and "name the file itself" not in note for note in heard.notes)
    assert node.catalog.images.at(evil) is None
    share.close()


def test_what_others_may_write_to_is_left_out(node: Node, common: Path) -> None:
    good = disk(common / "good.raw")
    disk(common / "loose.raw", 2).chmod(0o666)
    os.link(good, common / "second.raw")
    heard = Heard()
    with pytest.raises(NotAllowedError):
        sharing(node, heard, common)
    (common / "second.raw").unlink()
    share = sharing(node, heard, common)
    assert set(shared(share)) == {str(good)}
    share.close()


# -- what happens to a file meanwhile ----------------------------------------------------------------


def test_a_file_that_is_cut_while_it_is_hashed_is_left_out_alone(node: Node, common: Path) -> None:
    first, second = disk(common / "a.raw"), disk(common / "b.raw", 2)
    heard = Meddling(lambda: os.truncate(first, CHUNK))
    share = sharing(node, heard, common)
    assert set(shared(share)) == {str(second)}
    assert any("a.raw changed while it was read" in note for note in heard.notes)
    while not share.refresh():
        pass
    assert set(shared(share)) == {str(first), str(second)}, "it is quiet now"
    share.close()
    third = disk(common / "c.raw", 3)
    with pytest.raises(InUseError, match="changed while it was read"):
        sharing(node, Meddling(lambda: os.truncate(third, CHUNK)), third)


@pytest.mark.qemu
def test_a_compressed_image_that_is_cut_meanwhile_is_not_called_damaged(node: Node, tmp_path: Path) -> None:
    plain = create(tmp_path / "a.raw", 512 * MIB)
    apply(plain, [Op("write", number * 64 * MIB, MIB, number + 1) for number in range(8)])
    image = convert(plain, tmp_path / "a.qcow2", compress=True)
    with pytest.raises(InUseError, match="changed while it was read"):
        node.library.examine(image, now=1.0, progress=lambda _: os.truncate(image, 4096))


def test_what_is_left_out_changes_no_name(node: Node, tmp_path: Path) -> None:
    vm = tmp_path / "vm01"
    vm.mkdir()
    image = disk(vm / "disk.raw")
    (vm / "bad.img").write_bytes(b"8 bytes!")
    share = sharing(node, Heard(), vm)
    assert shared(share) == {str(image): "vm01:1"}
    share.close()


def test_a_tree_without_end_is_left_where_it_becomes_too_deep(tmp_path: Path) -> None:
    """Others may make one in a directory that a share reads again and again."""
    at, made = tmp_path, []
    for level in range(DEEPEST + 3):
        made.append(disk(at / f"at{level}.raw"))
        at = at / "deeper"
        at.mkdir()
    folder = Folder.open(str(tmp_path))
    asked: list[str] = []

    def enter(below: str) -> bool:
        asked.append(below)
        return True

    try:
        found = [item.path for item in folder.images(enter)]
    finally:
        folder.close()
    assert found == [str(path) for path in made[: DEEPEST + 1]]
    assert len(asked) == DEEPEST
