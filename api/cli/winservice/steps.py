"""install, start, stop and remove, with what they wait for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.winservice.binary import is_ours, option_of
from iocpd.api.cli.winservice.machine import Machine
from iocpd.api.cli.winservice.plan import Plan, sid_of
from iocpd.api.cli.winservice.scm import (
    ALREADY_RUNNING,
    NOT_ACCEPTED,
    NOT_ACTIVE,
    NOT_FOUND,
    Condition,
    Config,
    Manager,
    ScmError,
    State,
)

Tell = Callable[[Condition], None]

_POLL_S = 0.2
_SLACK_S = 10.0  # added to the service's own hint of when it will tell something new
_GONE_S = 10.0


def install(manager: Manager, machine: Machine, plan: Plan) -> list[str]:
    """All of it or nothing. What this system does not know, and was left out."""
    name = plan.name
    manager.create(plan)
    undo: list[Callable[[], None]] = [lambda: manager.delete(name)]
    try:
        unknown = manager.configure(plan)
        machine.give_folder(plan.state_dir, sid_of(name), plan.account)
        machine.add_event_source(name)
        undo.append(lambda: machine.remove_event_source(name))
        if plan.ports:
            undo.append(lambda: machine.close_firewall(name))
            machine.open_firewall(name, plan.ports)
    except BaseException:
        for step in reversed(undo):
            with contextlib.suppress(Stop):
                step()
        raise
    return unknown


def start(manager: Manager, name: str, tell: Tell, patience: float) -> Condition:
    """Waits until it runs."""
    log = option_of(ours(manager, name).command, "log")
    try:
        manager.start(name)
    except ScmError as error:
        if error.code != ALREADY_RUNNING:  # which a service that only starts or stops is called too
            raise
    last = wait_while(manager, name, {State.START_PENDING}, tell, patience)
    if last.state is not State.RUNNING:
        where = f"; {log} and the event log say more" if log else ""
        raise Stop(f"the service {name} is {last.state.text} and not running: it ended {last.ending}{where}")
    return last


def stop(manager: Manager, name: str, tell: Tell, patience: float) -> Condition:
    """Waits until it has stopped; the launcher kills it when that takes longer than its grace period."""
    ours(manager, name)
    until = time.monotonic() + patience
    while True:
        try:
            manager.stop(name)
        except ScmError as error:
            if error.code not in (NOT_ACCEPTED, NOT_ACTIVE):
                raise
        last = wait_while(manager, name, {State.START_PENDING, State.STOP_PENDING}, tell, until - time.monotonic())
        if last.state is State.STOPPED:
            return last
        # It was starting, and takes a stop only now.
        if time.monotonic() > until:
            raise Stop(f"the service {name} is {last.state.text} and does not stop", Status.TIMED_OUT)
        time.sleep(_POLL_S)


def remove(manager: Manager, machine: Machine, name: str, tell: Tell, patience: float) -> list[str]:
    """Stops it and takes away what install has made; the state folder stays. What could not be taken away, and why."""
    left: list[str] = []

    def attempt(step: Callable[[str], None]) -> None:
        try:
            step(name)
        except Stop as error:  # which must not keep the service
            left.append(str(error))

    stop(manager, name, tell, patience)
    attempt(machine.close_firewall)  # what is to be closed is told by the service's own key
    manager.delete(name)
    attempt(machine.remove_event_source)
    until = time.monotonic() + _GONE_S
    while time.monotonic() < until:
        try:
            manager.condition(name)
        except ScmError as error:
            if error.code == NOT_FOUND:
                return left
        time.sleep(_POLL_S)
    text = "is marked for deletion and goes once every program that holds it ends (Services, Task Manager)"
    raise Stop(f"the service {name} has stopped; it {text}", Status.TIMED_OUT)


def ours(manager: Manager, name: str) -> Config:
    """How the service is set up; Stop if it is another's, which nothing here may stop or remove."""
    config = manager.config(name)
    if not is_ours(config.command, name):
        raise Stop(f"{name} is a service, but not one of iocpd's: its command is {config.command}", Status.REFUSED)
    return config


def wait_while(manager: Manager, name: str, states: set[State], tell: Tell, patience: float) -> Condition:
    """The first condition in another state. A service that tells nothing new for longer than it said it would take is
    given up, as Microsoft advises, and so is one that takes longer than `patience` in all."""
    began = progress = time.monotonic()
    seen: tuple[State, int] | None = None
    while True:
        now, condition = time.monotonic(), manager.condition(name)
        if (condition.state, condition.checkpoint) != seen:
            seen, progress = (condition.state, condition.checkpoint), now
            tell(condition)
        if condition.state not in states:
            return condition
        if now - progress > condition.wait_hint_ms / 1000 + _SLACK_S or now - began > patience:
            text = f"is still {condition.state.text} after {now - began:.0f} s, checkpoint {condition.checkpoint}"
            raise Stop(f"the service {name} {text}; it goes on", Status.TIMED_OUT)
        time.sleep(_POLL_S)
