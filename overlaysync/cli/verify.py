"""The verify command: re-read images, name damage, and heal it."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    AcceptMasterOption,
    PeerOption,
    compression,
    interruptible,
    open_node,
    parse_peers,
)
from overlaysync.cli.complete import complete_reference
from overlaysync.cli.finding import guest_size, paths_of
from overlaysync.cli.formats import InsistOption, format_to_read
from overlaysync.cli.later import later
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.refusals import of_several, refusal_fields, refusal_lines
from overlaysync.errors import OverlaysyncError, Refusal, VerificationError, WouldDestroyError
from overlaysync.formats.image import Format
from overlaysync.model.digest import short_id
from overlaysync.node.node import Node, now
from overlaysync.ops.again import Again
from overlaysync.ops.audience import stem
from overlaysync.ops.expected import Basis
from overlaysync.ops.loss import lost_by_repair
from overlaysync.ops.trust_messages import who
from overlaysync.ops.verify import Damage, Verdict
from overlaysync.ops.verify import verify as verify_image

_WRITTEN = "it has been written to since, perhaps by a VM"
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
    repair: Annotated[
        bool, typer.Option("--repair", help="Heal damaged images with data from peers.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Also heal files written to since they were fetched or published; what was written is lost.",
        ),
    ] = False,
    accept_master: AcceptMasterOption = False,
    format: InsistOption = None,
    peer: PeerOption = None,
) -> None:
    """Compare images with what was published, and repair them.

    Every byte is read. An image that was never published is compared with what is known of it.
    """
    output = output_of(context)
    addresses, insisted = parse_peers(peer), format_to_read(format)
    how = How(
        addresses, insisted, repair=repair, yes=yes, accept_master=accept_master, peers=tuple(peer or ())
    )
    findings: list[Finding] = []
    failed: list[Refusal] = []
    with open_node(output) as node:
        paths = list(dict.fromkeys(path for text in what for path in paths_of(node, text)))
        for path in paths:
            try:
                findings.append(_verify(node, output, path, how))
            except OverlaysyncError as error:
                if len(paths) == 1:
                    raise
                failed.append(Refusal(path, error))  # of several the others are looked at all the same
    report(output, findings, failed)


@dataclass(frozen=True, slots=True)
class How:
    """How to verify, as the options say."""

    addresses: list[Any]
    format: Format | None
    repair: bool
    yes: bool
    accept_master: bool
    peers: tuple[str, ...] = ()

    def repair_command(self, path: str, *more: str) -> str:
        """Return the command that heals one file, with the options that were given."""
        peers = [word for peer in self.peers for word in ("--peer", peer)]
        accept = ["--accept-master"] if self.accept_master else []
        format = ["--format", self.format.value] if self.format else []
        return shlex.join(["overlaysync", "verify", "--repair", *more, path, *peers, *accept, *format])


def _verify(node: Node, output: Output, path: str, how: How) -> Finding:

    output.begin(f"verifying {os.path.basename(path)}", guest_size(node, path, how.format))
    try:
        verdict = verify_image(
            node.library,
            path,
            now=now(),
            format=how.format,
            accept_master=how.accept_master,
            progress=output.advance,
        )
    finally:
        output.end()
    lost = lost_by_repair(node.library, verdict, own=node.key.public) if verdict.damage else ""
    origin = node.publisher.origin(verdict.known) if lost and verdict.known else None
    team = origin.team if origin and origin.why else ""
    healed: tuple[Damage, ...] = ()
    if verdict.damage and how.repair:
        refuse_to_lose(verdict, lost, how, team)
        healed, verdict = verdict.damage, _repair(node, output, verdict, how.addresses)
        lost = ""
    unlike, holds = _unlike_its_name(node, verdict), _other_version(node, verdict)
    return Finding(verdict, healed, lost, unlike, how, holds, team)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is said of one image.

    Attributes:
        verdict: what verifying found, in the end.
        healed: the damage that was healed before.
        lost: what healing it would lose; "" for nothing.
        unlike: the name whose versions it is none of; "" when it is one, or nothing is known of that.
        how: how it was verified.
        holds: the published version that it holds instead, and by whom; "" for none.
        team: whose data it was found to hold, where healing it would lose something; "" for no team's.
    """

    verdict: Verdict
    healed: tuple[Damage, ...]
    lost: str
    unlike: str
    how: How
    holds: str = ""
    team: str = ""

    def lines(self, output: Output) -> list[str]:
        """Return the lines for people."""

        verdict, path, expected = self.verdict, self.verdict.path, self.verdict.expected
        if not verdict.damage:
            healed = sum(item.length for item in self.healed)
            how = f"healed ({healed} bytes that the guest sees) and verified" if healed else "verified"
            lines = [output.good(f"{path}  {how}: {expected.words}")]
            if self.unlike:
                lines.append(
                    f"    as {short_id(expected.disk)}, which is no version of '{self.unlike}' known here;"
                    f" to get one: {self._get_one()}"
                )
            return [*lines, *(f"    {note}" for note in self._notes)]
        rotted = (
            "the image below it was written to since"
            if verdict.below
            else "its data is corrupted on the disk"
        )
        why = _WRITTEN if verdict.touched else rotted
        if self.holds:
            why = f"it holds {self.holds} now"
        lines = [f"✗ {path}  is not {expected.words}: {verdict.unreadable or why}"]
        lines += [
            f"    guest offset {item.offset:#x}, {item.length} bytes"
            for item in verdict.damage[:_NAMED_DAMAGE]
        ]
        if len(verdict.damage) > _NAMED_DAMAGE:
            lines.append(f"    and {len(verdict.damage) - _NAMED_DAMAGE} more places")
        return lines

    @property
    def _notes(self) -> tuple[str, ...]:
        return self.verdict.known.notes if self.verdict.known else ()

    def _get_one(self) -> str:

        return Again(self.unlike, ("--to", os.path.dirname(self.verdict.path))).fetch("--replace")

    def fields(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "path": self.verdict.path,
            "ok": not self.verdict.damage,
            "basis": self.verdict.expected.basis.name.lower(),
            "since": self.verdict.expected.since,
            "changed_since": self.verdict.touched or self.verdict.below,
            "damage": _ranges(self.verdict.damage),
            "holds": self.holds or None,
            "notes": list(self._notes),
            "healed": _ranges(self.healed),
            "would_lose": self.lost or None,
        }


def _ranges(damage: Iterable[Damage]) -> list[dict[str, int]]:
    return [{"offset": item.offset, "length": item.length} for item in damage]


def report(output: Output, findings: list[Finding], failed: list[Refusal]) -> None:
    """Print what was found; how many images differ, and of which kind, is the error."""
    lines = [line for finding in findings for line in finding.lines(output)]
    document: dict[str, Any] = {"verified": [finding.fields() for finding in findings]}
    if failed:
        document["failed"] = [refusal_fields(one) for one in failed]
    output.result(document, *lines)
    for one in failed:
        output.note("\n".join(refusal_lines(one)))
    total = len(findings) + len(failed)
    bad = [finding for finding in findings if finding.verdict.damage]
    if bad:
        more = f", and {len(failed)} could not be verified" if failed else ""
        first = bad[0]
        raise VerificationError(
            f"{len(bad)} of {total} images differ from what is known of them{more}",
            hint=_way_of(first),
        )
    if failed:
        raise of_several(failed, total, "could not be verified", told=output.tells)


def _way_of(finding: Finding) -> str:
    """Return what to do about a file that differs."""
    verdict, how = finding.verdict, finding.how
    if finding.lost:
        return _ways(verdict, how, finding.team)
    command = how.repair_command(verdict.path)
    if finding.holds:
        back = f"to put {verdict.expected.since} in the place of {finding.holds}: {command}"
        return f"to keep both: cp {shlex.quote(verdict.path)} COPY; {back}"
    return f"to heal it from peers: {command}"


def _ways(verdict: Verdict, how: How, team: str = "") -> str:
    """How to keep what a file holds that would be lost, then how to go back to what it held."""

    path = shlex.quote(verdict.path)
    keep = f"cp {path} COPY"
    # What a guest wrote to a published image is its next version; snapshots and what cannot be read is none.
    is_version = verdict.touched and verdict.known is not None and verdict.expected.basis is Basis.PUBLISHED
    if team:  # an overlay was committed into its master, say: that must not become a public version
        keep += f", and then, for the team whose data it holds: overlaysync share --team {team} COPY"
    elif is_version and verdict.expected.layer is None:
        keep += f", or: overlaysync share {path} (a new version)"
    elif is_version:
        keep = f"overlaysync share {path} (a new version), or: {keep}"
    back = how.repair_command(verdict.path, "--yes")
    return f"to keep what it holds: {keep}; to lose that, and go back to what it was: {back}"


def refuse_to_lose(verdict: Verdict, lost: str, how: How, team: str = "") -> None:
    """Refuse to repair a file over work that is nowhere else."""
    if lost and not how.yes:
        raise WouldDestroyError(
            f"Not healing {verdict.path}: data would be lost",
            why=f"{_WRITTEN}, and {lost}" if verdict.touched else lost,
            hint=_ways(verdict, how, team),
        )


def _unlike_its_name(node: Node, verdict: Verdict) -> str:
    """Return the name of a master's file when others of that name are known, and none has its content."""

    expected = verdict.expected
    if verdict.damage or expected.layer is not None or expected.basis is Basis.PUBLISHED:
        return ""
    catalog, name = node.catalog, stem(verdict.path)
    if catalog.manifests.matching(content=expected.disk) or not catalog.manifests.matching(name=name):
        return ""
    return name


def _other_version(node: Node, verdict: Verdict) -> str:
    """Which published version a file holds that does not hold what it must; "" for none."""

    if not verdict.damage or verdict.known is None:
        return ""
    rows = node.catalog.manifests.matching(content=verdict.known.content.id)
    return next((f"{row.title} by {who(row.publisher, row.label)}" for row in rows), "")


def _repair(node: Node, output: Output, verdict: Verdict, addresses: list[Any]) -> Verdict:
    repair = later("node.repair").repair
    with interruptible():
        healed: Verdict = asyncio.run(repair(node, output, verdict, addresses, compression=compression()))
    return healed
