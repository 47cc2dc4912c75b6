"""The share command: hash, announce, serve until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    InterfaceOption,
    PeerOption,
    RateOption,
    image_fields,
    open_node,
    output_of,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.net.messages import Address
    from overlaysync.node.node import Node
    from overlaysync.node.sharing import Share

RECHECK_DAYS = 7.0
_DAY_S = 86400
_INTERRUPTED = 130


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("share")(share)


def share(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, or directories of images.")],
    team: Annotated[
        str | None,
        typer.Option("--team", metavar="TEAM", help="Share with this team alone; '' is everybody."),
    ] = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Listen here; 0 means any.")] = 0,
    limit_rate: RateOption = None,
    recheck: Annotated[
        float,
        typer.Option(
            "--recheck",
            metavar="DAYS",
            min=0.0,
            help="Read again, gently, what was last read longer ago; 0 means never.",
        ),
    ] = RECHECK_DAYS,
) -> None:
    """Share images until Ctrl-C: hash, announce, serve."""
    import asyncio

    output = output_of(context)
    rate = parse_rate(limit_rate)
    addresses = parse_peers(peer)
    with open_node() as node:
        try:
            asyncio.run(_share(node, output, paths, team, addresses, iface or [], port, rate, recheck))
        except KeyboardInterrupt:  # the usual end: there is nothing to complain of
            raise SystemExit(_INTERRUPTED) from None


async def _share(
    node: Node,
    output: Output,
    paths: list[str],
    team: str | None,
    peers: list[Address],
    interfaces: list[str],
    port: int,
    rate: int | None,
    recheck_days: float,
) -> None:
    import asyncio

    from overlaysync.net.client import Client
    from overlaysync.net.rate import RateLimit
    from overlaysync.node.observer import Silent
    from overlaysync.node.reach import Reach
    from overlaysync.node.serving import serve
    from overlaysync.node.sharing import Share

    share = Share(node, paths, team, output)
    try:
        await asyncio.to_thread(share.publish_all)
        async with (
            Client(teams=node.teams) as client,
            Reach.open(
                node, client, Silent(), peers=peers, interfaces=interfaces, mdns_needed=False, catalogs=False
            ) as reach,
            serve(
                share,
                reach=reach,
                port=port,
                interfaces=interfaces,
                limit=RateLimit(rate),
                recheck_s=recheck_days * _DAY_S or None,
            ) as (bound, where),
        ):
            _print_share(output, share, bound, where)
            await asyncio.Event().wait()
    finally:
        share.close()


def _print_share(output: Output, share: Share, port: int, where: str) -> None:
    from overlaysync.model.digest import short_id
    from overlaysync.trust.keys import node_id
    from overlaysync.units import format_size

    lines = []
    book = share.node.book()
    items: list[dict[str, Any]] = []
    for shared in share.shared:
        header = shared.manifest.header
        kind = "overlay" if header.is_layer else "master"
        size = f"{format_size(header.data_size)} of {format_size(header.virtual_size)}"
        on = ""
        if shared.known.parent:
            from overlaysync.ops.publish import stem

            on = f"  on {stem(shared.known.parent.path)} {short_id(shared.known.parent.disk.id)}"
        lines.append(
            output.good(
                f"{kind:8}{header.full_name}:{header.version}  {size}  {short_id(header.content_id)}{on}"
            )
        )
        items.append(image_fields(shared.known, shared.manifest, book, share.node.catalog.versions))
    lines.append(f"  announced as {share.label} on {where}" if where else f"  not announced; port {port}")
    lines.append(f"  your fingerprint, for the board: {node_id(share.public_key)}")
    if any(not shared.manifest.header.is_layer for shared in share.shared):
        lines.append("  QEMU cannot write to a master while it is shared")
    lines.append("  others type (Ctrl-C ends sharing):")
    names = {shared.manifest.header.full_name for shared in share.shared if shared.asked}
    lines += [f"    overlaysync fetch {name}" for name in sorted(names)]
    lines.append(f"  or, without mDNS, with: --peer HOST:{port}")
    output.result({"shared": items, "node": share.label, "port": port, "interfaces": where}, *lines)
