"""How much peers list: an envelope that many list counts once, as it is kept once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from overlaysync.trust.envelope import Manifest
from overlaysync.units import MIB

LISTED_SIZE = 8 * MIB
"""Envelopes kept of all peers that were not named; in memory they take some five times as much."""

_ENTRY_SIZE = 32
"""What each listing counts besides: a fifth of its room in memory, as with the envelopes."""


class Listed:
    """Bytes that lists of manifests by id count for, all together.

    Attributes:
        size: these bytes.
    """

    def __init__(self) -> None:
        self.size = 0
        self._times: Counter[bytes] = Counter()

    def add(self, manifests: Mapping[bytes, Manifest]) -> None:
        """Somebody lists these."""
        self.size += len(manifests) * _ENTRY_SIZE
        for id, manifest in manifests.items():
            self._times[id] += 1
            if self._times[id] == 1:
                self.size += len(manifest.envelope)

    def remove(self, manifests: Mapping[bytes, Manifest]) -> None:
        """Who listed these does so no more."""
        self.size -= len(manifests) * _ENTRY_SIZE
        for id, manifest in manifests.items():
            self._times[id] -= 1
            if not self._times[id]:
                del self._times[id]
                self.size -= len(manifest.envelope)
