"""Nodes, and processes that fork commands; where that can be had, in a network that nobody else is in."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.forks import Forks
from tests.e2e.namespaces import NoNamespaceError, island
from tests.e2e.nodes import Lab
from tests.torture.runner import Runner

MakeRunner = Callable[..., Runner]


@pytest.fixture(scope="session")
def apart() -> Iterator[tuple[str, ...]]:
    """Words that run a command where no node of another test is heard; none where that cannot be had."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(island())
        except NoNamespaceError:
            yield ()
        else:
            yield made.prefix


@pytest.fixture(scope="session")
def forks(apart: tuple[str, ...]) -> Iterator[Forks]:
    """Forks commands there."""
    with Forks(apart) as made:
        yield made


@pytest.fixture(scope="session")
def open_forks() -> Iterator[Forks]:
    """Forks commands on this machine's own network."""
    with Forks() as made:
        yield made


@pytest.fixture
def lab(tmp_path: Path, apart: tuple[str, ...], forks: Forks) -> Iterator[Lab]:
    """Nodes that find each other by ``--peer`` only."""
    with Lab(tmp_path, prefix=apart, forks=forks) as made:
        yield made


@pytest.fixture
def open_lab(tmp_path: Path, open_forks: Forks) -> Iterator[Lab]:
    """Nodes on this machine's own network."""
    with Lab(tmp_path, forks=open_forks) as made:
        yield made


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
