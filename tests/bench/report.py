"""Tables for people, and the same numbers for programs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .contestants import Outcome


@dataclass
class Table:
    """A caption, column heads, and a row for each contestant: its cells, or the reason why it has none."""

    caption: str
    heads: Sequence[str]
    rows: list[tuple[str, Sequence[str] | str]] = field(default_factory=list)

    def add(self, outcome: Outcome, cells: Sequence[str]) -> None:
        """Add the row of one contestant; its cells count only if it was measured."""
        self.rows.append((outcome.name, outcome.remark or cells))

    def __str__(self) -> str:
        measured = [cells for _, cells in self.rows if not isinstance(cells, str)]
        widths = [max(map(len, column)) for column in zip(self.heads, *measured, strict=True)]
        name_width = max(len(name) for name, _ in [("contestant", ""), *self.rows])

        def line(name: str, cells: Sequence[str] | str) -> str:
            if isinstance(cells, str):
                return f"{name:<{name_width}}  {cells}"
            padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            return "  ".join([f"{name:<{name_width}}", *padded])

        head = line("contestant", self.heads)
        return "\n".join([self.caption, "", head, "-" * len(head), *(line(*row) for row in self.rows)])


@dataclass
class Report:
    """What one measurement found."""

    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = False

    def add(self, table: Table, outcomes: Sequence[Outcome], **parameters: Any) -> None:
        """Add a table, and what it was made from."""
        self.tables.append(table)
        self.results.append({**parameters, "contestants": [outcome.as_json() for outcome in outcomes]})
        self.failed |= any(outcome.failed for outcome in outcomes)


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands marked, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ratio(value: float | None, base: float | None) -> float | None:
    """``value / base``, None if one is missing."""
    return value / base if value is not None and base else None


def median_of(outcomes: Sequence[Outcome], name: str, key: str) -> float | None:
    """The median of one contestant, None if it was not measured."""
    return next((outcome.median(key) for outcome in outcomes if outcome.name == name), None)
