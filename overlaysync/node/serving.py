"""Serve a share: the HTTP server, the announcement, the neighbours, and the watch over the files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic

from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.txt import Item
from overlaysync.errors import NetworkError, OverlaysyncError
from overlaysync.net.bodies import Uploads
from overlaysync.net.content_provider import View
from overlaysync.net.faults import Faults
from overlaysync.net.membership import PrivateLane
from overlaysync.net.rate import RateLimit
from overlaysync.net.server import Server
from overlaysync.node.deliveries import Deliveries
from overlaysync.node.hearing import Hearing
from overlaysync.node.intake import NOTED_S
from overlaysync.node.keeping import kept_by
from overlaysync.node.node import Node, timestamp
from overlaysync.node.reach import Reach
from overlaysync.node.scrubber import rechecked
from overlaysync.node.sharing import Share
from overlaysync.node.vault_serving import ServedVault
from overlaysync.store.holders import label_key
from overlaysync.swarm.members import Members
from overlaysync.trust.keys import node_id

ANNOUNCE_S = 10.0
"""Finding a free name takes a second, unless somebody claims every one."""
WATCH_S = 2.0
"""How often shared files are looked at."""


@asynccontextmanager
async def serve(
    share: Share,
    announcer: Announcer,
    reach: Reach,
    *,
    port: int | None = 0,
    limit: RateLimit | None = None,
    recheck_s: float | None = None,
) -> AsyncIterator[tuple[int, str]]:
    """Serve ``share`` while the block runs; gives the port and the interfaces it is announced on.

    Without multicast the node serves all the same; others then need ``--peer``.

    Args:
        share: what is served.
        announcer: announces it, with the faults of ``reach``.
        reach: who else is there.
        port: 0 for a free one, None for the default (a free one when that is taken).
        limit: the rate of what is given.
        recheck_s: what was last read longer ago is read again meanwhile; None: never.
    """
    node, faults = share.node, reach.faults
    faults.tell(share.observer.note)
    deliveries = Deliveries(share.observer.log)
    sent = partial(_note_sent, share, deliveries)
    if not reach.polling.catalogs:
        reach.polling.hearing = Hearing(node, reach.client, share.names, share.hear)
    vault = ServedVault(node.home.vault, partial(kept_by, node), monotonic)
    server = Server(
        share,
        uploads=Uploads(limit=limit, sent=sent),
        lane=PrivateLane(node.key, node.teams),
        faults=faults,
        vault=vault,
    )
    port = await server.start(port=port)
    share.neighbours = reach.directory.answering
    reach.ignore(announcer.host)
    where = await _announce(announcer, share, server)
    watching = asyncio.create_task(keep_announced(announcer, share, server, faults, deliveries))
    try:
        async with rechecked(share, recheck_s):
            yield port, where
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await server.stop()  # first: who hears the goodbye asks whether it is true
        await announcer.stop()


async def _announce(announcer: Announcer, share: Share, server: Server) -> str:
    """Announce what is shared, and return where; "" where that does not work, which is said."""
    tell = share.observer.note

    def moved(where: str) -> None:
        tell(f"Now announced on {where}" if where else f"No longer announced: {announcer.problem}")

    announcer.moved = moved
    try:
        async with asyncio.timeout(ANNOUNCE_S):
            where = await announcer.start(_announcement(share, server), patient=True)
        if not where:
            tell(f"Not announced until there is a network ({announcer.problem})")
        return where
    except NetworkError as error:
        tell(f"Not announced: {error}")
    except TimeoutError:
        tell("Not announced: another machine answers to every name that was tried. Others need --peer")
    return ""


async def keep_announced(
    announcer: Announcer, share: Share, server: Server, faults: Faults, deliveries: Deliveries
) -> None:
    """Look at the files every moment, and announce what is shared by then; never ends by itself."""
    announced = share.changes
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            _tell_progress(share)
            deliveries.look(partial(_members, share), asyncio.get_running_loop().time())
            await asyncio.to_thread(_note_holders, share.node, _finished(share))
            await asyncio.to_thread(share.node.keep_faults, faults)
            await asyncio.to_thread(share.refresh)
            if share.changes != announced:
                announced = share.changes
                await announcer.update(_announcement(share, server))
        except (OverlaysyncError, OSError) as error:
            share.observer.note(f"Cannot look at what is shared: {error}")
        except Exception as error:  # the next look must come all the same
            faults.count(error, "watching what is shared")


def _note_sent(
    share: Share,
    deliveries: Deliveries,
    manifest_id: bytes,
    host: str,
    size: int,
    runs: Sequence[tuple[int, int]],
) -> None:
    """Image data have been sent."""
    offer = share.offer(manifest_id)
    if offer is not None:
        now = asyncio.get_running_loop().time()
        deliveries.sent(offer.manifest, host, size, _members(share, manifest_id), now)
        share.note_given(offer, runs, size)


def _members(share: Share, manifest_id: bytes) -> Members:
    """Return the nodes that fetch an image, if it is still shared."""
    return share.swarms.of(manifest_id) if share.offer(manifest_id) is not None else Members()


def _tell_progress(share: Share) -> None:
    """How far those are who fetch something here."""
    now = asyncio.get_running_loop().time()
    for offer in share.offers():
        members = share.swarms.of(offer.manifest.id)
        header = offer.manifest.header
        # Of a node that was stopped and has begun again the later one counts.
        fetching = {
            member.key: (member.label or member.host, member.held / max(1, offer.pieces.count))
            for member in members.current(now)
            if member.key not in members.done
        }
        if members.joined:
            name = f"{header.full_name}:{header.version}"
            share.observer.serving(
                name, header.data_size, len(members.done), len(members.joined), [*fetching.values()]
            )


def _finished(share: Share) -> list[tuple[str, bytes]]:
    """(label, content) of every node that says that it has now all of what it fetched here."""
    now = asyncio.get_running_loop().time()
    return [
        (member.label, offer.manifest.header.content_id)
        for offer in share.offers()
        for members in (share.swarms.of(offer.manifest.id),)
        for member in members.current(now)
        if member.label not in ("", share.label) and member.key in members.done
    ]


def _note_holders(node: Node, finished: list[tuple[str, bytes]]) -> None:
    """Note who has what, by label: of a node that only fetches the key is not known."""
    at, lately = timestamp(), timestamp(ago_s=NOTED_S)
    for label, content in finished:
        node.catalog.holders.note_all(label_key(label), label, [content], at=at, fresh=lately)


def _announcement(share: Share, server: Server) -> Announcement:
    """Return what everybody may know; what belongs to a team is in no announcement."""
    view = View(share)
    shown = {offer.manifest.id for offer in view.offers()}
    items = tuple(
        Item(
            kind="overlay" if shared.manifest.header.is_layer else "master",
            name=shared.manifest.header.full_name,
            id=shared.manifest.header.content_id,
        )
        for shared in share.shared
        if shared.manifest.id in shown
    )
    return Announcement(server.port, node_id(share.public_key), view.revision, items, server.tls)
