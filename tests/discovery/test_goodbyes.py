"""Goodbyes: anybody can say one in another's name, so a peer goes when it does not answer any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from zeroconf import ServiceStateChange

from overlaysync.discovery.bounds import DISCOVERY
from overlaysync.discovery.browser import SERVICE, Browser, Peer

NOTHING = cast(Any, None)


@dataclass
class Asked:
    """Stands for the peers that are asked whether they have gone."""

    gone: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    now: int = 0
    most: int = 0
    slow_s: float = 0.0

    async def still_there(self, peer: Peer) -> bool:
        self.asked.append(peer.label)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.slow_s)
        self.now -= 1
        return peer.label not in self.gone


@asynccontextmanager
async def browsing(count: int = 3, **changes: Any) -> AsyncIterator[tuple[Browser, Asked]]:
    """A browser without a network that knows some peers."""
    browser, asked = Browser(bounds=replace(DISCOVERY, **changes)), Asked()
    browser.still_there = asked.still_there
    for number in range(count):
        browser._keep(Peer(f"n{number}", "", ("192.0.2.1",), 40000 + number))
    yield browser, asked
    await browser.stop()


def hear(browser: Browser, label: str, change: ServiceStateChange = ServiceStateChange.Removed) -> None:
    browser._heard(NOTHING, SERVICE, f"{label}.{SERVICE}", change)


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_who_still_answers_stays() -> None:
    async with browsing() as (browser, asked):
        for label in list(browser.peers):
            hear(browser, label)
        await soon(lambda: len(asked.asked) == 3)
        await asyncio.sleep(0.02)
        assert len(browser.peers) == 3


async def test_who_answers_no_more_goes_at_once() -> None:
    async with browsing() as (browser, asked):
        asked.gone.add("n1")
        changed = asyncio.create_task(browser.changed())
        hear(browser, "n1")
        hear(browser, "n2")
        await soon(lambda: "n1" not in browser.peers)
        assert set(browser.peers) == {"n0", "n2"}
        await asyncio.wait_for(changed, 1)


async def test_who_goes_a_moment_later_goes_all_the_same() -> None:
    async with browsing(doubt_s=0.05) as (browser, asked):
        hear(browser, "n1")
        await soon(lambda: asked.asked)
        asked.gone.add("n1")
        await soon(lambda: "n1" not in browser.peers)


async def test_who_is_announced_anew_is_not_asked_again() -> None:
    async with browsing(doubt_s=0.05) as (browser, asked):
        hear(browser, "n1")
        await soon(lambda: asked.asked)
        hear(browser, "n1", ServiceStateChange.Added)
        await asyncio.sleep(0.2)
        assert len(asked.asked) <= 2 and not browser._doubts


async def test_without_anybody_to_ask_it_is_believed() -> None:
    async with browsing() as (browser, _):
        browser.still_there = None
        hear(browser, "n1")
        assert "n1" not in browser.peers


async def test_few_are_asked_at_once() -> None:
    async with browsing(100) as (browser, asked):
        asked.slow_s = 0.01
        for label in list(browser.peers):
            hear(browser, label)
        await soon(lambda: len(asked.asked) == 100)
        assert asked.most <= 4


async def test_a_flood_of_goodbyes_asks_seldom() -> None:
    async with browsing(1) as (browser, asked):
        for _ in range(200):
            hear(browser, "n0")
            hear(browser, "n0", ServiceStateChange.Added)
            hear(browser, "n0")
            await asyncio.sleep(0.001)
            assert len(asked.asked) <= 1
        assert asked.asked
        assert "n0" in browser.peers


async def test_a_record_that_says_a_peer_is_elsewhere_is_a_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    class Info:
        port, server, properties = 40001, "elsewhere.local.", {b"v": b"1"}

        def __init__(self, *what: object) -> None:
            pass

        async def async_request(self, *what: object) -> bool:
            return True

        def parsed_scoped_addresses(self) -> list[str]:
            return ["198.51.100.1"]

    monkeypatch.setattr("overlaysync.discovery.browser.AsyncServiceInfo", Info)
    async with browsing() as (browser, asked):
        browser._multicast._zeroconf = cast(Any, type("Zeroconf", (), {"zeroconf": None}))
        await browser._resolve(f"n1.{SERVICE}")
        await soon(lambda: asked.asked == ["n1"])
        await asyncio.sleep(0.02)
        browser._multicast._zeroconf = None
        assert "n1" in browser.peers
