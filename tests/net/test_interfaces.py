from __future__ import annotations

import ipaddress

import pytest

from overlaysync.errors import UsageError
from overlaysync.net.interfaces import (
    Interface,
    choose_interfaces,
    is_left_out,
    is_on_link,
    list_interfaces,
)


def interface(name: str, *addresses: str, left_out: str = "") -> Interface:
    return Interface(name, tuple(map(ipaddress.ip_interface, addresses)), left_out)


LO = interface("lo", "127.0.0.1/8", "::1/128")
LAN = interface("vlan28", "192.0.2.7/24", "2001:db8::7/64", "fe80::7/64")
DOCKER = interface("docker0", "172.17.0.1/16", left_out="made by a container or VM tool")
ALL = (LO, LAN, DOCKER)


def test_the_loopback_is_there() -> None:
    (loopback,) = (found for found in list_interfaces() if found.name == "lo")
    assert loopback.ipv4 == ("127.0.0.1",)
    assert loopback in choose_interfaces()


@pytest.mark.parametrize(
    "name",
    [
        "docker0",
        "veth12ab",
        "virbr0",
        "virbr0-nic",
        "vnet7",
        "tap0",
        "tap104",
        "br-0123456789ab",
        "ovs-system",
    ],
)
def test_names_that_are_left_out(name: str) -> None:
    assert is_left_out(name)


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "wlan0", "vlan28", "br0", "br-lab", "bond0", "dsw-host"])
def test_names_that_are_used(name: str) -> None:
    assert not is_left_out(name)


def test_choosing() -> None:
    assert choose_interfaces((), ALL) == (LO, LAN)
    assert choose_interfaces(("docker0",), ALL) == (DOCKER,)
    assert choose_interfaces(("vlan28", "lo", "vlan28"), ALL) == (LAN, LO)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(UsageError) as caught:
        choose_interfaces(("eth\x1b0",), ALL)
    assert "vlan28" in caught.value.hint
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "192.0.2.254", "2001:db8::1", "127.0.0.1", "127.1.2.3", "::1"]
)
def test_addresses_that_are_reached_directly(address: str) -> None:
    assert is_on_link(address, (LO, LAN))


@pytest.mark.parametrize(
    "address",
    [
        "192.0.3.1",
        "8.8.8.8",
        "192.0.2.255",
        "172.17.0.2",
        "0.0.0.0",
        "224.0.0.251",
        "255.255.255.255",
        "2001:db8:1::1",
        "fe80::1",
        "::",
        "ff02::fb",
        "",
        "bob",
        "192.0.2.1:80",
    ],
)
def test_addresses_that_are_not(address: str) -> None:
    assert not is_on_link(address, (LO, LAN))


def test_the_loopback_is_local_only_when_chosen() -> None:
    assert not is_on_link("127.0.0.1", (LAN,))
