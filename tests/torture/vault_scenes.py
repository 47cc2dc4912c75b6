"""Commands on the vault to be tortured: what is there before each, and what has to be true afterwards.

Nothing of a vault is the same twice: seals have random salts. So its files are not compared with others: it
is checked as ``vault check --read`` does, and what it gives back is compared with what guests saw.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overlaysync.ops.recovery.checking import check
from overlaysync.ops.recovery.cleaning import listed
from overlaysync.ops.recovery.vaults import TeamVault, images_of
from overlaysync.trust.team_files import keep_team, load_teams
from overlaysync.trust.teams import Team
from overlaysync.units import CHUNK, KIB, MIB
from overlaysync.vault.directory import DirectoryObjects
from tests.e2e import disks
from tests.e2e.nodes import Lab, Node, Share
from tests.torture.scenes import Place

UEFI = "web.qcow2_OVMF_VARS.fd"
DISKS = ("web.qcow2", "db.qcow2")
_OURS = (".lock", ".unneeded.json", ".believed", ".restored.json", ".dropped.json")
_EXPIRED = 0.0
ARCHIVE = "archive"
"""A directory, and what it is called."""


@dataclass(slots=True)
class VaultScene:
    """One command and what it is run on.

    Attributes:
        name: of the scene.
        words: the command, JSON and quiet.
        template: holds ``images`` and ``home`` as they are before.
        truth: directory with flat copies of what guests saw when the newest state was saved.
        states: numbers of the states that are listed after the command.
        gone: exit code of the command when it has been done already.
        broken: names of objects that are missing before: the command brings them.
        removes: whether nothing that no head lists is there after the command.
        into: the vault that the command writes to, below the directory of the scene.
        image: file of the one image that comes back from there; all VMs do if it is empty.
        unit: bytes of a slot of what is restored.
        spared: faults that are not tried.
    """

    name: str
    words: tuple[str, ...]
    template: Path
    truth: Path
    states: frozenset[int]
    gone: int = 0
    broken: frozenset[str] = frozenset()
    removes: bool = False
    into: str = "home/vault"
    image: str = ""
    unit: int = CHUNK
    spared: tuple[str, ...] = ()


def vault_of(home: Path) -> DirectoryObjects:
    """The vault of a home."""
    return DirectoryObjects(home / "vault")


def damaged(home: Path, vault: Path | None = None) -> list[str]:
    """Sentences on all that heads list and that is missing, or not what it should be."""
    objects = DirectoryObjects(vault or home / "vault")
    teams = [TeamVault(objects, space) for space in _spaces(home)]
    found = [*check(objects, teams, read=True).damaged, *(one for team in teams for one in team.damaged)]
    return [f"{one.name}: {one.why}" for one in found]


def missing(vault: Path) -> set[str]:
    """Names of what heads list and is not there."""
    objects = DirectoryObjects(vault)
    return {name for name in listed(objects)[0] if objects.size(name) is None}


def unlisted(vault: Path) -> set[str]:
    """Names of what no head lists."""
    objects = DirectoryObjects(vault)
    return {stored.name for stored in objects.list("")} - listed(objects)[0]


def numbers(home: Path, vault: Path | None = None) -> set[int]:
    """Numbers of the states that heads list."""
    objects = DirectoryObjects(vault or home / "vault")
    return {one.state.number for space in _spaces(home) for one in TeamVault(objects, space).states()}


def _spaces(home: Path) -> list[Team]:
    """The teams of a home, and whom their published images are for."""
    return [space for team in load_teams(home / "teams").values() for space in (team, images_of(team))]


def temporaries(place: Place) -> list[str]:
    """Files that only a command under way has a use for; those of a node, made once, are not looked for."""
    vaults = (place.home / "vault", place.root / ARCHIVE)
    hidden = [
        *place.images.rglob(".*"),
        *place.home.glob(".*"),
        *(one for v in vaults for one in v.rglob(".*")),
    ]
    ours = (*_OURS, *(path.name for path in place.home.glob(".node.*")))
    return sorted(path.name for path in hidden if path.name not in ours and path.is_file())


class VaultStage:
    """Makes scenes: VMs, a home with a vault, and a holder who keeps what the team saves.

    Args:
        root: a directory of its own.
        lab: for the holder.
    """

    def __init__(self, root: Path, lab: Lab) -> None:
        self.root = root
        self.place = Place(root / "place")
        self.holder = lab.node("holder")
        self.team = lab.team("red", self.holder)
        self.truth = root / "truth"
        self._lab = lab
        self._keeps: Share | None = None

    def scene(self, name: str) -> VaultScene:
        """The scene of that name."""
        shutil.rmtree(self.place.root, ignore_errors=True)
        for directory in (self.place.images, self.place.home):
            directory.mkdir(parents=True, mode=0o700)
        keep_team(self.place.home / "teams", load_teams(self.holder.home / "teams")[self.team])
        self.truth = self.root / "truth" / name
        template = self.root / "templates" / name
        scene = VAULT_SCENES[name](self, name, template)
        shutil.copytree(self.place.root, template, symlinks=True)
        return scene

    def said(self, *words: str) -> tuple[str, ...]:
        return (*words, "--json", "--quiet")

    # -- what is there before ------------------------------------------------------------------------

    def make_vms(self, images: Path) -> None:
        """Two VMs on one master, one with UEFI variables."""
        master = disks.make_master(images / "debian.qcow2", size=2 * MIB, data=MIB)
        for name in DISKS:
            disks.make_overlay(images / name, Path(master.name), (CHUNK, CHUNK), (MIB + 512, 9000))
        master.chmod(0o444)
        (images / UEFI).write_bytes(disks.noise("uefi", 130 * KIB))
        self.note_truth(images)

    def work(self, images: Path) -> None:
        """What a day in the lab writes."""
        for name in DISKS:
            disks.write(images / name, MIB + 4 * CHUNK, disks.noise(f"{name} works", 2 * CHUNK))
        (images / UEFI).write_bytes(disks.noise("uefi again", 130 * KIB))
        self.note_truth(images)

    def note_truth(self, images: Path) -> None:
        """Keep flat copies of what guests see now."""
        shutil.rmtree(self.truth, ignore_errors=True)
        self.truth.mkdir(parents=True)
        for name in DISKS:
            flat = self.truth / f"{name}.raw"
            subprocess.run(["qemu-img", "convert", "-O", "raw", images / name, flat], check=True)
        shutil.copyfile(images / UEFI, self.truth / UEFI)

    def save(self) -> None:
        self.run("save", "--team", self.team, self.place.images)

    def peer(self) -> str:
        """The address of the holder, who has saved twice itself and serves that."""
        if self._keeps is None:
            truth, self.truth = self.truth, self.root / "truth" / "holder"
            for make in (self.make_vms, self.work):
                make(self.holder.place)
                self.holder.json("save", "--team", self.team, self.holder.place)
            self._keeps = self.holder.start_keep(self.team)
            self.truth = truth
        if not self.truth.exists():
            shutil.copytree(self.root / "truth" / "holder", self.truth)
        return self._keeps.peer

    def run(self, *words: object) -> None:
        node = Node(self.root / "before", self._lab.prefix, self._lab.forks)
        node.json(*words, OVERLAYSYNC_HOME=str(self.place.home), OVERLAYSYNC_USER="torture")

    def forget_images(self) -> None:
        """The machine's images are gone."""
        shutil.rmtree(self.place.images)
        self.place.images.mkdir()


# -- the scenes --------------------------------------------------------------------------------------


def _save(stage: VaultStage, name: str, template: Path) -> VaultScene:
    stage.make_vms(stage.place.images)
    words = stage.said("save", "--team", stage.team)
    return VaultScene(name, words, template, stage.truth, frozenset({1}))


def _save_again(stage: VaultStage, name: str, template: Path) -> VaultScene:
    stage.make_vms(stage.place.images)
    stage.save()
    stage.work(stage.place.images)
    words = stage.said("save", "--team", stage.team)
    return VaultScene(name, words, template, stage.truth, frozenset({1, 2}))


def _forget(stage: VaultStage, name: str, template: Path) -> VaultScene:
    _save_again(stage, name, template)
    stage.save()
    words = stage.said("forget", f"{stage.team}:1")
    return VaultScene(name, words, template, stage.truth, frozenset({2}), gone=3)


def _gc(stage: VaultStage, name: str, template: Path) -> VaultScene:
    _forget(stage, name, template)
    stage.run("forget", f"{stage.team}:1")
    stage.run("vault", "gc")
    notes = stage.place.home / "vault" / ".unneeded.json"
    notes.write_text(json.dumps(dict.fromkeys(json.loads(notes.read_text()), _EXPIRED)))
    return VaultScene(name, stage.said("vault", "gc"), template, stage.truth, frozenset({2}), removes=True)


def _restore(stage: VaultStage, name: str, template: Path) -> VaultScene:
    _save_again(stage, name, template)
    stage.save()
    stage.forget_images()
    words = stage.said("restore", stage.team, "--wait", "0")
    return VaultScene(name, words, template, stage.truth, frozenset({1, 2}))


def _restore_from_peer(stage: VaultStage, name: str, template: Path) -> VaultScene:
    words = stage.said("restore", stage.team, "--peer", stage.peer())
    return VaultScene(name, words, template, stage.truth, frozenset())


def _keep(stage: VaultStage, name: str, template: Path) -> VaultScene:
    words = stage.said("keep", stage.team, "--once", "--peer", stage.peer())
    return VaultScene(name, words, template, stage.truth, frozenset({1, 2}))


def _heal(stage: VaultStage, name: str, template: Path) -> VaultScene:
    scene = _keep(stage, name, template)
    stage.run(*(word for word in scene.words if word not in ("--json", "--quiet")))
    objects = vault_of(stage.place.home)
    packs = sorted(one for one in listed(objects)[0] if "/packs/" in one)
    states = sorted(one for one in listed(objects)[0] if "/states/" in one)
    lost = [packs[0], packs[-1], states[0]]
    for one in lost:
        objects.delete(one)
    return VaultScene(name, scene.words, template, stage.truth, scene.states, broken=frozenset(lost))


def _push(stage: VaultStage, name: str, template: Path) -> VaultScene:
    """To an archive that has nothing yet."""
    stage.make_vms(stage.place.images)
    stage.save()
    return _pushing(stage, name, template, frozenset({1}))


def _push_again(stage: VaultStage, name: str, template: Path) -> VaultScene:
    """A newer state, to an archive that has the one before: its head takes the place of that one's."""
    scene = _push(stage, name, template)
    stage.run(*scene.words[:-2])
    stage.work(stage.place.images)
    stage.save()
    return replace(scene, states=frozenset({1, 2}))


def _push_image(stage: VaultStage, name: str, template: Path) -> VaultScene:
    """One published image, and the master that it stands on."""
    scene = _push(stage, name, template)
    words = stage.said("archive", "push", f"{stage.team}/web")
    return replace(scene, words=words, image="web.qcow2")


def _pushing(stage: VaultStage, name: str, template: Path, states: frozenset[int]) -> VaultScene:
    archive = stage.place.root / ARCHIVE
    archive.mkdir()
    stage.run("archive", "add", ARCHIVE, f"file://{archive}")
    words = stage.said("archive", "push", stage.team)
    return VaultScene(name, words, template, stage.truth, states, into=ARCHIVE)


VAULT_SCENES: dict[str, Callable[[VaultStage, str, Path], VaultScene]] = {
    "save": _save,
    "save-again": _save_again,
    "forget": _forget,
    "gc": _gc,
    "restore": _restore,
    "restore-from-peer": _restore_from_peer,
    "keep": _keep,
    "heal": _heal,
    "push": _push,
    "push-again": _push_again,
    "push-image": _push_image,
}
THREADED = frozenset({"restore-from-peer", "keep", "heal", "push", "push-again"})
"""Scenes that pull, from a peer or into an archive: they need threads."""


def unlike(truth: Path, back: Path, files: Sequence[str] = (*DISKS, UEFI)) -> list[str]:
    """Names of files that were not brought back as they were."""
    wrong = []
    for name in files:
        if name in DISKS:
            command: list[str | Path] = ["qemu-img", "compare", "-q", truth / f"{name}.raw", back / name]
            same = subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0
        else:
            same = (back / name).exists() and (truth / name).read_bytes() == (back / name).read_bytes()
        if not same:
            wrong.append(name)
    return wrong
