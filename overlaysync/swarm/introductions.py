"""Which of the sources that list a content are tried: one of each host at first, more as they give data.

One machine can list a content at as many ports as it likes and answer at none of them. So a host gets one
source in the schedule, and twice as many each time one of them has given what was asked for. When nothing
comes from anybody, all hosts get twice as many: the only honest source may be one of many on its host.
Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

STALL_S = 2.0
"""So long without anything from anybody until more are tried."""


class Introductions:
    """The sources known, by host, and how many of each host are tried."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[str]] = {}
        self._hosts: dict[str, str] = {}  # of every source
        self._tried: dict[str, int] = {}
        self._allowed: dict[str, int] = {}
        self._came_at: float | None = None

    def know(self, source: str, host: str) -> None:
        """There is a source; known ones stay."""
        if source not in self._hosts:
            self._hosts[source] = host
            self._waiting.setdefault(host, []).append(source)

    def came(self, source: str, now: float) -> None:
        """Note that a source gave what it was asked for."""
        self._came_at = now
        host = self._hosts.get(source)
        if host is not None and self._tried.get(host, 0) >= self._allowed.get(host, 1):
            self._allowed[host] = 2 * self._allowed.get(host, 1)

    def next(self, now: float, *, at_a_loss: bool = False) -> list[str]:
        """Return the sources to try from now on besides those before.

        ``at_a_loss``: there is nobody else to ask.
        """
        if self._came_at is None:
            self._came_at = now
        elif at_a_loss or now - self._came_at >= STALL_S:
            self._came_at = now
            for host in self._waiting:
                self._allowed[host] = 2 * self._allowed.get(host, 1)
        chosen = []
        for host, waiting in list(self._waiting.items()):
            room = self._allowed.get(host, 1) - self._tried.get(host, 0)
            taken, left = waiting[: max(0, room)], waiting[max(0, room) :]
            self._tried[host] = self._tried.get(host, 0) + len(taken)
            chosen += taken
            if left:
                self._waiting[host] = left
            else:
                del self._waiting[host]
        return chosen

    @property
    def waiting(self) -> bool:
        """Whether some have not been tried."""
        return bool(self._waiting)
