"""The fetch command: find, plan, fetch, and perhaps seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    FormatOption,
    InterfaceOption,
    PeerOption,
    RateOption,
    WaitOption,
    compression,
    image_fields,
    interruptible,
    listing_fields,
    open_node,
    output_of,
    parse_format,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.finding import check_membership
from overlaysync.cli.look import note_silent
from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.net.messages import Address
    from overlaysync.net.rate import RateLimit
    from overlaysync.node.fetching import Fetch, Fetched, Options
    from overlaysync.node.node import Node
    from overlaysync.node.reach import Reach
    from overlaysync.node.transfer import Transfer
    from overlaysync.ops.believe import Choice
    from overlaysync.ops.plan import Step
    from overlaysync.trust.book import Book


FIND_S = 5.0


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("fetch")(fetch)


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
    trusted_only: Annotated[
        bool, typer.Option("--trusted-only", help="Only what publishers signed that you trust by 'trust'.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only show the plan.")] = False,
    limit_rate: RateOption = None,
    seed: Annotated[
        float | None,
        typer.Option(
            "--seed",
            metavar="SECONDS",
            min=0.0,
            help="Then share it this long (default: while others who fetch it now have need of it).",
        ),
    ] = None,
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
        trusted_only=trusted_only,
        wait_s=wait,
    )
    work = _Fetching(
        output_of(context), options, parse_peers(peer), iface or [], parse_rate(limit_rate), seed, dry_run
    )
    with open_node() as node, interruptible():
        check_membership(node, reference)
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
        seed: float | None,
        dry_run: bool,
    ) -> None:
        self._output = output
        self._options = options
        self._peers = peers
        self._interfaces = interfaces
        self._rate = rate
        self._compression = compression()
        self._seed = seed
        self._dry_run = dry_run
        self._first_uses: set[bytes] = set()

    async def run(self, node: Node, reference: Any) -> None:
        """Find, plan, and unless it is a dry run fetch and seed."""
        import asyncio
        from contextlib import suppress

        from overlaysync.net.client import Client
        from overlaysync.net.rate import RateLimit
        from overlaysync.node.fetching import Fetch
        from overlaysync.node.passing import Passing
        from overlaysync.node.reach import Reach

        given = RateLimit(self._rate)  # by both servers together, while it fetches and while it seeds
        async with (
            Client(limit=RateLimit(self._rate), compression=self._compression, teams=node.teams) as client,
            Reach.open(node, client, self._output, peers=self._peers, interfaces=self._interfaces) as reach,
            Passing.open(node, reach, limit=given) as passing,
        ):
            fetch = Fetch(node, client, reach, self._output, self._options, passing)
            results: list[Fetched] = []
            plans: list[Step] = []
            for wanted in await self._find(fetch, reference):
                steps, fetched = await self._bring(fetch, wanted, as_master=reference.is_team)
                plans += steps
                results += fetched
            self._print(node.book(), plans, results)
            if self._seed and results:
                await self._seed_for(self._seed, node, reach, results, given)
            elif self._seed is None:
                with suppress(asyncio.CancelledError):  # Ctrl-C: what was asked for is done
                    await passing.linger()

    async def _find(self, fetch: Fetch, reference: Any) -> list[Choice]:
        """What is meant; who was named or announced and does not answer is spoken of."""
        from overlaysync.errors import NotFoundError

        try:
            found = await fetch.find(reference)
        except NotFoundError:
            note_silent(fetch.reach, self._output)
            raise
        note_silent(fetch.reach, self._output)
        return found

    async def _bring(
        self, fetch: Fetch, wanted: Choice, *, as_master: bool
    ) -> tuple[list[Step], list[Fetched]]:
        """Plan and fetch one thing, as its first publisher describes it that tells the truth."""
        from overlaysync.errors import BaseImageError, VerificationError

        claims = fetch.claims(wanted)
        for claim in claims:
            try:
                steps = await fetch.plan(claim, as_master=as_master)
                self._show_plan(steps)
                if claim is wanted.listing and fetch.accept(wanted, dry_run=self._dry_run):
                    self._first_uses.add(wanted.manifest.id)
                return steps, [] if self._dry_run else await fetch.run(steps)
            except (VerificationError, BaseImageError) as error:
                if claim is claims[-1]:
                    raise
                self._output.note(str(error))
        raise AssertionError("there is at least one claim")

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

    def _print(self, book: Book, plans: list[Step], results: list[Fetched]) -> None:
        if self._dry_run:
            document = {
                "plan": [
                    listing_fields(step.listing, book) | {"path": step.path, "base": step.base}
                    for step in plans
                ]
            }
            self._output.result(document, *(f"would write {step.path}" for step in plans))
            return
        unique = list({result.known.path: result for result in reversed(results)}.values())[::-1]
        document = {"fetched": [_fetched_fields(result, book) for result in unique]}
        self._output.result(document, *(self._line(result) for result in unique))

    def _line(self, result: Fetched) -> str:
        from overlaysync.units import format_size

        whose = self._whose(result)
        if result.already:
            return self._output.good(f"{result.known.path} is already here{whose}")
        transfer = result.transfer
        parts = [f"{_received(transfer)} from {', '.join(transfer.sources)}"] if transfer.data else []
        parts += [f"{format_size(transfer.local)} from images here"] if transfer.local else []
        parts += [f"{format_size(transfer.resumed)} from before"] if transfer.resumed else []
        return self._output.good(
            f"{result.known.path}  {'; '.join(parts) or 'nothing to transfer'} · verified{whose}"
        )

    def _whose(self, result: Fetched) -> str:
        """Whose the name has become, where no note has said so: that is a result."""
        from overlaysync.trust.keys import node_id

        manifest = result.manifest
        if not self._output.quiet or manifest.id not in self._first_uses:
            return ""
        return f" · first use of '{manifest.header.full_name}', published by {node_id(manifest.publisher)}"

    async def _seed_for(
        self, seconds: float, node: Node, reach: Reach, results: list[Fetched], limit: RateLimit
    ) -> None:
        import asyncio

        from overlaysync.node.serving import serve
        from overlaysync.node.sharing import Share

        share = Share(node, [result.known.path for result in results], None, self._output)
        try:
            await asyncio.to_thread(share.publish_all)
            async with serve(share, reach=reach, interfaces=self._interfaces, limit=limit):
                self._output.note(f"sharing for {seconds:g} s; Ctrl-C ends it")
                await asyncio.sleep(seconds)
        finally:
            share.close()


def _received(transfer: Transfer) -> str:
    """Bytes on the wire, and what they became if that is more."""
    from overlaysync.units import format_size

    plain = sum(transfer.sources.values())
    compressed = f", compressed from {format_size(plain)}," if transfer.data < plain else ""
    return f"{format_size(transfer.data)}{compressed}"


def _fetched_fields(result: Fetched, book: Book) -> dict[str, Any]:
    transfer = result.transfer
    return image_fields(result.known, result.manifest, book) | {
        "already_here": result.already,
        "data_size": result.manifest.header.data_size,
        "wire": {"data": transfer.data, "manifest": transfer.manifest},
        "local": transfer.local,
        "resumed": transfer.resumed,
        "sources": transfer.sources,
    }
