"""Running VMs are saved: real guests that write all the time, and a QEMU that must not be harmed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.nodes import Lab, Node
from tests.guest import Guest, counted, make_disks
from tests.qmp import left_in

pytestmark = [pytest.mark.qemu, pytest.mark.guest, pytest.mark.slow]

QMP = ("-qmp", "unix:qmp,server=on,wait=off")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest that counts on a qcow2 and a QED overlay."""
    directory = tmp_path_factory.mktemp("vm")
    with Guest.boot(directory, make_disks(directory, "a.qcow2", "b.qed"), *QMP) as made:
        made.ask("start", "start")
        yield made


@pytest.fixture
def node(lab: Lab) -> Node:
    made = lab.node("ann")
    lab.team("red", made)
    return made


def grown(guest: Guest, beyond: int) -> int:
    """The guest's number, as soon as it is beyond another."""
    while (number := guest.counter()) <= beyond:
        pass
    return number


def counts_of(node: Node, saved: dict[str, Any], *names: str) -> list[int]:
    """What the guest had written to disks when a state was saved: restores them, and looks."""
    target = node.base / f"restored-{saved['state']}"
    node.json("restore", f"{saved['team']}:{saved['state']}", "--to", target)
    return [counted(target / name, node.base) for name in names]


def is_one_moment(counts: list[int]) -> bool:
    """Whether the disks show one moment: the guest writes each number to one after the other."""
    return all(counts[0] - 1 <= count <= counts[0] for count in counts) and counts == sorted(counts)[::-1]


def test_a_state_of_a_running_vm_is_one_moment(guest: Guest, node: Node) -> None:
    before = grown(guest, 20)
    saved: dict[str, Any] = node.json("save", guest.directory)
    after = guest.counter()
    assert {vm["consistency"] for vm in saved["vms"]} == {"crash"}
    counts = counts_of(node, saved, "a.qcow2", "b.qed")
    assert is_one_moment(counts) and before <= counts[0] <= after + 1
    grown(guest, after)
    assert left_in(guest.directory / "qmp") == []


def test_a_second_state_stores_what_has_changed(guest: Guest, node: Node) -> None:
    first = node.json("save", guest.directory)
    grown(guest, guest.counter() + 10)
    second = node.json("save", guest.directory)
    assert second["stored"] < first["stored"] / 4
    first_counts, second_counts = (counts_of(node, one, "a.qcow2", "b.qed") for one in (first, second))
    assert is_one_moment(first_counts) and is_one_moment(second_counts)
    assert second_counts[0] >= first_counts[0] + 9
