"""Choose what is restored: one saved state of each VM. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from overlaysync.errors import AmbiguousError, NotFoundError, OverlaysyncError, Refusal
from overlaysync.model.digest import MIN_ID_DIGITS
from overlaysync.model.names import one_field
from overlaysync.ops.dates import local_minute
from overlaysync.ops.recovery.tips import Saving, history_of, newest_of_vms
from overlaysync.vault.state import SignedState


@dataclass(frozen=True, slots=True)
class Wish:
    """What of a team's states is wanted.

    Attributes:
        team: its name.
        number: of the state; 0 for the newest.
        id: the beginning of the hash that names the state, in hexadecimal; "" for any.
        before: the time that no state is later than, ISO 8601 UTC; "" for any.
        vms: names; none for all.
    """

    team: str
    number: int = 0
    id: str = ""
    before: str = ""
    vms: tuple[str, ...] = ()


def choose(states: Sequence[SignedState], wish: Wish) -> tuple[list[Saving], list[Refusal]]:
    """Return of each VM the one place that it is restored from, and the VMs for which there are several.

    A state stands for all of the team at that moment: a VM that was not saved in it comes from the newest
    state before it.

    Raises:
        NotFoundError: there is no such state, or no such VM in it.
        AmbiguousError: several states have that number.
    """
    if not states:
        raise NotFoundError(
            f"No state of team '{wish.team}' is within reach",
            why="no machine that has one answered. A machine answers only while it shares or keeps",
            hint=f"on a machine that has one: overlaysync keep {wish.team}; "
            "to list the machines that answer: overlaysync peers",
        )
    newest = team_at(states, wish)
    names = _names(newest, wish)
    chosen, refusals = [], []
    for name in names:
        savings = newest[name]
        if len({content_of(saving) for saving in savings}) == 1:
            chosen.append(savings[-1])
        else:
            refusals.append(Refusal(name, _fork(name, savings, wish)))
    return chosen, refusals


def team_at(states: Sequence[SignedState], wish: Wish) -> dict[str, list[Saving]]:
    """Return where each VM of the team was saved last at the moment that is meant; several for a fork.

    Raises:
        NotFoundError, AmbiguousError: as for :func:`choose`.
    """
    meant = _meant(states, wish)
    newest = newest_of_vms(meant)
    if wish.number or wish.id:  # what the state itself has comes from it, whatever else was known then
        newest |= {vm.name: [Saving(vm, meant[-1])] for vm in meant[-1].state.vms}
    return newest


def state_of(states: Sequence[SignedState], wish: Wish) -> SignedState:
    """Return the state that is named; without a name the newest.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: there are several.
    """
    if not states:
        raise NotFoundError(
            f"No state of team '{wish.team}' is on this machine",
            hint=f"to take copies of them: overlaysync keep {wish.team} --once",
        )
    meant = _meant(states, wish)
    if wish.number or wish.id:
        return meant[-1]
    return max(meant, key=lambda one: (one.state.number, one.state.saved))


def numbers_of(states: Iterable[SignedState]) -> dict[bytes, str]:
    """Return what each state is called beside others of its team: its number, and its id if two have that."""
    known = {one.id: one.state.number for one in states}
    count = Counter(known.values())
    return {
        id: f"{number}" if count[number] == 1 else f"{number} ({id.hex()[:MIN_ID_DIGITS]})"
        for id, number in known.items()
    }


def describe(state: SignedState) -> str:
    """One line to choose by."""
    said = state.state
    note = f"  “{one_field(said.note)}”" if said.note else ""
    return (
        f"{said.team}:{said.number}  {state.id.hex()[:MIN_ID_DIGITS]}  {local_minute(said.saved)}  "
        f"by {one_field(said.by) or '?'}{note}"
    )


def _meant(states: Sequence[SignedState], wish: Wish) -> list[SignedState]:
    """Return the states that count: all up to a time; or all before the one that is named, which comes last.

    Some of those that it follows may be forgotten. So what was saved earlier counts as well.
    """
    if wish.before:
        found = [state for state in states if state.state.saved <= wish.before]
        if not found:
            first = min(state.state.saved for state in states)
            raise NotFoundError(
                f"No state of team '{wish.team}' was saved by that time",
                why=f"the oldest was saved {local_minute(first)}",
                hint=f"overlaysync history {wish.team}/",
            )
        return found
    if not wish.number and not wish.id:
        return list(states)
    named = [
        state
        for state in states
        if wish.number in (0, state.state.number) and state.id.hex().startswith(wish.id)
    ]
    if not named:
        raise NotFoundError(
            f"There is no state {wish.team}:{wish.number or wish.id}",
            hint=f"overlaysync history {wish.team}/",
        )
    if len(named) > 1:
        raise AmbiguousError(
            f"'{wish.team}:{wish.number or wish.id}' means several states",
            candidates=tuple(map(describe, named)),
            hint=f"name it by its id, such as {wish.team}:{named[-1].id.hex()[:MIN_ID_DIGITS]}",
        )
    past = history_of(states).before(named[0].id)
    at = named[0].state.saved
    before = [one for one in states if one.id in past or one.state.saved < at]
    return [*(one for one in before if one.id != named[0].id), named[0]]


def _names(newest: Collection[str], wish: Wish) -> list[str]:
    unknown = [name for name in wish.vms if name not in newest]
    if unknown:
        raise NotFoundError(
            f"No state of team '{wish.team}' has the VM '{unknown[0]}'",
            why=f"the VMs are: {', '.join(newest)}",
            hint=f"overlaysync history {wish.team}/",
        )
    return sorted(wish.vms or newest)


def content_of(saving: Saving) -> object:
    """Return what tells a saved VM from another one: two savings of the same files are no fork."""
    return (
        tuple((disk.file, disk.manifest) for disk in saving.vm.disks),
        tuple((one.file, one.parts) for one in saving.vm.companions),
    )


def _fork(name: str, savings: Sequence[Saving], wish: Wish) -> OverlaysyncError:
    lines = tuple(describe(saving.state) for saving in savings)
    first = savings[-1].state.id.hex()[:MIN_ID_DIGITS]
    return AmbiguousError(
        f"'{name}' is forked: it was saved in several states, and none of them follows another",
        candidates=lines,
        hint=f"overlaysync restore {wish.team}:{first} --vm {name}",
    )
