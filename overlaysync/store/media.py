"""Media: whether a file lies on something that its user may pull out, such as a USB stick."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PLUGGED_IN = ("/media/", "/run/media/")
"""Where desktops mount what a user plugs in."""
_DEVICES = Path("/sys/dev/block")


def may_go(path: str, without: Iterable[str], *, devices: Path = _DEVICES) -> bool:
    """Return whether the file at ``path`` lies on a medium that may be pulled out, as far as is known.

    Args:
        path: of a file.
        without: directories of what would stay behind; on their own file system nothing goes without them.
        devices: what the kernel says of block devices, by number.
    """
    real = os.path.realpath(path)
    if real.startswith(_PLUGGED_IN):
        return True
    number = _device(real)
    if number is None or number in map(_device, without):
        return False
    device = Path(os.path.realpath(devices / f"{os.major(number)}:{os.minor(number)}"))
    if any(part.startswith("usb") for part in device.parts):
        return True
    return any(_says_removable(place) for place in (device, device.parent))  # a partition is below its disk


def _device(path: str) -> int | None:
    """Return the number of the device that holds a path, or that will when it is made."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _says_removable(device: Path) -> bool:
    try:
        return (device / "removable").read_text().strip() == "1"
    except OSError:
        return False
