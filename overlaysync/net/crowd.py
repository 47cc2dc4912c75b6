"""Who is connected, in the order they came: counted by address, and by the host behind the addresses.

One machine has as many IPv6 addresses as it likes, and all machines of a room may share one /64 network. So
each address may have a number of places, and when all are taken, the host (see
:func:`~.interfaces.host_key`) with the most of them makes room for one that has fewer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from overlaysync.net.interfaces import host_key

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Place:
    address: str
    host: str
    since: float


class Crowd(Generic[_T]):
    """The holders of places."""

    def __init__(self) -> None:
        self._places: dict[_T, _Place] = {}
        self._addresses: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, holder: object) -> bool:
        return holder in self._places

    def add(self, holder: _T, address: str) -> None:
        """Give ``holder`` a place."""
        place = self._places[holder] = _Place(address, host_key(address), time.monotonic())
        self._addresses[place.address] += 1
        self._hosts[place.host] += 1

    def remove(self, holder: _T) -> None:
        """Take the place back, if there is one."""
        place = self._places.pop(holder, None)
        if place is not None:
            for counter, key in ((self._addresses, place.address), (self._hosts, place.host)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]

    def count(self, address: str) -> int:
        """How many places an address has."""
        return self._addresses[address]

    def age(self, holder: _T) -> float:
        """Seconds that ``holder`` has had its place."""
        return time.monotonic() - self._places[holder].since

    def is_of(self, holder: _T, address: str) -> bool:
        """Whether ``holder`` has this address."""
        return self._places[holder].address == address

    def first_of_largest(self, among: Iterable[_T] | None = None) -> _T | None:
        """Return the first holder ``among`` these (default: all) of the host with the most places."""
        if not self._hosts:
            return None
        largest = max(self._hosts, key=self._hosts.__getitem__)
        holders = self._places if among is None else among
        return next((one for one in holders if self._places[one].host == largest), None)

    def gives_way(self, holder: _T, address: str) -> bool:
        """Whether the host of ``holder`` has more places than that of ``address``, and still would after."""
        return self._hosts[self._places[holder].host] > self._hosts[host_key(address)] + 1
