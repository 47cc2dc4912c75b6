"""Pull: copy objects from several places at once into one, each compared with its name before it is stored.

A place that lacks an object, or has another under its name, costs the time of asking; one that fails again
and again is left alone. What is stored stays: a pull that is broken off goes on where it was. Objects are
asked for in the order in which they are wanted, and who needs them is told as each one comes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from overlaysync.errors import NotFoundError, OverlaysyncError, StoppedError, VerificationError
from overlaysync.vault.objects import Objects, Part, checked_parts, is_whole

_AT_ONCE = 3
"""Objects that are asked of one place at once."""
_STRIKES = 5
"""Failures in a row after which a place is left alone."""


@dataclass(slots=True)
class Place:
    """A place to pull from.

    Attributes:
        label: what people call it.
        objects: it.
        near: lower ones are asked first; among equals the work is shared.
        stop: has what is being read from it fail at once, and what is asked for later.
        pulled: bytes that came from it.
        wrong: names of objects that it had and that were something else.
        problem: why it was left alone, if it was.
    """

    label: str
    objects: Objects
    near: int = 0
    stop: Callable[[], None] = lambda: None
    pulled: int = 0
    wrong: list[str] = field(default_factory=list)
    problem: str = ""
    _strikes: int = 0

    @property
    def works(self) -> bool:
        """Whether it is still asked."""
        return self._strikes < _STRIKES

    def note_failure(self, error: OverlaysyncError) -> None:
        """Count a failure of the place itself."""
        self._strikes += 1
        self.problem = str(error)

    def note_success(self, size: int) -> None:
        """Count an object that came."""
        self._strikes = 0
        self.pulled += size


@dataclass(slots=True)
class _Wanted:
    name: str
    tried: set[int] = field(default_factory=set)


class Pull:
    """One pull: what is wanted, and the places it may come from.

    Args:
        places: where to ask.
        target: where it goes.
        progress: told of the bytes stored; may end the pull with an exception.
        settled: told of each object that the target has, whole where that is checked, and of each that no
            place could give. Called from any thread; must not wait for another object.
    """

    def __init__(
        self,
        places: Sequence[Place],
        target: Objects,
        progress: Callable[[int], None] = lambda _: None,
        settled: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._places = places
        self._target = target
        self._progress = progress
        self._settled = settled
        self._lock = threading.Condition()
        self._waiting: deque[_Wanted] = deque()
        self._under_way = 1  # the list of what is wanted
        self._failed: list[str] = []
        self._stopped: BaseException | None = None
        self._give_up_after: int | None = None

    def run(
        self, names: Sequence[str], *, check: bool = False, give_up_after: int | None = None
    ) -> list[str]:
        """Pull what the target does not have; returns the names of what no place could give.

        Args:
            names: of the objects.
            check: whether to read what the target has, and to pull it again where it is damaged.
            give_up_after: so many that no place can give, the rest is not asked for, and is returned too.

        Raises:
            NoSpaceError, OverlaysyncError: the target cannot store it.
        """
        self._give_up_after = give_up_after
        lacks = self._lacks_whole if check else self._lacks
        with ExitStack() as stack:
            workers: list[Future[None]] = []
            try:
                for name in dict.fromkeys(names):
                    if self._stopped is not None:
                        break
                    if not lacks(name):
                        self._settled(name)
                        continue
                    self._want(name)
                    workers = workers or self._begin(stack)
            except BaseException as error:  # the workers would wait for more
                self._stop(error)
            else:
                self._end()
            for worker in workers:
                worker.result()
        if self._stopped is not None:
            raise self._stopped
        with self._lock:
            self._drop_hopeless()
        return self._failed

    def stop(self) -> None:
        """Break off: the pull ends with :class:`StoppedError` unless it has ended. Called from any thread."""
        with self._lock:
            self._stopped = self._stopped or StoppedError("stopped")
            self._lock.notify_all()
        if self._under_way:
            for place in self._places:
                place.stop()

    def _want(self, name: str) -> None:
        with self._lock:
            if self._has_given_up:
                self._fail(name)
                return
            self._waiting.append(_Wanted(name))
            self._lock.notify_all()

    def _begin(self, stack: ExitStack) -> list[Future[None]]:
        """Begin to pull; what is known to be missing later is pulled too, until :meth:`_end` is called."""
        numbers = range(len(self._places))
        threads = ThreadPoolExecutor(max(1, _AT_ONCE * len(numbers)), thread_name_prefix="pull")
        stack.enter_context(threads)
        return [threads.submit(self._work, number) for _ in range(_AT_ONCE) for number in numbers]

    def _lacks(self, name: str) -> bool:
        return self._target.size(name) is None

    def _lacks_whole(self, name: str) -> bool:
        return not is_whole(self._target, name)

    def _work(self, number: int) -> None:
        place = self._places[number]
        while (wanted := self._next(number)) is not None:
            try:
                size = self._pull(place, wanted.name)
            except (NotFoundError, VerificationError) as error:
                if isinstance(error, VerificationError):
                    place.wrong.append(wanted.name)
                self._give_back(wanted, number)
            except _TargetError as error:
                self._stop(error.error)
            except OverlaysyncError as error:
                place.note_failure(error)
                self._give_back(wanted, number)
            except BaseException as error:  # the others must not wait for this one
                self._stop(error)
            else:
                place.note_success(size)
                self._settled(wanted.name)
                self._end()

    def _pull(self, place: Place, name: str) -> int:
        source = _Source(place.objects, name)
        try:
            self._target.store(name, source)
            self._progress(source.size)
        except OverlaysyncError as error:
            if error is source.error:
                raise
            raise _TargetError(error) from error
        return source.size

    def _next(self, number: int) -> _Wanted | None:
        """Return what a place may try next; None when there is nothing for it any more."""
        place = self._places[number]
        with self._lock:
            while True:
                if self._stopped is not None or not place.works:
                    self._drop_hopeless()
                    return None
                for at, wanted in enumerate(self._waiting):
                    if number not in wanted.tried and self._may(number, wanted):
                        del self._waiting[at]
                        self._under_way += 1
                        return wanted
                self._drop_hopeless()
                if not self._waiting and not self._under_way:
                    return None
                self._lock.wait()

    def _may(self, number: int, wanted: _Wanted) -> bool:
        """Whether no nearer place is still to be tried for it."""
        near = self._places[number].near
        return all(
            other.near >= near or index in wanted.tried or not other.works
            for index, other in enumerate(self._places)
        )

    def _drop_hopeless(self) -> None:
        """Give up what every place that works was tried for; the lock is held."""
        works = {index for index, place in enumerate(self._places) if place.works}
        hopeless = [wanted for wanted in self._waiting if not works - wanted.tried]
        if hopeless:
            self._waiting = deque(wanted for wanted in self._waiting if works - wanted.tried)
            for wanted in hopeless:
                self._fail(wanted.name)
            self._lock.notify_all()
        if self._has_given_up:
            while self._waiting:
                self._fail(self._waiting.popleft().name)

    @property
    def _has_given_up(self) -> bool:
        return self._give_up_after is not None and len(self._failed) >= self._give_up_after

    def _fail(self, name: str) -> None:
        self._failed.append(name)
        self._settled(name)

    def _give_back(self, wanted: _Wanted, number: int) -> None:
        with self._lock:
            wanted.tried.add(number)
            self._waiting.append(wanted)
            self._under_way -= 1
            if self._give_up_after is not None:
                self._drop_hopeless()
            self._lock.notify_all()

    def _end(self) -> None:
        with self._lock:
            self._under_way -= 1
            self._lock.notify_all()

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self._under_way -= 1
            self._stopped = self._stopped or error
            self._lock.notify_all()


class _Source:
    """An object of a place, in parts; tells its own errors from those of who takes them.

    Attributes:
        size: bytes taken so far.
        error: what it raised.
    """

    def __init__(self, objects: Objects, name: str) -> None:
        self.size = 0
        self.error: OverlaysyncError | None = None
        self._objects = objects
        self._name = name

    def __iter__(self) -> Iterator[Part]:
        self.size = 0
        try:
            for part in checked_parts(self._objects, self._name):
                self.size += len(part)
                yield part
        except OverlaysyncError as error:
            self.error = error
            raise


class _TargetError(Exception):
    """The place that everything goes to has failed: no other one helps."""

    def __init__(self, error: OverlaysyncError) -> None:
        self.error = error
