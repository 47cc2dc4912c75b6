"""Who may ask for the page: decided from a request alone, before anything is done for it.

Three attackers can reach a loopback port. A page of another origin in the user's browser: the browser says so
(Origin, Sec-Fetch-Site), and "same-site" counts as another, since to a browser all ports of a host are one
site. A name that an attacker lets point to 127.0.0.1: the Host field carries that name. Another user of the
machine: has no token. All of them get the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from overlaysync.web.secret import Secret

COOKIE = "overlaysync"
_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
"""With any port: that of ``ssh -L`` is chosen at the other end."""
_OWN = ("same-origin", "none")
"""Sec-Fetch-Site of what our own page asks for, and of an address that was typed."""


class Verdict(Enum):
    """What becomes of a request."""

    FOREIGN = "foreign"
    """It comes from another page, or by another name: refused."""
    UNKNOWN = "unknown"
    """It shows no token."""
    KNOWN = "known"
    """The user asks."""


def judge(secret: Secret, headers: Mapping[str, list[str]]) -> Verdict:
    """Return what to do with a request.

    Args:
        secret: of the page.
        headers: its fields, by name in lower case.
    """
    hosts = headers.get("host", [])
    if not _is_host(hosts):
        return Verdict.FOREIGN
    if any(site not in _OWN for site in headers.get("sec-fetch-site", [])):
        return Verdict.FOREIGN
    if any(origin != f"http://{hosts[0]}" for origin in headers.get("origin", [])):
        return Verdict.FOREIGN
    return Verdict.KNOWN if _shows(secret, headers) else Verdict.UNKNOWN


def is_arrival(headers: Mapping[str, list[str]]) -> bool:
    """Whether a browser goes to this page as a whole, from a link or a file: never a part of another page.

    Such a request is answered only when its address has the token.
    """
    return (
        _is_host(headers.get("host", []))
        and not headers.get("origin")
        and headers.get("sec-fetch-site") in (["cross-site"], ["same-site"])
        and headers.get("sec-fetch-mode") == ["navigate"]
        and headers.get("sec-fetch-dest") == ["document"]
    )


def _is_host(hosts: list[str]) -> bool:
    return len(hosts) == 1 and bool(_HOST.fullmatch(hosts[0]))


def may_change(
    secret: Secret, headers: Mapping[str, list[str]], form: Mapping[str, str], action: str
) -> bool:
    """Whether a POST that was judged known comes from a form of this page.

    Browsers always say where a POST comes from, so here that must be said.
    """
    said = bool(headers.get("origin")) or "same-origin" in headers.get("sec-fetch-site", [])
    return said and secret.is_form(form.get("csrf", ""), action)


def _shows(secret: Secret, headers: Mapping[str, list[str]]) -> bool:
    """Whether a request carries the cookie, or the token as a bearer's."""
    for value in headers.get("authorization", []):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and secret.is_token(token.strip()):
            return True
    return any(secret.is_cookie(text) for text in _cookies(headers))


def _cookies(headers: Mapping[str, list[str]]) -> list[str]:
    """Return the values of our cookie; other servers on this host may have set any others."""
    found = []
    for line in headers.get("cookie", []):
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                found.append(value)
    return found


def cookie_for(secret: Secret) -> str:
    """Return the Set-Cookie field after the first visit: for this path, and for what no other page begins."""
    return f"{COOKIE}={secret.cookie}; Path=/{secret.path}/; HttpOnly; SameSite=Strict"
