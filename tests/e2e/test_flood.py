"""A flood of announcements: memory and peers stay bounded, and who comes later is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.units import MIB
from tests.counts import record_counts
from tests.e2e.memory import peak_memory
from tests.e2e.namespaces import namespace
from tests.e2e.nodes import Lab, Node, Share, until

pytestmark = [pytest.mark.lan, pytest.mark.bench, pytest.mark.slow]

GROWTH = 50 * MIB
FOUND_S = 5.0
_GET = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Lab]:
    """Nodes in a network of their own, which is a loopback."""
    with namespace("net", "mount", script="ip link set lo up") as made, Lab(tmp_path, made.prefix) as lab:
        yield lab


def share(node: Node, name: str) -> Share:
    (node.place / f"{name}.raw").write_bytes(os.urandom(MIB))
    return node.share(node.place / f"{name}.raw")


def peers_of(lab: Lab, port: int) -> list[str]:
    """The peers that a share says have answered."""
    words = [*lab.prefix, sys.executable, "-c", _GET, f"http://127.0.0.1:{port}/v1/peers"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    peers: list[str] = json.loads(done.stdout)["peers"]
    return peers


def pid_of(process: Share) -> int:
    """Of the program itself, whatever it was started through: nsenter and env become it."""
    return process.popen.pid


def test_a_hundred_thousand_records(alone: Lab) -> None:
    victim = share(alone.node("victim"), alone.name("one"))
    first = share(alone.node("first"), alone.name("two"))
    until(lambda: any(str(first.port) in peer for peer in peers_of(alone, victim.port)), what="the first")
    before = peak_memory(pid_of(victim))

    flood = alone.node("flooder").start_module(
        "tests.net.flooder", victim.document()["node"], str(victim.port)
    )
    records = int(flood.wait(within_s=120).stdout)
    second = share(alone.node("second"), alone.name("three"))
    began = time.monotonic()
    until(lambda: any(str(second.port) in peer for peer in peers_of(alone, victim.port)), what="the second")
    took_s = time.monotonic() - began

    peers = peers_of(alone, victim.port)
    grown = peak_memory(pid_of(victim)) - before
    record_counts(
        "mdns-flood", records=records, grown_mib=grown / MIB, peers=len(peers), found_after_s=round(took_s, 2)
    )
    assert records >= 100_000
    assert any(str(first.port) in peer for peer in peers)
    assert len(peers) <= DISCOVERY.peers
    assert not any(str(victim.port) in peer for peer in peers)
    assert grown <= GROWTH, grown / MIB
    assert took_s <= FOUND_S
    for node in (victim, first, second):
        assert all(char.isprintable() or char == "\n" for char in node.stdout + node.stderr)
    listed = alone.node("looker").run("peers", "--wait", "3")
    assert all(char.isprintable() or char == "\n" for char in listed.stdout + listed.stderr)
