"""What a drill pretends to be lost: machines and archives, as the user named them.

Of what is announced a name is known before anything is asked, so that nothing is asked of what is lost. Where
a machine was named by its address only (``--peer``), it is known by that address alone until it has answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_LABEL = re.compile(r"(?P<user>[^@]+)@(?P<host>.+)-(?P<id>[a-z2-7]{6})")
_ARCHIVE = "archive "


@dataclass(slots=True)
class Lost:
    """What is lost.

    Attributes:
        names: as typed: a host, ``user@host``, a label, the end of one, an address, or an archive.
        places: labels of the nodes and archives that these have meant so far.
    """

    names: Sequence[str]
    places: dict[str, str] = field(default_factory=dict)
    _addresses: set[tuple[str, int]] = field(default_factory=set)

    def has_label(self, label: str) -> bool:
        """Whether the node with this label is lost."""
        meant = next((name for name in self.names if name in names_of(label)), None)
        if meant is not None and label:
            self.places[label] = meant
        return meant is not None

    def has_archive(self, name: str) -> bool:
        """Whether an archive is lost."""
        meant = next((one for one in self.names if one in (name, f"{_ARCHIVE}{name}")), None)
        if meant is not None:
            self.places[f"{_ARCHIVE}{name}"] = meant
        return meant is not None

    def has_address(self, host: str, port: int) -> bool:
        """Whether a node at this address is lost."""
        if (host, port) in self._addresses:
            return True
        meant = next((one for one in self.names if one in (host, f"{host}:{port}", f"[{host}]:{port}")), None)
        if meant is not None:
            self.places[f"{host}:{port}"] = meant
        return meant is not None

    def takes(self, label: str, addresses: Iterable[str], port: int) -> bool:
        """Whether an announced node is lost; then its addresses are, too."""
        known = list(addresses)
        if not self.has_label(label) and not any(self.has_address(host, port) for host in known):
            return False
        self.places.setdefault(label, label)
        self._addresses.update((host, port) for host in known)
        return True

    def unknown(self, labels: Iterable[str], archives: Iterable[str]) -> list[str]:
        """Return the names that mean nothing that is known of."""
        for label in labels:
            self.has_label(label)
        for name in archives:
            self.has_archive(name)
        return [name for name in self.names if name not in self.places.values()]


def names_of(label: str) -> tuple[str, ...]:
    """Return what a node with this label may be called: all of it, or ``user@host``, host, last digits."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return (label,) if label else ()
    return label, f"{found['user']}@{found['host']}", found["host"], found["id"]
