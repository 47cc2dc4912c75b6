"""Save: freeze VMs, publish what they hold, and store it all as a state in the vault of this node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from overlaysync.errors import VerificationError
from overlaysync.formats.chain import Chain
from overlaysync.formats.recognition import is_generic
from overlaysync.model.names import name_from, printable
from overlaysync.net.boot import boot_hash
from overlaysync.node.capturing import QMP, Means, Taken, captured
from overlaysync.node.node import Node, now, timestamp
from overlaysync.node.observer import Observer
from overlaysync.node.vault_lock import only_writer_soon
from overlaysync.ops.known import Known
from overlaysync.ops.publish import Edition
from overlaysync.ops.recovery.continuing import Continued, Present, continued
from overlaysync.ops.recovery.freezing import FrozenDisk, Hooks, frozen
from overlaysync.ops.recovery.origins import origins_of
from overlaysync.ops.recovery.saving import Content, Saver
from overlaysync.ops.recovery.tips import Saving, tips
from overlaysync.ops.recovery.vaults import TeamVault, seen_in, space_of
from overlaysync.ops.vms.reading import read_companion
from overlaysync.ops.vms.vm import Missed, Part, Vm
from overlaysync.store.copies import Copy
from overlaysync.trust.envelope import Manifest
from overlaysync.trust.teams import Team
from overlaysync.vault.belief import Believed
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.limits import MAX_TEXT
from overlaysync.vault.state import (
    MAX_FOLLOWS,
    MAX_NUMBER,
    Companion,
    Disk,
    LeftOut,
    Role,
    SavedVm,
    SignedState,
    State,
)

_Lineage = list[tuple[Known, Manifest]]


@dataclass(frozen=True, slots=True)
class Saved:
    """A state that was saved.

    Attributes:
        state: it.
        read: guest bytes that had to be read.
        stored: bytes that the vault has grown by.
        beside: where others saved these VMs, which is not continued: the other sides of forks.
        skew_s: the time between the first VM that was captured while it ran and the last; None for fewer than
            two.
    """

    state: SignedState
    read: int
    stored: int
    beside: tuple[Saving, ...] = ()
    skew_s: float | None = None


@dataclass(slots=True)
class Save:
    """One ``save`` command.

    Attributes:
        node: saves.
        team: whose state it is.
        observer: is told what happens.
        note: what the user says of it.
        settle: whether it takes the place of all that others saved of these VMs.
        anew: whether to save even if the vault has lost what was saved before.
        wait_s: how long to wait for another command that writes to the vault.
        means: how VMs that run may be captured.
    """

    node: Node
    team: Team
    observer: Observer
    note: str = ""
    settle: bool = False
    anew: bool = False
    wait_s: float = 0.0
    means: Means = QMP
    _at: str = ""
    _skew_s: float | None = None
    _taken: dict[str, Taken] = field(default_factory=dict)
    _read: dict[str, bytes] = field(default_factory=dict)

    def run(self, vms: Sequence[Vm]) -> Saved:
        """Save VMs; they may be started again as soon as the observer was told so.

        Raises:
            InUseError: one of them runs.
            NotAllowedError: the team may not have a master.
            NoSpaceError, OverlaysyncError: the vault cannot store it.
        """
        root = self.node.home.vault
        with only_writer_soon(root, self.observer, wait_s=self.wait_s):
            objects = DirectoryObjects(root)
            objects.drop_temporaries()
            vault = TeamVault(objects, self.team)
            self._check_nothing_lost(vault)
            vault.learn_to_write(Believed(root))
            paths = [disk.path for vm in vms for disk in vm.disks]
            with captured(self.node, vms, root, self.observer, self.means) as running:
                self._taken, self._read = running.taken, running.companions
                self._skew_s = running.skew_s if running.machines > 1 else None
                self.observer.begin("freezing", 0)
                with frozen(
                    self.node.library,
                    [path for path in paths if path not in running.disks],
                    root,
                    now=now(),
                    hooks=Hooks(self.observer.advance, partial(self._hold, vms), vault.contents.holds),
                ) as quiet:
                    self.observer.end()
                    disks = {**running.disks, **quiet}
                    names = dict(self._names(vms))
                    lineages = {path: self._publish(disk.known, names) for path, disk in disks.items()}
                    return self._store(vault, vms, disks, lineages)

    def _highest(self) -> int:
        """Return the counter of the last head that this node is known to have made."""
        key = self.node.key.public
        return self.node.catalog.copies.counters(space_of(self.team).tag, key).get(key, 0)

    def _check_nothing_lost(self, vault: TeamVault) -> None:
        """Refuse to save if the vault has lost what this machine saved: the next head would not list it.

        Raises:
            VerificationError: the vault has lost it.
        """
        if self.anew or vault.next_counter(self.node.key.public) > self._highest():
            return
        raise VerificationError(
            f"The vault of this machine has lost what was saved here for team '{self.team.name}'",
            why="the machines that keep the team would take the next state for all that was saved",
            hint=f"to pull it from them: overlaysync keep {self.team.name} --once; "
            f"if no machine has it: overlaysync save --team {self.team.name} --begin-anew",
        )

    def _note(self, vault: TeamVault, state: State) -> None:
        """Note that this machine has made that head, should its vault be lost."""
        key = self.node.key.public
        copy = Copy(key, state.counter, key, self.node.label, boot_hash(), timestamp())
        self.node.catalog.copies.note(vault.space.tag, [copy])

    def _hold(self, vms: Iterable[Vm]) -> None:
        """Note the moment, and read the companions, while nobody can write to the disks."""
        self._at = timestamp()
        for vm in vms:
            for part in vm.companions:
                if part.path not in self._read:
                    self._read[part.path] = read_companion(part.path)

    def _names(self, vms: Iterable[Vm]) -> Iterator[tuple[str, str]]:
        """Yield the paths of disks whose names say nothing (``disk``), and what they are published as.

        That is the name of their VM: those of two VMs would be versions of one thing else. What was published
        before keeps its name.
        """
        for vm in vms:
            paths = [disk.path for disk in vm.disks if is_generic(Path(disk.path).stem)]
            for number, path in enumerate(paths):
                if self.node.catalog.held.at(path) is None:
                    yield path, vm.name if number == 0 else name_from(f"{vm.name}-{Path(path).stem}")

    def _publish(self, known: Known, names: Mapping[str, str]) -> _Lineage:
        return self.node.publisher.publish_lineage(
            known, team=self.team.name, edition=Edition(self._at, self.note), names=names
        )

    def _store(
        self,
        vault: TeamVault,
        vms: Sequence[Vm],
        disks: dict[str, FrozenDisk],
        lineages: dict[str, _Lineage],
    ) -> Saved:
        library = self.node.library
        own, public = (
            Saver(contents, library.load_page, self.observer.advance)
            for contents in (vault.contents, vault.public)
        )
        contents = list(_contents(self.node, disks, lineages))
        self.observer.begin("saving", sum(one.manifest.header.data_size for one in contents))
        try:
            for layers in (False, True):
                for content in contents:
                    if content.pages.is_layer == layers:
                        (own if content.manifest.header.team else public).put(content)
                own.part()
            known = vault.known_states(self.node.key.public)
            saved = [self._saved(vm, lineages, own) for vm in sorted(vms, key=lambda vm: vm.name)]
            paths = {vm.name: [disk.path for disk in vm.disks] for vm in vms}
            ways = [self._continued(vm, paths[vm.name], known) for vm in saved]
            # The public part first: what the team's state names must be there before it.
            public_indexes, public_packs = public.finish()
            indexes, packs = own.finish()
        finally:
            own.close()
            public.close()
            self.observer.end()
        heads, above = vault.heads(), self._highest()
        before = tips(known)
        state = State(
            team=self.team.name,
            number=min(MAX_NUMBER, 1 + max((one.state.number for one in before), default=0)),
            follows=tuple(one.id.hex() for one in before[-MAX_FOLLOWS:]),
            seen=seen_in(heads),
            counter=vault.next_counter(self.node.key.public, above),
            saved=timestamp(),
            by=self.node.label,
            note=self.note,
            vms=tuple(replace(vm, past=way.past) for vm, way in zip(saved, ways, strict=True)),
            indexes=indexes,
            packs=packs,
            public_indexes=public_indexes,
            public_packs=public_packs,
        )
        signed = vault.add(state, self.node.key, made=state.saved, above=above)
        self._note(vault, state)
        beside = tuple(saving for way in ways for saving in way.beside)
        return Saved(signed, own.read + public.read, own.stored + public.stored, beside, self._skew_s)

    def _continued(self, vm: SavedVm, paths: Sequence[str], known: Sequence[SignedState]) -> Continued:
        """Return what a VM continues, by the past of its disks as far as it is known here."""
        ids = {bytes.fromhex(disk.manifest) for disk in vm.disks}
        waiting = list(ids)
        while waiting:
            row = self.node.catalog.manifests.find(waiting.pop())
            new = set(row.follows) - ids if row else set()
            ids |= new
            waiting += new
        present = Present(
            {id.hex() for id in ids},
            [(one.file, one.parts) for one in vm.companions],
            origins_of(self.node.home.vault, paths),
        )
        return continued(vm.name, present, known, self.node.key.public, settle=self.settle)

    def _saved(self, vm: Vm, lineages: dict[str, _Lineage], saver: Saver) -> SavedVm:
        taken = self._taken.get(vm.name) or Taken(self._at, "off")
        return SavedVm(
            name=vm.name,
            at=taken.at,
            consistency=taken.consistency,
            disks=tuple(_disk(part, lineages[part.path]) for part in vm.disks),
            companions=tuple(self._companion(part, saver) for part in vm.companions),
            left_out=tuple(map(told_of, vm.left_out)),
        )

    def _companion(self, part: Part, saver: Saver) -> Companion:
        data = self._read[part.path]
        parts = saver.put_companion(data)
        return Companion(file=part.file, role=cast(Role, part.role), size=len(data), parts=parts)


def told_of(missed: Missed) -> LeftOut:
    """Return what a state says of a file; its name can be longer than a state allows, and no text at all."""
    return LeftOut(
        file=printable(Path(missed.path).name, MAX_TEXT - 1), why=printable(missed.why, MAX_TEXT - 1)
    )


def _disk(part: Part, lineage: _Lineage) -> Disk:
    (_, top), *below = lineage
    return Disk(
        file=part.file, manifest=top.id.hex(), below=tuple(manifest.id.hex() for _, manifest in below)
    )


def _contents(node: Node, disks: dict[str, FrozenDisk], lineages: dict[str, _Lineage]) -> Iterator[Content]:
    """Yield each content once: masters before what stands on them."""
    found: dict[bytes, Content] = {}
    for path, lineage in lineages.items():
        for depth, (known, manifest) in reversed(list(enumerate(lineage))):
            opened = partial(disks[path].open, node.library) if depth == 0 else partial(_open, node, known)
            found.setdefault(manifest.id, Content(manifest, known.content, opened))
    yield from found.values()


def _open(node: Node, known: Known) -> Chain:
    return node.library.open(known.path, known.geometry.format)
