"""The guest that other tests boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest import Guest, counted, make_disks


@pytest.mark.guest
@pytest.mark.slow
def test_the_guest_counts_on_all_its_disks(tmp_path: Path) -> None:
    disks = make_disks(tmp_path, "a.qcow2", "b.qed")
    with Guest.boot(tmp_path, disks) as guest:
        guest.ask("start", "start")
        while guest.counter() < 3:
            pass
        last = int(guest.ask("stop", "STOPPED"))
        guest.off()
    assert [counted(disk, tmp_path) for disk in disks] == [last, last]
