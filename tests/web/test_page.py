"""The page in real Chromium: what it shows, and that it goes along with the node."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.e2e import disks
from tests.e2e.nodes import Lab
from tests.web.pages import link, opened, share_two

pytestmark = [
    pytest.mark.browser,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]


async def test_a_link_opens_the_page_and_its_token_leaves_the_address(lab: Lab, browser: Browser) -> None:
    teacher, _, master, overlay = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        assert "token" not in page.url
        rows = page.locator(".image")
        await expect(rows).to_have_count(2)
        await expect(rows.nth(0)).to_contain_text(f"{master.stem}:1 master")
        await expect(rows.nth(1)).to_contain_text(f"{overlay.stem}:1 overlay on {master.stem}:1")
        await expect(page.locator(".machine")).to_contain_text("this machine")


async def test_it_can_be_read_and_used_without_scripts_and_in_french(lab: Lab, browser: Browser) -> None:
    teacher, _, _, overlay = share_two(lab)
    async with opened(browser, link(teacher), java_script_enabled=False, locale="fr-FR") as page:
        await expect(page.locator("html")).to_have_attribute("lang", "fr")
        await expect(page.locator(".image").nth(1)).to_contain_text(f"{overlay.stem}:1 différentielle")
        await page.get_by_role("link", name="English").click()
        await expect(page.locator(".image").nth(1)).to_contain_text(f"{overlay.stem}:1 overlay")
        await page.reload()
        await expect(page.locator("html")).to_have_attribute("lang", "en")
        await page.locator(".image.overlay .link").click()
        await page.get_by_role("link", name="Verify").click()
        await page.get_by_role("button", name="Verify").click()
        await expect(page.locator("h1 .state")).to_contain_text("done")


async def test_what_changes_is_shown_without_a_reload(lab: Lab, browser: Browser) -> None:
    teacher, _, master, _ = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        await page.evaluate("window.kept = true")
        await asyncio.to_thread(teacher.json, "new", "another.qcow2", "--master", master.name)
        await expect(page.locator(".image")).to_have_count(3)
        assert await page.evaluate("window.kept")
        (teacher.place / "another.qcow2").unlink()
        await expect(page.locator(".image")).to_have_count(2)


async def test_lists_are_searched_and_ordered_by_the_address_without_scripts(
    lab: Lab, browser: Browser
) -> None:
    teacher, _, master, overlay = share_two(lab)
    async with opened(browser, link(teacher), java_script_enabled=False) as page:
        await page.get_by_label("Find").fill(overlay.stem.upper())
        await page.get_by_label("Order").select_option("largest first")
        await page.get_by_role("button", name="Show").click()
        assert f"q={overlay.stem.upper()}" in page.url and "order=size" in page.url
        await expect(page.locator(".image")).to_have_count(1)
        await expect(page.locator(".image")).to_contain_text(f"{overlay.stem}:1 overlay on {master.stem}:1")
        await page.get_by_role("link", name="Français").click()
        await expect(page.locator(".image")).to_have_count(1)
        await expect(page.get_by_label("Chercher")).to_have_value(overlay.stem.upper())
        await page.get_by_role("link", name="Tout afficher").click()
        await expect(page.locator(".image")).to_have_count(2)
        await page.locator(".counters a").first.click()
        await expect(page.locator(".image")).to_contain_text(f"{master.stem}:1 master")


async def test_what_is_not_looked_for_does_not_come_while_the_page_goes_on(
    lab: Lab, browser: Browser
) -> None:
    teacher, _, master, _ = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        await page.goto(f"{page.url}?q=wanted")
        await expect(page.locator(".image")).to_have_count(0)
        for name in ("other", "wanted"):
            await asyncio.to_thread(
                disks.make_overlay, teacher.place / f"{name}.qcow2", master, (0, len(name) << 16)
            )
        await expect(page.locator(".image")).to_contain_text("wanted")
        await expect(page.locator(".image")).to_have_count(1)
