"""How a command uses the network, as its options say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overlaysync.net.messages import Address
from overlaysync.node.lost import Lost
from overlaysync.swarm.link import Compression


@dataclass(frozen=True, slots=True)
class Network:
    """How a command uses the network.

    Attributes:
        peers: named by the user; they are asked whether they announce themselves or not.
        interfaces: to look for others on; none for all that are usual.
        rate: bytes per second that are taken, and as many that are given; None for no limit.
        compression: whether to ask for compressed data.
        mdns_needed: whether it is an error when multicast does not work and no peer is named.
        catalogs: whether peers are asked for what they have; a node that only shares does not.
        alarm: is told what the user must know at once; by default the observer.
        lost: machines that a drill pretends to be gone; nothing is asked of them.
    """

    peers: Sequence[Address] = ()
    interfaces: Sequence[str] = ()
    rate: int | None = None
    compression: Compression = Compression.AUTO
    mdns_needed: bool = True
    catalogs: bool = True
    alarm: Callable[[str], None] | None = None
    lost: Lost | None = None
