"""How much of what is random is tried: a part in ``scripts/test``, ten times that in ``scripts/torture``.

OVERLAYSYNC_EFFORT multiplies the number of cases; OVERLAYSYNC_SEED has other ones tried.
"""

from __future__ import annotations

import os

# Read now: tests take such variables out of the environment.
EFFORT = int(os.environ.get("OVERLAYSYNC_EFFORT") or 1)
_FIRST = int(os.environ.get("OVERLAYSYNC_SEED") or 1)
SEEDS = (_FIRST, _FIRST + 1)
"""Of fuzzers: each runs in a process of its own."""
