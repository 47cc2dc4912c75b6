"""Killed at random, under load: what is finished is not fetched again, and what is visible is whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.counts import record_counts
from tests.e2e import disks
from tests.e2e.nodes import DONE, NETWORK, NOT_FOUND, Lab, free_port
from tests.e2e.recorded import RecordedPeer, record
from tests.torture.conftest import MakeRunner
from tests.torture.kills import Asked, Killing
from tests.torture.runner import KILLED, Runner

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

KILLS = 20
CHECKPOINT = 8 * MIB
"""So that a hundred megabytes have many; the usual number would have one."""


@pytest.mark.holds("R2")
@pytest.mark.red_without("R2", "nothing that the journal claims is counted")
@pytest.mark.red_without("R2", "the journal is read as if it were empty")
@pytest.mark.red_without("R2", "nothing is claimed before the end")
def test_what_a_killed_fetch_claimed_is_not_fetched_again(tmp_path: Path, open_lab: Lab) -> None:
    teacher = open_lab.node("teacher")
    master = disks.make_master(teacher.place / f"{open_lab.name('big')}.raw", size=100 * MIB)
    share = teacher.share(master)
    recording = record(share.port)
    share.stop()
    asked = Asked()
    with (
        RecordedPeer(recording, asked.answer) as peer,
        Runner(tmp_path, one_thread=False, checkpoint=CHECKPOINT) as runner,
    ):
        killing = Killing(runner, peer, asked, master, tmp_path / "student", random.Random(1))
        for _ in killing.kill(KILLS):
            pass
    counts = killing.counts
    record_counts("kills", **counts)
    assert counts["claimed"] > 0
    assert counts["reused"] >= 0.95 * counts["claimed"], counts


@pytest.mark.holds("R2")
def test_a_fetch_and_its_sharers_killed_in_turn(lab: Lab, make_runner: MakeRunner, tmp_path: Path) -> None:
    first, second = lab.node("first"), lab.node("second")
    master = disks.make_master(first.place / "disk.raw", size=32 * MIB)
    (second.place / master.name).write_bytes(master.read_bytes())
    ports = {first: free_port(), second: free_port()}
    shares = {node: node.share(node.place / master.name, "--port", port) for node, port in ports.items()}
    words = ["fetch", "disk", "--limit-rate", "40M", "--wait", "1", "--json", "--quiet"]
    words += [word for share in shares.values() for word in ("--peer", share.peer)]
    images, home = tmp_path / "images", tmp_path / "home"
    for directory in (images, home):
        directory.mkdir(mode=0o700)
    runner, chance = make_runner(one_thread=False, checkpoint=MIB), random.Random(2)
    codes = []
    for turn in range(4):
        victim = (first, second)[turn % 2]
        polls = iter(range(chance.randrange(20, 400)))

        def later(polls: object = polls, victim: object = victim, turn: int = turn) -> bool:
            """Kill a sharer on the way, and then perhaps the fetch."""
            if next(polls, None) is None:  # type: ignore[call-overload]
                shares[victim].kill()  # type: ignore[index]
                return turn < 3
            return False

        outcome = runner.run(tuple(words), directory=images, home=home, kill_when=later)
        codes.append(outcome.code)
        assert codes[-1] in (DONE, NETWORK, NOT_FOUND, KILLED)
        for path in images.iterdir():
            assert path.name.startswith(".") or disks.identical(master, path)
        if not shares[victim].running:
            shares[victim] = victim.share(victim.place / master.name, "--port", ports[victim])
    assert outcome.code == DONE, "one sharer was left"
    last = runner.run(tuple(words), directory=images, home=home)
    assert last.code == DONE, last
    assert disks.identical(master, images / master.name)
    record_counts("kills-of-sharers", turns=len(codes), fetches_killed=codes.count(KILLED))
