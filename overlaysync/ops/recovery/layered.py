"""A place in front of others: what it does not have is read from the others, in ranges, and not kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.ops.recovery.pulling import Place
from overlaysync.vault.objects import Objects, Stored, missing


class Layered:
    """Reads from ``front``, else from the first of ``places`` that has it; writes to ``front`` alone."""

    def __init__(self, front: Objects, places: Sequence[Place]) -> None:
        self._front = front
        self._places = sorted(places, key=lambda place: place.near)

    def put(self, name: str, data: bytes) -> bool:
        return self._front.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            return self._front.get(name, offset, length)
        except NotFoundError:
            pass
        failed: OverlaysyncError | None = None
        for place in self._places:
            if not place.works:
                continue
            try:
                data = place.objects.get(name, offset, length)
            except NotFoundError:
                continue
            except OverlaysyncError as error:
                place.note_failure(error)
                failed = error
                continue
            place.note_success(len(data))
            return data
        raise failed or missing(name)

    def size(self, name: str) -> int | None:
        size = self._front.size(name)
        for place in self._places:
            if size is None and place.works:
                try:
                    size = place.objects.size(name)
                except OverlaysyncError as error:
                    place.note_failure(error)
        return size

    def list(self, prefix: str) -> Iterator[Stored]:
        return self._front.list(prefix)

    def delete(self, name: str) -> bool:
        return self._front.delete(name)
