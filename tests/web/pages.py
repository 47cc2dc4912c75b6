"""A share with a page, and a browser that looks at it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, expect

from overlaysync.units import KIB, MIB
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node, Share

expect.set_options(timeout=20_000)

SHOTS = os.environ.get("OVERLAYSYNC_SHOTS", "")
"""A directory for the screenshots of a test run; without it they are taken and looked at by nobody."""


def share_two(lab: Lab, *arguments: object) -> tuple[Node, Share, Path, Path]:
    """A node that shares a master and an overlay on it."""
    teacher = lab.node("teacher")
    master = disks.make_master(teacher.place / f"{lab.name('base')}.qcow2", size=2 * MIB)
    overlay = disks.make_overlay(teacher.place / f"{lab.name('vm')}.qcow2", master, (MIB, 200 * KIB))
    return teacher, teacher.share(teacher.place, *arguments), master, overlay


def link(node: Node) -> str:
    """The address that opens a node's page."""
    return str(node.json("page")["pages"][0]["link"])


@asynccontextmanager
async def opened(browser: Browser, address: str, **context: Any) -> AsyncIterator[Page]:
    """A page that a browser shows; it must not complain of anything."""
    said: list[str] = []
    made = await browser.new_context(
        **{"locale": "en-GB", "viewport": {"width": 1440, "height": 900}} | context
    )
    try:
        page = await made.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        await page.goto(address)
        yield page
        # A form that is shown again, with what is wrong; and a page that says that there is nothing.
        expected = ("status of 400", "status of 404")
        assert not [text for text in said if not any(one in text for one in expected)], said
    finally:
        await made.close()


async def shoot(page: Page, name: str, *, whole: bool = True) -> None:
    """Take a picture of the page, as an artefact of the test run."""
    if whole:  # what is below the window is not drawn before it is scrolled to
        height = await page.evaluate("document.documentElement.scrollHeight")
        width = await page.evaluate("window.innerWidth")
        await page.set_viewport_size({"width": width, "height": height})
    path = Path(SHOTS, f"{name}.png") if SHOTS else None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=path, full_page=whole)
