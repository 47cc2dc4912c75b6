"""Nodes, and processes that fork commands; where that can be had, in a network that nobody else is in."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import apart, forks, lab, open_forks, open_lab
from tests.torture.runner import Runner

__all__ = ["apart", "forks", "lab", "open_forks", "open_lab"]

MakeRunner = Callable[..., Runner]


@pytest.fixture
def make_runner(tmp_path: Path, apart: tuple[str, ...]) -> Iterator[MakeRunner]:
    """Makes processes that fork commands; they end with the test."""
    with ExitStack() as stack:

        def make(**settings: object) -> Runner:
            return stack.enter_context(Runner(tmp_path, prefix=apart, **settings))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def seed() -> int:
    """Another one each day, so that all points have their turn; OVERLAYSYNC_SEED repeats one."""
    return int(os.environ.get("OVERLAYSYNC_SEED") or datetime.datetime.now(datetime.UTC).date().toordinal())
