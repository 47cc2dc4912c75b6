"""Real Chromium, in the namespaces of the nodes of a test: it reaches what is on their loopback, no more."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.e2e.conftest import apart, forks, lab

__all__ = ["apart", "forks", "lab"]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP rebound.example [::1]",
]
"""One name is an attacker's, who has let it point to this machine."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory, apart: tuple[str, ...]) -> AsyncIterator[Browser]:
    """A browser beside the nodes of a lab; each test makes contexts of its own in it."""
    chromium = shutil.which("chromium")
    assert chromium, "not installed: chromium. Type: sudo apt install chromium"
    inside: Path = tmp_path_factory.mktemp("chromium") / "chromium"
    inside.write_text(f'#!/bin/sh\nexec {shlex.join((*apart, chromium))} "$@"\n')
    inside.chmod(0o700)
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=inside, args=ARGUMENTS)
        yield made
        await made.close()
