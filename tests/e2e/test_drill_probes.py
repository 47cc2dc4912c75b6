"""How a drill finds out that a VM is ready, with real guests; and what these can reach meanwhile."""

from __future__ import annotations

import socket

import pytest

from tests.bootable import make_bootable, make_vm, write_data
from tests.e2e.nodes import DONE, NOT_VERIFIED, Lab
from tests.e2e.test_drill import BOOT, report_of
from tests.e2e.test_drill_ends import ALONE, programs, scratch

pytestmark = [pytest.mark.drill, pytest.mark.guest, pytest.mark.qemu, pytest.mark.slow]

UP = "ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up"
SERVES = "{ while :; do echo hello | nc -l -p %d; done & }"
CARDS = 'echo "CARDS $(ls /sys/class/net | tr "\\n" " ")"'
ASKS = "bash -c 'read -r line </dev/tcp/$OVERLAYSYNC_ADDRESS/$OVERLAYSYNC_PORT_80 && test \"$line\" = hello'"


@pytest.mark.holds("D11")
@pytest.mark.red_without("D11", "the network of a VM leads out")
def test_each_probe_tells_when_a_vm_is_ready_and_no_vm_reaches_out(open_lab: Lab) -> None:
    node = open_lab.node("alice")
    team = open_lab.team("red", node)
    with socket.create_server(("127.0.0.1", 0)) as outside:
        out = f"echo hi | nc -w 1 10.0.2.2 {outside.getsockname()[1]} && echo 'OUT yes' || echo 'OUT no'"
        runs = {
            "agent": f"{CARDS}; agent",
            "command": f"{UP}; {out}; {SERVES % 80}",  # the drill ends when it serves
            "plain": f"{CARDS}; printf 'plain login: '; sleep 1000",
            "port": f"{UP}; {CARDS}; {SERVES % 22}",
        }
        master = make_bootable(node.place / "debian.raw", agent=True)
        for name, line in runs.items():
            write_data(make_vm(node.place / f"{name}.qcow2", master), name, runs=line)
        node.json("save", "--team", team, node.place)
        probes = {"agent": "agent", "command": ASKS, "port": "tcp:22"}
        ready = [word for name, probe in probes.items() for word in ("--ready", f"{name}={probe}")]
        result = node.start("drill", team, *ALONE, *BOOT, *ready, "--json").wait(within_s=200)
        assert result.code == DONE, result.stderr
        outside.setblocking(False)
        with pytest.raises(BlockingIOError):
            outside.accept()
    report = report_of(result.document)
    vms = {vm["name"]: vm for vm in report["vms"]}
    assert {name: (vm["verdict"], vm["boot"]["evidence"]) for name, vm in vms.items()} == {
        "agent": ("passed", "the guest agent answers"),
        "command": ("passed", "the command succeeded"),
        "plain": ("not-tested", "the serial port shows “login:”"),
        "port": ("passed", "port 22 answers"),
    }
    consoles = {name: "\n".join(vm["boot"]["console"]) for name, vm in vms.items()}
    assert "OUT no" in consoles["command"]
    assert "CARDS lo" in consoles["agent"] and "CARDS lo" in consoles["plain"]
    assert "CARDS eth0 lo" in consoles["port"]
    assert report["verdict"] == "not-tested" and "plain" in report["why"][0]
    assert not scratch(node) and not programs(node)

    # QEMU takes a connection to a port on which nothing listens: that is not taken for ready.
    wrong = ("--ready", "tcp:80", "--vm", "port")
    result = node.run("drill", team, *ALONE, *BOOT, *wrong, "--boot-limit", "0.02", "--json")
    assert result.code == NOT_VERIFIED
    report = report_of(result.document)
    assert {vm["verdict"] for vm in report["vms"]} == {"timed-out"}
