"""A month of four machines: ``scripts/month``."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.e2e.namespaces import NoNamespaceError
from tests.month.month import SOON_S, Month


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/month", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="changes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is random (default: %(default)s)")
    parser.add_argument(
        "--limit", type=float, default=SOON_S, help="seconds to be found in (default: %(default)g)"
    )
    parser.add_argument("--minutes", type=float, help="end after so many minutes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave everything in this directory")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets the former be ignored in the background
        signal.signal(number, signal.default_int_handler)
    root = options.keep or Path(tempfile.mkdtemp(prefix="overlaysync-month-"))
    end = time.monotonic() + 60 * options.minutes if options.minutes else None
    month = Month(options.rounds, options.seed, options.limit, tell=partial(print, flush=True), until=end)
    if not month.clock:
        print(
            "libfaketime is not installed: clocks are left alone, sleep lasts seconds (apt install faketime)"
        )
    try:
        month.run(root)
    except NoNamespaceError as error:
        print(f"scripts/month: no network namespaces here: {error}", file=sys.stderr)
        return 2
    finally:
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    print(f"\n{month.report()}\n")
    for finding in month.findings:
        print(f"FOUND: {finding}")
    print(f"scripts/month: {'FAILED' if month.findings else 'PASSED'}, seed {month.seed}")
    return 1 if month.findings else 0


if __name__ == "__main__":
    sys.exit(main())
