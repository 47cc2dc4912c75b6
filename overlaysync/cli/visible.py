"""What can be seen of here: names of which teams, and the images that are known without asking anybody."""

from __future__ import annotations

from overlaysync.errors import NotFoundError
from overlaysync.model.names import meant
from overlaysync.model.reference import Reference
from overlaysync.node.node import Node
from overlaysync.node.used import is_written
from overlaysync.ops.in_use import Usage
from overlaysync.ops.known import is_as_hashed
from overlaysync.ops.matching import Listing
from overlaysync.trust.envelope import open_envelope


def check_membership(node: Node, reference: Reference) -> None:
    """Nothing of a team is listed to others, so there is no use in looking for it.

    Raises:
        NotFoundError: ``reference`` names a team that this node is not in.
    """
    if reference.team is not None and not node.may_see(reference.team):
        raise NotFoundError(
            f"'{reference}' cannot be seen here",
            why="; ".join(
                filter(
                    None,
                    (f"this machine is not in team '{reference.team}'", meant(reference.team, node.teams)),
                )
            ),
            hint=f"with the team's code: overlaysync team join {reference.team}",
        )


def local_listings(node: Node) -> list[Listing]:
    """Return the images that this node knows by name and has here, or had before a VM wrote to them."""
    present = {
        row.layer or row.disk
        for row in node.catalog.images.all()
        if node.library.known(row.path) or (row.layer and is_as_hashed(row))
    }
    rows = [row for row in node.catalog.manifests.matching() if row.content in present]
    used = [
        row
        for held in node.catalog.held.all()
        if is_written(held.path)
        for row in map(node.catalog.manifests.find, held.manifests[:1])
        if row is not None and row.content not in present
    ]
    return [
        Listing(manifest, in_use=(Usage(node.label),) if row in used else ())
        for row in (*rows, *used)
        if node.counts(manifest := open_envelope(row.envelope))
    ]
