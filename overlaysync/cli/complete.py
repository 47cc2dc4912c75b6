"""Completion of references in the shell: names in the catalog and on the LAN.

A TAB must never print, fail or wait long: the LAN gets 0.7 seconds, every error means no candidates, and what
was found is kept in the home for half a minute. Names come from other machines and the shell evaluates what
it gets, so a candidate is letters, digits and ``._-/:@`` only.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

from overlaysync.cli.later import later
from overlaysync.store.home import Home

_KEEP_S = 30.0
_CACHE = "completion.json"
_CACHE_LIMIT = 1 << 20
_CANDIDATES_LIMIT = 2000
_SAFE = re.compile(r"[\w.][\w./:@-]{0,199}")
_WORDS = re.compile(r"[\w., ]{0,80}")
"""What a description consists of."""


def complete_reference(incomplete: str) -> list[tuple[str, str]]:
    """Return the references that begin with ``incomplete``, and what each is.

    Names first, and after ``:`` or ``@`` versions or nodes.
    """
    with suppress(Exception), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        found = _candidates().items()
        return [pair for pair in found if pair[0].startswith(incomplete) and _is_due(pair[0], incomplete)]
    return []


def _is_due(text: str, incomplete: str) -> bool:
    """Whether a version or a node is offered: only once its mark has been typed."""
    return all(mark in incomplete for mark in ":@" if mark in text)


def _candidates() -> dict[str, str]:

    cache = Home.from_environment(os.environ).root / _CACHE
    found = _load(cache)
    if found is None:
        found = later("cli.candidates").find(_CANDIDATES_LIMIT, _SAFE)
        _save(cache, found)
    return found


# -- the cache ---------------------------------------------------------------------------------------


def _load(cache: Path) -> dict[str, str] | None:
    """Return what was found lately, None when that is too long ago or unreadable."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        with open(cache, "rb") as file:
            document = json.loads(file.read(_CACHE_LIMIT))
        if 0 <= time.time() - document["at"] < _KEEP_S:
            candidates = document["candidates"].items()
            return {
                text: words for text, words in candidates if _SAFE.fullmatch(text) and _WORDS.fullmatch(words)
            }
    return None


def _save(cache: Path, candidates: dict[str, str]) -> None:
    scratch = cache.with_name(f".{cache.name}.{os.getpid()}")
    with suppress(OSError):
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"at": time.time(), "candidates": candidates}, file)
        os.replace(scratch, cache)
