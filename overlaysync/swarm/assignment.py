"""Assigns each piece to one fetching node, which brings it into the swarm from the complete sources.

A seed should send each piece once; the nodes then give it to each other. So each piece is the duty of one
fetching node, and all agree without a word: every node scores (piece, node) by the same hash, and the highest
score has it (rendezvous hashing). A node that joins or goes changes nobody else's pieces but those it takes
or leaves. Shares are not alike, as hashing has it, and neither are links: a node that is through with its own
helps the others, first with the pieces for which it has the second highest score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Constants of splitmix64 (Steele, Lea and Flood, 2014)."""


class Assignment:
    """The pieces of one node among its fellows.

    Args:
        me: this node's member id.
        count: pieces there are.

    Attributes:
        mine: whether a piece is this node's duty; shape (count,).
        rank: how many other nodes a piece belongs to before this one; shape (count,).
        scores: how much a piece is this node's, higher first; shape (count,).
    """

    def __init__(self, me: str, count: int) -> None:
        self._me = me
        self._all = np.arange(count)
        self._others: frozenset[str] = frozenset()
        self.scores = _scores(me, self._all)
        self.mine: NDArray[np.bool_] = np.ones(count, dtype=np.bool_)
        self.rank: NDArray[np.int32] = np.zeros(count, dtype=np.int32)

    def share_with(self, others: Iterable[str]) -> bool:
        """Share the work with these nodes (ids) and no others; whether that changes anything."""
        wanted = frozenset(others) - {self._me}
        if wanted == self._others:
            return False
        for joined in wanted - self._others:
            self.rank += _scores(joined, self._all) > self.scores
        for gone in self._others - wanted:
            self.rank -= _scores(gone, self._all) > self.scores
        self._others = wanted
        self.mine = self.rank == 0
        return True


def _scores(member: str, pieces: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return the score of each piece for one node: splitmix64 of the piece number, seeded by the node."""
    seed = np.frombuffer(hashlib.blake2b(member.encode(), digest_size=8).digest(), dtype="<u8")[0]
    z = ((pieces + 1).astype(np.uint64) * _STEP) ^ seed
    z = (z ^ (z >> np.uint64(30))) * _MIX[0]
    z = (z ^ (z >> np.uint64(27))) * _MIX[1]
    scores: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return scores
