"""The Python client and the OpenAPI document say the same."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, Unpack, get_args, get_origin, get_type_hints

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

from iocpd.api.app import create_app
from iocpd.api.client import AsyncClient, Client, FieldProblem, ProblemError
from iocpd.api.client.calls import Call, operation, stream
from iocpd.api.client.operations import Operations
from iocpd.api.settings import Settings
from iocpd.core import Engine, EngineConfig, ListenerConfig

OPERATIONS = {name: each for name, each in vars(Operations).items() if isinstance(each, operation)}
STREAMS = {name: each for name, each in vars(Operations).items() if isinstance(each, stream)}

# What a stream that follows pages does by itself.
_OF_PAGES = {"limit", "cursor", "count"}
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
    return found


def sample(hint: Any) -> Any:
    """A value of a parameter's type that is not its default."""
    if get_origin(hint) is Literal:
        return get_args(hint)[-1]
    if options := get_args(hint):
        return sample(options[-2] if options[-1] is NoneType else options[0])
    return {str: "x", int: 7, float: 2.5, bool: True, bytes: b"x"}[hint]


def call_of(method: operation[Any, Any], *, every: bool = False) -> Call[Any]:
    """The call that a method makes, with every parameter or with those alone that must be given."""
    given = {name: sample(hint) for name, (hint, required) in annotations(method).items() if every or required}
    return method.call(**given)


# --- what the document says -------------------------------------------------------------------------------------------


def declared(document: Mapping[str, Any], call: Call[Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document["paths"][call.route][call.method.lower()]
    return found


def declared_parameters(document: Mapping[str, Any], call: Call[Any]) -> dict[str, tuple[frozenset[Any], bool]]:
    """Each parameter's types and whether it must be given, wherever in the request it is; a body that is a Payload as a
    whole is one parameter."""
    entry = declared(document, call)
    found = {
        parameter["name"]: (types(document, parameter["schema"]), parameter.get("required", False))
        for parameter in entry.get("parameters", ())
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
    if schema["type"] == "array":
        return frozenset({("array", types(document, schema["items"]))})
    if schema["type"] == "object" and "properties" in schema:
        return frozenset({("object", members(document, schema))})
    if schema["type"] == "object":
        return frozenset({("map", types(document, schema["additionalProperties"]))})
    return frozenset({":".join(filter(None, (schema["type"], schema.get("format"))))})


def members(document: Mapping[str, Any], schema: Mapping[str, Any]) -> frozenset[Any]:
    required = schema.get("required", ())
    return frozenset((name, name in required, types(document, each)) for name, each in schema["properties"].items())


# --- they agree -------------------------------------------------------------------------------------------------------


def test_every_operation_has_one_method_and_every_method_an_operation(document: dict[str, Any]) -> None:
    there = {(method.upper(), path) for path, entry in document["paths"].items() for method in entry}
    calls = [call_of(method) for method in OPERATIONS.values()]
    assert {(call.method, call.route) for call in calls} == there
    assert len(calls) == len(there)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_methods_parameters_are_those_of_the_operation(document: dict[str, Any], name: str) -> None:
    takes = declared_parameters(document, call_of(OPERATIONS[name]))
    gives = annotations(OPERATIONS[name])
    assert gives.keys() == takes.keys()
    for parameter, (hint, required) in gives.items():
        schema = TypeAdapter(hint).json_schema()
        allowed, must = takes[parameter]
        assert required == must, parameter
        # What the client may send, the service takes; leaving a parameter out is what None means.
        assert types(schema, schema) - {"null"} <= allowed | ({"integer"} if "number" in allowed else set()), parameter


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_parameter_is_sent_under_its_name_and_in_its_place(document: dict[str, Any], name: str) -> None:
    call = call_of(OPERATIONS[name], every=True)
    entry = declared(document, call)
    places: dict[str, set[str]] = {"path": set(), "query": set()}
    for parameter in entry.get("parameters", ()):
        places[parameter["in"]].add(parameter["name"])
    with httpx.Client(base_url="http://127.0.0.1") as http:
        request = call.request(http, 1.0)
    assert set(call.path) == places["path"]
    body = set(call.json) | ({"payload"} if call.content is not None else set())
    # What may be in the query or in the body, such as a kick's farewell, is sent once.
    assert places["query"] - body <= set(request.url.params) <= places["query"]
    assert places["path"] | set(request.url.params) | body == annotations(OPERATIONS[name]).keys()
    assert not set(request.url.params) & body
    if call.content is not None or call.json:
        assert request.headers["content-type"] in entry["requestBody"]["content"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_methods_result_is_that_of_the_operation(document: dict[str, Any], name: str) -> None:
    call = call_of(OPERATIONS[name])
    assert get_type_hints(OPERATIONS[name].__wrapped__)["return"] == Call[call.result]  # type: ignore[name-defined]
    success = [answer for status, answer in declared(document, call)["responses"].items() if status.startswith("2")]
    assert len(success) == 1
    content = success[0].get("content", {})
    if call.result is NoneType:
        assert content == {}
    elif call.result is str:
        assert list(content) == ["text/plain"]
    else:
        assert issubclass(call.result, BaseModel)
        schema = call.result.model_json_schema(mode="serialization")
        assert types(schema, schema) == types(document, content["application/json"]["schema"])


def test_every_listing_with_pages_can_be_iterated_over_with_the_same_filters() -> None:
    followed = {}
    for each in STREAMS.values():
        call = next(each.steps())
        assert isinstance(call, Call)
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
