"""How the time of a fetch grows with the number of nodes that fetch at once, in the simulator of the tests.

One seed and N nodes with links alike, all starting at the same moment. The swarm's decisions are the
program's, the links are simulated (:mod:`tests.swarm.simulator`). ``run()`` measures and prints: of each room
the worst of three runs with other random numbers. Up to 250 nodes take some ten minutes, and 500 as many.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

from overlaysync.units import KIB, MIB
from tests.swarm.simulator import RATE, Room

SIZE = 256 * MIB
ROOMS = (1, 2, 4, 8, 16, 30, 64, 100, 250, 500, 1000)
SEEDS = (0, 1, 2)
"""Of the random numbers."""

_PIECES = {250: 512 * KIB, 500: 512 * KIB, 1000: MIB}
"""Larger pieces for the largest rooms, so that the simulation ends."""


@dataclass(frozen=True, slots=True)
class Result:
    """One room, in the run in which the last one was latest.

    Attributes:
        nodes: that fetch.
        piece: bytes of a piece.
        last, median: when the last one and the median have finished, in ``size / rate``.
        seed: data that the seed sent, in contents.
        said: what it sent beside that: answers to questions, and refusals.
        took: seconds the simulation of all runs ran.
    """

    nodes: int
    piece: int
    last: float
    median: float
    seed: float
    said: float
    took: float


def run(rooms: tuple[int, ...] = ROOMS) -> list[Result]:
    """Simulate the rooms and print a table."""
    print(f"{SIZE // MIB} MiB, one seed, all links {RATE * 8 / 1e6:.0f} Mbit/s; times in size / rate")
    print(
        f"{'nodes':>5}  {'last':>5}  {'median':>6}  {'seed sent':>9}  {'and said':>8}  {'piece':>8}"
        "  simulated in"
    )
    results = []
    for nodes in rooms:
        runs = [_room(nodes, random) for random in SEEDS]
        worst = max(runs, key=lambda run: run.last)
        results.append(one := replace(worst, took=sum(run.took for run in runs)))
        print(
            f"{one.nodes:5}  {one.last:5.2f}  {one.median:6.2f}  {one.seed:8.2f}×  {one.said:7.3f}×"
            f"  {one.piece // KIB:4} KiB  {one.took:.0f} s",
            flush=True,
        )
    return results


def _room(nodes: int, random: int) -> Result:
    began = time.process_time()
    room = Room(SIZE, piece=_PIECES.get(nodes, 256 * KIB), seed=random)
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
        said=seed.wire.said_bytes / SIZE,
        took=time.process_time() - began,
    )


if __name__ == "__main__":
    run(tuple(map(int, sys.argv[1:])) or ROOMS)
