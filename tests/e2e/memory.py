"""How much memory a process has taken."""

from __future__ import annotations

import time
from pathlib import Path

from overlaysync.units import KIB
from tests.e2e.nodes import Process


def peak_memory(pid: int) -> int:
    """The most resident memory a process has had, in bytes; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(sizes[0]) * KIB if sizes else 0


def peak_of(process: Process, *, within_s: float = 60) -> int:
    """The same of a process that ends by itself, looked at until it does."""
    most = 0
    deadline = time.monotonic() + within_s
    while process.running and time.monotonic() < deadline:
        most = max(most, peak_memory(process.popen.pid))
        time.sleep(0.01)
    return most
