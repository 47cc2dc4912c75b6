"""Commands on the states of a team: diff and forget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from overlaysync.cli.common import (
    DryRunOption,
    number_from,
    open_node,
)
from overlaysync.cli.forget_node import forget_node, forget_of_others
from overlaysync.cli.output import output_of
from overlaysync.cli.save import state_word
from overlaysync.cli.wishes import parse_wish
from overlaysync.errors import NotFoundError, UsageError
from overlaysync.node.node import timestamp
from overlaysync.node.vault_lock import only_writer_soon
from overlaysync.node.vault_places import vault_of
from overlaysync.ops.recovery.choosing import Wish, content_of, describe, numbers_of, state_of, team_at
from overlaysync.ops.recovery.comparing import DiskChange, VmChange, compare
from overlaysync.ops.recovery.retention import Rules, kept, needed
from overlaysync.ops.recovery.tips import Saving
from overlaysync.units import format_size
from overlaysync.vault.directory import DirectoryObjects
from overlaysync.vault.state import SignedState

_COUNT = number_from(0, 10_000, whole=True)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    for command in (diff, forget):
        app.command(command.__name__)(command)


def diff(
    context: typer.Context,
    old: Annotated[str, typer.Argument(metavar="TEAM:STATE", help="A state, by number or id.")],
    new: Annotated[
        str | None,
        typer.Argument(metavar="[TEAM:STATE]", help="The state to compare with (default: the newest)."),
    ] = None,
) -> None:
    """Show what changed between two states."""

    output = output_of(context)
    with open_node(output) as node:
        first = parse_wish(node, old, "", ())
        second = parse_wish(node, new or first.team, "", ())
        if first.team != second.team:
            raise UsageError(
                "The two states belong to different teams",
                hint=f"overlaysync diff {first.team}:STATE {first.team}:STATE",
            )
        vault = vault_of(node, node.teams[first.team])
        vault.learn()
        states = vault.states()
        named = [state_of(states, wish) for wish in (first, second)]
        before, after = (
            _Moment(one, team_at(states, wish)) for one, wish in zip(named, (first, second), strict=True)
        )
        forked = before.forked | after.forked
        pairs = [{name: vm for name, vm in one.vms.items() if name not in forked} for one in (before, after)]
        changes = compare(node.library, vault, *pairs)
    changes = sorted([*changes, *(VmChange(name, "forked") for name in forked)], key=lambda one: one.name)
    numbers = numbers_of(states)
    lines = [line for change in changes for line in _change_lines(change, before, after, numbers)]
    output.result(
        {
            "team": first.team,
            "old": named[0].state.number,
            "new": named[1].state.number,
            "vms": [
                _change_fields(change) | {"old": before.number(change.name), "new": after.number(change.name)}
                for change in changes
            ],
        },
        *lines,
    )


class _Moment:
    """A team at a moment.

    Args:
        named: the state that the user named.
        savings: where each VM was saved last by then.

    Attributes:
        vms: each VM as it was saved last by then; of a fork one of its sides.
        forked: names of the VMs with several sides.
    """

    def __init__(self, named: SignedState, savings: Mapping[str, Sequence[Saving]]) -> None:
        self._named = named
        self._savings = savings
        self.vms = {name: found[-1].vm for name, found in savings.items()}
        self.forked = {name for name, found in savings.items() if len(set(map(content_of, found))) > 1}

    def number(self, name: str) -> int | None:
        """Return the number of the state that a VM comes from."""
        return self._savings[name][-1].state.state.number if name in self._savings else None

    def is_in_named(self, name: str) -> bool:
        """Whether a VM comes from the state that was named."""
        return {one.state.id for one in self._savings.get(name, ())} == {self._named.id}

    def words(self, name: str, numbers: Mapping[bytes, str]) -> str:
        """Return which states a VM comes from; numbers are those of all states."""
        return " and ".join(numbers[one.state.id] for one in self._savings.get(name, ()))


def _change_lines(
    change: VmChange, before: _Moment, after: _Moment, numbers: Mapping[bytes, str]
) -> list[str]:
    old, new = (one.words(change.name, numbers) for one in (before, after))
    plain = old == new or (before.is_in_named(change.name) and after.is_in_named(change.name))
    where = "" if plain else "  " + " to ".join(filter(None, (old, new)))
    lines = [f"{change.name}  {change.what}{where}"]
    if change.what == "forked":
        lines.append("  to compare a side, name its state by its id")
    lines += [f"  {disk.file}  {_disk_words(disk)}" for disk in change.disks if disk.what != "same"]
    lines += [f"  {file}  {what}" for file, what in change.companions]
    return lines


def _disk_words(disk: DiskChange) -> str:
    if disk.what != "changed":
        return disk.what
    count = len(disk.regions) + disk.more
    first = ", ".join(f"{format_size(one.length)} at {format_size(one.offset)}" for one in disk.regions[:3])
    more = ", …" if count > 3 else ""
    return f"{format_size(disk.size)} changed in {count} {'place' if count == 1 else 'places'}: {first}{more}"


def _change_fields(change: VmChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "what": change.what,
        "disks": [
            {
                "file": disk.file,
                "what": disk.what,
                "size": disk.size,
                "regions": [{"offset": one.offset, "length": one.length} for one in disk.regions],
                "more_regions": disk.more,
            }
            for disk in change.disks
        ],
        "companions": [{"file": file, "what": what} for file, what in change.companions],
    }


def forget(
    context: typer.Context,
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEAM[:STATE]...]", help="States, or a team with --keep-… or --node."),
    ] = None,
    last: Annotated[
        int, typer.Option("--keep-last", metavar="N", parser=_COUNT, help="Keep the N newest states.")
    ] = 0,
    hourly: Annotated[
        int,
        typer.Option(
            "--keep-hourly",
            metavar="N",
            parser=_COUNT,
            help="Keep the newest state of each of the last N hours that have one.",
        ),
    ] = 0,
    daily: Annotated[
        int,
        typer.Option(
            "--keep-daily",
            metavar="N",
            parser=_COUNT,
            help="Keep the newest state of each of the last N days that have one.",
        ),
    ] = 0,
    weekly: Annotated[
        int,
        typer.Option(
            "--keep-weekly",
            metavar="N",
            parser=_COUNT,
            help="Keep the newest state of each of the last N weeks that have one.",
        ),
    ] = 0,
    of_node: Annotated[
        str,
        typer.Option(
            "--node", metavar="NAME", help="Forget what a lost machine saved, on this machine only."
        ),
    ] = "",
    discard: Annotated[
        list[str] | None,
        typer.Option(
            "--discard-vm",
            metavar="VM",
            help="With --node: also drop the last state of this VM. May be repeated.",
        ),
    ] = None,
    others: Annotated[
        bool,
        typer.Option("--others", help="With --node: forget what it saved for teams that you are not in."),
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Forget states that this machine saved."""

    output = output_of(context)
    rules = Rules(int(last), int(hourly), int(daily), int(weekly))
    _check_words(references or [], of_node, discard or [], others=others, rules=rules)
    with open_node(output) as node, only_writer_soon(node.home.vault, output):
        if others:
            forget_of_others(output, node, of_node, dry_run=dry_run)
            return
        wishes = [parse_wish(node, reference, "", ()) for reference in references or ()]
        if len({wish.team for wish in wishes}) > 1:
            raise UsageError(
                "The states belong to different teams",
                hint="once for each team: overlaysync forget TEAM:STATE",
            )
        vault = vault_of(node, node.teams[wishes[0].team])
        if of_node:
            if not rules.is_empty or len(wishes) > 1 or any(wish.number or wish.id for wish in wishes):
                raise UsageError(
                    "--node stands alone with a team",
                    hint=f"overlaysync forget {wishes[0].team} --node {of_node}",
                )
            forget_node(output, node, vault, of_node, discard or (), dry_run=dry_run)
            return
        states = vault.states()
        head = vault.heads().get(node.key.public)
        own = [one for one in states if head is not None and one.id in head.head.states]
        keep = _all_but(wishes, own, states) if rules.is_empty else kept(own, rules)
        newest = needed(states)
        spared = [one for one in own if one.id in newest - keep]
        gone = [one for one in own if one.id not in keep | newest]
        if gone and not dry_run:
            DirectoryObjects(node.home.vault).drop_temporaries()
            left = [one for one in own if one.id in keep | newest]
            vault.put_head(left, node.key, made=timestamp(), before=head)
    lines = [("would forget " if dry_run else "forgot ") + describe(one) for one in gone]
    lines += [f"kept {describe(one)}: it is the newest state of a VM" for one in spared]
    output.result({"forgotten": [_fields(one) for one in gone]}, *lines)
    if gone and not dry_run:
        output.note("  to free the space, two weeks from now: overlaysync vault gc")


def _all_but(wishes: Sequence[Wish], own: list[SignedState], states: list[SignedState]) -> set[bytes]:
    """Return the ids of the states of this machine without those that were named.

    Raises:
        UsageError: none was named.
        NotFoundError: a state is not there, or another machine saved it.
    """
    if not all(wish.number or wish.id for wish in wishes):
        team = wishes[0].team
        raise UsageError(
            "No state to forget was named",
            hint=f"overlaysync forget {team}:3, or: overlaysync forget {team} --keep-last 10 --keep-daily 14",
        )
    named = {state_of(states, wish).id for wish in wishes}
    _check_own(named, own, states)
    return {one.id for one in own} - named


def _check_words(
    references: Sequence[str], of_node: str, discard: Sequence[str], *, others: bool, rules: Rules
) -> None:
    """Refuse options that do not go together."""
    if others and (not of_node or references or discard or not rules.is_empty):
        raise UsageError(
            "--others needs --node, and nothing else",
            why="without the key of a team, all that one machine saved is forgotten together",
            hint="overlaysync forget --others --node FINGERPRINT",
        )
    if discard and not of_node:
        raise UsageError(
            "--discard-vm needs --node",
            why="the newest state of a VM goes only with the lost machine that saved it",
            hint=f"overlaysync forget TEAM --node NAME --discard-vm {shlex.quote(discard[0])}",
        )
    if not references and not others:
        raise UsageError(
            "No team was named", hint="overlaysync forget TEAM:STATE; to see them: overlaysync history"
        )


def _check_own(named: set[bytes], own: list[SignedState], states: list[SignedState]) -> None:
    others = [one for one in states if one.id in named - {mine.id for mine in own}]
    if others:
        raise NotFoundError(
            f"This machine did not save {describe(others[0])}",
            why="only the machine that saved a state can forget it",
            hint=f"on that machine: overlaysync forget {others[0].state.team}:{state_word(others[0].id)}; "
            f"if it is lost: overlaysync forget {others[0].state.team} --node NAME",
        )


def _fields(one: SignedState) -> dict[str, Any]:
    return {"team": one.state.team, "state": one.state.number, "id": one.id.hex(), "saved": one.state.saved}
