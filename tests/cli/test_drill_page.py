"""The page of a drill: one sheet, nothing from outside, and no text that is taken for markup."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from msgspec.structs import replace

from overlaysync.cli.drill_page import report_page
from overlaysync.cli.drill_watch import Clock
from overlaysync.ops.drill.report import (
    BootReport,
    DiskReport,
    Earlier,
    LeftOutReport,
    Report,
    Source,
    Span,
    Targets,
    VmReport,
)

EVIL = "<script>alert(1)</script>\x1b[2J"
DIGEST = "ab" * 32


def a_vm(name: str) -> VmReport:
    boot = BootReport(
        command="qemu-system-x86_64",
        probe="serial:" + "a" * 80,
        verdict="timed-out",
        evidence=EVIL * 9,
        limit_s=300,
        power_on_s=2,
        took_s=300,
        console=(EVIL, *("x" * 118,) * 19),
        screenshot="iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    )
    disk = DiskReport(
        file=f"{name}.qcow2",
        format="qcow2",
        virtual_size=1,
        disk="b3:" + "0" * 64,
        manifest="0" * 64,
        publisher="abcd-efgh-ijkl",
    )
    return VmReport(
        name=name,
        verdict="timed-out",
        why=EVIL * 9,
        state=3,
        state_id="0" * 64,
        note=EVIL * 3,
        signed_by="abcd-efgh-ijkl",
        at="2026-11-29T10:00:00Z",
        rpo_s=12345,
        consistency="crash",
        back_s=300,
        disks=(disk,) * 3,
        companions=(f"{name}_OVMF_VARS.fd",) * 5,
        left_out=(LeftOutReport(file="f" * 60, why="w" * 60),),
        boot=boot,
    )


def a_report(count: int) -> Report:
    """A report with as much text as there can be."""
    vms = tuple(a_vm(f"machine-with-a-long-name-{number}") for number in range(count))
    sentences = (f"{EVIL} {'a sentence about something ' * 9}",) * 12
    return Report(
        team="red",
        started="2026-11-29T10:00:00Z",
        by="pl@bob-abc234",
        node="abcd-efgh",
        program="0.1.0",
        qemu="QEMU emulator version 7.2",
        lost=("oscar", EVIL),
        lost_places=("pl@oscar-abc234",) * 9,
        booted="tcg",
        targets=Targets(rto_s=250, rpo_s=60),
        verdict="timed-out",
        why=tuple(f"{vm.name}: {vm.why}" for vm in vms),
        exit_code=6,
        took_s=302,
        rto_s=302,
        rpo_s=12345,
        spans=(
            Span(phase="discover", start_s=0, end_s=2),
            *(Span(phase="boot", vm=vm.name, start_s=2, end_s=302) for vm in vms),
        ),
        sources=(Source(label="pl@alice-abc234", bytes=10**10, wrong=2, problem=EVIL * 4),) * 9,
        vms=vms,
        would_be_lost=sentences,
        advice=sentences,
        isolation=sentences,
        earlier=(Earlier(started="2026-11-28T10:00:00Z", by="x", verdict="passed", rto_s=9, rpo_s=9),) * 9,
    )


def test_nothing_in_a_report_is_markup_and_nothing_comes_from_outside() -> None:
    page = report_page(a_report(3), DIGEST)
    assert "<script" not in page and "\x1b" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "url(http" not in page
    assert DIGEST in page


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("count", [0, 1, 4, 20])
def test_it_prints_on_one_sheet(tmp_path: Path, count: int) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.pdf"
    page.write_text(report_page(a_report(count), DIGEST))
    own = f"--user-data-dir={tmp_path}/user"
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", own, "--no-pdf-header-footer"]
    subprocess.run(
        [*words, f"--print-to-pdf={sheet}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=60,
    )
    data = sheet.read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", data)) == 1


def test_a_short_report_says_what_there_is() -> None:
    report = replace(a_report(0), verdict="failed", why=("nobody has it",), booted="no", spans=())
    page = report_page(report, DIGEST)
    assert "nobody has it" in page and "Nothing was left to ask" not in page


def test_the_templates_are_part_of_the_package() -> None:
    assert resources.files("overlaysync.cli").joinpath("templates/drill.html").is_file()


@pytest.mark.slow
def test_they_are_in_the_wheel(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    assert "overlaysync/cli/templates/drill.html" in zipfile.ZipFile(wheel).namelist()


def test_a_clock_counts_against_the_target() -> None:
    clock = Clock("red", 60.0)
    clock.began("discover", "")
    clock.began("boot", "web")
    early, late = "\n".join(clock.lines(5)), "\n".join(clock.lines(75))
    assert "55 s left" in early and "web  booting" in early and "looking for machines" in early
    assert "exceeded by 15 s" in late
    assert "RTO" not in "\n".join(Clock("red", None).lines(5))
