"""The adopt command: put an overlay whose backing path is stale on the master that it belongs to."""

from __future__ import annotations

import asyncio
import os
import shlex
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from overlaysync.cli.common import (
    FIND_S,
    InterfaceOption,
    PeerOption,
    WaitOption,
    compression,
    given,
    image_fields,
    interruptible,
    open_node,
    parse_peers,
)
from overlaysync.cli.finding import here, is_path, look_at
from overlaysync.cli.looking import note_silent
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.visible import check_membership
from overlaysync.errors import BaseImageError, NotFoundError, UsageError
from overlaysync.model.names import check_name
from overlaysync.model.reference import Reference, parse_reference
from overlaysync.net.messages import Address
from overlaysync.node.adoption import Adoption
from overlaysync.node.fetch_session import fetching
from overlaysync.node.fetch_types import Options
from overlaysync.node.network import Network
from overlaysync.node.node import Node, now, timestamp
from overlaysync.ops.adopt import Proof, already_stands, note_history, note_unverified, read_over, settle
from overlaysync.ops.adopt_messages import ElsewhereError
from overlaysync.ops.audience import stem
from overlaysync.ops.backing import mark_meant
from overlaysync.ops.image_paths import image_path
from overlaysync.ops.known import Known
from overlaysync.ops.part_files import check_free
from overlaysync.ops.strays import Stray


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("adopt")(adopt)


def adopt(
    context: typer.Context,
    overlay: Annotated[str, typer.Argument(metavar="OVERLAY", help="The overlay to put on its master.")],
    master: Annotated[
        str | None,
        typer.Option(
            "--master",
            metavar="REF|PATH",
            help="Consider this master only (default: look for the right one).",
        ),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified",
            help="Accept the master given as a path, even if nothing proves that it is the right one.",
        ),
    ] = False,
    accept_master: Annotated[
        bool,
        typer.Option(
            "--accept-master", help="With --unverified: accept a master that is not as it was published."
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Name of the new overlay (default: OVERLAY-on-MASTER)."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DIR", help="Put the new overlay into DIR (default: beside the old one)."
        ),
    ] = None,
    masters: Annotated[
        list[str] | None,
        typer.Option(
            "--masters",
            metavar="DIR",
            help="Look for masters in DIR, and put a missing one into the first DIR that can be written "
            "(default: where the new overlay goes). May be repeated.",
        ),
    ] = None,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    wait: WaitOption = FIND_S,
) -> None:
    """Put a copied overlay back on its master.

    The result is a new file.
    """

    again = given(context, "master", "unverified")
    if unverified and not (master and is_path(master)):
        raise UsageError(
            "--unverified needs the path of the master",
            hint=shlex.join(["overlaysync", "adopt", overlay, *again, "--master", "PATH", "--unverified"]),
        )
    if name is not None:
        check_name(name)
    options = Options(
        to=os.path.abspath(to or os.path.dirname(os.path.realpath(overlay))),
        masters=tuple(os.path.abspath(path) for path in masters or ()),
        wait_s=wait,
    )
    addresses = parse_peers(peer)
    with open_node(output_of(context)) as node, interruptible():
        work = _Adopting(output_of(context), node, options, addresses, iface or [], accept_master, again)
        work.run(overlay, master, name, unverified=unverified)


@dataclass(frozen=True, slots=True)
class _Adopting:
    """The adopt command's own part: in which order things happen, and what is said."""

    output: Output
    node: Node
    options: Options
    peers: list[Address]
    interfaces: list[str]
    accept_master: bool
    again: tuple[str, ...] = ()

    def run(self, overlay: str, master: str | None, name: str | None, *, unverified: bool) -> None:
        """Find the master, write the overlay anew, and say what shows that it belongs there."""

        stray = replace(look_at(self.node, self.output, overlay), options=self.again)
        directories = [*self.options.directories, os.path.dirname(stray.path)]
        adoption = Adoption(self.node, stray, list(dict.fromkeys(directories)), self.output)
        only = self._named(master)
        try:
            proof = self._prove(adoption, only, name)
        except BaseImageError as error:
            if not unverified:
                raise
            self._force(stray, only, name, error)
            return
        assert proof.known.parent is not None
        if already_stands(self.node.library, overlay, proof.known.parent.disk.id, now=now()):
            settle(self.node.library, proof.known, proof)
            self.output.result(
                image_fields(proof.known)
                | {"adopted": None, "verified": True, "proof": proof.words, "notes": list(proof.known.notes)},
                self.output.good(f"{overlay} already stands on its master: {proof.words}"),
            )
            return
        made = self._write(stray, proof.known, name, proof)
        self._print(stray, made, proof.words, verified=True)

    def _named(self, master: str | None) -> Known | Reference | None:
        """Return the master that the user named: an image here, or a reference to look for."""

        if master is None:
            return None
        try:
            return here(self.node, self.output, master)
        except NotFoundError:
            if is_path(master):
                raise
            reference = parse_reference(master)
            check_membership(self.node, reference)
            return reference

    def _prove(self, adoption: Adoption, only: Known | Reference | None, name: str | None) -> Proof:
        """Return the overlay on its master: by what is here if that is enough, else with what peers have."""

        if only is None:
            proof = adoption.here()
        else:
            proof = None if isinstance(only, Reference) else adoption.on(only)
        if proof is None:
            if name is not None:  # before a master is fetched for it
                check_free(image_path(self.options.to, name, adoption.stray.geometry.format))
            proof = asyncio.run(self._within_reach(adoption, only))
        return proof

    async def _within_reach(self, adoption: Adoption, only: Known | Reference | None) -> Proof:

        network = Network(self.peers, self.interfaces, compression=compression(), mdns_needed=False)
        async with fetching(self.node, self.output, network, self.options) as session:
            try:
                return await adoption.within_reach(session.fetch, only)
            finally:
                note_silent(session.fetch.reach, self.output)

    def _write(self, stray: Stray, known: Known, name: str | None, proof: Proof | None) -> Known:
        """Write the overlay to a new file on the master that ``known`` was read over."""

        assert known.parent is not None
        for note in known.notes:
            self.output.note(f"{stray.path}: {note}")
        chosen = name or f"{stem(stray.path)}-on-{stem(known.parent.path)}"[:64]
        path = image_path(self.options.to, chosen, known.geometry.format)
        self.output.begin(f"writing {os.path.basename(path)}", known.disk.virtual_size)
        try:
            made = self.node.maker.adopt(known, path, now=now(), progress=self.output.advance)
        finally:
            self.output.end()
        self.node.catalog.images.mark_named(made.path)
        mark_meant(self.node.catalog, known.parent, self.options.directories)
        if proof is not None:
            note_history(self.node.library, stray, made, proof, at=timestamp())
        return made

    def _force(
        self, stray: Stray, only: Known | Reference | None, name: str | None, refusal: BaseImageError
    ) -> None:
        """Put the overlay on the image that the user named, and say loudly that nothing proves it."""

        assert isinstance(only, Known)
        if not self.accept_master:
            self.node.library.masters.check_as_published(only)
        made = self._write(stray, read_over(self.node.library, stray, only), name, None)
        against = refusal.why if isinstance(refusal, ElsewhereError) else ""
        text = note_unverified(self.node.library, made, against, at=timestamp())
        self._print(stray, made, text, verified=False)

    def _print(self, stray: Stray, made: Known, words: str, *, verified: bool) -> None:
        assert made.parent is not None
        fields = {"adopted": stray.path, "verified": verified, "proof": words if verified else None}
        text = f"{made.path}  on {made.parent.path}: {words}"
        self.output.result(
            image_fields(made) | fields | {"notes": list(made.notes) if verified else [words]},
            self.output.good(text) if verified else f"NOT VERIFIED  {text}",
            f"  {stray.path} is unchanged; remove it when the VM runs from the new file",
        )
