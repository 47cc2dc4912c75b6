"""One good answer is enough, whatever the others do: fail, lie, are busy, or do not answer at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import pytest

from overlaysync.errors import DecodeError, NetworkError, NotFoundError, PeerError, VerificationError
from overlaysync.net.faults import Faults
from overlaysync.net.messages import Address, Endpoint
from overlaysync.net.receiving import SilentError
from overlaysync.net.refusals import BusyError, GoneError
from overlaysync.node.any_source import AnySource
from overlaysync.trust.envelope import Manifest

CONTENT = bytes(32)
SLOW_S = 0.05
NO_MANIFEST = cast(Manifest, None)
Answers = dict[str, Callable[[], Any]]


class Peers:
    """Peers by name; each does what its function does whenever it is asked."""

    def __init__(self, **answers: Callable[[], Any]) -> None:
        self.answers = answers
        self.asked: Counter[str] = Counter()
        self.faults = Faults()

    def sources(self, content: bytes, team: str = "") -> Mapping[str, tuple[Endpoint, Manifest]]:
        assert content == CONTENT
        return {name: (Address(name, 1), NO_MANIFEST) for name in self.answers}

    async def another(self, *, wait_s: float) -> bool:
        return False

    async def ask(self, address: Endpoint, manifest: Manifest) -> str:
        self.asked[address.host] += 1
        done = self.answers[address.host]()
        if asyncio.iscoroutine(done):
            done = await done
        return str(done)


def anyone(peers: Peers, *, silence_s: float = 0.2) -> AnySource:
    return AnySource(peers, wait_s=0, slow_s=SLOW_S, silence_s=silence_s, again_s=0.01, random=lambda: 0)


def fails(error: Exception) -> Callable[[], Any]:
    def answer() -> str:
        raise error

    return answer


def hangs() -> Any:
    return asyncio.sleep(3600)


async def test_the_first_is_asked_alone() -> None:
    peers = Peers(one=lambda: "1", other=lambda: "2")
    assert await anyone(peers).ask(CONTENT, peers.ask) == "1"
    assert peers.asked == {"one": 1}


async def test_what_is_asked_for_is_spread_over_all() -> None:
    peers = Peers(**{name: lambda: "1" for name in "abcd"})
    asking = AnySource(peers, wait_s=0)
    for _ in range(200):
        await asking.ask(CONTENT, peers.ask)
    assert all(peers.asked[name] > 20 for name in "abcd")


@pytest.mark.parametrize(
    "error", [PeerError("cut"), DecodeError("wrong"), GoneError("gone"), SilentError("")]
)
async def test_who_fails_is_asked_last_the_next_time(error: Exception) -> None:
    peers = Peers(bad=fails(error), good=lambda: "good")
    asking = anyone(peers)
    assert [await asking.ask(CONTENT, peers.ask) for _ in range(3)] == ["good"] * 3
    assert peers.asked == {"bad": 1, "good": 3}


@pytest.mark.red_without("N2", "a peer that is slow with a page is waited for")
async def test_who_does_not_answer_costs_a_moment_once() -> None:
    peers = Peers(bad=hangs, good=lambda: "good")
    asking = anyone(peers)
    async with asyncio.timeout(20 * SLOW_S):
        assert [await asking.ask(CONTENT, peers.ask) for _ in range(5)] == ["good"] * 5
    assert peers.asked == {"bad": 1, "good": 5}


async def test_who_is_slow_may_still_be_the_first() -> None:
    async def late() -> str:
        await asyncio.sleep(2 * SLOW_S)
        return "late"

    peers = Peers(slow=late, bad=hangs)
    assert await anyone(peers).ask(CONTENT, peers.ask) == "late"
    assert peers.asked == {"slow": 1, "bad": 1}


async def test_who_is_busy_is_asked_when_it_said() -> None:
    answers = iter([BusyError("busy", 0.01), BusyError("busy", 0.01)])

    def busy() -> str:
        for error in answers:
            raise error
        return "at last"

    peers = Peers(one=busy)
    assert await anyone(peers).ask(CONTENT, peers.ask) == "at last"


async def test_silence_of_all_is_borne_for_a_while() -> None:
    answers = iter([SilentError("no route"), SilentError("no route")])

    def cut() -> str:
        for error in answers:
            raise error
        return "healed"

    peers = Peers(one=cut)
    assert await anyone(peers).ask(CONTENT, peers.ask) == "healed"
    peers = Peers(one=fails(SilentError("no route")))
    with pytest.raises(NetworkError, match="no route"):
        await anyone(peers).ask(CONTENT, peers.ask)
    assert peers.asked["one"] > 2


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([GoneError("a"), GoneError("b")], NotFoundError),
        ([GoneError("a"), PeerError("b")], NetworkError),
        ([PeerError("a"), DecodeError("b")], VerificationError),
        ([], NotFoundError),
    ],
)
async def test_when_nobody_gives_it_the_reason_is_said(errors: list[Exception], expected: type) -> None:
    peers = Peers(**{f"peer{number}": fails(error) for number, error in enumerate(errors)})
    with pytest.raises(expected):
        await anyone(peers).ask(CONTENT, peers.ask)
    assert all(count == 1 for count in peers.asked.values())


async def test_who_breaks_what_asks_it_fails_like_any_other() -> None:
    peers = Peers(bad=fails(RuntimeError("nobody has thought of this")), good=lambda: "good")
    asking = anyone(peers)
    assert [await asking.ask(CONTENT, peers.ask) for _ in range(3)] == ["good"] * 3
    assert peers.asked == {"bad": 1, "good": 3}
    assert peers.faults.counts.total() == 1
    alone = Peers(bad=fails(RuntimeError("nobody has thought of this")))
    with pytest.raises(NetworkError, match="RuntimeError"):
        await anyone(alone).ask(CONTENT, alone.ask)


class Hosts(Peers):
    """Peers whose name begins with their host: ``host-number``."""

    def sources(self, content: bytes, team: str = "") -> Mapping[str, tuple[Endpoint, Manifest]]:
        where = {name: HostAddress(name.partition("-")[0], 1, name) for name in self.answers}
        return {name: (cast(Any, address), NO_MANIFEST) for name, address in where.items()}

    async def ask(self, address: Any, manifest: Manifest) -> str:
        return await super().ask(Address(address.name, 1), manifest)


class HostAddress(NamedTuple):
    host: str
    port: int
    name: str


def many(host: str, count: int, answer: Callable[[], Any]) -> Answers:
    return {f"{host}-{number}": answer for number in range(count)}


async def test_many_silent_sources_of_one_host_cost_a_moment_once() -> None:
    peers = Hosts(**many("silent", 60, hangs), **many("good", 1, lambda: "good"))
    asking = anyone(peers)
    async with asyncio.timeout(30 * SLOW_S):
        assert [await asking.ask(CONTENT, peers.ask) for _ in range(50)] == ["good"] * 50
    assert sum(count for name, count in peers.asked.items() if name.startswith("silent")) <= 2


async def test_several_silent_hosts_cost_a_moment_each_at_most() -> None:
    silent: Answers = {}
    for host in "abcdef":
        silent |= many(host, 20, hangs)
    peers = Hosts(**silent, **many("good", 1, lambda: "good"))
    asking = anyone(peers)
    async with asyncio.timeout(30 * SLOW_S):
        assert [await asking.ask(CONTENT, peers.ask) for _ in range(50)] == ["good"] * 50
    assert sum(peers.asked.values()) <= 50 + 40


async def test_the_only_good_source_among_many_silent_ones_of_its_host_is_found_soon() -> None:
    peers = Hosts(**many("one", 60, hangs), **{"one-good": lambda: "good"})
    async with asyncio.timeout(30 * SLOW_S):
        assert await anyone(peers).ask(CONTENT, peers.ask) == "good"
