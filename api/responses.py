"""JSON answers that are written by pydantic_core, without a model for each value."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose content may hold datetimes and enums."""
    return Response(to_json(content), status, headers, "application/json")


def linked(status: int, parameters: Mapping[str, str] | None = None, **operations: str) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses=` for an answer that leads to other operations: OpenAPI links by their names.

    parameters: those of the other operations, as expressions over this answer: `{"id": "$response.body#/id"}`.
    """
    links = {name: {"operationId": each, "parameters": dict(parameters or {})} for name, each in operations.items()}
    return {status: {"links": links}}


def location(what: str) -> dict[str, Any]:
    """The member of such a response for the Location header."""
    schema = {"type": "string", "format": "uri-reference"}
    return {"headers": {"Location": {"description": f"where {what} is", "required": True, "schema": schema}}}
