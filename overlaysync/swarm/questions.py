"""When a source is asked what it has: often while it is new, then as often as all of them together allow.

Sans-IO: times are arguments, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from overlaysync.swarm.source import Source

_ASK_S = 0.1
_ASK_SOURCE_S = 0.02
_ASK_SEED_S = 1.0
"""What a source has is asked again after 0.1, 0.2, 0.3 s and so on: up to a second for a seed, and for others
up to 0.1 s and 0.02 s for each source there is, so that a node asks fifty times a second at most. Near the
end it asks twice as often, as it can then only wait for what others are about to get."""

_CROWD = 30
_CROWD_MOST = 5.0
"""With more fetching nodes than that seeds are asked less often, by up to five times: what a seed sends for
answers grows with their number."""

_LONGEST_SILENCE_S = 16.0
"""Who has never answered is asked after 1, 2, 4 s and so on, up to this."""


def next_question(sources: Mapping[str, Source], now: float) -> str | None:
    """Return a source to ask what it has, None when none is due."""
    for name, source in sources.items():
        if source.ask_at is not None and source.ask_at <= now and not source.asking:
            source.asking = True
            return name
    return None


def answered(source: Source, now: float, *, count: int, fetchers: int, ending: bool) -> None:
    """Note that a question to one of ``count`` sources has ended, while so many others fetch.

    ``ending``: little is missing.
    """
    source.asking = False
    source.answers += 1
    often = _ASK_SEED_S if source.seed else (_ASK_S + _ASK_SOURCE_S * count) / (2 if ending else 1)
    crowd = min(_CROWD_MOST, max(1.0, fetchers / _CROWD)) if source.seed else 1.0
    source.ask_at = now + crowd * min(often, _ASK_S * source.answers)


def unanswered(source: Source, now: float, *, for_good: bool) -> None:
    """Note that the question which has just ended had no answer, and never will have (``for_good``)."""
    source.silences += not source.heard
    wait_s = min(_LONGEST_SILENCE_S, _ASK_SEED_S * 2 ** max(0, source.silences - 1))
    source.ask_at = None if for_good else now + wait_s
