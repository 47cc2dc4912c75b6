"""A network of its own for each process that runs tests: nobody else is heard in it, and every port is free.

Nodes find each other by multicast. On one network, what a test makes up would reach the nodes of all others.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

_CLONE_NEWNET = 0x40000000  # linux/sched.h

# The other end of the cable has a name that nodes leave out, so eth0 is the only way to the outside.
_CABLE = """
ip link set lo up &&
ip link add eth0 type veth peer name veth0 &&
ip link set veth0 up &&
ip link set eth0 up &&
ip address add 192.0.2.2/24 dev eth0 &&
ip address add 2001:db8::2/64 dev eth0 nodad
"""


def enter() -> None:
    """Leave the machine's network for a new one: a loopback, and an interface with IPv4 and IPv6.

    Only root may. Others stay in the machine's network, where tests that run side by side hear each other.

    Raises:
        OSError: the kernel refuses.
        CalledProcessError: the interface cannot be made.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network for the tests")
    subprocess.run(
        ["sh", "-ec", _CABLE], check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    )
