"""Which states follow which: of a team, and of each of its VMs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from overlaysync.model.history import History
from overlaysync.vault.state import SavedVm, SignedState


@dataclass(frozen=True, slots=True)
class _Version:
    """A state as its place in a history goes."""

    state: SignedState

    @property
    def id(self) -> bytes:
        return self.state.id

    @property
    def version(self) -> int:
        return self.state.state.number

    @property
    def follows(self) -> tuple[bytes, ...]:
        return tuple(map(bytes.fromhex, self.state.state.follows))


def history_of(states: Iterable[SignedState]) -> History:
    """Return what follows what among states."""
    return History(map(_Version, states))


def tips(states: Sequence[SignedState]) -> list[SignedState]:
    """Return the states that no other follows."""
    versions = [_Version(state) for state in states]
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


def newest_of_vms(states: Sequence[SignedState]) -> dict[str, list[Saving]]:
    """Return by VM where it was saved last: one place, or the sides of a fork; by name."""
    history = history_of(states)
    found: dict[str, list[Saving]] = {}
    for state in states:
        for vm in state.state.vms:
            found.setdefault(vm.name, []).append(Saving(vm, state))
    newest = {}
    for name, savings in sorted(found.items()):
        old = history.before(*(saving.state.id for saving in savings))
        newest[name] = [saving for saving in savings if saving.state.id not in old]
    return newest
