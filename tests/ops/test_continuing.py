"""What a VM that is saved continues, and what it does not though it is known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from overlaysync.ops.recovery.continuing import Continued, Present, continued
from overlaysync.ops.recovery.tips import newest_of_vms
from overlaysync.trust.keys import NodeKey
from overlaysync.vault.state import Companion, Disk, Past, SignedState
from tests.vault.samples import ANN, BOB, a_state, a_vm, hash_like

pytestmark = pytest.mark.holds("A1")


def manifest(content: str) -> str:
    return hash_like(content).hex()


def past(**counters: int) -> tuple[Past, ...]:
    keys = {"ann": ANN, "bob": BOB}
    found = [Past(node=keys[name].public.hex(), counter=at) for name, at in counters.items()]
    return tuple(sorted(found, key=lambda one: one.node))


def saved(by: NodeKey, counter: int, content: str, before: tuple[Past, ...] = ()) -> SignedState:
    vm = a_vm("web", disks=(Disk(file="web.qcow2", manifest=manifest(content)),), companions=(), past=before)
    number = {"number": counter, "follows": ("6f" * 32,) if counter > 1 else ()}
    return SignedState(
        hash_like(f"{by}{counter}"), by.public, a_state(**number, counter=counter, vms=(vm,)), 100
    )


def going_on(
    states: Sequence[SignedState], *contents: str, by: NodeKey = BOB, settle: bool = False
) -> Continued:
    return continued("web", Present(set(map(manifest, contents))), states, by.public, settle=settle)


FIRST = saved(ANN, 1, "a")
SECOND = saved(ANN, 2, "b", past(ann=1))


def test_what_the_disks_were_made_from_is_continued() -> None:
    assert going_on([FIRST, SECOND], "c", "b", "a") == Continued(past(ann=2), ())
    assert going_on([], "c") == Continued((), ())


@pytest.mark.red_without("A1", "a VM that is saved continues all that is known of it")
def test_what_is_only_known_is_a_fork() -> None:
    """It was restored from the first state; the second came by itself, since the machine keeps the team."""
    found = going_on([FIRST, SECOND], "c", "a")
    assert found.past == past(ann=1)
    assert [one.state for one in found.beside] == [SECOND]


def test_another_vm_of_that_name_is_a_fork() -> None:
    found = going_on([FIRST, SECOND], "x")
    assert not found.past
    assert [one.state for one in found.beside] == [SECOND]


def test_what_this_machine_saved_itself_is_continued() -> None:
    assert going_on([FIRST, SECOND], "x", by=ANN) == Continued(past(ann=2), ())
    fork = saved(BOB, 5, "d", past(ann=1))
    found = going_on([FIRST, SECOND, fork], "x", by=ANN)
    assert found.past == past(ann=2)
    assert [one.state for one in found.beside] == [fork]


def test_settling_continues_all() -> None:
    fork = saved(BOB, 5, "d", past(ann=1))
    assert going_on([FIRST, SECOND, fork], "x", settle=True) == Continued(past(ann=2, bob=5), ())


def test_two_that_say_they_go_on_from_each_other_are_a_fork() -> None:
    one, other = saved(ANN, 3, "a", past(bob=3)), saved(BOB, 3, "b", past(ann=3))
    assert [saving.state for saving in newest_of_vms([one, other])["web"]] == [one, other]


# -- states that change nothing but companions -------------------------------------------------------


def with_companion(state: SignedState, content: str) -> SignedState:
    (vm,) = state.state.vms
    parts = (manifest(content),)
    vm = replace(vm, companions=(Companion(file="vars.fd", role="uefi", size=1, parts=parts),))
    return SignedState(state.id, state.node, replace(state.state, vms=(vm,)), state.size)


def present(*contents: str, companion: str, origin: SignedState | None = None) -> Present:
    disks = set(map(manifest, contents))
    return Present(disks, [("vars.fd", (manifest(companion),))], {origin.id} if origin else ())


OURS = with_companion(FIRST, "x")
THEIRS = with_companion(saved(BOB, 5, "a", past(ann=1)), "y")


@pytest.mark.red_without("A1", "a state is continued by having its disks, whatever its companions are")
@pytest.mark.parametrize("disks", ["a", "ba"])
def test_others_companions_are_not_continued_by_having_the_disks(disks: str) -> None:
    found = continued("web", present(*disks, companion="z"), [OURS, THEIRS], ANN.public, settle=False)
    assert found.past == past(ann=1) and [one.state for one in found.beside] == [THEIRS]
    settled = continued("web", present(*disks, companion="z"), [OURS, THEIRS], ANN.public, settle=True)
    assert settled.past == past(ann=1, bob=5)


def test_who_has_the_same_companions_or_has_restored_them_continues() -> None:
    both = past(ann=1, bob=5)
    same = continued("web", present("a", companion="y"), [OURS, THEIRS], ANN.public, settle=False)
    assert same == Continued(both, ())
    restored = present("b", "a", companion="z", origin=THEIRS)
    assert continued("web", restored, [OURS, THEIRS], ANN.public, settle=False) == Continued(both, ())


def test_a_state_with_a_disk_of_its_own_is_seen_in_the_disks() -> None:
    theirs = with_companion(saved(BOB, 5, "b", past(ann=1)), "y")
    found = continued("web", present("c", "b", "a", companion="z"), [OURS, theirs], ANN.public, settle=False)
    assert found == Continued(past(ann=1, bob=5), ())
