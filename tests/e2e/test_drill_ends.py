"""A drill leaves everything as it was: images and vault, processes and files, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from tests.bootable import make_bootable, make_vm
from tests.e2e.nodes import INTERRUPTED, NOT_VERIFIED, USAGE, Lab, Node, until
from tests.e2e.test_drill import BOOT, make_vms, report_of

pytestmark = [pytest.mark.drill, pytest.mark.guest, pytest.mark.qemu, pytest.mark.slow]

ALONE = ("--peer", "127.0.0.1:1", "--wait", "0")


def digests(*roots: Path) -> dict[Path, str]:
    """The hash of every file, but for the records of drills."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return {path: sha256(path.read_bytes()).hexdigest() for path in files if path.parent.name != "drills"}


def programs(node: Node) -> list[tuple[int, str]]:
    """What drills of a node have started and still runs."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{entry}/cwd").startswith(str(node.home / "drills")):
                found.append((int(entry), Path(f"/proc/{entry}/comm").read_text().strip()))
    return found


def scratch(node: Node) -> list[Path]:
    return list((node.home / "drills").iterdir())


@pytest.mark.holds("D11")
@pytest.mark.red_without("D11", "QEMU is not told to die with the drill")
@pytest.mark.red_without("D11", "the scratch directory is left there")
def test_a_drill_that_is_killed_or_interrupted_leaves_nothing(lab: Lab) -> None:
    node = lab.node("alice")
    team = lab.team("red", node)
    make_vms(node, "web")
    node.json("save", "--team", team, node.place)
    before = digests(node.place, node.home / "vault")
    never = ("drill", team, *ALONE, *BOOT, "--ready", "serial:NEVER")

    process = node.start(*never)
    until(lambda: any("qemu-system" in name for _, name in programs(node)), what="a VM")
    os.kill(process.popen.pid, signal.SIGKILL)
    until(lambda: not programs(node), within_s=5, what="the end of all that it had started")
    assert scratch(node)

    process = node.start(*never)
    until(lambda: any("qemu-system" in name for _, name in programs(node)), what="a VM")
    assert "removed what was left of 1 drill" in process.stderr
    process.interrupt()
    result = process.wait()
    assert result.code == INTERRUPTED
    assert not programs(node) and not scratch(node)
    assert digests(node.place, node.home / "vault") == before

    result = node.run(*never, "--boot-limit", "0.005", "--rto", "10", "--json")
    assert result.code == NOT_VERIFIED
    report = report_of(result.document)
    assert (report["verdict"], report["vms"][0]["verdict"]) == ("timed-out", "timed-out")
    assert "not ready 3 s after power-on" in report["why"][0]
    assert not scratch(node) and not programs(node)
    status = node.run("status", team, "--local", "--json").document["teams"][0]
    assert status["last_drill"]["verdict"] == "timed-out" and status["last_drill_passed"] is None

    # Without a boot it passes; it was never told what a lost machine is called.
    report = report_of(node.json("drill", team, *ALONE))
    assert (report["verdict"], report["booted"]) == ("passed", "no")
    assert report["earlier"][0]["verdict"] == "timed-out"
    status = node.run("status", team, "--local", "--json").document["teams"][0]
    assert status["last_drill_passed"]["started"] == report["started"]
    error = node.fails(USAGE, "drill", team, *ALONE, "--lose", "nowhere")
    assert "nowhere" in error["what"] and node.base.name in error["why"]
    assert node.run("drill", team, *ALONE, "--rpo", "0.01", "--json").code == 12
    kept = digests(node.place, node.home / "vault")
    assert {path: kept[path] for path in before} == before


@pytest.mark.holds("D11")
def test_uefi_and_a_tpm_come_back(lab: Lab) -> None:
    node = lab.node("alice")
    team = lab.team("red", node)
    make_vm(node.place / "win.qcow2", make_bootable(node.place / "master.raw", uefi=True))
    variables = node.place / "win.qcow2_OVMF_VARS.fd"
    variables.write_bytes(Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes())
    tpm = node.place / "win.qcow2_TPM"
    tpm.mkdir()
    words = ["swtpm_setup", "--tpm2", "--tpmstate", str(tpm)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    node.json("save", "--team", team, node.place)
    before = digests(node.place, node.home / "vault")
    more = ("--boot-limit", "0.3", "--memory", "256M", "--ready", "serial:READY", "--json")
    result = node.start("drill", team, *ALONE, *BOOT, *more).wait(within_s=200)
    report = report_of(result.document)
    assert before.items() <= digests(node.place, node.home / "vault").items()
    (vm,) = report["vms"]
    assert vm["verdict"] == "passed"
    assert set(vm["companions"]) == {"win.qcow2_OVMF_VARS.fd", "win.qcow2_TPM/tpm2-00.permall"}
    assert "OVMF_CODE_4M.fd" in vm["boot"]["command"] and "tpm-tis" in vm["boot"]["command"]
    assert any(line.startswith("READY") for line in vm["boot"]["console"])
    assert vm["boot"]["screenshot"], "a VM has a screen"
    assert not scratch(node) and not programs(node)
