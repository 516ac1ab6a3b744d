"""Spans of time as people write them: `250ms`, `90s`, `5m`, `2h`, `1d`, or plain seconds."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

_SECONDS = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}
# Plain seconds also as programs write numbers: 0.30000000000000004, 1e-05.
_PATTERN = r"[0-9]{1,12}(\.[0-9]{1,18})?(ms|s|m|h|d|e[+-]?[0-9]{1,3})?"

MAX_SECONDS = 10 * 365 * 86400


def parse_duration(value: object) -> float:
    """Seconds from a text such as `90s` or from a number of seconds; ValueError tells the rule."""
    if isinstance(value, str) and (match := re.fullmatch(_PATTERN, text := value.strip())):
        unit = match[2] or ""
        seconds = float(text.removesuffix(unit)) * _SECONDS[unit] if unit in _SECONDS else float(text)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        seconds = float(value)
    else:
        raise ValueError("write a duration as 250ms, 90s, 5m, 2h, 1d or as plain seconds")
    if seconds > MAX_SECONDS:
        raise ValueError("a duration is at most 3650d")
    return seconds


def format_duration(seconds: float) -> str:
    """Whole seconds with their unit, as the API writes every duration: `5403s`."""
    return f"{seconds:.0f}s"


class _TextOrNumber:
    """Both spellings in a JSON schema. A bound stands with the number: a pattern of text can't say it."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # Where Field bounds what a function validates, pydantic leaves the words of Python in the schema.
        given = handler(core)
        lower = {"exclusiveMinimum": given["gt"]} if "gt" in given else {"minimum": given.get("ge", 0)}
        number = {"type": "number", **lower, "maximum": given.get("le", MAX_SECONDS)}
        return {
            "anyOf": [{"type": "string", "pattern": f"^{_PATTERN}$"}, number],
            "description": "such as 90s or 5m, or plain seconds",
            "examples": ["90s", "5m"],
        }


Duration = Annotated[float, BeforeValidator(parse_duration), _TextOrNumber()]
"""Seconds, read from text such as `90s`."""

MAX_TIMEOUT_SECONDS = 300
CommandTimeout = Annotated[Duration, Field(ge=0, le=MAX_TIMEOUT_SECONDS)]
"""How long a command may take: at most 5 minutes, because its HTTP request stays open for as long."""
