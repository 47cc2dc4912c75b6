"""The way of an image from one machine to another, by processes that start by themselves: for ``--fast``."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import Lab

pytestmark = pytest.mark.qemu


def test_an_overlay_and_its_master_arrive_and_are_gone_on_from(
    tmp_path: Path, apart: tuple[str, ...]
) -> None:
    with Lab(tmp_path, prefix=apart) as lab:
        teacher, student = lab.node("teacher"), lab.node("student")
        master = disks.make_master(teacher.place / f"{lab.name('base')}.qcow2", size=2 * MIB)
        overlay = disks.make_overlay(teacher.place / f"{lab.name('vm')}.qcow2", master, (MIB, 200 * KIB))
        share = teacher.share(teacher.place)

        fetched = student.fetch(overlay.stem, "--peer", share.peer)

        assert [item["name"] for item in fetched] == [master.stem, overlay.stem]
        assert images.content(student.place / overlay.name) == images.content(overlay)
        assert student.json("verify", overlay.name, master.name)
        student.json("new", "next.qcow2", "--master", master.name)
        assert images.content(student.place / "next.qcow2") == images.content(master)
