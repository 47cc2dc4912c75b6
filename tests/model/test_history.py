"""History: what follows what, as far as headers are known; whatever manifests claim, an answer comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.model.history import History
from tests import reference

pytestmark = pytest.mark.holds("A1")


@dataclass(frozen=True)
class Item:
    """A version called by one letter."""

    name: str
    version: int = 1
    before: str = ""

    @property
    def id(self) -> bytes:
        return self.name.encode()

    @property
    def follows(self) -> tuple[bytes, ...]:
        return tuple(name.encode() for name in self.before)


def items(text: str) -> list[Item]:
    """``a b<a c<ab``: b follows a, c follows both; numbered as publishers do."""
    found: dict[str, Item] = {}
    for word in text.split():
        name, _, before = word.partition("<")
        numbers = [found[one].version for one in before if one in found]
        found[name] = Item(name, 1 + max(numbers, default=0), before)
    return list(found.values())


def names(ids: Iterable[bytes]) -> str:
    return "".join(sorted(id.decode() for id in ids))


def newest(text: str, among: str | None = None) -> str:
    known = items(text)
    kept = [item for item in known if among is None or item.name in among]
    return "".join(item.name for item in History(known).newest(kept))


# -- chains ------------------------------------------------------------------------------------------


def test_a_chain() -> None:
    history = History(items("a b<a c<b d<c"))
    assert names(history.before(b"d")) == "abc"
    assert names(history.before(b"a")) == ""
    assert names(history.before(b"b", b"c")) == "ab"
    assert history.is_before(b"a", b"d") and history.is_before(b"c", b"d")
    assert not history.is_before(b"d", b"a") and not history.is_before(b"b", b"b")
    assert newest("a b<a c<b d<c") == "d"


def test_one_that_is_not_listed_still_joins_the_others() -> None:
    """``b`` is known but nobody lists it: ``c`` follows ``a`` all the same."""
    assert newest("a b<a c<b", among="ac") == "c"


@pytest.mark.slow
def test_a_long_chain() -> None:
    count = 50_000
    chain = [Numbered(number, number + 1, (number - 1,) if number else ()) for number in range(count)]
    history = History(chain)
    last = chain[-1].id
    assert len(history.before(last)) == count - 1
    assert history.is_before(chain[0].id, last)


@dataclass(frozen=True)
class Numbered:
    """A version with a number for an id."""

    number: int
    version: int
    before: tuple[int, ...]

    @property
    def id(self) -> bytes:
        return self.number.to_bytes(4, "big")

    @property
    def follows(self) -> tuple[bytes, ...]:
        return tuple(number.to_bytes(4, "big") for number in self.before)


# -- forks and merges --------------------------------------------------------------------------------


def test_a_fork_has_two_newest() -> None:
    assert newest("a b<a c<a") == "bc"
    assert newest("a b<a c<a d<c") == "bd"
    history = History(items("a b<a c<a d<c"))
    assert not history.is_before(b"b", b"d") and not history.is_before(b"d", b"b")


def test_a_higher_number_alone_is_not_newer() -> None:
    known = [Item("a"), Item("b", 2, "a"), Item("x", 900)]
    assert {item.name for item in History(known).newest(known)} == {"b", "x"}


def test_a_merge_ends_a_fork() -> None:
    assert newest("a b<a c<a d<bc") == "d"
    history = History(items("a b<a c<a d<bc e<d"))
    assert all(history.is_before(old, b"e") for old in (b"a", b"b", b"c", b"d"))


def test_the_last_common_version() -> None:
    known = items("a b<a c<b x<b y<x p q<p")
    history = History(known)

    def common(left: bytes, right: bytes, among: Sequence[Item] = known) -> str:
        found = history.last_common(left, right, among)
        return found.name if found else ""

    assert common(b"c", b"y") == common(b"y", b"c") == "b"
    assert common(b"c", b"q") == ""
    assert common(b"b", b"y") == "b", "one side may be the version itself"
    assert common(b"c", b"y", [item for item in known if item.name != "b"]) == "a"


# -- what is not known -------------------------------------------------------------------------------


def test_what_is_before_an_unknown_version_is_not_known() -> None:
    """Then two versions look unrelated: a fork, and never a fast-forward."""
    known = items("a c<b")
    history = History(known)
    assert not history.is_before(b"a", b"c")
    assert history.is_before(b"b", b"c"), "its id is signed, whatever its header says"
    assert names(history.before(b"c")) == names(history.unknown_before(b"c")) == "b"
    assert {item.name for item in history.newest(known)} == {"a", "c"}
    whole = History([*known, *items("a b<a")])
    assert whole.is_before(b"a", b"c") and not whole.unknown_before(b"c")


def test_a_version_that_nothing_is_known_of() -> None:
    history = History(items("a"))
    assert history.before(b"?") == history.unknown_before(b"?") == set()
    assert not history.is_before(b"?", b"a") and not history.is_before(b"a", b"?")


def test_a_name_without_versions() -> None:
    assert History(()).newest(()) == []
    assert History(()).last_common(b"a", b"b", ()) is None


# -- whatever is claimed -----------------------------------------------------------------------------


def test_circles_end() -> None:
    """No honest publisher can make one, for an id is a hash of what it follows; a wrong catalog could."""
    known = [Item("a", 1, "c"), Item("b", 2, "a"), Item("c", 3, "b"), Item("s", 2, "s")]
    history = History(known)
    assert names(history.before(b"a")) == "abc"
    assert names(history.before(b"s")) == "s" and not history.is_before(b"s", b"s")
    assert history.newest(known) == []
    assert history.unknown_before(b"a") == set()


NAMES = "abcdefgh"
GRAPHS = st.dictionaries(st.sampled_from(NAMES), st.text(NAMES, max_size=4), max_size=8)


@given(GRAPHS)
def test_whatever_follows_whatever_it_is_as_the_reference_says(graph: Mapping[str, str]) -> None:
    known = [Item(name, number, before) for number, (name, before) in enumerate(graph.items(), 1)]
    history = History(known)
    follows = {item.id: item.follows for item in known}
    before = {item.id: reference.followed_by(item.id, follows) for item in known}
    for item in known:
        assert history.before(item.id) == before[item.id]
        assert history.unknown_before(item.id) == before[item.id] - set(follows)
        for other in known:
            is_before = item.id != other.id and item.id in before[other.id]
            assert history.is_before(item.id, other.id) == is_before
    followed = {id for ids in before.values() for id in ids}
    assert [item.id for item in history.newest(known)] == [id for id in follows if id not in followed]


@given(GRAPHS, GRAPHS)
@pytest.mark.slow
def test_what_strangers_add_takes_nothing_out_of_a_past(
    graph: Mapping[str, str], strange: Mapping[str, str]
) -> None:
    """Ids are hashes, so strangers add versions but cannot change what one follows."""
    known = [Item(name, 1, before) for name, before in graph.items()]
    more = [Item(name.upper(), 9, before) for name, before in strange.items()]
    alone, together = History(known), History([*known, *more])
    for item in known:
        assert together.before(item.id) == alone.before(item.id)
