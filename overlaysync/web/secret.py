"""The secret that opens the page, and what follows from it.

Other users of the machine can connect to a loopback port, so whoever asks must show that they can read a file
of this user's (0600). A browser shows a cookie after the first visit. Cookies know no ports: a browser sends
one to every server on the same host, another user's included. So the page is below a path that follows from
the secret too, and the cookie is for that path only: who does not know the secret is never sent it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from overlaysync.errors import NotAllowedError
from overlaysync.store.files import translate
from overlaysync.store.home import Home
from overlaysync.trust.secret_files import make_secret, read_secret

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SIZE = 32


@dataclass(frozen=True, slots=True)
class Secret:
    """The secret of one home's page.

    Attributes:
        token: as it stands in the file and in the address.
    """

    token: str = field(repr=False)

    @property
    def path(self) -> str:
        """The first part of the path of everything that the page consists of."""
        return self._derived("path")[:24]

    @property
    def cookie(self) -> str:
        """What the browser keeps."""
        return self._derived("cookie")

    def form(self, action: str) -> str:
        """What a form of this page carries, and no other page knows."""
        return self._derived(f"form {action}")

    def is_token(self, text: str) -> bool:
        return _same(text, self.token)

    def is_cookie(self, text: str) -> bool:
        return _same(text, self.cookie)

    def is_form(self, text: str, action: str) -> bool:
        return _same(text, self.form(action))

    def _derived(self, what: str) -> str:
        return hmac.digest(self.token.encode(), f"overlaysync page {what}".encode(), "sha256").hex()


def _same(text: str, secret: str) -> bool:
    return hmac.compare_digest(text.encode(errors="surrogateescape"), secret.encode())


def load_or_make(home: Home) -> Secret:
    """Return the secret of a home; it is made at first use.

    Raises:
        NotAllowedError: others can read the file, or it holds something else.
        OverlaysyncError: it cannot be read or made.
    """
    path = home.page_token
    try:
        with suppress(FileExistsError):
            if not path.exists():
                make_secret(path, secrets.token_urlsafe(_SIZE).encode())
        text = read_secret(path, "token of the page", 2 * _SIZE).decode(errors="replace").strip()
    except OSError as error:
        raise translate(error, f"Cannot use the token of the page, {path}") from error
    if not _TOKEN.fullmatch(text):
        raise NotAllowedError(
            f"{path} holds no token of the page",
            hint=f"remove it, and a new one is made: rm '{path}'",
        )
    return Secret(text)


def pages_of(home: Home) -> Path:
    """Return the directory in which each share that has a page says where it is."""
    return home.root / "pages"
