"""What is captured, and what comes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from overlaysync.formats.image import Format
from overlaysync.live.monitor import Monitor
from overlaysync.live.processes import Process
from overlaysync.live.targets import Source


@dataclass(frozen=True, slots=True)
class Running:
    """A QEMU, and what of it is to be captured.

    Attributes:
        name: for people.
        sources: files that it writes to.
        connect: opens its QMP monitor.
        process: as far as it can be seen.
        agent: words that lead to the guest agent, see :func:`.watch.hold_of`; none without one.
        human: words that lead to a monitor for people, through which the VM is to be stopped for the copy;
            none to use QMP.
        at_once: called at the moment that the copies show: reads what is not copied otherwise.
    """

    name: str
    sources: tuple[Source, ...]
    connect: Callable[[], Awaitable[Monitor]]
    process: Process | None = None
    agent: tuple[str, ...] = ()
    human: tuple[str, ...] = ()
    at_once: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Moment:
    """When what was captured of a QEMU was so.

    Attributes:
        at: seconds since 1970.
        frozen: whether the guest's file systems were frozen then.
    """

    at: float
    frozen: bool = False


NO_MOMENT = Moment(0.0)
"""Before anything was captured."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a file.

    Attributes:
        file: a descriptor of it.
        format: its format, which may be another than the source's.
    """

    file: int
    format: Format


@dataclass(frozen=True, slots=True)
class Copies:
    """What was captured.

    Attributes:
        files: by path of the source; the caller closes them.
        moments: of each QEMU, in the order that was asked for.
    """

    files: Mapping[str, Copy]
    moments: tuple[Moment, ...]

    @property
    def skew_s(self) -> float:
        """The time between the first moment and the last."""
        times = [moment.at for moment in self.moments]
        return max(times) - min(times)
