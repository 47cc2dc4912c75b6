"""Commands that make images of images: new, promote, rebase; and discard, which removes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from overlaysync.cli.common import AcceptMasterOption, image_fields, open_node
from overlaysync.cli.finding import (
    examine,
    examine_stray,
    guest_size,
    master_here,
    note_writable,
    overlays_of,
    path_of,
    tell_notes,
)
from overlaysync.cli.formats import FormatOption, format_to_write
from overlaysync.cli.output import Output, output_of
from overlaysync.errors import OverlaysyncError, UsageError
from overlaysync.formats.image import WRITTEN, Format
from overlaysync.formats.recognition import FOREIGN_ENDINGS
from overlaysync.model.digest import short_id
from overlaysync.model.names import printable
from overlaysync.node.node import Node, now
from overlaysync.ops.audience import stem
from overlaysync.ops.backing import check_meant
from overlaysync.ops.discard import check_discardable
from overlaysync.ops.discard import discard as discard_image
from overlaysync.ops.image_paths import check_ending, image_path
from overlaysync.ops.known import Known
from overlaysync.ops.loss import check_nothing_lost, lost_with


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command("new")(new)
    app.command("promote")(promote)
    app.command("discard")(discard)
    app.command("rebase")(rebase)


def new(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The overlay to make.")],
    master: Annotated[
        str,
        typer.Option(
            "--master", metavar="REF|PATH", help="The master to make it on; it must be on this machine."
        ),
    ],
    format: FormatOption = None,
    accept_master: Annotated[
        bool,
        typer.Option(
            "--accept-master", help="Accept the master as it is now, even if it is not as it was published."
        ),
    ] = False,
) -> None:
    """Make a fresh overlay on a master.

    The master must be as it was published.
    """

    output = output_of(context)
    _refuse_foreign(path)
    chosen = format_to_write(format) or _suffix_format(path) or Format.QCOW2
    _refuse_raw(chosen)
    check_ending(path, chosen)
    with open_node(output) as node:
        base = master_here(node, output, master, accept=accept_master)
        known = node.maker.new(path, base, format=chosen, now=now())
        note_writable(output, known)
        tell_notes(output, known)
        output.result(
            image_fields(known),
            output.good(f"{known.path}  overlay on {base.path}, which is {_as_expected(node, base)}"),
        )


def _as_expected(node: Node, base: Known) -> str:
    """How it is known that a master is what it must be."""
    expected = node.library.expected(base.path)
    if expected is None or not expected.ids & {base.content.id, base.disk.id}:
        return "accepted as it is now"
    return expected.words


def _suffix_format(path: str) -> Format | None:

    suffix = os.path.splitext(path)[1].lower().removeprefix(".")
    return Format(suffix) if suffix in WRITTEN else None


def _refuse_foreign(path: str) -> None:
    """Refuse a name that promises a format which is not written here.

    Raises:
        UsageError: it has the ending of one.
    """
    called, ending = os.path.splitext(path)
    if ending.lower() in FOREIGN_ENDINGS:
        raise UsageError(
            f"An overlay cannot be called *{ending}",
            why="an overlay is a qcow2 or QED image",
            hint=f"call it {called}.qcow2",
        )


def _refuse_raw(format: Format) -> None:

    if format == "raw":
        raise UsageError("A raw image cannot be an overlay", hint="name it *.qcow2 or *.qed, or say --format")


def promote(
    context: typer.Context,
    overlay: Annotated[str, typer.Argument(metavar="PATH|REF", help="The overlay to turn into a master.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the new master.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DIR", help="Put the master into DIR (default: beside the overlay)."),
    ] = None,
    format: FormatOption = None,
    discard_it: Annotated[bool, typer.Option("--discard", help="Discard the overlay afterwards.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --discard: give up the overlay's internal snapshots.")
    ] = False,
    accept_master: AcceptMasterOption = False,
) -> None:
    """Turn an overlay into a new master.

    The master is a separate, read-only file.
    """

    output = output_of(context)
    chosen = format_to_write(format)
    with open_node(output) as node:
        overlay = path_of(node, overlay)
        known = examine(node, output, overlay, accept_master=accept_master)
        check_meant(known, (), node.catalog)
        if discard_it:
            check_discardable(overlay, node.catalog)
            _check_snapshots(node, known, f"Not discarding {overlay}", "--discard", yes)
        note_writable(output, known)
        path = image_path(to or os.path.dirname(known.path), name, chosen or known.geometry.format)
        output.begin(f"promoting {os.path.basename(overlay)}", known.disk.virtual_size)
        try:
            master = node.maker.promote(
                known, path, format=chosen or known.geometry.format, now=now(), progress=output.advance
            )
        finally:
            output.end()
        if discard_it:
            try:
                discard_image(overlay, node.catalog, known.files[0])
            except OverlaysyncError:
                output.note(f"  the new master is made: {master.path}; the overlay is kept")
                raise
    tell_notes(output, master)
    lines = [
        output.good(
            f"{master.path}  master {short_id(master.disk.id)}, read-only; its disk is that of the overlay"
        ),
        *([output.good(f"{overlay} discarded")] if discard_it else []),
    ]
    output.result(image_fields(master) | {"discarded": known.path if discard_it else None}, *lines)


def _check_snapshots(node: Node, known: Known, what: str, option: str, yes: bool) -> None:
    """Refuse to lose what the command itself does not keep, unless the user said yes.

    Raises:
        WouldDestroyError: the overlay has internal snapshots.
    """

    if not yes:
        hint = f"leave {option} out, to keep the overlay; to lose its snapshots: the same command with --yes"
        check_nothing_lost(node.library, known, own=node.key.public, keeping=True, what=what, hint=hint)


def discard(
    context: typer.Context,
    overlays: Annotated[list[str], typer.Argument(metavar="PATH|REF...", help="Overlays to remove.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Only show what would be removed, and what would be lost."),
    ] = False,
) -> None:
    """Remove overlays that are no longer needed."""

    output = output_of(context)
    with open_node(output) as node:
        overlays = list(dict.fromkeys(path for text in overlays for path in overlays_of(node, output, text)))
        judged = {path: check_discardable(path, node.catalog) for path in overlays}
        going = [os.path.realpath(path) for path in overlays]
        lost = {path: _lost(node, output, path, going) for path in going}
        fields = [{"path": path, "lost": what or None} for path, what in lost.items()]
        if dry_run:
            lines = [f"would remove {path}: {_lost_words(what)}" for path, what in lost.items()]
            output.result({"discarded": [], "would_lose": fields}, *lines)
            return
        if not yes and not _confirmed(output, overlays, lost):
            names = ", ".join(overlays)
            document = {"discarded": [], "would_lose": fields}
            output.result(document, f"{names} {'is' if len(overlays) == 1 else 'are'} kept")
            return
        for path, file in judged.items():
            discard_image(path, node.catalog, file)
    lines = [output.good(f"{path} discarded") for path in overlays]
    output.result({"discarded": list(lost), "lost": fields}, *lines)


def _lost(node: Node, output: Output, path: str, going: list[str]) -> str:
    """Return what would be lost with an overlay and the others that go; "" for nothing."""

    output.begin(f"looking at {os.path.basename(path)}", guest_size(node, path))
    try:
        return lost_with(
            node.library, path, own=node.key.public, now=now(), going=going, progress=output.advance
        )
    finally:
        output.end()


def _lost_words(what: str) -> str:
    return what or "nothing would be lost"


def _confirmed(output: Output, overlays: list[str], lost: Mapping[str, str]) -> bool:
    """Whether the user agrees, told what would be lost.

    Raises:
        UsageError: stdin is no terminal.
    """

    lines = [f"{path}: {_lost_words(what)}" for path, what in lost.items()]
    if not sys.stdin.isatty():
        for line in lines:
            output.note(f"  {line}")
        raise UsageError(
            "Cannot ask for confirmation: stdin is not a terminal",
            why=_summary(lost),
            hint="the same command with --yes, to remove without being asked; with --dry-run, to see "
            "what would be lost",
        )
    for line in lines:
        typer.echo(f"  {printable(line)}", err=True)
    which = overlays[0] if len(overlays) == 1 else f"these {len(overlays)} overlays"
    return typer.confirm(f"Remove {which} for good?", err=True)


def _summary(lost: Mapping[str, str]) -> str:
    """Of how many of the files something would be lost, and what, where it is one."""

    losing = {path: what for path, what in lost.items() if what}
    if len(lost) == 1:
        return "".join(f"{path}: {_lost_words(what)}" for path, what in lost.items())
    many = "nothing would be lost" if not losing else f"something would be lost with {len(losing)} of them"
    return f"{len(lost)} overlays would be removed, and {many}"


def rebase(
    context: typer.Context,
    overlay: Annotated[str, typer.Argument(metavar="PATH|REF", help="The overlay to move.")],
    onto: Annotated[
        str,
        typer.Option(
            "--onto", metavar="REF|PATH", help="The master to move it to; it must be on this machine."
        ),
    ],
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
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the new overlay take the place of the old one.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --replace: give up the overlay's internal snapshots.")
    ] = False,
    accept_master: AcceptMasterOption = False,
) -> None:
    """Move an overlay to another master, in a new file.

    The guest sees the same disk as before.
    """

    output = output_of(context)
    if replace and (name or to):
        raise UsageError("--replace keeps the overlay's name and place", hint="leave --as and --to out")
    with open_node(output) as node:
        overlay = path_of(node, overlay)
        base = master_here(node, output, onto, accept=accept_master)
        beside = [os.path.dirname(os.path.realpath(overlay)), os.path.dirname(base.path)]
        known = examine_stray(node, output, overlay, beside, accept_master=accept_master)
        check_meant(known, (), node.catalog)
        if replace:
            check_discardable(overlay, node.catalog)
            _check_snapshots(node, known, f"Not replacing {overlay}", "--replace", yes)
            path, replaces = known.path, known.files[0].entry
        else:
            chosen = name or f"{stem(known.path)}-on-{stem(base.path)}"[:64]
            path = image_path(to or os.path.dirname(known.path), chosen, known.geometry.format)
            replaces = None
        output.begin(f"rebasing {os.path.basename(overlay)}", known.disk.virtual_size)
        try:
            moved = node.maker.rebase(
                known, base, path, now=now(), replaces=replaces, progress=output.advance
            )
        finally:
            output.end()
    tell_notes(output, moved)
    output.result(
        image_fields(moved), output.good(f"{moved.path}  on {base.path}; its guest sees the same as before")
    )
