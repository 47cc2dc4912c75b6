"""Asks a swarm from within a room, as a node would: what do those who fetch have, all taken together?

    python -m tests.e2e.watcher HOST:PORT NAME

asks the node that shares NAME who fetches it, and these what they have, again and again. Each time it prints
a line of JSON: ``{"pieces": 80, "held": [17, 20], "together": 35}``, all in pieces.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from contextlib import suppress

from overlaysync.model.pieces import Pieces
from overlaysync.net.messages import decode_catalog
from overlaysync.net.swarm_messages import SwarmAnswer, SwarmQuestion, decode_swarm, encode_question
from overlaysync.trust.envelope import open_envelope
from overlaysync.units import CHUNK

_PAUSE_S = 0.1


def get(address: str, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/v1/{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body


def find(address: str, name: str) -> tuple[str, int]:
    """The manifest of a master that is all data, and its pieces."""
    manifests = map(open_envelope, decode_catalog(get(address, "catalog")).envelopes)
    (manifest,) = (manifest for manifest in manifests if manifest.header.name == name)
    assert manifest.header.data_size % CHUNK == 0
    return manifest.id.hex(), Pieces.of(manifest.header.data_size // CHUNK, CHUNK).count


def main(seed: str, name: str) -> None:
    """Watch until somebody ends this process, or the one that shares does not answer."""
    manifest, pieces = find(seed, name)

    def ask(address: str) -> SwarmAnswer:
        path = f"manifests/{manifest}/swarm?{encode_question(SwarmQuestion())}"
        return decode_swarm(get(address, path), pieces)

    while True:
        held: list[set[int]] = []
        for member in ask(seed).members:
            with suppress(OSError):
                held.append(set(ask(f"{member.host}:{member.port}").held or ()))
        found = {"pieces": pieces, "held": list(map(len, held)), "together": len(set().union(*held))}
        print(json.dumps(found), flush=True)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, OSError):
        main(*sys.argv[1:])
