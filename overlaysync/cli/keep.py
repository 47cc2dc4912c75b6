"""The keep command: hold copies of what a team has saved, or of what others have, sealed."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from overlaysync.cli.common import (
    InterfaceOption,
    PeerOption,
    RateOption,
    compression,
    number_from,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.save import team_of
from overlaysync.cli.signals import ending
from overlaysync.errors import UsageError
from overlaysync.net.faults import Faults
from overlaysync.net.rate import RateLimit
from overlaysync.node.keeping import Keeper
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.replica import Replica
from overlaysync.node.serving import serve
from overlaysync.node.session import looking
from overlaysync.store.keeping import Keeping, KeptTeam, load_keeping, save_keeping
from overlaysync.units import format_size, parse_size

_MAX_COPIES = 10
_LOOK_S = 4.0


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("keep")(keep)


def keep(
    context: typer.Context,
    team: Annotated[str | None, typer.Argument(metavar="[TEAM]", help="A team that you are in.")] = None,
    others: Annotated[
        bool, typer.Option("--others", help="Keep what belongs to others too, sealed: needs --budget.")
    ] = False,
    copies: Annotated[
        int | None,
        typer.Option(
            "--copies",
            metavar="N",
            parser=number_from(1, _MAX_COPIES, whole=True),
            help="On so many machines, with the one that saved (default: as before, at first 3).",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="SIZE", help="Take this much room at most, such as 50G (default: as before)."
        ),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Take nothing new; what is here stays.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Take what is due, and end.")] = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    limit_rate: RateOption = None,
) -> None:
    """Keep copies of what a team saves."""

    output = output_of(context)
    size = parse_size(budget) if budget else 0
    if others and team:
        raise UsageError("--others and a team exclude each other", hint="run keep once for each")
    if others and not size and not off:
        raise UsageError("--others needs --budget", hint="overlaysync keep --others --budget 50G")
    network = Network(
        parse_peers(peer), iface or (), parse_rate(limit_rate), compression(), mdns_needed=False
    )
    with open_node(output) as node:
        name = "" if others else team_of(node, team or "", "keep").name
        before = load_keeping(node.home.keeping)
        former = before.teams.get(name, KeptTeam())
        team_now = KeptTeam(int(copies or former.copies), size if budget or others else former.budget)
        keeping = _changed(before, name, team_now, off=off)
        save_keeping(node.home.keeping, keeping)
        if off:
            output.result({"keeps": _fields(keeping)}, output.good(f"{_whose(name)}: nothing new is taken"))
            return
        try:
            asyncio.run(_keep(node, output, network, name, keeping, once=once))
        except KeyboardInterrupt:
            how, code = ending()
            output.log(f"ended by {how}")
            raise SystemExit(code) from None


def _changed(keeping: Keeping, name: str, team: KeptTeam, *, off: bool) -> Keeping:
    if not name:
        return Keeping(keeping.teams, 0 if off else team.budget)
    teams = {other: kept for other, kept in keeping.teams.items() if other != name}
    return Keeping(teams if off else teams | {name: team}, keeping.others)


async def _keep(
    node: Node, output: Output, network: Network, name: str, keeping: Keeping, *, once: bool
) -> None:
    if once:
        async with looking(node, Silent(), network) as reach:
            await reach.until(lambda: False, wait_s=_LOOK_S)
            taken = await Keeper(node, reach, output, Faults()).round()
            lines = _lines(output, name, keeping)
            if not taken:
                lines.append(
                    "  nothing was taken: what is due is here, or no machine within reach that has it keeps "
                    "or shares"
                )
            output.result({"keeps": _fields(keeping), "taken": taken}, *lines)
        return
    output.stay()
    replica = Replica(node, (), None, output)
    try:
        async with (
            looking(node, Silent(), network) as reach,
            serve(
                replica, reach=reach, port=None, interfaces=network.interfaces, limit=RateLimit(network.rate)
            ) as (port, where),
        ):
            document = {"keeps": _fields(keeping), "node": node.label, "port": port, "interfaces": where}
            output.result(document, *_lines(output, name, keeping), f"  port {port}; Ctrl-C ends it")
            await asyncio.Event().wait()
    finally:
        replica.close()


def _lines(output: Output, name: str, keeping: Keeping) -> list[str]:
    if not name:
        return [output.good(f"keeping what others save, sealed, in {format_size(keeping.others)} at most")]
    kept = keeping.teams[name]
    room = f", in {format_size(kept.budget)} at most" if kept.budget else ""
    return [output.good(f"keeping what team '{name}' saves, on {kept.copies} machines in all{room}")]


def _whose(name: str) -> str:
    return f"team '{name}'" if name else "others"


def _fields(keeping: Keeping) -> dict[str, object]:
    teams = {name: {"copies": kept.copies, "budget": kept.budget} for name, kept in keeping.teams.items()}
    return {"teams": teams, "others": keeping.others}
