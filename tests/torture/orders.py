"""Tries many orders of the steps of a state machine."""

from __future__ import annotations

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


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
