"""Bounds of what the network may do to discovery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DiscoveryBounds:
    """What the network may do to discovery.

    Attributes:
        peers: peers kept.
        confirmed: of these, places (address and port) of one host that stay because they have answered.
        addresses: addresses kept of one peer.
        resolve_s: time to resolve one peer.
        resolves: peers resolved at once.
        pending: peers waiting to be resolved; more are left out until they are announced again.
        pace_s: each of these waits so long between two peers.
        updates_s: what this node announces changes at most this often.
        txt_size: all TXT entries of this node.
        updates: records heard, after which a browser forgets when to ask again for which.
        items: entries kept of one peer's TXT.
        name_length: instance name (DNS-SD: one label of 63 bytes).
        doubts: peers said to have gone that are asked at once.
        doubt_s: a peer that was asked so is not asked again within this time.
    """

    peers: int = 256
    confirmed: int = 32
    addresses: int = 4
    resolve_s: float = 1.5
    resolves: int = 4
    pending: int = 512
    pace_s: float = 0.01
    updates_s: float = 1
    txt_size: int = 1024
    updates: int = 16384
    items: int = 64
    name_length: int = 63
    doubts: int = 4
    doubt_s: float = 10


DISCOVERY = DiscoveryBounds()
