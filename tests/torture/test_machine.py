"""Any order of commands is safe. Longer ones, and more of them: ``scripts/torture``."""

from __future__ import annotations

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.machine import try_orders
from tests.torture.school import school

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]


def test_any_order_of_commands_is_safe(lab: Lab, make_runner: MakeRunner, seed: int) -> None:
    with school(lab, make_runner(one_thread=False)) as made:
        try_orders(made, seed=seed, examples=14, steps=30)
    record_counts("machine", seed=seed, **made.counts)
    assert made.counts["images looked at"] and made.counts["kills"] and made.counts["bits"]
