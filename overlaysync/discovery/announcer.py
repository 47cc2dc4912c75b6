"""Announcing a node by DNS-SD over multicast DNS, wherever there is a network at the moment."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from zeroconf import DNSOutgoing, IPVersion  # type: ignore[attr-defined] # not all in its __all__
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceInfo

from overlaysync.discovery.bounds import DISCOVERY, DiscoveryBounds
from overlaysync.discovery.browser import SERVICE, label_of
from overlaysync.discovery.multicast import FOLLOW_S, HINT, Multicast, Repeats
from overlaysync.discovery.txt import Item, NodeText, encode_txt
from overlaysync.errors import NetworkError
from overlaysync.model.names import printable
from overlaysync.net.faults import Faults

_RESPONSE = 0x8400
"""Flags of a message: an answer, and an authoritative one."""
_FREE_S = 5.0
"""How long a name counts as free after no other node was found to have it (RFC 6762, 8.1)."""
_APART_S = 0.25
"""A node waits up to so long before it announces itself: of two with one label, one hears the other."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself.

    Attributes:
        port: where its server listens.
        node_id: its node id.
        revision: of its catalog.
        items: what it has for everybody, the most important first.
        tls: port of its private lane; 0 when it has none.
    """

    port: int
    node_id: str
    revision: str = ""
    items: tuple[Item, ...] = ()
    tls: int = 0


class Announcer:
    """Says that this node is here, and what it has, wherever there is a network.

    Args:
        label: ``user@host-abc234``; a suffix is added when another node has it.
        interfaces: names of the interfaces to use; none for all that are usual.
        faults: unexpected exceptions go there.

    Attributes:
        moved: called after each change of where this node is announced, with that in words.
        host: the host name that it announces. Of this process alone, so that nodes with one label, one key
            and one port are not taken for each other.
    """

    def __init__(
        self,
        label: str,
        *,
        interfaces: Sequence[str] = (),
        bounds: DiscoveryBounds = DISCOVERY,
        faults: Faults | None = None,
    ) -> None:
        self._bounds = bounds
        self.faults = faults or Faults()
        self.moved: Callable[[str], None] = lambda where: None
        self._multicast = Multicast(interfaces, self.faults)
        self._name = instance_label(label, bounds.name_length - len("-99"))
        self.host = f"overlaysync-{secrets.token_hex(8)}.local."
        self._announced: Announcement | None = None
        self._info: AsyncServiceInfo | None = None
        self._search: asyncio.Task[None] | None = None
        self._free_at = -math.inf
        self._updater: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._repeats = Repeats()
        self._where = self._said_where = ""

    @property
    def name(self) -> str:
        """The instance name in use."""
        return label_of(self._info.name) if self._info else self._name

    @property
    def problem(self) -> str:
        """Why it is announced nowhere."""
        return self._multicast.problem

    def look_for_name(self, *, patient: bool = False) -> asyncio.Task[None]:
        """Begin to look for a name that nobody has. It takes a second, in which the caller can do other work.

        What goes wrong is raised by :meth:`start`.

        Args:
            patient: as of :meth:`start`.
        """
        self._search = asyncio.create_task(self._open(patient=patient))
        return self._search

    async def start(self, announcement: Announcement, *, patient: bool = False) -> str:
        """Find a name that nobody has, and announce it; returns the interfaces, for people.

        Args:
            announcement: what to say.
            patient: whether to wait for a network where there is none; "" is returned then.

        Raises:
            NetworkError: multicast works on no interface, or no name is free.
            UsageError: a named interface does not exist.
        """
        search = self._search or self.look_for_name(patient=patient)
        self._announced = announcement
        try:
            await search
            sent = await self._register() if self._multicast.interfaces else _nothing()
        except (ZeroconfError, OSError) as error:
            await self._multicast.close()
            raise NetworkError("Cannot announce this node", why=str(error), hint=HINT) from None
        self._where = self._said_where = self._describe()
        self._updater = asyncio.create_task(self._keep_announced(sent))
        return ", ".join(interface.name for interface in self._multicast.interfaces)

    async def update(self, announcement: Announcement) -> None:
        """Announce other content, soon: changes that follow each other quickly are sent as one.

        The same again is not sent: it would say that something has changed which is not for everybody.
        """
        if self._announced not in (None, announcement):
            self._announced = announcement
            self._changed.set()

    async def stop(self) -> None:
        """Say goodbye."""
        tasks = [task for task in (self._search, self._updater) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._multicast.close()
        self._info = self._announced = None

    async def _keep_announced(self, sent: Awaitable[None]) -> None:
        """Send each announcement to its end before the next: repeats of an older one would undo it."""
        while True:
            try:
                await sent
                await asyncio.sleep(self._bounds.updates_s)
                sent = await self._next_announcement()
            except Exception as error:
                self.faults.count(error, "announcing this node")
                sent = _nothing()

    async def _next_announcement(self) -> Awaitable[None]:
        """Wait until there is something to announce: other content, or another place."""
        loop = asyncio.get_running_loop()
        while True:
            if self._multicast.look():
                self._repeats.begin(loop.time())
                return await self._move()
            await self._multicast.adapt()
            self._tell_moved()
            repeat = self._info is not None and self._repeats.due(loop.time())
            if self._changed.is_set() or repeat:
                self._changed.clear()
                return await self._announce()
            with suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_S):
                    await self._changed.wait()

    async def _move(self) -> Awaitable[None]:
        """Announce this node where it is now."""
        if self._info is None:
            await self._multicast.adapt()
            return await self._register() if self._multicast.interfaces else _nothing()
        zeroconf = self._multicast.zeroconf.zeroconf
        before, self._info = self._info, self._make_info()
        # First: new sockets announce what is registered.
        zeroconf.registry.async_update(self._info)
        await self._multicast.adapt()
        self._withdraw_addresses(before, self._info)
        return await self._announce()

    def _withdraw_addresses(self, before: AsyncServiceInfo, now: AsyncServiceInfo) -> None:
        """Say goodbye to addresses that are left: a new one takes the place of others only after a while.

        Said on the sockets of now: an address that is left sends nothing any more.
        """
        left = now.addresses_by_version(IPVersion.All)
        lost = [record for record in before.dns_addresses(override_ttl=0) if record.address not in left]
        if lost and left:
            message = DNSOutgoing(_RESPONSE)
            for record in lost:
                record.unique = False  # else it would take the address that replaces it along
                message.add_answer_at_time(record, 0)
            self._multicast.zeroconf.zeroconf.async_send(message)

    async def _open(self, *, patient: bool) -> None:
        await self._multicast.start(patient=patient)
        if self._multicast.interfaces:
            await self._find_name()

    async def _find_name(self) -> None:
        info = AsyncServiceInfo(SERVICE, f"{self.name}.{SERVICE}", server=self.host)
        await self._multicast.zeroconf.zeroconf.async_check_service(info, allow_name_change=True)
        self._name, self._free_at = label_of(info.name), asyncio.get_running_loop().time()

    async def _register(self) -> Awaitable[None]:
        await asyncio.sleep(random.uniform(0, _APART_S))
        looked = asyncio.get_running_loop().time() - self._free_at <= _FREE_S
        if not looked or self._is_taken():
            await self._find_name()
        self._info = self._make_info()
        return await self._multicast.zeroconf.async_register_service(self._info, cooperating_responders=True)

    def _is_taken(self) -> bool:
        """Return whether another node has announced our name since it was found free."""
        cache = self._multicast.zeroconf.zeroconf.cache
        return cache.current_entry_with_name_and_alias(SERVICE, f"{self._name}.{SERVICE}") is not None

    async def _announce(self) -> Awaitable[None]:
        if self._info is None:
            return _nothing()
        self._info = self._make_info()
        return await self._multicast.zeroconf.async_update_service(self._info)

    def _make_info(self) -> AsyncServiceInfo:
        said = self._announced
        assert said is not None
        text = NodeText(said.node_id, said.revision, said.items, said.tls)
        return AsyncServiceInfo(
            SERVICE,
            f"{self.name}.{SERVICE}",
            port=said.port,
            properties=encode_txt(text),
            server=self.host,
            parsed_addresses=self._addresses(),
        )

    def _addresses(self) -> list[str]:
        """Where to find us; the loopback only when there is nothing else: elsewhere it is another host."""
        every = [address for interface in self._multicast.interfaces for address in interface.lasting]
        return [address for address in every if not address.startswith("127.")] or every

    def _describe(self) -> str:
        """Where this node is announced, for people; the loopback only when there is nothing else."""
        places = {interface.name: interface.lasting for interface in self._multicast.interfaces}
        lan = {name: found for name, found in places.items() if not all(map(_is_loopback, found))}
        return ", ".join(f"{name} ({', '.join(found)})" for name, found in (lan or places).items())

    def _tell_moved(self) -> None:
        """Tell of a change once it has lasted from one look to the next: addresses come one by one."""
        where = self._describe()
        if where == self._where != self._said_where:
            self._said_where = where
            self.moved(where)
        self._where = where


async def _nothing() -> None:
    """Stands for an announcement that is not needed."""


def _is_loopback(address: str) -> bool:
    return address.startswith("127.")


def instance_label(label: str, size: int) -> str:
    """``label`` as one DNS label of at most ``size`` bytes; a dot would end it."""
    safe = printable(label).replace(".", "-")
    return safe.encode("utf-8")[:size].decode("utf-8", "ignore") or "node"
