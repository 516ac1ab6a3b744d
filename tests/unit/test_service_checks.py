"""Services in Python that can't be run are refused with the place and the way out, before anybody listens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iocpd.core import Lines, ListenerConfig, Raw, Service, ServiceConnection, ServiceUnusable, load_service
from iocpd.core._service_plan import service_plan

Write = Callable[[str, str], ListenerConfig]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module and gives a listener of its class `Mine`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def module(name: str, text: str) -> ListenerConfig:
        (tmp_path / f"{name}.py").write_text(text)
        return ListenerConfig(port=0, service=f"python:{name}:Mine")

    return module


def refused(service: ListenerConfig | type) -> str:
    listener = service if isinstance(service, ListenerConfig) else ListenerConfig(port=0, service=service)
    with pytest.raises(ServiceUnusable) as caught:
        service_plan(listener)
    text = str(caught.value)
    assert text.startswith(f"{listener.service_name}: ")
    return text


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("has_slip", "x = 1\ndef f(\n", "SyntaxError: '(' was never closed (in {}, line 2)"),
        (
            "has_typo",
            "def f():\n    return undefind\nf()\n",
            "NameError: name 'undefind' is not defined (in {}, line 2)",
        ),
        ("has_need", "\nimport no_such\n", "ModuleNotFoundError: No module named 'no_such' (in {}, line 2)"),
        ("has_exit", "import sys\nsys.exit(3)\n", "SystemExit: 3 (in {}, line 2)"),
    ],
)
def test_an_import_that_fails_names_the_user_s_file_and_line(
    write: Write, tmp_path: Path, name: str, text: str, why: str
) -> None:
    place = tmp_path / f"{name}.py"
    assert refused(write(name, text)).endswith(f"the module {name} can't be imported: {why.format(place)}")


def test_the_place_is_the_user_s_own_and_not_the_library_s_that_it_called(write: Write, tmp_path: Path) -> None:
    listener = write("has_json", "import json\n\nRULES = json.loads('{')\n")
    assert refused(listener).endswith(f"(in {tmp_path / 'has_json.py'}, line 3)")


def test_a_module_that_is_nowhere_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"it was looked for in {tmp_path}" in refused(ListenerConfig(port=0, service="python:is_nowhere:Mine"))


def test_a_class_that_is_missing_says_which_file_and_which_classes_there_are(write: Write, tmp_path: Path) -> None:
    text = refused(write("has_other", "from iocpd.core import Service\nclass Other(Service): ...\n"))
    assert f"there is no Mine in the module has_other ({tmp_path / 'has_other.py'}); its services are Other" in text


def test_a_service_that_fails_when_it_is_made_names_file_and_line(write: Write, tmp_path: Path) -> None:
    text = "from iocpd.core import Service\nclass Mine(Service):\n    def __init__(self):\n        {}['a']\n"
    why = f"could not be made: KeyError: 'a' (in {tmp_path / 'has_init.py'}, line 4)"
    assert refused(write("has_init", text)).endswith(why)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("on_mesage", "on_message"),
        ("onMessage", "on_message"),
        ("OnMessage", "on_message"),
        ("onmessage", "on_message"),
        ("on_mesages", "on_message"),
        ("on_connect", "on_open"),
        ("on_data", "on_message"),
        ("on_closed", "on_close"),
        ("on_disconnect", "on_close"),
        ("on_started", "on_start"),
    ],
)
def test_a_name_like_a_handler_s_is_refused_beside_real_ones(slip: str, meant: str) -> None:
    members = {slip: lambda *_: None, "on_message": lambda *_: None}
    assert re.search(rf"{slip} is not a handler.* did you mean {meant}", refused(type("Mine", (Service,), members)))


def test_an_unlike_name_with_on_tells_the_handlers_and_the_way_out() -> None:
    text = refused(type("Mine", (Service,), {"on_join": lambda *_: None, "on_message": lambda *_: None}))
    assert "on_start, on_open, on_message" in text
    assert "call a method of your own _on_join" in text


def test_a_class_that_can_do_nothing_is_refused_before_it_is_made() -> None:
    with pytest.raises(ServiceUnusable, match="no handler and no timer"):
        load_service(ListenerConfig(port=0, service=type("Mine", (Service,), {})))


def test_a_service_that_does_nothing_is_refused() -> None:
    assert "no handler and no timer" in refused(type("Mine", (Service,), {"__init__": lambda _: None}))
    assert "no handler and no timer" in refused(type("Mine", (Service,), {}))
    text = refused(type("Mine", (Service,), {"data_received": lambda *_: None}))
    assert "data_received is none: did you mean on_message?" in text


def test_a_framing_s_class_is_refused_with_the_way_out() -> None:
    members: dict[str, Any] = {"framing": Lines, "on_message": lambda *_: None}
    assert "write Lines()" in refused(type("Mine", (Service,), members))


class Ticks(Service):
    def __init__(self) -> None:
        self.every(1, self.tick)

    def tick(self) -> None: ...


class Greets(Service):
    def on_open(self, connection: ServiceConnection) -> None: ...


class Chosen(Service):
    """Its handler is chosen when it is made."""

    def __init__(self) -> None:
        self.on_message = self.upper  # type: ignore[method-assign]

    def upper(self, connection: ServiceConnection, message: bytes) -> None: ...


class Helped(Greets):
    """What is private, no method, or only begins with the same letters is nobody's slip."""

    on_fire = False

    def _on_message(self) -> None: ...

    def once(self) -> None: ...


@pytest.mark.parametrize("service", [Ticks, Greets, Chosen, Helped])
def test_few_handlers_are_enough(service: type[Service]) -> None:
    listener = ListenerConfig(port=0, service=service)
    plan = service_plan(listener)
    assert plan is not None
    assert isinstance(plan.instances[0], service)
    assert load_service(listener).framing == Raw()
