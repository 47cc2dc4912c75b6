"""Which peers are asked, when, and how many at a time: the named ones, those announced, those told of.

Leaves out what they are asked for, and what becomes of the answers: that is :mod:`.inquiry`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import Browser, Peer
from overlaysync.model.addresses import host_key, is_told_port
from overlaysync.net.bounds import SERVER
from overlaysync.net.messages import Address
from overlaysync.net.upload_slots import NoSlotError, UploadSlots
from overlaysync.node.directory import PeerDirectory
from overlaysync.node.hearing import Hearing
from overlaysync.node.host_budget import AskBudget, DialBudget
from overlaysync.node.inquiry import Inquiry
from overlaysync.node.views import PeerView

AGAIN_S = 5.0
"""Announced peers that did not answer are asked again after this time."""

_IN_TURN = 8
"""Announced peers asked again at one time, in case that an announcement was lost."""

PROOFS = 4
"""How often a peer that claims this node's key is asked to prove it when it does not answer."""

LOOK_S = 10.0
"""A peer that nobody named must have sent its catalog by then."""

LOOKS = 12
LOOKING = replace(SERVER, places=4, waiting=4 * DISCOVERY.peers, wait_s=3600)
"""Few catalogs at once, for each may be long; hosts take turns, and those that stall give way."""


@dataclass(slots=True)
class Polling:
    """Asks peers, each when it is its turn.

    Attributes:
        inquiry: asks one of them.
        directory: the peers.
        browser: hears announcements; None where there is no mDNS.
        dials: of the addresses that others tell of, the ones that are dialled.
        catalogs: whether they are asked for what they have.
        hearing: what is asked of others without their ``catalogs``; None for nothing.
        stays: whether they are asked again and again, as a command does that stays.
    """

    inquiry: Inquiry
    directory: PeerDirectory
    browser: Browser | None
    dials: DialBudget
    catalogs: bool
    hearing: Hearing | None = None
    _asks: AskBudget = field(default_factory=AskBudget)
    _asking: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: BaseException | None = None
    stays: bool = field(init=False)
    _looks: bool = False
    _keeps: bool = False
    _slots: UploadSlots = field(default_factory=lambda: UploadSlots(LOOKING, LOOKS))

    def __post_init__(self) -> None:
        self.stays = not self.catalogs

    # -- how it goes ---------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether some peer is being asked at present."""
        return bool(self._asking)

    def check(self) -> None:
        """Raise what has broken off the search for peers."""
        if self._failure is not None:
            raise self._failure

    async def next_change(self) -> None:
        """Wait until something is known of a peer that was not known before.

        Raises:
            Exception: what has broken off the search.
        """
        await self._changed.wait()
        self._changed.clear()
        self.check()

    def look_closer(self, closer: bool) -> None:
        """Ask peers for what they have as well, while a person looks at a share's page; or no more."""
        self._looks = closer
        self._choose()

    def keep(self) -> None:
        """Ask peers for what they have from now on: this node keeps copies."""
        self._keeps = True
        self._choose()

    def _choose(self) -> None:
        before, self.catalogs = self.catalogs, self._looks or self._keeps or not self.stays
        if self.catalogs and not before:
            for view in self.directory.views.values():
                view.revision = ""  # of what it has nothing is known, whatever it announced
            for peer in self.browser.found() if self.browser else ():
                self.consider(peer)
            self.ask_again()

    async def stop(self) -> None:
        """Ask nobody any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- whom to ask ---------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Ask the named peers once; ask those announced when they come, change, or did not answer."""
        for address in self.directory.named:
            self.ask(str(address), (address,), gossip=True)
        again_at = monotonic() + AGAIN_S
        while self.browser is None and self.stays:
            await asyncio.sleep(AGAIN_S)
            self.ask_again()
        while self.browser is not None:
            found = {peer.label: peer for peer in self.browser.found() if not self._is_lost(peer)}
            views = self.directory.views
            for key in [key for key, view in views.items() if view.announced and key not in found]:
                self.directory.set_list(views.pop(key), {})
                self.directory.unmask()
                self._has_changed()
            for peer in found.values():
                try:
                    self.consider(peer)
                except Exception as error:
                    self.inquiry.faults.contain(error, "looking at an announcement")
            if self.stays and monotonic() >= again_at:
                self.ask_again()  # others are told where peers are, so it must still be true
                again_at = monotonic() + AGAIN_S
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self.browser.changed()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Note what has ended a task, for those who wait."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self._has_changed()

    def ask_again(self) -> None:
        """Ask peers for their catalogs again: a command that stays calls this from time to time.

        All those are asked whose changes are not announced: the named peers, those that they told of, and
        members of this node's teams, as what belongs to a team is in no announcement. Of the others some in
        turn, for announcements get lost: between two switches that were apart nothing says so afterwards.
        """
        announced = []
        views, teams = self.directory.views, self.inquiry.node.teams
        for key, view in list(views.items()):
            if not (view.announced or view.answered or self.directory.is_named(view)):
                continue  # others told of it, and it may not even exist
            if not view.announced:
                named = next((address for address in self.directory.named if str(address) == key), None)
                self.ask(key, (named or view.address,), gossip=named is not None)
            elif (self.catalogs and view.tls and teams) or _is_member(view):
                self.ask(key, (view.address,))
            elif view.answered:
                announced.append(key)
        announced.sort(key=lambda key: views[key].asked_at)
        for key in announced[:_IN_TURN]:
            self.ask(key, (views[key].address,))

    def consider(self, peer: Peer) -> None:
        """Ask an announced peer, if it has news and its host has not been asked too often lately.

        Where it answered before comes first: anybody can announce another address in its name.
        """
        view, now = self.directory.views.get(peer.label), monotonic()
        asking = self._asking.get(peer.label)
        if not is_told_port(peer.port) or not has_news(view, peer, catalogs=self.catalogs):
            return
        if asking and not (view and _has_moved(view, peer) and peer.addresses != view.addresses):
            return
        hosts = [host for host in peer.addresses if self._asks.take(host, now)]
        addresses = [Address(host, peer.port) for host in hosts]
        if view is not None and view.answered:
            addresses.insert(0, view.address)
        if hosts:
            self.leave(peer.label)  # where it was: nothing may be heard of that for long
            self.ask(peer.label, tuple(dict.fromkeys(addresses)), announced=peer)

    def _is_lost(self, peer: Peer) -> bool:
        """Whether nothing may be asked of a peer."""
        lost = self.directory.lost
        return lost is not None and lost.takes(peer.label, peer.addresses, peer.port)

    async def still_there(self, peer: Peer) -> bool:
        """Whether a peer that is said to have gone, and has answered before, still answers."""
        view = self.directory.views.get(peer.label)
        return view is not None and view.answered and await self.inquiry.still_answers(view)

    def ask(
        self, key: str, addresses: tuple[Address, ...], *, gossip: bool = False, announced: Peer | None = None
    ) -> None:
        """Ask a peer for its catalog, unless it is being asked.

        Args:
            key: its label when it is announced, else its address.
            addresses: where to try, in this order.
            gossip: whether to ask the peers that it knows as well.
            announced: what it announced, if it did.
        """
        views = self.directory.views
        if key in self._asking or (key not in views and len(views) >= 2 * DISCOVERY.peers):
            return
        view = views.setdefault(key, PeerView(addresses[0]))
        view.asked_at = monotonic()
        if announced:
            view.announced, view.revision, view.addresses = True, announced.revision, announced.addresses
        task = asyncio.create_task(self._ask_in_turn(view, addresses, gossip, announced))
        self._asking[key] = task
        task.add_done_callback(lambda task: self._asked(task, key))

    def leave(self, key: str) -> None:
        """Wait for the answer of a peer no longer."""
        if key in self._asking:
            self._asking.pop(key).cancel()

    def _asked(self, task: asyncio.Task[None], key: str) -> None:
        self.ended(task)
        if self._asking.get(key) is not task:
            return  # it is being asked elsewhere since
        del self._asking[key]
        view = self.directory.views.get(key)  # gone when the peer said goodbye while it was asked
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

    def _has_changed(self) -> None:
        self.directory.changed()
        self._changed.set()

    # -- one after the other -------------------------------------------------------------------------

    async def _ask_in_turn(
        self, view: PeerView, addresses: tuple[Address, ...], gossip: bool, announced: Peer | None
    ) -> None:
        """Fill ``view`` when it is its turn; a peer that the user named need not wait for others.

        Whatever goes wrong with one peer is its own problem, unless this machine fails.
        """
        limit = asyncio.timeout(None)
        loop = asyncio.get_running_loop()
        try:
            if self.directory.is_named(view):
                await self._inquire(view, addresses, gossip, announced)
                return
            async with self._slots.place(view.address.host, lambda: limit.reschedule(loop.time())), limit:
                limit.reschedule(loop.time() + LOOK_S)
                if announced and await self.inquiry.has_left(view, announced):
                    addresses = tuple(address for address in addresses if address != view.address)
                await self._inquire(view, addresses, gossip, announced)
        except (TimeoutError, NoSlotError):
            view.problem = f"{view.address} takes too long to say what it has"
        except Exception as error:
            failure = self.inquiry.faults.contain(error, "asking a peer for its catalog")
            view.problem = f"{view.address}: {failure}"

    async def _inquire(
        self, view: PeerView, addresses: tuple[Address, ...], gossip: bool, announced: Peer | None
    ) -> None:
        told = self._ask_those if gossip else None
        if self.catalogs:
            await self.inquiry.look(view, addresses, told)
            answers = view.answered and not view.problem
        else:
            answers = await self.inquiry.greet(view, addresses, told)
        if answers and self.hearing is not None:
            peer, beside = self._announcement(view), self._beside(view)
            await self.inquiry.hear(self.hearing, view, peer, beside=beside)
        await self.inquiry.look_for_twin(view, announced)

    def _announcement(self, view: PeerView) -> Peer | None:
        """Return what a peer announces at present."""
        if self.browser is None or not view.announced:
            return None
        keys = (key for key, one in self.directory.views.items() if one is view)
        return next((self.browser.peers.get(key) for key in keys), None)

    def _beside(self, view: PeerView) -> int:
        """Return how many nodes are on the host of one."""
        host = host_key(view.address.host)
        return sum(host_key(one.address.host) == host for one in self.directory.views.values())

    def _ask_those(self, told: Iterable[Address], teller: Address) -> None:
        """Ask those that ``teller`` may tell of."""
        for other in told:
            if self.directory.may_dial(*other, told_by=teller) and self.dials.take(*other, monotonic()):
                self.ask(str(other), (other,))


def has_news(view: PeerView | None, peer: Peer, *, catalogs: bool) -> bool:
    """Whether there is anything to ask an announced peer for.

    Args:
        view: what is known of it.
        peer: what it announces.
        catalogs: whether peers are asked for what they have.
    """
    if view is None or view.problem or 0 < view.unproven < PROOFS:
        return True
    if peer.addresses != view.addresses and _has_moved(view, peer):
        return True  # as is said; where it answered may still be tried first
    return catalogs and view.revision != peer.revision


def _has_moved(view: PeerView, peer: Peer) -> bool:
    """Whether a peer is announced, but not where it has answered."""
    return view.address.host not in peer.addresses


def _is_member(view: PeerView) -> bool:
    """Whether a share was told by a peer what it lists to one of its teams."""
    return any(team and heard.etag for team, heard in view.heard.items())
