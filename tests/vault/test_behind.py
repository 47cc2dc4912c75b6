"""Storing behind: what was put is there when it was waited for, and what went wrong is told then."""

from __future__ import annotations

import os
import threading

import pytest

from overlaysync.errors import NoSpaceError
from overlaysync.vault.behind import Behind
from overlaysync.vault.contents import Contents
from overlaysync.vault.objects import Kind, parse_name
from overlaysync.vault.pack import PACK
from overlaysync.vault.writer import Writer
from tests.vault.samples import RED


class Recorded:
    """Objects of which only the names are kept; the first pack waits for :attr:`go`."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.go = threading.Event()
        self.full = False

    def put(self, name: str, data: bytes) -> bool:
        if f"/{Kind.PACK}/" in name:
            self.go.wait(10)
        if self.full:
            raise NoSpaceError("the disk is full", hint="free some space")
        self.names.append(name)
        return True


def test_the_caller_goes_on_meanwhile() -> None:
    objects = Recorded()
    behind = Behind(objects)  # type: ignore[arg-type]
    behind.put(f"a/{Kind.PACK}/1", b"1")
    assert objects.names == []
    objects.go.set()
    behind.put(f"a/{Kind.PACK}/2", b"2")
    behind.wait()
    assert objects.names == [f"a/{Kind.PACK}/1", f"a/{Kind.PACK}/2"]


@pytest.mark.parametrize("last", ["put", "wait"])
def test_what_went_wrong_is_told(last: str) -> None:
    objects = Recorded()
    objects.full = True
    objects.go.set()
    behind = Behind(objects)  # type: ignore[arg-type]
    behind.put(f"a/{Kind.PACK}/1", b"1")
    with pytest.raises(NoSpaceError):
        behind.wait() if last == "wait" else behind.put(f"a/{Kind.PACK}/2", b"2")
    behind.end()
    assert objects.names == []


def test_an_index_comes_after_all_that_it_describes() -> None:
    objects = Recorded()
    writer = Writer(Contents(objects, RED))  # type: ignore[arg-type]
    threading.Timer(0.2, objects.go.set).start()
    for number in range(3):
        writer.add_item(bytes([number]) * 32, os.urandom(PACK))
    writer.finish()
    kinds = [named.kind for name in objects.names if (named := parse_name(name))]
    assert kinds == [Kind.PACK] * 3 + [Kind.INDEX]


def test_no_index_describes_what_could_not_be_stored() -> None:
    objects = Recorded()
    objects.full = True
    objects.go.set()
    writer = Writer(Contents(objects, RED))  # type: ignore[arg-type]
    writer.add_item(bytes(32), b"x" * 1000)
    with pytest.raises(NoSpaceError):
        writer.finish()
    assert objects.names == []
