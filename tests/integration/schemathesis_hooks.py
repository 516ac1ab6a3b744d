"""What Schemathesis must know of the API that an OpenAPI document can't say; named in schemathesis.toml.

Rules of one value, such as a bound in bytes of UTF-8, become formats with a strategy of their own. Rules between two
values are kept by changing the request before it is sent, when it was meant to be a good one.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import schemathesis
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import UseAfterFree

from iocpd.api.durations import Duration
from iocpd.api.node.schemas import DrainBody

CONNECTION = os.environ["IOCPD_TEST_CONNECTION"]
"""The id of a connection of this run."""
GROUP = os.environ["IOCPD_TEST_GROUP"]
"""Of operations that this run is about; see test_openapi.py."""
RUNNER = "schemathesis"
"""The name of the key that this run has."""

_DURATION = TypeAdapter(Duration).json_schema()["anyOf"][0]["pattern"]
_UNITS = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}


# --- formats ----------------------------------------------------------------------------------------------------------


def networks() -> st.SearchStrategy[str]:
    """Addresses and blocks; of this machine's only some, so that a ban does not keep all clients away."""
    own = st.integers(1, 8).map(lambda host: f"127.0.0.{host}")
    address = st.ip_addresses(network="192.0.2.0/24") | st.ip_addresses(network="2001:db8::/32")
    block = st.sampled_from(["192.0.2.0/24", "198.51.100.128/25", "203.0.113.7/32", "2001:db8::/32", "2001:db8:1::/48"])
    return own | address.map(str) | block


@st.composite
def spans(draw: st.DrawFn, least: float, most: float, above: bool) -> str:
    """Durations from `least`, or from just above it, to `most` seconds."""
    unit = draw(st.sampled_from([unit for unit, seconds in _UNITS.items() if seconds <= most]))
    seconds = _UNITS[unit]
    low = -(-least // seconds)
    count = draw(st.integers(int(low) + (above and low * seconds <= least), int(min(most / seconds, 10**11))))
    return f"{count}{unit}"


@st.composite
def lines(draw: st.DrawFn, most: int) -> str:
    """Printable text of so many bytes in UTF-8 at most."""
    text = draw(st.text(st.characters(codec="utf-8"), max_size=most))
    text = "".join(each for each in text if each.isprintable())
    return text.encode()[:most].decode(errors="ignore")


def subschemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from subschemas(child)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Gives names to what has a strategy here."""
    schemathesis.openapi.format("ipvanynetwork", networks())
    for schema in list(subschemas(raw_schema)):
        choices = schema.get("anyOf")
        if isinstance(choices, list) and isinstance(choices[0], dict) and choices[0].get("pattern") == _DURATION:
            number = choices[1]
            least = number.get("exclusiveMinimum", number.get("minimum"))
            above = "exclusiveMinimum" in number
            choices[0]["format"] = name = f"span-{least}-{number['maximum']}-{above}"
            schemathesis.openapi.format(name, spans(least, number["maximum"], above))
        pattern = schema.get("pattern")
        if not isinstance(pattern, str):
            continue
        if found := re.fullmatch(r"(.*:)?\[\^\\u0000.*?\](?:\*|\{0,([0-9]+)\})\$", pattern.removeprefix("^")):
            most = schema.get("maxLength") or int(found[2])
            before = (
                st.from_regex(rf"\A{found[1]}\Z", alphabet=st.characters(codec="ascii")) if found[1] else st.just("")
            )
            schema["format"] = name = f"{'tag' if found[1] else 'line'}-{most}"
            schemathesis.openapi.format(name, st.tuples(before, lines(most)).map("".join))


# --- requests ---------------------------------------------------------------------------------------------------------


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Keeps the rules between values, and draws keys anew."""
    headers, query, body = case.headers, case.query, case.body
    key = headers.get("Idempotency-Key") if headers else None
    if isinstance(key, str) and re.fullmatch("[!-~]{1,255}", key):
        # Clients draw one for each request; the same for two is refused by contract.
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if case.path_parameters.get("name") == RUNNER:
        case.path_parameters["name"] = "nobody"  # without its own key the run would see nothing but 401
    operation = case.operation.definition.raw["operationId"]
    if operation in ("node-shutdown", "node-begin_drain"):
        _repair_end(case, operation)
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(query, dict):
        _repair_tags(query)
    if isinstance(body, dict):
        _repair_tags(body)
        if body.get("exclude"):
            body["exclude"] = [CONNECTION]  # whom this run does not know can't be spared
    if operation == "connections-kick":
        _repair_kick(query, body)
    if case.meta.phase.name is not TestPhase.STATEFUL:
        _repair_path(case)


def _repair_end(case: schemathesis.Case, operation: str) -> None:
    """The service is still there at the end of the run: what would end it takes longer, or is a drain alone."""
    body = case.body if isinstance(case.body, dict) else {}
    try:
        then = DrainBody.model_validate(body).then
    except ValidationError:
        return  # it is refused
    if operation == "node-begin_drain" and then == "stay":
        return
    if GROUP == "shutdown":
        case.body = body | {"lb_delay": "1h", "grace": "0s", "deadline": "2h"}
        case.media_type = case.media_type or "application/json"
    else:
        case.body = body | {"then": "stay"}


def _repair_path(case: schemathesis.Case) -> None:
    """What is drawn becomes what there is: links give what there is, and are followed in the stateful phase alone."""
    found = re.match(r"(/v1/\w+)/\{(\w+)\}", case.operation.path)
    if found and found[1] == "/v1/connections":
        headers = {"authorization": f"Bearer {os.environ['IOCPD_TEST_KEY']}"}
        url = f"{case.operation.base_url.rstrip('/')}/v1/connections"
        rows = httpx.get(url, params={"limit": 1}, headers=headers).json()["items"]
        case.path_parameters["id"] = rows[0]["id"] if rows else CONNECTION
    elif found and found[1] in _made:
        case.path_parameters[found[2]] = _made[found[1]]


def _repair_tags(values: dict[str, Any]) -> None:
    """A key is given once."""
    if isinstance(tags := values.get("tag"), list):
        values["tag"] = list({str(tag).partition(":")[0]: tag for tag in tags}.values())


def _repair_kick(query: Any, body: Any) -> None:
    """A farewell comes in the query or in the body, and not with a reset."""
    told = isinstance(body, dict) and body.get("farewell") is not None
    if told or str(query.get("force", "")).lower() not in ("", "false"):
        query.pop("farewell", None)
    if told and query.get("force"):
        query["force"] = False


_made: dict[str, str] = {}
"""The last job, ban and key that were made, by the paths that they are under."""


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: schemathesis.Case, response: Any) -> None:
    """Notes what was made."""
    if case.method == "POST" and response.status_code in (201, 202) and case.path != "/v1/node/shutdown":
        made = response.json()
        _made[case.path] = made.get("job") or made.get("id") or made["name"]


# --- answers ----------------------------------------------------------------------------------------------------------


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Exception, case: schemathesis.Case, response: Any
) -> bool:
    """False for what is no failure by contract: DELETE stops a job, which can be looked at for 15 minutes."""
    job = case.operation.path in ("/v1/kicks/{job}", "/v1/broadcasts/{job}")
    return not (isinstance(failure, UseAfterFree) and job and response.json()["state"] != "running")
