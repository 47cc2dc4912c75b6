"""What the mDNS library keeps of what it hears, bounded and fit to be sent again.

Its cache has ten thousand records at most, but of any size: one NSEC record can take megabytes. Its browser
notes for each name when to ask again, in a list without any bound. And it repeats what it has heard in its
own questions (known answers): a name that it cannot write again would end those questions for good.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from itertools import islice
from typing import Any

from zeroconf import (  # type: ignore[attr-defined] # not all in its __all__
    DNSAddress,
    DNSIncoming,
    DNSNsec,
    DNSPointer,
    DNSRecord,
    DNSService,
    DNSText,
    RecordUpdate,
    RecordUpdateListener,
    Zeroconf,
    current_time_millis,
)
from zeroconf._handlers.record_manager import RecordManager
from zeroconf.asyncio import AsyncServiceBrowser

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.net.faults import Faults

_TYPES = 64
"""Types of records that a host says it has (NSEC); there are some five in use."""

_PAUSE_S = 10.0
"""After that a browser asks again; nobody can make it ask more often."""

_SERVICES = 8
"""Nodes of one host name that are looked at when one of its addresses goes; it has one."""

_LABEL_SIZE = 63
_NAME_SIZE = 255
"""Bytes of a label and of a name on the wire (RFC 1035, 2.3.4)."""


_LOOPBACK_6 = ipaddress.IPv6Address("::1").packed


def can_be_sent(name: str) -> bool:
    """Whether a name that was heard fits into a packet again.

    What was no UTF-8 has been replaced by characters of three bytes, so it may have grown.
    """
    try:
        labels = [len(label.encode()) for label in name.removesuffix(".").split(".")]
    except UnicodeEncodeError:
        return False
    return all(0 < size <= _LABEL_SIZE for size in labels) and sum(labels) + len(labels) + 1 <= _NAME_SIZE


def tidy(record: DNSRecord) -> bool:
    """Make a record fit to be kept, in place; return whether it is worth anything still.

    To remove it would not do: the library holds on to what was removed, in the list of what expires when.
    """
    if isinstance(record, DNSText) and len(record.text) > DISCOVERY.txt_size:
        record.text = b""
    elif isinstance(record, DNSNsec) and len(record.rdtypes) > _TYPES:
        record.rdtypes.clear()
    if not can_be_sent(record.name):
        return False  # it answers no question of ours, so it is never repeated
    if isinstance(record, DNSPointer) and not can_be_sent(record.alias):
        record.alias = record.name
        return False
    if isinstance(record, DNSService) and not can_be_sent(record.server):
        record.server = record.name
        return False
    return True


class _Records(RecordManager):
    """Takes in the answers that were heard, but none that leads to another machine's loopback."""

    def async_updates_from_response(self, msg: DNSIncoming) -> None:
        """Take in an answer: the library calls this for all that it hears."""
        if not _is_premature(msg):
            super().async_updates_from_response(msg)


def _is_premature(message: DNSIncoming) -> bool:
    """Whether another machine says that it is found on the loopback, as before it has seen its network."""
    if message.source is None or ipaddress.ip_address(message.source[0]).is_loopback:
        return False
    addresses = (record.address for record in message.answers() if isinstance(record, DNSAddress))
    return any(address[:1] == b"\x7f" or address == _LOOPBACK_6 for address in addresses)


class Sturdy(Zeroconf):
    """Multicast DNS whose timers survive a message that cannot be written.

    Args:
        faults: unexpected exceptions go there.
        options: of the library.
    """

    def __init__(self, faults: Faults, **options: Any) -> None:
        self._faults = faults
        super().__init__(**options)
        self.record_manager = _Records(self)  # before there are sockets, which keep it

    def async_send(self, *args: Any, **options: Any) -> None:
        """Send a message, if it can be written at all."""
        try:
            super().async_send(*args, **options)
        except Exception as error:
            self._faults.count(error, "sending a multicast message")


class Tidy(RecordUpdateListener):
    """Makes records fit to be kept before the library keeps them: what tells of a node is.

    Args:
        faults: unexpected exceptions go there.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Tidy what has come, before it goes into the cache."""
        for update in records:
            try:
                tidy(update.new)
            except Exception as error:
                self._faults.count(error, "looking at a multicast record")


class BoundedBrowser(AsyncServiceBrowser):
    """A browser that forgets when to ask again for what, once there is too much of that.

    Args:
        args, options: of the library.
        faults: unexpected exceptions go there.
        readdressed: called with the name of a service that has said goodbye to an address of its.
    """

    def __init__(
        self,
        *args: object,
        faults: Faults,
        readdressed: Callable[[str], None] = lambda name: None,
        **options: object,
    ) -> None:
        # Before the library's: what is in its cache already is told at once.
        self._faults = faults
        self._readdressed = readdressed
        self._updates = 0
        self._again: asyncio.TimerHandle | None = None
        super().__init__(*args, **options)  # type: ignore[arg-type] # the library checks its own

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Take them in, one by one: a strange one must not keep its neighbours out."""
        for update in records:
            try:
                if tidy(update.new):
                    super().async_update_records(zc, now, [update])
                    self._note_withdrawal(zc, update.new)
            except Exception as error:
                self._faults.count(error, "looking at a multicast record")
        self._updates += len(records)
        if self._updates > DISCOVERY.updates:
            self._updates = 0
            self.query_scheduler.stop()
            self.ask_again_soon()

    def ask_again_soon(self) -> None:
        """Ask who is there again, after a pause."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(_PAUSE_S, self._ask_again)

    def _note_withdrawal(self, zc: Zeroconf, record: DNSRecord) -> None:
        """Tell of services that lose an address: the library tells only of new ones."""
        if isinstance(record, DNSAddress) and record.ttl == 0:
            for service in islice(zc.cache.async_entries_with_server(record.name), _SERVICES):
                # Later: the record is still in the cache.
                asyncio.get_running_loop().call_soon(self._readdressed, service.name)

    def ask_now(self) -> None:
        """Ask who is there, on interfaces that may be new."""
        self.query_scheduler.async_send_ready_queries(False, current_time_millis(), set(self.types))

    def _ask_again(self) -> None:
        self._again = None
        if not self.done:
            self.query_scheduler.stop()
            self.query_scheduler.start(asyncio.get_running_loop())
