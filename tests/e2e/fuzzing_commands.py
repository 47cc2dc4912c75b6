"""Feeds whole commands with damaged peers: ``python -m tests.e2e.fuzzing_commands KIND --cases N --seed S``.

Each case runs a real command beside one honest share and one peer that harms it in the way of its kind:

* ``answers``: bodies of its answers are damaged, with lengths that fit;
* ``frames``: any bytes of its answers are damaged, HTTP heads included;
* ``envelopes``: it signs damaged headers, as a liar can sign anything;
* ``certificates``: its private lane shows damaged certificates;
* ``announcements``: multicast DNS packets are damaged, names and TXT records included.

The command must end in time, with an exit code of its own and no unexpected exception, and what the honest
peer shares must be listed and fetched all the same. Run it in a network of its own (see ``NETWORK``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import socket
import ssl
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from overlaysync.model.manifest import encode_header
from overlaysync.net.messages import CatalogMessage, decode_catalog, encode_catalog
from overlaysync.trust.certificate import make_certificate
from overlaysync.trust.envelope import open_envelope
from overlaysync.trust.team_files import keep_team
from overlaysync.trust.teams import Team
from overlaysync.units import MIB
from tests.e2e import disks
from tests.e2e.nodes import Node
from tests.e2e.recorded import Answer, RecordedPeer, Recording, record
from tests.net import flooder
from tests.net.certificates import MACHINE, context_of
from tests.net.fuzzing_decoders import KEY, damage, sign_header_bytes

NETWORK = "ip link set lo up multicast on && ip route add 224.0.0.0/4 dev lo"
"""Prepares a network namespace for :func:`main`."""

SECONDS = 60
"""What one command may take, on a busy machine too."""
EXIT_CODES = frozenset((0, 2, 3, 4, 5, 6, 8, 9, 11))
TEAM = Team("red", bytes(20))
_SIZE = 256 * 1024
_PACKETS_EVERY_S = 0.02


# -- commands ------------------------------------------------------------------------------------------


def _become_command(words: list[str], environment: dict[str, str], place: str, log: str) -> None:
    """Turn this process into the command line's; it exits with the command's code."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    from overlaysync.cli.main import run

    run(words)


class Commands:
    """Runs commands of one node, each in a process forked from one that has everything imported."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._log = node.base / "logs" / "output"
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(
            ["overlaysync.cli.main", "overlaysync.node.reach", "overlaysync.node.fetching"]
        )

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it printed."""
        arguments = (list(words), self.node.environment(), str(self.node.place), str(self._log))
        process = self._processes.Process(target=_become_command, args=arguments)
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            raise AssertionError(f"{words} took longer than {SECONDS} s: {self._log.read_text()}")
        assert process.exitcode is not None
        printed = self._log.read_text()
        assert process.exitcode in EXIT_CODES, (words, process.exitcode, printed)
        assert "Traceback" not in printed and "Unexpected" not in printed, (words, printed)
        return process.exitcode, printed


# -- peers that do harm --------------------------------------------------------------------------------


def damaging(rng: random.Random) -> Answer:
    """Damage bodies, most of the time."""

    async def answer(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
        return web.Response(body=damage(rng, body) if rng.random() < 0.7 else body)

    return answer


def signing(rng: random.Random) -> Answer:
    """Serve, beside the honest envelopes, damaged headers that are signed."""

    async def answer(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
        catalog = decode_catalog(body)
        headers = [encode_header(open_envelope(envelope).header) for envelope in catalog.envelopes]
        signed = [sign_header_bytes(damage(rng, rng.choice(headers))) for _ in range(20)]
        damaged = CatalogMessage(catalog.node, catalog.label, [*signed, *catalog.envelopes])
        return web.Response(body=encode_catalog(damaged))

    return answer


@contextmanager
def damaged_frames(rng: random.Random, upstream: int) -> Iterator[str]:
    """Relay connections to a port of the loopback, and damage what comes back."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            from_peer, to_peer = await asyncio.open_connection("127.0.0.1", upstream)
            await asyncio.gather(
                _pump(reader, to_peer, lambda data: data),
                _pump(from_peer, writer, lambda data: damage(rng, data) if rng.random() < 0.5 else data),
            )

    with serving(lambda: asyncio.start_server(relay, "127.0.0.1", 0)) as port:
        yield f"127.0.0.1:{port}"


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(change(data))
            await writer.drain()
    writer.close()


@contextmanager
def damaged_certificate(rng: random.Random, recording: Recording) -> Iterator[str]:
    """A peer whose private lane shows a certificate that no node makes."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with serving(lambda: asyncio.start_server(close, "127.0.0.1", 0, ssl=_strange_context(rng))) as tls:

        async def answer(request: web.Request, kind: str, body: bytes) -> web.StreamResponse:
            catalog = decode_catalog(body)
            other = CatalogMessage(KEY.public, catalog.label, catalog.envelopes, tls)
            return web.Response(body=encode_catalog(other))

        with RecordedPeer(recording, answer, "catalog") as peer:
            yield peer.address


def _strange_context(rng: random.Random) -> ssl.SSLContext:
    """Show another damaged certificate on each connection; half of them have damage that a library minds."""
    contexts = [context for odd in (True, False) for context in islice(_contexts(rng, odd=odd), 3)]

    def show_another(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = rng.choice(contexts)

    contexts[0].sni_callback = show_another
    return contexts[0]


def _contexts(rng: random.Random, *, odd: bool) -> Iterator[ssl.SSLContext]:
    pem, _ = make_certificate(KEY, MACHINE)
    secret, _, _ = pem.partition(b"-----BEGIN CERTIFICATE")
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    while True:
        damaged = damage(rng, der)
        if odd and _loads(damaged):
            continue
        with suppress(ssl.SSLError, ValueError):  # the library refuses some, and cannot show those
            yield context_of(secret, damaged)


def _loads(der: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(der).public_key()
    except Exception:
        return False
    return True


@contextmanager
def serving(start: Callable[[], object]) -> Iterator[int]:
    """Run an asyncio server in a thread; yields its port."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a client that goes away is no news
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server: asyncio.Server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextmanager
def damaged_announcements(rng: random.Random) -> Iterator[None]:
    """Send damaged packets to the multicast group all the time."""
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            while not stop.wait(_PACKETS_EVERY_S):
                with suppress(OSError):  # too long for a datagram
                    sock.sendto(damage(rng, flooder.packet(rng)), flooder.GROUP)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# -- cases ---------------------------------------------------------------------------------------------


class Cases:
    """The honest share, the node that runs the commands, and the cases of one kind."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self._sharer = Node(root / "honest")
        self._commands = Commands(Node(root / "user"))
        self._honest = disks.make_master(self._sharer.place / "honest.raw", size=_SIZE)
        disks.make_master(self._sharer.place / "other.raw", size=MIB)
        keep_team(self._commands.node.home / "teams", TEAM)
        self._share = self._sharer.share(self._sharer.place)
        self._recording = record(self._share.port)

    def close(self) -> None:
        """End the share."""
        self._sharer.close()

    def run(self, rng: random.Random) -> Iterator[str]:
        """Run the commands of one case; yields what came of each."""
        with self._harm(rng) as peers:
            for words in (("ls", "--json"), ("peers", "--json"), ("ls", "red/"), ("history", "other")):
                # The list must hold the honest node, however slow this machine is at the moment.
                wait = "2" if words == ("ls", "--json") else "0.5"
                code, printed = self._commands.run(*words, "--wait", wait, *peers)
                if words == ("ls", "--json"):
                    self._check_listed(printed)
                yield f"{' '.join(words)} {code}"
            yield f"fetch other {self._fetch('other', peers)[0]}"
            self._check_fetched(peers)
            yield "fetch honest 0"

    @contextmanager
    def _harm(self, rng: random.Random) -> Iterator[tuple[str, ...]]:
        """Harm as the kind says; yields the options that name the peers."""
        honest = f"127.0.0.1:{self._share.port}"
        if self.kind == "announcements":
            with damaged_announcements(rng):
                yield ()
            return
        harm = {
            "answers": lambda: _address(RecordedPeer(self._recording.only("other"), damaging(rng))),
            "envelopes": lambda: _address(RecordedPeer(self._recording, signing(rng), "catalog")),
            "frames": lambda: damaged_frames(rng, self._share.port),
            "certificates": lambda: damaged_certificate(rng, self._recording),
        }[self.kind]
        with harm() as address:
            yield ("--peer", address, "--peer", honest)

    def _check_listed(self, printed: str) -> None:
        begin = printed.index('{"images"') if '{"images"' in printed else printed.index("{\n")
        document, _ = json.JSONDecoder().raw_decode(printed[begin:])
        assert "honest" in {image["name"] for image in document["images"]}, printed

    def _check_fetched(self, peers: tuple[str, ...]) -> None:
        # Announcements that lie about the honest node's address use up what that host is asked at a time.
        for _ in range(3):
            code, printed = self._fetch(f"honest@{self._share.document()['node']}", peers, "--wait", "20")
            if code == 0:
                break
        assert code == 0, printed
        fetched = self._commands.node.place / "fetched" / "honest.raw"
        assert fetched.read_bytes() == self._honest.read_bytes()

    def _fetch(self, reference: str, peers: tuple[str, ...], *options: str) -> tuple[int, str]:
        target = self._commands.node.place / "fetched"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return self._commands.run("fetch", reference, "--to", "fetched", "--seed", "0", *options, *peers)


@contextmanager
def _address(peer: RecordedPeer) -> Iterator[str]:
    with peer:
        yield peer.address


KINDS = ("answers", "frames", "envelopes", "certificates", "announcements")


def main() -> None:
    """Run the cases that the command line asks for, and print how often each outcome came."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case alone")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        cases = Cases(options.kind, Path(directory))
        try:
            for case in range(options.cases) if options.only is None else (options.only,):
                try:
                    outcomes.update(cases.run(random.Random(f"{options.seed}/{case}")))
                except BaseException:
                    print(
                        f"to see it again: {options.kind} --seed {options.seed} --only {case}",
                        file=sys.stderr,
                    )
                    raise
        finally:
            cases.close()
    print(json.dumps(outcomes, sort_keys=True))


if __name__ == "__main__":
    main()
