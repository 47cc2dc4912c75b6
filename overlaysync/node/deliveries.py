"""Deliveries: who takes which image from this node, and how much; a line when one begins and when it ends.

Counted by address, for no request for data says which node asks. All nodes behind one address (of IPv6: one
/64 network) are one machine here. Sans-IO: times are arguments. Leaves out where the lines go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from overlaysync.model.addresses import host_key
from overlaysync.swarm.members import AGE_S, Members
from overlaysync.trust.envelope import Manifest
from overlaysync.units import format_size

_MAX = 1024
"""Deliveries known at once; what goes beyond is served, and not written down."""

_NAMES = 3
"""Labels said of one machine."""
_LABELS = 64
"""Labels kept of one machine."""


@dataclass(slots=True)
class _Delivery:
    """What one machine takes of one image."""

    what: str
    size: int
    host: str
    begun: float
    last: float
    sent: int = 0
    labels: list[str] = field(default_factory=list)

    @property
    def who(self) -> str:
        """Its labels, as far as it has said them, and its address."""
        names = ", ".join(self.labels[:_NAMES])
        more = f" and {len(self.labels) - _NAMES} more" if len(self.labels) > _NAMES else ""
        return f"{names}{more} ({self.host})" if names else self.host

    @property
    def how_much(self) -> str:
        """Bytes sent, and the time that took."""
        seconds = self.last - self.begun
        return f"{format_size(self.sent)} in {f'{seconds:.1f}' if seconds < 10 else f'{seconds:.0f}'} s"


class Deliveries:
    """All deliveries of a node.

    Args:
        say: takes a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._known: dict[tuple[bytes, str], _Delivery] = {}

    def sent(self, manifest: Manifest, host: str, size: int, members: Members, now: float) -> None:
        """Note that ``size`` bytes of an image went to ``host``, whether that was all or not."""
        key = manifest.id, host_key(host)
        delivery = self._known.get(key)
        if delivery is None:
            if not size or len(self._known) >= _MAX:
                return
            header = manifest.header
            what = f"{header.full_name}:{header.version}"
            delivery = self._known[key] = _Delivery(what, header.data_size, host, now, now)
            _learn_labels(delivery, key[1], members, now)
            self._say(f"{delivery.who} fetches {what}")
        delivery.sent += size
        delivery.last = now

    def look(self, members_of: Callable[[bytes], Members], now: float) -> None:
        """Say which deliveries are done, or have ended before that."""
        for (manifest_id, host), delivery in list(self._known.items()):
            members = members_of(manifest_id)
            fetching = _learn_labels(delivery, host, members, now)
            done = bool(delivery.labels) and all(label in members.done for label in delivery.labels)
            if done and not fetching:
                self._end(manifest_id, host, f"{delivery.who} has all of {delivery.what}")
            elif not fetching and now - delivery.last >= AGE_S:
                whole = delivery.sent >= delivery.size
                left = (
                    f"has all of {delivery.what}" if whole else f"left before it had all of {delivery.what}"
                )
                self._end(manifest_id, host, f"{delivery.who} {left}")

    def _end(self, manifest_id: bytes, host: str, text: str) -> None:
        delivery = self._known.pop((manifest_id, host))
        self._say(f"{text}; this machine sent {delivery.how_much}")


def _learn_labels(delivery: _Delivery, host: str, members: Members, now: float) -> set[str]:
    """Note the labels of those at this address; return the keys of those that still fetch."""
    here = [member for member in members.current(now) if host_key(member.host) == host]
    known: Iterable[str] = (member.label for member in here if member.label)
    delivery.labels = list(dict.fromkeys([*delivery.labels, *known]))[:_LABELS]
    return {member.key for member in here if member.key not in members.done}
