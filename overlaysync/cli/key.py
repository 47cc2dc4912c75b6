"""The key commands: show, new, restore. A node key belongs to one machine, and disks are copied."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from overlaysync.cli.commands import App
from overlaysync.cli.output import Output, output_of
from overlaysync.node.identity import RESTORE, Exchange, kept_keys, make_new_key, restore_key
from overlaysync.node.node import node_label
from overlaysync.store.home import Home
from overlaysync.trust.hardware import hardware_of, load_hardware
from overlaysync.trust.keys import load_or_make, node_id

_RUNNING = "  Restart 'overlaysync share' if it is running: it keeps the key it was started with."


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    key = App(no_args_is_help=True, help="Manage the key that identifies this machine.")
    for command in (show, new, restore):
        key.command(command.__name__)(command)
    app.add_typer(key, name="key")


def show(context: typer.Context) -> None:
    """Show the key of this machine, and its former ones."""

    output, home = output_of(context), _home()
    key = load_or_make(home.node_key)
    known = hardware_of(load_hardware(home.hardware), key.public)
    kept = kept_keys(home)
    document = {
        "fingerprint": node_id(key.public),
        "label": node_label(key, os.environ),
        "path": str(home.node_key),
        "hardware": list(known.addresses),
        "anywhere": known.anywhere,
        "former": [{"fingerprint": node_id(one.key.public), "path": str(one.path)} for one in kept],
    }
    hardware = "any hardware" if known.anywhere else ", ".join(known.addresses) or "none seen yet"
    output.result(
        document,
        f"{document['fingerprint']}  {document['label']}",
        f"  key: {home.node_key}",
        f"  used with this network hardware: {hardware}",
        *(f"  former key: {node_id(one.key.public)}  {one.path}" for one in kept),
    )


def new(context: typer.Context) -> None:
    """Give this machine a new key, and keep the former one."""

    output = output_of(context)
    _report(
        output,
        make_new_key(_home()),
        "  What was published with the former key stays that key's: machines that have it will not accept a "
        "new version of yours by the same name until they trust the new key.",
        f"  To take the former key back: {RESTORE}",
    )


def restore(
    context: typer.Context,
    anywhere: Annotated[
        bool,
        typer.Option("--anywhere", help="Keep this key from now on, whatever network hardware is found."),
    ] = False,
) -> None:
    """Go back to the key that this machine had before."""

    _report(output_of(context), restore_key(_home(), anywhere=anywhere))


def _report(output: Output, exchange: Exchange, *more: str) -> None:

    fingerprint, former = node_id(exchange.key.public), node_id(exchange.former.key.public)
    document: dict[str, Any] = {
        "fingerprint": fingerprint,
        "former": {"fingerprint": former, "path": str(exchange.former.path)},
    }
    output.result(
        document,
        output.good(f"the key of this machine is {fingerprint} now"),
        f"  The former key, {former}, is kept: {exchange.former.path}",
        *more,
        _RUNNING,
    )


def _home() -> Home:
    """Return the home, whatever hardware is here: these commands are about that."""

    return Home.from_environment(os.environ).prepare()
