"""Other machines that use this machine's node key, seen while both run, and said once each.

A claim to our key in an announcement or a catalog is nothing: anybody can make it. It is proven by a TLS
handshake with the private lane of who makes it, whose certificate the node key must have signed; the mark of
another boot in it says that it is another machine. Where that machine is, is not proven: who is in the middle
can pass the handshake on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from overlaysync.model.addresses import is_told_port
from overlaysync.net.client import Client
from overlaysync.net.machine import machine_mark
from overlaysync.net.messages import Address, PrivateAddress
from overlaysync.node.identity import NEW

_MAX = 16
"""Machines with our key that are told of."""


@dataclass(frozen=True, slots=True)
class Twin:
    """Another machine with this machine's key.

    Attributes:
        label: what it calls itself, safe to print.
        host: the address where it was met.
    """

    label: str
    host: str

    @property
    def words(self) -> str:
        """What the user is told of it."""
        return (
            f"Another machine, {self.label or 'without a name'} ({self.host}), uses this machine's node key"
        )


ADVICE = f"on the machine that is the copy, type: {NEW}"


@dataclass(slots=True)
class Twins:
    """The machines with this machine's key that have been met.

    Args:
        client: shakes hands.
        note: is told of each machine once.

    Attributes:
        found: by their marks.
    """

    client: Client
    note: Callable[[str], None]
    found: dict[bytes, Twin] = field(default_factory=dict)

    async def meet(self, own: bytes, address: Address, tls: int, label: str) -> None:
        """Find out whether the peer at ``address`` has the key ``own``, and is another machine.

        Args:
            own: this node's public key, which the peer claims.
            address: where it answered.
            tls: the port of its private lane, as it says.
            label: what it calls itself.

        Raises:
            PeerError: nothing could be found out.
        """
        if not is_told_port(tls):
            return
        shown = await self.client.shown(PrivateAddress(address.host, tls, "", own))
        if shown.node != own or shown.machine == machine_mark():
            return
        if shown.machine not in self.found and len(self.found) < _MAX:
            self.found[shown.machine] = twin = Twin(label, address.host)
            self.note(
                f"{twin.words}. Others take the two for one machine and one publisher.\n"
                f"  {ADVICE[0].upper()}{ADVICE[1:]}"
            )
