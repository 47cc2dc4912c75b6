"""What every place of objects must do, whatever is behind it.

A place is tested by a subclass: of :class:`GetContract` if objects are only asked for by name (a peer), of
:class:`ListContract` if it can be listed too, of :class:`Contract` if it is also written to. Each has a
fixture ``objects``, an empty place; where that cannot store, also a fixture ``fill``, which stores objects
there in another way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import pytest

from overlaysync.errors import NotFoundError, PeerError
from overlaysync.units import KIB, MIB
from overlaysync.vault.objects import (
    Kind,
    Objects,
    Stored,
    checked_parts,
    get_whole,
    hash_of,
    head_name,
    object_name,
)

Fill: TypeAlias = Callable[[str, bytes], object]

TAG, OTHER_TAG = "0a" * 16, "0b" * 16
NODE, OTHER_NODE = b"\1" * 32, b"\2" * 32


def an_object(size: int = 1000, kind: Kind = Kind.PACK, tag: str = TAG) -> tuple[str, bytes]:
    """The name and the bytes of an object that no place has."""
    data = os.urandom(size)
    return object_name(tag, kind, hash_of(data)), data


class GetContract:
    """Of a place that is asked for objects by their names."""

    @pytest.fixture
    def fill(self, objects: Objects) -> Fill:
        return objects.put

    @pytest.mark.parametrize("size", [1, 1000, 3 * MIB, 4 * MIB])
    def test_an_object_is_returned_as_it_was_stored(self, objects: Objects, fill: Fill, size: int) -> None:
        name, data = an_object(size)
        fill(name, data)
        assert objects.get(name) == data and objects.size(name) == size
        assert get_whole(objects, name) == data
        assert b"".join(map(bytes, checked_parts(objects, name))) == data

    @pytest.mark.parametrize(
        ("offset", "length", "start", "end"),
        [
            (0, 10, 0, 10),
            (990, 10, 990, 1000),
            (990, 50, 990, 1000),
            (5, None, 5, 1000),
            (0, 64 * MIB + 1, 0, 1000),
            (1000, 5, 0, 0),
            (5000, 5, 0, 0),
            (5000, None, 0, 0),
            (3, 0, 0, 0),
        ],
    )
    def test_a_part_of_an_object(
        self, objects: Objects, fill: Fill, offset: int, length: int | None, start: int, end: int
    ) -> None:
        name, data = an_object()
        fill(name, data)
        assert objects.get(name, offset, length) == data[start:end]

    @pytest.mark.parametrize(("offset", "length"), [(0, None), (7, None), (0, 5), (0, 0)])
    def test_what_is_not_there_is_not_found(self, objects: Objects, offset: int, length: int | None) -> None:
        name, _ = an_object()
        with pytest.raises(NotFoundError, match=name):
            objects.get(name, offset, length)
        with pytest.raises(NotFoundError, match=name):
            list(objects.parts(name))
        assert objects.size(name) is None

    def test_threads_read_at_once(self, objects: Objects, fill: Fill) -> None:
        name, data = an_object(256 * KIB)
        fill(name, data)
        parts = range(0, len(data), 16 * KIB)
        with ThreadPoolExecutor(8) as pool:
            assert b"".join(pool.map(lambda at: objects.get(name, at, 16 * KIB), parts)) == data


class ListContract(GetContract):
    """Of a place that can be listed as well."""

    def test_an_empty_place_lists_nothing(self, objects: Objects) -> None:
        assert list(objects.list("")) == [] == list(objects.list(f"{TAG}/packs/"))

    def test_a_list_has_what_is_below_a_prefix_by_name(self, objects: Objects, fill: Fill) -> None:
        stored: list[Stored] = []
        for kind in (Kind.PACK, Kind.INDEX, Kind.STATE):
            for tag in (OTHER_TAG, TAG):
                name, data = an_object(10 + len(stored), kind, tag)
                stored.append(Stored(name, len(data)))
                fill(name, data)
        for node in (OTHER_NODE, NODE):
            for counter in (12, 2, 100):
                name = head_name(TAG, node, counter)
                stored.append(Stored(name, 5))
                fill(name, b"a head"[:5])
        for prefix in (
            "",
            f"{TAG}/",
            f"{OTHER_TAG}/",
            f"{TAG}/heads/",
            f"{TAG}/heads/{NODE.hex()}/",
            f"{TAG}/packs/",
        ):
            expected = sorted(one for one in stored if one.name.startswith(prefix))
            assert expected and list(objects.list(prefix)) == expected


class Contract(ListContract):
    """Of a place that is written to as well."""

    def test_an_object_is_stored_once(self, objects: Objects) -> None:
        name, data = an_object()
        assert objects.put(name, data) is True
        assert objects.put(name, data) is False
        assert objects.get(name) == data

    def test_an_object_is_stored_in_parts(self, objects: Objects) -> None:
        name, data = an_object(3 * MIB)
        assert objects.store(name, (data[at : at + MIB] for at in range(0, len(data), MIB))) is True
        assert objects.store(name, [data]) is False
        assert objects.get(name) == data

    def test_parts_that_break_off_leave_nothing(self, objects: Objects) -> None:
        def broken() -> Iterator[bytes]:
            yield data[:MIB]
            raise PeerError("cut off")

        name, data = an_object(3 * MIB)
        with pytest.raises(PeerError, match="cut off"):
            objects.store(name, broken())
        assert objects.size(name) is None and list(objects.list("")) == []
        assert objects.put(name, data) is True

    def test_a_removed_object_is_gone(self, objects: Objects) -> None:
        (name, data), (other, kept) = an_object(), an_object()
        objects.put(name, data)
        objects.put(other, kept)
        assert objects.delete(name) is True
        assert objects.size(name) is None and [one.name for one in objects.list("")] == [other]
        with pytest.raises(NotFoundError):
            objects.get(name)
        assert objects.put(name, data) is True and objects.get(name) == data

    def test_removing_what_is_not_there_is_no_error(self, objects: Objects) -> None:
        name, _ = an_object()
        assert objects.delete(name) is True

    def test_several_store_the_same_object_at_once(self, objects: Objects) -> None:
        name, data = an_object(256 * KIB)
        with ThreadPoolExecutor(6) as pool:
            assert any(pool.map(lambda _: objects.put(name, data), range(6)))
        assert objects.get(name) == data and [*objects.list("")] == [(name, len(data))]

    def test_several_store_different_objects_at_once(self, objects: Objects) -> None:
        made = dict(an_object(64 * KIB) for _ in range(12))
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(lambda name: objects.put(name, made[name]), made))
        assert {one.name: objects.get(one.name) for one in objects.list("")} == made
