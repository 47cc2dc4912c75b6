"""How a command is ended: by Ctrl-C, by SIGTERM, or by a terminal that goes away (SIGHUP).

One way to stop: asyncio handles SIGINT well, so the others become one. Leaves out what is done then.
"""

from __future__ import annotations

import signal
from types import FrameType

INTERRUPTED = 130

_asked: list[int] = []
"""SIGTERM or SIGHUP, once one has come."""


def install() -> None:
    """Let SIGINT, SIGTERM and SIGHUP interrupt the command.

    Shells start background jobs of scripts with SIGINT ignored, which would make them deaf to all of these.
    Only a SIGHUP that is ignored stays so: that is what nohup is for.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _end)


def ending() -> tuple[str, int]:
    """Return how a command that stays was ended, and the exit code: being told to end is no failure of it."""
    if _asked:
        return signal.Signals(_asked[0]).name, 0
    return "Ctrl-C", INTERRUPTED


def leave() -> None:
    """End the command: nothing is left to break off, so that no signal makes the interpreter complain.

    Ctrl-C ends what is left without words, should it take long. A command that was told to end keeps its exit
    code when it is told again: the interpreter restores what these signals did at first while it ends, and
    then the kernel would end it.
    """
    if _asked:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    # A terminal that closes may send its signal twice: the second must not break off a clean end.
    if not _asked:
        _asked.append(number)
        signal.raise_signal(signal.SIGINT)
