"""The page without a mouse: every action is reached and asked about, and the focus goes where it was."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect

from tests.e2e.nodes import Lab
from tests.web.pages import link, opened, share_two
from tests.web.test_actions import ends, saved_team

pytestmark = [
    pytest.mark.browser,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

_FOCUSED = (
    "document.activeElement.innerText.trim() || document.activeElement.name || document.activeElement.id"
)


async def tab_to(page: Page, name: str, most: int = 60) -> None:
    """Press Tab until something with this text has the focus."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        if str(await page.evaluate(_FOCUSED)).startswith(name):
            return
    raise AssertionError(f"Tab does not reach {name}")


async def test_the_keyboard_reaches_everything(lab: Lab, browser: Browser) -> None:
    teacher, _, master, _ = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#lineage")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.locator(".image .link").first).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_contain_text(master.stem)


async def test_a_dialog_keeps_the_focus_and_gives_it_back(lab: Lab, browser: Browser) -> None:
    teacher, _, _, overlay = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        await page.locator(".image.overlay .link").click()
        await tab_to(page, "Promote")
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_have_accessible_name(f"Promote: {overlay.stem}:1")
        await expect(page.locator("#f-name")).to_be_focused()
        seen = []
        for _ in range(6):
            await page.keyboard.press("Tab")
            seen.append(await page.evaluate(_FOCUSED))
        assert seen == ["to", "Promote", "Cancel", "name", "to", "Promote"]
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Shift+Tab")
        assert await page.evaluate(_FOCUSED) == "Cancel"
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(page.locator(".actions a", has_text="Promote")).to_be_focused()

        await page.keyboard.press("Tab")
        assert await page.evaluate(_FOCUSED) == "Discard"
        await page.keyboard.press("Enter")
        await expect(page.locator("dialog [data-cancel]")).to_be_focused()  # not what removes something
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await expect(page.locator(".actions a", has_text="Discard")).to_be_focused()
        assert overlay.exists()


async def test_an_action_is_done_with_the_keyboard_alone_and_its_end_is_told(
    lab: Lab, browser: Browser
) -> None:
    teacher, _, master, _ = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        told = await page.context.new_page()
        await told.goto(page.url)
        await expect(told.get_by_role("status").and_(told.locator("#news"))).to_be_empty()
        await tab_to(page, f"{master.stem}:1")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_contain_text(master.stem)
        await tab_to(page, "Verify")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await tab_to(page, "Verify", most=3)
        await page.keyboard.press("Enter")
        await ends(page)
        await expect(page.get_by_role("status").and_(page.locator("main *"))).to_have_text(
            f"Verify {master.stem}:1: done."
        )
        await expect(told.locator("#news")).to_have_text(f"Verify {master.stem}:1: done.")


async def test_every_action_of_a_team_is_reached_while_the_page_goes_on(lab: Lab, browser: Browser) -> None:
    team, ana, master = saved_team(lab)
    ana.share(master, ana.place / "vm", "--team", team)
    async with opened(browser, link(ana)) as page:
        await page.evaluate("document.querySelector('#teams').focus()")
        for name in ("Save", "Restore", "Drill", "Keep copies"):
            await tab_to(page, name, most=4)
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("dialog")).to_have_accessible_name(f"{name}: {team}")
            # What was pressed is drawn anew behind the dialog.
            await page.evaluate(
                "document.querySelectorAll('.team .actions a').forEach(a => a.replaceWith(a.cloneNode(true)))"
            )
            await page.keyboard.press("Escape")
            await expect(page.locator(".team .actions a", has_text=name)).to_be_focused()
        await tab_to(page, "Slow mode", most=60)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_have_accessible_name("Slow mode")
