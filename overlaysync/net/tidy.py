"""What the mDNS library keeps of what it hears, bounded: anybody on the wire can send what he likes.

Its cache has ten thousand records at most, but of any size: one NSEC record can take megabytes. And its
browser notes for each name when to ask again, in a list without any bound.
"""

from __future__ import annotations

import asyncio

from zeroconf import DNSNsec, DNSText, RecordUpdate, RecordUpdateListener, Zeroconf  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncServiceBrowser

from overlaysync.net.bounds import DISCOVERY

_TYPES = 64
"""Types of records that a host says it has (NSEC); there are some five in use."""

_PAUSE_S = 10.0
"""After that a browser asks again; nobody can make it ask more often."""


class Tidy(RecordUpdateListener):
    """Makes long records short, before the library keeps them: what tells of a node is not so long.

    To remove them would not do: the library holds on to what was removed, in the list of what expires when.
    """

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called with what has come, before it goes into the cache."""
        for update in records:
            record = update.new
            if isinstance(record, DNSText) and len(record.text) > DISCOVERY.txt_size:
                record.text = b""
            elif isinstance(record, DNSNsec) and len(record.rdtypes) > _TYPES:
                record.rdtypes.clear()


class BoundedBrowser(AsyncServiceBrowser):
    """A browser that forgets when to ask again for what, once there is too much of that."""

    def __init__(self, *args: object, **options: object) -> None:
        # Before the library's: what is in its cache already is told at once.
        self._updates = 0
        self._again: asyncio.TimerHandle | None = None
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Take them in."""
        super().async_update_records(zc, now, records)
        self._updates += len(records)
        if self._updates > DISCOVERY.updates:
            self._updates = 0
            self.query_scheduler.stop()
            if self._again is None:
                self._again = asyncio.get_running_loop().call_later(_PAUSE_S, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        if not self.done:
            self.query_scheduler.start(asyncio.get_running_loop())
