"""Floods this machine's loopback with mDNS: ``python -m tests.net.flooder LABEL PORT [RECORDS]``.

Each packet announces a dozen nodes, each whole (PTR, SRV, TXT, A): made-up names, TXT of random bytes and of
terminal sequences, addresses elsewhere, and now and then the node LABEL itself, whose port is PORT. It prints
how many records it has sent.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
NODES = 12
KIND = (b"_overlaysync", b"_tcp", b"local")


def name(*labels: bytes) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", kind, 1, 4500, len(data)) + data


def _instance(rng: random.Random) -> bytes:
    tail = b"%016x" % rng.getrandbits(64)
    return rng.choice((b"flood-", b"\x1b[31m-", b"\xff\xfe-", "\u202e-".encode(), b"../../")) + tail


def _txt(rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"\x03v=1\x0cm.\x1b[=01234567",
            b"\x03v=1\x0fm.../../etc=0123",
            b"\x03v=1\x0em.kali=01234567",
            bytes([200]) + rng.randbytes(200),
            rng.randbytes(90),
            b"",
        )
    )


def packet(rng: random.Random, own: bytes = b"", port: int = 9) -> bytes:
    """One response."""
    records = []
    for _ in range(NODES):
        instance = own if own and rng.random() < 0.02 else _instance(rng)
        owner, host = name(instance, *KIND), name(b"h%016x" % rng.getrandbits(64), b"local")
        address = rng.choice((b"\x7f", b"\x08", b"\xa9", b"\xe0")) + rng.randbytes(3)
        records += [
            record(name(*KIND), 12, owner),
            record(owner, 33, struct.pack(">HHH", 0, 0, port if instance == own else 9) + host),
            record(owner, 16, _txt(rng)),
            record(host, 1, address),
        ]
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def main(label: str, port: str, count: str = "100000") -> None:
    """Send them, no faster than a receiver might take them: what its kernel drops harms nobody."""
    rng = random.Random(1)
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        while sent < int(count):
            sock.sendto(packet(rng, label.encode(), int(port)), GROUP)
            sent += 4 * NODES
            time.sleep(0.002)
    print(sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
