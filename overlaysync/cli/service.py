"""The service commands: install, status, remove, and the one that systemd runs."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from overlaysync.cli.commands import App
from overlaysync.cli.common import open_node
from overlaysync.cli.later import later
from overlaysync.cli.output import output_of
from overlaysync.cli.service_settings import ServiceSettings, load_settings
from overlaysync.cli.service_site import Site, install_site, remove_site, site_status, system_site, user_site
from overlaysync.cli.signals import ending
from overlaysync.errors import NotFoundError, UsageError

SystemOption = Annotated[
    bool,
    typer.Option(
        "--system", help="Use the machine-wide service instead of yours; only root can install or remove it."
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    service = App(no_args_is_help=True, help="Share, keep and push in the background, with systemd.")
    for command in (install, status, remove, run):
        service.command(command.__name__)(command)
    app.add_typer(service, name="service")


def install(
    context: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Images or directories to share.")
    ] = None,
    team: Annotated[
        str | None, typer.Option("--team", metavar="TEAM", help="Share them with this team only.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="TEAM", help="Keep copies of what TEAM saves. May be repeated."),
    ] = None,
    push: Annotated[
        list[str] | None,
        typer.Option("--push", metavar="ARCHIVE", help="Push kept states to ARCHIVE. May be repeated."),
    ] = None,
    system: SystemOption = False,
    no_start: Annotated[
        bool, typer.Option("--no-start", help="Only write the files; start nothing.")
    ] = False,
) -> None:
    """Install the service, and start it."""

    output = output_of(context)
    wanted: dict[str, Any] = {"share": [os.path.abspath(path) for path in paths or ()]}
    wanted |= {"team": team or "", "keep": keep or [], "push": push or []}
    for path in wanted["share"]:
        if not os.path.exists(path):
            raise NotFoundError(
                f"There is nothing at {path}",
                why="the service shares what is there when it starts",
                hint=f"mkdir -p {shlex.quote(path)}, or name another path",
            )
    site = _site(system)
    if not system and (keep or team or push):  # refused before anything is written
        with open_node(output) as node:
            later("cli.service_run").check(node, msgspec.convert(wanted, ServiceSettings))
    done = install_site(site, {name: value for name, value in wanted.items() if value})
    lines = [output.good(f"written: {path}") for path in done.written]
    lines += [f"  as it was: {path}" for path in done.unchanged]
    again = f"overlaysync service remove{' --system' if system else ''}"
    document = {
        "unit": str(done.unit),
        "settings": str(done.settings),
        "written": list(map(str, done.written)),
        "started": False,
        "undo": again,
    }
    if not no_start:
        done.site.start()
        lines.append(output.good("started, now and whenever " + ("it boots" if system else "you log in")))
        document["started"] = True
    lines += [f"  {line}" for line in done.site.advice()]
    lines += [f"  what it does is in [service] of {done.settings}", f"  to undo this: {again}"]
    output.result(document, *lines)


def status(context: typer.Context, system: SystemOption = False) -> None:
    """Show whether the service runs."""

    output = output_of(context)
    found = site_status(_site(system))
    output.result(found.fields(), *found.lines(output.good))


def remove(context: typer.Context, system: SystemOption = False) -> None:
    """Stop and remove the service; all else stays."""

    output = output_of(context)
    site = _site(system)
    removed = remove_site(site)
    lines = [output.good(f"stopped and removed: {path}") for path in removed]
    if site.is_shipped:
        lines.append(output.good(f"stopped; {site.shipped} belongs to a package, and stays"))
    elif not removed:
        lines.append(f"the service is not installed: there is no {site.unit}")
    lines.append(f"  its settings stay: [service] of {site.settings}")
    output.result({"removed": list(map(str, removed)), "settings": str(site.settings)}, *lines)


def run(context: typer.Context) -> None:
    """Do what the settings say; systemd runs this."""

    output = output_of(context)
    output.stay()
    settings = load_settings(os.environ)
    if settings.is_empty:
        raise UsageError(
            "The service has nothing to do",
            why=f"[service] of {user_site(os.environ).settings} names nothing to share, keep or push",
            hint="overlaysync service install ~/masters, with a directory to share",
        )
    running = later("cli.service_run")
    with open_node(output) as node:
        teams: Sequence[Any] = running.prepare(node, settings)
        try:
            asyncio.run(running.run_service(node, output, settings, teams))
        except KeyboardInterrupt:  # the usual end: nothing went wrong
            how, code = ending()
            output.log(f"ended by {how}")
            raise SystemExit(code) from None


def _site(system: bool) -> Site:
    return system_site() if system else user_site(os.environ)
