"""A push to an object store that is killed at any of its requests: the archive is whole, and it goes on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from overlaysync.archive.bucket import BucketObjects
from overlaysync.archive.location import Location
from overlaysync.archive.places import add_place, remove_place
from overlaysync.ops.recovery.checking import check
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.trust.team_files import load_teams
from overlaysync.units import KIB, MIB
from tests.archive.conftest import QUICK, Cloud
from tests.archive.wire import Wire
from tests.counts import record_counts
from tests.e2e import disks
from tests.e2e.conftest import open_forks, open_lab
from tests.e2e.nodes import Lab, Node
from tests.effort import EFFORT
from tests.torture.conftest import seed

__all__ = ["open_forks", "open_lab", "seed"]

pytestmark = [pytest.mark.swift, pytest.mark.qemu, pytest.mark.slow]

STEP = max(1, 3 // EFFORT)
"""One request in so many is tried here, another each day."""


@pytest.mark.holds("D3")
@pytest.mark.red_without("D3", "a push stores the head first")
def test_a_push_that_is_killed_at_any_request(cloud: Cloud, wire: Wire, open_lab: Lab, seed: int) -> None:
    """In turn before the store has got the request, and when it has done it and its answer is on the way."""
    alice = open_lab.node("alice")
    team = open_lab.team("red", alice)
    base = disks.make_master(alice.place / "base.qcow2", size=MIB, data=256 * KIB)
    disks.make_overlay(alice.place / "web.qcow2", base, (0, 64 * KIB))
    alice.json("save")
    keys = cloud.swift.environment(url=wire.url)
    archives = Archives(alice, team, cloud.bucket())

    archives.begin()
    alice.json("archive", "push", team, **keys)
    requests = len(wire.requests)
    points = range(seed % STEP, requests, STEP)
    for point in points:
        vault = archives.begin()
        wire.hold(point, passed_on=bool((point + seed) % 2))
        push = alice.start("archive", "push", team, **keys)
        while not wire.held.wait(0.02):
            assert push.running, push.stderr
        push.kill()
        wire.release()
        assert not check(vault.objects, [vault], read=False).damaged, (
            f"killed at request {point}, seed {seed}"
        )
        alice.json("archive", "push", team, **keys)
        assert not check(vault.objects, [vault], read=True).damaged
        assert [one.state.number for one in vault.states()] == [1]
    record_counts("killed-push", requests=requests, killed=len(points), seed=seed)


@dataclass
class Archives:
    """Gives a machine one archive at a time.

    Attributes:
        node: the machine.
        team: what it pushes.
        bucket: each archive is a directory of it.
    """

    node: Node
    team: str
    bucket: str
    _made: int = 0

    def begin(self) -> TeamVault:
        """Let the machine have a new archive; returns what is in that."""
        config = self.node.home / "config"
        if self._made:
            remove_place(config, "cloud")
        self._made += 1
        location = Location("s3", self.bucket, f"number{self._made}")
        add_place(config, "cloud", location)
        return TeamVault(BucketObjects(location, QUICK), load_teams(self.node.home / "teams")[self.team])
