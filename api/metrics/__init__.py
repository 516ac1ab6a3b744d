"""Prometheus metrics: the engine's counters, and the API's own requests."""
