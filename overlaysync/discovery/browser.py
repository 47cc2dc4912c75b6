"""Discovery by DNS-SD over multicast DNS: hear which nodes are here.

What is heard is a hint: an address to ask, nothing more. Anybody on the wire can make it up, so everything is
bounded, names are made safe to print, and addresses that no chosen interface reaches directly are dropped.
Interfaces and addresses are followed as they come, change and go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from zeroconf import (  # type: ignore[attr-defined] # not all in its __all__
    DNSPointer,
    DNSQuestionType,
    ServiceStateChange,
    Zeroconf,
)
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceInfo

from overlaysync.discovery.bounds import DISCOVERY, DiscoveryBounds
from overlaysync.discovery.multicast import FOLLOW_S, Multicast, Repeats
from overlaysync.discovery.one_shot import OneShot
from overlaysync.discovery.record_limits import BoundedBrowser
from overlaysync.discovery.txt import Item, decode_txt
from overlaysync.model.addresses import host_key
from overlaysync.model.names import one_field
from overlaysync.net.faults import Faults

SERVICE = "_overlaysync._tcp.local."
_FLUSH_S = 1.5
"""An address that another has replaced stays in caches for a second (RFC 6762, 10.2)."""
_log = logging.getLogger("overlaysync.discovery.browser")


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that somebody announced.

    Attributes:
        label: its instance name, safe to print.
        node_id: the node id it claims, or "".
        addresses: IP addresses to try, the most promising first.
        port: the port to try.
        revision: of its catalog, or "".
        items: what it says it has.
        tls: the port of its private lane, or 0.
    """

    label: str
    node_id: str
    addresses: tuple[str, ...]
    port: int
    revision: str = ""
    items: tuple[Item, ...] = ()
    tls: int = 0


class Browser:
    """Keeps the peers that are announced.

    When there is no place for another, the one that was heard of longest ago goes, unless it has been
    confirmed: a flood of made-up peers pushes out neither those that answered nor those that come later.
    One host may answer by any number of names, so of each host only some places (addresses with a port) are
    kept for having answered, each by one name.
    Anybody can say that a peer has gone, so one is dropped only when it does not answer any more.

    Args:
        interfaces: names of the interfaces to use; none for all that are usual.
        faults: unexpected exceptions go there.

    Attributes:
        peers: by instance name.
        still_there: asks a peer whether it has gone; without it, what is said of it is believed.
    """

    def __init__(
        self,
        *,
        interfaces: Sequence[str] = (),
        bounds: DiscoveryBounds = DISCOVERY,
        faults: Faults | None = None,
    ) -> None:
        self._bounds = bounds
        self._faults = faults or Faults()
        self._multicast = Multicast(interfaces, self._faults)
        self._one_shot = OneShot(SERVICE, self._multicast.reaches, self._faults)
        self.peers: OrderedDict[str, Peer] = OrderedDict()
        self._own: set[str] = set()
        self._confirmed: dict[str, tuple[str, str, int]] = {}  # label → where it answered, by host
        self._silent: set[str] = set()  # of these, the ones that did not answer when they were asked last
        self._freed = False  # whether one of these places has become free
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._wanted = asyncio.Semaphore(0)
        self._workers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._browser: BoundedBrowser | None = None
        self._follower: asyncio.Task[None] | None = None
        self.still_there: Callable[[Peer], Awaitable[bool]] | None = None
        self._doubts: dict[str, asyncio.Task[None]] = {}
        self._asked_at: dict[str, float] = {}
        self._doubting = asyncio.Semaphore(bounds.doubts)

    async def start(self, *, patient: bool = False) -> None:
        """Ask who is there, and listen.

        Args:
            patient: whether to wait for a network where there is none.

        Raises:
            NetworkError: multicast works on no interface.
            UsageError: a named interface does not exist.
        """
        await self._multicast.start(patient=patient)
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._bounds.resolves)]
        # Multicast answers: a unicast one would reach only one of several nodes on this host.
        self._browser = BoundedBrowser(
            self._multicast.zeroconf.zeroconf,
            SERVICE,
            handlers=[self._heard],
            question_type=DNSQuestionType.QM,
            faults=self._faults,
            readdressed=self._readdressed,
        )
        self._one_shot.ask(self._multicast.interfaces, self._multicast.zeroconf.zeroconf)
        self._follower = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Listen no longer; the peers stay."""
        self._one_shot.stop()
        if self._browser is not None:
            await self._browser.async_cancel()
        follower = [self._follower] if self._follower else []
        tasks = (*follower, *self._workers, *self._doubts.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._multicast.close()

    def ignore(self, host: str) -> None:
        """Note a host name of our own, before it is announced: what is announced there is no peer."""
        self._own.add(host)

    @property
    def where(self) -> str:
        """The interfaces that it listens on, for people."""
        return ", ".join(interface.name for interface in self._multicast.interfaces)

    def found(self) -> tuple[Peer, ...]:
        """Return the peers at this moment."""
        return tuple(self.peers.values())

    async def changed(self) -> None:
        """Wait for the next change of the peers."""
        await self._changed.wait()

    def confirm(self, label: str, host: str, port: int) -> None:
        """Keep a peer that has answered there, however many others are announced.

        One label for a place is enough: what others call the same node uses up nothing. A label that keeps
        silent gives way.
        """
        if label not in self.peers:
            return
        place = (host_key(host), host, port)
        if self._confirmed.get(label, place) != place:
            self._give_back(label)
        self._silent.discard(label)
        others = [other for other in self._confirmed if other != label]
        same = [other for other in others if self._confirmed[other] == place]
        of_host = [other for other in others if self._confirmed[other][0] == place[0]]
        rivals = same or (of_host if len(of_host) >= self._bounds.confirmed else [])
        if rivals and not self._silent.isdisjoint(rivals):
            self._give_back(next(other for other in rivals if other in self._silent))
            rivals = []
        if not rivals:
            self._confirmed[label] = place

    def unanswered(self, label: str) -> None:
        """Note that a peer does not answer where it did: another may have its place."""
        if label in self._confirmed:
            self._silent.add(label)

    # -- inside --------------------------------------------------------------------------------------

    def _heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        try:
            self._take_note(name, state_change)
        except Exception as error:
            self._faults.count(error, "hearing of a peer")

    def _take_note(self, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._doubt(label_of(name))
            return
        if (doubt := self._doubts.pop(label_of(name), None)) is not None:
            doubt.cancel()
        self._heard_of(name)

    def _heard_of(self, name: str) -> None:
        """Resolve a name, when it is its turn."""
        known = name in self._pending
        self._pending[name] = None
        self._pending.move_to_end(name)
        if len(self._pending) > self._bounds.pending:
            self._pending.popitem(last=False)
        elif not known:
            self._wanted.release()

    def _readdressed(self, name: str) -> None:
        """Look at a peer again of which an address was withdrawn: it may have others."""
        if name.endswith("." + SERVICE) and label_of(name) in self.peers:
            self._heard_of(name)

    async def _follow(self) -> None:
        """Listen on the interfaces as they come and go."""
        repeats, loop = Repeats(), asyncio.get_running_loop()
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                moved = self._multicast.look()
                await self._multicast.adapt()
                if moved:
                    repeats.begin(loop.time())
                if moved or repeats.due(loop.time()):
                    self._look_again()
                elif self._freed:
                    self._hear_known()
            except Exception as error:
                self._faults.count(error, "following the interfaces")

    def _look_again(self) -> None:
        """Ask who is there, and find out anew which of the known peers are reached, and where."""
        assert self._browser is not None
        self._browser.ask_now()
        self._one_shot.ask(self._multicast.interfaces, self._multicast.zeroconf.zeroconf)
        self._hear_known()

    def _hear_known(self) -> None:
        """Resolve all names that are known, also of peers that had to go."""
        self._freed = False
        for record in self._multicast.zeroconf.zeroconf.cache.async_entries_with_name(SERVICE):
            if isinstance(record, DNSPointer):
                self._heard_of(record.alias)

    async def _work(self) -> None:
        """Resolve what is pending, the newest first: what a flood brought earlier may never be looked at."""
        while True:
            await self._wanted.acquire()
            if self._pending:
                name, _ = self._pending.popitem()
                try:
                    await self._resolve(name)
                except (ZeroconfError, OSError, ValueError) as error:
                    _log.debug("cannot resolve a peer: %s", error)
                except Exception as error:
                    self._faults.count(error, "resolving a peer")
                await asyncio.sleep(self._bounds.pace_s)

    async def _resolve(self, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if not await info.async_request(
            self._multicast.zeroconf.zeroconf, self._bounds.resolve_s * 1000, DNSQuestionType.QM
        ):
            return
        text = decode_txt(info.properties)
        label = label_of(name)
        if text is None or not info.port or info.server in self._own:
            return
        addresses = self._multicast.reachable(info.parsed_scoped_addresses())
        if addresses:
            if label in self.peers and self.peers[label].addresses != addresses:
                asyncio.get_running_loop().call_later(_FLUSH_S, self._heard_of, name)
            self._keep(Peer(label, text.node_id, addresses, info.port, text.revision, text.items, text.tls))
        else:
            self._doubt(label)

    def _keep(self, peer: Peer) -> None:
        if self.peers.get(peer.label) == peer:
            self.peers.move_to_end(peer.label)
            return
        self.peers[peer.label] = peer
        self.peers.move_to_end(peer.label)
        if len(self.peers) > self._bounds.peers:
            unconfirmed = (label for label in self.peers if label not in self._confirmed)
            self._drop(next(unconfirmed, next(iter(self.peers))))
        self._notify()

    def _doubt(self, label: str) -> None:
        """Drop a peer that is said to be gone or out of reach, unless it answers."""
        if label not in self.peers or label in self._doubts:
            return
        if self.still_there is None:
            self._drop(label)
            return
        self._doubts[label] = asyncio.create_task(self._resolve_doubt(label, self.still_there))
        self._doubts[label].add_done_callback(lambda task: self._no_more_doubt(label, task))

    def _no_more_doubt(self, label: str, task: asyncio.Task[None]) -> None:
        if self._doubts.get(label) is task:
            del self._doubts[label]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._faults.count(error, "asking whether a peer has gone")

    async def _resolve_doubt(self, label: str, still_there: Callable[[Peer], Awaitable[bool]]) -> None:
        """Ask a doubted peer until it does not answer; who is announced anew is doubted no longer."""
        loop = asyncio.get_running_loop()
        while label in self.peers:
            if label in self._asked_at:
                await asyncio.sleep(self._asked_at[label] + self._bounds.doubt_s - loop.time())
            async with self._doubting:
                peer = self.peers.get(label)
                there = peer is not None and await still_there(peer)
            self._asked_at[label] = loop.time()
            if not there:
                self._drop(label)
            elif self._browser is not None:
                self._browser.ask_again_soon()  # it will announce anew what was withdrawn in its name

    def _give_back(self, label: str) -> None:
        """Give the place of a label back: another label for it may have had to go."""
        self._silent.discard(label)
        self._freed |= self._confirmed.pop(label, None) is not None

    def _drop(self, label: str) -> None:
        self._give_back(label)
        self._asked_at.pop(label, None)
        if self.peers.pop(label, None) is not None:
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def label_of(name: str) -> str:
    """Return the label in the name of an instance, safe to print."""
    return one_field(name.removesuffix("." + SERVICE))
