"""The keep command: keep copies of what a team has saved, or sealed copies for other teams."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer

from overlaysync.cli.common import (
    InterfaceOption,
    PeerOption,
    RateOption,
    compression,
    machines,
    number_from,
    open_node,
    parse_peers,
    parse_rate,
)
from overlaysync.cli.output import Output, output_of
from overlaysync.cli.save import team_of
from overlaysync.cli.signals import ending
from overlaysync.cli.staying import Serving, staying
from overlaysync.errors import UsageError
from overlaysync.net.faults import Faults
from overlaysync.node.keeping import Keeper
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.replica import Replica
from overlaysync.node.session import looking
from overlaysync.node.vault_lock import WAIT_S
from overlaysync.store.keeping import Keeping, KeptTeam, load_keeping, save_keeping
from overlaysync.units import format_size, parse_size

_MAX_COPIES = 10
_LOOK_S = 4.0
_INTERVAL = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST_S, _LONGEST_S = 60, 7 * 86400


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("keep")(keep)


def keep(
    context: typer.Context,
    team: Annotated[
        str | None, typer.Argument(metavar="[TEAM]", help="The team (default: your only team).")
    ] = None,
    others: Annotated[
        bool, typer.Option("--others", help="Keep sealed copies of what other teams save; needs --budget.")
    ] = False,
    copies: Annotated[
        int | None,
        typer.Option(
            "--copies",
            metavar="N",
            parser=number_from(1, _MAX_COPIES, whole=True),
            help="Keep each state on N machines, including the one that saved it (default: 3).",
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="SIZE", help="Use at most this much space, such as 50G.")
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="TIME",
            help="Save running VMs again at this interval, such as 15m; 'off' stops that.",
        ),
    ] = None,
    off: Annotated[
        bool, typer.Option("--off", help="Take no more copies; those that are here stay.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Take the copies that are due, and exit.")] = False,
    peer: PeerOption = None,
    iface: InterfaceOption = None,
    limit_rate: RateOption = None,
) -> None:
    """Keep copies of what a team saves."""

    output = output_of(context)
    size = parse_size(budget) if budget else None
    live_s = parse_interval(live) if live else None
    if others and team:
        raise UsageError(
            "Cannot use --others together with a team",
            hint=f"overlaysync keep {team}, and on its own: overlaysync keep --others --budget 50G",
        )
    if others and not size and not off:
        raise UsageError("--others needs --budget", hint="overlaysync keep --others --budget 50G")
    if others and live:
        raise UsageError("--live is for a team's own VMs", hint="overlaysync keep TEAM --live 15m")
    network = Network(
        parse_peers(peer), iface or (), parse_rate(limit_rate), compression(), mdns_needed=False
    )
    with open_node(output) as node:
        name = "" if others else team_of(node, team or "", "keep").name
        keeping = _changed(load_keeping(node.home.keeping), name, copies, size, live_s, off=off)
        save_keeping(node.home.keeping, keeping)
        if off:
            output.result(
                {"keeps": _fields(keeping)},
                output.good(f"no more copies are taken for {_whose(name)}; those that are here stay"),
            )
            return
        try:
            asyncio.run(_keep(node, output, network, name, keeping, once=once))
        except KeyboardInterrupt:
            how, code = ending()
            output.log(f"ended by {how}")
            raise SystemExit(code) from None


def parse_interval(text: str) -> int:
    """Return the seconds of an interval such as ``15m``; 0 for ``off``.

    Raises:
        UsageError: it is none, or shorter than a minute, or longer than a week.
    """
    if text == "off":
        return 0
    found = _INTERVAL.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UsageError(
            f"'{text}' is not an interval from one minute to one week",
            hint="overlaysync keep TEAM --live 15m, or 2h, or off",
        )
    return seconds


def _changed(
    keeping: Keeping,
    name: str,
    copies: int | None,
    budget: int | None,
    live: int | None = None,
    *,
    off: bool,
) -> Keeping:
    """Return what is kept from now on; what was not said stays as it was said before."""
    if not name:
        return Keeping(keeping.teams, 0 if off else budget or 0)
    before = keeping.teams.get(name, KeptTeam())
    team = KeptTeam(
        before.copies if copies is None else int(copies),
        before.budget if budget is None else budget,
        before.live if live is None else live,
    )
    teams = {other: kept for other, kept in keeping.teams.items() if other != name}
    return Keeping(teams if off else teams | {name: team}, keeping.others)


async def _keep(
    node: Node, output: Output, network: Network, name: str, keeping: Keeping, *, once: bool
) -> None:
    if once:
        async with looking(node, Silent(), network) as reach:
            await reach.until(lambda: False, wait_s=_LOOK_S)
            taken = await Keeper(node, reach, output, Faults(), wait_s=WAIT_S).round()
            lines = _lines(output, name, keeping)
            if not taken:
                lines.append(
                    "  nothing was copied: everything due is here, or no machine within reach has it"
                )
            output.result({"keeps": _fields(keeping), "taken": taken}, *lines)
        return
    output.stay()
    replica = Replica(node, (), None, output)
    try:
        async with staying(replica, network, Serving(None, network.rate, 0, None)) as running:
            document = {
                "keeps": _fields(keeping),
                "node": node.label,
                "port": running.port,
                "interfaces": running.where,
            }
            until = f"  sharing on port {running.port}, until Ctrl-C"
            output.result(document, *_lines(output, name, keeping), until)
            await asyncio.Event().wait()
    finally:
        replica.close()


def _lines(output: Output, name: str, keeping: Keeping) -> list[str]:
    if not name:
        return [
            output.good(f"keeping what other teams save, sealed, in {format_size(keeping.others)} at most")
        ]
    kept = keeping.teams[name]
    room = f", in {format_size(kept.budget)} at most" if kept.budget else ""
    lines = [output.good(f"keeping what team '{name}' saves, each state on {machines(kept.copies)}{room}")]
    if kept.live:
        lines.append(
            f"  VMs that were saved here are saved again every {kept.live / 60:g} min while they run"
        )
    return lines


def _whose(name: str) -> str:
    return f"team '{name}'" if name else "other teams"


def _fields(keeping: Keeping) -> dict[str, object]:
    teams = {
        name: {"copies": kept.copies, "budget": kept.budget, "live_s": kept.live}
        for name, kept in keeping.teams.items()
    }
    return {"teams": teams, "others": keeping.others}
