"""JSON answers that are written by pydantic_core, without a model for each value."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose content may hold datetimes and enums."""
    return Response(to_json(content), status, headers, "application/json")


def links(parameters: Mapping[str, str] | None = None, **operations: str) -> dict[str, Any]:
    """The member of one of FastAPI's `responses=` that leads to other operations, each under a name.

    parameters: theirs, as expressions over this answer: `{"id": "$response.body#/id"}`.
    """
    given = dict(parameters or {})
    return {"links": {name: {"operationId": each, "parameters": given} for name, each in operations.items()}}


def location(what: str) -> dict[str, Any]:
    """The member of one of FastAPI's `responses=` for the Location header."""
    schema = {"type": "string", "format": "uri-reference"}
    return {"headers": {"Location": {"description": f"where {what} is", "required": True, "schema": schema}}}
