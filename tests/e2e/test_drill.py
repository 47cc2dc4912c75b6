"""A team rehearses the loss of machines: its VMs are restored and booted, and nothing is touched or asked."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlaysync.units import KIB
from tests.bootable import make_bootable, make_vm, shown_by, write_data
from tests.e2e.nodes import DONE, NOT_FOUND, Lab, Node, until
from tests.e2e.recovery import Machine, machines
from tests.e2e.room import INTERFACE, room
from tests.e2e.test_recovery import copies_of, join, lose
from tests.guest import Guest, counted, make_disks
from tests.live.vms import QMP

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


@contextmanager
def under_load(machine: Machine, *disks: Path) -> Iterator[Guest]:
    """A guest on a machine that writes its counter to the second of its disks, all the time."""
    place = machine.node.place
    with Guest.boot(place, disks, *QMP, prefix=machine.host.prefix) as guest:
        guest.ask("start /dev/vdb", "start")
        while guest.counter() < 20:
            pass
        yield guest


def saved_meanwhile(node: Node, guest: Guest, *words: object) -> tuple[Any, list[tuple[float, int]]]:
    """Save while a guest counts; what was saved, and what the counter was at which time."""
    seen = [(time.time(), guest.counter())]
    process = node.start("save", *words, "--json")
    while process.running:
        seen.append((time.time(), guest.counter()))
    seen.append((time.time(), guest.counter()))
    result = process.wait()
    assert result.code == DONE, result.stderr
    return result.document, seen


def when(seen: list[tuple[float, int]], number: int) -> float:
    """The time at which a counter had a value."""
    before = max(at for at, count in seen if count <= number)
    after = min(at for at, count in seen if count >= number)
    assert abs(after - before) < 1, "the guest stood still"
    return (before + after) / 2


@pytest.mark.holds("D11")
@pytest.mark.red_without("D11", "a machine that is announced is never lost")
def test_a_team_loses_a_machine_in_a_drill_and_then_in_earnest(lab: Lab, tmp_path: Path) -> None:
    with room(3) as world:
        found = machines(lab, world, "alice bob dora")
        alice, bob, dora = (found[word].node for word in ("alice", "bob", "dora"))
        team = lab.team("red", alice, bob)
        make_vms(alice, "db", "mail", "web")
        (data,) = make_disks(alice.place, "web-data.qcow2", master_data=64 * KIB)
        (alice.place / "web.vm.toml").write_text('name = "web"\ndisks = ["web.qcow2", "web-data.qcow2"]\n')
        usb = tmp_path / "usb"
        usb.mkdir()
        shown = {name: f"{name} tuesday." for name in ("db", "mail", "web")}

        with under_load(found["alice"], alice.place / "web.qcow2", data) as guest:
            saved, seen = saved_meanwhile(alice, guest, "--team", team, "-m", "tuesday", alice.place)
            assert {vm["name"]: vm["consistency"] for vm in saved["vms"]} == {
                "db": "off",
                "mail": "off",
                "web": "crash",
            }
            guest.ask("stop", "STOPPED")
            alice.json("archive", "add", "usb", f"file://{usb}")
            alice.json("archive", "push", team)
            alice.start_keep(team).document()
            assert bob.json("keep", team, "--once")["taken"] == 1
            bob.start_keep(team).document()
            assert copies_of(alice, team) == dict.fromkeys(shown, 2)
            join(dora, bob, team)

            # Alice's machine is there, and is not asked for anything.
            sniffer = alice.start_module("tests.e2e.sniffer", tmp_path / "frames")
            sniffer.document()
            report, started, ready = drilled(dora, team, tmp_path / "ready")
            sniffer.stop()
        assert asked(tmp_path / "frames", found["alice"], by=found["bob"]) > 0, (
            "what looks for copies asks it"
        )
        assert asked(tmp_path / "frames", found["alice"], by=found["dora"]) == 0
        assert report["verdict"] == "passed"
        assert [place.partition("@")[0] for place in report["lost_places"]] == ["alice"]
        assert {vm["name"]: vm["verdict"] for vm in report["vms"]} == dict.fromkeys(shown, "passed")
        assert [source["label"].partition("@")[0] for source in report["sources"]] == ["bob"]
        assert report["sources"][0]["bytes"] > 0
        assert abs(report["rto_s"] - (ready - started)) < 1, (report["rto_s"], ready - started)

        # In earnest: it is lost, and what it saved is restored.
        lose(found["alice"], world)
        vms = dora.place / "vms"
        back = dora.json("restore", team, "--to", vms)
        assert {one["vm"]: one["state"] for one in back["restored"]} == dict.fromkeys(shown, 1)
        assert shown_by({name: sorted(vms.glob(f"{name}*.qcow2"), reverse=True) for name in shown}) == shown
        captured = when(seen, counted(vms / "web-data.qcow2", tmp_path))
        rpo = next(vm["rpo_s"] for vm in report["vms"] if vm["name"] == "web")
        assert abs(rpo - (started - captured)) < 1.2, "seconds of two clocks, each rounded down"
        assert report["rpo_s"] == max(vm["rpo_s"] for vm in report["vms"])

        # Only the archive is left, and then not even that.
        others = [word for number in range(3) for word in ("--lose", f"host{number}")]
        dora.json("archive", "add", "usb", f"file://{usb}")
        report = report_of(dora.json("drill", team, *others))
        assert report["verdict"] == "passed"
        assert [source["label"] for source in report["sources"]] == ["archive usb"]
        result = dora.run("drill", team, *others, "--lose", "usb", "--json")
        assert result.code == NOT_FOUND
        report = report_of(result.document)
        assert report["verdict"] == "failed" and report["rto_s"] is None
        assert "no machine that has one answered" in report["why"][0]


def drilled(node: Node, team: str, ready: Path) -> tuple[Any, float, float]:
    """The report of a drill that boots; by our own clock, when it began and when the last VM was up."""
    ready.mkdir()
    looks = 'grep -q "DATA $OVERLAYSYNC_VM tuesday" $OVERLAYSYNC_CONSOLE'
    probe = f"{looks} && date +%s.%N >{ready}/$OVERLAYSYNC_VM"
    process = node.start("drill", team, "--lose", "host0", *BOOT, "--ready", probe, "--json")
    until(lambda: list(node.home.glob("drills/*/work/home")), what="the drill's beginning")
    started = time.time()
    report = report_of(process.wait(within_s=240).document)
    return report, started, max(float(path.read_text()) for path in ready.iterdir())
