"""A disk that is really full: each command with more and more room, until there is enough."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from overlaysync.units import KIB, MIB
from tests.e2e.nodes import DONE, NO_SPACE
from tests.torture.points import Tally
from tests.torture.runner import Outcome, Runner
from tests.torture.scenes import Place, Scene

DISK = 24 * MIB
SCENES = (
    "promote",
    "promote-discard",
    "rebase",
    "rebase-replace",
    "fetch-overlay",
    "fetch-replace",
)


def rooms(scene: Scene, count: int = 42) -> list[int]:
    """``count`` amounts of room, from none to more than enough, closest where a command begins and ends."""
    needed = sum(_sizes(scene))
    edges = [0, 4 * KIB, 12 * KIB, 40 * KIB, 96 * KIB]
    chosen = [*edges, *range(needed - 64 * KIB, needed + 512 * KIB, 16 * KIB), needed + 2 * MIB]
    return [chosen[at * (len(chosen) - 1) // (count - 1)] for at in range(count)]


def _sizes(scene: Scene) -> Iterator[int]:
    """Bytes of the files that the scene makes, as they are on the disk."""
    yield from (scene.sizes[name] for name in scene.after if scene.after[name] != scene.before.get(name))


def fill(place: Path, free: int) -> Path:
    """Leave so many bytes free on the file system of ``place``; the file that takes the others."""
    filler = place / "filler"
    with open(filler, "wb") as file:
        room = os.fstatvfs(file.fileno())
        size = room.f_bavail * room.f_frsize - free
        if size > 0:
            os.posix_fallocate(file.fileno(), 0, size)
    return filler


def try_rooms(runner: Runner, disk: Path, scene: Scene, free: Iterable[int]) -> Tally:
    """Run the scene on a disk with so much room, see what it says, make room, run it again.

    Args:
        runner: its commands see the disk.
        disk: the file system.
        scene: played before, elsewhere.
        free: bytes.
    """
    tally = Tally()
    place = Place(disk / "place")

    def run() -> Outcome:
        return runner.run(scene.words, directory=place.images, home=place.home)

    for room in free:
        place.become(scene.template)
        filler = fill(disk, room)
        first = run()
        told = f"{scene.name} with {room} bytes free"
        tally.counts["runs"] += 1
        tally.counts[{DONE: "enough", NO_SPACE: "full"}.get(first.code, "other")] += 1
        state = place.state()
        wrong = scene.wrong(state)
        if first.code not in (DONE, NO_SPACE) or "Traceback" in first.stderr:
            wrong.append("it does not say that the disk is full")
        if first.code == NO_SPACE and not (first.error.get("why") and first.error.get("hint")):
            wrong.append("it does not say what to do")
        if first.code == DONE and state != scene.after:
            wrong.append("it says that it is done, and it is not")
        filler.unlink()
        second = run()
        if second.code not in (DONE, scene.gone) or place.state() != scene.after or place.leftovers():
            wrong.append(f"with room again it does not come to its end: {second}")
        tally.findings += [f"{told}: {what}\n  {first}" for what in wrong]
    return tally
