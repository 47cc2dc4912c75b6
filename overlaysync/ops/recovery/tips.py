"""Which states follow which: of a team, and of each of its VMs. Pure.

A state follows all that its node knew of. A VM in it follows less: what its disks were made from, and what
its node saved of it before (:mod:`.continuing`). What another machine has done to it meanwhile is the other
side of a fork, even where its state was known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

from overlaysync.model.history import History
from overlaysync.vault.state import Past, SavedVm, SignedState


@dataclass(frozen=True, slots=True)
class _Version:
    """A state as its place in a history goes.

    Attributes:
        state: it.
        follows: ids of states that it follows.
    """

    state: SignedState
    follows: tuple[bytes, ...]

    @property
    def id(self) -> bytes:
        return self.state.id

    @property
    def version(self) -> int:
        return self.state.state.number


def history_of(states: Iterable[SignedState]) -> History:
    """Return what follows what among states."""
    return History(_versions(list(states)))


def _versions(states: Sequence[SignedState]) -> list[_Version]:
    """Return states with what they follow: what they name, and of each node the last that they had seen."""
    by_node: dict[str, list[SignedState]] = {}
    for one in sorted(states, key=lambda one: one.state.counter):
        by_node.setdefault(one.node.hex(), []).append(one)
    return [_Version(one, (*_named(one), *_last_seen(one, by_node))) for one in states]


def _named(one: SignedState) -> Iterator[bytes]:
    return map(bytes.fromhex, one.state.follows)


def _last_seen(one: SignedState, by_node: Mapping[str, Sequence[SignedState]]) -> Iterator[bytes]:
    """Yield of each node the last state that ``one`` had seen; older ones that one follows itself.

    The numbers rise from each to the next, so that no two can be said to follow each other.
    """
    for node, counter in one.state.seen:
        others = by_node.get(node, ())
        at = bisect_right(others, counter, key=lambda other: other.state.counter)
        if at and others[at - 1].state.number < one.state.number:
            yield others[at - 1].id


def tips(states: Sequence[SignedState]) -> list[SignedState]:
    """Return the states that no other follows."""
    versions = _versions(states)
    return [version.state for version in History(versions).newest(versions)]


@dataclass(frozen=True, slots=True)
class Saving:
    """A VM in a state.

    Attributes:
        vm: it, as it was.
        state: the state.
    """

    vm: SavedVm
    state: SignedState

    @property
    def node(self) -> str:
        """The node that saved it, in hexadecimal."""
        return self.state.node.hex()

    @property
    def counter(self) -> int:
        """Its place among what that node saved."""
        return self.state.state.counter


def newest_of_vms(states: Sequence[SignedState]) -> dict[str, list[Saving]]:
    """Return by VM where it was saved last: one place, or the sides of a fork; by name."""
    found: dict[str, list[Saving]] = {}
    for state in states:
        for vm in state.state.vms:
            found.setdefault(vm.name, []).append(Saving(vm, state))
    return {name: _newest(savings) for name, savings in sorted(found.items())}


def _newest(savings: Sequence[Saving]) -> list[Saving]:
    """Return those that are in the past of no other.

    Numbers rise from each to the next, so that no two can be said to go on from each other.
    """
    past: dict[str, int] = {}
    newest: set[bytes] = set()
    for _, same in groupby(sorted(savings, key=_number, reverse=True), key=_number):
        group = list(same)
        newest.update(one.state.id for one in group if past.get(one.node, 0) < one.counter)
        past = merged_past([_as_past(past), *(one.vm.past for one in group)])
    return [one for one in savings if one.state.id in newest]


def _number(saving: Saving) -> int:
    return saving.state.state.number


def _as_past(past: Mapping[str, int]) -> Iterator[Past]:
    return (Past(node=node, counter=counter) for node, counter in past.items())


def merged_past(pasts: Iterable[Iterable[Past]]) -> dict[str, int]:
    """Return by node the highest counter of several pasts."""
    found: dict[str, int] = {}
    for one in chain.from_iterable(pasts):
        found[one.node] = max(one.counter, found.get(one.node, 0))
    return found
