"""Programs that a drill starts end with it, keep within bounds, and say nothing on the terminal."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from overlaysync.errors import NotFoundError
from overlaysync.node.children import Bounds, child
from overlaysync.units import MIB

UNBOUNDED = Bounds()


async def said(place: Path, *command: str, bounds: Bounds = UNBOUNDED) -> list[str]:
    """What a child says until it ends by itself."""
    async with child(command, place, "log", bounds=bounds) as process:
        await process.wait()
    return (place / "log").read_text().split()


def test_a_program_that_ends_while_it_is_killed_is_no_surprise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def often() -> None:
        # Without a pause, the program often ends in the very moment in which it is killed.
        for _ in range(60):
            async with child(["true"], tmp_path, "log"):
                pass

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        asyncio.run(often())
    assert not caplog.records


async def test_no_code_of_ours_runs_in_a_fork_of_a_process_with_threads(tmp_path: Path) -> None:
    # It waited for ever for a lock that another thread had held in the moment of the fork.
    heard, tells = os.pipe()
    watching = [True]
    os.register_at_fork(after_in_child=lambda: watching[0] and os.write(tells, b"x"))
    try:
        assert await said(tmp_path, "echo", "hello") == ["hello"]
    finally:
        watching[0] = False
        os.close(tells)
    with open(heard, "rb") as file:
        assert file.read() == b""


async def test_a_child_keeps_within_bounds(tmp_path: Path) -> None:
    most = "ulimit -c; ulimit -v; dd if=/dev/zero of=big bs=1k count=99 2>/dev/null; stat -c %s big"
    bounds = Bounds(mapped=512 * MIB, written=64 * 1024)
    assert await said(tmp_path, "sh", "-c", most, bounds=bounds) == ["0", str(512 * 1024), str(64 * 1024)]


def test_a_lower_bound_of_the_user_holds(tmp_path: Path) -> None:
    own = f"""
import asyncio, resource
from pathlib import Path
from overlaysync.node.children import Bounds, child
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
async def run():
    bounds = Bounds(written=1 << 20)
    async with child(["sh", "-c", "ulimit -f"], Path({str(tmp_path)!r}), "log", bounds=bounds) as process:
        assert await process.wait() == 0
asyncio.run(run())
"""
    subprocess.run([sys.executable, "-c", own], check=True)
    assert (tmp_path / "log").read_text().split() == ["16"], "blocks of 512 bytes"


async def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no-such-program"):
        await said(tmp_path, "no-such-program")
