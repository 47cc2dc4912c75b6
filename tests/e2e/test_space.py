"""What costs space is said before it is spent: a compressed image is not compressed at the receivers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overlaysync.units import MIB, format_size
from tests.e2e import disks
from tests.e2e.nodes import Lab
from tests.images import convert

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("compress", [True, False])
def test_a_compressed_master_says_how_much_room_it_will_take(lab: Lab, compress: bool) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    text = alice.base / "text.raw"
    text.write_bytes((b"a root file system holds a lot of text\n" * 110_000)[: 4 * MIB])
    image = convert(text, alice.place / f"{lab.name('cloud')}.qcow2", compress=compress)

    share = alice.share(image)
    size = format_size(image.stat().st_size)
    said = f"compressed: {image.stem} is {size} here and will take 4 MiB at each receiver"
    assert (said in share.stderr) == compress

    plan = bob.run("fetch", image.stem, "--dry-run", "--peer", share.peer)
    assert re.search(rf"{image.stem}:1  master, takes 4 MiB  from", plan.stderr), plan.stderr
    (item,) = bob.fetch(image.stem, "--peer", share.peer)
    assert 4 * MIB <= Path(item["path"]).stat().st_size < 5 * MIB
    assert disks.identical(image, Path(item["path"]))
