"""The cache keeps what was used last, within its bytes."""

from __future__ import annotations

from overlaysync.formats.cache import ByteCache


def test_what_was_not_used_longest_goes_first() -> None:
    cache: ByteCache[str] = ByteCache(10)
    cache.put(1, "a", 5)
    cache.put(2, "b", 5)
    assert cache.get(1) == "a"
    cache.put(3, "c", 5)
    assert [cache.get(key) for key in (1, 2, 3)] == ["a", None, "c"]


def test_a_value_put_again_counts_once() -> None:
    cache: ByteCache[str] = ByteCache(10)
    for _ in range(9):
        cache.put(1, "a", 5)
    cache.put(2, "b", 5)
    assert [cache.get(key) for key in (1, 2)] == ["a", "b"]


def test_the_newest_stays_even_when_it_is_too_large() -> None:
    cache: ByteCache[str] = ByteCache(10)
    cache.put(1, "a", 5)
    cache.put(2, "b", 50)
    assert [cache.get(key) for key in (1, 2)] == [None, "b"]
    cache.put(3, "c", 1)
    assert [cache.get(key) for key in (2, 3)] == [None, "c"]
