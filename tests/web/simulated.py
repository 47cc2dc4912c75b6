"""A node with a page in a large lab that is not there: 200 peers, 500 images, 20 transfers.

Run as ``python -m tests.web.simulated DIRECTORY``: prints the address of the page as a line of JSON, and for
each line on stdin the seconds of processor time that it has used so far.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

from overlaysync.model.digest import derive, format_id
from overlaysync.model.fingerprint import Fingerprint
from overlaysync.model.manifest import Header
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address
from overlaysync.net.rate import RateLimit
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.polling import Polling
from overlaysync.node.session import looking
from overlaysync.node.sharing import Share
from overlaysync.node.views import PeerView
from overlaysync.store.images import ImageRow
from overlaysync.trust.envelope import Manifest, sign_header
from overlaysync.web.session import link_to, paged
from overlaysync.web.subject import Subject
from overlaysync.web.tasks import Task, Tasks

PEERS, IMAGES, TRANSFERS, MASTERS = 200, 500, 20, 20


def fill(node: Node, place: Path) -> list[Manifest]:
    """Twenty masters with their overlays, half of them here; returns what is published."""
    ids = [derive("simulated", b"%d" % number) for number in range(IMAGES)]
    manifests = []
    for number, id in enumerate(ids):
        on = None if number < MASTERS else ids[number % MASTERS]
        result = id if on is None else derive("simulated result", id)
        manifests.append(publish(node, number, id, on, result))
        if number % 2 == 0:
            path = place / f"image{number}.qcow2"
            path.write_bytes(b"simulated")
            file = Fingerprint.of(path.stat())
            node.catalog.images.remember(
                ImageRow(str(path), (file,), "qcow2", 1 << 30, result, on and id, on, time.time() - number)
            )
    return manifests


def publish(node: Node, number: int, id: bytes, on: bytes | None, result: bytes) -> Manifest:
    """The manifest of an image that is not there."""
    header = Header(
        kind="disk" if on is None else "layer",
        name=f"image{number}",
        version=1,
        id=format_id(id),
        virtual_size=1 << 30,
        unit=64 << 10,
        data_size=1 << 24,
        list_size=100,
        parent=format_id(on) if on else "",
        result=format_id(result),
        format="qcow2",
        cluster_size=64 << 10,
        created="2026-11-28T10:00:00Z",
        by="somebody@somewhere",
    )
    return sign_header(header, node.key)


def peer(number: int, manifests: list[Manifest]) -> PeerView:
    """A peer that lists thirty of them."""
    view = PeerView(Address(f"10.0.{number // 250}.{number % 250 + 1}", 29450), label=f"student{number}@room")
    view.public_key, view.answered = derive("simulated peer", b"%d" % number), True
    view.manifests = {one.id: one for one in random.Random(number).sample(manifests, 30)}
    return view


async def go_on(tasks: list[Task], views: list[PeerView]) -> None:
    """Let every transfer go on, and now and then a peer change what it lists."""
    cells = [0] * 64
    for step in range(1 << 30):
        await asyncio.sleep(0.2)
        cells[step % 64] = (cells[step % 64] + 3) % 10
        for number, task in enumerate(tasks):
            task.progress = {
                "what": f"image{number}:1",
                "done": step << 20,
                "total": 1 << 34,
                "stalled": 0,
                "cells": "".join(map(str, cells)),
                "copies": "".join(str((step + at) % 10) for at in range(64)),
                "sources": ["a@x", "b@x"],
            }
        view = views[step % len(views)]
        view.problem = "" if view.problem else "does not answer"


async def main(directory: Path) -> None:
    node = Node.open({"OVERLAYSYNC_HOME": str(directory / "home")})
    place = directory / "images"
    place.mkdir()
    manifests = fill(node, place)
    Polling.ask_again = lambda _: None  # type: ignore[method-assign, assignment] # these peers answer nobody
    Polling.consider = lambda *_: None  # type: ignore[method-assign] # and no other is heard
    network = Network(interfaces=("lo",), mdns_needed=False, catalogs=False)
    share = Share(node, [str(place)], None, Silent())
    async with looking(node, Silent(), network) as reach:
        views = [peer(number, manifests) for number in range(PEERS)]
        reach.directory.views.update({view.label: view for view in views})
        subject = Subject(share, reach, 29450, "lo", RateLimit(None), network)
        async with paged(subject, Faults(lambda text: print(text, file=sys.stderr))) as page:
            tasks = [
                Task(f"{number:012x}", "fetch", ("fetch", "x"), time.time()) for number in range(TRANSFERS)
            ]
            kept: Tasks = page.site.tasks
            kept.all()
            kept.put(tasks)
            going = asyncio.create_task(go_on(tasks, views))
            print(json.dumps({"link": link_to(page.address, page.secret)}), flush=True)
            loop = asyncio.get_running_loop()
            while await loop.run_in_executor(None, sys.stdin.readline):
                print(json.dumps({"cpu_s": sum(os.times()[:2])}), flush=True)
            going.cancel()
            with suppress(asyncio.CancelledError):
                await going
    share.close()
    node.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
