"""How ``scripts/month`` tells what grows from what is flat."""

from __future__ import annotations

from overlaysync.units import MIB
from tests.month.samples import Sample, not_flat


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
