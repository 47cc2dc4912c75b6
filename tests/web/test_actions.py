"""Every action of the page, done in real Chromium, with what it leaves on the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from overlaysync.store.keeping import KeptTeam, load_keeping
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node
from tests.web.pages import link, opened, share_two, shoot

pytestmark = [
    pytest.mark.browser,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]


async def begin(page: Page, image: str, action: str, **fields: str) -> None:
    """Ask for an action on an image, and confirm it."""
    await page.locator(".image .link", has_text=f"{image}:1").click()
    await page.locator(".actions a", has_text=action).click()
    for name, value in fields.items():
        await page.locator(f"#f-{name}").fill(value)
    await page.get_by_role("button", name=action).click()


async def ends(page: Page, state: str = "done") -> None:
    await expect(page.locator("h1 .state")).to_contain_text(state, timeout=40_000)


async def test_verify_promote_and_discard(lab: Lab, browser: Browser) -> None:
    teacher, _, master, overlay = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        home = page.url
        await begin(page, master.stem, "Verify")
        await ends(page)
        await expect(page.locator("#output")).to_contain_text("✔")

        await page.goto(home)
        await begin(page, overlay.stem, "Promote", name="made")
        await ends(page)
        assert (teacher.place / "made.qcow2").exists()
        await shoot(page, "task")

        await page.goto(home)
        await expect(page.locator(".promoted")).to_contain_text("made")
        await page.locator(".image .link", has_text=f"{overlay.stem}:1").click()
        await page.locator(".actions a", has_text="Discard").click()
        assert overlay.exists()  # it is asked once more
        await shoot(page, "dialog", whole=False)
        await page.get_by_role("button", name="Discard").click()
        await ends(page)
        assert not overlay.exists() and master.exists()

        await page.goto(home)
        await expect(page.locator("#tasks .task")).to_have_count(3)


async def test_what_is_refused_is_said_on_the_page(lab: Lab, browser: Browser) -> None:
    teacher, _, master, overlay = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        home = page.url
        await begin(page, overlay.stem, "Promote", name="../made")
        await expect(page.get_by_role("alert")).to_contain_text("'../made' cannot be a name")
        await expect(page.locator("#f-name")).to_have_value("../made")
        await page.locator("#f-name").fill(master.stem)
        await page.get_by_role("button", name="Promote").click()
        await ends(page, "failed 9")
        await expect(page.locator("#output")).to_contain_text("✗")
        await page.goto(home)
        await expect(page.locator("#tasks .task")).to_contain_text("failed")


async def test_a_fetch_is_seen_at_both_ends_while_it_goes_on(lab: Lab, browser: Browser) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{lab.name('big')}.qcow2", size=24 << 20)
    own = disks.make_master(student.place / f"{lab.name('own')}.qcow2", size=1 << 20)
    share = teacher.share(master, "--limit-rate", "4M")
    student.share(own, "--peer", share.peer)
    async with opened(browser, link(student)) as page, opened(browser, link(teacher)) as other:
        await page.evaluate("window.kept = true")
        await expect(page.locator(".image.away")).to_contain_text("on 1 other machine")
        home = page.url
        await begin(page, master.stem, "Fetch", to=str(student.place), masters=str(student.place))
        await expect(page.locator(".transfer .map")).to_be_visible()
        watching = await page.context.new_page()
        await watching.goto(home)
        await expect(watching.locator(".transfer .map .c3")).to_be_visible()
        await expect(other.locator(".transfer .receivers")).to_contain_text("student")
        await expect(other.locator(".transfer .map .c3")).to_be_visible()
        await shoot(watching, "transfer-in")
        await shoot(other, "transfer-out")
        await ends(page)
        await expect(watching.locator(".transfer")).to_have_count(0)
        await expect(watching.locator(".image.away")).to_have_count(0)
    assert (student.place / master.name).exists()


async def test_a_task_can_be_stopped_and_begun_again(lab: Lab, browser: Browser) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{lab.name('big')}.qcow2", size=24 << 20)
    own = disks.make_master(student.place / f"{lab.name('own')}.qcow2", size=1 << 20)
    share = teacher.share(master, "--limit-rate", "1M")
    student.share(own, "--peer", share.peer)
    async with opened(browser, link(student)) as page:
        await begin(page, master.stem, "Fetch", to=str(student.place), masters=str(student.place))
        await expect(page.locator(".transfer")).to_be_visible()
        await page.get_by_role("button", name="Stop").click()
        await ends(page, "stopped")
    assert not (student.place / master.name).exists()


async def test_slow_mode_limits_what_is_given(lab: Lab, browser: Browser) -> None:
    teacher, _, _, _ = share_two(lab)
    async with opened(browser, link(teacher)) as page:
        await page.get_by_role("link", name="Slow mode").click()
        await page.locator("#f-rate").fill("a lot")
        await page.get_by_role("button", name="Send slowly").click()
        await expect(page.get_by_role("alert")).to_contain_text("'a lot' is not a size")
        await page.locator("#f-rate").fill("2M")
        await page.get_by_role("button", name="Send slowly").click()
        await page.get_by_role("link", name="Slow: 2 MiB/s at most").click()
        await page.get_by_role("button", name="End slow mode").click()
        await expect(page.get_by_role("link", name="Slow mode")).to_be_visible()


def saved_team(lab: Lab) -> tuple[str, Node, Path]:
    """A team, one of whose members shares an overlay that is a VM of it."""
    ana = lab.node("ana")
    team = lab.team("red", ana)
    master = disks.make_master(ana.place / f"{lab.name('base')}.qcow2", size=2 << 20)
    (ana.place / "vm").mkdir()
    disks.make_overlay(ana.place / "vm" / f"{lab.name('web')}.qcow2", master, (1 << 20, 200 << 10))
    return team, ana, master


async def test_save_and_restore_a_team(lab: Lab, browser: Browser) -> None:
    team, ana, master = saved_team(lab)
    ana.share(master, ana.place / "vm", "--team", team)
    async with opened(browser, link(ana)) as page:
        home = page.url
        await expect(page.locator("#alerts")).to_contain_text("was never saved")
        await page.locator(".team .actions a", has_text="Save").click()
        await page.locator("#f-to").fill(str(ana.place / "vm"))
        await page.locator("#f-note").fill("first <b>day</b>")
        await page.get_by_role("button", name="Save").click()
        await ends(page)

        await page.goto(home)
        await expect(page.locator(".vms")).to_contain_text("on 1 of 2 machines")
        await expect(page.locator("#alerts")).to_contain_text("is on 1 of 2 machines")
        await shoot(page, "team")
        await page.locator(".team .actions a", has_text="Restore").click()
        await page.locator("#f-to").fill(str(ana.place / "back"))
        await page.locator("#f-masters").fill(str(ana.place))
        await page.get_by_role("button", name="Restore").click()
        await ends(page)
    assert await asyncio.to_thread(lambda: list((ana.place / "back").rglob("*.qcow2")))


async def test_keep_a_team_and_stop_keeping_it(lab: Lab, browser: Browser) -> None:
    team, ana, master = saved_team(lab)
    ana.share(master, ana.place / "vm", "--team", team)
    async with opened(browser, link(ana)) as page:
        home = page.url
        await page.locator(".team h3 a").click()
        await expect(page.locator(".actions a", has_text="Stop keeping")).to_have_count(0)
        await page.locator(".actions a", has_text="Keep").click()
        assert load_keeping(ana.home / "keeping.json").teams == {}  # it is asked once more
        await page.locator("#f-copies").fill("11")
        await page.get_by_role("button", name="Keep").click()
        await expect(page.get_by_role("alert")).to_contain_text("'11' is no number of machines")
        await page.locator("#f-copies").fill("2")
        await page.locator("#f-budget").fill("1G")
        await page.get_by_role("button", name="Keep").click()
        await ends(page)
        assert load_keeping(ana.home / "keeping.json").teams == {team: KeptTeam(2, 1 << 30)}

        await page.goto(f"{home}team/{team}")
        await expect(page.locator(".facts").first).to_contain_text("wanted on 2 machines, in 1 GiB at most")
        await page.locator(".actions a", has_text="Stop").click()
        await page.get_by_role("button", name="Stop keeping").click()
        await ends(page)
        assert load_keeping(ana.home / "keeping.json").teams == {}


async def test_a_drill_is_done_and_shown_with_the_team(lab: Lab, browser: Browser) -> None:
    team, ana, master = saved_team(lab)
    ana.json("save", "--team", team, ana.place / "vm")
    (ana.place / "reports").mkdir()
    ana.share(master, ana.place / "vm", "--team", team)
    async with opened(browser, link(ana)) as page:
        home = page.url
        await expect(page.locator(".team")).to_contain_text("No drill so far")
        await page.locator(".team .actions a", has_text="Drill").click()
        await page.locator("#f-to").fill(str(ana.place / "reports"))
        await page.get_by_role("button", name="Drill").click()
        await ends(page)
        assert list((ana.place / "reports").glob("drill-*.html"))

        await page.goto(home)
        await expect(page.locator(".team")).to_contain_text("Last drill: passed, just now, by ana@")
        await page.locator(".team h3 a").click()
        await expect(page.locator(".part").last).to_contain_text("1 of 1")
        await shoot(page, "team-page")
