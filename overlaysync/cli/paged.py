"""The web page of a command that stays: its options, what is printed of it, and where it begins and ends."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeAlias

import typer

from overlaysync.cli.common import number_from
from overlaysync.cli.later import later
from overlaysync.net.faults import Faults
from overlaysync.net.rate import RateLimit
from overlaysync.node.network import Network
from overlaysync.node.reach import Reach
from overlaysync.node.sharing import Share

PageOption: TypeAlias = Annotated[
    bool, typer.Option("--page/--no-page", help="Serve a web page for you alone, on this machine.")
]
PagePortOption: TypeAlias = Annotated[
    float,
    typer.Option(
        "--page-port",
        metavar="PORT",
        parser=number_from(0, 65535, whole=True),
        help="Serve the page on this port; 0 takes any free port.",
    ),
]


@asynccontextmanager
async def page_of(
    share: Share,
    reach: Reach,
    bound: tuple[int, str],
    limit: RateLimit,
    network: Network,
    port: int | None,
) -> AsyncIterator[Any]:
    """Serve the page of a share while the block runs; yields it, or None where there is none.

    Args:
        share: is shown; its observer is told of what goes wrong.
        reach, limit, network: are shown as well.
        bound: the port of the share, and the interfaces that it is announced on.
        port: of the page; 0 for a free one, None for no page.

    Raises:
        NetworkError: the port is taken.
    """
    if port is None:
        yield None
        return
    subject = later("web.subject").Subject(share, reach, *bound, limit, network)
    async with later("web.session").paged(subject, Faults(share.observer.note), port) as page:
        yield page


def page_lines(page: Any) -> list[str]:
    """Return what is printed of a page; the token goes to a terminal only, for others read logs."""
    if page is None:
        return []
    if not sys.stdout.isatty():
        return [f"  page: {page.address}  its token is printed by: overlaysync page"]
    return [f"  page: {later('web.session').link_to(page.address, page.secret)}", f"    {tunnel(page.port)}"]


def tunnel(port: int) -> str:
    """Return the line that brings the page to another machine, to be typed there."""
    user, host = getpass.getuser(), socket.gethostname()
    return f"from another machine: ssh -L {port}:localhost:{port} {user}@{host}"
