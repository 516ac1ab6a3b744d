"""JSON answers that are written by pydantic_core, without a model for each value."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose content may hold datetimes and enums."""
    return Response(to_json(content), status, headers, "application/json")
