"""The fetch command: find, plan, fetch, and perhaps seed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from overlaysync.archive.places import has_places
from overlaysync.cli.common import (
    FIND_S,
    DryRunOption,
    InterfaceOption,
    MastersOption,
    PeerOption,
    RateOption,
    WaitOption,
    again_of,
    compression,
    image_fields,
    interruptible,
    listing_fields,
    number_from,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.formats import FormatOption, format_to_write
from overlaysync.cli.later import later
from overlaysync.cli.looking import note_silent
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.refusals import of_several, refusal_fields, refusal_lines
from overlaysync.cli.visible import check_membership
from overlaysync.errors import Refusal, UsageError
from overlaysync.model.digest import short_id
from overlaysync.model.names import check_name
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.node.collection import Brought, Collection
from overlaysync.node.download import TransferStats
from overlaysync.node.fetch_session import fetching
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.fetching import Fetch
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.ops.bases import lies_in
from overlaysync.ops.listed_versions import Versions
from overlaysync.ops.matching import Listing
from overlaysync.ops.plan import Step
from overlaysync.ops.replacement import Rules, Verdict
from overlaysync.ops.timeline import is_fork
from overlaysync.trust.book import Book
from overlaysync.trust.keys import node_id
from overlaysync.units import format_size


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("fetch")(fetch)


def fetch(
    context: typer.Context,
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...",
            help="[TEAM/]NAME[:VERSION][@PEER], an id, a pattern ('vm*'), or TEAM/ for all of a team.",
            autocompletion=complete_reference,
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Put the images into this directory.")] = ".",
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name the file NAME.")] = None,
    masters: MastersOption = None,
    format: FormatOption = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a file if the new version follows the one it holds.")
    ] = False,
    discard_changes: Annotated[
        bool,
        typer.Option("--discard-changes", help="Replace files even if this loses data that only they hold."),
    ] = False,
    trusted_only: Annotated[
        bool, typer.Option("--trusted-only", help="Accept only publishers you have trusted explicitly.")
    ] = False,
    dry_run: DryRunOption = False,
    limit_rate: RateOption = None,
    seed: Annotated[
        float | None,
        typer.Option(
            "--seed",
            metavar="SECONDS",
            parser=number_from(0),
            help="Keep sharing for SECONDS after the fetch (default: until current downloaders finish, "
            "at most 30).",
        ),
    ] = None,
    wait: WaitOption = FIND_S,
) -> None:
    """Fetch images, with the masters they stand on."""

    references = [parse_reference(ref) for ref in refs]
    if name is not None:
        check_name(name)
        if len(references) > 1 or references[0].is_many:
            raise UsageError("--as names one image, and several may be meant", hint="leave --as out")
    options = Options(
        to=os.path.abspath(to),
        masters=tuple(os.path.abspath(path) for path in masters or ()),
        name=name,
        format=format_to_write(format),
        rules=Rules(replace, discard_changes),
        trusted_only=trusted_only,
        wait_s=wait,
        archives=True,
        again=dataclasses.replace(
            again_of(to, masters, peer, iface, trusted_only=trusted_only), name=name, format=format
        ),
    )
    network = Network(parse_peers(peer), iface or (), parse_rate(limit_rate), compression())
    with open_node(output_of(context)) as node, interruptible():
        if has_places(node.home.config):  # an archive may have it when there is no network
            network = dataclasses.replace(network, mdns_needed=False)
        work = _Fetching(output_of(context), options, network, seed, dry_run)
        for reference in references:
            check_membership(node, reference)
        asyncio.run(work.run(node, references))


class _Fetching:
    """The fetch command's own part: what it shows and in which order things happen."""

    def __init__(
        self,
        output: Output,
        options: Options,
        network: Network,
        seed: float | None,
        dry_run: bool,
    ) -> None:
        self._output = output
        self._options = options
        self._network = network
        self._seed = seed
        self._dry_run = dry_run
        self._first_uses: set[bytes] = set()

    async def run(self, node: Node, references: list[Reference]) -> None:
        """Find, plan, and unless it is a dry run fetch and seed.

        Of several things all that can be had are fetched; what cannot is listed, and makes the exit code.
        """

        async with fetching(node, self._output, self._network, self._options) as session:
            fetch = session.fetch
            collection = Collection(
                fetch,
                dry_run=self._dry_run,
                planned=lambda steps, verdict: show_plan(self._output, steps, self._options, verdict),
            )
            single = len(references) == 1 and not references[0].is_many
            brought = []
            try:
                found = await collection.find(references)
            finally:
                note_silent(fetch.reach, self._output)
            for wanted in found:
                done = await (collection.bring_one if single else collection.bring)(wanted)
                if done is not None:
                    brought.append(done)
                    self._tell_newer(fetch, done)
            self._first_uses = collection.first_uses
            results = [fetched for one in brought for fetched in one.fetched]
            plans = [step for one in brought for step in one.plan]
            self._print(node, plans, results, collection.refusals)
            if self._seed and results:
                paths = [result.known.path for result in results]
                await later("node.seeding").seed_for(
                    session, paths, self._seed, network=self._network, observer=self._output
                )
            elif self._seed is None:
                with suppress(asyncio.CancelledError):  # Ctrl-C: what was asked for is done
                    await fetch.seeder.linger()
            if collection.refusals:
                total = len(collection.refusals) + len({one.choice.manifest.id for one in brought})
                for refusal in collection.refusals:
                    self._output.note("\n".join(refusal_lines(refusal)))
                told = self._output.tells
                raise of_several(collection.refusals, total, "could not be fetched", told=told)

    def _tell_newer(self, fetch: Fetch, brought: Brought) -> None:
        """Say when the version that was asked for is not the newest within reach."""
        newer = fetch.newer_than(brought.choice)
        if newer and brought.fetched and brought.fetched[-1].already:
            header = brought.choice.manifest.header
            self._output.note(
                f"  {header.full_name}:{newer.version} follows it and is within reach: "
                + self._options.again.about(header.full_name).fetch("--replace")
            )

    def _print(
        self,
        node: Node,
        plans: list[tuple[Step, Verdict | None]],
        results: list[Fetched],
        refusals: list[Refusal],
    ) -> None:

        book, versions = node.book(), node.catalog.manifests.versions
        more = {"failed": [refusal_fields(one) for one in refusals]} if refusals else {}
        if self._dry_run:
            document = {
                "plan": [
                    listing_fields(step.listing, book, fork=is_fork(step.listing.manifest, versions))
                    | {"path": step.path, "base": step.base, "already_here": _is_here(verdict)}
                    | {"would_lose": (verdict.lost or None) if verdict else None}
                    for step, verdict in plans
                ]
            }
            lines = [
                f"{step.path} is already here" if _is_here(verdict) else _would_write(step, verdict)
                for step, verdict in plans
            ]
            self._output.result(document | more, *lines)
            return
        unique = list({result.known.path: result for result in reversed(results)}.values())[::-1]
        document = {"fetched": [fetched_fields(result, book, versions) for result in unique]}
        self._output.result(document | more, *(self._line(result) for result in unique))

    def _line(self, result: Fetched) -> str:
        return self._output.good(f"{fetched_text(result)}{self._whose(result)}")

    def _whose(self, result: Fetched) -> str:
        """Whose the name has become, where no note has said so: that is a result."""

        manifest = result.manifest
        if not self._output.quiet or manifest.id not in self._first_uses:
            return ""
        return f" · first use of '{manifest.header.full_name}', published by {node_id(manifest.publisher)}"


def show_plan(output: Output, steps: Sequence[Step], options: Options, verdict: Verdict | None) -> None:
    """Say what will be fetched, on what, from which peers, and what it takes the place of."""

    for step in steps:
        header = step.header
        kind = "overlay" if header.is_layer else "master"
        room = f"takes {format_size(header.data_size)}"
        if step.packing:
            both = header.data_size + step.packing.room
            room = f"takes {format_size(step.packing.room)}, compressed, and {format_size(both)} until then"
        text = f"  {header.full_name}:{header.version}  {kind}, {room}"
        if header.parent_id:
            here = "here, verified" if step.base_here else "will be fetched first"
            text += f", on {_base_name(step, options)} {short_id(header.parent_id)} ({here})"
        output.note(f"{text}  from {_sources(step.listing)}")
    if verdict is not None and verdict.replaces:
        output.note(f"  replaces {verdict.replaces} at {steps[-1].path}")
    # Where missing masters go, when that is not where the user would expect them.
    masters, place = options.masters, options.masters_place
    missing = [step for step in steps if step.brought or not step.header.is_layer]
    if masters and place != masters[0] and any(os.path.dirname(step.path) == place for step in missing):
        brought = any(step.brought for step in missing)
        beside = ", beside the overlay" if brought and place not in masters else ""
        output.note(f"  {masters[0]} is not writable: the missing master goes to {place}{beside}")


def _base_name(step: Step, options: Options) -> str:
    """Return what an overlay is put on: by its path, unless it lies where the user would look for it."""

    base = step.base or ""
    expected = lies_in(base, options.directories) if step.base_here else True
    return os.path.basename(base) if expected else base


def _sources(listing: Listing) -> str:
    """Return the nodes that have it, and how many machines those are."""
    labels = list(dict.fromkeys(listing.labels))  # one may run several commands there
    if len(labels) < 2:
        return "".join(labels) or "no peer"
    return f"{', '.join(labels)} (×{listing.machines})"


def fetched_text(result: Fetched) -> str:
    """Where an image is now, and where its bytes came from."""

    if result.already:
        return f"{result.known.path} is already here{_what_is_here(result)}"
    transfer = result.transfer
    parts = [f"{_received(transfer)} from {', '.join(transfer.sources)}"] if transfer.data else []
    parts += [f"{format_size(transfer.local)} from images here"] if transfer.local else []
    parts += [f"{format_size(transfer.resumed)} from before"] if transfer.resumed else []
    replaced = f" · replaced {result.verdict.replaces}" if result.verdict.replaces else ""
    return f"{result.known.path}  {'; '.join(parts) or 'nothing to transfer'} · verified{replaced}"


def fetched_fields(result: Fetched, book: Book, versions: Versions) -> dict[str, Any]:
    """Return the JSON form of an image that is here now."""
    transfer = result.transfer
    return image_fields(result.known, result.here, book, versions) | {
        "already_here": result.already,
        "data_size": result.here.header.data_size,
        "wire": {"data": transfer.data, "manifest": transfer.manifest},
        "local": transfer.local,
        "resumed": transfer.resumed,
        "sources": transfer.sources,
        "lost": result.verdict.lost or None,
    }


def _is_here(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.known is not None


def _would_write(step: Step, verdict: Verdict | None) -> str:
    replaced = f", which replaces {verdict.replaces}" if verdict and verdict.replaces else ""
    return f"would write {step.path}{replaced}"


def _what_is_here(result: Fetched) -> str:
    """Which version is here, where that follows the one that was found."""
    here, found = result.here.header, result.manifest.header
    if result.here is result.manifest:
        return ""
    return f" as {here.full_name}:{here.version}, which is newer than {found.full_name}:{found.version}"


def _received(transfer: TransferStats) -> str:
    """Bytes on the wire, and what they became if that is more."""

    plain = sum(transfer.sources.values())
    compressed = f", compressed from {format_size(plain)}," if transfer.data < plain else ""
    return f"{format_size(transfer.data)}{compressed}"
