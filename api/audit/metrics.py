"""How the audit fares, as Prometheus metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from iocpd.api.audit.trail import AuditTrail


class AuditCollector(Collector):
    """Reads the counts when somebody asks; asking also makes a disk be tried again that took nothing."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def collect(self) -> Iterator[Metric]:
        """Every family once."""
        self._trail.retry()
        counts = self._trail.counts
        yield CounterMetricFamily("iocpd_audit_entries", "Audit entries written.", counts.written)
        yield CounterMetricFamily(
            "iocpd_audit_write_failures", "Attempts to write the audit that the disk refused.", counts.failures
        )
        yield CounterMetricFamily("iocpd_audit_lost_entries", "Audit entries that will never be written.", counts.lost)
        yield GaugeMetricFamily(
            "iocpd_audit_writable", "0 while the disk does not take the audit.", not self._trail.trouble
        )
