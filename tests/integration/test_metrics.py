"""GET /metrics: what is counted, and by whose conventions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iocpd.core import TURN_BUCKETS
from tests.integration.conftest import Serve
from tests.integration.server import Server
from tests.integration.sse import watch
from tests.support import Client, eventually, refused

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")

# What a label may be: each has few values, whatever clients do.
LABELS = {
    "answer", "backend", "by", "code", "le", "listener", "method", "phase", "reason", "route", "service", "status",
    "thread", "version", "worker",
}  # fmt: skip


def samples(server: Server) -> dict[Any, float]:
    """The value of each sample, by its name and labels."""
    text = server.http.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def use(server: Server) -> None:
    """A bit of everything."""
    clients = server.connect(3)
    assert clients[0].echoes(b"x" * 1000)
    ids = [server.id_of(client) for client in clients]
    server.http.post(f"/v1/connections/{ids[0]}/messages", json={"text": "hello"}, headers={"idempotency-key": "k"})
    server.http.post(f"/v1/connections/{ids[0]}/messages", json={"text": "hello"}, headers={"idempotency-key": "k"})
    clients[1].close()
    server.http.delete(f"/v1/connections/{ids[2]}", params={"force": True})
    server.http.post("/v1/bans", json={"address": "192.0.2.0/24"})
    server.http.get("/v1/connections/nobody")
    server.http.get("/nowhere")
    with watch(server.url) as stream:
        Client(server.port).close()
        stream.until("disconnected")
    eventually(lambda: len(server.get("/v1/connections/closed")["items"]) == 3)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; PROMTOOL may say where it is")
def test_promtool_has_nothing_to_say(serve: Serve) -> None:
    server = serve(tcp=("127.0.0.1:0/echo", "127.0.0.1:0/python:tests.integration.shouting:Shout"))
    use(server)
    text = server.http.get("/metrics").text
    assert PROMTOOL is not None
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_each_metric_has_a_help_and_labels_with_few_values(server: Server) -> None:
    use(server)
    text = server.http.get("/metrics").text
    names = re.findall("^# TYPE ([^ ]+)", text, re.MULTILINE)
    assert len(names) == len(set(names))
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith(".") or family.name.startswith("process_"), family.name
        for sample in family.samples:
            assert set(sample.labels) <= LABELS, sample
            assert "192.0.2" not in str(sample.labels)


def test_what_was_done_is_counted(server: Server) -> None:
    use(server)

    def ended(found: dict[Any, float], reason: str, by: str) -> float:
        return found["iocpd_closed_connections_total", ("by", by), ("reason", reason)]

    # An end is counted after it is recorded and told.
    eventually(lambda: ended(samples(server), "client_closed", "client") == 2)
    eventually(lambda: samples(server)[("iocpd_event_streams",)] == 0)
    found = samples(server)
    for reason, by, count in (("client_closed", "client", 2), ("kicked", "operator", 1), ("io_error", "engine", 0)):
        assert ended(found, reason, by) == count
    assert found[("iocpd_bans",)] == 1
    assert found[("iocpd_bans_limit",)] == 131072
    assert found[("iocpd_streamed_events_total",)] >= 2
    assert found[("iocpd_missed_events_total",)] == 0
    assert found[("iocpd_jobs_running",)] == 0
    assert found["iocpd_http_problems_total", ("code", "connection_unknown")] == 1
    assert found["iocpd_http_problems_total", ("code", "route_unknown")] == 1
    assert found[("iocpd_http_replayed_answers_total",)] == 1
    route = ("route", "/v1/connections/{id}/messages")
    assert found["iocpd_http_requests_total", ("method", "POST"), route, ("status", "200")] == 2
    workers = server.get("/v1/node")["workers"]
    assert sum(found["iocpd_received_bytes_total", ("worker", str(n))] for n in range(workers)) == 1000
    assert sum(found["iocpd_sent_bytes_total", ("worker", str(n))] for n in range(workers)) == 1005


def test_refusals_are_counted_by_reason(serve: Serve) -> None:
    server = serve(max_connections=2)
    clients = server.connect(2)
    assert refused(server.port)
    listener = ("listener", f"127.0.0.1:{server.port}")

    def refusals(reason: str) -> float:
        return samples(server)["iocpd_refused_connections_total", listener, ("reason", reason), ("service", "echo")]

    eventually(lambda: refusals("limit") == 1)
    for reason in ("memory", "gone", "banned", "address_limit", "address_rate", "rate"):
        assert refusals(reason) == 0
    assert clients


def test_turns_are_a_histogram_for_each_worker(serve: Serve) -> None:
    server = serve(workers=2)
    clients = server.connect(4)
    assert all(client.echoes(b"x") for client in clients)
    found = samples(server)
    for worker in ("0", "1"):
        buckets = [
            value
            for (name, *labels), value in found.items()
            if name == "iocpd_worker_turn_duration_seconds_bucket" and ("worker", worker) in labels
        ]
        assert len(buckets) == len(TURN_BUCKETS)
        assert buckets == sorted(buckets), "buckets are cumulative"
        assert buckets[-1] == found["iocpd_worker_turn_duration_seconds_count", ("worker", worker)] > 0
        assert found["iocpd_worker_turn_duration_seconds_sum", ("worker", worker)] > 0
