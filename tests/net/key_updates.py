"""TLS 1.3 KeyUpdate messages that ask for one in return: Python's ssl cannot send any, OpenSSL can."""

from __future__ import annotations

import _ssl
import ctypes
import ssl

_REQUESTED = 1
_SSL_AT = 3 * ctypes.sizeof(ctypes.c_void_p)
"""Where a `_ssl._SSLSocket` has its SSL*: behind the object's head and one pointer."""

_openssl = ctypes.CDLL(_ssl.__file__)  # finds what the module is linked with
_openssl.SSL_key_update.argtypes = (ctypes.c_void_p, ctypes.c_int)


def key_update(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    """Send one, in a record of its own."""
    pointer = ctypes.c_void_p.from_address(id(connection._sslobj) + _SSL_AT)  # type: ignore[union-attr]
    assert _openssl.SSL_key_update(pointer, _REQUESTED) == 1
    connection.do_handshake()
