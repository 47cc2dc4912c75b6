"""Whether image data are asked for compressed: only while the link is slower than a compressor.

Sans-IO: the caller tells when bodies begin, grow and end. The rate is that of all bodies together, taken over
the time in which at least one was on its way: a server that compresses, or a disk that is slow, leaves gaps
between bodies, and gaps say nothing about the link.
"""

from __future__ import annotations

from enum import Enum

SLOW = 60_000_000
"""Bytes per second below which compression is asked for.

Ours: half of what one core of a server gives out. zstd at level 3 takes in 340-360 MB/s of a Debian file
system on the class of machine this is made for, and makes 0.32 of it: 110 MB/s.
"""

FAST = 80_000_000
"""Bytes per second above which it is no longer asked for; between the two it stays as it is."""

STEP_S = 0.05
"""Least time on the way before the first judgement, and between two: 600 kB at 100 Mbit/s, while a loopback
must stand still for most of it to seem slow."""

MEMORY_S = 1.0
"""What is older counts less and less."""


class Compression(Enum):
    """What the user wants."""

    AUTO = "auto"
    """By the rate; plain until it is known."""
    NEVER = "never"
    ALWAYS = "always"


class Link:
    """What comes in, and whether it should come compressed. Times are seconds of one rising clock.

    Attributes:
        compress: whether to ask for compressed bodies now.
        total: bytes of image data that have come.
    """

    def __init__(self, compression: Compression = Compression.AUTO) -> None:
        self._auto = compression is Compression.AUTO
        self.compress = compression is Compression.ALWAYS
        self.total = 0
        self._bodies = 0
        self._bytes = 0.0
        self._time = 0.0
        self._last = 0.0
        self._judge_at = STEP_S

    @property
    def rate(self) -> float:
        """Bytes per second on the wire while something was on its way; 0 when nothing was."""
        return self._bytes / self._time if self._time else 0.0

    def began(self, now: float) -> None:
        """Note that a body begins to come."""
        self._advance(now)
        self._bodies += 1

    def received(self, count: int, now: float, *, data: bool = True) -> None:
        """``count`` bytes of some body have come; ``data``: whether they are an image's."""
        self._advance(now)
        self.total += count if data else 0
        self._bytes += count
        if self._time >= self._judge_at:
            self._judge()

    def ended(self, now: float) -> None:
        """Note that a body has come whole, or will not."""
        self._advance(now)
        self._bodies -= 1

    def _advance(self, now: float) -> None:
        if self._bodies:
            self._time += now - self._last
        self._last = now

    def _judge(self) -> None:
        if self._auto:
            self.compress = self.rate < (FAST if self.compress else SLOW)
        if self._time > MEMORY_S:
            self._bytes *= MEMORY_S / self._time
            self._time = MEMORY_S
        self._judge_at = self._time + STEP_S
