"""Keys and wrong keys, as Prometheus metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from iocpd.api.auth import Gate


class KeyCollector(Collector):
    """Reads the gate when somebody asks."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        wrong = CounterMetricFamily(
            "iocpd_wrong_keys",
            "Requests with a key that is not accepted: refused, or beyond the limit of their address.",
            labels=["answer"],
        )
        for answer, count in self._gate.wrong_keys.items():
            wrong.add_metric([answer], count)
        yield wrong
        yield GaugeMetricFamily(
            "iocpd_keys", "Keys that are accepted, or were until they expired.", self._gate.keys.count
        )
        yield GaugeMetricFamily(
            "iocpd_key_file_usable",
            "0 while the key file can't be used, and former keys are in force.",
            not self._gate.keys.troubled,
        )
