from __future__ import annotations

import asyncio

import pytest

from overlaysync.net.rate import RateLimit
from overlaysync.units import MIB


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_rate_nothing_waits() -> None:
    limit = RateLimit(None)
    assert limit.reserve(1 << 40) == 0
    assert limit.step == MIB


def test_bytes_are_taken_at_the_rate() -> None:
    clock = Clock()
    limit = RateLimit(1000, clock)
    waits = [limit.reserve(500) for _ in range(4)]
    assert waits == pytest.approx([0.4, 0.9, 1.4, 1.9])  # a tenth of a second may be taken at once


def test_what_is_not_used_is_lost() -> None:
    clock = Clock()
    limit = RateLimit(1000, clock)
    clock.now += 3600
    assert limit.reserve(100) == 0
    assert limit.reserve(1000) == pytest.approx(1.0)


def test_the_step_is_a_small_part_of_a_second() -> None:
    assert RateLimit(100 * MIB).step == MIB
    assert RateLimit(MIB).step == pytest.approx(MIB / 20, rel=0.01)
    assert RateLimit(1).step == 4096


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_positive(rate: int) -> None:
    with pytest.raises(ValueError, match="rate"):
        RateLimit(rate)


async def test_take_waits() -> None:
    loop = asyncio.get_running_loop()
    limit = RateLimit(1000, loop.time)
    began = loop.time()
    await asyncio.gather(limit.take(100), limit.take(100), limit.take(100))
    assert loop.time() - began >= 0.18


async def test_who_goes_away_takes_nothing_from_others() -> None:
    limit = RateLimit(1000, Clock())
    gone = [asyncio.create_task(limit.take(1000)) for _ in range(20)]
    for task in gone:
        await asyncio.sleep(0)  # each has its turn
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert limit.reserve(100) == 0


async def test_whoever_goes_away_the_rate_is_not_exceeded() -> None:
    loop = asyncio.get_running_loop()
    limit = RateLimit(1000, loop.time)
    began = loop.time()
    takers = [asyncio.create_task(limit.take(50)) for _ in range(16)]
    await takers[0]
    for task in takers[1::2]:
        task.cancel()
    await asyncio.gather(*takers[::2])
    assert 0.28 <= loop.time() - began < 0.65
