"""Some hours of the month of ``scripts/month``: what changes is seen by all, and nothing ends or grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlaysync.units import MIB
from tests.month.month import Month
from tests.month.samples import Sample, not_flat

_SOON_S = 30.0
"""Ten seconds are promised; a busy machine may take longer."""


@pytest.mark.lan
@pytest.mark.qemu
@pytest.mark.slow
def test_some_changes_of_a_month_are_found_by_all(tmp_path: Path) -> None:
    month = Month(rounds=5, seed=11, limit_s=_SOON_S)
    month.run(tmp_path)
    assert month.findings == []
    assert len(month.found) >= 5 and month.published >= 6
    assert "| all |" in month.report() and "ana's log" in month.report()


def test_what_grows_is_told_from_what_is_flat() -> None:
    def grown(memory: int, descriptors: int) -> list[str]:
        samples = [
            Sample(n, 80 * MIB + n * memory, 40 + n * descriptors, threads=5, home=1, parts=1)
            for n in range(40)
        ]
        return not_flat(samples)

    assert grown(0, 0) == []
    assert "memory" in grown(MIB, 0)[0] and "descriptors" in grown(0, 1)[0]
    assert not_flat([]) == []
