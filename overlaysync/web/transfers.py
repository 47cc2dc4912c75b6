"""What other nodes fetch here, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from overlaysync.node.sharing import Share
from overlaysync.ops.offer import Offer
from overlaysync.swarm.members import Members
from overlaysync.web.model import Receiver, Transfer

CELLS = 64
"""Parts that a transfer is drawn in."""
MOST = 50
_MOST_RECEIVERS = 40
_RATE_S = 1.5


@dataclass(slots=True)
class Rate:
    """Bytes per second of late, from a counter that is read again and again."""

    value: int = 0
    _at: float = 0.0
    _count: int = 0

    def read(self, count: int, now: float) -> int:
        """Return the rate, given the counter at this time."""
        if not self._at or now - self._at >= _RATE_S or count < self._count:
            elapsed = now - self._at
            self.value = int(max(0, count - self._count) / elapsed) if self._at else 0
            self._at, self._count = now, count
        return self.value


@dataclass(slots=True)
class Given:
    """Looks at what a share gives, again and again.

    Args:
        share: gives.
    """

    share: Share
    _rates: dict[bytes, Rate] = field(default_factory=dict)

    def transfers(self, now: float) -> tuple[Transfer, ...]:
        """Return what is fetched here at this time of the event loop, the busiest first."""
        found = []
        for offer in self.share.offers():
            members = self.share.swarms.of(offer.manifest.id)
            if members.joined and (transfer := self._transfer(offer, members, now)):
                found.append(transfer)
        found.sort(key=lambda transfer: (-len(transfer.receivers), transfer.what))
        return tuple(found[:MOST])

    def _transfer(self, offer: Offer, members: Members, now: float) -> Transfer | None:
        id, header, count = offer.manifest.id, offer.manifest.header, max(1, offer.pieces.count)
        fetching = {
            member.key: Receiver(member.label or member.host, min(1.0, member.held / count))
            for member in members.current(now)
            if member.key not in members.done
        }
        if not fetching:
            self._rates.pop(id, None)
            return None
        given = self.share.given.get(id)
        sent = given.size if given else 0
        rate = self._rates.setdefault(id, Rate()).read(sent, now)
        receivers = sorted(fetching.values(), key=lambda one: (-one.held, one.label))
        return Transfer(
            key=id.hex()[:32],
            what=f"{header.full_name}:{header.version}",
            incoming=False,
            done=sent,
            total=header.data_size,
            rate=rate,
            cells=given.cells(CELLS, most=1) if given else "",
            copies=given.cells(CELLS, most=9) if given else "",
            receivers=tuple(receivers[:_MOST_RECEIVERS]),
            finished=len(members.done),
        )
