"""Shares that run say by themselves when a name is forked, on both machines, without having looked before."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node, Share, free_port, until
from tests.e2e.versions import shared

pytestmark = [pytest.mark.qemu, pytest.mark.holds("A2")]

SAID_S = 40
"""Far longer than it takes, for a machine that is busy."""


def said(share: Share, *words: str) -> bool:
    """Whether a share says once that a name is forked, with these words."""
    lines = [line for line in share.stderr.splitlines() if "This forks" in line]
    assert len(lines) == len(set(lines)), "once of each pair"
    return any(all(word in line for word in words) for line in lines)


def start(node: Node, path: Path, team: str, port: int, other: int, *options: object) -> Share:
    """A share at one port that names the machine at another."""
    words = (
        "--team",
        team,
        "--port",
        port,
        "--peer",
        f"[::1]:{other}" if node.prefix else f"127.0.0.1:{other}",
        *options,
    )
    return node.share(path, *words)


def vm(node: Node, name: str, word: str) -> Path:
    """An overlay with what a guest wrote; another of each word."""
    master = disks.make_master(node.place / f"{name}-base.qcow2", size=MIB)
    path = disks.make_overlay(node.place / f"{name}.qcow2", master)
    disks.write(path, 0, disks.noise(word, 64 * KIB))
    return path


def test_shares_that_begin_and_go_on_beside_each_other_both_say_so(lab: Lab) -> None:
    alice, bob = lab.node("alice"), lab.node("bob")
    team, name = lab.team("red", alice, bob), lab.name("web")
    mine, theirs = vm(alice, name, "alice"), vm(bob, name, "bob")
    ports = free_port(), free_port()
    share = start(alice, mine, team, *ports)
    other = start(bob, theirs, team, *ports[::-1])
    full = f"{team}/{name}"

    def both(version: int, theirs: int) -> bool:
        return said(share, f"your {full}:{version} ", "bob@", f"{full}:{theirs} ") and said(
            other, f"your {full}:{theirs} ", "alice@", f"{full}:{version} "
        )

    until(lambda: both(1, 1), within_s=SAID_S, what="word of the fork on both machines")
    disks.write(mine, 0, disks.noise("alice goes on", 4 * KIB))
    until(lambda: both(2, 1), within_s=SAID_S, what="word of her next version")


def test_one_version_that_two_machines_go_on_from_while_they_share(open_lab: Lab) -> None:
    """They find each other by themselves; of a machine that is in no team nothing is said to either."""
    lab = open_lab
    alice, bob, carol = (lab.node(word) for word in ("alice", "bob", "carol"))
    team, name = lab.team("red", alice, bob), lab.name("web")
    mine = vm(alice, name, "first")
    with shared(alice, mine, "--team", team) as first:
        item = bob.fetch(f"{team}/{name}", "--peer", first.peer)[-1]
    stranger = carol.share(vm(carol, name, "carol"), "--public")
    share, other = alice.share(mine), bob.share(item["path"])
    disks.write(mine, 0, disks.noise("alice", 4 * KIB))
    disks.write(Path(item["path"]), 0, disks.noise("bob", 4 * KIB))
    full = f"{team}/{name}:2"
    until(lambda: said(share, f"your {full} ", "bob@"), within_s=SAID_S, what="word at alice's")
    until(lambda: said(other, f"your {full} ", "alice@"), within_s=SAID_S, what="word at bob's")
    assert not said(stranger) and "carol@" not in share.stderr + other.stderr
