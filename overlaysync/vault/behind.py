"""Storing behind: an object is made to last in a thread while the next one is made."""

from __future__ import annotations

import threading

from overlaysync.vault.objects import Objects


class Behind:
    """Stores one object after the other, each in a thread; the next one waits for the one before.

    Args:
        objects: the place.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def put(self, name: str, data: bytes) -> None:
        """Begin to store an object; it is there after :meth:`wait`.

        Raises:
            OverlaysyncError: the one before could not be stored.
        """
        self.wait()
        self._thread = threading.Thread(target=self._put, args=(name, data), name="store")
        self._thread.start()

    def wait(self) -> None:
        """Return when all that was put would outlive a crash.

        Raises:
            OverlaysyncError: the last one could not be stored.
        """
        self.end()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Return when nothing is being stored any more, whatever became of it."""
        if self._thread is not None:
            self._thread.join()

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._objects.put(name, data)
        except Exception as error:  # raised where it is waited for
            self._error = error
