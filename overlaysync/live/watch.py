"""A process that holds a guest still for a moment, and lets it go on whatever becomes of its parent.

It alone has the connection to the guest's agent, or to the monitor. It lets go when it is told to, when its
parent has ended (its standard input ends), and after a few seconds in any case. :mod:`.guardian` starts it.

Lines on standard input: ``begin``, ``end``. Lines on standard output: ``ready``, or ``none`` if the guest
cannot be reached; ``begun`` or ``failed``; ``ended``, or ``late`` if it has let go before it was told to.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from overlaysync.live.guest_agent import Freeze, SocketAgent, VirshAgent
from overlaysync.live.human import HumanError, HumanMonitor, Pause


class Hold(Protocol):
    """A guest that can be held still.

    Attributes:
        held_s: for so many seconds at most.
    """

    held_s: float

    def prepare(self) -> bool:
        """Return whether the guest can be reached."""
        ...

    def begin(self) -> bool:
        """Hold the guest still; whether that went well."""
        ...

    def end(self) -> None:
        """Let the guest go on; returns when it does."""
        ...


def attend(hold: Hold) -> None:
    """Do what standard input says, and let go in every case."""
    if not hold.prepare():
        _say("none")
        return
    _say("ready")
    if _told(None) != "begin":
        return
    in_time = False
    try:
        begun = hold.begin()
        _say("begun" if begun else "failed")
        in_time = begun and _told(hold.held_s) == "end"
    finally:
        hold.end()  # after a failure as well: a part of it may be held
    _say("ended" if in_time else "late")


def _told(within_s: float | None) -> str:
    """Return the next line of standard input; "" at its end, or if none comes in that time."""
    ready, _, _ = select.select([sys.stdin], [], [], within_s)
    return sys.stdin.readline().strip() if ready else ""


def _say(word: str) -> None:
    with suppress(OSError):  # the parent may have ended
        print(word, flush=True)


def hold_of(words: Sequence[str]) -> Hold:
    """Return what ``agent SOCKET PID``, ``virsh URI DOMAIN``, ``human SOCKET PID`` ``tcp HOST PORT`` names.

    PID is the process that has to have made the socket.

    Raises:
        OSError, HumanError: it cannot be reached.
    """
    kind, place, more = words
    if kind == "agent":
        return Freeze(SocketAgent(place, int(more)))
    if kind == "virsh":
        return Freeze(VirshAgent(place, more))
    if kind == "human":
        return Pause(HumanMonitor.at_socket(place, int(more)))
    return Pause(HumanMonitor.at_port(place, int(more)))


def main(words: Sequence[str]) -> None:
    """Attend to the guest that the words lead to."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the parent is what counts
    try:
        attend(hold_of(words))
    except (OSError, HumanError):
        _say("none")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (nobody reads what is left to be flushed)
