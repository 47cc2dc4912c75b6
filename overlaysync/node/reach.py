"""Who is within reach, and what they list: mDNS and named peers, asked for their catalogs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from time import monotonic

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import Browser, Peer
from overlaysync.discovery.resolving import resolve
from overlaysync.errors import DecodeError, NetworkError, OverlaysyncError, PeerError
from overlaysync.model.addresses import host_key, is_told_port
from overlaysync.model.names import one_field
from overlaysync.net.bounds import SERVER
from overlaysync.net.client import CatalogAnswer, Client, GoneError
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address, Endpoint, PrivateAddress
from overlaysync.net.upload_slots import NoSlotError, UploadSlots
from overlaysync.node.directory import PeerDirectory
from overlaysync.node.hearing import Hearing
from overlaysync.node.host_budget import AskBudget, DialBudget
from overlaysync.node.intake import Intake
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.twins import Twins
from overlaysync.node.views import PeerView
from overlaysync.ops.matching import Listing
from overlaysync.ops.team_things import things_of
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.keys import node_id

SETTLE_S = 0.25
"""After something fits, others get this long to be seen: more sources, or another thing of that name."""

_AGAIN_S = 5.0
"""Announced peers that did not answer are asked again after this time."""

_IN_TURN = 8
"""Announced peers asked again at one time, in case that an announcement was lost."""

_PROBLEMS = 4
"""Peers said to fail, of all that do."""

_PROOFS = 4
"""How often a peer that claims this node's key is asked to prove it when it does not answer."""

_LOOK_S = 10.0
"""A peer that nobody named must have sent its catalog by then."""

_STAYED_S = 3.0
"""A peer that is announced elsewhere must answer where it was within this time: as long as to connect."""

_LOOKS = 12
_LOOKING = replace(SERVER, places=4, waiting=4 * DISCOVERY.peers, wait_s=3600)
"""Few catalogs at once, for each may be long; hosts take turns, and those that stall give way."""


@dataclass(slots=True)
class Reach:
    """Peers found so far; grows while it is open.

    Attributes:
        faults: unexpected exceptions; none of them ends the search.
        dials: of the addresses that others tell of, the ones that are dialled.
        alarm: is told of other machines with this node's key; None for the observer.
        hearing: what is asked of others without their ``catalogs``; None for nothing.
        twins: other machines with this node's key.
    """

    node: Node
    client: Client
    observer: Observer
    browser: Browser | None
    named: tuple[Address, ...] = ()
    catalogs: bool = True
    faults: Faults = field(default_factory=Faults)
    dials: DialBudget = field(default_factory=DialBudget)
    alarm: Callable[[str], None] | None = None
    hearing: Hearing | None = None
    twins: Twins = field(init=False)
    directory: PeerDirectory = field(init=False)
    _intake: Intake = field(init=False)
    _asks: AskBudget = field(default_factory=AskBudget)
    _asking: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: BaseException | None = None
    _looked_s: float = 0.0
    _slots: UploadSlots = field(default_factory=lambda: UploadSlots(_LOOKING, _LOOKS))

    def __post_init__(self) -> None:
        self.twins = Twins(self.client, self.alarm or self.observer.note)
        self.directory = PeerDirectory(self.named)
        self._intake = Intake(self.node, self.client, self.faults)

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
        catalogs: bool = True,
        alarm: Callable[[str], None] | None = None,
    ) -> AsyncIterator[Reach]:
        """Begin to look for peers: the named ones, and all that announce themselves.

        A node that only shares does without mDNS where it does not work, and without others' ``catalogs``; it
        waits where there is no network yet.

        Raises:
            NetworkError: mDNS does not work here, it is needed, and no peer is named.
        """
        named = tuple(dict.fromkeys(peers))
        faults = Faults(observer.note)
        faults.watch(asyncio.get_running_loop())
        browser: Browser | None = Browser(interfaces=tuple(interfaces), faults=faults)
        assert browser is not None
        try:
            await browser.start(patient=not catalogs)
        except NetworkError as error:
            browser = None
            if mdns_needed and not named:
                raise
            observer.note(str(error))
        reach = cls(
            node,
            client,
            observer,
            browser,
            named=named,
            catalogs=catalogs,
            faults=faults,
            alarm=alarm,
        )
        if browser is not None:
            browser.still_there = reach._still_there
        watcher = asyncio.create_task(reach._watch())
        watcher.add_done_callback(reach._ended)
        try:
            yield reach
        finally:
            tasks = (watcher, *reach._asking.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if browser is not None:
                await browser.stop()
            with suppress(OverlaysyncError):  # what the command has found counts more
                await asyncio.to_thread(node.keep_faults, faults)

    # -- what was found ------------------------------------------------------------------------------

    @property
    def views(self) -> dict[str, PeerView]:
        """The peers, as in :class:`PeerDirectory`."""
        return self.directory.views

    def nodes(self) -> list[PeerView]:
        """Return every node once."""
        return self.directory.nodes()

    def listings(self) -> list[Listing]:
        """Return everything listed, by manifest, with the peers that list it."""
        return self.directory.listings()

    def sources(self, content: bytes, team: str = "") -> dict[str, tuple[Endpoint, Manifest]]:
        """Return the sources of a content, as :meth:`PeerDirectory.sources`."""
        return self.directory.sources(content, team)

    def answering(self) -> list[Address]:
        """Return the addresses of the nodes that answer."""
        return self.directory.answering()

    def ignore(self, host: str) -> None:
        """Note a host name of this node's own."""
        if self.browser is not None:
            self.browser.ignore(host)

    def may_dial(self, host: str, port: int, *, told_by: Endpoint) -> bool:
        """Whether to believe a peer that a node answers at ``host`` (an IP address) and ``port``."""
        return self.directory.neighbourhood.may_dial(host, port, told_by=told_by.host)

    def silence(self) -> NetworkError | None:
        """Return what to say when no peer has answered at all; None when one has."""
        if any(view.answered for view in self.nodes()):
            return None
        looked = f"looked for {self._looked_s:g} s on {self.browser.where}" if self.browser else ""
        asked = f"asked {', '.join(map(str, self.named))}" if self.named else ""
        problems = (view.problem for view in self.nodes() if view.problem)
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
        named = [view for view in self.views.values() if self.directory.is_named(view)]
        failed = [view.problem for view in named if view.problem]
        if failed and len(failed) == len(self.named):
            raise NetworkError(
                "No machine that you named answers",
                why="; ".join(failed),
                hint="check address and port, or: overlaysync doctor",
            )

    async def until(self, satisfied: Callable[[], bool], *, wait_s: float) -> None:
        """Return when ``satisfied`` and no more peers turn up, or after ``wait_s``.

        Who names peers means those: no time is given to others then.
        """
        self._looked_s = max(self._looked_s, wait_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not satisfied():
                    await self._next_change()
                    if self.browser is None and not self._asking and len(self.views) >= len(self.named):
                        return
                if self.browser is not None or self.looking:
                    await self._settle()

    def check(self) -> None:
        """Raise what has broken off the search for peers: for who waits for them by other means."""
        if self._failure is not None:
            raise self._failure

    @property
    def looking(self) -> bool:
        """Whether some peer is being asked for its catalog at present."""
        return bool(self._asking)

    def ask_again(self) -> None:
        """Ask peers for their catalogs again: a command that stays calls this from time to time.

        All those are asked whose changes are not announced: the named peers, those that they told of, and
        members of this node's teams, as what belongs to a team is in no announcement. Of the others some in
        turn, for announcements get lost: between two switches that were apart nothing says so afterwards.
        """
        announced = []
        for key, view in list(self.views.items()):
            if not (view.announced or view.answered or self.directory.is_named(view)):
                continue  # others told of it, and it may not even exist
            if not view.announced:
                named = next((address for address in self.named if str(address) == key), None)
                self._ask(key, (named or view.address,), gossip=named is not None)
            elif (self.catalogs and view.tls and self.node.teams) or _is_member(view):
                self._ask(key, (view.address,))
            elif view.answered:
                announced.append(key)
        announced.sort(key=lambda key: self.views[key].asked_at)
        for key in announced[:_IN_TURN]:
            self._ask(key, (self.views[key].address,))

    async def changes(self, *, wait_s: float) -> bool:
        """Wait until something has been heard of a peer, and no peer is being asked; False when nothing was.

        Args:
            wait_s: for each of the two.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._next_change()
        except TimeoutError:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self.looking:
                    await self._next_change()
        return True

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
        self.check()

    # -- looking -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Ask the named peers once; ask those announced when they come, change, or did not answer."""
        for address in self.named:
            self._ask(str(address), (address,), gossip=True)
        again_at = monotonic() + _AGAIN_S
        while self.browser is None and not self.catalogs:
            await asyncio.sleep(_AGAIN_S)
            self.ask_again()
        while self.browser is not None:
            found = {peer.label: peer for peer in self.browser.found()}
            for key in [key for key, view in self.views.items() if view.announced and key not in found]:
                self.directory.set_list(self.views.pop(key), {})
                self.directory.unmask()
                self._has_changed()
            for peer in found.values():
                try:
                    self._consider(peer)
                except Exception as error:
                    self.faults.contain(error, "looking at an announcement")
            if not self.catalogs and monotonic() >= again_at:
                self.ask_again()  # others are told where peers are, so it must still be true
                again_at = monotonic() + _AGAIN_S
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await self.browser.changed()

    def _consider(self, peer: Peer) -> None:
        """Ask an announced peer, if it has news and its host has not been asked too often lately.

        Where it answered before comes first: anybody can announce another address in its name.
        """
        view, now = self.views.get(peer.label), monotonic()
        asking = self._asking.get(peer.label)
        if not is_told_port(peer.port) or not self._has_news(view, peer):
            return
        if asking and not (view and _has_moved(view, peer) and peer.addresses != view.addresses):
            return
        hosts = [host for host in peer.addresses if self._asks.take(host, now)]
        addresses = [Address(host, peer.port) for host in hosts]
        if view is not None and view.answered:
            addresses.insert(0, view.address)
        if hosts:
            if asking:  # where it was: nothing may be heard of that for long
                asking.cancel()
                del self._asking[peer.label]
            self._ask(peer.label, tuple(dict.fromkeys(addresses)), announced=peer)

    def _has_news(self, view: PeerView | None, peer: Peer) -> bool:
        """Whether there is anything to ask a peer for."""
        if view is None or view.problem or 0 < view.unproven < _PROOFS:
            return True
        if peer.addresses != view.addresses and _has_moved(view, peer):
            return True  # as is said; where it answered may still be tried first
        return self.catalogs and view.revision != peer.revision

    def _ask(
        self, key: str, addresses: tuple[Address, ...], *, gossip: bool = False, announced: Peer | None = None
    ) -> None:
        """Ask a peer for its catalog, unless it is being asked.

        Args:
            key: its label when it is announced, else its address.
            addresses: where to try, in this order.
            gossip: whether to ask the peers that it knows as well.
            announced: what it announced, if it did.
        """
        if key in self._asking or (key not in self.views and len(self.views) >= 2 * DISCOVERY.peers):
            return
        view = self.views.setdefault(key, PeerView(addresses[0]))
        view.asked_at = monotonic()
        if announced:
            view.announced, view.revision, view.addresses = True, announced.revision, announced.addresses
        task = asyncio.create_task(self._look_in_turn(view, addresses, gossip, announced))
        self._asking[key] = task
        task.add_done_callback(lambda task: self._looked(task, key))

    def _looked(self, task: asyncio.Task[None], key: str) -> None:
        self._ended(task)
        if self._asking.get(key) is not task:
            return  # it is being asked elsewhere since
        del self._asking[key]
        view = self.views.get(key)  # gone when the peer said goodbye while it was asked
        if view and view.problem:
            self.dials.failed(*view.address, monotonic())
        elif view:
            self.dials.answered(*view.address)
        if self.browser and view and view.announced:
            if view.problem:
                self.browser.unanswered(key)
            else:
                self.browser.confirm(key, *view.address)
        self.directory.unmask()
        self._has_changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._has_changed()

    def _has_changed(self) -> None:
        self.directory.changed()
        self._changed.set()

    async def _look_in_turn(
        self, view: PeerView, addresses: tuple[Address, ...], gossip: bool, announced: Peer | None
    ) -> None:
        """Fill ``view`` when it is its turn; a peer that the user named need not wait for others.

        Whatever goes wrong with one peer is its own problem, unless this machine fails.
        """
        limit = asyncio.timeout(None)
        loop = asyncio.get_running_loop()
        try:
            if self.directory.is_named(view):
                await self._look(view, addresses, gossip)
                await self._look_for_twin(view, announced)
                return
            async with self._slots.place(view.address.host, lambda: limit.reschedule(loop.time())), limit:
                limit.reschedule(loop.time() + _LOOK_S)
                if announced and await self._has_left(view, announced):
                    addresses = tuple(address for address in addresses if address != view.address)
                await self._look(view, addresses, gossip)
                await self._look_for_twin(view, announced)
        except (TimeoutError, NoSlotError):
            view.problem = f"{view.address} takes too long to say what it has"
        except Exception as error:
            failure = self.faults.contain(error, "asking a peer for its catalog")
            view.problem = f"{view.address}: {failure}"

    async def _has_left(self, view: PeerView, announced: Peer) -> bool:
        """Whether a peer that is announced elsewhere does not answer any more where it did.

        It is asked for something small, and soon: of what was sent on a connection to an address that has
        gone nothing is heard for long, and the catalog of one that has stayed may take its time.
        """
        if not view.answered or view.address.host in announced.addresses:
            return False
        try:
            async with asyncio.timeout(_STAYED_S):
                await self.client.peers(view.address)
        except (TimeoutError, PeerError, DecodeError):
            return True
        return False

    async def _look(self, view: PeerView, addresses: tuple[Address, ...], gossip: bool) -> None:
        """Fill ``view`` from the first address that answers."""
        if not self.catalogs:
            if await self._greet(view, addresses, gossip):
                await self._hear(view)
            return
        resolved = await self._resolve(addresses)
        for address in resolved:
            try:
                answer = await self.client.catalog(address, view.etag)
            except (PeerError, DecodeError) as error:
                problem = str(error) if address in addresses else f"{view.address}: {error}"
            else:
                # Another node may have its old port by now, and it a new one.
                if address == resolved[-1] or not _is_another(answer, view):
                    break
        else:
            known, view.problem = view.problem, problem
            if not view.announced and view.manifests:
                # It was asked again, says no goodbye, and has gone: nothing can be had of it.
                view.etag, view.public = "", {}
                self.directory.set_list(view, {})
            if self.directory.is_named(view) and len(self.named) > 1 and problem != known:
                self.observer.note(problem)
            return
        view.address, view.etag, view.problem, view.answered = address, answer.etag, "", True
        if answer.catalog is not None:
            view.public_key = answer.catalog.node
            view.label = one_field(answer.catalog.label)
        view.alias = self.directory.is_alias(view)
        if answer.catalog is not None:
            view.tls = answer.catalog.tls if self._may_have(answer.catalog.tls, address) else 0
            view.boot, view.in_use, view.pasts = answer.catalog.boot, {}, set()
            view.public = await asyncio.to_thread(self._intake.keep_listed, answer.catalog, "", view)
        view.in_use = {id: since for id, since in view.in_use.items() if id in view.public}
        self.directory.set_list(view, view.public | await self._look_in_private(view))
        if self.catalogs:
            await self._intake.learn_history(view, view.manifests)
        self.directory.cut_lists()
        if gossip:
            await self._ask_its_peers(address)

    async def _look_for_twin(self, view: PeerView, announced: Peer | None) -> None:
        """Find out whether a peer elsewhere that claims this node's key has it."""
        said = node_id(view.public_key) if view.public_key else ""
        claimed = said or (announced.node_id if announced else "")
        if view.problem or not claimed or self.directory.neighbourhood.is_here(view.address.host):
            return
        own = self.node.key.public
        if claimed != node_id(own):
            return
        tls, label = view.tls, view.label
        if announced is not None:
            tls, label = tls or announced.tls, label or announced.label
        try:
            await self.twins.meet(own, view.address, tls, label)
            view.unproven = 0
        except Exception as error:
            self.faults.contain(error, "asking a peer to prove this machine's key")
            view.unproven += 1

    async def _greet(self, view: PeerView, addresses: tuple[Address, ...], gossip: bool) -> bool:
        """Find out where a peer answers, which is told to others; what it has is not needed here."""
        for address in await self._resolve(addresses):
            try:
                told = await self.client.peers(address)
            except (PeerError, DecodeError) as error:
                view.problem = str(error)
                continue
            view.address, view.problem, view.answered = address, "", True
            if gossip:
                self._ask_those(told, address)
            return True
        return False

    async def _hear(self, view: PeerView) -> None:
        """Ask a peer that answers for other versions of what is shared here; it may be asked in vain."""
        if self.hearing is None:
            return
        host = host_key(view.address.host)
        views = list(self.views.items())
        peer = next(
            (
                self.browser.peers.get(key)
                for key, one in views
                if one is view and self.browser and view.announced
            ),
            None,
        )
        beside = sum(host_key(one.address.host) == host for _, one in views)
        try:
            opened, learn = self._intake.opened, self._intake.learn_history
            await self.hearing.ask(view, peer, beside=beside, opened=opened, learn=learn)
        except Exception as error:
            self.faults.contain(error, "asking a peer for versions of what is shared here")

    async def _ask_its_peers(self, address: Address) -> None:
        """Ask those that a peer tells of as well."""
        try:
            self._ask_those(await self.client.peers(address), address)
        except Exception as error:
            self.faults.contain(error, "asking a peer for its peers")

    def _ask_those(self, told: Iterable[Address], teller: Address) -> None:
        """Ask those that ``teller`` may tell of."""
        for other in told:
            if self.may_dial(*other, told_by=teller) and self.dials.take(*other, monotonic()):
                self._ask(str(other), (other,))

    def _may_have(self, tls: int, address: Address) -> bool:
        """Whether to dial a private lane that a peer tells of; who was named with a low port may have two."""
        return is_told_port(tls) or not is_told_port(address.port)

    async def _still_there(self, peer: Peer) -> bool:
        """Whether a peer that is said to have gone, and has answered before, still answers."""
        view = self.views.get(peer.label)
        if view is None or not view.answered:
            return False
        try:
            await self.client.peers(view.address)
        except Exception as error:
            self.faults.contain(error, "asking whether a peer has gone")
            return False
        return True

    async def _resolve(self, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        """IP addresses only, once for each name: where a node is, and who it is, goes by these."""
        for address in addresses:
            if address in self.named and address not in self.directory.resolved:
                self.directory.resolved[address] = await resolve(address)
        return tuple(ip for address in addresses for ip in self.directory.resolved.get(address, (address,)))

    async def _look_in_private(self, view: PeerView) -> dict[bytes, Manifest]:
        """Return what the peer serves to the teams that this node is in as well."""
        view.things = {}
        teams = self.node.teams if view.tls and not view.alias else ()
        found = await asyncio.gather(*(self._look_in_team(view, team) for team in teams))
        return {id: manifest for manifests in found for id, manifest in manifests.items()}

    async def _look_in_team(self, view: PeerView, team: str) -> dict[bytes, Manifest]:
        endpoint = view.endpoint(team)
        assert isinstance(endpoint, PrivateAddress)
        try:
            catalog = await self.client.private_catalog(endpoint)
            manifests = await asyncio.to_thread(self._intake.keep_listed, catalog, team, view)
            view.things[team] = things_of(manifests.values())
            if view.public_key != self.node.key.public:
                await self._intake.note_member(view.public_key, catalog.label, team, self.nodes)
            return manifests
        except GoneError:
            return {}
        except Exception as error:
            failure = self.faults.contain(error, "asking a peer for its team's catalog")
            if str(failure) != view.noted:
                self.observer.note(str(failure))
            # Ask again, if it is announced; and for all it says: its private lane may have moved.
            view.noted, view.revision, view.etag = str(failure), "", ""
            return {}


def _has_moved(view: PeerView, peer: Peer) -> bool:
    """Whether a peer is announced, but not where it has answered."""
    return view.address.host not in peer.addresses


def _is_member(view: PeerView) -> bool:
    """Whether a share was told by a peer what it lists to one of its teams."""
    return any(team and heard.etag for team, heard in view.heard.items())


def _is_another(answer: CatalogAnswer, view: PeerView) -> bool:
    """Whether another node answers than did before."""
    return answer.catalog is not None and view.public_key not in (b"", answer.catalog.node)
