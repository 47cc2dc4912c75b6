"""The verify command: re-read images, name damage, and heal it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    PeerOption,
    compression,
    interruptible,
    open_node,
    output_of,
    parse_peers,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.finding import guest_size, here, is_path
from overlaysync.cli.output import Output

if TYPE_CHECKING:
    from overlaysync.node.node import Node
    from overlaysync.ops.verify import Verdict

_NAMED_DAMAGE = 20
"""Damaged ranges listed for people; JSON has them all."""


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("verify")(verify)


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
        why = "it was written to since (a VM that ran?)" if verdict.touched else "its bytes have rotted"
        lines.append(f"✗ {path}  differs from what is known of it; {verdict.unreadable or why}")
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
            f"{len(bad)} of {len(verdicts)} images not as known",
            hint=f"overlaysync verify --repair '{bad[0]}', to heal it from peers",
        )


def _repair(node: Node, output: Output, verdict: Verdict, addresses: list[Any]) -> Verdict:
    import asyncio

    from overlaysync.node.repairing import repair

    with interruptible():
        return asyncio.run(repair(node, output, verdict, addresses, compression=compression()))
