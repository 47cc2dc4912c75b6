"""Figures of a share for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from overlaysync.web.model import Snapshot
from overlaysync.web.subject import Subject


class _Given(Collector):
    """Bytes given, which are counted elsewhere."""

    def __init__(self, size: int) -> None:
        self._size = size

    def collect(self) -> list[CounterMetricFamily]:
        return [CounterMetricFamily("overlaysync_given_bytes", "Bytes of image data sent.", self._size)]


def metrics_of(subject: Subject, snapshot: Snapshot) -> str:
    """Return the figures in Prometheus' text format; names of images and peers are in none of them."""
    registry = CollectorRegistry()
    registry.register(_Given(subject.share.given_size))

    def gauge(name: str, help: str, value: float) -> None:
        Gauge(f"overlaysync_{name}", help, registry=registry).set(value)

    gauge("shared_images", "Images shared.", len(subject.share.shared))
    gauge("peers", "Peers that answer.", sum(not one.own and not one.problem for one in snapshot.machines))
    gauge(
        "downloads",
        "Nodes fetching from here now.",
        sum(len(one.receivers) for one in snapshot.transfers),
    )
    gauge("given_rate_bytes", "Bytes of image data sent per second, lately.", snapshot.health.given)
    gauge("free_bytes", "Free bytes in the file system of the first path.", snapshot.health.free)
    gauge("tasks_running", "Running tasks of the page.", sum(one.ended is None for one in snapshot.tasks))
    vms = Gauge("overlaysync_vms", "VMs of a team that were saved.", ["team"], registry=registry)
    lacking = Gauge("overlaysync_vms_lacking", "VMs with too few copies.", ["team"], registry=registry)
    never = Gauge("overlaysync_vms_never_saved", "VMs that were never saved.", ["team"], registry=registry)
    for team in snapshot.teams:
        vms.labels(team.name).set(len(team.vms))
        lacking.labels(team.name).set(len(team.lacking))
        never.labels(team.name).set(len(team.never))
    return generate_latest(registry).decode()
