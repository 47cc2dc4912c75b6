"""What tells this machine from others: a mark of this boot, and the addresses of its network hardware.

Leaves out what is made of it: :mod:`overlaysync.node.identity`.
Source: random(4) for the boot id, sysfs-class-net and ethtool for the addresses (ETHTOOL_GPERMADDR).
"""

from __future__ import annotations

import array
import fcntl
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path

from overlaysync.model.digest import derive

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SYSFS = Path("/sys/class/net")
_CONTEXT = "overlaysync v1 machine of a process"
_MARK_SIZE = 16
_ADDRESS = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}|([0-9a-f]{2}:){7,31}[0-9a-f]{2}")
_GIVEN_BY_HARDWARE = "0"
"""``addr_assign_type`` of an address that is neither random, nor borrowed, nor set by somebody."""
_ADDRESS_SIZE = 32
_SIOCETHTOOL = 0x8946
_ETHTOOL_GPERMADDR = 0x20
_MAX_INTERFACES = 64


def machine_mark() -> bytes:
    """Return 16 bytes that all processes of this machine share until it boots again.

    Containers of one machine have one mark; so do virtual machines that were resumed from one snapshot.
    """
    boot = b""
    with suppress(OSError):
        boot = _BOOT_ID.read_bytes()[:64]
    return derive(_CONTEXT, boot)[:_MARK_SIZE]


def hardware_addresses() -> tuple[str, ...]:
    """Return the addresses that this machine's network hardware was made with.

    Software has none: bridges, taps, containers, VPNs. Nor has hardware whose address is made up at each
    boot. Where a privacy setting changes a card's address, its own one counts.
    """
    names: list[str] = []
    with suppress(OSError):
        names = sorted(path.name for path in _SYSFS.iterdir() if (path / "device").exists())
    found = (_own_address(name) for name in names[:_MAX_INTERFACES])
    return tuple(dict.fromkeys(address for address in found if address))


def _own_address(name: str) -> str:
    """Return the address that a card was made with, "" when it has none."""
    address = _permanent_address(name)
    with suppress(OSError, ValueError):
        if not address and (_SYSFS / name / "addr_assign_type").read_text().strip() == _GIVEN_BY_HARDWARE:
            address = (_SYSFS / name / "address").read_text().strip()
    plausible = _ADDRESS.fullmatch(address) and address.strip("0:") and address.strip("f:")
    return address if plausible else ""


def _permanent_address(name: str) -> str:
    answer = array.array("B", struct.pack(f"II{_ADDRESS_SIZE}x", _ETHTOOL_GPERMADDR, _ADDRESS_SIZE))
    where, _ = answer.buffer_info()
    request = struct.pack("16sP", name.encode()[:15], where)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
        except OSError:
            return ""
    _, size = struct.unpack_from("II", answer)
    address = answer[8 : 8 + min(size, _ADDRESS_SIZE)].tobytes()
    return address.hex(":") if any(address) else ""
