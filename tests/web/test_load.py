"""The page of a large lab, measured in real Chromium: 200 peers, 500 images, 20 transfers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import async_playwright

from tests.web.conftest import ARGUMENTS
from tests.web.pages import shoot

pytestmark = [pytest.mark.browser, pytest.mark.bench, pytest.mark.asyncio(loop_scope="module")]

_WATCHED_S = 15

_FRAMES = """async (seconds) => {
  let longest = 0, frames = 0, before = performance.now();
  const end = before + seconds * 1000;
  while (before < end) {
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    longest = Math.max(longest, now - before);
    frames += 1;
    before = now;
  }
  return {longest, frames};
}"""

_LOADED = """async () => ({
  paint: await new Promise(found => new PerformanceObserver(
    list => list.getEntriesByName("first-contentful-paint").forEach(one => found(one.startTime))
  ).observe({type: "paint", buffered: true})),
  bytes: [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(one => !/parts|events/.test(one.name)).reduce((sum, one) => sum + one.encodedBodySize, 0),
})"""


async def test_a_large_lab_stays_smooth_and_costs_little(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.web.simulated", tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as node:
        assert node.stdin and node.stdout

        def ask() -> Any:
            print(file=node.stdin, flush=True)
            return json.loads(node.stdout.readline())["cpu_s"]  # type: ignore[union-attr]

        link = json.loads(node.stdout.readline())["link"]
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
            page = await browser.new_page(viewport={"width": 1440, "height": 900})
            await page.goto(link)
            await page.goto(page.url)  # what the node has to find out first was found out
            loaded = await page.evaluate(_LOADED)
            assert await page.locator(".image").count() == 500
            assert await page.locator(".transfer").count() == 20
            await asyncio.sleep(2)  # both begin at the same moment of the stream
            before = ask()
            frames = await page.evaluate(_FRAMES, _WATCHED_S)
            used = (ask() - before) / _WATCHED_S
            await shoot(page, "large-lab", whole=False)
            await browser.close()
        node.stdin.close()
    found = {
        "first paint, ms": round(loaded["paint"]),
        "bytes in all": loaded["bytes"],
        "longest frame, ms": round(frames["longest"]),
        "frames a second": round(frames["frames"] / _WATCHED_S),
        "% of a core in the node": round(used * 100, 1),
    }
    print(found)

    assert loaded["paint"] <= 500 and loaded["bytes"] <= 200 << 10
    assert frames["longest"] <= 100 and used <= 0.10  # the figure to reach, 5 %, is in docs/benchmarks.md
