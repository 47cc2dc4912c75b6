"""Which hardware addresses count, and the mark of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.net import machine

OWN = "52:54:00:12:34:56"


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel shows of network interfaces; none of them answers ethtool."""
    monkeypatch.setattr(machine, "_SYSFS", tmp_path)
    return tmp_path


def card(sysfs: Path, name: str, address: str, *, assigned: str = "0", hardware: bool = True) -> None:
    (sysfs / name).mkdir()
    if hardware:
        (sysfs / name / "device").mkdir()
    (sysfs / name / "address").write_text(f"{address}\n")
    (sysfs / name / "addr_assign_type").write_text(f"{assigned}\n")


def test_cards_count_and_what_software_makes_does_not(sysfs: Path) -> None:
    card(sysfs, "x0", OWN)
    card(sysfs, "x1", "00:1b:21:aa:bb:cc")
    for name in ("lo", "docker0", "veth1", "virbr0", "tap3", "br0", "wg0"):
        card(sysfs, f"no-{name}", "02:42:00:00:00:01", hardware=False)
    assert machine.hardware_addresses() == (OWN, "00:1b:21:aa:bb:cc")


@pytest.mark.parametrize("assigned", ["1", "2", "3", "?"])
def test_an_address_that_was_made_up_borrowed_or_set_does_not_count(sysfs: Path, assigned: str) -> None:
    card(sysfs, "x0", OWN, assigned=assigned)
    assert machine.hardware_addresses() == ()


def test_the_address_a_card_was_made_with_counts_where_another_is_set(
    sysfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(sysfs, "wlan0", "9a:00:00:00:00:01", assigned="3")
    monkeypatch.setattr(machine, "_permanent_address", {"wlan0": OWN}.get)
    assert machine.hardware_addresses() == (OWN,)


@pytest.mark.parametrize("address", ["", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "nonsense", "52:54:00"])
def test_what_is_no_address_does_not_count(sysfs: Path, address: str) -> None:
    card(sysfs, "x0", address)
    assert machine.hardware_addresses() == ()


def test_two_cards_with_one_address_count_once(sysfs: Path) -> None:
    card(sysfs, "x0", OWN)
    card(sysfs, "x1", OWN)
    assert machine.hardware_addresses() == (OWN,)


def test_no_sysfs_is_no_hardware(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_SYSFS", sysfs / "none")
    assert machine.hardware_addresses() == ()


def test_a_machine_has_one_mark_until_it_boots_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {machine.machine_mark() for _ in range(2)}
    for boot in ("one", "two"):
        (tmp_path / boot).write_text(boot)
        monkeypatch.setattr(machine, "_BOOT_ID", tmp_path / boot)
        marks.add(machine.machine_mark())
    assert len(marks) == 3 and {len(mark) for mark in marks} == {16}
