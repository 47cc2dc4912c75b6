"""The way into the page for a browser that a command starts.

What a program is started with, every user of the machine can see. So the browser is started with the name of
a file that only this user can read, and that file leads it to the address with the token. To the browser, a
file and the page are two sites. So the page answers the first visit with a page of its own that leads on:
only then does the browser send the cookie along.
"""

from __future__ import annotations

from pathlib import Path

from overlaysync.store.files import translate
from overlaysync.store.home import Home
from overlaysync.trust.secret_files import replace_secret
from overlaysync.web.render import environment
from overlaysync.web.secret import pages_of


def write_opener(home: Home, link: str) -> Path:
    """Write the file that leads a browser to an address, and return its path.

    Raises:
        OverlaysyncError: it cannot be written.
    """
    path = pages_of(home) / "open.html"
    try:
        replace_secret(path, leading_to(link).encode())
    except OSError as error:
        raise translate(error, f"Cannot write {path}") from error
    return path


def leading_to(where: str, icon: str = "") -> str:
    """Return a page that leads on to an address at once; a browser asks for an icon in any case."""
    return environment().get_template("leading.html").render(where=where, icon=icon)
