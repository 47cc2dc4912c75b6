"""Where hosts are, and which peers are believed about the addresses of others."""

from __future__ import annotations

from enum import Enum, auto
from time import monotonic

from overlaysync.discovery.interfaces import Interface, is_on_link, is_own, list_interfaces
from overlaysync.model.addresses import is_link_local, is_one_host, is_told_port

_HOSTS_KEPT = 1024
_NETWORKS_S = 1.0
"""What networks there are is looked up so seldom: it takes long where there are many, and whoever tells of
others may tell of new hosts each time."""


class _Near(Enum):
    """Where a host is."""

    HERE = auto()
    LINK = auto()
    FAR = auto()


class Neighbourhood:
    """The hosts that others have told of."""

    def __init__(self) -> None:
        self._near: dict[str, _Near] = {}
        self._found: tuple[Interface, ...] = ()
        self._look_at = 0.0

    def may_dial(self, host: str, port: int, *, told_by: str) -> bool:
        """Whether to believe the peer at ``told_by`` that a node answers at ``host`` and ``port``.

        Args:
            host: an IP address. Only one in our networks, unless a peer outside them, which the user named,
                tells of its like. Our loopback only when the peer is on this machine itself, and a link-local
                one only with the scope that the peer was heard on.
            port: never one that system services have.
            told_by: an IP address.
        """
        if not is_told_port(port) or (is_link_local(host) and "%" not in host):
            return False
        teller = self._nearness(told_by)
        if teller is _Near.HERE:
            return True
        if teller is _Near.LINK:
            return self._nearness(host) is not _Near.FAR and is_one_host(host, far=False)
        return is_one_host(host, far=True)

    def is_here(self, host: str) -> bool:
        """Whether it is an address of this machine."""
        return self._nearness(host) is _Near.HERE

    def _nearness(self, host: str) -> _Near:
        """Asked for every member anybody tells of, so each host is looked up once while networks stay."""
        networks = self._networks()
        if host not in self._near:
            if len(self._near) >= _HOSTS_KEPT:
                self._near.clear()
            link = _Near.LINK if is_on_link(host, networks) else _Near.FAR
            self._near[host] = _Near.HERE if is_own(host, networks) else link
        return self._near[host]

    def _networks(self) -> tuple[Interface, ...]:
        """Those of this machine, as they were a moment ago."""
        now = monotonic()
        if now >= self._look_at:
            before, self._look_at, self._found = self._found, now + _NETWORKS_S, list_interfaces()
            if self._found != before:
                self._near.clear()
        return self._found
