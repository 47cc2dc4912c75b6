"""Networks that change under nodes that stay: each change is announced, and found by who was there before."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from overlaysync.net.messages import DEFAULT_PORT
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import new_team
from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import USAGE, Lab, Node, Process, until
from tests.e2e.room import INTERFACE, Host, room

pytestmark = [pytest.mark.qemu, pytest.mark.lan, pytest.mark.slow, pytest.mark.holds("N7")]

SOON_S = 30
"""Ten seconds are promised; a busy machine may take longer."""

NO_IPV4 = f"ip -4 address flush dev {INTERFACE}"
UP, DOWN = f"ip link set {INTERFACE} up", f"ip link set {INTERFACE} down"


def on(host: Host, *commands: str) -> str:
    """What commands print that run on a host."""
    script = "\n".join(commands)
    done = subprocess.run(
        [*host.prefix, "sh", "-e", "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout


def address(number: str) -> str:
    return f"ip address add {number} dev {INTERFACE}"


@pytest.fixture
def hosts() -> Iterator[tuple[Host, ...]]:
    with room(2) as made:
        yield made.hosts


@pytest.fixture
def nodes(hosts: tuple[Host, ...], tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(tmp_path))
        yield lab.node("alice", prefix=hosts[0].prefix), lab.node("bob", prefix=hosts[1].prefix)


def listed(node: Node, name: str) -> list[str]:
    """Where a command that begins now finds ``name`` at alice's."""
    found = [item for item in node.json("ls", "--wait", "1")["images"] if item["name"] == name]
    places = [place for item in found for place in zip(item["nodes"], item["peers"], strict=True)]
    return [peer for label, peer in places if label.startswith("alice@")]


def announced(share: Process) -> list[str]:
    """What a share has said of where it is announced, line by line."""
    notes = [json.loads(line).get("note", "") for line in share.stderr.splitlines()]
    return [note for note in notes if "nnounced" in note]


def test_a_share_is_found_wherever_its_network_goes(
    hosts: tuple[Host, ...], nodes: tuple[Node, Node]
) -> None:
    """It begins before the network does; those that stay, and those that begin later, follow it."""
    here, there = hosts
    alice, bob = nodes
    on(here, NO_IPV4, DOWN)
    base = disks.make_master(alice.place / "base.qcow2")
    overlay = disks.make_overlay(alice.place / "web.qcow2", base, (0, MIB))
    share = alice.share(overlay)
    assert (share.document()["interfaces"], share.port) == ("lo", DEFAULT_PORT)
    follower: list[Process] = []

    def follows(*commands: str, version: int, where: str, lines: int = 1) -> None:
        """Change the network, then the image."""
        before = len(announced(share))
        on(here, *commands)
        until(
            lambda: where in "".join(announced(share)[before:]), within_s=SOON_S, what=f"announced on {where}"
        )
        assert len(announced(share)) <= before + lines, "one line for each change"
        until(
            lambda: [where in peer for peer in listed(bob, "web")] == [True],
            within_s=SOON_S,
            what=f"listed at {where}",
        )
        if not follower:
            follower.append(bob.start("sync", "web", "--watch", "--wait", "20"))
        elif version:
            disks.write(overlay, version * MIB, disks.noise(f"version {version}", 64 * 1024))
        until(lambda: f"web:{version}" in words(follower[0]), within_s=SOON_S, what=f"version {version}")

    follows(UP, address("10.77.0.1/24"), version=1, where="10.77.0.1")
    follows(NO_IPV4, address("10.77.0.9/24"), version=2, where="10.77.0.9")
    on(here, DOWN)
    until(lambda: announced(share)[-1] == "Now announced on lo (127.0.0.1)", within_s=SOON_S, what="a line")
    follows(UP, version=3, where="10.77.0.9", lines=2)
    on(here, f"ip link add lan1 type veth peer name lan1 netns {there.namespace.pid}")
    on(there, "ip address add 10.88.0.2/24 dev lan1", "ip link set lan1 up")
    on(here, NO_IPV4, DOWN)
    follows(
        "ip address add 10.88.0.1/24 dev lan1", "ip link set lan1 up", version=4, where="10.88.0.1", lines=3
    )
    follows("ip link delete lan1", UP, version=5, where="fe80::")
    on(there, address("fd77::2/64 nodad"))
    follows(address("fd77::1/64 nodad"), version=6, where="fd77::1")
    assert disks.identical(overlay, bob.place / overlay.name)


def words(process: Process) -> str:
    return process.stdout + process.stderr


def test_ipv6_without_any_router_or_ipv4_is_enough(
    hosts: tuple[Host, ...], nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    """Link-local addresses alone: found, fetched, for a team over TLS as well, and named without a port."""
    alice, bob = nodes
    for host in hosts:
        on(host, NO_IPV4, "ip -4 address flush dev lo")
    show = f"ip -6 -o address show dev {INTERFACE} scope link -tentative"
    own, theirs = (until(partial(on, host, show)).split()[3].partition("/")[0] for host in hosts)
    team = new_team("red")
    for node in nodes:
        keep_team(node.home / "teams", team)
    base = disks.make_master(alice.place / "base.qcow2")
    overlay = disks.make_overlay(alice.place / "web.qcow2", base, (0, MIB))
    share = alice.share(overlay, "--team", "red")
    assert share.port == DEFAULT_PORT

    place = f"[{own}%{INTERFACE}]:{DEFAULT_PORT}"
    until(lambda: [peer["address"] for peer in bob.json("peers")["peers"]] == [place], within_s=SOON_S)
    bob.fetch("red/web")
    assert disks.identical(overlay, bob.place / overlay.name)

    with Lab(tmp_path / "named") as lab:
        carol = lab.node("carol", prefix=hosts[1].prefix)
        named = ("--peer", f"[{own}%{INTERFACE}]", "--iface", "lo", "--wait", "1")
        (found,) = carol.json("peers", *named)["peers"]
        assert (found["address"], found["problem"]) == (place, "")
        # A share tells of others at their link-local addresses, to those on that link.
        bob.share(bob.place / overlay.name, "--team", "red")
        other = f"[{theirs}%{INTERFACE}]:{DEFAULT_PORT}"
        until(
            lambda: {peer["address"] for peer in carol.json("peers", *named)["peers"]} == {place, other},
            within_s=SOON_S,
        )
        assert f"[{own}%eth0]" in carol.fails(USAGE, "ls", "--peer", f"[{own}]")["hint"]
