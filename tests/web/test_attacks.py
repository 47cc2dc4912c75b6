"""Attacks on a page whose user has it open: by another page in the same browser, and by another user."""

from __future__ import annotations

import json
from urllib.parse import quote, urlsplit

import pytest
from playwright.async_api import Browser

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
