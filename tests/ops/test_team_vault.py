"""A team's part of a vault: what is added, in which order, what is believed, and what several places know."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.errors import InUseError, NoSpaceError, PeerError, VerificationError
from overlaysync.ops.recovery.gathering import Gathered, gather
from overlaysync.ops.recovery.lock import only_writer
from overlaysync.ops.recovery.pulling import Place
from overlaysync.ops.recovery.vaults import TeamVault, read_heads
from overlaysync.trust.keys import NodeKey
from overlaysync.trust.teams import Team
from overlaysync.units import KIB
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.head import encode_head
from overlaysync.vault.objects import Kind, Stored, head_prefix, object_name
from overlaysync.vault.spaces import Space
from overlaysync.vault.state import SignedState
from tests.ops.test_pulling import Faulty
from tests.vault.samples import ANN, BOB, RED, TIME, a_head, a_state, digest, hash_like, store

TEAM = Team("red", bytes(range(20)))


def team_vault(root: Path) -> TeamVault:
    return TeamVault(DirectoryObjects(root), TEAM)


@pytest.fixture
def vault(tmp_path: Path) -> TeamVault:
    return team_vault(tmp_path / "vault")


def add(vault: TeamVault, text: str, key: NodeKey = ANN) -> SignedState:
    """A state that needs one item."""
    contents = store(vault.objects, RED, [text.encode()])
    packs = contents.packs_with(contents_key(text))
    before = vault.states()
    state = a_state(
        number=1 + max((one.state.number for one in before), default=0),
        follows=tuple(one.id.hex() for one in before[-1:]),
        note=text,
        packs=tuple(map(bytes.hex, packs)),
        indexes=tuple(map(bytes.hex, contents.indexes_of(packs))),
    )
    return vault.add(state, key, made=TIME)


def contents_key(text: str):
    from overlaysync.model.digest import as_digests

    return as_digests(digest(text.encode()))


def notes(states: list[SignedState]) -> list[str]:
    return [one.state.note for one in states]


def heads_of(vault: TeamVault, key: NodeKey = ANN) -> list[Path]:
    root = vault.objects.root  # type: ignore[attr-defined]
    return sorted((root / head_prefix(RED.tag, key.public)).iterdir())


# -- adding ------------------------------------------------------------------------------------------


def test_states_are_listed_by_one_head_of_each_node(vault: TeamVault) -> None:
    for text, key in (("one", ANN), ("two", BOB), ("three", ANN)):
        add(vault, text, key)
    heads = vault.heads()
    assert {node: head.head.counter for node, head in heads.items()} == {ANN.public: 2, BOB.public: 1}
    assert notes(vault.states()) == ["one", "two", "three"]
    assert len(heads_of(vault)) == 1, "older heads go"
    assert not vault.damaged
    for head in heads.values():
        sizes = [vault.objects.size(name) for name in head.head.names("0" * 32)]
        assert None not in sizes and sum(map(int, filter(None, sizes))) == head.head.size


@pytest.mark.holds("D3")
@pytest.mark.red_without("D3", "the head is stored before the state that it lists")
def test_the_head_comes_last(vault: TeamVault) -> None:
    order: list[str] = []
    put = vault.objects.put

    def note(name: str, data: bytes) -> bool:
        order.append(name.split("/")[1])
        return put(name, data)

    vault.objects.put = note  # type: ignore[method-assign]
    add(vault, "one")
    assert order == ["packs", "indexes", "states", "heads"]


@pytest.mark.holds("D3")
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_wherever_it_ends_the_last_head_points_at_what_is_there(vault: TeamVault, after: int) -> None:
    add(vault, "one")
    left = after
    put = vault.objects.put

    def full(name: str, data: bytes) -> bool:
        nonlocal left
        if not left:
            raise NoSpaceError("full")
        left -= 1
        return put(name, data)

    vault.objects.put = full  # type: ignore[method-assign]
    with pytest.raises(NoSpaceError):
        add(vault, "two")
    found = team_vault(vault.objects.root)  # type: ignore[attr-defined]
    assert notes(found.states()) == ["one"] and not found.damaged
    (head,) = found.heads().values()
    assert all(found.objects.size(name) is not None for name in head.head.names("0" * 32))
    assert notes([add(found, "two")]) == ["two"] and notes(found.states()) == ["one", "two"]


@pytest.mark.holds("D3")
@pytest.mark.red_without("D3", "a state is signed whether what it needs is here or not")
@pytest.mark.parametrize("what", ["packs", "indexes", "public_packs", "public_indexes"])
def test_a_state_that_needs_what_is_not_here_is_refused(vault: TeamVault, what: str) -> None:
    add(vault, "one")
    state = replace_state(what)
    with pytest.raises(VerificationError, match="has lost the object"):
        vault.add(state, ANN, made=TIME)
    assert notes(vault.states()) == ["one"] and len(heads_of(vault)) == 1


def replace_state(what: str):
    return a_state(**{what: ("5e" * 32,)})


@pytest.mark.holds("R6")
@pytest.mark.red_without("R6", "a damaged last head of this node counts as none")
def test_a_damaged_last_head_is_not_passed_over(vault: TeamVault) -> None:
    """The next one would begin at 1 again, and list the new state alone."""
    add(vault, "one")
    (path,) = heads_of(vault)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(VerificationError, match="list of what this machine has saved"):
        add(vault, "two")
    assert heads_of(vault) == [path]
    path.write_bytes(data)
    add(vault, "two")
    assert notes(vault.states()) == ["one", "two"]


@pytest.mark.holds("R6")
@pytest.mark.parametrize("damage", [b"", None])
def test_a_lost_state_is_not_forgotten_by_the_next_head(vault: TeamVault, damage: bytes | None) -> None:
    first = add(vault, "one")
    path = vault.objects.root / object_name(RED.tag, Kind.STATE, first.id)  # type: ignore[attr-defined]
    path.unlink() if damage is None else path.write_bytes(damage)
    again = team_vault(vault.objects.root)  # type: ignore[attr-defined]
    with pytest.raises(VerificationError, match="cannot be read"):
        add(again, "two")
    (head,) = again.heads().values()
    assert head.head.states == (first.id,)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "new" / "vault"
    with only_writer(root):
        with pytest.raises(InUseError):
            with only_writer(root):
                pass
    with only_writer(root):
        assert os.listdir(root) == [".lock"]


# -- believing ---------------------------------------------------------------------------------------


@pytest.mark.holds("B1")
@pytest.mark.red_without("B1", "a head counts whoever made it")
def test_heads_of_strangers_do_not_count(vault: TeamVault) -> None:
    add(vault, "one")
    stranger = Space("red", RED.tag, bytes(32))
    forged = encode_head(a_head(BOB, stranger, counter=9), BOB, stranger)
    vault.objects.put(forged.head.name, forged.data)
    assert set(vault.heads()) == {ANN.public}
    assert [damage.name for damage in vault.damaged] == [forged.head.name]
    unsealed, _ = read_heads(vault.objects, RED.tag)
    assert set(unsealed) == {ANN.public, BOB.public}, "who has no key cannot tell"


class Endless(DirectoryObjects):
    """A place into which somebody puts empty heads without end."""

    listed = 0

    def list(self, prefix: str) -> Iterator[Stored]:
        while True:
            self.listed += 1
            yield Stored(f"{prefix}{self.listed:064x}/{1:012d}", 0)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return b""


def test_empty_heads_without_end_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlaysync.ops.recovery.vaults.MAX_HEADS_SIZE", 100 * KIB)
    place = Endless(tmp_path)
    heads, damaged = read_heads(place, RED.tag, RED)
    assert not heads and "more than" in damaged[-1].why
    assert place.listed == 101


@pytest.mark.red_without("D4", "a head counts under whatever name it is stored")
def test_a_head_under_another_name_does_not_count(vault: TeamVault) -> None:
    add(vault, "one")
    (path,) = heads_of(vault)
    data = path.read_bytes()
    for counter in (2, 999):
        path.with_name(f"{counter:012}").write_bytes(data)
    path.unlink()
    assert vault.heads() == {} and len(vault.damaged) == 2


def test_a_damaged_head_leaves_an_older_one(vault: TeamVault) -> None:
    heads = [encode_head(a_head(counter=counter, states=()), ANN, RED) for counter in (1, 2)]
    for head in heads:
        vault.objects.put(head.head.name, head.data)
    heads_of(vault)[1].write_bytes(b"x" * 300)
    assert vault.heads() == {ANN.public: heads[0]}
    assert [damage.name for damage in vault.damaged] == [heads[1].head.name]


# -- gathering ---------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> TeamVault:
    return team_vault(tmp_path / "other")


def place(vault: TeamVault, label: str = "bob") -> Place:
    return Place(label, vault.objects)


def copy(source: TeamVault, target: TeamVault) -> None:
    for stored in list(source.objects.list("")):
        target.objects.put(stored.name, source.objects.get(stored.name))


@pytest.mark.holds("D1")
def test_states_of_all_places_are_pulled(vault: TeamVault, other: TeamVault) -> None:
    mine, theirs = add(vault, "mine"), add(other, "theirs", BOB)
    gathered = gather(vault, [place(other)])
    assert sorted(notes(gathered.states)) == ["mine", "theirs"]
    assert gathered.at == {mine.id: [""], theirs.id: ["bob"]}
    assert (gathered.old, gathered.damaged, gathered.missing) == ([], [], [])
    assert vault.objects.size(object_name(RED.tag, Kind.STATE, theirs.id)) is not None


@pytest.mark.holds("D4")
@pytest.mark.red_without("D4", "the head that came last counts, not the one with the highest counter")
@pytest.mark.parametrize("old_first", [True, False])
def test_a_place_that_was_turned_back_is_not_believed(
    vault: TeamVault, tmp_path: Path, old_first: bool
) -> None:
    good, turned_back = team_vault(tmp_path / "good"), team_vault(tmp_path / "turned-back")
    add(good, "one", BOB)
    copy(good, turned_back)
    add(good, "two", BOB)
    places = [place(turned_back, "old"), place(good, "good")]
    gathered = gather(vault, places if old_first else places[::-1])
    assert notes(gathered.states) == ["one", "two"]
    (sentence,) = gathered.old
    assert sentence.startswith("old has an outdated list") and "newest one known" in sentence


@pytest.mark.holds("D4")
@pytest.mark.red_without("D4", "what was seen of a member before does not count")
def test_what_was_seen_before_is_missed(vault: TeamVault, other: TeamVault) -> None:
    add(other, "one", BOB)
    for known, told in ((1, 0), (2, 1)):
        gathered = gather(vault, [place(other)], {BOB.public: known, ANN.public: 7})
        assert notes(gathered.states) == ["one"]
        assert [sentence.endswith("no place within reach has it") for sentence in gathered.stale] == [
            True
        ] * told


def test_a_place_that_fails_costs_nothing_else(vault: TeamVault, other: TeamVault) -> None:
    add(other, "theirs", BOB)
    broken = Place("broken", Faulty({}, error=PeerError("cut off")))
    broken.objects.list = fail  # type: ignore[method-assign]
    gathered = gather(vault, [broken, place(other)])
    assert notes(gathered.states) == ["theirs"] and broken.problem == "cut off"


def fail(prefix: str):
    raise PeerError("cut off")


def test_a_state_that_no_place_has_is_named_once(vault: TeamVault, other: TeamVault) -> None:
    add(vault, "mine")
    lost = add(other, "theirs", BOB)
    name = object_name(RED.tag, Kind.STATE, lost.id)
    other.objects.delete(name)
    gathered = gather(vault, [place(other)])
    assert notes(gathered.states) == ["mine"]
    assert gathered.missing == [name] and gathered.damaged == []


@pytest.mark.holds("R6")
def test_a_damaged_state_is_pulled_again(vault: TeamVault, other: TeamVault) -> None:
    state = add(vault, "mine")
    copy(vault, other)
    path = vault.objects.root / object_name(RED.tag, Kind.STATE, state.id)  # type: ignore[attr-defined]
    path.write_bytes(b"rotten")
    assert broken_only(gather(team_vault(path.parents[2]), []), path)
    gathered = gather(team_vault(path.parents[2]), [place(other)])
    assert notes(gathered.states) == ["mine"] and not gathered.damaged and not gathered.missing


def broken_only(gathered: Gathered, path: Path) -> bool:
    (damage,) = gathered.damaged
    return gathered.states == [] and damage.name.endswith(path.name) and len(gathered.missing) == 1


def test_damage_is_told_once(vault: TeamVault) -> None:
    stranger = Space("red", RED.tag, bytes(32))
    forged = encode_head(a_head(BOB, stranger, states=(hash_like("x"),)), BOB, stranger)
    vault.objects.put(forged.head.name, forged.data)
    assert [damage.name for damage in gather(vault, []).damaged] == [forged.head.name]
    assert replace(forged, vouched=False).hash == forged.hash
