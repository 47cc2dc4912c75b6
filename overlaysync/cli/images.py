"""Commands that work on images here: id, show, new, verify, promote, discard, rebase."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    FormatOption,
    PeerOption,
    image_fields,
    listing_fields,
    open_node,
    output_of,
    parse_format,
    parse_peers,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.formats.image import Format
    from overlaysync.node.node import Node
    from overlaysync.ops.library import Known
    from overlaysync.ops.resolve import Listing
    from overlaysync.ops.verify import Verdict
    from overlaysync.trust.envelope import Manifest

_NAMED_DAMAGE = 20
"""Damaged ranges listed for people; JSON has them all."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command("id")(identify)
    app.command("show")(show)
    app.command("new")(new)
    app.command("verify")(verify)
    app.command("promote")(promote)
    app.command("discard")(discard)
    app.command("rebase")(rebase)


# -- id and show -------------------------------------------------------------------------------------


def identify(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="An image.")],
    format: FormatOption = None,
) -> None:
    """Print the disk id of an image (and layer id and parent of an overlay)."""
    output = output_of(context)
    with open_node() as node:
        known = examine(node, output, path, parse_format(format))
        fields = image_fields(known)
    lines = [f"{name:7} {fields[name]}" for name in ("disk", "layer", "parent") if fields[name]]
    output.result(fields, *lines)


def show(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="REF|PATH", autocompletion=complete_reference, help="What to show.")
    ],
    peer: PeerOption = None,
    wait: Annotated[float, typer.Option("--wait", metavar="S", min=0.0, max=600.0)] = 2.0,
) -> None:
    """Show one thing in full: ids, sizes, lineage, copies."""
    output = output_of(context)
    with open_node() as node:
        if is_path(what):
            fields = _show_image(node, output, what)
        else:
            fields = _show_reference(node, output, what, peer, wait)
    output.result(fields, *_rows(fields))


def _rows(fields: dict[str, Any]) -> list[str]:
    """``fields`` for people: one line each, lists one line an item."""
    from overlaysync.units import format_size

    lines = []
    for name, value in fields.items():
        if value in (None, "", []):
            continue
        if name.endswith("size"):
            value = f"{format_size(value)} ({value} bytes)"
        label = name.replace("_", " ")
        values = value if isinstance(value, list) else [value]
        for at, item in enumerate(values):
            text = "  ".join(str(part) for part in item.values()) if isinstance(item, dict) else item
            lines.append(f"{label if at == 0 else '':13} {text}")
    return lines


def _show_image(node: Node, output: Output, path: str) -> dict[str, Any]:
    from overlaysync.formats.files import open_regular
    from overlaysync.formats.locks import in_use_for_writing, writer_of
    from overlaysync.model.digest import format_id
    from overlaysync.ops.discard import standing_on
    from overlaysync.trust.envelope import open_envelope

    known = examine(node, output, path)
    manifest = manifest_of(node, known)
    fields = image_fields(known, manifest)
    status = os.stat(known.path)
    fd = open_regular(known.path)
    try:
        fields["in_use"] = (writer_of(fd) or "another program") if in_use_for_writing(fd) else ""
    finally:
        os.close(fd)
    fields["file_size"] = status.st_size
    fields["cluster_size"] = known.geometry.cluster_size
    fields["lineage"] = [
        {"path": image.path, "disk": format_id(image.disk.id)} for image in list(known.lineage)[1:]
    ]
    fields["stands_on_it"] = standing_on(known.path, (status.st_dev, status.st_ino), node.catalog)
    fields["copies"] = [row.path for row in node.library.holders(known.disk.id) if row.path != known.path]
    fields["published_as"] = [
        f"{header.full_name}:{header.version} by {header.by}"
        for row in node.catalog.manifests(content=known.content.id)
        for header in (open_envelope(row.envelope).header,)
    ]
    fields["notes"] = list(known.notes)
    return fields


def _show_reference(
    node: Node, output: Output, text: str, peers: list[str] | None, wait_s: float
) -> dict[str, Any]:
    import asyncio

    from overlaysync.cli.lan import look
    from overlaysync.model.reference import parse_reference
    from overlaysync.ops.resolve import resolve

    reference = parse_reference(text)
    listings = local_listings(node)
    remote = asyncio.run(look(node, output, parse_peers(peers), [], wait_s))[0]
    listing = resolve(reference, [*remote, *listings])[0]
    fields = listing_fields(listing)
    fields["copies"] = [row.path for row in node.library.holders(listing.manifest.header.result_id)]
    return fields


# -- new ---------------------------------------------------------------------------------------------


def new(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The overlay to make.")],
    master: Annotated[
        str,
        typer.Option("--master", metavar="REF|PATH", help="The master it stands on, here on this machine."),
    ],
    format: FormatOption = None,
) -> None:
    """Make a fresh overlay on a verified master."""
    from overlaysync.formats.image import Format
    from overlaysync.node.node import now

    output = output_of(context)
    chosen = parse_format(format) or _suffix_format(path) or Format.QCOW2
    _refuse_raw(chosen)
    with open_node() as node:
        base = here(node, output, master)
        known = node.maker.new(path, base, format=chosen, now=now())
        output.result(
            image_fields(known),
            output.good(f"{known.path}  overlay on {base.path}, whose content is verified"),
        )


def _suffix_format(path: str) -> Format | None:
    from overlaysync.formats.image import Format

    suffix = os.path.splitext(path)[1].lower().removeprefix(".")
    return Format(suffix) if suffix in list(Format) else None


def _refuse_raw(format: Format) -> None:
    from overlaysync.errors import UsageError

    if format == "raw":
        raise UsageError("a raw image cannot be an overlay", hint="--format qcow2 or qed")


# -- verify ------------------------------------------------------------------------------------------


def verify(
    context: typer.Context,
    what: Annotated[list[str], typer.Argument(metavar="PATH|REF...", autocompletion=complete_reference)],
    repair: Annotated[bool, typer.Option("--repair", help="Heal what is damaged, from peers.")] = False,
    peer: PeerOption = None,
) -> None:
    """Re-read images and compare them with what is known of them."""
    from overlaysync.node.node import now
    from overlaysync.ops.verify import verify as verify_image

    output = output_of(context)
    addresses = parse_peers(peer)
    verdicts = []
    with open_node() as node:
        for text in what:
            path = text if is_path(text) else here(node, output, text).path
            output.begin(f"verifying {os.path.basename(path)}", guest_size(path))
            try:
                verdict = verify_image(node.library, path, now=now(), progress=output.advance)
            finally:
                output.end()
            if verdict.damage and repair:
                verdict = _repair(node, output, verdict, addresses)
            verdicts.append(verdict)
    _report_verdicts(output, verdicts)


def _report_verdicts(output: Output, verdicts: list[Verdict]) -> None:
    from overlaysync.errors import VerificationError

    lines, fields = [], []
    for verdict in verdicts:
        path = verdict.path
        fields.append(
            {
                "path": path,
                "ok": not verdict.damage,
                "changed_since": verdict.touched,
                "damage": [{"offset": item.offset, "length": item.length} for item in verdict.damage],
            }
        )
        if not verdict.damage:
            lines.append(output.good(f"{path}  verified"))
            continue
        why = "it was written to since" if verdict.touched else "its bytes have rotted"
        lines.append(f"✗ {path}  differs from what is known of it; {why}")
        lines += [
            f"    guest offset {item.offset:#x}, {item.length} bytes"
            for item in verdict.damage[:_NAMED_DAMAGE]
        ]
        if len(verdict.damage) > _NAMED_DAMAGE:
            lines.append(f"    and {len(verdict.damage) - _NAMED_DAMAGE} more places")
    output.result({"verified": fields}, *lines)
    bad = [verdict.path for verdict in verdicts if verdict.damage]
    if bad:
        raise VerificationError(
            f"{len(bad)} of {len(verdicts)} images differ from what is known of them",
            hint=f"overlaysync verify --repair '{bad[0]}', to heal it from peers",
        )


def _repair(node: Node, output: Output, verdict: Verdict, addresses: list[Any]) -> Verdict:
    import asyncio

    from overlaysync.node.repairing import repair

    return asyncio.run(repair(node, output, verdict, addresses))


# -- promote, discard, rebase ------------------------------------------------------------------------


def promote(
    context: typer.Context,
    overlay: Annotated[str, typer.Argument(metavar="OVERLAY", help="The overlay worth keeping.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the new master.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="Where to put it (default: beside the overlay).")
    ] = None,
    format: FormatOption = None,
    discard_it: Annotated[bool, typer.Option("--discard", help="Then discard the overlay.")] = False,
) -> None:
    """Make a new standalone read-only master out of an overlay."""
    from overlaysync.model.digest import short_id
    from overlaysync.node.node import now
    from overlaysync.ops.discard import check_discardable
    from overlaysync.ops.discard import discard as discard_image
    from overlaysync.ops.make import image_path

    output = output_of(context)
    chosen = parse_format(format)
    with open_node() as node:
        known = examine(node, output, overlay)
        if discard_it:
            check_discardable(overlay, node.catalog)
        path = image_path(to or os.path.dirname(known.path), name, chosen or known.geometry.format)
        output.begin(f"promoting {os.path.basename(overlay)}", known.disk.virtual_size)
        try:
            master = node.maker.promote(
                known, path, format=chosen or known.geometry.format, now=now(), progress=output.advance
            )
        finally:
            output.end()
        if discard_it:
            discard_image(overlay, node.catalog)
    lines = [
        output.good(f"{master.path}  master {short_id(master.disk.id)}, read-only, as known in advance"),
        *([output.good(f"{overlay} discarded")] if discard_it else []),
    ]
    output.result(image_fields(master) | {"discarded": overlay if discard_it else None}, *lines)


def discard(
    context: typer.Context,
    overlays: Annotated[list[str], typer.Argument(metavar="OVERLAY...", help="Overlays to remove.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove overlays that are no longer needed."""
    import sys

    from overlaysync.errors import UsageError
    from overlaysync.ops.discard import check_discardable
    from overlaysync.ops.discard import discard as discard_image

    output = output_of(context)
    with open_node() as node:
        for path in overlays:
            check_discardable(path, node.catalog)
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("Nobody can be asked here whether to discard", hint="add --yes")
            names = ", ".join(overlays)
            typer.confirm(f"Remove {names} for good?", abort=True, err=True)
        for path in overlays:
            discard_image(path, node.catalog)
    output.result({"discarded": overlays}, *(output.good(f"{path} discarded") for path in overlays))


def rebase(
    context: typer.Context,
    overlay: Annotated[str, typer.Argument(metavar="OVERLAY", help="The overlay to move.")],
    onto: Annotated[
        str, typer.Option("--onto", metavar="REF|PATH", help="The master to move it to, on this machine.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Name of the new overlay (default: OVERLAY-on-MASTER)."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="DIR", help="Default: beside the overlay.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the new overlay take the place of the old one.")
    ] = False,
) -> None:
    """Move an overlay to another master, losing nothing, in a new file."""
    from overlaysync.errors import UsageError
    from overlaysync.node.node import now
    from overlaysync.ops.discard import check_discardable
    from overlaysync.ops.make import image_path
    from overlaysync.ops.publish import stem

    output = output_of(context)
    if replace and (name or to):
        raise UsageError("--replace keeps name and place", hint="leave --as and --to out")
    with open_node() as node:
        known = examine(node, output, overlay)
        base = here(node, output, onto)
        if replace:
            check_discardable(overlay, node.catalog)
            path = known.path
        else:
            chosen = name or f"{stem(known.path)}-on-{stem(base.path)}"[:64]
            path = image_path(to or os.path.dirname(known.path), chosen, known.geometry.format)
        output.begin(f"rebasing {os.path.basename(overlay)}", known.disk.virtual_size)
        try:
            moved = node.maker.rebase(known, base, path, now=now(), replace=replace, progress=output.advance)
        finally:
            output.end()
    output.result(
        image_fields(moved), output.good(f"{moved.path}  on {base.path}; its guest sees the same as before")
    )


# -- finding images ----------------------------------------------------------------------------------


def is_path(text: str) -> bool:
    """Whether the user means a file: it exists, or is written like a path."""
    return (
        os.path.exists(text)
        or text.startswith((".", "/", "~"))
        or text.endswith((".qcow2", ".qed", ".raw", ".img"))
    )


def guest_size(path: str) -> int:
    """Guest bytes of an image and all below it: the work of hashing it."""
    from overlaysync.formats.chain import Chain

    with Chain.open(path) as chain:
        return sum(image.virtual_size for image in chain.images)


def examine(node: Node, output: Output, path: str, format: Format | None = None) -> Known:
    """What is in the image, with a progress bar while it is hashed."""
    from overlaysync.formats.chain import Chain
    from overlaysync.node.node import now

    with Chain.open(path, format) as chain:
        size = sum(image.virtual_size for image in chain.images)
    output.begin(f"hashing {os.path.basename(path)}", size)
    try:
        return node.library.examine(path, now=now(), format=format, progress=output.advance)
    finally:
        output.end()


def here(node: Node, output: Output, text: str) -> Known:
    """The image on this machine that a path or reference means.

    Raises:
        NotFoundError: it is not here.
        AmbiguousError: several fit.
    """
    from overlaysync.errors import NotFoundError
    from overlaysync.model.reference import parse_reference
    from overlaysync.ops.resolve import resolve

    if is_path(text):
        return examine(node, output, text)
    reference = parse_reference(text)
    if reference.id_prefix is not None:
        for row in node.catalog.all_images():
            if row.disk.hex().startswith(reference.id_prefix) and node.library.known(row.path):
                return examine(node, output, row.path)
    listings = local_listings(node)
    if not listings and reference.id_prefix is None:
        raise NotFoundError(f"'{reference}' is not on this machine", hint=f"overlaysync fetch {reference}")
    content = resolve(reference, listings)[0].manifest.header
    rows = node.catalog.images_with_layer(content.content_id) or node.catalog.images_with_disk(
        content.content_id
    )
    for row in rows:
        if node.library.known(row.path):
            return examine(node, output, row.path)
    raise NotFoundError(f"'{reference}' is not on this machine", hint=f"overlaysync fetch {reference}")


def local_listings(node: Node) -> list[Listing]:
    """What this node knows by name and has here."""
    from overlaysync.ops.resolve import Listing
    from overlaysync.trust.envelope import open_envelope

    present = {row.layer or row.disk for row in node.catalog.all_images() if node.library.known(row.path)}
    return [
        Listing(open_envelope(row.envelope)) for row in node.catalog.manifests() if row.content in present
    ]


def manifest_of(node: Node, known: Known) -> Manifest | None:
    """The manifest this content is known by here, the one with the file's name first."""
    from overlaysync.ops.publish import stem
    from overlaysync.trust.envelope import open_envelope

    rows = node.catalog.manifests(content=known.content.id)
    rows.sort(key=lambda row: row.name != stem(known.path))
    return open_envelope(rows[0].envelope) if rows else None
