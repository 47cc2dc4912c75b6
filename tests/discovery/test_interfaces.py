from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from overlaysync.discovery.interfaces import (
    Interface,
    LinkNews,
    choose_interfaces,
    is_left_out,
    is_on_link,
    is_own,
    list_interfaces,
)
from overlaysync.errors import UsageError
from overlaysync.model.addresses import heard_from, told_to


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


def test_ipv6_multicast_needs_a_link_local_address() -> None:
    assert LO.versions == (4,) and LAN.versions == (4, 6)
    assert (
        interface("eth0", "fe80::7/64").versions == (6,)
        and interface("eth0", "2001:db8::7/64").versions == ()
    )


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


def test_a_link_local_address_is_reached_on_its_own_link() -> None:
    other = replace(interface("eth9", "fe80::9/64"), index=9)
    numbered = replace(LAN, index=28)
    for address in ("fe80::1%vlan28", "fe80::1%28", "fe80::1%eth9"):
        assert is_on_link(address, (LO, numbered, other)), address
    for address in ("fe80::1", "fe80::1%lo", "fe80::1%0", "fe80::1%nosuch", "fe80::1%"):
        assert not is_on_link(address, (LO, numbered, other)), address
    assert is_own("fe80::7%vlan28", (LO, LAN)) and not is_own("fe80::7%lo", (LO, LAN))


def test_what_others_are_told_of_an_interface() -> None:
    lasting = replace(LAN, fleeting=frozenset({"2001:db8::7"}))
    assert LAN.lasting == ("192.0.2.7", "2001:db8::7", "fe80::7")
    assert lasting.lasting == ("192.0.2.7", "fe80::7")
    assert LO.lasting == ("127.0.0.1",)
    assert interface("tun0", "10.8.0.1/24", "2001:db8::1/64").lasting == ("10.8.0.1",)


@pytest.mark.parametrize(
    ("host", "other", "told", "heard"),
    [
        ("192.0.2.7", "fe80::1%eth0", "192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "192.0.2.1", "2001:db8::7", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::1%eth0", "fe80::7", "fe80::7%eth0"),
        ("fe80::7%eth0", "fe80::1%eth1", "", "fe80::7%eth1"),
        ("fe80::7%eth0", "192.0.2.1", "", "fe80::7"),
        ("fe80::7", "fe80::1", "", "fe80::7"),
        ("bob.lab", "fe80::1%eth0", "bob.lab", "bob.lab"),
    ],
)
def test_a_scope_goes_to_nobody_and_comes_from_nobody(host: str, other: str, told: str, heard: str) -> None:
    assert told_to(host, other) == told
    assert heard_from(host, other) == heard


def test_the_loopback_is_local_only_when_chosen() -> None:
    assert not is_on_link("127.0.0.1", (LAN,))


@pytest.mark.lan
def test_the_kernel_tells_of_changes() -> None:
    script = """
import subprocess, time
from overlaysync.discovery.interfaces import LinkNews
news = LinkNews()
print(news.any())
for command in (
    "ip link set lo up",
    "ip address add 10.0.0.1/8 dev lo",
    "ip address add fd00::1/64 dev lo nodad",
    "ip link set lo down",
):
    subprocess.run(command.split(), check=True)
    deadline = time.monotonic() + 20
    while not news.any() and time.monotonic() < deadline:
        time.sleep(0.01)
    print(time.monotonic() < deadline)
    time.sleep(0.2)  # several messages may tell of one change
    news.any()
news.close()
"""
    done = subprocess.run(
        [
            "unshare",
            "--net",
            *(["--user", "--map-root-user"] if os.geteuid() else []),
            sys.executable,
            "-c",
            script,
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.split() == ["False", "True", "True", "True", "True"]


def test_where_the_kernel_tells_nothing_there_may_always_be_news(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*what: object) -> None:
        raise PermissionError

    monkeypatch.setattr("overlaysync.discovery.interfaces.socket.socket", refuse)
    news = LinkNews()
    assert news.any() and news.any()
    news.close()
