"""The key of this machine: made at first use, and made anew where its home is a copy of another machine's.

Disks are cloned with all that is on them, so two machines would be one node. A copy is told by hardware
(:mod:`overlaysync.trust.hardware`): it takes a key of its own, and the former one is kept beside it, to be
taken back where only the hardware was replaced. A home on a network file system goes with its user from
machine to machine, so nothing is concluded there. Why: docs/adr/0016.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.net.machine import hardware_addresses
from overlaysync.store.home import Home
from overlaysync.trust.hardware import Hardware, hardware_of, load_hardware, save_hardware
from overlaysync.trust.keys import NodeKey, cannot_use, load_key, load_or_make, node_id
from overlaysync.trust.secret_files import make_secret, replace_secret

RESTORE = "overlaysync key restore"
NEW = "overlaysync key new"
_KEPT = ".former-"
_MAX_KEPT = 64


@dataclass(frozen=True, slots=True)
class Kept:
    """A key that this home had before.

    Attributes:
        path: where it is.
        key: the key.
    """

    path: Path
    key: NodeKey


@dataclass(frozen=True, slots=True)
class Exchange:
    """One key in the place of another.

    Attributes:
        key: the key that counts now.
        former: the one that did before, and where it is kept.
        earlier: whether ``key`` had been used here before, rather than made now.
    """

    key: NodeKey
    former: Kept
    earlier: bool = False


def identify(home: Home) -> tuple[NodeKey, Exchange | None]:
    """Return this machine's key; and how it came to be another one, when that has happened just now.

    Raises:
        OverlaysyncError: the key cannot be read, made or replaced.
    """
    key = load_or_make(home.node_key)
    present = () if home.on_network else hardware_addresses()
    if not present:
        return key, None
    known = hardware_of(load_hardware(home.hardware), key.public)
    if known.with_more(present) == known:
        return key, None
    with _locked(home):
        return _identify(home, present)


def _identify(home: Home, present: Collection[str]) -> tuple[NodeKey, Exchange | None]:
    key, hardware = load_or_make(home.node_key), load_hardware(home.hardware)
    known = hardware_of(hardware, key.public)
    if not known.is_elsewhere(present):
        with suppress(OSError):  # a full disk, or one that may only be read: it is remembered another time
            save_hardware(home.hardware, hardware | {node_id(key.public): known.with_more(present)})
        return key, None
    earlier = [one for one in kept_keys(home) if hardware_of(hardware, one.key.public).knows(present)]
    if earlier:
        exchange = _exchange(home, key, earlier[-1].key, present)
        return exchange.key, Exchange(exchange.key, exchange.former, earlier=True)
    exchange = _exchange(home, key, NodeKey(Ed25519PrivateKey.generate()), present)
    return exchange.key, exchange


def make_new_key(home: Home) -> Exchange:
    """Give this machine a new key, and keep the former one.

    Raises:
        OverlaysyncError: a key cannot be read, made or replaced.
    """
    with _locked(home):
        key = load_or_make(home.node_key)
        return _exchange(home, key, NodeKey(Ed25519PrivateKey.generate()), _present(home))


def restore_key(home: Home, *, anywhere: bool = False) -> Exchange:
    """Take back the key that was put aside last, as this machine's.

    Args:
        home: of the node.
        anywhere: whether the key is good on any hardware from now on.

    Raises:
        NotFoundError: there is none.
        OverlaysyncError: a key cannot be read or replaced.
    """
    with _locked(home):
        key, kept = load_or_make(home.node_key), kept_keys(home)
        if not kept:
            raise NotFoundError(
                "There is no former node key to take back",
                why=f"no file is called {home.node_key}{_KEPT}…",
                hint="to see the key of this machine: overlaysync key show",
            )
        return _exchange(home, key, kept[-1].key, _present(home), anywhere=anywhere)


def kept_keys(home: Home) -> list[Kept]:
    """Return the keys that this home had before, the one put aside last at the end.

    What cannot be read is left out, and so are copies of the present key.
    """
    present = load_or_make(home.node_key).public
    return [one for one in _all_kept(home) if one.key.public != present]


def _all_kept(home: Home) -> list[Kept]:
    kept = []
    for _, path in sorted(_numbered(home))[-_MAX_KEPT:]:
        with suppress(OSError, OverlaysyncError):
            kept.append(Kept(path, load_key(path)))
    return kept


def _numbered(home: Home) -> Iterator[tuple[int, Path]]:
    """Yield the files of kept keys with their numbers, which rise: clocks go back."""
    for path in home.root.glob(f"{home.node_key.name}{_KEPT}*"):
        number = path.name.rpartition("-")[2]
        if number.isdecimal() and len(number) < 10:
            yield int(number), path


def _present(home: Home) -> tuple[str, ...]:
    return () if home.on_network else hardware_addresses()


def _exchange(
    home: Home, old: NodeKey, new: NodeKey, present: Collection[str], *, anywhere: bool = False
) -> Exchange:
    """Put ``new`` in the place of ``old``: at each moment one of the two is whole, and ``old`` is kept first.

    Raises:
        OverlaysyncError: it cannot be written.
    """
    try:
        former = _keep(home, old)
        hardware = load_hardware(home.hardware)
        known = hardware.pop(node_id(new.public), Hardware())
        known = Hardware(known.with_more(present).addresses, anywhere or known.anywhere)
        save_hardware(home.hardware, hardware | {node_id(new.public): known})
        replace_secret(home.node_key, new.private.private_bytes_raw())
    except OSError as error:
        raise cannot_use(home.node_key, error) from error
    for one in _all_kept(home):
        if one.key.public in (new.public, old.public) and one.path != former.path:
            with suppress(OSError):
                one.path.unlink()
    return Exchange(new, former)


def _keep(home: Home, key: NodeKey) -> Kept:
    """Write a copy of the key, under the next number."""
    number = max((number for number, _ in _numbered(home)), default=0)
    while True:
        number += 1
        path = home.root / f"{home.node_key.name}{_KEPT}{number}"
        with suppress(FileExistsError):
            make_secret(path, key.private.private_bytes_raw())
            return Kept(path, key)


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """One command at a time: those that begin together on a copy take one new key, not one each."""
    lock = os.open(home.root / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # the file system knows no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def words_of(exchange: Exchange) -> str:
    """Return what the user is told of a key that was exchanged because the machine is another one."""
    new, old = node_id(exchange.key.public), node_id(exchange.former.key.public)
    if exchange.earlier:
        return (
            f"This machine uses its own node key again ({new}). The home holds that of another machine too, "
            f"which was here with its hardware: {exchange.former.path}"
        )
    return (
        "This machine seems to be a copy: its node key was made on a machine with other network hardware. "
        f"It has a new key now ({new}), and what was published with the old one ({old}) belongs to the other "
        f"machine. The old key is kept: {exchange.former.path}\n"
        f"  If only the network hardware was replaced, take the old key back: {RESTORE}"
    )
