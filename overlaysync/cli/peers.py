"""The command peers: who is within reach. What is shown of each comes from :mod:`.looking`."""

from __future__ import annotations

import typer

from overlaysync.cli.common import InterfaceOption, PeerOption, WaitOption, open_node, parse_peers
from overlaysync.cli.looking import LOOK_S, look_around
from overlaysync.cli.output import output_of
from overlaysync.cli.refusals import error_fields
from overlaysync.cli.tables import Fail, Table


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("peers")(peers)


def peers(
    context: typer.Context,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """List the machines within reach."""
    output = output_of(context)
    with open_node(output) as node:
        seen = look_around(node, output, parse_peers(peer), iface or [], wait, tell=False)
    rows = [
        (
            item["node"] or "?",
            item["address"],
            Fail(item["problem"]) or f"{item['images']} shared{_used(item['in_use'])}  {item['id']}",
        )
        for item in sorted(seen.nodes, key=lambda item: (item["node"], item["address"]))
    ]
    document: dict[str, object] = {"peers": seen.nodes}
    if seen.silence:
        document["error"] = error_fields(seen.silence)
    output.result(document, Table(rows, widths=(30, 22)))
    seen.require_answer()


def _used(count: int) -> str:
    """How many more a VM uses."""
    return f", {count} in use" if count else ""
