"""How often one host is dialled because others told of it, and asked for catalogs and histories.

Anybody can invent peers, as many as he likes, on a host of his or of somebody else's. So what counts is the
host: an IPv4 address, or the /64 network of an IPv6 one. Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from overlaysync.model.addresses import host_key

TOLD_PORTS = 16
"""Ports of one host, told by others, that have not answered so far."""

_FORGET_S = 600.0
"""A port that has not answered is forgotten after this time: nodes come and go, with other ports."""

_FREE_FAILURES = 4
"""Failures in a row that have no consequence: where many nodes run on a host, some have just ended."""

_LONGEST_BACKOFF_S = 64.0

FIRST_ASKS = 64
"""Catalogs, or histories, asked of one host without any pause: so many nodes may run on a hypervisor."""

_ASKS_PER_S = 0.4
_LEAST_ASKS_PER_S = 1 / 160
"""After that four in ten seconds; half as many each time a host has used them up, until it keeps still."""

ANSWERED = 4096
"""Ports of one host that have answered, kept at most; an IPv6 network has addresses without end."""

_HOSTS = 1024
"""Hosts kept; of others the ones heard of longest ago are forgotten."""

_T = TypeVar("_T")


def _entry(hosts: OrderedDict[str, _T], host: str, make: Callable[[], _T]) -> _T:
    """Return what is noted of a host."""
    key = host_key(host)
    if key not in hosts:
        if len(hosts) >= _HOSTS:
            hosts.popitem(last=False)
        hosts[key] = make()
    hosts.move_to_end(key)
    return hosts[key]


@dataclass(slots=True)
class _Told:
    """What others have told of one host.

    Attributes:
        silent: addresses with ports that have not answered, and when each was first dialled.
        answered: those that have.
        failures: in a row.
        retry_at: no new port is dialled before.
    """

    silent: dict[tuple[str, int], float] = field(default_factory=dict)
    answered: set[tuple[str, int]] = field(default_factory=set)
    failures: int = 0
    retry_at: float = 0.0


class DialBudget:
    """Which told addresses are dialled: few ports of a host until one answers, fewer after failures."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, _Told] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of hosts that something is noted of."""
        return len(self._hosts)

    def take(self, host: str, port: int, now: float) -> bool:
        """Whether to dial it; it then counts until it answers."""
        told = _entry(self._hosts, host, _Told)
        place = (host, port)
        if place in told.answered or place in told.silent:
            return True
        told.silent = {place: at for place, at in told.silent.items() if now - at < _FORGET_S}
        if len(told.silent) >= TOLD_PORTS or now < told.retry_at:
            return False
        told.silent[place] = now
        return True

    def answered(self, host: str, port: int) -> None:
        """Somebody answered there."""
        told = self._hosts.get(host_key(host))
        if told is not None and told.silent.pop((host, port), None) is not None:
            if len(told.answered) >= ANSWERED:
                told.answered.clear()
            told.answered.add((host, port))
            told.failures, told.retry_at = 0, 0.0

    def failed(self, host: str, port: int, now: float) -> None:
        """Nobody answered there; new ports of the host wait, twice as long each time."""
        told = self._hosts.get(host_key(host))
        if told is not None and (host, port) in told.silent:
            told.failures += 1
            if told.failures >= _FREE_FAILURES:
                wait_s = min(_LONGEST_BACKOFF_S, 2.0 ** (told.failures - _FREE_FAILURES))
                told.retry_at = now + wait_s


@dataclass(slots=True)
class _Pace:
    """How many catalogs, or histories, may be asked of a host.

    Attributes:
        left: asks that need not wait.
        rate: how many more there are each second.
        at: when ``left`` was right.
    """

    left: float = FIRST_ASKS
    rate: float = _ASKS_PER_S
    at: float = 0.0


class AskBudget:
    """How often hosts are asked for catalogs, or for histories, whatever they announce."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, _Pace] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of hosts that something is noted of."""
        return len(self._hosts)

    def take(self, host: str, now: float) -> bool:
        """Whether to ask now."""
        pace = _entry(self._hosts, host, lambda: _Pace(at=now))
        pace.left = min(FIRST_ASKS, pace.left + (now - pace.at) * pace.rate)
        pace.at = now
        if pace.left >= FIRST_ASKS:
            pace.rate = _ASKS_PER_S
        if pace.left < 1:
            return False
        pace.left -= 1
        if pace.left < 1:
            pace.rate = max(_LEAST_ASKS_PER_S, pace.rate / 2)
        return True

    def spend(self, host: str, now: float) -> None:
        """Use up what is left to a host, which has answered with what is of no use."""
        if self.take(host, now):
            pace = self._hosts[host_key(host)]
            pace.left = min(pace.left, 1.0)
            self.take(host, now)
