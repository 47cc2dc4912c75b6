"""The sync command: bring what is named to its newest version, and perhaps stay and follow."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    FIND_S,
    InterfaceOption,
    MastersOption,
    PeerOption,
    RateOption,
    WaitOption,
    again_of,
    compression,
    interruptible,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.fetch import fetched_fields, fetched_text, show_plan
from overlaysync.cli.looking import note_silent
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.refusals import of_several, refusal_fields, refusal_lines
from overlaysync.cli.signals import ending
from overlaysync.cli.visible import check_membership
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.node.announcing import announcing
from overlaysync.node.fetch_session import FetchSession, fetching
from overlaysync.node.fetch_types import Fetched, Options
from overlaysync.node.kept_teams import kept_teams
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.replica import Replica
from overlaysync.node.serving import serve
from overlaysync.node.syncing import Change, Round, Sync, check_followable, sync_options

_RECHECK_S = 7 * 86400.0
"""As long as a share."""
_HAND_OVER_S = 5.0
"""How long what was just fetched is given while it is fetched by others, before the replica does."""


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("sync")(sync)


def sync(
    context: typer.Context,
    refs: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...",
            help="[TEAM/]NAME[@PEER], a pattern ('vm*'), or TEAM/ for all of a team.",
            autocompletion=complete_reference,
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Put the images into this directory.")] = ".",
    masters: MastersOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="PATTERN", help="Leave out names that match. May be repeated."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Keep running until Ctrl-C: fetch what is published, and share it."),
    ] = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    limit_rate: RateOption = None,
    wait: WaitOption = FIND_S,
) -> None:
    """Bring images to their newest version.

    Files that have changed on this machine are left alone.
    """

    references = [parse_reference(ref) for ref in refs]
    again = again_of(to, masters, peer, iface)
    for reference in references:
        check_followable(reference, again)
    directories = [os.path.abspath(path) for path in masters or ()]
    options = sync_options(os.path.abspath(to), directories, exclude=exclude or (), wait_s=wait, again=again)
    network = Network(parse_peers(peer), iface or (), parse_rate(limit_rate), compression())
    work = _Syncing(output_of(context), options, network, watch)
    with open_node(output_of(context)) as node, interruptible():
        for reference in references:
            check_membership(node, reference)
        try:
            asyncio.run(work.run(node, references))
        except KeyboardInterrupt:
            how, code = ending()
            if work.watching or (watch and not code):  # the usual end: nothing was broken off
                work.output.log(f"ended by {how}")
                raise SystemExit(code) from None
            raise


class _Syncing:
    """The sync command's own part: what it shows, and how long it stays."""

    def __init__(
        self,
        output: Output,
        options: Options,
        network: Network,
        watch: bool,
    ) -> None:
        self.watching = False
        self.output = output
        self._options = options
        self._network = network
        self._watch = watch
        if watch:
            output.stay()

    async def run(self, node: Node, references: list[Reference]) -> None:
        """Bring everything once; then tell what is not at its newest version, or stay and follow."""

        async with fetching(node, self.output, self._network, self._options) as session:
            fetch = session.fetch
            work = Sync(
                fetch,
                references,
                looked=lambda: note_silent(fetch.reach, self.output),
                planned=lambda steps, verdict: show_plan(self.output, steps, self._options, verdict),
            )
            if self._watch:
                await self._follow(node, work, session)
            done = await work.first()
            self._print(node, done)
            with suppress(asyncio.CancelledError):  # Ctrl-C: what was asked for is done
                await fetch.seeder.linger()
            self._complain(done)

    def _complain(self, done: Round) -> None:
        """Raise for what is not at its newest version; the exit code is that of the first."""
        if not done.refusals:
            return
        total = len(done.refusals) + len(done.brought)
        if total == 1:
            raise done.refusals[0].error
        for refusal in done.refusals:
            self.output.note("\n".join(refusal_lines(refusal)))
        raise of_several(
            done.refusals, total, "images could not be brought to the newest version", told=self.output.tells
        )

    # -- staying -------------------------------------------------------------------------------------

    async def _follow(self, node: Node, work: Sync, session: FetchSession) -> None:
        """Share what is here, and follow what is published, until Ctrl-C.

        What is here is served from the first moment: others may have no other source, and what this node
        looks for may be far away.
        """

        replica = Replica(node, (), None, self.output, leaves_out=self._options.leaves_out)
        try:
            await asyncio.to_thread(replica.add_held, work.references, self._options.directories)
            await asyncio.to_thread(replica.refresh)
            reach = session.fetch.reach
            async with (
                announcing(node, self._network.interfaces, reach.faults) as announcer,
                serve(replica, announcer, reach, port=None, limit=session.given, recheck_s=_RECHECK_S) as (
                    port,
                    where,
                ),
                kept_teams(replica, reach),
            ):
                done = await work.first()
                for one in done.brought:
                    _pass_on(replica, one.fetched)
                await asyncio.to_thread(replica.refresh)
                replica.tells = True
                await asyncio.to_thread(self._add_held, replica, work, done)
                names = _shared_names(replica)
                more = {"node": replica.label, "port": port, "interfaces": where, "shared": names}
                self._print(node, done, more)
                for refusal in done.refusals:
                    self.output.note("\n".join(refusal_lines(refusal)))
                self.output.note(
                    f"watching for new versions, and sharing as {replica.label} on port {port}, until Ctrl-C"
                )
                self.output.note(f"  shared from here: {', '.join(names) or 'nothing yet'}")
                self.watching = True
                while True:
                    await session.fetch.seeder.linger(longest_s=_HAND_OVER_S)
                    session.fetch.seeder.let_go()
                    await work.news()
                    for change in await work.again():
                        self._tell(change)
                        if change.fetched is not None:
                            _pass_on(replica, (change.fetched,))
                    # What was published here meanwhile, by a share in another window.
                    await asyncio.to_thread(self._add_held, replica, work, work.last)
        finally:
            replica.close()

    def _add_held(self, replica: Replica, work: Sync, round: Round) -> None:
        refused = {refusal.name for refusal in round.refusals}
        replica.add_held(work.references, self._options.directories, refused)

    def _tell(self, change: Change) -> None:
        """One line with the time for what has changed."""

        clock = "" if self.output.logs else datetime.now().astimezone().strftime("%H:%M:%S ")
        if change.refusal is not None:
            self.output.note(clock + "\n".join(refusal_lines(change.refusal)))
        elif change.fetched is not None:
            line = f"{clock}✔ {_line(change.fetched)}"
            if self.output.json or self.output.logs:  # one document only
                self.output.note(line)
            else:
                self.output.result(None, line)

    # -- what is printed -----------------------------------------------------------------------------

    def _print(self, node: Node, done: Round, more: dict[str, Any] | None = None) -> None:
        book, versions = node.book(), node.catalog.manifests.versions
        results = [fetched for one in done.brought for fetched in one.fetched]
        unique = list({result.known.path: result for result in reversed(results)}.values())[::-1]
        document: dict[str, Any] = {
            "synced": [fetched_fields(one, book, versions) | {"state": _state(one)} for one in unique]
        }
        if done.refusals:
            document["failed"] = [refusal_fields(one) for one in done.refusals]
        self.output.result(document | (more or {}), *(self.output.good(_line(one)) for one in unique))


def _shared_names(replica: Replica) -> list[str]:
    headers = (shared.manifest.header for shared in replica.shared)
    return [f"{header.full_name}:{header.version}" for header in headers]


def _pass_on(replica: Replica, fetched: tuple[Fetched, ...]) -> None:
    for one in fetched:
        replica.add(one.known, (one.here.id,))


def _state(result: Fetched) -> str:
    """Return ``current``, ``updated`` (moved forward) or ``fetched`` (was absent)."""
    if result.already:
        return "current"
    return "updated" if result.verdict.standing is not None else "fetched"


def _line(result: Fetched) -> str:
    header = result.manifest.header
    return f"{header.full_name}:{header.version}  {fetched_text(result)}"
