"""A network that never changes, for tests of what is announced on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class StillNetwork:
    """Stands for the sockets of multicast DNS.

    Attributes:
        zeroconf: takes what is announced.
    """

    zeroconf: Any
    interfaces: tuple[()] = ()

    def look(self) -> bool:
        return False

    async def adapt(self) -> None:
        pass
