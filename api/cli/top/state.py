"""What is shown, and what the keys change of it. No terminal and no service in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from iocpd.api.cli.top.columns import COLUMNS, NAMES, Column, Row, text_of
from iocpd.api.cli.top.sample import Rates

if TYPE_CHECKING:
    from iocpd.api.cli.top.sample import Sample

_FASTEST_SECONDS, _SLOWEST_SECONDS = 0.2, 60.0
_FILTER_CHARACTERS = 100


class Mode(Enum):
    """What keys mean now."""

    TABLE = "table"
    FILTER = "filter"
    QUESTION = "question"
    HELP = "help"


@dataclass
class State:
    """Everything that decides what the screen shows.

    Attributes:
        interval: Seconds between two looks.
        asked: Whom the question is about; the table goes on changing behind it.
        height: Rows of the table that the screen has room for.
        wishes: What was decided with a key and is not done yet: ids to kick.
        stale: Another order is wanted than that of the last look.
    """

    sort: str = "in/s"
    reverse: bool = False
    filter: str = ""
    interval: float = 2.0
    paused: bool = False
    mode: Mode = Mode.TABLE
    selected: int = 0
    selected_id: str | None = None
    asked: Row | None = None
    first: int = 0
    height: int = 10
    message: str = ""
    over: bool = False
    stale: bool = False
    wishes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    sample: Sample | None = None

    @property
    def column(self) -> Column:
        """By which the table is sorted."""
        return COLUMNS[NAMES.index(self.sort)]

    def take(self, sample: Sample) -> None:
        """There is a new look."""
        self.sample = sample
        self.arrange()

    def arrange(self) -> None:
        """Sorts and filters; the row that was selected stays selected wherever it goes."""
        if self.sample is None:
            return
        rows: list[Row] = [(each, self.sample.rates.get(each.id, Rates())) for each in self.sample.connections]
        wanted = self.filter.lower()
        self.rows = [row for row in rows if wanted in text_of(row)] if wanted else rows
        # Names from A to Z, numbers from the largest.
        self.rows.sort(key=self.column.key, reverse=self.column.right != self.reverse)
        places = {row[0].id: place for place, row in enumerate(self.rows)}
        if self.selected_id in places and self.selected:
            self.selected = places[self.selected_id]
        self._select(self.selected)

    def resize(self, height: int) -> None:
        """The table has room for so many rows."""
        self.height = height
        self._select(self.selected)

    def press(self, key: str) -> None:
        """A key was pressed: a character, or the name of one that is none."""
        self.message = "" if self.mode is Mode.TABLE else self.message
        if self.mode is Mode.HELP:
            self.mode = Mode.TABLE
        elif self.mode is Mode.FILTER:
            self._type(key)
        elif self.mode is Mode.QUESTION:
            self.mode, self.message = Mode.TABLE, "nothing was done"
            if key in ("y", "Y") and self.asked is not None:
                self.wishes.append(self.asked[0].id)
                self.message = f"kicking {self.asked[0].id}"
        else:
            self._command(key)

    def _command(self, key: str) -> None:
        place = NAMES.index(self.sort)
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self.height, "page down": self.height}
        if key == "q":
            self.over = True
        elif key in ("?", "h"):
            self.mode = Mode.HELP
        elif key in moves:
            self._select(self.selected + moves[key])
        elif key in ("home", "g"):
            self._select(0)
        elif key in ("end", "G"):
            self._select(len(self.rows) - 1)
        elif key in ("right", ">"):
            self._sort_by(NAMES[(place + 1) % len(NAMES)])
        elif key in ("left", "<"):
            self._sort_by(NAMES[(place - 1) % len(NAMES)])
        elif key == "r":
            self.reverse = not self.reverse
            self.arrange()
        elif key == "/":
            self.mode = Mode.FILTER
        elif key == "escape":
            self.filter = ""
            self.arrange()
        elif key in ("x", "delete"):
            self._ask()
        elif key in (" ", "p"):
            self.paused = not self.paused
        elif key in ("+", "-"):
            longer = self.interval * (2 if key == "+" else 0.5)
            self.interval = min(max(longer, _FASTEST_SECONDS), _SLOWEST_SECONDS)

    def _type(self, key: str) -> None:
        if key == "enter":
            self.mode = Mode.TABLE
        elif key == "escape":
            self.mode, self.filter = Mode.TABLE, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter = (self.filter + key)[:_FILTER_CHARACTERS]
        self.arrange()

    def _sort_by(self, name: str) -> None:
        self.sort, self.reverse, self.stale = name, False, True
        self.selected = 0
        self.arrange()

    def _ask(self) -> None:
        if self.rows:
            self.mode, self.asked = Mode.QUESTION, self.rows[self.selected]

    def _select(self, place: int) -> None:
        self.selected = max(0, min(place, len(self.rows) - 1))
        self.selected_id = self.rows[self.selected][0].id if self.rows else None
        # The selected row is on the screen, and the screen is full where there are rows enough.
        self.first = max(min(self.first, self.selected), self.selected - self.height + 1, 0)
        self.first = min(self.first, max(len(self.rows) - self.height, 0))
