"""The verify command: re-read images, name damage, and heal it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlaysync.cli.common import (
    InsistOption,
    PeerOption,
    compression,
    interruptible,
    of_several,
    open_node,
    output_of,
    parse_format,
    parse_peers,
    refusal_fields,
    refusal_lines,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.finding import guest_size, paths_of
from overlaysync.cli.output import Output
from overlaysync.errors import OverlaysyncError, Refusal, VerificationError, WouldDestroyError

if TYPE_CHECKING:
    from overlaysync.formats.image import Format
    from overlaysync.node.node import Node
    from overlaysync.ops.verify import Damage, Verdict

_WRITTEN = "it was written to since (a VM that ran?)"
_NAMED_DAMAGE = 20
"""Damaged ranges listed for people; JSON has them all."""


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("verify")(verify)


def verify(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|REF...", autocompletion=complete_reference, help="Images on this machine."
        ),
    ],
    repair: Annotated[bool, typer.Option("--repair", help="Heal what is damaged, from peers.")] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Heal also an overlay in use: what a VM has written is lost."),
    ] = False,
    format: InsistOption = None,
    peer: PeerOption = None,
) -> None:
    """Re-read images and compare them with what is known of them."""
    output = output_of(context)
    addresses, insisted = parse_peers(peer), parse_format(format)
    findings: list[Finding] = []
    failed: list[Refusal] = []
    with open_node() as node:
        paths = list(dict.fromkeys(path for text in what for path in paths_of(node, text)))
        for path in paths:
            try:
                findings.append(_verify(node, output, path, insisted, addresses, repair=repair, yes=yes))
            except OverlaysyncError as error:
                if len(paths) == 1:
                    raise
                failed.append(Refusal(path, error))  # of several the others are looked at all the same
    _report(output, findings, failed)


def _verify(
    node: Node,
    output: Output,
    path: str,
    format: Format | None,
    addresses: list[Any],
    *,
    repair: bool,
    yes: bool,
) -> Finding:
    from overlaysync.node.node import now
    from overlaysync.ops.verify import verify as verify_image

    output.begin(f"verifying {os.path.basename(path)}", guest_size(node, path, format))
    try:
        verdict = verify_image(node.library, path, now=now(), format=format, progress=output.advance)
    finally:
        output.end()
    healed: tuple[Damage, ...] = ()
    if verdict.damage and repair:
        _refuse_to_lose(verdict, yes)
        healed, verdict = verdict.damage, _repair(node, output, verdict, addresses)
    return Finding(verdict, healed, _unlike_its_name(node, verdict))


@dataclass(frozen=True, slots=True)
class Finding:
    """What is said of one image.

    Attributes:
        verdict: what verifying found, in the end.
        healed: the damage that was healed before.
        unlike: the name whose versions it is none of; "" when it is one, or nothing is known of that.
    """

    verdict: Verdict
    healed: tuple[Damage, ...]
    unlike: str

    def lines(self, output: Output) -> list[str]:
        """The lines for people."""
        from overlaysync.model.digest import short_id

        verdict, path = self.verdict, self.verdict.path
        if not verdict.damage:
            healed = sum(item.length for item in self.healed)
            how = f"healed ({healed} bytes that the guest sees) and verified" if healed else "verified"
            lines = [output.good(f"{path}  {how}")]
            if self.unlike:
                lines.append(
                    f"    as {short_id(verdict.disk)}, which is no version of '{self.unlike}' known here;"
                    f" to get one: overlaysync fetch {self.unlike} --replace"
                )
            return lines
        rotted = "what it stands on was written to since" if verdict.below else "its bytes have rotted"
        why = _WRITTEN if verdict.touched else rotted
        lines = [f"✗ {path}  differs from what is known of it; {verdict.unreadable or why}"]
        lines += [
            f"    guest offset {item.offset:#x}, {item.length} bytes"
            for item in verdict.damage[:_NAMED_DAMAGE]
        ]
        if len(verdict.damage) > _NAMED_DAMAGE:
            lines.append(f"    and {len(verdict.damage) - _NAMED_DAMAGE} more places")
        return lines

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "path": self.verdict.path,
            "ok": not self.verdict.damage,
            "changed_since": self.verdict.touched or self.verdict.below,
            "damage": _ranges(self.verdict.damage),
            "healed": _ranges(self.healed),
        }


def _ranges(damage: Iterable[Damage]) -> list[dict[str, int]]:
    return [{"offset": item.offset, "length": item.length} for item in damage]


def _report(output: Output, findings: list[Finding], failed: list[Refusal]) -> None:
    lines = [line for finding in findings for line in finding.lines(output)]
    document: dict[str, Any] = {"verified": [finding.fields() for finding in findings]}
    if failed:
        document["failed"] = [refusal_fields(one) for one in failed]
    output.result(document, *lines)
    for one in failed:
        output.note("\n".join(refusal_lines(one)))
    total = len(findings) + len(failed)
    bad = [finding.verdict for finding in findings if finding.verdict.damage]
    if bad:
        yes, lost = ("--yes ", ", and lose what a VM has written") if _may_be_in_use(bad[0]) else ("", "")
        raise VerificationError(
            f"{len(bad)} of {total} images differ from what is known of them",
            hint=f"overlaysync verify --repair {yes}'{bad[0].path}', to heal it from peers{lost}",
        )
    if failed:
        raise of_several(failed, total, "could not be verified")


def _may_be_in_use(verdict: Verdict) -> bool:
    """Whether it is an overlay that a VM may have written to: what differs may be somebody's work."""
    from overlaysync.ops.library import is_read_only

    return verdict.touched and verdict.layer is not None and not is_read_only(verdict.path)


def _refuse_to_lose(verdict: Verdict, yes: bool) -> None:
    if _may_be_in_use(verdict) and not yes:
        raise WouldDestroyError(
            f"Not healing {verdict.path}",
            why=f"{_WRITTEN}, and that would be lost",
            hint="keep it as it is; or, to go back to what it was: the same command with --yes",
        )


def _unlike_its_name(node: Node, verdict: Verdict) -> str:
    """The name of a master's file when others of that name are known, and none has its content."""
    from overlaysync.ops.publish import stem

    if verdict.damage or verdict.layer is not None:
        return ""
    catalog, name = node.catalog, stem(verdict.path)
    if catalog.manifests(content=verdict.disk) or not catalog.manifests(name=name):
        return ""
    return name


def _repair(node: Node, output: Output, verdict: Verdict, addresses: list[Any]) -> Verdict:
    import asyncio

    from overlaysync.node.repairing import repair

    with interruptible():
        return asyncio.run(repair(node, output, verdict, addresses, compression=compression()))
