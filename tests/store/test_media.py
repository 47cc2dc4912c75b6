"""What may be pulled out: by where it is mounted, and by what the kernel says of its device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlaysync.store.media import may_go


def test_what_a_desktop_mounted_may_go() -> None:
    assert may_go("/media/pl/stick/debian.qcow2", []) and may_go("/run/media/pl/stick/debian.qcow2", [])


@pytest.mark.parametrize(
    ("device", "removable", "goes"),
    [
        ("pci0/ata1/block/sda/sda1", "0", False),
        ("pci0/usb2/2-1/block/sdb/sdb1", "0", True),
        ("platform/mmc_host/block/mmcblk0/mmcblk0p1", "1", True),
    ],
)
def test_a_device_may_go_when_the_kernel_says_so(
    tmp_path: Path, device: str, removable: str, goes: bool
) -> None:
    file = tmp_path / "debian.qcow2"
    file.touch()
    number = os.stat(file).st_dev
    place = tmp_path / "devices" / device
    place.mkdir(parents=True)
    (place.parent / "removable").write_text(f"{removable}\n")
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / f"{os.major(number)}:{os.minor(number)}").symlink_to(place)
    assert may_go(str(file), ["/proc"], devices=numbers) is goes
    assert not may_go(str(file), [str(tmp_path / "not" / "made" / "yet")], devices=numbers)
