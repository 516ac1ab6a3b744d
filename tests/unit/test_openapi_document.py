"""The OpenAPI document by itself: names that stay, and every answer with its schema and an example. Whether the process
does what it says is tested in tests/integration/test_openapi.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI

from iocpd.api import problems
from iocpd.api.app import create_app
from iocpd.api.keys import SCOPES
from iocpd.api.settings import Settings
from iocpd.core import Engine, EngineConfig, ListenerConfig
from tests.integration.test_openapi import GROUPS, in_group
from tests.operations import OPERATIONS

KINDS = {kind.code: kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Engine(EngineConfig(listeners=[ListenerConfig(port=0)], workers=1)), Settings())


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def answers(document: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            yield f"{name}: {status}", int(status), answer


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def examples(document: dict[str, Any], content: dict[str, Any]) -> list[Any]:
    """Those of the answer, or else of its schema."""
    if "examples" in content:
        return [each["value"] for each in content["examples"].values()]
    found = content["schema"].get("examples") or resolved(document, content["schema"]).get("examples", [])
    return [content["example"]] if "example" in content else list(found)


def test_operations_have_names_that_stay(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert sorted(names) == sorted(OPERATIONS)
    for _, operation in operations(document):
        tag, dash, name = operation["operationId"].partition("-")
        assert dash
        assert name
        assert operation["tags"] == [tag]
        assert operation["summary"]
        assert operation["description"]


def test_every_operation_names_the_one_scope_that_it_needs(document: dict[str, Any]) -> None:
    declared = {operation["operationId"]: operation.get("security") for _, operation in operations(document)}
    assert declared == {id: scope and [{"key": [scope]}] for id, scope in OPERATIONS.items()}
    assert {scope for scope in OPERATIONS.values() if scope} == set(SCOPES), "a scope opens nothing"


def test_every_route_is_in_the_document(app: FastAPI, document: dict[str, Any]) -> None:
    routes = {f"{method} {path}" for path, methods in app.state.methods.items() for method in methods}
    assert routes == {name for name, _ in operations(document)}


def test_every_operation_is_in_a_group_of_the_test_against_the_process(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert set(ids) == {id for group in GROUPS for id in ids if in_group(group, id)}


def test_every_answer_has_a_schema_and_examples_that_fit_it(document: dict[str, Any]) -> None:
    for where, status, answer in answers(document):
        if status == 204:
            assert "content" not in answer, where
            continue
        assert answer["content"], where
        for media_type, content in answer["content"].items():
            schema = content.get("schema") or content["itemSchema"]
            found = examples(document, {**content, "schema": schema})
            assert found, f"{where} {media_type} has no example"
            if "itemSchema" in content:
                continue  # its example is the text of a stream
            for example in found:
                check(document, schema, example, f"{where} {media_type}")


def test_every_problem_is_one_of_the_catalogue(document: dict[str, Any]) -> None:
    seen = set()
    for where, status, answer in answers(document):
        if status < 400:
            continue
        assert list(answer["content"]) == [problems.MEDIA_TYPE], where
        content = answer["content"][problems.MEDIA_TYPE]
        assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}, where
        for code, example in content["examples"].items():
            kind = KINDS[code]
            told = {name: example["value"][name] for name in ("type", "title", "status", "code")}
            assert told == {
                "type": f"urn:iocpd:problem:{code}",
                "title": kind.title,
                "status": status,
                "code": code,
            }, where
            seen.add(code)
    assert KINDS.keys() - seen == {"route_unknown", "method_not_allowed"}, "answers of no route"


def test_every_operation_says_how_it_may_fail(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"400", "408", "413", "431", "500", "503"} <= statuses, name
        if operation["tags"] != ["probes"]:
            assert {"401", "403", "429"} <= statuses, name
        if "requestBody" in operation:
            assert {"413", "415", "422"} <= statuses, name
        if operation.get("parameters"):
            assert "422" in statuses, name


def test_every_answer_names_its_headers(document: dict[str, Any]) -> None:
    for where, status, answer in answers(document):
        headers = answer["headers"]
        assert headers["X-Request-ID"]["required"], where
        assert ("WWW-Authenticate" in headers) == (status in (401, 403)), where
        assert ("Retry-After" in headers) == (status in (429, 503)), where
        if status == 202 and "drain" not in where and "shutdown" not in where:
            assert headers["Location"]["required"], where


def test_a_message_is_json_or_the_bytes_themselves(document: dict[str, Any]) -> None:
    (send,) = [each for _, each in operations(document) if each["operationId"] == "messages-send"]
    assert set(send["requestBody"]["content"]) == {"application/json", "application/octet-stream"}


def test_every_reference_leads_to_a_schema_of_ours(document: dict[str, Any]) -> None:
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(names) <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_requests_have_examples_that_fit(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            if media_type == "application/octet-stream":
                continue
            found = examples(document, content)
            choices = resolved(document, content["schema"]).get("anyOf", [])
            for choice in choices:
                found += resolved(document, choice).get("examples", [])
            assert found, name
            for example in found:
                check(document, content["schema"], example, name)


def test_links_lead_to_operations_and_their_parameters(document: dict[str, Any]) -> None:
    by_id = {operation["operationId"]: operation for _, operation in operations(document)}
    found = set()
    for where, _, answer in answers(document):
        for link in answer.get("links", {}).values():
            target = by_id[link["operationId"]]
            required = {each["name"] for each in target.get("parameters", []) if each["required"]}
            assert set(link["parameters"]) == required, where
            found.add(link["operationId"])
    with_id = {operation["operationId"] for name, operation in operations(document) if "{" in name}
    assert with_id <= found, "nothing leads there"


def check(document: dict[str, Any], schema: dict[str, Any], example: Any, where: str) -> None:
    whole = {**schema, "components": document["components"]}
    errors = [error.message for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(example)]
    assert not errors, f"{where}: {errors[0]} in {example}"
