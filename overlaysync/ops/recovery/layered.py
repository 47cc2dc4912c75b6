"""A place in front of others: what it does not have is read from the others, in ranges, and not kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from overlaysync.errors import NotFoundError, OverlaysyncError
from overlaysync.ops.recovery.pulling import Place
from overlaysync.vault.objects import Objects, Part, Stored, missing


class Layered:
    """Reads from ``front``, else from the first of ``places`` that has it; writes to ``front`` alone."""

    def __init__(self, front: Objects, places: Sequence[Place]) -> None:
        self._front = front
        self._places = sorted(places, key=lambda place: place.near)
        self._sources: dict[str, Objects] = {}
        self._wrong: dict[str, list[Objects]] = {}

    def put(self, name: str, data: bytes) -> bool:
        return self._front.put(name, data)

    def store(self, name: str, parts: Iterable[Part]) -> bool:
        return self._front.store(name, parts)

    def parts(self, name: str) -> Iterator[Part]:
        yield self.get(name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        wrong = self._wrong.get(name, ())
        if self._front not in wrong:
            try:
                data = self._front.get(name, offset, length)
            except NotFoundError:
                pass
            else:
                self._sources[name] = self._front
                return data
        failed: OverlaysyncError | None = None
        for place in self._places:
            if not place.works or place.objects in wrong:
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
            self._sources[name] = place.objects
            return data
        raise failed or missing(name)

    def wrong(self, name: str) -> bool:
        """Read an object no more from where it came last; returns whether there is anything else to ask."""
        source = self._sources.pop(name, None)
        if source is None:
            return False
        self._wrong.setdefault(name, []).append(source)
        for place in self._places:
            if place.objects is source:
                place.wrong.append(name)
        return any(place.works and place.objects not in self._wrong[name] for place in self._places)

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
