"""Fetches and shares that end in the middle: nothing half-done has a name, and nothing is done twice."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlaysync.units import KIB, MIB
from tests import images
from tests.e2e import disks
from tests.e2e.nodes import DONE, INTERRUPTED, KILLED, NETWORK, Lab, Node, Process, until
from tests.e2e.recorded import RecordedPeer, record

pytestmark = pytest.mark.qemu

IN_FLIGHT = 24 * MIB
"""More than is asked of one peer at a time; what has not arrived whole is asked again."""
CHECKPOINT = 64 * MIB
"""What may be lost to a crash; less when time has passed."""


def leftovers(node: Node) -> list[str]:
    """Part files and journals of a node."""
    return [path.name for path in (*node.place.glob(".*.part"), *node.home.glob("journals/*"))]


@pytest.fixture
def big(open_lab: Lab) -> Iterator[tuple[RecordedPeer, Path]]:
    """A peer with one master that takes its time."""
    teacher = open_lab.node("teacher")
    master = disks.make_master(teacher.place / f"{open_lab.name('big')}.raw", size=192 * MIB)
    share = teacher.share(master)
    recording = record(share.port)
    share.stop()
    with RecordedPeer(recording) as peer:
        yield peer, master


# -- the fetcher -------------------------------------------------------------------------------------


@pytest.mark.holds("R3")
def test_an_interrupted_fetch_goes_on_where_it_stopped(open_lab: Lab, big: tuple[RecordedPeer, Path]) -> None:
    peer, master = big
    student = open_lab.node("student")
    command = ("fetch", master.stem, "--peer", peer.address, "--json")
    fetch = student.start(*command, "--limit-rate", "60M")
    until(lambda: peer.sent["data"] >= 48 * MIB, what="some transfer")
    fetch.interrupt()
    result = fetch.wait(within_s=5)
    assert result.code == INTERRUPTED
    assert "repeat the command" in result.stderr
    assert student.files() == set()

    (item,) = student.fetch(*command[1:])

    assert item["resumed"] > 0
    assert item["resumed"] + item["wire"]["data"] == 192 * MIB
    assert peer.sent["data"] <= 192 * MIB + IN_FLIGHT
    assert disks.identical(master, Path(item["path"]))
    assert leftovers(student) == []


@pytest.mark.slow
def test_a_fetch_killed_again_and_again_repeats_little(open_lab: Lab, big: tuple[RecordedPeer, Path]) -> None:
    peer, master = big
    student = open_lab.node("student")
    chance = random.Random(1)
    kills = 0
    while not student.files():
        fetch = student.start("fetch", master.stem, "--peer", peer.address, "--limit-rate", "150M", "--json")
        end = peer.sent["data"] + chance.randint(4, 140) * MIB

        def reached(end: int = end, fetch: Process = fetch) -> bool:
            return peer.sent["data"] >= end or not fetch.running

        until(reached, what="more of the transfer")
        if kills < 12:
            fetch.kill()
            kills += fetch.popen.returncode == KILLED
        else:
            assert fetch.wait().code == DONE
    assert disks.identical(master, student.place / master.name)
    assert peer.sent["data"] <= 192 * MIB + kills * (CHECKPOINT + IN_FLIGHT)
    if fetch.popen.returncode == DONE:
        (item,) = fetch.document()["fetched"]
        assert item["resumed"] >= CHECKPOINT // 2
        assert item["resumed"] + item["wire"]["data"] == 192 * MIB


def kill_at_random(node: Node, *command: object, rounds: int, check: Callable[[], None]) -> None:
    """Start a command again and again, kill it after a random time, and look at what it left."""
    chance = random.Random(rounds)
    for _ in range(rounds):
        fetch = node.start(*command)
        try:
            fetch.popen.wait(chance.uniform(0.3, 1.6))
        except subprocess.TimeoutExpired:
            fetch.kill()
        check()


@pytest.mark.holds("R1")
def test_a_fetch_killed_at_any_moment_leaves_nothing_wrong(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("vm")
    master = disks.make_master(teacher.place / f"{lab.name('master')}.qcow2", size=6 * MIB)
    overlay = disks.make_overlay(teacher.place / f"{name}.qcow2", master, (MIB, 3 * MIB))
    share = teacher.share(overlay)
    command = ("fetch", name, "--peer", share.peer, "--limit-rate", "12M")

    def check() -> None:
        for found in student.files():
            assert disks.identical(teacher.place / found, student.place / found)

    kill_at_random(student, *command, rounds=7, check=check)
    student.fetch(*command[1:])

    check()
    assert student.files() == {master.name, overlay.name}
    assert leftovers(student) == []


def test_a_replacement_killed_at_any_moment_is_the_old_or_the_new_one(lab: Lab) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    name = lab.name("disk")
    path = disks.make_master(teacher.place / f"{name}.qcow2", size=8 * MIB)
    share = teacher.share(path)
    student.fetch(name, "--peer", share.peer)
    share.stop()
    disks.write(path, MIB, disks.noise("new", 5 * MIB))
    share = teacher.share(path)
    target = student.place / path.name
    contents = {images.content(target), images.content(path)}
    command = ("fetch", name, "--replace", "--peer", share.peer, "--limit-rate", "8M")

    def check() -> None:
        assert images.check(target) == 0
        assert images.content(target) in contents

    kill_at_random(student, *command, rounds=4, check=check)
    student.fetch(*command[1:])

    assert disks.identical(path, target)
    assert leftovers(student) == []


# -- the sharer --------------------------------------------------------------------------------------


def start_slow_fetch(lab: Lab, *peers: str) -> tuple[Node, list[object]]:
    addresses = [word for peer in peers for word in ("--peer", peer)]
    return lab.node("student"), ["fetch", lab.name("disk"), *addresses, "--limit-rate", "16M"]


def test_a_sharer_that_dies_and_comes_back_is_asked_again(lab: Lab) -> None:
    teacher = lab.node("teacher")
    master = disks.make_master(teacher.place / f"{lab.name('disk')}.raw", size=48 * MIB)
    share = teacher.share(master)
    port = share.port
    student, command = start_slow_fetch(lab, share.peer)
    fetch = student.start(*command, "--json")
    wait_for_part(student, master.name, 8 * MIB)
    share.kill()
    assert student.files() == set()
    teacher.share(master, "--port", port)

    result = fetch.wait()

    assert result.code == DONE, result.stderr
    (item,) = result.document["fetched"]
    assert item["wire"]["data"] == 48 * MIB
    assert disks.identical(master, Path(item["path"]))


@pytest.mark.slow
def test_a_sharer_that_dies_for_good_leaves_a_fetch_to_be_resumed(lab: Lab) -> None:
    teacher, other = lab.node("teacher"), lab.node("other")
    master = disks.make_master(teacher.place / f"{lab.name('disk')}.raw", size=48 * MIB)
    share = teacher.share(master)
    student, command = start_slow_fetch(lab, share.peer)
    fetch = student.start(*command, "--json")
    wait_for_part(student, master.name, 12 * MIB)
    share.kill()
    result = fetch.wait()
    assert result.code == NETWORK
    assert "repeat the command" in result.error["hint"]
    assert student.files() == set()

    copy = other.place / master.name
    copy.write_bytes(master.read_bytes())
    share = other.share(copy)
    # Another publisher's, so it is asked for by its id: the name belongs to the first.
    (item,) = student.fetch(other.json("id", copy)["disk"], "--peer", share.peer)

    assert item["resumed"] > 0
    assert item["resumed"] + item["wire"]["data"] == 48 * MIB
    assert disks.identical(master, Path(item["path"]))


def test_when_one_of_two_sharers_dies_the_other_goes_on(lab: Lab) -> None:
    first, second = lab.node("first"), lab.node("second")
    name = lab.name("disk")
    disks.make_master(first.place / f"{name}.raw", size=48 * MIB)
    (second.place / f"{name}.raw").write_bytes((first.place / f"{name}.raw").read_bytes())
    shares = [node.start_share(node.place / f"{name}.raw") for node in (first, second)]
    student, command = start_slow_fetch(lab, *(share.peer for share in shares))
    fetch = student.start(*command, "--json")
    wait_for_part(student, f"{name}.raw", 8 * MIB)
    shares[0].kill()

    result = fetch.wait()

    assert result.code == DONE, result.stderr
    (item,) = result.document["fetched"]
    assert item["sources"][shares[1].document()["node"]] > 0
    assert disks.identical(first.place / f"{name}.raw", Path(item["path"]))


def wait_for_part(node: Node, name: str, size: int) -> None:
    """Wait until about ``size`` bytes of a file are there; its blocks say nothing, as they are reserved."""
    part = node.place / f".{name}.part"

    def stored() -> int:
        with open(part, "rb") as file:
            found = 0
            while sample := file.read(4 * KIB):
                found += any(sample)
                file.seek(MIB - 4 * KIB, os.SEEK_CUR)
        return found * MIB

    until(lambda: part.exists() and stored() >= size, what="some transfer")
