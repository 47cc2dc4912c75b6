"""What a QEMU answers, read into values: what it says may be anything, since any program can be called QEMU.

Source: QEMU qapi/job.json, qapi/block-core.json, qapi/misc.json and qapi/run-state.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from overlaysync.live.monitor import GoneError, Monitor

T = TypeVar("T")


class Job(msgspec.Struct, frozen=True, rename="kebab"):
    """One of ``query-jobs``."""

    id: str
    status: str
    current_progress: int = 0
    error: str = ""


class Node(msgspec.Struct, frozen=True, rename="kebab"):
    """One of ``query-named-block-nodes``."""

    node_name: str
    drv: str = ""
    file: str = ""
    ro: bool = False


class Descriptor(msgspec.Struct, frozen=True):
    """One of a set."""

    opaque: str = ""


class Descriptors(msgspec.Struct, frozen=True, rename="kebab"):
    """One of ``query-fdsets``."""

    fdset_id: int
    fds: tuple[Descriptor, ...] = ()


class Added(msgspec.Struct, frozen=True, rename="kebab"):
    """The answer to ``add-fd``."""

    fdset_id: int


class Status(msgspec.Struct, frozen=True):
    """The answer to ``query-status``."""

    status: str


async def ask_for(
    kind: type[T],
    monitor: Monitor,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    file: int | None = None,
) -> T:
    """Run a command, and return its answer as a value of that type.

    Raises:
        RefusedError: QEMU says no.
        GoneError: it does not answer, or says something else.
    """
    answer = await monitor.ask(command, arguments, file=file)
    try:
        return msgspec.convert(answer, kind)
    except (msgspec.ValidationError, RecursionError):
        raise GoneError(f"its answer to {command} is not one that QEMU gives") from None
