"""Images that VMs write to, for a share: each as it was at one moment, in a copy that ends with the share.

The copy is a file without a name in the home of the node. It is published as the next version of the image,
without companions: those that a VM writes to, such as its UEFI variables, change while the copy is given out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from overlaysync.formats.chain import Chain
from overlaysync.node.capturing import Means, captured, running_disks
from overlaysync.node.node import Node
from overlaysync.node.observer import Observer, Silent
from overlaysync.ops.known import Known
from overlaysync.ops.publish import Publisher
from overlaysync.ops.vms.vm import Part, Vm
from overlaysync.store.files import allocated, give_back
from overlaysync.vault.state import Consistency


@dataclass(frozen=True, slots=True)
class LiveImage:
    """An image as a running VM had written it at one moment.

    Attributes:
        known: it.
        chain: the copy, on what the image stands on.
        at: the moment, ISO 8601 UTC.
        consistency: see :class:`~overlaysync.vault.state.SavedVm`.
        size: bytes that the copy takes.
    """

    known: Known
    chain: Chain
    at: str
    consistency: Consistency
    size: int


def capture_images(
    stack: ExitStack,
    node: Node,
    paths: Iterable[str],
    means: Means,
    observer: Observer,
    advance: Callable[[int], None],
) -> Mapping[str, LiveImage]:
    """Capture those of some images that VMs write to; the copies are gone when ``stack`` is closed.

    Args:
        stack: keeps the copies.
        node: opens the images.
        paths: of the images.
        means: how VMs may be captured.
        observer: is told what happens.
        advance: told of the bytes copied and hashed; may end the work with an exception.

    Raises:
        InUseError: an image is written to and cannot be captured.
        NoSpaceError: there is no room for the copies.
    """
    vms = [_vm(path) for path in paths]
    running = running_disks(vms)
    vms = [vm for vm in vms if vm.disks[0].path in running]
    found = stack.enter_context(captured(node, vms, node.home.root, _Stoppable(observer, advance), means))
    images = {}
    for vm in vms:
        path = vm.disks[0].path
        disk, taken = found.disks[path], found.taken[vm.name]
        chain = disk.open(node.library)
        stack.callback(chain.close)
        give_back(disk.file)  # what was reserved for QEMU, and that it did not need
        size = allocated(os.fstat(disk.file))
        images[path] = LiveImage(disk.known, chain, taken.at, taken.consistency, size)
    return images


def without_companions(node: Node) -> Publisher:
    """Return what publishes images alone in the name of a node."""
    return Publisher(node.library, node.key, node.label, node.teams)


def _vm(path: str) -> Vm:
    """Return an image as a VM with nothing but it; its name tells it from others."""
    return Vm(path, os.path.dirname(path), (Part(path, os.path.basename(path), "disk", ""),))


class _Stoppable(Silent):
    """Shows what another observer shows, but lets a share end the work."""

    def __init__(self, observer: Observer, advance: Callable[[int], None]) -> None:
        self._observer = observer
        self._advance = advance

    def note(self, text: str) -> None:
        self._observer.note(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self._observer.begin(what, total, done)

    def advance(self, size: int, source: str = "") -> None:
        self._advance(size)

    def end(self) -> None:
        self._observer.end()
