"""A team rehearses the loss of machines: its VMs are restored and booted, and nothing is touched or asked."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bootable import make_bootable, make_vm, write_data
from tests.e2e.nodes import NOT_FOUND, Lab, Node, until
from tests.e2e.recovery import Machine, machines
from tests.e2e.room import INTERFACE, room
from tests.e2e.test_recovery import SPREAD_S, copies_of, join, lose

pytestmark = [pytest.mark.drill, pytest.mark.guest, pytest.mark.qemu, pytest.mark.lan, pytest.mark.slow]

BOOT = ("--boot", "--emulate", "--memory", "192M", "--boot-limit", "0.3")


def make_vms(node: Node, *names: str) -> None:
    """VMs on one master, each with data that it shows when it boots."""
    master = make_bootable(node.place / "debian.raw")
    for name in names:
        write_data(make_vm(node.place / f"{name}.qcow2", master), f"{name} tuesday.")


def report_of(document: Any) -> Any:
    """The report in JSON of the only drill of a command."""
    (drill,) = document["drills"]
    assert Path(drill["page"]).read_text().startswith("<!doctype html>")
    return json.loads(Path(drill["report"]).read_text())


def card_of(machine: Machine) -> bytes:
    """The hardware address of a host."""
    words = [*machine.host.prefix, "cat", f"/sys/class/net/{INTERFACE}/address"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return bytes.fromhex(text.strip().replace(":", ""))


def asked(capture: Path, machine: Machine, by: Machine) -> int:
    """How many TCP packets a host has got from another, as a sniffer saw it."""
    cards = card_of(machine) + card_of(by)
    frames = [frame for frame in capture.read_bytes().split(b"\n--\n") if frame.startswith(cards)]
    tcp = ((b"\x08\x00", 23), (b"\x86\xdd", 20))  # where IPv4 and IPv6 say which protocol is inside
    return sum(frame[12:14] == kind and frame[at : at + 1] == b"\x06" for frame in frames for kind, at in tcp)


def test_a_team_rehearses_the_loss_of_a_machine_and_then_loses_all(lab: Lab, tmp_path: Path) -> None:
    with room(3) as world:
        found = machines(lab, world, "alice bob dora")
        alice, bob, dora = (found[word].node for word in ("alice", "bob", "dora"))
        team = lab.team("red", alice, bob)
        make_vms(alice, "web", "db")
        captured = time.time()
        alice.json("save", "--team", team, "-m", "tuesday", alice.place)
        alice.start("keep", team)
        bob.start("keep", team)
        until(lambda: copies_of(alice, team) == {"web": 2, "db": 2}, within_s=SPREAD_S, what="two copies")
        join(dora, bob, team)

        # Alice's machine is there, and is not asked for anything.
        capture = tmp_path / "frames"
        sniffer = alice.start_module("tests.e2e.sniffer", capture)
        sniffer.document()
        ready = tmp_path / "ready"
        ready.mkdir()
        looks = 'grep -q "DATA $OVERLAYSYNC_VM tuesday" $OVERLAYSYNC_CONSOLE'
        probe = f"{looks} && date +%s.%N >{ready}/$OVERLAYSYNC_VM"
        process = dora.start("drill", team, "--lose", "host0", *BOOT, "--ready", probe, "--json")
        until(lambda: list(dora.home.glob("drills/*/work")), what="the drill's directory")
        started = time.time()
        report = report_of(process.wait(within_s=240).document)
        sniffer.stop()
        assert asked(capture, found["alice"], by=found["bob"]) > 0, "what looks for copies asks it"
        assert asked(capture, found["alice"], by=found["dora"]) == 0
        assert report["verdict"] == "passed"
        assert [place.partition("@")[0] for place in report["lost_places"]] == ["alice"]
        assert {vm["name"]: vm["verdict"] for vm in report["vms"]} == {"db": "passed", "web": "passed"}
        last = max(float(path.read_text()) for path in ready.iterdir())
        assert abs(report["rto_s"] - (last - started)) < 2, (report["rto_s"], last - started)
        assert abs(report["rpo_s"] - (started - captured)) < 2, (report["rpo_s"], started - captured)
        assert [source["label"].partition("@")[0] for source in report["sources"]] == ["bob"]
        assert report["sources"][0]["bytes"] > 0

        lose(found["alice"], world)
        lose(found["bob"], world)
        result = dora.run("drill", team, "--json")
        assert result.code == NOT_FOUND
        report = report_of(result.document)
        assert report["verdict"] == "failed"
        assert "no machine that answered has one" in report["why"][0]
