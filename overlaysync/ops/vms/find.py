"""Finds the VMs in directories, and those that images and definitions mean.

Rules:
    1. A directory's VMs are what a ``vm.toml``, a lab or quickemu's files describe in it, and every other
       image that is no master. A master is what another image stands on, and a standalone image that nobody
       may write to. What is named itself is a VM, whatever it is.
    2. A directory without a disk of its own is one of directories: each below it is looked into, none deeper.
    3. libvirt's XML counts only where it is named: it may speak of the whole machine.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from overlaysync.errors import NotAllowedError, NotFoundError, OverlaysyncError, UsageError
from overlaysync.formats.files import may_read
from overlaysync.formats.folders import Folder, Found
from overlaysync.model.names import printable
from overlaysync.ops.vms.claims import Claims, Rank
from overlaysync.ops.vms.explicit import is_toml, vm_of_toml
from overlaysync.ops.vms.inetdoc import LABS, read_lab, vms_of_lab
from overlaysync.ops.vms.leftovers import leftovers
from overlaysync.ops.vms.libvirt import read_domain, vm_of_domain
from overlaysync.ops.vms.place import FileId, Image, Place, examine, is_image_name, read_named
from overlaysync.ops.vms.plain import vms_of_images
from overlaysync.ops.vms.quickemu import read_conf, vm_of_conf
from overlaysync.ops.vms.vm import Missed, Survey, Vm, finished

_DEFINITIONS = (".toml", ".yaml", ".yml", ".xml", ".conf")


def find_vms(paths: Sequence[str]) -> list[Vm]:
    """Return the VMs that paths mean, in order of name; see :func:`survey`."""
    return list(survey(paths).vms)


def survey(paths: Sequence[str]) -> Survey:
    """Return the VMs that paths mean, what they stand on, and what is left out.

    Args:
        paths: directories, images, and definitions (``vm.toml``, ``lab.yaml``, ``*.xml``, ``*.conf``).

    Raises:
        NotFoundError: there is nothing at a path, or no VM.
        UsageError: a definition cannot be read.
        AmbiguousError: two VMs have one name, or one file.
        ImageError, NotAllowedError: a disk that is named or described is no image, or must not be read.
    """
    with ExitStack() as opened:
        return _Search(opened, paths).survey()


class _Search:
    def __init__(self, opened: ExitStack, paths: Sequence[str]) -> None:
        self._opened = opened
        self._paths = paths
        real = [os.path.realpath(path) for path in paths]
        self._directories = [path for path in real if os.path.isdir(path)]
        others = [path for path in real if not os.path.isdir(path)]
        self._definitions = [path for path in others if path.endswith(_DEFINITIONS)]
        self._named = [path for path in dict.fromkeys(others) if not path.endswith(_DEFINITIONS)]
        self._places: dict[str, Place] = {}
        self._images: dict[str, list[Image]] = {}
        self._stood_on: set[FileId] = set()
        self._claims = Claims()
        self._problems: dict[str, list[Missed]] = {}
        self._missed: list[Missed] = []
        self._read: set[str] = set()

    def survey(self) -> Survey:
        """Look everywhere."""
        named = [examine(self._found(path)) for path in self._named]
        self._note(named)
        searched = list(dict.fromkeys(self._searched()))
        self._missed += [one for path in searched for one in self._problems[path]]
        self._describe(searched)
        for image in named:
            self._imply(self._place(os.path.dirname(image.path)), [image], Rank.IMAGE)
        for path in searched:
            disks = [image for image in self._images[path] if not self._is_master(image)]
            self._imply(self._place(path), disks, Rank.IMPLIED)
        self._claims.check_names()
        if not self._claims.vms:
            raise self._nothing()
        vms = [finished(vm) for vm in self._with_leftovers(searched)]
        masters = [
            image.path
            for path in searched
            for image in self._images[path]
            if self._is_master(image) and image.id not in self._claims
        ]
        once = tuple(dict.fromkeys(self._missed))
        return Survey(tuple(sorted(vms, key=lambda vm: vm.name)), tuple(masters), once)

    # -- directories ---------------------------------------------------------------------------------

    def _searched(self) -> Iterator[str]:
        """Yield the directories whose images are VMs."""
        below: dict[str, list[str]] = {}
        for path in self._directories:
            place = self._place(path)
            self._look_into(place)
            below[path] = [place.join(name) for name, kind in place.entries.items() if kind == "directory"]
            for inner in below[path]:
                with suppress(OverlaysyncError):
                    self._look_into(self._place(inner))
        for path in self._directories:
            yield path
            if all(map(self._is_master, self._images[path])):
                yield from (inner for inner in below[path] if self._holds_vms(inner))

    def _look_into(self, place: Place) -> None:
        if place.path in self._images:
            return
        images: list[Image] = []
        problems: list[Missed] = []
        self._images[place.path], self._problems[place.path] = images, problems
        for found in place.folder.images():
            if not is_image_name(os.path.basename(found.path)):
                continue
            try:
                images.append(examine(place.find(found.below)))
            except OverlaysyncError as error:
                problems.append(Missed(found.path, error.why or error.what))
            except OSError as error:
                problems.append(Missed(found.path, error.strerror or "it cannot be opened"))
        self._note(images)

    def _holds_vms(self, path: str) -> bool:
        images = self._images.get(path, [])
        described = path in self._places and self._has_toml(path)
        return described or not all(map(self._is_master, images))

    def _place(self, path: str) -> Place:
        """Return a directory, opened once.

        Raises:
            NotFoundError, NotAllowedError: it cannot be opened.
        """
        if path not in self._places:
            try:
                folder = Folder.open(path)
            except FileNotFoundError:
                hint = f"see what is there: ls {shlex.quote(os.path.dirname(path))}"
                raise NotFoundError(f"There is no directory {path}", hint=hint) from None
            except OSError as error:
                raise _unreadable(path, error) from None
            self._opened.callback(folder.close)
            self._places[path] = Place(folder, frozenset((*self._named, *self._definitions)))
        return self._places[path]

    def _found(self, path: str) -> Found:
        """Return an image that is named, or in a definition."""
        place = self._place(os.path.realpath(os.path.dirname(path)))
        return place.find(os.path.basename(path))

    # -- definitions ---------------------------------------------------------------------------------

    def _describe(self, searched: Sequence[str]) -> None:
        """Claim what definitions describe, the most explicit first."""
        found = [
            place.join(name)
            for place in map(self._place, searched)
            for name, kind in place.entries.items()
            if kind == "file" and (is_toml(name) or name in LABS or name.endswith(".conf"))
        ]
        named = list(dict.fromkeys(self._definitions))
        others = [path for path in dict.fromkeys(found) if path not in named]
        for rank, paths in (
            (Rank.TOML, [path for path in (*named, *others) if path.endswith(".toml")]),
            (Rank.NAMED, [path for path in named if not path.endswith(".toml")]),
            (Rank.FOUND, [path for path in others if not path.endswith(".toml")]),
        ):
            for path in paths:
                try:
                    vms = list(self._described(path, path in named))
                except UsageError as error:
                    if rank is not Rank.FOUND or not self._has_toml(os.path.dirname(path)):
                        raise
                    self._missed.append(Missed(path, error.why))  # the user has said what counts here
                    continue
                for vm in vms:
                    self._claim(vm, rank)

    def _has_toml(self, path: str) -> bool:
        return any(map(is_toml, self._place(path).entries))

    def _described(self, path: str, named: bool) -> Iterator[Vm]:
        """Yield the VMs of one definition."""
        place, name = self._place(os.path.dirname(path)), os.path.basename(path)
        try:
            text = read_named(path) if named else place.text(name) or b""
        except OverlaysyncError as error:
            if named:
                raise
            self._missed.append(Missed(path, error.why or error.what))
            return
        if name.endswith(".toml"):
            yield vm_of_toml(place, name, text)
        elif name.endswith(".xml"):
            yield vm_of_domain(place, name, read_domain(text, path))
        elif name.endswith(".conf"):
            conf = read_conf(text)
            if not (named or conf.is_vm):
                return
            vm = vm_of_conf(place, name, conf)
            if named or os.path.lexists(vm.disks[0].path):
                yield vm
            else:
                self._missed.append(
                    Missed(vm.disks[0].path, f"{name} names this disk, which is not there yet")
                )
        else:
            yield from self._lab(place, name, text, named)

    def _lab(self, place: Place, name: str, text: bytes, named: bool) -> Iterator[Vm]:
        lab = read_lab(text, place.join(name))
        if lab is None and named:
            raise UsageError(
                f"{place.join(name)} lists no VM",
                why="a lab lists them under kvm, vms, each with a vm_name",
                hint=f"name the directory or an image: ls {shlex.quote(place.path)}",
            )
        for one in vms_of_lab(place, name, lab or ()):
            if isinstance(one, Missed):
                self._missed.append(one)
            else:
                yield one

    def _claim(self, vm: Vm, rank: Rank) -> None:
        for part in vm.disks:
            try:
                self._note([examine(self._found(part.path))])
            except OSError as error:
                raise _unreadable(part.path, error) from None
        self._read |= {part.path for part in vm.companions if part.role == "definition"}
        self._claims.add(vm, rank)

    # -- images --------------------------------------------------------------------------------------

    def _note(self, images: Sequence[Image]) -> None:
        self._stood_on |= {image.backing for image in images if image.backing}

    def _is_master(self, image: Image) -> bool:
        return image.id in self._stood_on or (image.read_only and not image.overlay)

    def _imply(self, place: Place, images: Sequence[Image], rank: Rank) -> None:
        """Claim the images of a directory that nothing describes."""
        files = [os.path.basename(image.path) for image in images if image.id not in self._claims]
        for vm in vms_of_images(place, files, alone=self._is_alone(place, images, rank)):
            self._claims.add(vm, rank)

    def _is_alone(self, place: Place, images: Sequence[Image], rank: Rank) -> bool:
        """Whether no other VM has a disk in the directory."""
        if any(os.path.dirname(part.path) == place.path for vm in self._claims.vms for part in vm.disks):
            return False
        if rank is Rank.IMPLIED:
            return True
        mine = {image.path for image in images}
        beside = {place.join(found.below) for found in place.folder.images()} - mine
        return not any(is_image_name(os.path.basename(path)) for path in beside)

    # -- what is left --------------------------------------------------------------------------------

    def _with_leftovers(self, searched: Sequence[str]) -> list[Vm]:
        """Return the VMs, with what lies beside their disks and is not carried."""
        vms = {vm.name: vm for vm in self._claims.vms}
        known = {part.path for vm in vms.values() for part in vm.parts}
        known |= {missed.path for vm in vms.values() for missed in vm.left_out}
        known |= {missed.path for missed in self._missed}
        known |= {image.path for images in self._images.values() for image in images} | self._read
        for path, place in self._places.items():
            here = [vm for vm in vms.values() if any(os.path.dirname(part.path) == path for part in vm.disks)]
            if not here and path not in searched:
                continue
            for owner, missed in leftovers(place, here, known, whole=path in searched):
                if owner is None:
                    self._missed.append(missed)
                else:
                    vm = vms[owner.name]
                    vms[owner.name] = replace(vm, left_out=(*vm.left_out, missed))
        return list(vms.values())

    def _nothing(self) -> NotFoundError:
        where = ", ".join(printable(path) for path in self._paths[:3]) or "nothing"
        masters = any(self._images.values())
        why = "only masters are there" if masters else "no image is there"
        if self._missed:
            why = f"{printable(self._missed[0].path)}: {self._missed[0].why}"
        return NotFoundError(
            f"There is no VM in {where}",
            why=why,
            hint="name an image itself, or describe the VM in a vm.toml; to see the images: overlaysync tree",
        )


def _unreadable(path: str, error: OSError) -> NotAllowedError:
    return NotAllowedError(f"Cannot read {path}", why=error.strerror or "", hint=may_read(path))
