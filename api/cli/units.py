"""Numbers and times as people read them, each at most a handful of characters wide."""

from __future__ import annotations

from datetime import UTC, datetime

_SCALES = ((1 << 50, "P"), (1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))
_SPANS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"))


def size(number: float) -> str:
    """Bytes: `999`, `1.5K`, `23M`. A K is 1,024."""
    for scale, unit in _SCALES:
        # What would be written with four digits belongs to the next unit.
        if number >= scale - (scale >> 11):
            value = number / scale
            return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"
    return f"{number:.0f}"


def count(number: float) -> str:
    """A number of things: `1,234`."""
    return f"{number:,.0f}"


def span(seconds: float) -> str:
    """A time: `0s`, `59s`, `4m`, `3h`, `12d`; two units where the first is small: `1m30s`, `2h05m`."""
    seconds = max(seconds, 0.0)
    if seconds < 60:
        return f"{int(seconds)}s"
    for at, (length, unit) in enumerate(_SPANS):
        if seconds >= length:
            whole = int(seconds // length)
            smaller, name = _SPANS[at + 1] if at + 1 < len(_SPANS) else (1, "s")
            rest = int(seconds % length // smaller)
            return f"{whole}{unit}{rest:02d}{name}" if whole < 10 and rest else f"{whole}{unit}"
    raise AssertionError(seconds)


def age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago."""
    return span(((now or datetime.now(UTC)) - moment).total_seconds())


def clock(moment: datetime) -> str:
    """A moment in local time: `14:03:27` today, else with its date."""
    local = moment.astimezone()
    today = local.date() == datetime.now().astimezone().date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M}"
