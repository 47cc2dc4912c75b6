"""Who is within reach: the peers that are there, those who are being asked, and waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from overlaysync.discovery.browser import Browser
from overlaysync.errors import NetworkError, OverlaysyncError
from overlaysync.net.client import Client
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Endpoint
from overlaysync.node.directory import PeerDirectory
from overlaysync.node.host_budget import DialBudget
from overlaysync.node.inquiry import Inquiry
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.polling import Polling
from overlaysync.node.twins import Twins
from overlaysync.trust.envelope import Manifest

SETTLE_S = 0.25
"""After something fits, others get this long to answer: more sources, or another thing of that name."""

_ALL_SEEN_S = 0.3
_LATER_S = 0.1
"""Nodes are waited for until both times are over: the first since the search began, the second since
something fitted. A node that hears a question by mDNS answers it within 0.12 s."""

_PROBLEMS = 4
"""Peers said to fail, of all that do."""


@dataclass(slots=True)
class Reach:
    """Peers found so far; grows while it is open.

    Attributes:
        node, client, observer: as of the command.
        browser: hears announcements; None where there is no mDNS.
        network: whom to look for.
        faults: unexpected exceptions; none of them ends the search.
        dials: of the addresses that others tell of, the ones that are dialled.
        directory: who is there.
        polling: who is asked.
        twins: other machines with this node's key.
    """

    node: Node
    client: Client
    observer: Observer
    browser: Browser | None
    network: Network = field(default_factory=Network)
    faults: Faults = field(default_factory=Faults)
    dials: DialBudget = field(default_factory=DialBudget)
    directory: PeerDirectory = field(init=False)
    polling: Polling = field(init=False)
    twins: Twins = field(init=False)
    _looked_s: float = 0.0
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.twins = Twins(self.client, self.network.alarm or self.observer.note)
        self.directory = PeerDirectory(dict.fromkeys(self.network.peers), self.network.lost)
        inquiry = Inquiry(self.node, self.client, self.observer, self.directory, self.faults, self.twins)
        self.polling = Polling(inquiry, self.directory, self.browser, self.dials, self.network.catalogs)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        node: Node,
        client: Client,
        observer: Observer,
        network: Network,
        faults: Faults | None = None,
    ) -> AsyncIterator[Reach]:
        """Begin to look for peers: the named ones, and all that announce themselves.

        A node that only shares does without mDNS where it does not work, and without others' ``catalogs``; it
        waits where there is no network yet.

        Raises:
            NetworkError: mDNS does not work here, it is needed, and no peer is named.
        """
        faults = faults or Faults(observer.note)
        faults.watch(asyncio.get_running_loop())
        browser: Browser | None = Browser(interfaces=tuple(network.interfaces), faults=faults)
        assert browser is not None
        try:
            await browser.start(patient=not network.catalogs)
        except NetworkError as error:
            browser = None
            if network.mdns_needed and not network.peers:
                raise
            observer.note(str(error))
        reach = cls(node, client, observer, browser, network, faults)
        reach._began = asyncio.get_running_loop().time()
        if browser is not None:
            browser.still_there = reach.polling.still_there
        watcher = asyncio.create_task(reach.polling.watch())
        watcher.add_done_callback(reach.polling.ended)
        try:
            yield reach
        finally:
            watcher.cancel()
            await reach.polling.stop()
            await asyncio.gather(watcher, return_exceptions=True)
            if browser is not None:
                await browser.stop()
            with suppress(OverlaysyncError):  # what the command has found counts more
                await asyncio.to_thread(node.keep_faults, faults)

    def sources(self, content: bytes, team: str = "") -> dict[str, tuple[Endpoint, Manifest]]:
        """Return the sources of a content, as :meth:`PeerDirectory.sources`."""
        return self.directory.sources(content, team)

    def ignore(self, host: str) -> None:
        """Note a host name of this node's own."""
        if self.browser is not None:
            self.browser.ignore(host)

    # -- whether anybody answers ---------------------------------------------------------------------

    def answered(self) -> bool:
        """Whether some peer has answered."""
        return any(view.answered for view in self.directory.nodes())

    def silence(self) -> NetworkError | None:
        """Return what to say when no peer has answered at all; None when one has."""
        if self.answered():
            return None
        nodes, named = self.directory.nodes(), self.directory.named
        looked = f"looked for {self._looked_s:g} s on {self.browser.where}" if self.browser else ""
        asked = f"asked {', '.join(map(str, named))}" if named else ""
        problems = (view.problem for view in nodes if view.problem)
        return NetworkError(
            f"No other machine answered ({'; '.join(filter(None, (looked, asked)))})",
            why="; ".join(islice(problems, _PROBLEMS)),
            hint="overlaysync doctor, to find out why; or name a machine that shares: --peer HOST",
        )

    def require_answer(self) -> None:
        """Complain when no peer has answered, or none of those that were named.

        Raises:
            NetworkError: what they did instead.
        """
        silence = self.silence()
        if silence is not None:
            raise silence
        named = [view for view in self.directory.views.values() if self.directory.is_named(view)]
        failed = [view.problem for view in named if view.problem]
        if failed and len(failed) == len(self.directory.named):
            raise NetworkError(
                "No machine that you named answers",
                why="; ".join(failed),
                hint="check address and port, or: overlaysync doctor",
            )

    # -- waiting -------------------------------------------------------------------------------------

    @property
    def looking(self) -> bool:
        """Whether some peer is being asked for its catalog at present."""
        return self.polling.busy

    def check(self) -> None:
        """Raise what has broken off the search for peers: for who waits for them by other means."""
        self.polling.check()

    async def until(self, satisfied: Callable[[], bool], *, wait_s: float) -> None:
        """Return when ``satisfied`` and no more peers turn up, or after ``wait_s``.

        Who names peers means those: no time is given to others then.
        """
        self._looked_s = max(self._looked_s, wait_s)
        directory = self.directory
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not satisfied():
                    await self.polling.next_change()
                    all_known = len(directory.views) >= len(directory.named)
                    if self.browser is None and not self.looking and all_known:
                        return
                if self.browser is not None or self.looking:
                    await self._settle()

    async def changes(self, *, wait_s: float) -> bool:
        """Wait until something has been heard of a peer, and no peer is being asked; False when nothing was.

        Args:
            wait_s: for each of the two.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self.polling.next_change()
        except TimeoutError:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.looking:
                    await self.polling.next_change()
        return True

    async def another(self, *, wait_s: float) -> bool:
        """Wait for the answer of a peer that is being asked at present; False when there is none."""
        if not self.looking:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.polling.next_change()
                return True
        return False

    async def _settle(self) -> None:
        # One time span for all: when a whole room starts at once, new nodes keep turning up.
        loop = asyncio.get_running_loop()
        seen = max(self._began + _ALL_SEEN_S, loop.time() + _LATER_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while self.looking or (not self.directory.named and loop.time() < seen):
                    with suppress(TimeoutError):
                        async with asyncio.timeout_at(None if self.looking else seen):
                            await self.polling.next_change()
