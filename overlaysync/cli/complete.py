"""Completion of references in the shell: names in the catalog and on the LAN.

A TAB must never print, fail or wait long: the LAN gets 0.7 seconds, every error means no candidates, and what
was found is kept in the home for half a minute. Names come from other machines and the shell evaluates what
it gets, so a candidate is letters, digits and ``._-/:@`` only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from overlaysync.cli.common import open_node, parse_peers
from overlaysync.net.client import Client
from overlaysync.node.node import Node
from overlaysync.node.observer import Silent
from overlaysync.node.reach import Reach
from overlaysync.ops.resolve import Listing
from overlaysync.store.home import Home
from overlaysync.trust.envelope import open_envelope

_LOOK_S = 0.7
_KEEP_S = 30.0
_CACHE = "completion.json"
_CACHE_LIMIT = 1 << 20
_CANDIDATES_LIMIT = 2000
_SAFE = re.compile(r"[\w.][\w./:@-]{0,199}")


def complete_reference(incomplete: str) -> list[str]:
    """Return the references that begin with ``incomplete``.

    Names first, and after ``:`` or ``@`` versions or nodes.
    """
    with suppress(Exception), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return [text for text in _candidates() if text.startswith(incomplete) and _is_due(text, incomplete)]
    return []


def _is_due(text: str, incomplete: str) -> bool:
    """Whether a version or a node is offered: only once its mark has been typed."""
    return all(mark in incomplete for mark in ":@" if mark in text)


def _candidates() -> list[str]:

    cache = Home.from_environment(os.environ).root / _CACHE
    found = _load(cache)
    if found is None:
        found = _find()
        _save(cache, found)
    return found


# -- the cache ---------------------------------------------------------------------------------------


def _load(cache: Path) -> list[str] | None:
    """Return what was found lately, None when that is too long ago or unreadable."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        with open(cache, "rb") as file:
            document = json.loads(file.read(_CACHE_LIMIT))
        if 0 <= time.time() - document["at"] < _KEEP_S:
            return [text for text in document["candidates"] if _SAFE.fullmatch(text)]
    return None


def _save(cache: Path, candidates: list[str]) -> None:
    scratch = cache.with_name(f".{cache.name}.{os.getpid()}")
    with suppress(OSError):
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"at": time.time(), "candidates": candidates}, file)
        os.replace(scratch, cache)


# -- looking -----------------------------------------------------------------------------------------


def _find() -> list[str]:
    """Everything known here and listed on the LAN."""

    logging.disable(logging.CRITICAL)  # this process only completes
    with open_node(None) as node:
        listings = [Listing(open_envelope(row.envelope)) for row in node.catalog.manifests()]
        with suppress(Exception):
            listings += asyncio.run(_look(node))
    safe = {text for listing in listings for text in _references(listing) if _SAFE.fullmatch(text)}
    return sorted(safe)[:_CANDIDATES_LIMIT]


async def _look(node: Node) -> Iterable[Listing]:

    async with (
        Client(teams=node.teams) as client,
        Reach.open(node, client, Silent(), peers=parse_peers(None)) as reach,
    ):
        await reach.until(lambda: False, wait_s=_LOOK_S)
        return reach.listings()


def _references(listing: Listing) -> Iterator[str]:
    header = listing.manifest.header
    if header.team:
        yield f"{header.team}/"
    for name in {header.name, header.full_name}:
        yield name
        yield f"{name}:{header.version}"
        yield from (f"{name}@{label}" for label in listing.labels)
