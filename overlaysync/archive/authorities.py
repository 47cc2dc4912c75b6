"""Where an object store's client finds the certificates of authorities.

The command line hides them from the libraries that read all of them when they are imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

AUTHORITIES = "OVERLAYSYNC_SSL_CERT_FILE"
"""Holds what the user had set as ``SSL_CERT_FILE``."""
_VARIABLE = "SSL_CERT_FILE"


@contextmanager
def authorities_shown() -> Iterator[None]:
    """Have the user's authorities, or the system's, in the environment while the block runs."""
    hidden = os.environ.get(_VARIABLE)
    if hidden != os.devnull:
        yield
        return
    own = os.environ.get(AUTHORITIES)
    if own and own != os.devnull:
        os.environ[_VARIABLE] = own
    else:
        del os.environ[_VARIABLE]
    try:
        yield
    finally:
        os.environ[_VARIABLE] = hidden
