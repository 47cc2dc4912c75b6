"""The doctor: what could keep overlaysync from working on this machine, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import typer

from overlaysync.cli.common import InterfaceOption, open_node, parse_peers
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.tables import Table
from overlaysync.discovery.interfaces import choose_interfaces, list_interfaces
from overlaysync.errors import OverlaysyncError
from overlaysync.net.messages import Address
from overlaysync.node.checks import NETWORK_FAILS, Check
from overlaysync.node.disk_checks import check_directory
from overlaysync.node.identity import RESTORE, kept_keys
from overlaysync.node.machine_checks import check_home, check_qemu, check_running_clock
from overlaysync.node.network_checks import check_interfaces, check_network, meet_twins
from overlaysync.node.twins import ADVICE
from overlaysync.trust.keys import node_id


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("doctor")(doctor)


def doctor(context: typer.Context, iface: InterfaceOption = None) -> None:
    """Check network, clock, key, vault, disk and QEMU.

    Say what to do about each check that fails.
    """

    output, peers = output_of(context), parse_peers(None)
    found = list_interfaces()
    chosen = choose_interfaces(iface or (), found)
    started, monotonic = time.time(), time.monotonic()
    checks = [check_interfaces(chosen, found)]
    output.note("listening for multicast ...")
    checks += asyncio.run(check_network(chosen))
    checks.append(check_running_clock(time.time() - started, time.monotonic() - monotonic))
    home = check_home()
    checks += home
    if not any(check.name in ("home", "catalog") and check.state == "fail" for check in home):
        checks.append(_check_key(output, peers, iface or ()))
    checks += check_directory(os.getcwd())
    checks.append(check_qemu())
    _report(output, checks)


def _report(output: Output, checks: list[Check]) -> None:
    """Print the checks; exit with the code of what failed, the network's first."""
    codes = {check.exit_code for check in checks if check.state == "fail"}
    code = NETWORK_FAILS if NETWORK_FAILS in codes else max(codes, default=0)
    document = {
        "checks": [
            {"name": check.name, "state": check.state, "meaning": check.meaning, "advice": check.advice}
            for check in checks
        ],
        "exit_code": code,
    }
    signs = {"ok": "✔", "warn": "!", "fail": "✗"}
    rows = []
    for check in checks:
        rows.append((f"{signs[check.state]} {check.name}", check.meaning))
        if check.advice:
            rows.append(("", f"do: {check.advice}"))
    output.result(document, Table(rows))
    if code:
        raise typer.Exit(code)


def _check_key(output: Output, peers: Sequence[Address], interfaces: Sequence[str]) -> Check:
    """Return the node key: may it be used, and does another machine use it."""

    try:
        with open_node(output) as node:
            fingerprint, kept = node_id(node.key.public), kept_keys(node.home)
            twins = asyncio.run(meet_twins(node, peers, interfaces))
    except OverlaysyncError as error:
        return Check("key", "fail", str(error), error.hint, error.exit_code)
    if twins:
        return Check("key", "fail", "; ".join(twin.words for twin in twins), ADVICE)
    former = f"; a former key is kept, which '{RESTORE}' puts back into use" if kept else ""
    return Check("key", "ok", f"{fingerprint}; no other machine was seen with it{former}")
