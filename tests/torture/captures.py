"""Captures a guest that writes all the time, again and again, each time on other terms; prints what it took.

``PYTHONPATH=. python -m tests.torture.captures 100`` captures it a hundred times. The guest's overlays grow
meanwhile, so that the copies take longer and longer. A copy is torn if it holds anything but what the guest
had written by one moment; the exit code is 1 then, or if a write of the guest failed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.live.capture import capture
from tests.guest import Guest, counted, make_disks
from tests.live.vms import QMP, copied, running, whole
from tests.qmp import left_in

_BESIDE_S = 0.3
"""How long the guest is watched before each capture, to compare with."""


@dataclass(slots=True)
class Found:
    """What came of the captures.

    Attributes:
        took: seconds, of each.
        gaps: the longest time between two writes of the guest during each, in hundredths of a second.
        usual: the same just before.
        torn: what is wrong with copies, by the number of the capture.
    """

    took: list[float] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    usual: list[int] = field(default_factory=list)
    torn: dict[int, str] = field(default_factory=dict)


def main(count: int) -> int:
    """Capture so often; returns the exit code."""
    begun, found = time.monotonic(), Found()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        disks = make_disks(directory, "a.qcow2", "b.qed", "c.qcow2")
        with Guest.boot(directory, disks, *QMP, agent=True) as guest:
            guest.ask("start", "start")
            while guest.counter() < 200:
                pass
            guest.ask("fill vdc 48", "FILLED")
            for number in range(1, count + 1):
                _capture(guest, disks, number, found)
            guest.ask("stop", "STOPPED")
            failed = guest.serial.log.count(b"FAILED")
    print(f"captures: {count}, of 3 disks each, in {min(found.took):.2f} to {max(found.took):.2f} s")
    print(f"torn: {len(found.torn)}")
    print(
        f"longest gap between two writes of the guest: {max(found.gaps) * 10} ms with a capture, "
        f"{max(found.usual) * 10} ms without"
    )
    print(f"failed writes: {failed}")
    print(f"all took {time.monotonic() - begun:.0f} s")
    return int(bool(found.torn) or failed > 0)


def _capture(guest: Guest, disks: Sequence[Path], number: int, found: Found) -> None:
    """Capture once, look at the copies, and print a line."""
    guest.ask("gap", "GAP")
    begun = time.monotonic()
    while time.monotonic() < begun + _BESIDE_S:
        guest.counter()
    found.usual.append(int(guest.ask("gap", "GAP")))
    before, begun = guest.counter(), time.monotonic()
    copies = capture([running(disks)], guest.directory, lambda _: None)
    found.took.append(time.monotonic() - begun)
    found.gaps.append(int(guest.ask("gap", "GAP")))
    after = guest.counter()
    counts = []
    for disk in disks:
        copy = copied(copies.files[str(disk)].file, guest.directory, disk)
        os.close(copies.files[str(disk)].file)
        try:
            whole(copy)
            counts.append(counted(copy, guest.directory))
        except AssertionError as error:
            found.torn[number] = str(error)
        copy.unlink()
    in_turn = counts == sorted(counts)[::-1] and counts[0] - counts[-1] <= 1
    if number not in found.torn and not (in_turn and before <= counts[0] <= after + 1):
        found.torn[number] = f"{counts} on the disks, from {before} before to {after} after"
    assert left_in(guest.directory / "qmp") == []
    print(
        f"{number}: {found.torn.get(number, counts)}, in {found.took[-1]:.2f} s; "
        f"longest gap between two writes {found.gaps[-1] * 10} ms, {found.usual[-1] * 10} ms before",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
