"""A model of the service, and random calls, legal and illegal, that hold it against the real one: over the engine
(tests/conformance/test_machine.py) and over the HTTP API (tests/integration/test_machine.py), with real sockets.

What the model knows: who is there with which labels, what each client is to receive, and how everybody who has left
came to his end.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from tests.support import PATIENCE, Client, eventually

MANY = settings(
    max_examples=int(os.environ.get("MACHINE_EXAMPLES", "8")),
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
"""Bounded for CI; MACHINE_EXAMPLES asks for more."""

# Not st.binary(): it also tries texts that stand in the sources, and those may rightly be in what the service writes.
DATA = st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(0, 1 << 32), st.integers(1, 5000))
TAGS = st.dictionaries(
    st.sampled_from(["a", "b", "c.d"]), st.one_of(st.none(), st.text("xyz é", max_size=5)), max_size=3
)
GROUPS = st.lists(st.sampled_from(["red", "blue"]), unique=True, max_size=2)
# What can be no tag: a name with a blank, a text with a line's end, one that is too long.
WRONG_TAGS = st.sampled_from(
    [{"a b": "x"}, {"a": "x\ny"}, {"a": "x" * 129}, {"": "x"}, {f"t{n}": "x" for n in range(17)}]
)


class Face(Protocol):
    """The service, however it is asked. Refusals are words: unknown, ended, invalid, conflict.

    mistakes: questions that can have no answer, such as a wrong cursor, and what came of them.
    """

    ports: list[int]
    mistakes: Mapping[str, Callable[[], str]]

    def ids(self, group: str | None) -> list[Any]: ...
    def id_of(self, client: Client) -> Any: ...
    def unknown_id(self) -> Any: ...
    def labels(self, id: Any) -> tuple[dict[str, str], list[str]] | str: ...
    def reason(self, id: Any) -> str: ...
    def label(self, id: Any, tags: dict[str, str | None], groups: list[str]) -> str: ...
    def send(self, id: Any, data: bytes) -> str: ...
    def broadcast(self, data: bytes, group: str | None, exclude: Collection[Any]) -> tuple[int, int]: ...
    def kick(self, id: Any, farewell: bytes, force: bool) -> Future[str]: ...
    def ban(self, on: bool) -> None: ...
    def drain(self) -> str: ...
    def cancel_drain(self) -> str: ...


@dataclass
class Member:
    """A client that is there."""

    client: Client
    id: Any
    tags: dict[str, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """The rules. A subclass opens a face."""

    members: Any = Bundle("members")
    ended: Any = Bundle("ended")

    def open(self) -> Face:
        """The service, with nobody there; the first listener echoes."""
        raise NotImplementedError

    @initialize(target=members)
    def begin(self) -> Any:
        """With some who are there, or most rules would seldom have anybody to choose."""
        self.face = self.open()
        self.there: list[Member] = []
        self.banned = False
        return multiple(*(self.join() for _ in range(4)))

    def teardown(self) -> None:
        if hasattr(self, "face"):
            for member in self.there:
                member.client.close()
            if self.banned:
                self.face.ban(False)
            self.face.cancel_drain()  # what failed may have left one
            eventually(lambda: self.face.ids(None) == [])

    def gone(self, member: Member) -> Any:
        self.there.remove(member)
        member.client.close()
        eventually(lambda: self.face.labels(member.id) == "ended")
        return member.id

    # --- clients ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.banned)
    @rule(target=members)
    def connect(self) -> Member:
        return self.join()

    def join(self) -> Member:
        client = Client(self.face.ports[0])
        self.there.append(Member(client, self.face.id_of(client)))
        return self.there[-1]

    @precondition(lambda self: self.banned)
    @rule()
    def connect_in_vain(self) -> None:
        try:
            with Client(self.face.ports[0]) as client:
                assert client.socket.recv(1) == b""
        except (ConnectionResetError, ConnectionAbortedError):
            pass

    @rule(member=members, data=DATA)
    def echo(self, member: Member, data: bytes) -> None:
        assert member.client.echoes(data)

    @rule(target=ended, member=consumes(members), reset=st.booleans())
    def leave(self, member: Member, reset: bool) -> Any:
        (member.client.reset if reset else member.client.close)()
        id = self.gone(member)
        assert self.face.reason(id) == ("client_reset" if reset else "client_closed")
        return id

    # --- operators ----------------------------------------------------------------------------------------------------

    @rule(member=members, data=DATA)
    def send(self, member: Member, data: bytes) -> None:
        assert self.face.send(member.id, data) == "done"
        assert member.client.read(len(data)) == data

    @rule(data=DATA, group=st.sampled_from([None, "red", "blue"]), leave_out=st.booleans())
    def broadcast(self, data: bytes, group: str | None, leave_out: bool) -> None:
        matching = [member for member in self.there if group is None or group in member.groups]
        out = matching[:1] if leave_out else []
        to = matching[len(out) :]
        assert self.face.broadcast(data, group, [member.id for member in out]) == (len(to), len(to))
        for member in to:
            assert member.client.read(len(data)) == data

    @rule(member=members, tags=TAGS, groups=GROUPS)
    def label(self, member: Member, tags: dict[str, str | None], groups: list[str]) -> None:
        assert self.face.label(member.id, tags, groups) == "done"
        merged = {**member.tags, **tags}
        member.tags = {key: value for key, value in merged.items() if value is not None}
        member.groups = groups

    @rule(member=members, tags=WRONG_TAGS)
    def label_wrongly(self, member: Member, tags: dict[str, str | None]) -> None:
        assert self.face.label(member.id, tags, []) == "invalid"

    @rule(target=ended, member=consumes(members), farewell=st.one_of(st.just(b""), DATA), force=st.booleans())
    def kick(self, member: Member, farewell: bytes, force: bool) -> Any:
        done = self.face.kick(member.id, b"" if force else farewell, force)
        if force:
            member.client.read_to_any_end()
        else:
            assert member.client.read_to_end() == farewell
        member.client.close()
        assert done.result(PATIENCE) == "done"
        id = self.gone(member)
        assert self.face.reason(id) == "kicked"
        return id

    @rule(id=ended, data=DATA)
    def ask_for_one_that_has_left(self, id: Any, data: bytes) -> None:
        assert self.face.send(id, data) == "ended"
        assert self.face.label(id, {"a": "x"}, []) == "ended"
        assert self.face.kick(id, b"", True).result(PATIENCE) == "ended"

    @rule(data=DATA)
    def ask_for_one_that_never_was(self, data: bytes) -> None:
        id = self.face.unknown_id()
        assert self.face.send(id, data) == "unknown"
        assert self.face.label(id, {"a": "x"}, []) == "unknown"
        assert self.face.kick(id, b"", True).result(PATIENCE) == "unknown"
        assert self.face.labels(id) == "unknown"

    @rule()
    def ban(self) -> None:
        self.banned = not self.banned
        self.face.ban(self.banned)

    @rule(times=st.integers(1, 2))
    def drain_and_cancel(self, times: int) -> None:
        assert [self.face.drain() for _ in range(times)] == ["done", "conflict"][:times]
        assert [self.face.cancel_drain() for _ in range(times)] == ["done", "conflict"][:times]

    @rule()
    def cancel_no_drain(self) -> None:
        assert self.face.cancel_drain() == "conflict"

    @rule(data=st.data())
    def ask_wrongly(self, data: st.DataObject) -> None:
        mistake = data.draw(st.sampled_from(sorted(self.face.mistakes)))
        assert self.face.mistakes[mistake]() == "invalid"

    # --- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
    def everybody_is_there_once(self) -> None:
        if hasattr(self, "face"):
            assert sorted(self.face.ids(None)) == sorted(member.id for member in self.there)
            assert sorted(self.face.ids("red")) == sorted(each.id for each in self.there if "red" in each.groups)
            for member in self.there:
                assert self.face.labels(member.id) == (member.tags, member.groups)
