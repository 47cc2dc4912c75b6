"""The machines within reach as the page shows them, this one first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from overlaysync.model.names import one_field
from overlaysync.node.sharing import Share
from overlaysync.node.views import PeerView
from overlaysync.trust.keys import node_id
from overlaysync.web.model import Machine


def machines_of(
    share: Share, port: int, views: Iterable[PeerView], keepers: Mapping[str, tuple[str, ...]]
) -> tuple[Machine, ...]:
    """Return this node and its peers, by name: whether one answers changes no place.

    Args:
        share: of this node.
        port: where this node answers.
        views: the peers.
        keepers: teams of which nodes have copies, by the id of the node.
    """
    others = [_machine(view) for view in views]
    others.sort(key=lambda machine: (machine.label, machine.key))
    return tuple(replace(one, keeps=keepers.get(one.key, ())) for one in (_own(share, port), *others))


def _own(share: Share, port: int) -> Machine:
    shared = share.shared
    overlays = sum(one.manifest.header.is_layer for one in shared)
    key = node_id(share.public_key)
    return Machine(
        key, share.label, True, f"port {port}", len(shared) - overlays, overlays, len(share.used), ""
    )


def _machine(view: PeerView) -> Machine:
    served = view.served
    overlays = sum(manifest.header.is_layer for manifest in served)
    return Machine(
        key=node_id(view.public_key) if view.public_key else str(view.address),
        label=view.label or str(view.address),
        own=False,
        address=str(view.address),
        masters=len(served) - overlays,
        overlays=overlays,
        in_use=len(view.manifests) - len(served),
        problem=one_field(view.problem),
    )
