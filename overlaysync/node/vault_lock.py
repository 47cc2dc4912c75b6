"""The lock of the vault, waited for: another command that writes to it is done in a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

from overlaysync.errors import InUseError
from overlaysync.node.observer import Observer
from overlaysync.ops.recovery.lock import only_writer

WAIT_S = 600.0
"""How long a command waits: a first save of a large disk takes some minutes."""
_LOOK_S = 0.1


@contextmanager
def only_writer_soon(root: Path, observer: Observer, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock of the vault at ``root``, as soon as no other command does.

    Args:
        root: the directory of the vault.
        observer: is told once that it is waited for.
        wait_s: how long.

    Raises:
        InUseError: another command has written to it all that time.
        NotAllowedError: the vault cannot be made.
    """
    end = monotonic() + wait_s
    told = False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(only_writer(root))
                break
            except InUseError:
                if monotonic() >= end:
                    raise
            if not told:
                most = f"{_words(wait_s)} at most"
                observer.note(f"  another command is writing to the vault; waiting for it to finish, {most}")
                told = True
            sleep(_LOOK_S)
        yield


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
