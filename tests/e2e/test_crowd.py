"""A crowd: five hundred clients at once on one share, each from an address of its own on the loopback."""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context

import pytest

from overlaysync.net.messages import encode_slots
from overlaysync.units import CHUNK, KIB, MIB
from tests.e2e.memory import peak_memory
from tests.e2e.nodes import Lab
from tests.e2e.recorded import record

pytestmark = [pytest.mark.bench, pytest.mark.slow]

CLIENTS = 500
EACH = 4 * MIB
REQUEST = 256 * KIB


@dataclass(slots=True)
class Client:
    """What one client saw.

    Attributes:
        seconds: how long its bytes took.
        busy: answers with 503.
        digest: of all it got.
    """

    seconds: float = 0.0
    busy: int = 0
    digest: bytes = b""
    statuses: set[int] = field(default_factory=set)


async def get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> tuple[int, dict[str, str], bytes]:
    writer.write(f"GET /v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
    return int(head[0].split()[1]), fields, await reader.readexactly(int(fields["content-length"]))


async def fetch(port: int, number: int, path: str, start: asyncio.Event) -> Client:
    """Fetch the first bytes of a manifest's data, a request after the other, as a polite client does."""
    await start.wait()
    client = Client()
    began = time.monotonic()
    own = f"127.1.{number // 250}.{number % 250 + 1}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))
    hashed = hashlib.blake2b()
    slots = REQUEST // CHUNK
    at = 0
    while at < EACH // CHUNK:
        status, fields, body = await get(reader, writer, f"{path}/data?slots={encode_slots([(at, slots)])}")
        client.statuses.add(status)
        if status == 503:
            client.busy += 1
            await asyncio.sleep(int(fields["retry-after"]))
            continue
        assert status == 200
        hashed.update(body)
        at += slots
    writer.close()
    client.seconds, client.digest = time.monotonic() - began, hashed.digest()
    return client


async def _crowd(port: int, path: str) -> list[Client]:
    start = asyncio.Event()
    tasks = [asyncio.create_task(fetch(port, number, path, start)) for number in range(CLIENTS)]
    start.set()
    return await asyncio.gather(*tasks)


def crowd(port: int, path: str) -> list[Client]:
    """All clients, in a process of their own."""
    return asyncio.run(_crowd(port, path))


def ask(port: int) -> float:
    """How long a small question takes."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/peers", timeout=20) as answer:
        assert answer.status == 200
    return time.monotonic() - began


@pytest.mark.holds("N4")
def test_five_hundred_clients_are_served_alike(open_lab: Lab) -> None:
    teacher = open_lab.node("teacher")
    name = open_lab.name("noise")
    source = teacher.place / f"{name}.raw"
    content = os.urandom(EACH)
    source.write_bytes(content)
    share = teacher.share(source)
    (manifest,) = record(share.port).manifests
    before = peak_memory(share.popen.pid)

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        everybody = processes.submit(crowd, share.port, f"manifests/{manifest}")
        answers = [ask(share.port)]
        while not wait([everybody], timeout=0.1).done:
            answers.append(ask(share.port))
        clients = everybody.result()

    expected = hashlib.blake2b(content).digest()
    assert {client.digest for client in clients} == {expected}
    rates = sorted(EACH / client.seconds for client in clients)
    assert rates[0] >= statistics.median(rates) / 2, (rates[0], statistics.median(rates))
    assert max(answers) <= 1.0
    assert peak_memory(share.popen.pid) <= 300 * MIB
    total = CLIENTS * EACH / max(client.seconds for client in clients) / MIB
    print(f"{total:.0f} MiB/s in all; slowest / median {rates[0] / statistics.median(rates):.2f}; ", end="")
    print(
        f"{sum(client.busy for client in clients)} times busy; longest answer {max(answers):.3f} s; ", end=""
    )
    print(f"peak memory {before / MIB:.0f} → {peak_memory(share.popen.pid) / MIB:.0f} MiB")
