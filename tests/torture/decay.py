"""Bits that rot: in images, in what a fetch left half done, and in what is shared."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from overlaysync.units import CHUNK
from tests import images
from tests.e2e.nodes import DONE, NOT_VERIFIED
from tests.torture.rot import flip, stored
from tests.torture.runner import Outcome, Runner


class Decay:
    """One node's images and the bits of them.

    Args:
        runner: forks commands.
        images, home: of the node.
        peer: has everything.
        chance: where.
    """

    def __init__(self, runner: Runner, images: Path, home: Path, peer: str, chance: random.Random) -> None:
        self._runner = runner
        self._images = images
        self._home = home
        self._peer = peer
        self._chance = chance
        self.counts: Counter[str] = Counter()

    def run(self, *words: str) -> Outcome:
        """Run a command of the node."""
        return self._runner.run((*words, "--json", "--quiet"), directory=self._images, home=self._home)

    def rot_data(self, name: str, bits: int) -> None:
        """Some bits of what an image stores: each is found, where it is, and all are healed."""
        path = self._images / name
        before = path.read_bytes()
        spots = set()
        for _ in range(bits):
            guest, length, host = self._chance.choice(stored(path))
            at = self._chance.randrange(length)
            flip(path, host + at, self._chance.randrange(8))
            spots.add((guest + at) // CHUNK)
        if path.read_bytes() == before:
            return  # one bit, twice
        outcome = self.run("verify", name)
        assert outcome.code == NOT_VERIFIED, outcome
        found = {
            chunk
            for damage in _verdict(outcome)["damage"]
            for chunk in range(damage["offset"] // CHUNK, -(-(damage["offset"] + damage["length"]) // CHUNK))
        }
        assert found <= spots, f"{found - spots} are accused"
        assert len(found) == len(spots) or len(spots) < bits, f"{spots - found} are not found"
        self.counts["bits of data"] += bits
        self.counts["chunks found"] += len(found)
        self._repair(name, before)

    def rot_anywhere(self, name: str) -> None:
        """A bit anywhere in the file: it is found, or no guest can see it."""
        path = self._images / name
        before, guest = path.read_bytes(), images.content(path)
        flip(path, self._chance.randrange(len(before)), self._chance.randrange(8))
        outcome = self.run("verify", name)
        self.counts["bits anywhere"] += 1
        if outcome.code == DONE:
            assert images.content(path) == guest, f"a guest sees it, and verify does not: {outcome}"
            self.counts["bits nobody sees"] += 1
            path.chmod(0o644)
            path.write_bytes(before)
            path.chmod(0o444)
            return
        assert outcome.code == NOT_VERIFIED, outcome
        self._repair(name, before)

    def _repair(self, name: str, before: bytes) -> None:
        outcome = self.run("verify", name, "--repair", "--yes", "--peer", self._peer)
        assert outcome.code == DONE and _verdict(outcome)["ok"], outcome
        assert (self._images / name).read_bytes() == before
        self.counts["healed"] += 1


def _verdict(outcome: Outcome) -> dict[str, Any]:
    """The only verdict; where there is damage an error follows it."""
    document, _ = json.JSONDecoder().raw_decode(outcome.stdout)
    (verdict,) = document["verified"]
    return dict(verdict)
