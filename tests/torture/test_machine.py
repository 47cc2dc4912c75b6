"""Any order of commands is safe. Longer ones, and more of them: ``scripts/torture``."""

from __future__ import annotations

import pytest

from tests.counts import record_counts
from tests.e2e.nodes import Lab
from tests.torture.conftest import MakeRunner
from tests.torture.machine import try_orders
from tests.torture.school import school

pytestmark = [pytest.mark.qemu, pytest.mark.strace, pytest.mark.slow]


@pytest.mark.holds("R7")
@pytest.mark.red_without("R7", "`promote --discard` removes the overlay first")
@pytest.mark.red_without("R7", "overlays that stand on an image are not looked for")
@pytest.mark.red_without("R7", "`rebase --replace` checks nothing first")
@pytest.mark.red_without("R7", "the last rename replaces an existing file, and nothing checks for one before")
@pytest.mark.red_without("R7", "`verify` finds nothing")
@pytest.mark.red_without("R7", "what is copied or fetched is not compared with its digests")
@pytest.mark.red_without("R7", "a file gets its name before its tables are written")
@pytest.mark.red_without("R7", "a master may stay writable")
@pytest.mark.red_without("R7", "an overlay that was repaired is always made writable")
@pytest.mark.red_without(
    "R7", "overlays are hashed again when their master is repaired, so rot in them counts as content"
)
def test_any_order_of_commands_is_safe(lab: Lab, make_runner: MakeRunner, seed: int) -> None:
    with school(lab, make_runner(one_thread=False)) as made:
        try_orders(made, seed=seed, examples=9, steps=30)
    record_counts("machine", seed=seed, **made.counts)
    assert made.counts["images looked at"] and made.counts["kills"] and made.counts["bits"]
