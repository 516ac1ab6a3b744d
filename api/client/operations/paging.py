"""Listings that have pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from iocpd.api.client.calls import Call, Item, Steps, ask

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Page(Protocol[T_co]):
    """A page of any listing."""

    @property
    def items(self) -> tuple[T_co, ...]: ...
    @property
    def next_cursor(self) -> str | None: ...


def pages(page_at: Callable[[str | None], Call[Page[T]]]) -> Steps[T]:
    """Follows pages: `page_at` makes the call for the one at a cursor."""
    cursor = None
    while True:
        page = yield from ask(page_at(cursor))
        for item in page.items:
            yield Item(item)
        cursor = page.next_cursor
        if cursor is None:
            return
