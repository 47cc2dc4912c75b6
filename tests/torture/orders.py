"""Tries many orders of the steps of a state machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

Orders: TypeAlias = Callable[[int], Counter[str]]
"""Tries orders that a seed chooses, and counts what was done."""

_MOST_SEEDS = 5


def try_until(happened: Callable[[Counter[str]], object], seed: int, orders: Orders) -> Counter[str]:
    """Try orders with this seed and the next ones until something ``happened``; returns what was done.

    A few orders may leave a step out by chance, and the seed is another one every day.
    """
    counts: Counter[str] = Counter()
    for more in range(_MOST_SEEDS):
        counts += orders(seed + more)
        if happened(counts):
            break
    return counts


def run_orders(machine: type[RuleBasedStateMachine], *, seed: int, examples: int, steps: int) -> None:
    """Try so many orders of so many steps.

    What fails is shown as it was found, step by step: to look for a shorter one would take hours.
    """
    chosen = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=chosen)
    except Exception as error:
        error.add_note(f"seed {seed}, {examples} examples of {steps} steps")
        raise
