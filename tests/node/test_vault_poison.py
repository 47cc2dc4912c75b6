"""What others put into a vault: an index may claim what its packs do not hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from overlaysync.errors import WouldDestroyError
from overlaysync.model.digest import Digests, as_digests
from overlaysync.node.node import Node
from overlaysync.vault.contents import Contents
from overlaysync.vault.index import PackIndex, decode_index, encode_index
from overlaysync.vault.objects import Kind, Objects, hash_of, object_name
from overlaysync.vault.pack import PackBuilder, squeeze
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import MAX_NUMBER
from tests import images
from tests.node.test_recovery import SIZE, only, publish, write
from tests.node.vaults import member, objects, place, restore, save, vault, vm
from tests.vault.samples import RED, TIME, a_state, key_of

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.holds("D1")]


def copy_index_with_junk(source: Contents, target: Objects, space: Space) -> None:
    """Store packs of nothing, and an index by which they hold all that is in ``source``."""
    keys = np.concatenate([keys for keys, _ in everything(source)])
    lengths = [length for _, some in everything(source) for length in some]
    builder = PackBuilder(space)
    counts = []
    for length in lengths:
        builder.add(squeeze([bytes(length)]), length)
        counts.append(1)
    pack, hash = builder.end()
    target.put(object_name(space.tag, Kind.PACK, hash), pack)
    entry = PackIndex(hash, len(pack), builder.places, counts, keys, np.asarray(lengths, dtype=np.uint32))
    index = encode_index([entry], space)
    target.put(object_name(space.tag, Kind.INDEX, hash_of(index)), index)


def everything(contents: Contents) -> Iterator[tuple[Digests, list[int]]]:
    """Yield the keys and lengths of all items that the indexes of a space describe."""
    for one in contents.objects.list(f"{contents.space.tag}/indexes/"):
        for pack in decode_index(contents.objects.get(one.name), contents.space):
            yield as_digests(pack.keys.tobytes()), pack.lengths.tolist()


@pytest.mark.parametrize("space", [RED, PUBLIC], ids=["team", "public"])
@pytest.mark.red_without(
    "D1", "a save believes every index in its vault, and leaves out what others claim to hold"
)
def test_what_an_index_of_others_claims_is_not_left_out_of_a_save(
    ann: Node, bob: Node, tmp_path: Path, space: Space
) -> None:
    path = images.create(tmp_path / "debian.qcow2", SIZE)
    write(path, "master", 2 << 20)
    disk = images.create(tmp_path / "router.qcow2", backing=path)
    write(disk, "overlay", 1 << 20, offset=3 << 20)
    if space is PUBLIC:
        publish(ann, path)
        publish(bob, path)
    save(bob, vm("router", disk))
    copied = vault(bob).public if space is PUBLIC else vault(bob).contents
    copy_index_with_junk(copied, objects(ann), space)

    assert save(ann, vm("router", disk)).stored > 1 << 20
    with member(tmp_path / "c", "carl") as carl:
        (tmp_path / "out").mkdir()
        assert images.same_content(only(restore(carl, tmp_path / "out", place(ann))), disk)


@pytest.mark.red_without("D1", "the number of a state is higher than any")
def test_no_member_can_end_the_saves_of_a_team(ann: Node, tmp_path: Path) -> None:
    """The highest number has none after it, and a state follows 64 others at most."""
    disk = images.create(tmp_path / "router.qcow2", SIZE)
    for number in range(66):
        key = key_of(str(number))
        last = {"number": MAX_NUMBER, "follows": ("5e" * 32,)} if number == 0 else {}
        vault(ann).add(a_state(note=str(number), **last), key, made=TIME)
    first = save(ann, vm("router", disk)).state.state
    assert first.number == MAX_NUMBER and len(first.follows) == 64
    assert save(ann, vm("router", disk)).state.state.number == MAX_NUMBER


@pytest.mark.red_without("D1", "the directory of a VM below the one that was chosen may be a link")
def test_a_link_in_place_of_a_vms_directory_is_not_followed(ann: Node, bob: Node, tmp_path: Path) -> None:
    vms = []
    for name in ("web", "db"):
        (tmp_path / name).mkdir()
        disk = images.create(tmp_path / name / "disk.qcow2", SIZE)
        write(disk, name, 1 << 20)
        vms.append(vm(name, disk))
    save(ann, *vms)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WouldDestroyError, match="is a link"):
        restore(bob, tmp_path / "out", place(ann))
    assert list((tmp_path / "elsewhere").iterdir()) == []
