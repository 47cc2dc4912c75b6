"""Places by address, and room made by the host with the most of them."""

from __future__ import annotations

import pytest

from overlaysync.net.crowd import Crowd


def crowd_of(*addresses: str) -> Crowd[int]:
    crowd: Crowd[int] = Crowd()
    for number, address in enumerate(addresses):
        crowd.add(number, address)
    return crowd


@pytest.mark.red_without("N4", "each address counts as a host of its own")
def test_addresses_of_one_ipv6_network_are_one_host() -> None:
    crowd = crowd_of("192.0.2.1", "fd00::1", "192.0.2.1", "fd00::2", "fd00::3", "fd00:0:0:1::1")
    assert crowd.count("fd00::1") == 1 and crowd.count("192.0.2.1") == 2
    first = crowd.first_of_largest()
    assert first == 1
    assert crowd.gives_way(first, "192.0.2.9") and crowd.gives_way(first, "fd00:0:0:1::2")
    assert not crowd.gives_way(first, "192.0.2.1"), "it would have as many then"
    assert not crowd.gives_way(first, "fd00::9")
    assert crowd.first_of_largest([0, 5, 4, 3]) == 4
    assert crowd.first_of_largest([0, 5]) is None


def test_what_is_given_back_no_longer_counts() -> None:
    crowd = crowd_of("fd00::1", "fd00::2", "192.0.2.1")
    for holder in (0, 1, 1):
        crowd.remove(holder)
    assert len(crowd) == 1 and 1 not in crowd and crowd.count("fd00::1") == 0
    assert crowd.first_of_largest() == 2
    crowd.remove(2)
    assert crowd.first_of_largest() is None
