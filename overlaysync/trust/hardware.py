"""Which machine a node key belongs to: the one with the network hardware that the key has been used with.

Cloning a disk copies everything but hardware, so a copy is told by it. Leaves out how hardware is found, and
what happens to the key of a copy: :mod:`overlaysync.net.machine`, :mod:`overlaysync.node.identity`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from overlaysync.errors import NotAllowedError
from overlaysync.trust.keys import node_id
from overlaysync.trust.secret_files import read_secret, replace_secret

MAX_ADDRESSES = 16
"""Addresses remembered of one key."""
MAX_KEYS = 64
"""Keys of which something is remembered."""
_SIZE = 64 * 1024
_ADDRESS = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5,31}")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a key has been used with.

    Attributes:
        addresses: of network hardware, the one that was new last at the end.
        anywhere: whether the user has said that the key is good on any hardware.
    """

    addresses: tuple[str, ...] = ()
    anywhere: bool = False

    def is_elsewhere(self, present: Collection[str]) -> bool:
        """Whether the key's machine is another than the one with the hardware that is ``present``.

        One known address is enough to be the same machine. Where none was ever seen, or none is here now
        (a cable adapter is unplugged), nothing can be said.
        """
        return bool(self.addresses and present) and not self.anywhere and not self.knows(present)

    def knows(self, present: Collection[str]) -> bool:
        """Whether some of what is ``present`` is known."""
        return not set(self.addresses).isdisjoint(present)

    def with_more(self, present: Iterable[str]) -> Hardware:
        """Return these and what is ``present``.

        Of too many those go that were new longest ago and are not here.
        """
        here = tuple(dict.fromkeys(present))[:MAX_ADDRESSES]
        missing = [address for address in here if address not in self.addresses]
        if not missing:
            return self
        others = [address for address in self.addresses if address not in here]
        return replace(self, addresses=(*others, *here)[-MAX_ADDRESSES:])


class _HardwareJson(msgspec.Struct, frozen=True, omit_defaults=True):
    addresses: list[str]
    anywhere: bool = False


_decoder = msgspec.json.Decoder(dict[str, _HardwareJson])


def load_hardware(path: Path) -> dict[str, Hardware]:
    """Return what keys have been used with, by node id.

    Nothing where there is no such file, or it is damaged.
    """
    found: Mapping[str, _HardwareJson] = {}
    with suppress(OSError, NotAllowedError, ValueError, msgspec.MsgspecError):
        found = _decoder.decode(read_secret(path, "list of hardware", _SIZE))
    return {
        id: Hardware(tuple(filter(_ADDRESS.fullmatch, one.addresses))[-MAX_ADDRESSES:], one.anywhere)
        for id, one in list(found.items())[-MAX_KEYS:]
    }


def save_hardware(path: Path, hardware: Mapping[str, Hardware]) -> None:
    """Replace the file; of too many keys those at the end are kept.

    Raises:
        OSError: it cannot be written.
    """
    kept = list(hardware.items())[-MAX_KEYS:]
    data = {id: _HardwareJson(list(one.addresses), one.anywhere) for id, one in kept}
    replace_secret(path, msgspec.json.format(msgspec.json.encode(data)))


def hardware_of(hardware: Mapping[str, Hardware], public_key: bytes) -> Hardware:
    """Return what the key has been used with."""
    return hardware.get(node_id(public_key), Hardware())
