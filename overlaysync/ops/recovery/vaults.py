"""A team's part of a vault: its states, its heads, and the contents that they need.

The same for the vault of this node and for one in an archive. What is read is checked: heads by signature
and voucher, states by signature, so that a machine outside the team cannot put one into its history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from overlaysync.errors import DecodeError, NotFoundError, VerificationError
from overlaysync.trust.keys import NodeKey, verify
from overlaysync.trust.teams import Team
from overlaysync.units import KIB, MIB
from overlaysync.vault.belief import Believed
from overlaysync.vault.contents import Contents, Damage
from overlaysync.vault.head import Head, SignedHead, decode_head, encode_head, newest
from overlaysync.vault.objects import Kind, Objects, get_whole, head_prefix, object_name, parse_name
from overlaysync.vault.spaces import PUBLIC, Space
from overlaysync.vault.state import MAX_SEEN, SignedState, State, decode_state, encode_state

MAX_HEADS_SIZE = 256 * MIB
"""Bytes of the heads that are read in one space; ours: a thousand states of a hundred machines have less."""
_LEAST = KIB
"""A head counts as so many at least: who may write to an archive can put empty ones there without end."""


EVERYBODY = Team("", b"")
"""Stands for all machines: what is theirs lies in the public space."""


def space_of(team: Team) -> Space:
    """Return the space of a team."""
    return Space.of_team(team.name, team.key) if team.name else PUBLIC


def images_of(team: Team) -> Team:
    """Return whose space the published images of a team lie in, in an archive.

    It is one of its own, so that they do not mix with the states that the team saves. Those for everybody lie
    in the public space, which has no other states.
    """
    return Team(f"{team.name}/images", team.key) if team.name else EVERYBODY


def title_of(state: State) -> str:
    """Return what people call a state: TEAM:NUMBER, and of an image that was pushed alone its name."""
    team, is_images, _ = state.team.partition("/")
    if is_images or not team:
        return f"{team}/{state.vms[0].name}" if team else state.vms[0].name
    return f"{team}:{state.number}"


def read_heads(
    objects: Objects, tag: str, space: Space | None = None
) -> tuple[dict[bytes, SignedHead], list[Damage]]:
    """Return the newest head of each node in a space, and the heads that cannot be used.

    Args:
        objects: the place.
        tag: of the space.
        space: the space itself where its key is known: heads that no member made are left out then.
    """
    heads, damaged = [], []
    room = MAX_HEADS_SIZE
    for stored in objects.list(head_prefix(tag)):
        room -= max(stored.size, _LEAST)
        if room < 0:
            damaged.append(Damage(head_prefix(tag), f"there are more than {MAX_HEADS_SIZE} bytes of heads"))
            break
        try:
            head = decode_head(get_whole(objects, stored.name), verify, space)
            if head.head.name != stored.name:
                raise DecodeError("the head does not match its name")
            if space is not None and not head.vouched:
                raise DecodeError("no member of the team made it")
            heads.append(head)
        except NotFoundError:
            continue  # a newer one has taken its place meanwhile
        except (DecodeError, VerificationError) as error:
            damaged.append(Damage(stored.name, str(error)))
    return newest(heads), damaged


def seen_in(heads: Mapping[bytes, SignedHead]) -> tuple[tuple[str, int], ...]:
    """Return which states a new one follows besides those that it names; see :class:`State`."""
    return tuple(sorted((node.hex(), head.head.counter) for node, head in heads.items())[:MAX_SEEN])


@dataclass(slots=True)
class TeamVault:
    """The states of one team in one place.

    Attributes:
        objects: the place.
        team: the team.
        wrong: see :class:`~overlaysync.vault.contents.Contents`.
        contents: items of the team's space.
        public: items of the public space.
        damaged: heads and states that cannot be used.
    """

    objects: Objects
    team: Team
    wrong: Callable[[str], bool] = lambda _: False
    contents: Contents = field(init=False)
    public: Contents = field(init=False)
    damaged: list[Damage] = field(default_factory=list)
    _states: dict[bytes, SignedState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contents = Contents(self.objects, space_of(self.team), self.wrong)
        self.public = Contents(self.objects, PUBLIC, self.wrong) if self.team.name else self.contents

    @property
    def space(self) -> Space:
        return self.contents.space

    def learn(self) -> None:
        """Read all indexes of the team that the place has, and the public ones that its states need.

        Anybody can write a public index: what another describes is no reason not to store something.
        """
        self.contents.learn()
        self.public.learn(self._public_indexes())

    def learn_to_write(self, believed: Believed) -> None:
        """Read the same indexes, so that nothing is stored twice.

        Args:
            believed: those that are believed unread; see :mod:`overlaysync.vault.belief`.
        """
        self.contents.learn_to_write(believed)
        self.public.learn_to_write(believed, self._public_indexes())

    def _public_indexes(self) -> set[bytes]:
        return {hash for head in self.heads().values() for hash in head.head.public_indexes}

    def heads(self) -> dict[bytes, SignedHead]:
        """Return the newest head of each member, by public key."""
        heads, self.damaged = read_heads(self.objects, self.space.tag, self.space)
        return heads

    def states(self, heads: Iterable[SignedHead] | None = None) -> list[SignedState]:
        """Return the states that the newest heads list, older before those that follow them."""
        found = self.heads().values() if heads is None else heads
        wanted = dict.fromkeys(id for head in found for id in head.head.states)
        states = [state for id in wanted if (state := self.state(id)) is not None]
        return sorted(states, key=lambda one: (one.state.number, one.state.saved, one.id))

    def known_states(self, node: bytes) -> list[SignedState]:
        """Return all states of the team that are here, those of others whether a head here lists them or not.

        A machine that restores has the states of others without their heads. Its own are those that its head
        lists: a save that was killed may have left another, and some are forgotten.

        Args:
            node: public key of this node.
        """
        own = self.heads().get(node)
        listed = own.head.states if own else ()
        names = [parse_name(one.name) for one in self.objects.list(f"{self.space.tag}/{Kind.STATE}/")]
        found = [state for named in names if named and (state := self.state(named.hash)) is not None]
        known = [one for one in found if one.node != node or one.id in listed]
        return sorted(known, key=lambda one: (one.state.number, one.state.saved, one.id))

    def state(self, id: bytes) -> SignedState | None:
        """Return a state; None when it is not here, or damaged, which is noted."""
        if id not in self._states:
            name = object_name(self.space.tag, Kind.STATE, id)
            try:
                self._states[id] = decode_state(get_whole(self.objects, name), self.space, verify)
            except (DecodeError, VerificationError, NotFoundError) as error:
                self.damaged.append(Damage(name, str(error)))
                return None
        return self._states[id]

    # -- writing ---------------------------------------------------------------------------------------

    def next_counter(self, node: bytes, above: int = 0) -> int:
        """Return the counter that the next head of a node has, if it is to be higher than ``above``."""
        before = self.heads().get(node)
        return 1 + max(above, before.head.counter if before else 0)

    def add(
        self, state: State, key: NodeKey, *, made: str, above: int = 0, instead_of: Collection[bytes] = ()
    ) -> SignedState:
        """Store a state whose packs and indexes are stored, and the head that lists it.

        Args:
            state: what to sign.
            key: of this node.
            made: the time of the head, ISO 8601 UTC.
            above: the head's counter is higher than this.
            instead_of: ids of states that the head lists no more.

        Raises:
            VerificationError: the last head cannot be read, or something that the state needs is not here.
            NoSpaceError, OverlaysyncError: the place cannot store it.
        """
        before = self._last_head(key.public)
        self._check_complete(state)
        data, signed = encode_state(state, key, self.space)
        self.objects.put(object_name(self.space.tag, Kind.STATE, signed.id), data)
        self._states[signed.id] = signed
        ids = [id for id in (before.head.states if before else ()) if id not in instead_of]
        kept = [one for id in (*ids, signed.id) if (one := self.state(id)) is not None]
        lost = [id for id in ids if self.state(id) is None]
        if lost:
            raise VerificationError(
                "Cannot list the new state: a state that this machine saved before cannot be read",
                why=f"{len(lost)} of {len(ids)} states are missing or damaged",
                hint="overlaysync vault check",
            )
        self.put_head(kept, key, made=made, before=before, above=above)
        return signed

    def _last_head(self, node: bytes) -> SignedHead | None:
        """Return a node's newest head; None when it has made none.

        Raises:
            VerificationError: a newer one is damaged: what it lists would be lost with the next one.
        """
        last = self.heads().get(node)
        prefix = head_prefix(self.space.tag, node)
        for damage in self.damaged:
            if damage.name.startswith(prefix) and (last is None or damage.name > last.head.name):
                raise VerificationError(
                    "The list of what this machine has saved is damaged",
                    why=f"{damage.name}: {damage.why}",
                    hint="overlaysync vault check",
                )
        return last

    def _check_complete(self, state: State) -> None:
        """Refuse a state that needs what is not here.

        Raises:
            VerificationError: so it does.
        """
        for tag, kind, hashes in (
            (self.space.tag, Kind.INDEX, state.indexes),
            (self.space.tag, Kind.PACK, state.packs),
            (self.public.space.tag, Kind.INDEX, state.public_indexes),
            (self.public.space.tag, Kind.PACK, state.public_packs),
        ):
            for name in (object_name(tag, kind, bytes.fromhex(hash)) for hash in hashes):
                if self.objects.size(name) is None:
                    raise VerificationError(
                        f"The vault has lost the object {name}, which the state needs",
                        hint="repeat the command: overlaysync save",
                    )

    def put_head(
        self,
        states: Sequence[SignedState],
        key: NodeKey,
        *,
        made: str,
        before: SignedHead | None,
        above: int = 0,
    ) -> SignedHead:
        """Store this node's next head, which lists ``states``; older heads of this node go after it.

        Args:
            states: all of this node's that are kept, the oldest first.
            key: of this node.
            made: when, ISO 8601 UTC.
            before: this node's newest head.
            above: the counter is higher than this.
        """
        head = Head(
            tag=self.space.tag,
            node=key.public,
            counter=max(above, before.head.counter if before else 0) + 1,
            size=0,
            made=made,
            states=tuple(state.id for state in states),
            indexes=_all(states, "indexes"),
            packs=_all(states, "packs"),
            public_indexes=_all(states, "public_indexes"),
            public_packs=_all(states, "public_packs"),
        )
        sizes = map(self.objects.size, head.names(self.public.space.tag))
        signed = encode_head(replace(head, size=sum(size or 0 for size in sizes)), key, self.space)
        self.objects.put(head.name, signed.data)
        drop_older(self.objects, signed)
        return signed


def drop_older(objects: Objects, head: SignedHead) -> None:
    """Remove the heads that one has taken the place of; one that is locked there stays."""
    for stored in list(objects.list(head_prefix(head.head.tag, head.head.node))):
        if stored.name < head.head.name:
            objects.delete(stored.name)


def _all(states: Iterable[SignedState], what: str) -> tuple[bytes, ...]:
    found = {bytes.fromhex(hash) for one in states for hash in getattr(one.state, what)}
    return tuple(sorted(found))
