"""What all fuzzers share: cases by number, each in bounded time, and a bound on memory.

Their command line: ``--cases N --seed S``, and ``--only CASE`` to see one again.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

SECONDS = 10
"""What one case may take: far more than any does, even on a busy machine."""


class TimeIsUp(BaseException):
    """A case took too long."""


def limit_memory(size: int) -> None:
    """From here on, an allocation much over ``size`` bytes fails."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_cases(run: Callable[[int, random.Random], str], *, between: str = " ") -> int:
    """Run the cases that the command line asks for and print how often each outcome came; returns 0.

    Args:
        run: one case, by its number; returns what came of it.
        between: printed between the outcomes.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _raise_time_is_up)
    outcomes: Counter[str] = Counter()
    for case in range(options.cases) if options.only is None else (options.only,):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            outcomes[run(case, random.Random(f"{options.seed}/{case}"))] += 1
        except BaseException:
            print(f"case {case} of seed {options.seed}: --seed {options.seed} --only {case}", file=sys.stderr)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(*(f"{name} {count}" for name, count in sorted(outcomes.items())), sep=between)
    return 0


def _raise_time_is_up(number: int, frame: FrameType | None) -> None:
    raise TimeIsUp
