"""The Python client and the OpenAPI document say the same."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from types import NoneType
from typing import Any, Literal, Unpack, get_args, get_origin, get_type_hints

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

from iocpd.api.app import create_app
from iocpd.api.client import AsyncClient, Client, Connection, FieldProblem, ProblemError
from iocpd.api.client.calls import Call, Open, operation, stream
from iocpd.api.client.models import EventData, EventKind
from iocpd.api.client.operations import Operations
from iocpd.api.events.schemas import EventType
from iocpd.api.settings import Settings
from iocpd.core import Engine, EngineConfig, ListenerConfig

MEMBERS = {name: inspect.getattr_static(Operations, name) for name in dir(Operations)}
OPERATIONS = {name: each for name, each in MEMBERS.items() if isinstance(each, operation)}
STREAMS = {name: each for name, each in MEMBERS.items() if isinstance(each, stream)}
# Those that read one endless answer, and not page after page.
LIVE = {"events"}
# What an operation and a method of the client's have in common.
DESCRIBED = OPERATIONS | {name: STREAMS[name] for name in LIVE}

# What a stream that follows pages does by itself.
_OF_PAGES = {"limit", "cursor", "count"}
# Headers that the client sends by itself, and those that a method has another name for.
_OWN_HEADERS = {"idempotency-key"}
_HEADERS = {"last-event-id": "after", "prefer": "prefer"}
# Formats of a text that the client leaves to the service.
_LEFT_TO_THE_SERVICE = {"ipvanynetwork"}
# Of the streams that read one endless answer: what is about the client itself.
_OF_LIVE = {"attempts"}
# What the service takes as one text with commas between, and a method as a sequence.
_COMMAS = {"fields", "types"}
# Whose values the document leaves open, and a method does not.
_NARROWER = {"prefer"}
# What the document calls Payload, the client takes as these.
_PAYLOAD = frozenset({"string", "string:binary"})


@pytest.fixture(scope="module")
def document() -> Iterator[dict[str, Any]]:
    with Engine(EngineConfig(listeners=[ListenerConfig(port=0)], workers=1)) as engine:
        yield create_app(engine, Settings()).openapi()


# --- what the client says ---------------------------------------------------------------------------------------------


def annotations(method: Any) -> dict[str, tuple[Any, bool]]:
    """Each parameter's type, and whether it must be given."""
    hints = get_type_hints(method.__wrapped__)
    found: dict[str, tuple[Any, bool]] = {}
    for name, parameter in inspect.signature(method.__wrapped__).parameters.items():
        if name == "self":
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert get_origin(hints[name]) is Unpack
            options = get_args(hints[name])[0]
            assert not options.__required_keys__
            found |= {option: (hint, False) for option, hint in get_type_hints(options).items()}
        else:
            found[name] = hints[name], parameter.default is inspect.Parameter.empty
    return {name: each for name, each in found.items() if name not in _OF_LIVE}


def sample(hint: Any) -> Any:
    """A value of a parameter's type that is not its default."""
    if get_origin(hint) is Literal:
        return get_args(hint)[-1]
    if get_origin(hint) is Sequence:
        return [sample(get_args(hint)[0])]
    if get_origin(hint) is Mapping:
        return {"x": "y"}
    if options := get_args(hint):
        return sample(options[-2] if options[-1] is NoneType else options[0])
    return {str: "x", int: 7, float: 2.5, bool: True, bytes: b"x", datetime: datetime(2025, 1, 31, tzinfo=UTC)}[hint]


def call_of(method: operation[Any, Any] | stream[Any, Any], *, every: bool = False) -> Call[Any]:
    """The call that a method makes, with every parameter or with those alone that must be given."""
    given = {name: sample(hint) for name, (hint, required) in annotations(method).items() if every or required}
    if isinstance(method, operation):
        return method.call(**given)
    step = next(method.steps(**given))
    assert isinstance(step, Open)
    return step.call


# --- what the document says -------------------------------------------------------------------------------------------


def declared(document: Mapping[str, Any], call: Call[Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document["paths"][call.route][call.method.lower()]
    return found


def declared_parameters(document: Mapping[str, Any], call: Call[Any]) -> dict[str, tuple[frozenset[Any], bool]]:
    """Each parameter's types and whether it must be given, wherever in the request it is; a body that is a Payload as a
    whole is one parameter."""
    entry = declared(document, call)
    found = {
        _HEADERS.get(parameter["name"].lower(), parameter["name"]): (
            types(document, parameter["schema"]),
            parameter.get("required", False),
        )
        for parameter in entry.get("parameters", ())
        if parameter["name"].lower() not in _OWN_HEADERS
    }
    if "requestBody" not in entry:
        return found
    schema = entry["requestBody"]["content"]["application/json"]["schema"]
    if types(document, schema) == _PAYLOAD:
        return found | {"payload": (_PAYLOAD, entry["requestBody"]["required"])}
    body = next(each for each in (resolve(document, each) for each in alternatives(schema)) if "properties" in each)
    for name, each in body["properties"].items():
        elsewhere, _ = found.get(name, (frozenset(), False))
        found[name] = types(document, each) | elsewhere, name in body.get("required", ())
    return found


def resolve(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = (document.get("$defs") or document["components"]["schemas"])[name]
    return schema


def alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def types(document: Mapping[str, Any], schema: Mapping[str, Any]) -> frozenset[Any]:
    """What values a schema allows, written so that it can be compared; names of models, texts and bounds left out."""
    if schema.get("$ref", "").endswith("/Payload"):
        return _PAYLOAD
    schema = resolve(document, schema)
    if len(options := alternatives(schema)) > 1:
        found = frozenset[Any]().union(*(types(document, option) for option in options))
        # The client takes a value that a later service adds to a set.
        listed = any(isinstance(each, tuple) and each[0] == "enum" for each in found)
        return found - {"string"} if listed else found
    schema = resolve(document, options[0])
    if "enum" in schema or "const" in schema:
        return frozenset({("enum", frozenset(schema.get("enum") or [schema["const"]]))})
    if "type" not in schema:
        return frozenset({"any"})
    if schema["type"] == "array":
        return frozenset({("array", types(document, schema["items"]))})
    if schema["type"] == "object" and "properties" in schema:
        return frozenset({("object", members(document, schema))})
    if schema["type"] == "object":
        return frozenset({("map", types(document, schema["additionalProperties"]))})
    form = schema.get("format")
    return frozenset({schema["type"] if form in (None, *_LEFT_TO_THE_SERVICE) else f"{schema['type']}:{form}"})


def members(document: Mapping[str, Any], schema: Mapping[str, Any]) -> frozenset[Any]:
    required = schema.get("required", ())
    return frozenset((name, name in required, types(document, each)) for name, each in schema["properties"].items())


def without_required(found: frozenset[Any]) -> frozenset[Any]:
    """A connection of which nothing but the id must be there."""
    ((kind, told),) = found
    return frozenset({(kind, frozenset((name, name == "id", each) for name, _, each in told))})


# --- they agree -------------------------------------------------------------------------------------------------------


def test_every_operation_has_one_method_and_every_method_an_operation(document: dict[str, Any]) -> None:
    there = {(method.upper(), path) for path, entry in document["paths"].items() for method in entry}
    calls = [call_of(method) for method in DESCRIBED.values()]
    assert {(call.method, call.route) for call in calls} == there
    assert len(calls) == len(there)


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_methods_parameters_are_those_of_the_operation(document: dict[str, Any], name: str) -> None:
    takes = declared_parameters(document, call_of(DESCRIBED[name]))
    gives = annotations(DESCRIBED[name])
    assert gives.keys() == takes.keys()
    for parameter, (hint, required) in gives.items():
        schema = TypeAdapter(hint).json_schema()
        allowed, must = takes[parameter]
        assert required == must, parameter
        if parameter in _NARROWER:
            continue
        if parameter in _COMMAS:
            assert get_origin(get_args(hint)[0]) is Sequence
            assert "string" in allowed
            continue
        # What the client may send, the service takes; leaving a parameter out is what None means.
        assert types(schema, schema) - {"null"} <= allowed | ({"integer"} if "number" in allowed else set()), parameter


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_parameter_is_sent_under_its_name_and_in_its_place(document: dict[str, Any], name: str) -> None:
    call = call_of(DESCRIBED[name], every=True)
    entry = declared(document, call)
    places: dict[str, set[str]] = {"path": set(), "query": set(), "header": set()}
    for parameter in entry.get("parameters", ()):
        places[parameter["in"]].add(parameter["name"])
    with httpx.Client(base_url="http://127.0.0.1") as http:
        request = call.request(http, 1.0, idempotency_key="x")
    headers = {each.lower() for each in places["header"]}
    assert headers <= set(request.headers)
    sent = {_HEADERS.get(each, each) for each in headers - _OWN_HEADERS}
    assert set(call.path) == places["path"]
    body = set(call.json) | ({"payload"} if call.content is not None else set())
    # What may be in the query or in the body, such as a kick's farewell, is sent once.
    assert places["query"] - body <= set(request.url.params) <= places["query"]
    assert places["path"] | set(request.url.params) | body | sent == annotations(DESCRIBED[name]).keys()
    assert not set(request.url.params) & body
    if call.content is not None or call.json:
        assert request.headers["content-type"] in entry["requestBody"]["content"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_methods_result_is_that_of_the_operation(document: dict[str, Any], name: str) -> None:
    call = call_of(OPERATIONS[name])
    assert get_type_hints(OPERATIONS[name].__wrapped__)["return"] == Call[call.result]  # type: ignore[name-defined]
    success = [answer for status, answer in declared(document, call)["responses"].items() if status.startswith("2")]
    for answer in success:  # a job's are alike, whether it is over or not
        content = answer.get("content", {})
        if call.result is NoneType:
            assert content == {}
        elif call.result is str:
            assert list(content) == ["text/plain"]
        else:
            assert issubclass(call.result, BaseModel)
            schema = call.result.model_json_schema(mode="serialization")
            found, told = types(schema, schema), types(document, content["application/json"]["schema"])
            # One model is for whole connections and for those of a listing that has some members alone.
            whole = issubclass(call.result, Connection)
            assert found == (without_required(told) if whole else told)
    assert success


def test_an_event_has_every_member_that_the_document_tells(document: dict[str, Any]) -> None:
    content = declared(document, call_of(STREAMS["events"]))["responses"]["200"]["content"]["text/event-stream"]
    data = content["itemSchema"]["properties"]["data"]["contentSchema"]
    told = {name: types(document, each) for name, each in resolve(document, data)["properties"].items()}
    schema = EventData.model_json_schema(mode="serialization")
    has = {name: types(schema, each) for name, each in schema["properties"].items()}
    assert {name: each - {"null"} for name, each in has.items()} == {
        name: each - {"null"} for name, each in told.items()
    }
    assert set(get_args(EventKind)) == set(get_args(EventType))


def test_every_post_can_be_repeated(document: dict[str, Any]) -> None:
    """The client makes each again that got no answer, so the service must know it again."""
    for path, entry in document["paths"].items():
        if "post" in entry:
            headers = {each["name"].lower() for each in entry["post"]["parameters"] if each["in"] == "header"}
            assert headers >= _OWN_HEADERS, path


def test_every_listing_with_pages_can_be_iterated_over_with_the_same_filters() -> None:
    followed = {}
    for each in STREAMS.values():
        if any(required for _, required in annotations(each).values()):
            continue
        call = next(each.steps())
        if not isinstance(call, Call):
            continue
        if issubclass(call.result, BaseModel) and "next_cursor" in call.result.model_fields:
            followed[call.route] = annotations(each)
    for method in OPERATIONS.values():
        call = call_of(method)
        if issubclass(call.result, BaseModel) and "next_cursor" in call.result.model_fields:
            filters = {name: hint for name, hint in annotations(method).items() if name not in _OF_PAGES}
            assert followed.pop(call.route) == filters | {"page_size": (int, False)}
    assert not followed


def test_an_error_has_every_member_of_a_problem(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    error = ProblemError(status=500, code="internal_error")
    assert set(schemas["ProblemDetails"]["properties"]) == set(vars(error)) - {"extra", "retry_after"}
    assert set(schemas["FieldProblem"]["properties"]) == {field.name for field in fields(FieldProblem)}


def test_both_clients_have_every_method_and_its_text() -> None:
    for client in (Client, AsyncClient):
        for name, each in (OPERATIONS | STREAMS).items():
            assert getattr(client, name) is each
            assert each.__doc__


def test_the_client_needs_neither_the_engine_nor_fastapi() -> None:
    code = (
        "import sys, iocpd.api.client;"
        "print([name for name in sys.modules if name.startswith('iocpd.core') or name in ('fastapi', 'starlette')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
