"""The limit on messages to one connection, on a clock that the tests move."""

from __future__ import annotations

import pytest

from iocpd.api.messages import rate
from iocpd.api.messages.rate import MessageRate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> MessageRate:
    return MessageRate(clock)


@pytest.mark.parametrize("per_s", [1, 3, 7, 10, 1000, 1_000_000])
def test_a_seconds_worth_is_let_through_at_once_and_then_one_by_one(
    limit: MessageRate, clock: Clock, per_s: int
) -> None:
    burst = min(per_s, 5000)
    clock.now += 0.5
    assert all(limit.admit(1, per_s) for _ in range(burst))
    if burst == per_s:
        assert not limit.admit(1, per_s)
        clock.now += 1.001 / per_s
        assert limit.admit(1, per_s)
        assert not limit.admit(1, per_s)


def test_in_the_long_run_it_is_the_rate(limit: MessageRate, clock: Clock) -> None:
    let_through = 0
    for _ in range(10_000):
        clock.now += 0.01
        let_through += limit.admit(1, 10)
    assert 1000 <= let_through <= 1010


def test_each_connection_has_its_own(limit: MessageRate) -> None:
    assert limit.admit(1, 1)
    assert not limit.admit(1, 1)
    assert limit.admit(2, 1)


def test_zero_is_no_limit(limit: MessageRate) -> None:
    assert all(limit.admit(1, 0) for _ in range(1000))
    assert len(limit) == 0


def test_a_refusal_costs_nothing(limit: MessageRate, clock: Clock) -> None:
    assert limit.admit(1, 1)
    for _ in range(100):
        assert not limit.admit(1, 1)
    clock.now += 1.0
    assert limit.admit(1, 1)


def test_what_is_remembered_has_a_bound(limit: MessageRate, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for connection in range(1000):
        assert limit.admit(connection, 10)
    assert len(limit) == 1000
    clock.now += 1.0
    assert limit.admit(5, 10)
    assert len(limit) == 1
    monkeypatch.setattr(rate, "CONNECTIONS", 100)
    for connection in range(1000, 2000):
        assert limit.admit(connection, 1)
    assert len(limit) == 100
