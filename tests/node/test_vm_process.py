"""Programs that a drill starts end with it, and say nothing on the terminal."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from overlaysync.node import vm_process


def test_a_program_that_ends_while_it_is_killed_is_no_surprise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def often() -> None:
        # Without a pause, the program often ends in the very moment in which it is killed.
        for _ in range(60):
            async with vm_process._process(["true"], tmp_path, "log"):
                pass

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        asyncio.run(often())
    assert not caplog.records
