"""Looking at what is within reach for a moment, for the commands that show it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overlaysync.cli.output import Output
from overlaysync.cli.watching import Notes, next_look
from overlaysync.errors import NetworkError
from overlaysync.net.messages import Address
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer
from overlaysync.node.session import looking
from overlaysync.ops.matching import Listing
from overlaysync.ops.timeline import Place
from overlaysync.trust.keys import node_id

if TYPE_CHECKING:  # see overlaysync.node.session
    from overlaysync.node.reach import Reach
    from overlaysync.node.views import PeerView

LOOK_S = 2.0
_ANSWERS_S = 2.0
"""So much longer for machines that have been found and are being asked: a busy one takes its time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was within reach.

    Attributes:
        listings: what peers list.
        nodes: the peers, as JSON.
        silence: what is wrong when no peer has answered; None when one has.
    """

    listings: list[Listing]
    nodes: list[dict[str, Any]]
    silence: NetworkError | None

    def require_answer(self) -> None:
        """Complain when no peer has answered.

        Raises:
            NetworkError: none has.
        """
        if self.silence is not None:
            raise self.silence


def look_around(node: Node, output: Output, network: Network, wait_s: float, *, tell: bool = True) -> Seen:
    """Return what is within reach; that nothing can be reached at all is silence as well."""

    try:
        return asyncio.run(look(node, output, network, wait_s, tell=tell))
    except NetworkError as error:
        return Seen([], [], error)


async def look(node: Node, output: Output, network: Network, wait_s: float, *, tell: bool = True) -> Seen:
    """Return what is within reach after ``wait_s``, and a little later where answers are awaited.

    Args:
        node, output: looks, and tells.
        network, wait_s: where to look, and for how long.
        tell: whether to say which peers were asked in vain.
    """
    async with looking(node, output, network) as reach:
        await answers(reach, wait_s)
        return seen_now(reach, output, tell=tell)


async def answers(reach: Reach, wait_s: float) -> None:
    """Wait for what is within reach, and a little longer for machines that are being asked."""
    await reach.until(lambda: False, wait_s=wait_s)
    if reach.looking:
        await reach.until(lambda: not reach.looking, wait_s=_ANSWERS_S)


def seen_now(reach: Reach, observer: Observer, *, tell: bool = True) -> Seen:
    """Return what has been seen so far; ``tell`` as for :func:`look`."""
    if tell:
        note_silent(reach, observer)
    nodes = [
        {
            "node": view.label,
            "id": node_id(view.public_key) if view.public_key else "",
            "address": str(view.address),
            "images": len(view.served),
            "in_use": len(view.manifests) - len(view.served),
            "problem": problem_of(view),
        }
        for view in once_each(reach.directory.nodes())
    ]
    return Seen(reach.directory.listings(), nodes, reach.silence())


async def looks(
    node: Node, network: Network, wait_s: float, show: Callable[[Seen, tuple[str, ...]], None], *, tell: bool
) -> None:
    """Show what is within reach again and again, with what was noted; never ends by itself."""
    notes = Notes()
    async with looking(node, notes, network) as reach:
        await answers(reach, wait_s)
        asked_at = asyncio.get_running_loop().time()
        while True:
            seen = seen_now(reach, notes, tell=tell)
            show(seen, notes.taken())
            asked_at = await next_look(reach, asked_at)


def once_each(views: Iterable[PeerView]) -> list[PeerView]:
    """Return the nodes without those that do not answer where another is listed.

    A machine that was killed again and again is announced for a while under all its former names.
    """
    found: dict[Address, PeerView] = {}
    answering = []
    for view in views:
        if problem_of(view):
            found.setdefault(view.address, view)
        else:
            answering.append(view)
    there = {view.address for view in answering}
    return answering + [view for address, view in found.items() if address not in there]


def problem_of(view: PeerView) -> str:
    """Why a node has not said what it has; "" when it has."""
    return view.problem or ("" if view.public_key else f"{view.address} has not answered so far")


def note_silent(reach: Reach, output: Observer) -> None:
    """Say which of the named peers have not answered, and when nothing is listed how many others."""
    silent = [view for view in reach.directory.nodes() if problem_of(view)]
    for view in silent:
        said = view.problem and len(reach.directory.named) > 1
        if view.address in reach.directory.named and not said:
            output.note(problem_of(view))
    announced = sum(view.announced for view in silent)
    if announced and not reach.directory.listings():
        nodes = "1 node is" if announced == 1 else f"{announced} nodes are"
        output.note(f"{nodes} announced and did not answer; to see why: overlaysync peers")


def newest_first(listing: Listing, where: Mapping[bytes, Place]) -> tuple[str, bool, int, bytes]:
    """By name; then what nothing follows, before what is older."""

    header, id = listing.manifest.header, listing.manifest.id
    return (header.full_name, where[id] is Place.OLDER, -header.version, id)
