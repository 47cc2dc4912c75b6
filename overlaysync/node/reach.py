"""Who is within reach, and what they list: mDNS and named peers, asked for their catalogs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from overlaysync.errors import DecodeError, NetworkError, OverlaysyncError, PeerError
from overlaysync.model.names import printable
from overlaysync.net.client import Client
from overlaysync.net.discovery import Browser, Peer
from overlaysync.net.interfaces import is_own
from overlaysync.net.messages import Address
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.ops.resolve import Listing
from overlaysync.trust.envelope import Manifest, open_envelope

SETTLE_S = 0.4
"""After something fits, others get this long to be seen: more sources, or another thing of that name."""


@dataclass(slots=True)
class PeerView:
    """A node as seen by this one.

    Attributes:
        address: where it answered.
        public_key: what it says its key is.
        label: its label, safe to print.
        manifests: what it lists, signatures verified, by id.
        etag: of its catalog.
        problem: why it could not be asked; "" when it was.
        alias: whether it is a node on this machine that another of its addresses already stands for.
    """

    address: Address
    public_key: bytes = b""
    label: str = ""
    manifests: dict[bytes, Manifest] = field(default_factory=dict)
    etag: str = ""
    problem: str = ""
    alias: bool = False


@dataclass(slots=True)
class Reach:
    """Peers found so far; grows while it is open."""

    node: Node
    client: Client
    observer: Observer
    browser: Browser | None
    views: dict[Address, PeerView] = field(default_factory=dict)
    named: tuple[Address, ...] = ()
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    manifest_bytes: int = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        node: Node,
        client: Client,
        observer: Observer,
        *,
        peers: Iterable[Address] = (),
        interfaces: Iterable[str] = (),
        mdns_needed: bool = True,
    ) -> AsyncIterator[Reach]:
        """Begin to look for peers: the named ones, and all that announce themselves.

        Raises:
            NetworkError: mDNS does not work here, it is needed, and no peer is named.
        """
        named = tuple(peers)
        browser: Browser | None = Browser(interfaces=tuple(interfaces))
        assert browser is not None
        try:
            await browser.start()
        except NetworkError as error:
            browser = None
            if mdns_needed and not named:
                raise
            observer.note(str(error))
        reach = cls(node, client, observer, browser, named=named)
        watcher = asyncio.create_task(reach._watch())
        try:
            yield reach
        finally:
            for task in (watcher, *reach._tasks):
                task.cancel()
            await asyncio.gather(watcher, *reach._tasks, return_exceptions=True)
            if browser is not None:
                await browser.stop()

    # -- what was found ------------------------------------------------------------------------------

    def listings(self) -> list[Listing]:
        """Everything listed, by manifest, with the peers that list it."""
        found: dict[bytes, tuple[Manifest, list[PeerView]]] = {}
        for view in self.nodes():
            for manifest in view.manifests.values():
                found.setdefault(manifest.id, (manifest, []))[1].append(view)
        return [
            Listing(manifest, tuple(str(view.address) for view in views), tuple(view.label for view in views))
            for manifest, views in found.values()
        ]

    def sources(self, content: bytes) -> dict[str, tuple[Address, bytes]]:
        """Source key → (address, id of the manifest to ask for) of every peer that has the content."""
        return {
            str(view.address): (view.address, manifest.id)
            for view in self.nodes()
            for manifest in view.manifests.values()
            if manifest.header.content_id == content
        }

    def ignore(self, name: str, port: int) -> None:
        """This node's own announcement is nobody else."""
        if self.browser is not None:
            self.browser.ignore(name, port)

    def answering(self) -> list[Address]:
        """Addresses of the nodes that have answered."""
        return [view.address for view in self.nodes() if view.public_key]

    def require_answer(self) -> None:
        """Complain when peers were named and none of them answered.

        Raises:
            NetworkError: what they did instead.
        """
        named = [view for address, view in self.views.items() if address in self.named]
        failed = [view.problem for view in named if view.problem]
        if failed and len(failed) == len(self.named):
            raise NetworkError(
                "No peer answers",
                why="; ".join(failed),
                hint="check address and port, or: overlaysync doctor",
            )

    def nodes(self) -> list[PeerView]:
        """Every node once, as far as that can be known."""
        return [view for view in self.views.values() if not view.alias]

    def label_of(self, source: str) -> str:
        """The label of the node behind a source key."""
        return next((view.label for view in self.nodes() if str(view.address) == source), "") or source

    async def until(self, satisfied: Callable[[], bool], *, wait_s: float) -> None:
        """Return when ``satisfied`` and no more peers turn up, or after ``wait_s``.

        Who names peers means those: no time is given to others then.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not satisfied():
                    await self._next_change()
                    if self.browser is None and not self._tasks and len(self.views) >= len(self.named):
                        return
                if self.browser is not None or self.looking:
                    await self._settle()

    @property
    def looking(self) -> bool:
        """Whether some peer is being asked for its catalog at present."""
        return bool(self._tasks)

    async def another(self, *, wait_s: float) -> bool:
        """Wait for the answer of a peer that is being asked at present; False when there is none."""
        if not self.looking:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._next_change()
                return True
        return False

    async def _settle(self) -> None:
        with suppress(TimeoutError):
            while self.looking or not self.named:
                async with asyncio.timeout(SETTLE_S):
                    await self._next_change()

    async def _next_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    # -- looking -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        for address in self.named:
            self._ask(address, gossip=True)
        while self.browser is not None:
            for peer in self.browser.found():
                self._ask(Address(peer.addresses[0], peer.port), announced=peer)
            await self.browser.changed()

    def _ask(self, address: Address, *, gossip: bool = False, announced: Peer | None = None) -> None:
        if address in self.views:
            return
        self.views[address] = PeerView(address)
        task = asyncio.create_task(self._look(address, gossip, announced))
        self._tasks.add(task)
        task.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def _look(self, address: Address, gossip: bool, announced: Peer | None) -> None:
        view = self.views[address]
        try:
            answer = await self.client.catalog(address)
            if answer.catalog is not None:
                view.public_key = answer.catalog.node
                view.label = printable(answer.catalog.label)
                view.etag = answer.etag
                view.alias = self._is_alias(view)
                view.manifests = await asyncio.to_thread(self._open_all, answer.catalog.envelopes)
                self.manifest_bytes += sum(map(len, answer.catalog.envelopes))
            if announced and self.browser:
                self.browser.confirm(announced)
            if gossip:
                for other in await self.client.peers(address):
                    self._ask(other)
        except (PeerError, DecodeError) as error:
            view.problem = str(error)
            if address in self.named and len(self.named) > 1:
                self.observer.note(view.problem)

    def _is_alias(self, view: PeerView) -> bool:
        """Only among this machine's own addresses: elsewhere anybody could claim another's key."""
        return is_own(view.address.host) and any(
            (other.public_key, other.address.port) == (view.public_key, view.address.port)
            and is_own(other.address.host)
            for other in self.nodes()
            if other is not view
        )

    def _open_all(self, envelopes: Iterable[bytes]) -> dict[bytes, Manifest]:
        """Verify envelopes and note their versions; a wrong one is left out, its neighbours are not."""
        manifests = {}
        for envelope in envelopes:
            with suppress(OverlaysyncError):
                manifest = open_envelope(envelope)
                manifests[manifest.id] = manifest
        for manifest in manifests.values():
            header = manifest.header
            if self.node.catalog.highest_version(header.team, header.name) < header.version:
                self.node.catalog.saw(header.team, header.name, header.version, manifest.publisher)
        return manifests
