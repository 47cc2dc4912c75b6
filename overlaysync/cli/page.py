"""The page command: open the web page of a share that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Annotated

import typer

from overlaysync.cli.later import later
from overlaysync.cli.output import output_of
from overlaysync.cli.paged import tunnel
from overlaysync.errors import NotFoundError
from overlaysync.store.home import Home


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command("page")(page)


def page(
    context: typer.Context,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser if there is a display.")
    ] = True,
) -> None:
    """Open the web page of a running share."""

    output = output_of(context)
    home = Home.from_environment(os.environ).prepare()
    pages = later("web.session").running(home)
    if not pages:
        raise NotFoundError("No share with a page is running", hint="overlaysync share PATH...")
    opener = shutil.which("xdg-open") if browser and _has_display() and not output.json else None
    lines = [line for one in pages for line in (one.link, f"  {tunnel(one.port)}")]
    document = {"pages": [{"address": one.address, "port": one.port, "link": one.link} for one in pages]}
    output.result(document, *lines)
    if opener:
        _open(opener, str(later("web.opening").write_opener(home, pages[0].link)))


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(opener: str, path: str) -> None:
    """Open a file in the user's browser, which outlives this command."""
    subprocess.Popen(
        [opener, path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
