"""What is measured inside a process of its own: ``python -m benchmarks.workers NAME ...`` prints seconds.

Each does one thing as fast as plain Python can: these are the peers, and they must be good ones.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_EXTENT = struct.Struct("<QQ")
_BUFFER = 4 << 20
_STEP = 1 << 20


def blake3_file(path: str) -> float:
    """Multi-threaded BLAKE3 of the whole file."""
    from blake3 import blake3

    started = time.perf_counter()
    blake3(max_threads=blake3.AUTO).update_mmap(path).digest()
    return time.perf_counter() - started


def hash_image(path: str) -> float:
    """Our hashing of the disk in the image, without catalog."""
    from overlaysync.formats.chain import Chain
    from overlaysync.ops.hashing import hash_disk

    with Chain.open(path) as chain:
        started = time.perf_counter()
        assert hash_disk(chain, lambda digest, body: None).id
        return time.perf_counter() - started


def put_object(bucket: str, name: str, path: str) -> float:
    """Upload a file to a store as its client does by itself, in parts; the environment has the keys."""
    import obstore
    from obstore.store import S3Store

    started = time.perf_counter()
    obstore.put(S3Store(bucket, client_options={"allow_http": True}), name, Path(path), use_multipart=True)
    return time.perf_counter() - started


def send_file(path: str) -> float:
    """Serve a file's data to everyone who connects: offset, length, bytes by sendfile. Prints its port."""
    from benchmarks.images import data_runs

    with socket.create_server(("127.0.0.1", 0)) as server, Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            with client:
                for offset, length in data_runs(Path(path)):
                    client.sendall(_EXTENT.pack(offset, length))
                    end = offset + length
                    while offset < end:
                        offset += os.sendfile(client.fileno(), file.fileno(), offset, end - offset)
                client.sendall(_EXTENT.pack(size, 0))


def receive_file(port: str, path: str, sync: str) -> float:
    """Copy a file from :func:`send_file` to a new one; nothing is checked. ``sync``: end with fsync."""
    started = time.perf_counter()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    buffer = memoryview(bytearray(_BUFFER))
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        while True:
            offset, length = _EXTENT.unpack(_read(sock, buffer[: _EXTENT.size]))
            if not length:
                os.ftruncate(fd, offset)
                break
            end = offset + length
            while offset < end:
                part = _read(sock, buffer[: min(_STEP, end - offset)])
                offset += os.pwrite(fd, part, offset)
    if sync == "sync":
        os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - started


def _read(sock: socket.socket, buffer: memoryview) -> memoryview:
    """Fill ``buffer``."""
    filled = 0
    while filled < len(buffer):
        count = sock.recv_into(buffer[filled:])
        if not count:
            raise ConnectionError("the sender has gone")
        filled += count
    return buffer


def serve_http(address: str, path: str) -> float:
    """Serve one file to everyone who asks, by sendfile. Prints its port."""

    class Sender(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with Path(path).open("rb") as file:
                self.send_response(200)
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                self.connection.sendfile(file)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Sender) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
    return 0.0


def fetch_http(url: str, path: str) -> float:
    """Fetch a file under a hidden name, then give it its own; nothing is checked or flushed."""
    started = time.perf_counter()
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    with urllib.request.urlopen(url) as body, part.open("wb") as file:
        shutil.copyfileobj(body, file, _STEP)
    if part.stat().st_size != int(body.headers["Content-Length"]):
        raise ConnectionError("the sender has gone")
    part.rename(target)
    return time.perf_counter() - started


_ALL = (blake3_file, hash_image, put_object, send_file, receive_file, serve_http, fetch_http)
WORKERS = {work.__name__: work for work in _ALL}

if __name__ == "__main__":
    try:
        print(WORKERS[sys.argv[1]](*sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
