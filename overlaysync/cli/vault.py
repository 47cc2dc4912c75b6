"""The vault commands: check and gc."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from overlaysync.cli.checked import checked_fields, checked_lines
from overlaysync.cli.commands import App
from overlaysync.cli.common import (
    DryRunOption,
    open_node,
)
from overlaysync.cli.output import Output, output_of
from overlaysync.errors import BrokenOffError, InUseError, NotAllowedError, VerificationError
from overlaysync.node.node import now
from overlaysync.node.vault_lock import only_writer_soon
from overlaysync.ops.recovery.caring import note_damaged
from overlaysync.ops.recovery.checking import Checked
from overlaysync.ops.recovery.checking import check as check_vault
from overlaysync.ops.recovery.cleaning import clean, listed
from overlaysync.ops.recovery.vaults import TeamVault
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    vault = App(no_args_is_help=True, help="Check the vault of this machine, and free space in it.")
    vault.command("check")(check)
    vault.command("gc")(gc)
    app.add_typer(vault, name="vault")


def check(
    context: typer.Context,
    read: Annotated[
        bool, typer.Option("--read", help="Read every object, and compare it with its name.")
    ] = False,
) -> None:
    """Check that no needed object is missing."""

    output = output_of(context)
    with open_node(output) as node:
        objects = DirectoryObjects(node.home.vault)
        teams = [TeamVault(objects, team) for team in node.teams.values()]
        names, _ = listed(objects)
        output.begin("checking", sum(objects.size(name) or 0 for name in names) if read else 0)
        try:
            found = check_vault(objects, teams, read=read, progress=output.advance)
        except KeyboardInterrupt:
            raise BrokenOffError("interrupted; nothing was changed") from None
        finally:
            output.end()
        _note(output, objects, found)
    output.result(checked_fields(found), *checked_lines(output, found))
    if found.damaged:
        whose = next((vault.team.name for vault in teams), "TEAM")  # one round mends the whole vault
        hit = f"these states need them: {', '.join(found.hit)}" if found.hit else ""
        raise VerificationError(
            f"{len(found.damaged)} of {found.objects} objects are missing or damaged",
            why=hit,
            hint=f"to pull them again from machines that have them: overlaysync keep {whose} --once",
        )


def _note(output: Output, objects: DirectoryObjects, found: Checked) -> None:
    """Note what is damaged, so that it is fetched again by who keeps."""
    if found.damaged:
        with suppress(InUseError, NotAllowedError), only_writer_soon(objects.root, output):
            note_damaged(objects, (one.name for one in found.damaged))


def gc(
    context: typer.Context,
    dry_run: DryRunOption = False,
) -> None:
    """Remove what no state has needed for two weeks."""

    output = output_of(context)
    with open_node(output) as node, only_writer_soon(node.home.vault, output):
        cleaned = clean(DirectoryObjects(node.home.vault), now=now(), dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    output.result(
        {"removed": list(cleaned.removed), "freed": cleaned.freed, "waiting": cleaned.waiting},
        output.good(
            f"{verb} {len(cleaned.removed)} objects, {format_size(cleaned.freed)}; "
            f"another {format_size(cleaned.waiting)} is no longer needed, and can be removed later"
        ),
    )
