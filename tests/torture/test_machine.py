"""Any order of commands is safe. More of them: ``scripts/torture``."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.machine import Student, school

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]

STEPS, EXAMPLES = 50, 10


def settings(*, examples: int, steps: int = STEPS) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def test_any_order_of_commands_is_safe(lab: Lab, make_runner: MakeRunner) -> None:
    with school(lab, make_runner(one_thread=False)) as made:

        class Pupil(Student):
            school = made

        run_state_machine_as_test(Pupil, settings=settings(examples=EXAMPLES))
    record_counts("machine", **made.counts)
    assert made.counts["examples"] >= EXAMPLES
