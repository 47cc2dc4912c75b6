"""The command peers: who is within reach. What is shown of each comes from :mod:`.looking`."""

from __future__ import annotations

import typer

from overlaysync.cli.common import InterfaceOption, PeerOption, WaitOption, open_node, parse_peers
from overlaysync.cli.looking import LOOK_S, Seen, look_around, looks
from overlaysync.cli.output import output_of
from overlaysync.cli.tables import Fail, Table
from overlaysync.cli.watching import View, WatchOption
from overlaysync.cli.watching import show as show_once
from overlaysync.cli.watching import watch as watching
from overlaysync.node.network import Network


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("peers")(peers)


def peers(
    context: typer.Context,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
    watch: WatchOption = False,
) -> None:
    """List the machines within reach."""
    output = output_of(context)
    network = Network(parse_peers(peer), iface or ())
    with open_node(output) as node:
        if watch:
            watching(
                output, lambda show: looks(node, network, wait, lambda seen, _: show(_view(seen)), tell=False)
            )
        seen = look_around(node, output, network, wait, tell=False)
    show_once(output, _view(seen))


def _view(seen: Seen) -> View:
    rows = [
        (
            item["node"] or "?",
            item["address"],
            Fail(item["problem"]) or f"{item['images']} shared{_used(item['in_use'])}  {item['id']}",
        )
        for item in sorted(seen.nodes, key=lambda item: (item["node"], item["address"]))
    ]
    return View({"peers": seen.nodes}, (Table(rows, widths=(30, 22)),), error=seen.silence)


def _used(count: int) -> str:
    """How many more a VM uses."""
    return f", {count} in use" if count else ""
