"""What a service tells systemd: that it is ready, what it does, that it is alive, and that it stops.

Source: sd_notify(3) and sd_watchdog_enabled(3). Leaves out file descriptors and reloading.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def notify(environment: Mapping[str, str], *lines: str) -> bool:
    """Send lines to systemd; whether it listens. One that has gone away is no reason to stop."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + path[1:] if path.startswith("@") else path)
        channel.sendall("\n".join(lines).encode("utf-8", "replace"))
        return True
    return False


def status(text: str) -> str:
    """Return the line for what ``systemctl status`` shows."""
    return "STATUS=" + " ".join(text.split())


def watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the seconds within which systemd wants to hear that this process is alive; None for never."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with suppress(ValueError):
        interval = int(environment.get("WATCHDOG_USEC", "0")) / 1e6
        return interval if interval > 0 else None
    return None
