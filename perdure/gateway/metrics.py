"""The Prometheus page, made from `stats()` values when somebody asks for it.

Nothing on the way of a request knows Prometheus: there, plain integers are counted. Each number
of a stats value becomes a metric named after its field, so that a new one needs no line here: a
counter, unless the field is listed among those that also fall.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from perdure.gateway.http import GatewayStats
    from perdure.host.host import HostStats

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()

# Fields that tell how it is now; all others count what has been.
_GAUGES = frozenset(
    {"live", "waiting", "outbox", "tail_bytes", "steps_running", "alarms", "quarantined", "stuck"}
)


def expose(gateway: GatewayStats, host: HostStats) -> bytes:
    """The page, for the stats of the gateway and of the host."""
    # A registry for each page: it holds nothing between two, and the process's own registry is
    # the mounting application's.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(gateway, host))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, gateway: GatewayStats, host: HostStats) -> None:
        self._gateway = gateway
        self._host = host

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "perdure_connections",
            "Open connections, WebSockets among them",
            value=self._gateway.connections,
        )
        requests = CounterMetricFamily(
            "perdure_http_requests", "HTTP answers", labels=("class", "handler", "status")
        )
        for (kind, handler, status), count in sorted(self._gateway.requests.items()):
            requests.add_metric((kind, handler, str(status)), count)
        yield requests
        yield from _numbers(self._host)


def _numbers(stats: HostStats) -> Iterator[Metric]:
    for field, value in zip(stats._fields, stats, strict=True):
        family = GaugeMetricFamily if field in _GAUGES else CounterMetricFamily
        yield family(f"perdure_{field}", field.replace("_", " ").capitalize(), value=value)
