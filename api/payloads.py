"""Bytes in a request: `{"text": "..."}`, `{"base64": "..."}`, or the raw body as application/octet-stream."""

import base64
import binascii
from typing import Any, Self

from fastapi import Request
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic.config import JsonDict

from iocpd.api import problems
from iocpd.api.problems import Problem
from iocpd.api.settings import Settings

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _one_of(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}


def _exactly_one(schema: dict[str, Any]) -> None:
    """What a model of two optional fields means here."""
    text = {"type": "string", "description": "sent as UTF-8"}
    encoded = {"type": "string", "description": "standard alphabet, with padding", "pattern": _BASE64}
    description = schema["description"]
    schema.clear()
    schema |= {
        "title": "Payload",
        "description": description,
        "oneOf": [_one_of("text", text), _one_of("base64", encoded)],
        "examples": [{"text": "maintenance at 12:00\n"}, {"base64": "AAEC"}],
    }


NOT_EMPTY: JsonDict = {"properties": {"text": {"minLength": 1}, "base64": {"minLength": 1}}}
"""Beside a reference to Payload: at least one byte."""


class Payload(BaseModel):
    """Bytes to send: UTF-8 text, or anything in base64. Exactly one of the two. They go out as they are, also to a
    listener with a framing: what ends a message, or its length, is part of them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_exactly_one)

    text: str | None = None
    base64: str | None = None

    _data: bytes = PrivateAttr(default=b"")

    @model_validator(mode="after")
    def _decode(self) -> Self:
        if len(self.model_fields_set) != 1 or (self.text is None) == (self.base64 is None):
            raise ValueError('give either "text" or "base64"')
        if self.text is not None:
            try:
                self._data = self.text.encode()
            except UnicodeEncodeError:
                raise ValueError('"text" has half of a surrogate pair, which UTF-8 can\'t hold; use "base64"') from None
        elif self.base64 is not None:
            try:
                self._data = base64.b64decode(self.base64, validate=True)
            except (binascii.Error, ValueError):
                raise ValueError('"base64" is not base64 with the standard alphabet and padding') from None
        return self

    @property
    def data(self) -> bytes:
        """The bytes themselves."""
        return self._data


def checked(data: bytes, settings: Settings, what: str = "message") -> bytes:
    """The bytes, unless they are more than a message may have: Problem 413."""
    if len(data) > settings.max_message_bytes:
        detail = f"the {what} has {len(data)} bytes, and max_message_bytes is {settings.max_message_bytes}"
        raise Problem(problems.MESSAGE_TOO_LARGE, detail)
    return data


async def read_payload(request: Request, settings: Settings) -> bytes:
    """The bytes that a request brings as its whole body, at least one; Problem 413, 415 or 422."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("application/json", "application/octet-stream"):
        sent = f"is {media_type}" if media_type else "has no Content-Type"
        raise Problem(
            problems.UNSUPPORTED_MEDIA_TYPE,
            f'the body {sent}: send {{"text": "..."}} as application/json, or the bytes as application/octet-stream',
        )
    data = await request.body()
    if media_type == "application/json":
        try:
            data = Payload.model_validate_json(data).data
        except ValidationError as error:
            raise _problem_of(error) from None
    if not data:
        raise problems.invalid("body", "", "empty", "there is nothing to send: give at least one byte")
    return checked(data, settings)


def _problem_of(error: ValidationError) -> Problem:
    # Without the input: it is the message, and messages are repeated nowhere.
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return Problem(problems.MALFORMED_JSON, f"the body is not JSON: {first['ctx']['error']}")
    detail = str(first["msg"]).removeprefix("Value error, ")
    return problems.invalid("body", ".".join(map(str, first["loc"])), first["type"], detail)


PAYLOAD_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Payload", **NOT_EMPTY}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
        },
    }
}
"""`openapi_extra` of a route that calls read_payload."""
