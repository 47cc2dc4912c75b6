"""Captures a guest that writes all the time, again and again, each time on other terms; prints what it took.

``PYTHONPATH=. python -m tests.torture.captures 100`` captures it a hundred times. The guest's overlays grow
meanwhile, so that the copies take longer and longer.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from overlaysync.live.capture import capture
from tests.guest import Guest, counted, make_disks
from tests.live.vms import QMP, copied, running, whole
from tests.qmp import left_in


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        disks = make_disks(directory, "a.qcow2", "b.qed", "c.qcow2")
        with Guest.boot(directory, disks, *QMP, agent=True) as guest:
            guest.ask("start", "start")
            while guest.counter() < 200:
                pass
            guest.ask("fill vdc 48", "FILLED")
            took, gaps, usual = [], [], []
            for number in range(count):
                guest.ask("gap", "GAP")
                begun = time.monotonic()
                while time.monotonic() < begun + 0.3:
                    guest.counter()
                usual.append(int(guest.ask("gap", "GAP")))
                before, begun = guest.counter(), time.monotonic()
                copies = capture([running(disks)], directory, lambda _: None)
                took.append(time.monotonic() - begun)
                gaps.append(int(guest.ask("gap", "GAP")))
                after = guest.counter()
                counts = []
                for disk in disks:
                    copy = copied(copies.files[str(disk)].file, directory, disk)
                    os.close(copies.files[str(disk)].file)
                    whole(copy)
                    counts.append(counted(copy, directory))
                    copy.unlink()
                assert before <= counts[0] <= after + 1, (before, counts, after)
                assert counts == sorted(counts)[::-1] and counts[0] - counts[-1] <= 1, counts
                assert left_in(directory / "qmp") == []
                print(
                    f"{number + 1}: {counts[0]}, in {took[-1]:.2f} s; longest gap between two writes "
                    f"{gaps[-1] * 10} ms, {usual[-1] * 10} ms before",
                    flush=True,
                )
            print(
                f"{count} captures of 3 disks, each at one moment, in {min(took):.2f} to {max(took):.2f} s; "
                f"longest gap between two writes of the guest: {max(gaps) * 10} ms while it was captured, "
                f"{max(usual) * 10} ms otherwise; failed writes: {guest.serial.log.count(b'FAILED')}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]))
