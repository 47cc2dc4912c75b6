"""A node's discovery alone: ``python -m tests.discovery.neighbour LABEL EXPECTED [INTERFACE...]``.

Announces LABEL, waits for EXPECTED to be announced, says so in its own announcement, and ends when EXPECTED
has said the same or is gone: so neither leaves before the other has seen it.
"""

from __future__ import annotations

import asyncio
import sys

from overlaysync.discovery.announcer import Announcement, Announcer
from overlaysync.discovery.browser import Browser, Peer
from overlaysync.errors import NetworkError
from overlaysync.trust.keys import node_id

FOUND = "found"


def say(line: str) -> None:
    """Print in one piece: another node writes to the same pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(label: str, expected: str, interfaces: list[str]) -> None:
    announcer, browser = Announcer(label, interfaces=interfaces), Browser(interfaces=interfaces)
    port = 40000 + len(label)
    said = Announcement(port, node_id(label.encode()))

    def peer() -> Peer | None:
        return next((peer for peer in browser.found() if peer.label == expected), None)

    where = await announcer.start(said)
    await browser.start()
    say(f"announced on {where}")
    while (other := peer()) is None:
        await browser.changed()
    say(f"found {other.addresses[0]}")
    await announcer.update(Announcement(port, said.node_id, FOUND))
    while (other := peer()) is not None and other.revision != FOUND:
        await browser.changed()
    await browser.stop()
    await announcer.stop()


if __name__ == "__main__":
    try:
        asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2], sys.argv[3:]), 20))
    except NetworkError as error:
        sys.exit(f"{error} ({error.hint})")
