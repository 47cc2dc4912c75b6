"""The commands: where each is, and its line in the list of all of them.

A command's module is imported when the command is used, so that ``--help`` and a mistyped name cost nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from overlaysync.cli.config import load_defaults
from overlaysync.cli.later import later

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Entry:
    """A command in the list.

    Attributes:
        name: of the command.
        module: the one of :mod:`overlaysync.cli` that adds it.
        help: its line in the list, which is also the first line of its own help.
    """

    name: str
    module: str
    help: str


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Share and fetch": (
        Entry("share", "share", "Share images until interrupted."),
        Entry("fetch", "fetch", "Fetch images, with the masters they stand on."),
        Entry("sync", "sync", "Bring images to their newest version."),
        Entry("service", "service", "Share, keep and push in the background, with systemd."),
        Entry("settle", "settle", "Settle a fork in favour of a file on this machine."),
        Entry("adopt", "adopt", "Put a copied overlay back on its master."),
    ),
    "The life of an image": (
        Entry("new", "make", "Make a fresh overlay on a master."),
        Entry("promote", "make", "Turn an overlay into a new master."),
        Entry("rebase", "make", "Move an overlay to another master, in a new file."),
        Entry("discard", "make", "Remove overlays that are no longer needed."),
        Entry("verify", "verify", "Compare images with what was published, and repair them."),
    ),
    "Recovery": (
        Entry("save", "save", "Save VMs as a state that can be restored."),
        Entry("keep", "keep", "Keep copies of what a team saves."),
        Entry("status", "status", "Show which VMs of a team are safe, and what would be lost."),
        Entry("restore", "restore", "Restore VMs of a team, with the masters they stand on."),
        Entry(
            "drill",
            "drill",
            "Rehearse the loss of machines: restore, boot and report.",
        ),
        Entry("diff", "states", "Show what changed between two states."),
        Entry("forget", "states", "Forget states that this machine saved."),
        Entry("vault", "vault", "Check the vault of this machine, and free space in it."),
        Entry("archive", "archive", "Keep states in object stores and on other disks."),
    ),
    "Look around": (
        Entry("ls", "ls", "List masters and overlays within reach."),
        Entry("show", "show", "Show everything about an image or a VM: ids, sizes, copies."),
        Entry(
            "history",
            "history",
            "Show the versions of a name, or the states of a team.",
        ),
        Entry("tree", "tree", "Show masters, overlays and promotions as a family tree."),
        Entry("peers", "peers", "List the machines within reach."),
        Entry("page", "page", "Open the web page of a running share."),
        Entry("id", "identify", "Print the ids of an image."),
    ),
    "Teams and trust": (
        Entry("team", "team", "Manage teams. Only members see what is shared with a team."),
        Entry("trust", "trusting", "Trust a publisher, or list those you trust or distrust."),
        Entry("untrust", "trusting", "Forget a publisher that you trust."),
        Entry("distrust", "trusting", "Refuse everything that a publisher signs, for good."),
        Entry("key", "key", "Manage the key that identifies this machine."),
    ),
    "Help": (
        Entry("demo", "demo", "Show what overlaysync does, in under a minute."),
        Entry("doctor", "doctor", "Check network, clock, key, vault, disk and QEMU."),
        Entry("help", "help", "Show the help of a command."),
    ),
}
"""Section of the list → its commands, in order."""

ELSEWHERE = {
    "add": "share",
    "backup": "save",
    "check": "verify",
    "clone": "fetch",
    "completion": "--install-completion",
    "convert": "promote",
    "create": "new",
    "delete": "discard",
    "download": "fetch",
    "get": "fetch",
    "info": "show",
    "join": "team join",
    "leave": "team leave",
    "list": "ls",
    "log": "history",
    "pull": "fetch",
    "push": "share' or 'archive push",
    "publish": "share",
    "remove": "discard",
    "rm": "discard",
    "seed": "share",
    "serve": "share",
    "snapshot": "save",
    "update": "sync",
    "upload": "share",
    "version": "--version",
}
"""Words of other programs → what does that here."""

ENTRIES = {entry.name: entry for entries in SECTIONS.values() for entry in entries}


class Command(TyperCommand):
    """A command whose help says of each argument and option what people call it, and nothing of Python's."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command's name."""
        arguments: list[Any] = [param for param in self.params if _is_argument(param)]
        return ["[OPTIONS]", *(argument.metavar for argument in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of arguments and options."""
        params: list[Any] = self.get_params(ctx)
        arguments = [(param.metavar, param.help or "") for param in params if _is_argument(param)]
        options = [param.get_help_record(ctx) for param in params if not _is_argument(param)]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(list(filter(None, rows)))


class App(typer.Typer):
    """Makes commands of functions."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_Function], _Function]:
        """Make a command of a function, under this name."""
        return super().command(name, cls=Command, **settings)


@functools.cache
def load(name: str) -> Any:
    """Import the command of that name, and make it of its function; several runs in one process share it."""
    own = App(rich_markup_mode=None)
    later(f"cli.{ENTRIES[name].module}").add_commands(own)
    return typer.main.get_group(own).commands[name]


class Lazy(TyperCommand):
    """A command that is imported when its arguments are to be read; until then, its name and its line."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return its line, whole: shells show it beside the name."""
        return self.help or ""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the command itself, with the defaults that the user has set."""
        assert self.name
        command = load(self.name)
        if not extra.get("resilient_parsing"):  # while the shell completes a word nothing is used
            options = options_of(command)
            several = {name: bool(option.multiple) for name, option in options.items()}
            defaults = load_defaults(self.name, several, ENTRIES)
            parent.default_map = {self.name: {options[name].name: value for name, value in defaults.items()}}
        return command.make_context(info_name, args, parent=parent, **extra)


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def options_of(command: Any) -> dict[str, Any]:
    """Return the options of a command by their names in the settings, such as ``accept_master``."""
    options = (param for param in command.params if not _is_argument(param))
    return {max(option.opts, key=len).lstrip("-").replace("-", "_"): option for option in options}


class Commands(TyperGroup):
    """All commands, listed in sections."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for entry in ENTRIES.values():
            self.add_command(Lazy(entry.name, help=entry.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is meant; the word of another program is answered with that of this one."""
        if args and args[0] not in self.commands and args[0] in ELSEWHERE:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{ELSEWHERE[args[0]]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        for section, entries in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(entry.name, entry.help) for entry in entries])
