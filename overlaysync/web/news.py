"""What a screen reader is told without being asked: that a task has ended, or that a VM is in danger now.

Told politely and seldom: what happens within a few seconds is one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from overlaysync.web.model import Snapshot, TaskView
from overlaysync.web.texts import Words

REST_S = 4.0
"""Between two sentences there is at least so long."""
_NAMED = 2
"""Of more than this only the number is told."""


@dataclass(slots=True)
class News:
    """Compares each snapshot with the one before.

    Attributes:
        text: what was told last.
        number: how often something was told.
    """

    text: str = ""
    number: int = 0
    _states: dict[str, str] | None = None
    _lacking: frozenset[str] = frozenset()
    _ended: list[TaskView] = field(default_factory=list)
    _worse: list[str] = field(default_factory=list)
    _told_at: float = 0.0

    def see(self, snapshot: Snapshot, words: Words) -> None:
        """Note what has happened since the last snapshot, and tell it when it is time."""
        states = {task.key: task.state for task in snapshot.tasks}
        lacking = frozenset(
            f"{team.name}/{name}" for team in snapshot.teams for gap in team.gaps for name in gap.vms
        )
        if self._states is not None:
            self._ended += [
                task
                for task in snapshot.tasks
                if task.state != "running" and self._states.get(task.key, "running") == "running"
            ]
            self._worse += sorted(lacking - self._lacking)
        self._states, self._lacking = states, lacking
        if (self._ended or self._worse) and snapshot.at - self._told_at >= REST_S:
            self.text = " ".join((*self._of_tasks(words), *self._of_vms(words)))
            self.number += 1
            self._told_at = snapshot.at
            self._ended, self._worse = [], []

    def _of_tasks(self, words: Words) -> list[str]:
        if len(self._ended) > _NAMED:
            return [words("news-tasks", count=len(self._ended))]
        return [
            words(
                "news-task",
                action=words(f"do-{one.action}"),
                about=one.about,
                state=words(f"state-{one.state}"),
            )
            for one in self._ended
        ]

    def _of_vms(self, words: Words) -> list[str]:
        if len(self._worse) > _NAMED:
            return [words("news-vms", count=len(self._worse))]
        return [words("news-vm", vm=name) for name in self._worse]
