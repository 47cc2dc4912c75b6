"""A command that is killed as soon as a packed image has its name: run as ``python -m``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from overlaysync.cli.main import run
from overlaysync.store.partial import PartFile

rename = PartFile._rename


def rename_and_die(part: PartFile, *arguments: Any) -> None:
    rename(part, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    PartFile._rename = rename_and_die  # type: ignore[method-assign,assignment]
    run(sys.argv[1:])
