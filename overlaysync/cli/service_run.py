"""The running service: it shares, keeps and pushes what the settings say, until it is stopped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from overlaysync.archive.opening import open_place
from overlaysync.archive.places import find_place, load_places
from overlaysync.cli.common import compression, parse_peers, parse_rate
from overlaysync.cli.keep import parse_interval
from overlaysync.cli.output import Output
from overlaysync.cli.paged import page_lines
from overlaysync.cli.save import team_of
from overlaysync.cli.service_settings import ServiceSettings
from overlaysync.cli.staying import Running, Serving, staying
from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.node.archiving import push
from overlaysync.node.gathering import Wishes
from overlaysync.node.network import Network
from overlaysync.node.node import Node
from overlaysync.node.notify import ALIVE, READY, STOPPING, notify, status, watchdog_s
from overlaysync.node.replica import Replica
from overlaysync.node.sharing import Share
from overlaysync.ops.collecting import Rules
from overlaysync.store.keeping import Keeping, KeptTeam, load_keeping, save_keeping
from overlaysync.trust.teams import Team
from overlaysync.units import format_size

_FIRST_PUSH_S = 60.0
"""The first push waits: a machine that starts has other things to do."""
_STATUS_S = 10.0


def check(node: Node, settings: ServiceSettings) -> list[Team]:
    """Return the teams that are to be kept.

    Raises:
        OverlaysyncError: this machine is not in a team that is named, or there is no such archive.
    """
    teams = [team_of(node, name, "keep") for name in settings.keep]
    if settings.team:
        team_of(node, settings.team, "share")
    places = load_places(node.home.config)
    for name in settings.push:
        find_place(places, name)
    return teams


def prepare(node: Node, settings: ServiceSettings) -> list[Team]:
    """Return the teams that are kept, and note that they are; what was said of their limits stays.

    Raises:
        OverlaysyncError: this machine is not in one of them, or there is no such archive.
    """
    teams = check(node, settings)
    before = load_keeping(node.home.keeping)
    kept = {team.name: before.teams.get(team.name, KeptTeam()) for team in teams}
    if settings.live:
        live_s = parse_interval(settings.live)
        kept = {name: msgspec.structs.replace(team, live=live_s) for name, team in kept.items()}
    save_keeping(node.home.keeping, Keeping(before.teams | kept, before.others))
    return teams


async def run_service(node: Node, output: Output, settings: ServiceSettings, teams: Sequence[Team]) -> None:
    """Serve until it is cancelled."""
    tell = partial(notify, os.environ)
    tell(status("reading what is shared"))
    rate = parse_rate(settings.limit_rate)
    network = Network(
        parse_peers(list(settings.peer) or None),
        settings.iface,
        rate,
        compression(),
        mdns_needed=False,
        catalogs=bool(teams),
        alarm=output.note,
    )
    share = _contents(node, output, settings)
    page_port = settings.page_port if settings.page else None
    serving = Serving(settings.port, rate, settings.recheck, page_port)
    tasks: list[asyncio.Task[None]] = []
    try:
        async with staying(share, network, serving, partial(_publish, share, settings)) as running:
            tell(READY, _status(share, settings, running.port))
            document, *lines = _started(share, settings, running)
            output.result(document, *lines, *page_lines(running.page))
            tasks = [
                asyncio.create_task(_stay_alive(tell)),
                asyncio.create_task(_tell_status(tell, share, settings, running.port)),
                asyncio.create_task(_push_regularly(node, output, settings, teams)),
            ]
            await asyncio.Event().wait()
    finally:
        tell(STOPPING, status("stopping"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        share.close()


def _contents(node: Node, output: Output, settings: ServiceSettings) -> Share:
    if not settings.share:
        return Replica(node, (), None, output)
    wishes = Wishes(collecting=Rules(settings.recursive, settings.exclude))
    return Share(node, settings.paths, settings.team or None, output, wishes)


def _publish(share: Share, settings: ServiceSettings) -> None:
    """Publish what is there; in directories, images may come later.

    Raises:
        OverlaysyncError: nothing can be shared, and nothing can come.
    """
    if not settings.share:
        return
    try:
        share.publish_all()
    except NotFoundError as error:
        if not all(os.path.isdir(path) for path in settings.paths):
            raise
        share.observer.note(f"{error.what} so far; images that come are shared")


def _started(share: Share, settings: ServiceSettings, running: Running) -> tuple[Any, ...]:
    """Return the document and the lines that say what the service does."""
    names = [_title(one) for one in share.shared]
    document = {
        "node": share.label,
        "port": running.port,
        "interfaces": running.where,
        "shared": names,
        "keeps": list(settings.keep),
        "pushes": list(settings.push),
    }
    lines = [f"sharing as {share.label} on port {running.port}"]
    if running.where:
        lines[0] += f", announced on {running.where}"
    lines += [f"  shared: {', '.join(names) or 'nothing yet'}"] if settings.share else []
    lines += [f"  keeps what these teams save: {', '.join(settings.keep)}"] if settings.keep else []
    lines += [f"  pushes to: {', '.join(settings.push)}"] if settings.push else []
    return document, *lines


def _title(shared: Any) -> str:
    header = shared.manifest.header
    return f"{header.full_name}:{header.version}"


def _status(share: Share, settings: ServiceSettings, port: int) -> str:
    count = len(share.shared)
    kept = f"; keeping {', '.join(settings.keep)}" if settings.keep else ""
    return status(f"sharing {'1 image' if count == 1 else f'{count} images'} on port {port}{kept}")


# -- beside it ---------------------------------------------------------------------------------------


async def _stay_alive(tell: Callable[..., bool]) -> None:
    """Tell systemd, twice as often as it asks for, that the event loop runs."""
    interval_s = watchdog_s(os.environ)
    while interval_s:
        tell(ALIVE)
        await asyncio.sleep(interval_s / 2)


async def _tell_status(tell: Callable[..., bool], share: Share, settings: ServiceSettings, port: int) -> None:
    told = ""
    while True:
        line = _status(share, settings, port)
        if line != told:
            tell(told := line)
        await asyncio.sleep(_STATUS_S)


async def _push_regularly(
    node: Node, output: Output, settings: ServiceSettings, teams: Sequence[Team]
) -> None:
    """Push to each archive from time to time; what fails is said, and tried again the next time."""
    await asyncio.sleep(_FIRST_PUSH_S)
    while settings.push:
        for name in settings.push:
            for team in teams:
                await asyncio.to_thread(_push, node, output, team, name)
        await asyncio.sleep(settings.push_hours * 3600)


def _push(node: Node, output: Output, team: Team, name: str) -> None:
    try:
        done = push(node, team, name, open_place(find_place(load_places(node.home.config), name)))
    except (OverlaysyncError, OSError) as error:
        output.note(f"Cannot push what team '{team.name}' saved to archive '{name}': {error}")
        return
    if done.stored:
        output.note(f"Pushed what team '{team.name}' saved to archive '{name}', {format_size(done.stored)}")
