"""How fast is a listing? GET /v1/connections of a page, unsorted and sorted, while many connections are open.

One HTTP client asks again and again over one connection and reads each answer whole; the time of each is from before
the request to after its last byte. The peer is nats-server's own listing of its connections, /connz, which sorts too.
"""

import argparse
import http.client
import json
import statistics
import time
from dataclasses import replace
from http import HTTPStatus

from .clients import echo_at_once, idle_connections
from .contestants import RunningServer, Sample, choose, iocpd, nats, take_turns
from .errors import ContestantFailed
from .machine import require_files, wait_until_quiet
from .options import Setup, positive_int
from .report import Report, Table, median_of, number, ratio

# Its monitor stands on the port after that of its clients, as our API does.
PEER = replace(
    nats(),
    arguments=lambda port: ["-a", "127.0.0.1", "-p", str(port), "-m", str(port + 1)],
    ready_path="/healthz",
)
CONTESTANTS = (PEER, iocpd("io_uring", "echo"), iocpd("epoll", "echo"))
EXAMPLES = """examples:
  python -m tests.bench api
  python -m tests.bench api --connections 2000 --limit 100 --contestants iocpd"""

_BYTES_EACH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=positive_int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument("--limit", type=positive_int, default=1000, metavar="N", help="listed at once (default: 1000)")
    parser.add_argument("--requests", type=positive_int, default=100, metavar="N", help="of each kind (default: 100)")
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="default: 3")


def run(options: argparse.Namespace, setup: Setup) -> Report:
    require_files(options.connections, setup.file_limit)
    limit, count = options.limit, options.connections

    def measure(server: RunningServer) -> list[Sample]:
        if server.contestant is PEER:
            unsorted, by_bytes, items = f"/connz?limit={limit}", f"/connz?limit={limit}&sort=bytes_from", "connections"
        else:
            unsorted, by_bytes = f"/v1/connections?limit={limit}", f"/v1/connections?limit={limit}&sort=-bytes_in"
            items = "items"
        with idle_connections(server.port, count) as connections:
            if server.contestant is not PEER:
                echo_at_once(connections[: count // 2], _BYTES_EACH)  # so that there is something to sort
            wait_until_quiet(server.pid)
            plain = _ask(server, unsorted, items, min(limit, count), options.requests)
            ordered = _ask(server, by_bytes, items, min(limit, count), options.requests)
        return [{"page_ms": plain[0], "page_p99_ms": plain[1], "sorted_ms": ordered[0], "sorted_p99_ms": ordered[1]}]

    outcomes = take_turns(choose(CONTESTANTS, options.contestants), options.rounds, setup.cores, measure)
    caption = (
        f"api: a page of {limit} of {count} connections, in ms; median of {options.rounds} rounds of "
        f"{options.requests} requests each"
    )
    table = Table(caption, ("page", "p99", "sorted page", "p99", "page x peer", "sorted x peer"))
    for outcome in outcomes:
        page, ordered = outcome.median("page_ms"), outcome.median("sorted_ms")
        cells = (
            number(page, 2),
            number(outcome.median("page_p99_ms"), 2),
            number(ordered, 2),
            number(outcome.median("sorted_p99_ms"), 2),
            number(ratio(page, median_of(outcomes, PEER.name, "page_ms")), 3),
            number(ratio(ordered, median_of(outcomes, PEER.name, "sorted_ms")), 3),
        )
        table.add(outcome, cells)
    report = Report(notes=["sorted: by bytes received, the most first; each request takes a new order of all."])
    report.add(table, outcomes, connections=count, limit=limit)
    return report


def _ask(server: RunningServer, path: str, items: str, expected: int, requests: int) -> tuple[float, float]:
    """The median and the 99th percentile of the times of so many requests, in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", server.second_port, timeout=30)
    times = []
    try:
        for _ in range(requests):
            began = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            times.append(1000 * (time.perf_counter() - began))
            if response.status != HTTPStatus.OK:
                raise ContestantFailed(f"GET {path} answered {response.status}")
        if (found := len(json.loads(body)[items])) != expected:
            raise ContestantFailed(f"GET {path} answered {found} instead of {expected}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ContestantFailed(f"GET {path} was not answered: {error}") from error
    finally:
        connection.close()
    return statistics.median(times), statistics.quantiles(times, n=100)[98]
