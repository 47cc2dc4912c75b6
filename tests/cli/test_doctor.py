"""The doctor: what it checks, what it says of a machine that is not well, and its exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overlaysync.model.digest import as_digests
from overlaysync.node.network_checks import is_free
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.store.catalog import Catalog
from overlaysync.store.home import Home
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import Team
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, Objects, object_name
from tests.vault.samples import ANN, RED, TIME, a_state, digest, store

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

NAMES = [
    "interfaces",
    "multicast lo",
    "port",
    "clock",
    "home",
    "catalog",
    "faults",
    "vault",
    "file times",
    "space at home",
    "key",
    "space here",
    "locks here",
    "reflinks here",
    "qemu",
]


RED_TEAM = Team("red", bytes(range(20)))


def doctor(*words: str, wrapper: tuple[str, ...] = (), **options: Any) -> tuple[int, dict[str, Any]]:
    """Run the doctor; gives its exit code and its checks by name."""
    command = [*wrapper, sys.executable, "-m", "overlaysync", "doctor", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert "Traceback" not in done.stderr, done.stderr
    document = json.loads(done.stdout)
    assert document.get("exit_code", done.returncode) == done.returncode
    return done.returncode, {check["name"]: check for check in document.get("checks", [])}


def states(checks: dict[str, Any]) -> dict[str, str]:
    return {name: check["state"] for name, check in checks.items()}


def test_every_check_says_what_it_found() -> None:
    code, checks = doctor("--iface", "lo")
    assert code in (0, 10)
    assert list(checks) == NAMES, "NAMES in this file lists the checks in the order in which they are printed"
    assert all(check["meaning"] for check in checks.values())
    assert all(check["advice"] for check in checks.values() if check["state"] == "fail")
    assert states(checks)["interfaces"] == "warn"
    for name in ("port", "clock", "home", "catalog", "vault", "file times", "key"):
        assert states(checks)[name] == "ok", checks[name]


def test_words_for_people() -> None:
    command = [sys.executable, "-m", "overlaysync", "doctor", "--quiet", "--iface", "lo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if line.startswith("✔ catalog ")]
    assert done.stdout.startswith("! interfaces ")


def test_an_interface_that_is_not_there_is_a_usage_error() -> None:
    assert doctor("--iface", "nope0")[0] == 2


def test_a_home_that_others_can_write_to_is_not_allowed(home: Path) -> None:
    home.chmod(0o777)
    code, checks = doctor("--iface", "lo")
    assert code == 8
    assert "chmod 700" in checks["home"]["advice"]


def test_a_damaged_catalog_is_found(home: Path) -> None:
    (home / "catalog.sqlite").write_bytes(b"not a database" * 1000)
    code, checks = doctor("--iface", "lo")
    assert code == 1
    assert states(checks)["catalog"] == "fail"


def test_what_peers_made_go_wrong_is_told(home: Path) -> None:
    catalog = Catalog.open(Home.from_environment(os.environ).prepare())
    catalog.faults.add({"asking a peer for its catalog: ValueError": 3}, at="2026-03-02T08:00:00Z")
    catalog.close()
    _, checks = doctor("--iface", "lo")
    assert states(checks)["faults"] == "warn"
    assert "asking a peer for its catalog: ValueError (3 ×" in checks["faults"]["meaning"]
    assert checks["faults"]["advice"]


def save_state(objects: Objects) -> bytes:
    """Save a state of team red that needs one pack, and return the id of the pack."""
    contents = store(objects, RED, [b"data"])
    (pack,) = contents.packs_with(as_digests(digest(b"data")))
    state = a_state(packs=(pack.hex(),), indexes=tuple(map(bytes.hex, contents.indexes_of([pack]))))
    TeamVault(objects, RED_TEAM).add(state, ANN, made=TIME)
    return pack


@pytest.mark.parametrize(
    ("member", "advice"), [(True, "overlaysync keep red --once"), (False, "overlaysync vault check")]
)
def test_a_vault_that_lacks_what_its_states_need_is_found(member: bool, advice: str) -> None:
    home = Home.from_environment(os.environ).prepare()
    if member:
        keep_team(home.teams, RED_TEAM)
    objects = DirectoryObjects(home.vault)
    pack = save_state(objects)
    assert states(doctor("--iface", "lo")[1])["vault"] == "ok"

    objects.delete(object_name(RED.tag, Kind.PACK, pack))

    code, checks = doctor("--iface", "lo")
    assert code in (6, 10)
    assert checks["vault"]["state"] == "fail" and checks["vault"]["meaning"].startswith("1 of ")
    assert advice in checks["vault"]["advice"]


def test_a_directory_where_nothing_can_be_written_is_said() -> None:
    code, checks = doctor("--iface", "lo", cwd="/proc", env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert code == 10
    assert (states(checks)["locks here"], states(checks)["space here"]) == ("warn", "fail")


# -- QEMU --------------------------------------------------------------------------------------------


def qemu_img(directory: Path, formats: str) -> dict[str, str]:
    """An environment whose only program is a qemu-img that knows these formats."""
    program = directory / "qemu-img"
    program.write_text(f"#!/bin/sh\necho 'qemu-img version 9.9'\necho 'Supported formats: {formats}'\n")
    program.chmod(0o755)
    return os.environ | {"PATH": str(directory)}


def test_without_qemu_there_is_a_warning(tmp_path: Path) -> None:
    code, checks = doctor("--iface", "lo", env=os.environ | {"PATH": str(tmp_path)})
    assert code == 0
    assert states(checks)["qemu"] == "warn"
    assert "qemu-utils" in checks["qemu"]["advice"]


@pytest.mark.parametrize(
    ("formats", "state"), [("qcow2 qed raw vmdk", "ok"), ("qcow2 raw", "warn"), ("", "warn")]
)
def test_formats_that_qemu_was_built_without_are_named(tmp_path: Path, formats: str, state: str) -> None:
    _, checks = doctor("--iface", "lo", env=qemu_img(tmp_path, formats))
    assert checks["qemu"]["state"] == state
    assert ("without" in checks["qemu"]["meaning"]) == (state == "warn")


@pytest.mark.qemu
def test_the_qemu_of_this_machine_is_understood() -> None:
    assert "qemu-img version" in doctor("--iface", "lo")[1]["qemu"]["meaning"]


# -- networks ----------------------------------------------------------------------------------------

ALONE = ("unshare", "--map-root-user", "--net")
CABLE = (
    "ip link set lo up && ip link add lab0 type veth peer name veth1"
    " && ip address add 10.9.8.7/24 dev lab0 && ip address add 10.9.7.1/24 dev veth1"
    " && ip link set lab0 up && ip link set veth1 up"
)
"""A network of its own: a cable between lab0, a name like any other, and veth1, a container tool's."""
KEEP_MDNS = """
import socket, subprocess, sys
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("", 5353))
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


@pytest.mark.lan
def test_without_a_network_the_exit_code_says_so() -> None:
    code, checks = doctor(wrapper=ALONE)
    assert code == 4
    assert (states(checks)["interfaces"], states(checks)["port"]) == ("fail", "fail")


@pytest.mark.lan
def test_whether_a_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_multicast_is_heard_on_every_chosen_interface_and_others_are_left_out() -> None:
    code, checks = doctor(wrapper=(*ALONE, "sh", "-c", f'{CABLE} && exec "$@"', "sh"))
    assert code in (0, 10)
    assert "left out: veth1 (made by a container or VM tool)" in checks["interfaces"]["meaning"]
    multicast = {name: state for name, state in states(checks).items() if name.startswith("multicast")}
    assert multicast == {"multicast lo": "ok", "multicast lab0": "ok"}
    assert "10.9.8.7" in checks["port"]["meaning"]


@pytest.mark.lan
def test_a_program_that_keeps_the_port_of_mdns_for_itself_is_a_network_failure() -> None:
    shell = ("sh", "-c", f'{CABLE} && exec "$@"', "sh")
    code, checks = doctor(wrapper=(*ALONE, *shell, sys.executable, "-c", KEEP_MDNS))
    assert code == 4
    assert states(checks)["multicast lab0"] == "fail"
    assert "--peer" in checks["multicast lab0"]["advice"]
