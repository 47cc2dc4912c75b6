"""The page for people: hostile names, keyboard and screen reader, narrow and wide, light and dark."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.e2e.nodes import Lab, Node
from tests.web.pages import link, opened, shoot
from tests.web.test_actions import saved_team

pytestmark = [
    pytest.mark.browser,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")


async def violations(page: Page) -> list[Any]:
    """What axe-core finds wrong, in the dark as well; the script is put in past the page's policy."""
    found = []
    await page.evaluate(AXE)
    for scheme, rules in (
        ("light", "{preload: false}"),
        ("dark", "{preload: false, runOnly: ['color-contrast']}"),
    ):
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found += await page.evaluate(f"axe.run({rules}).then(done => done.violations)")
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]


def rich_lab(lab: Lab) -> tuple[Node, str, str]:
    """A node of a team with something of everything; its master's name, and the team's."""
    team, ana, master = saved_team(lab)
    ana.json("save", "--team", team, ana.place / "vm")
    said = {"lines": ["one word " * 40, "w" * 400], "words": ["verify", "--", "w" * 400]}
    (ana.home / "tasks").mkdir()
    (ana.home / "tasks" / "old.json").write_text(
        json.dumps(said | {"action": "verify", "begun": 1e9, "ended": 1e9, "code": 6, "about": "w" * 64})
    )
    ana.share(master, ana.place / "vm", "--team", team)
    return ana, master.stem, team


async def test_axe_finds_nothing_wrong_in_either_language_or_scheme(lab: Lab, browser: Browser) -> None:
    ana, master, team = rich_lab(lab)
    address = link(ana)
    for locale in ("en-GB", "fr-FR"):
        async with opened(browser, address, locale=locale) as page:
            home = page.url
            assert await violations(page) == []
            await page.locator(".image .link", has_text=master).click()
            assert await violations(page) == []
            await page.locator(".actions a").first.click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            assert await violations(page) == []
            pages = "task/old", f"team/{team}", "do/slow", f"do/keep?team={team}", "?q=x&order=name", "none"
            for path in pages:
                await page.goto(home + path)
                assert await violations(page) == [], path


async def test_it_fits_every_width_in_light_and_dark(lab: Lab, browser: Browser) -> None:
    ana, _, team = rich_lab(lab)
    address = link(ana)
    for width, scheme in itertools.product((360, 1440, 2560), ("light", "dark")):
        size = {"width": width, "height": 740 if width < 500 else 1000}
        async with opened(browser, address, viewport=size, color_scheme=scheme) as page:
            home = page.url
            await expect(page.locator(".image")).to_have_count(2)
            await shoot(page, f"page-{width}-{scheme}")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            for path in (f"team/{team}", f"do/save?team={team}", "task/old") if scheme == "light" else ():
                await page.goto(home + path)
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, path


HOSTILE = "<img src=x onerror=window.hit=1>'{{7*7}}&lt;"


async def test_a_hostile_name_is_text_and_nothing_else(lab: Lab, browser: Browser) -> None:
    """Of a directory here, through image, form, task and its output; of strangers: see test_board.py."""
    team, ana, master = saved_team(lab)
    overlay = next((ana.place / "vm").glob("*.qcow2"))
    evil = ana.place / HOSTILE
    evil.mkdir()
    overlay.rename(evil / overlay.name)
    ana.share(master, evil, "--team", team)
    async with opened(browser, link(ana)) as page:
        home = page.url
        await page.locator(".image.overlay .link").click()
        await expect(page.locator(".facts")).to_contain_text(HOSTILE)
        await page.locator(".actions a", has_text="Verify").click()
        await expect(page.locator("main")).to_contain_text(HOSTILE)
        await page.get_by_role("button", name="Verify").click()
        await expect(page.locator("h1 .state")).to_contain_text("done", timeout=30_000)
        await expect(page.locator("#output")).to_contain_text(HOSTILE)
        await page.goto(home)
        await expect(page.locator(".task .last")).to_contain_text(HOSTILE)
        assert await page.evaluate("window.hit") is None
        assert await page.locator("img").count() == 0
