"""Attacks on a page whose user has it open: by another page in the same browser, and by another user."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.async_api import Browser, Error, expect

from tests.e2e import disks
from tests.e2e.nodes import Lab, until
from tests.web.pages import link, opened, share_two

pytestmark = [
    pytest.mark.browser,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "the cookie is for the path /")
async def test_a_page_at_another_port_reads_nothing_and_is_sent_no_cookie(lab: Lab, browser: Browser) -> None:
    """To a browser both are one site: the cookie goes along with what the attacker asks for."""
    teacher, _, _, _ = share_two(lab)
    attacker = teacher.start_module("tests.web.attacker")
    port = json.loads(until(lambda: attacker.stdout.splitlines()[:1])[0])["port"]
    async with opened(browser, link(teacher)) as page:
        there = page.url
        other = await page.context.new_page()
        # Told where the page is, which no other user knows: even that is not enough.
        await other.goto(f"http://[::1]:{port}{urlsplit(there).path}?there={quote(there)}")
        await other.wait_for_function("document.title.startsWith('{')")
        done = json.loads(await other.title())
        assert done == {
            "read": "refused",
            "blind": "refused",
            "write": "refused",
            "frame": "closed",
            "script": "refused",
            "stream": "refused",
        }
        await other.goto(f"http://[::1]:{port}/")
    sent = [json.loads(line) for line in attacker.stdout.splitlines()[1:]]
    assert [one["cookie"] for one in sent if one["path"] == "/"] == [""]


@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "the Host field is not looked at")
async def test_a_name_that_points_here_opens_nothing(lab: Lab, browser: Browser) -> None:
    """DNS rebinding: to the browser the page is the attacker's own, with no word of another origin."""
    teacher, _, _, _ = share_two(lab)
    address = link(teacher)
    async with opened(browser, address) as page:
        port, path = urlsplit(page.url).port, urlsplit(page.url).path
        other = await page.context.new_page()
        for way in (
            f"/?{urlsplit(address).query}",
            path,
            f"{path}parts?since=0",
            f"{path}do/slow",
            "/metrics",
        ):
            async with other.expect_response("**") as found:
                with suppress(Error):  # there is nothing to show
                    await other.goto(f"http://rebound.example:{port}{way}")
            answer = await found.value
            assert (answer.status, await answer.header_value("set-cookie")) == (403, None), way


@pytest.mark.holds("W1")
@pytest.mark.red_without("W1", "a browser is started with the token in its arguments")
async def test_a_browser_is_started_without_the_token_in_its_arguments(lab: Lab, browser: Browser) -> None:
    """Other users see the arguments of every process."""
    teacher, _, _, _ = share_two(lab)
    programs, told = teacher.base / "bin", teacher.base / "told"
    programs.mkdir()
    (programs / "xdg-open").write_text(f'#!/bin/sh\nprintf %s "$*" >{told}.new && mv {told}.new {told}\n')
    (programs / "xdg-open").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    result = await asyncio.to_thread(teacher.run, "page", PATH=path, DISPLAY=":0")
    token = urlsplit(link(teacher)).query.removeprefix("token=")
    assert token in result.stdout
    started = await asyncio.to_thread(until, lambda: told.exists() and told.read_text())
    assert started and token not in started and Path(started).stat().st_mode & 0o777 == 0o600
    async with opened(browser, f"file://{started}") as page:
        await expect(page.locator(".image")).to_have_count(2)
        assert "token" not in page.url


LONG = "W" * 63
HOSTILE_LABEL = "<img src=x onerror=window.hit=1>\u202egnp.exe"


@pytest.mark.holds("W1")
async def test_what_a_peer_calls_itself_and_its_images_is_text_and_fits(lab: Lab, browser: Browser) -> None:
    teacher, student = lab.node("teacher"), lab.node("student")
    master = disks.make_master(teacher.place / f"{LONG}.qcow2", size=1 << 20)
    share = await asyncio.to_thread(
        lambda: teacher.start("share", master, "-m", "<b>note</b>", "--json", OVERLAYSYNC_USER=HOSTILE_LABEL)
    )
    port = (await asyncio.to_thread(share.document))["port"]
    own = disks.make_master(student.place / f"{lab.name('own')}.qcow2", size=1 << 20)
    student.share(own, "--peer", f"[::1]:{port}")
    for width in (360, 2560):
        async with opened(browser, link(student), viewport={"width": width, "height": 800}) as page:
            await expect(page.locator(".image.away")).to_contain_text(LONG)
            await expect(page.locator(".machine")).to_have_count(2)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await page.evaluate("window.hit") is None
            assert await page.locator("img, .machine b *, .image b *").count() == 0
            assert "\u202e" not in await page.content()
            await page.locator(".image.away .link").click()
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
