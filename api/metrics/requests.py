"""Counts and times of the API's own requests."""

from prometheus_client import CollectorRegistry, Counter, Histogram

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RequestMetrics:
    """By route template and status: never a path, of which there are as many as a client likes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "iocpd_http_requests",
            "HTTP requests that were answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "iocpd_http_request_duration_seconds",
            "From the end of a request's headers to the end of its answer.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._refused = Counter(
            "iocpd_http_refused_connections",
            "HTTP connections that were refused or cut off.",
            ["reason"],
            registry=self.registry,
        )
        self._problems = Counter(
            "iocpd_http_problems",
            "HTTP requests that were refused or failed, by the code of the problem that answered them.",
            ["code"],
            registry=self.registry,
        )
        self._replayed = Counter(
            "iocpd_http_replayed_answers",
            "Answers that were given again for a request with the same Idempotency-Key.",
            registry=self.registry,
        )

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is over; status 0: the client had left."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status or "none")).inc()
        self._seconds.labels(known, route).observe(seconds)

    def note_problem(self, code: str) -> None:
        """One request was answered with a problem of this code."""
        self._problems.labels(code).inc()

    def note_replayed(self) -> None:
        """One request was not carried out, as it had been before, and got the answer of then."""
        self._replayed.inc()

    def note_refused(self, reason: str) -> None:
        """One HTTP connection was refused or cut off.

        reason: too_many; displaced (by a new one, as it had no request); not_http, headers_too_large, headers_timeout;
        answer_timeout (the client does not read).
        """
        self._refused.labels(reason).inc()
