"""How many machines have an image: nodes on one kernel are one, whatever their addresses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.namespaces import namespace
from tests.e2e.nodes import Lab


@pytest.mark.skipif(os.geteuid() != 0, reason="puts another boot id over the kernel's")
def test_machines_are_counted_and_not_nodes(lab: Lab, tmp_path: Path) -> None:
    alice, bob, carol = lab.node("alice"), lab.node("bob"), lab.node("carol")
    name = lab.name("disk")
    shares = [alice.share(disks.make_master(alice.place / f"{name}.raw", size=MIB))]
    bob.fetch(name, "--peer", shares[0].peer)
    shares.append(bob.share(bob.place / f"{name}.raw"))

    def count() -> tuple[int, int]:
        asked = [word for share in shares for word in ("--peer", share.peer)]
        (image,) = carol.json("ls", name, *asked, "--wait", "2")["images"]
        assert f"×{image['machines']} " in carol.run("ls", name, *asked, "--wait", "2").stdout
        return len(image["nodes"]), image["machines"]

    assert count() == (2, 1)
    plan = carol.run("fetch", name, "--dry-run", *(f"--peer={share.peer}" for share in shares))
    assert "(×1)" in plan.stderr

    other = tmp_path / "boot_id"
    other.write_text("0b5f6d2e-8c1f-4d9e-9b1a-1f2e3d4c5b6a\n")
    boot = f"mount --bind {other} /proc/sys/kernel/random/boot_id"
    with namespace("mount", script=boot, within=lab.prefix) as elsewhere, Lab(tmp_path / "elsewhere") as far:
        dave = far.node("dave", prefix=elsewhere.prefix)
        dave.fetch(name, "--peer", shares[0].peer)
        shares.append(dave.share(dave.place / f"{name}.raw"))
        assert count() == (3, 2)
