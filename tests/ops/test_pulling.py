"""Pulling from several places: one lies, one fails, one is cut off; what arrives is right, or is named."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from overlaysync.errors import (
    NetworkError,
    NoSpaceError,
    NotFoundError,
    OverlaysyncError,
    PeerError,
    StoppedError,
    VerificationError,
)
from overlaysync.ops.recovery.layered import Layered
from overlaysync.ops.recovery.pulling import Place, Pull
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.objects import Kind, Part, Stored, get_whole, hash_of, object_name
from tests.vault.samples import noise

pytestmark = [pytest.mark.holds("D6"), pytest.mark.timeout(60)]

TAG = "5f" * 16
DATA = {
    object_name(TAG, Kind.PACK, hash_of(data)): data for data in (noise(str(at), 900) for at in range(40))
}
NAMES = list(DATA)


@dataclass
class Faulty:
    """A place in memory that does what a test says; thread-safe enough for counting.

    Attributes:
        objects: what it has.
        error: what it raises after ``good`` answers, if anything.
        wrong: names of what it has other bytes of.
        short: names of what it has only the beginning of.
        asked: how often it was asked for each object.
    """

    objects: dict[str, bytes]
    error: BaseException | None = None
    good: int = 0
    wrong: Sequence[str] = ()
    short: Sequence[str] = ()
    asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._lock:
            self.asked[name] += 1
            count = sum(self.asked.values())
        if self.error is not None and count > self.good:
            raise self.error
        if name not in self.objects:
            raise NotFoundError("not here")
        data = self.objects[name]
        if name in self.wrong:
            data = bytes(reversed(data))
        if name in self.short:
            data = data[: len(data) // 2]
        return data[offset:] if length is None else data[offset : offset + length]

    def size(self, name: str) -> int | None:
        if self.error is not None and sum(self.asked.values()) >= self.good:
            raise self.error
        return len(self.objects[name]) if name in self.objects else None

    def put(self, name: str, data: bytes) -> bool:
        raise AssertionError("nothing is put into a place that is pulled from")

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        raise AssertionError("nothing is stored in a place that is pulled from")

    def parts(self, name: str) -> Iterator[Part]:
        yield self.get(name)

    def delete(self, name: str) -> bool:
        raise AssertionError("nothing is removed from a place that is pulled from")

    def list(self, prefix: str) -> Iterator[Stored]:
        for name, data in sorted(self.objects.items()):
            if name.startswith(prefix):
                yield Stored(name, len(data))


@pytest.fixture
def target(tmp_path: Path) -> DirectoryObjects:
    return DirectoryObjects(tmp_path / "target")


def holds(target: DirectoryObjects, names: Sequence[str] = NAMES) -> bool:
    return all(get_whole(target, name) == DATA[name] for name in names)


def test_the_work_is_shared_among_equals(target: DirectoryObjects) -> None:
    places = [Place(label, Faulty(DATA)) for label in "abc"]
    advanced: list[int] = []
    assert Pull(places, target, advanced.append).run([*NAMES, *NAMES]) == []
    assert holds(target)
    assert sum(place.pulled for place in places) == sum(advanced) == sum(map(len, DATA.values()))
    assert all(place.works and not place.wrong and not place.problem for place in places)


def test_nearer_places_are_asked_first(target: DirectoryObjects) -> None:
    near = Faulty({name: DATA[name] for name in NAMES[:30]})
    far = Faulty(DATA)
    assert Pull([Place("far", far, 2), Place("near", near, 1)], target).run(NAMES) == []
    assert set(far.asked) == set(NAMES[30:]) and holds(target)


def test_what_is_here_is_not_asked_for(target: DirectoryObjects) -> None:
    for name in NAMES[:39]:
        target.put(name, DATA[name])
    place = Faulty(DATA)
    assert Pull([Place("a", place)], target).run(NAMES) == []
    assert set(place.asked) == {NAMES[39]}
    assert Pull([], target).run(NAMES) == []


@pytest.mark.holds("R6")
@pytest.mark.red_without("R6", "a pull takes whatever has the name for the object")
def test_what_is_here_and_damaged_is_pulled_again(target: DirectoryObjects) -> None:
    for name in NAMES:
        target.put(name, DATA[name])
    for name in NAMES[:3]:
        (target.root / name).write_bytes(b"rotten")
    place = Faulty(DATA)
    assert Pull([Place("a", place)], target).run(NAMES, check=True) == []
    assert set(place.asked) == set(NAMES[:3]) and holds(target)


@pytest.mark.holds("R6")
def test_what_is_damaged_everywhere_is_named_and_left_alone(target: DirectoryObjects) -> None:
    target.put(NAMES[0], DATA[NAMES[0]])
    (target.root / NAMES[0]).write_bytes(b"rotten")
    place = Place("a", Faulty(DATA, wrong=NAMES))
    assert Pull([place], target).run(NAMES[:1], check=True) == NAMES[:1]
    assert (target.root / NAMES[0]).read_bytes() == b"rotten"


@pytest.mark.red_without("D6", "what is pulled is not compared with its name")
def test_a_place_that_lies_and_one_that_is_cut_off(target: DirectoryObjects) -> None:
    liar, cut = Place("liar", Faulty(DATA, wrong=NAMES)), Place("cut", Faulty(DATA, short=NAMES))
    honest = Place("honest", Faulty(DATA))
    assert Pull([liar, cut, honest], target).run(NAMES) == []
    assert holds(target)
    assert set(liar.wrong) | set(cut.wrong) <= set(NAMES) and not honest.wrong
    assert liar.pulled == cut.pulled == 0


def test_only_liars(target: DirectoryObjects) -> None:
    liars = [Place(label, Faulty(DATA, wrong=NAMES)) for label in "ab"]
    assert sorted(Pull(liars, target).run(NAMES)) == sorted(NAMES)
    assert list(target.list("")) == []
    assert all(sorted(liar.wrong) == sorted(NAMES) for liar in liars)


@pytest.mark.red_without("D6", "a place that fails again and again is asked on")
def test_a_place_that_fails_is_left_alone(target: DirectoryObjects) -> None:
    broken = Faulty(DATA, error=PeerError("cut off"), good=3)
    place, honest = Place("broken", broken), Place("honest", Faulty(DATA))
    assert Pull([place, honest], target).run(NAMES) == []
    assert holds(target)
    assert not place.works or sum(broken.asked.values()) < 20
    assert place.problem in ("", "cut off")


def test_when_all_fail_what_is_missing_is_named(target: DirectoryObjects) -> None:
    broken = [Faulty(DATA, error=NetworkError("no route"), good=good) for good in (5, 7)]
    places = [Place("a", broken[0]), Place("b", broken[1], 1)]
    missing = Pull(places, target).run(NAMES)
    assert sorted(missing + [one.name for one in target.list("")]) == sorted(NAMES)
    assert len(missing) == len(NAMES) - 12
    assert all(place.problem == "no route" for place in places)
    assert sum(sum(one.asked.values()) for one in broken) < 5 + 7 + 2 * 16


def test_what_each_has_a_part_of_comes_from_all(target: DirectoryObjects) -> None:
    places = [Place(str(at), Faulty({name: DATA[name] for name in NAMES[at::4]}), at % 2) for at in range(4)]
    assert Pull(places, target).run(NAMES) == []
    assert holds(target)


def test_a_failure_now_and_then_is_forgiven(target: DirectoryObjects) -> None:
    class Flaky(Faulty):
        def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            data = super().get(name, offset, length)
            if self.asked[name] == 1 and NAMES.index(name) % 8 == 0:
                raise PeerError("once")
            return data

    flaky = Place("flaky", Flaky(DATA))
    missing = Pull([flaky], target).run(NAMES)
    assert flaky.works and set(missing) == set(NAMES[::8])
    assert Pull([flaky], target).run(NAMES) == [] and holds(target)


def test_who_needs_an_object_is_told_as_it_comes(target: DirectoryObjects) -> None:
    """Of what is here, of what comes, and of what nobody has; and in the order in which it is wanted."""
    target.put(NAMES[0], DATA[NAMES[0]])
    settled: list[str] = []
    first = threading.Event()

    class Slow(Faulty):
        def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if name == NAMES[39]:
                assert first.wait(20), "nobody is told before the end"
            return super().get(name, offset, length)

    def tell(name: str) -> None:
        settled.append(name)
        if name == NAMES[1]:
            first.set()

    slow = Slow({name: DATA[name] for name in NAMES if name != NAMES[20]})
    assert Pull([Place("a", slow)], target, settled=tell).run(NAMES, check=True) == [NAMES[20]]
    assert sorted(settled) == sorted(NAMES) and settled[0] == NAMES[0]
    assert settled.index(NAMES[1]) < 10 and settled.index(NAMES[38]) > 30


def test_a_pull_that_is_stopped_asks_no_more(target: DirectoryObjects) -> None:
    broken_off = threading.Event()

    class Stalled(Faulty):
        def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            super().get(name)
            pull.stop()
            assert broken_off.wait(20)
            raise StoppedError("stopped")

    stalled = Stalled(DATA)
    pull = Pull([Place("stalled", stalled, stop=broken_off.set)], target)
    with pytest.raises(StoppedError):
        pull.run(NAMES)
    assert sum(stalled.asked.values()) <= 3


# -- the target, and the end ---------------------------------------------------------------------------


class Full(DirectoryObjects):
    """A target with room for ten objects."""

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        if len(list(self.list(""))) >= 10:
            raise NoSpaceError("full")
        return super().store(name, parts)


@pytest.mark.holds("R4")
@pytest.mark.red_without("R4", "a target that is full counts as a failure of the place")
def test_a_full_target_ends_it_and_no_place_is_blamed(tmp_path: Path) -> None:
    places = [Place(label, Faulty(DATA)) for label in "ab"]
    target = Full(tmp_path / "full")
    with pytest.raises(NoSpaceError):
        Pull(places, target).run(NAMES)
    assert all(place.works and not place.problem for place in places)
    stored = [one.name for one in target.list("")]
    assert len(stored) >= 10 and holds(target, stored)
    again = Faulty(DATA)
    assert Pull([Place("c", again)], DirectoryObjects(target.root)).run(NAMES) == []
    assert not set(again.asked) & set(stored)


@pytest.mark.parametrize("error", [StoppedError(), KeyboardInterrupt(), OverlaysyncError("enough")])
def test_progress_can_end_it(target: DirectoryObjects, error: BaseException) -> None:
    def stop(size: int) -> None:
        raise error

    places = [Place(label, Faulty(DATA)) for label in "ab"]
    with pytest.raises(type(error)):
        Pull(places, target, stop).run(NAMES)
    assert all(place.works and not place.problem for place in places)


@pytest.mark.red_without("D6", "an unexpected exception ends a worker of a pull without a word")
def test_an_unexpected_exception_ends_it_for_all(target: DirectoryObjects) -> None:
    """The others would wait for ever for what this one has taken."""
    broken, honest = (
        Place("broken", Faulty(DATA, error=RuntimeError("loop is closed"))),
        Place("b", Faulty({})),
    )
    with pytest.raises(RuntimeError, match="loop is closed"):
        Pull([broken, honest], target).run(NAMES)


# -- reading through ---------------------------------------------------------------------------------


def test_what_is_not_in_front_is_read_from_the_others(target: DirectoryObjects) -> None:
    target.put(NAMES[0], DATA[NAMES[0]])
    broken, far = Faulty(DATA, error=PeerError("cut off")), Faulty(DATA)
    near = Faulty({name: DATA[name] for name in NAMES[:2]})
    layered = Layered(target, [Place("far", far, 2), Place("near", near, 1), Place("broken", broken)])
    assert [layered.get(name, 5, 9) for name in NAMES[:3]] == [DATA[name][5:14] for name in NAMES[:3]]
    assert set(near.asked) == set(NAMES[1:3]) and set(far.asked) == {NAMES[2]}
    assert layered.size(NAMES[3]) == 900
    assert layered.size(object_name(TAG, Kind.PACK, bytes(32))) is None
    assert [one.name for one in layered.list("")] == [NAMES[0]], "what lies elsewhere is not kept"


def test_what_nobody_has_and_what_nobody_can_give(target: DirectoryObjects) -> None:
    with pytest.raises(NotFoundError):
        Layered(target, [Place("a", Faulty({}))]).get(NAMES[0])
    broken = Place("broken", Faulty(DATA, error=PeerError("cut off")))
    with pytest.raises(PeerError):
        Layered(target, [Place("a", Faulty({})), broken]).get(NAMES[0])
    with pytest.raises(VerificationError):
        get_whole(Layered(target, [Place("liar", Faulty(DATA, wrong=NAMES))]), NAMES[0])
