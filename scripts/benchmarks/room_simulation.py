"""How the time of a fetch grows with the number of nodes that fetch at once, in the simulator of the tests.

One seed and N nodes with links alike, all starting at the same moment. The swarm's decisions are the
program's, the links are simulated (:mod:`tests.swarm.simulator`). ``run()`` measures and prints; all rooms
take a quarter of an hour and more, the last most of it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from overlaysync.units import KIB, MIB
from tests.swarm.simulator import RATE, Room

SIZE = 256 * MIB
ROOMS = (1, 2, 4, 8, 16, 30, 64, 100, 250, 500, 1000)
_PIECES = {500: 512 * KIB, 1000: MIB}
"""Larger pieces for the largest rooms, so that the simulation ends."""


@dataclass(frozen=True, slots=True)
class Result:
    """One room.

    Attributes:
        nodes: that fetch.
        piece: bytes of a piece.
        last, median: when the last one and the median have finished, in ``size / rate``.
        seed: what the seed sent, in contents.
        took: seconds the simulation ran.
    """

    nodes: int
    piece: int
    last: float
    median: float
    seed: float
    took: float


def run(rooms: tuple[int, ...] = ROOMS) -> list[Result]:
    """Simulate the rooms and print a table."""
    print(f"{SIZE // MIB} MiB, one seed, all links {RATE * 8 / 1e6:.0f} Mbit/s; times in size / rate")
    print(f"{'nodes':>5}  {'last':>5}  {'median':>6}  {'seed sent':>9}  {'piece':>8}  simulated in")
    results = []
    for nodes in rooms:
        results.append(one := _room(nodes))
        print(
            f"{one.nodes:5}  {one.last:5.2f}  {one.median:6.2f}  {one.seed:8.2f}×  {one.piece // KIB:4} KiB"
            f"  {one.took:.0f} s",
            flush=True,
        )
    return results


def _room(nodes: int) -> Result:
    began = time.process_time()
    room = Room(SIZE, piece=_PIECES.get(nodes, 256 * KIB))
    seed = room.seed()
    room.peers(nodes)
    times = room.run().times()
    ideal = SIZE / RATE
    return Result(
        nodes=nodes,
        piece=room.piece,
        last=times[-1] / ideal,
        median=times[len(times) // 2] / ideal,
        seed=room.sent(seed),
        took=time.process_time() - began,
    )


if __name__ == "__main__":
    run(tuple(map(int, sys.argv[1:])) or ROOMS)
