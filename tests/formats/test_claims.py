"""Two owners of one cluster are found, in little memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.formats.claims import ClusterSet, TooScattered

CLUSTERS = st.integers(0, 40) | st.integers((1 << 18) - 3, (1 << 18) + 3) | st.integers(0, (1 << 47) - 1)


def array(*clusters: int) -> np.ndarray:
    return np.array(clusters, dtype=np.int64)


@given(st.lists(st.lists(CLUSTERS, max_size=12), max_size=6))
@pytest.mark.slow
def test_claims_are_those_of_a_plain_set(claims: list[list[int]]) -> None:
    taken: set[int] = set()
    owned = ClusterSet()
    for clusters in claims:
        found = owned.claim(array(*clusters))
        twice = len(set(clusters)) < len(clusters) or taken & set(clusters)
        assert (found is not None) == bool(twice)
        if twice:
            assert found in taken or clusters.count(found or 0) > 1
            return
        taken |= set(clusters)


@given(st.lists(CLUSTERS, max_size=20), st.lists(CLUSTERS, max_size=20))
def test_common_is_an_intersection(left: list[int], right: list[int]) -> None:
    sets = ClusterSet(), ClusterSet()
    for one, clusters in zip(sets, (left, right), strict=True):
        one.add(array(*clusters))
        one.add(array(*clusters))
    common = sets[0].common(sets[1])
    assert (common is None) == (not set(left) & set(right))
    assert common is None or common in set(left) & set(right)


def test_claiming_nothing_is_fine() -> None:
    assert ClusterSet().claim(array()) is None


def test_clusters_all_over_a_huge_file_are_too_scattered() -> None:
    with pytest.raises(TooScattered):
        ClusterSet().claim(np.arange(0, 2000 << 18, 1 << 18))


@pytest.mark.slow
def test_a_terabyte_in_64_kib_clusters_fits() -> None:
    owned = ClusterSet()
    for start in range(0, 1 << 24, 1 << 17):
        assert owned.claim(np.arange(start, start + (1 << 17))) is None
    assert owned.claim(array(12345678)) == 12345678
