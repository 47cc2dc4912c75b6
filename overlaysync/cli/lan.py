"""Commands that speak with other nodes: share, fetch, ls, peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    FormatOption,
    InterfaceOption,
    PeerOption,
    RateOption,
    image_fields,
    listing_fields,
    open_node,
    output_of,
    parse_format,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.net.messages import Address
    from overlaysync.node.fetching import Fetched, Options
    from overlaysync.node.node import Node
    from overlaysync.node.reach import Reach
    from overlaysync.node.sharing import Share
    from overlaysync.ops.plan import Step
    from overlaysync.ops.resolve import Listing

WaitOption = Annotated[
    float, typer.Option("--wait", metavar="S", min=0.0, max=600.0, help="Look for nodes this many seconds.")
]
LOOK_S = 2.0
FIND_S = 5.0
_INTERRUPTED = 130


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command("share")(share)
    app.command("fetch")(fetch)
    app.command("ls")(ls)
    app.command("peers")(peers)


# -- share -------------------------------------------------------------------------------------------


def share(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, or directories of images.")],
    team: Annotated[str | None, typer.Option("--team", metavar="TEAM", help="Label what is shared.")] = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Listen here; 0 means any.")] = 0,
    limit_rate: RateOption = None,
) -> None:
    """Share images until Ctrl-C: hash, announce, serve."""
    import asyncio

    output = output_of(context)
    rate = parse_rate(limit_rate)
    addresses = parse_peers(peer)
    with open_node() as node:
        try:
            asyncio.run(_share(node, output, paths, team, addresses, iface or [], port, rate))
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
) -> None:
    import asyncio

    from overlaysync.net.client import Client
    from overlaysync.node.observer import Silent
    from overlaysync.node.reach import Reach
    from overlaysync.node.serving import serve
    from overlaysync.node.sharing import Share

    share = Share(node, paths, team, output)
    try:
        await asyncio.to_thread(share.publish_all)
        async with (
            Client() as client,
            Reach.open(
                node, client, Silent(), peers=peers, interfaces=interfaces, mdns_needed=False
            ) as reach,
            serve(share, reach=reach, port=port, interfaces=interfaces, rate=rate) as (bound, where),
        ):
            _print_share(output, share, bound, where)
            await asyncio.Event().wait()
    finally:
        share.close()


def _print_share(output: Output, share: Share, port: int, where: str) -> None:
    from overlaysync.model.digest import short_id
    from overlaysync.units import format_size

    lines = []
    items: list[dict[str, Any]] = []
    for shared in share.shared.values():
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
        items.append(image_fields(shared.known, shared.manifest))
    lines.append(f"  announced as {share.label} on {where}" if where else f"  not announced; port {port}")
    if any(not shared.manifest.header.is_layer for shared in share.shared.values()):
        lines.append("  QEMU cannot write to a master while it is shared")
    lines.append("  others type:")
    for shared in share.shared.values():
        if shared.asked:
            lines.append(f"    overlaysync fetch {shared.manifest.header.full_name}")
    lines.append(f"  or, without mDNS, with: --peer HOST:{port}")
    output.result({"shared": items, "node": share.label, "port": port, "interfaces": where}, *lines)


# -- fetch -------------------------------------------------------------------------------------------


def fetch(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="[TEAM/]NAME[:VERSION][@PEER], an id, or TEAM/ for all of a team.",
            autocompletion=complete_reference,
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Where to put it.")] = ".",
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name of the file.")] = None,
    masters: Annotated[
        str | None,
        typer.Option(
            "--masters", metavar="DIR", help="Where masters are, and missing ones go (default: --to)."
        ),
    ] = None,
    format: FormatOption = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing file of that name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show the plan.")] = False,
    limit_rate: RateOption = None,
    seed: Annotated[
        float, typer.Option("--seed", metavar="SECONDS", min=0.0, help="Then share it this long.")
    ] = 0.0,
    wait: WaitOption = FIND_S,
) -> None:
    """Fetch a master or an overlay, with the master it stands on."""
    import asyncio
    import os

    from overlaysync.errors import UsageError
    from overlaysync.model.names import check_name
    from overlaysync.model.reference import parse_reference
    from overlaysync.node.fetching import Options

    reference = parse_reference(ref)
    if name is not None:
        check_name(name)
        if reference.is_team:
            raise UsageError("--as names one thing, and a team is many", hint="leave --as out")
    options = Options(
        to=os.path.abspath(to),
        masters=os.path.abspath(masters) if masters else None,
        name=name,
        format=parse_format(format),
        replace=replace,
        wait_s=wait,
    )
    work = _Fetching(
        output_of(context), options, parse_peers(peer), iface or [], parse_rate(limit_rate), seed, dry_run
    )
    with open_node() as node:
        asyncio.run(work.run(node, reference))


class _Fetching:
    """The fetch command's own part: what it shows and in which order things happen."""

    def __init__(
        self,
        output: Output,
        options: Options,
        peers: list[Address],
        interfaces: list[str],
        rate: int | None,
        seed: float,
        dry_run: bool,
    ) -> None:
        self._output = output
        self._options = options
        self._peers = peers
        self._interfaces = interfaces
        self._rate = rate
        self._seed = seed
        self._dry_run = dry_run

    async def run(self, node: Node, reference: Any) -> None:
        """Find, plan, and unless it is a dry run fetch and seed."""
        from overlaysync.net.client import Client
        from overlaysync.net.rate import RateLimit
        from overlaysync.node.fetching import Fetch
        from overlaysync.node.reach import Reach

        async with (
            Client(limit=RateLimit(self._rate)) as client,
            Reach.open(node, client, self._output, peers=self._peers, interfaces=self._interfaces) as reach,
        ):
            fetch = Fetch(node, client, reach, self._output, self._options)
            results: list[Fetched] = []
            plans: list[Step] = []
            for wanted in await fetch.find(reference):
                steps = await fetch.plan(wanted, as_master=reference.is_team)
                self._show_plan(steps)
                plans += steps
                if not self._dry_run:
                    results += await fetch.run(steps)
            self._print(plans, results)
            if self._seed and results:
                await self._seed_for(node, reach, results)

    def _show_plan(self, steps: list[Step]) -> None:
        import os

        from overlaysync.model.digest import short_id
        from overlaysync.units import format_size

        for step in steps:
            header = step.header
            kind = "overlay" if header.is_layer else "master"
            text = f"  {header.full_name}:{header.version}  {kind}, {format_size(header.data_size)}"
            if header.parent_id:
                here = "here, verified" if step.base_here else "is fetched first"
                text += f", on {os.path.basename(step.base or '')} {short_id(header.parent_id)} ({here})"
            self._output.note(f"{text}  from {', '.join(step.listing.labels) or 'nobody'}")

    def _print(self, plans: list[Step], results: list[Fetched]) -> None:
        if self._dry_run:
            document = {
                "plan": [
                    listing_fields(step.listing) | {"path": step.path, "base": step.base} for step in plans
                ]
            }
            self._output.result(document, *(f"would write {step.path}" for step in plans))
            return
        unique = list({result.known.path: result for result in reversed(results)}.values())[::-1]
        document = {"fetched": [_fetched_fields(result) for result in unique]}
        self._output.result(document, *(self._line(result) for result in unique))

    def _line(self, result: Fetched) -> str:
        from overlaysync.units import format_size

        if result.already:
            return self._output.good(f"{result.known.path} is already here")
        transfer = result.transfer
        parts = [f"{format_size(transfer.data)} from {', '.join(transfer.sources)}"] if transfer.data else []
        parts += [f"{format_size(transfer.local)} from images here"] if transfer.local else []
        parts += [f"{format_size(transfer.resumed)} from before"] if transfer.resumed else []
        return self._output.good(
            f"{result.known.path}  {'; '.join(parts) or 'nothing to transfer'} · verified"
        )

    async def _seed_for(self, node: Node, reach: Reach, results: list[Fetched]) -> None:
        import asyncio

        from overlaysync.node.serving import serve
        from overlaysync.node.sharing import Share

        share = Share(node, [result.known.path for result in results], None, self._output)
        try:
            await asyncio.to_thread(share.publish_all)
            async with serve(share, reach=reach, interfaces=self._interfaces):
                self._output.note(f"sharing for {self._seed:g} s; Ctrl-C ends it")
                await asyncio.sleep(self._seed)
        finally:
            share.close()


def _fetched_fields(result: Fetched) -> dict[str, Any]:
    transfer = result.transfer
    return image_fields(result.known, result.manifest) | {
        "already_here": result.already,
        "data_size": result.manifest.header.data_size,
        "wire": {"data": transfer.data, "manifest": transfer.manifest},
        "local": transfer.local,
        "resumed": transfer.resumed,
        "sources": transfer.sources,
    }


# -- ls and peers ------------------------------------------------------------------------------------


def ls(
    context: typer.Context,
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", autocompletion=complete_reference, help="Only what fits.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="What is known here, without asking others.")
    ] = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """List masters and overlays within reach."""
    import asyncio

    from overlaysync.cli.images import local_listings
    from overlaysync.model.reference import parse_reference
    from overlaysync.ops.resolve import fits

    output = output_of(context)
    reference = parse_reference(ref) if ref else None
    with open_node() as node:
        if local:
            listings = local_listings(node)
        else:
            listings = asyncio.run(look(node, output, parse_peers(peer), iface or [], wait))[0]
    chosen = [listing for listing in listings if reference is None or fits(reference, listing)]
    chosen.sort(key=lambda item: (item.manifest.header.full_name, -item.manifest.header.version))
    output.result({"images": [listing_fields(listing) for listing in chosen]}, *_table(chosen))
    if not chosen and not output.json:
        output.note("nothing within reach; try --peer HOST:PORT, or: overlaysync doctor")


def _table(listings: list[Listing]) -> list[str]:
    from overlaysync.model.digest import short_id
    from overlaysync.model.names import printable
    from overlaysync.units import format_size

    rows = [
        (
            f"{header.full_name}:{header.version}",
            "overlay" if header.is_layer else "master",
            short_id(header.content_id),
            format_size(header.data_size),
            f"on {printable(header.parent_name)}" if header.is_layer else "",
            f"×{len(listing.peers)}",
            printable(header.by),
        )
        for listing in listings
        for header in (listing.manifest.header,)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(7)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


async def look(
    node: Node, output: Output, peers: list[Address], interfaces: list[str], wait_s: float
) -> tuple[list[Listing], list[dict[str, Any]]]:
    """What is within reach after ``wait_s``: listings, and the nodes as JSON."""
    from overlaysync.net.client import Client
    from overlaysync.node.reach import Reach
    from overlaysync.trust.keys import node_id

    async with (
        Client() as client,
        Reach.open(node, client, output, peers=peers, interfaces=interfaces) as reach,
    ):
        await reach.until(lambda: False, wait_s=wait_s)
        nodes = [
            {
                "node": view.label,
                "id": node_id(view.public_key) if view.public_key else "",
                "address": str(view.address),
                "images": len(view.manifests),
                "problem": view.problem,
            }
            for view in reach.nodes()
        ]
        return reach.listings(), nodes


def peers(
    context: typer.Context,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = LOOK_S,
) -> None:
    """List the nodes within reach."""
    import asyncio

    output = output_of(context)
    with open_node() as node:
        nodes = asyncio.run(look(node, output, parse_peers(peer), iface or [], wait))[1]
    lines = [
        f"{item['node'] or '?':30}  {item['address']:22}  "
        + (item["problem"] or f"{item['images']} shared  {item['id']}")
        for item in sorted(nodes, key=lambda item: (item["node"], item["address"]))
    ]
    output.result({"peers": nodes}, *lines)
    if not nodes and not output.json:
        output.note("no node within reach; try --peer HOST:PORT, or: overlaysync doctor")
