"""What is asked of the service control manager, and what its errors mean."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from iocpd.api.cli.statuses import Status, Stop
from iocpd.api.cli.winservice.plan import Plan


class State(IntEnum):
    """SERVICE_STATUS_PROCESS.dwCurrentState."""

    STOPPED = 1
    START_PENDING = 2
    STOP_PENDING = 3
    RUNNING = 4
    CONTINUE_PENDING = 5
    PAUSE_PENDING = 6
    PAUSED = 7

    @property
    def text(self) -> str:
        """As people write it."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Condition:
    """How a service is at a moment: a SERVICE_STATUS_PROCESS."""

    state: State
    pid: int = 0
    error: int = 0
    status: int = 0
    checkpoint: int = 0
    wait_hint_ms: int = 0

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        if self.error == _SERVICE_SPECIFIC:
            return f"with status {self.status}"
        if self.error == _NEVER_STARTED:
            return "never started"
        return f"with error {self.error} of Windows" if self.error else "with status 0"


@dataclass(frozen=True)
class Config:
    """How a service is set up. `delayed` is None where the system does not tell."""

    command: str
    account: str
    start: int
    delayed: bool | None = None

    @property
    def start_type(self) -> str:
        """When it starts."""
        text = _START_TYPES.get(self.start, str(self.start))
        return f"{text}, delayed" if self.delayed and self.start == AUTO_START else text


class Manager(Protocol):
    """The service control manager. Whatever is refused is an ScmError."""

    def create(self, plan: Plan) -> None:
        """Makes the service."""

    def configure(self, plan: Plan) -> list[str]:
        """Sets what CreateServiceW can't; what this system does not know."""

    def delete(self, name: str) -> None:
        """Has it removed once nobody holds it any more."""

    def start(self, name: str) -> None:
        """Begins to start it."""

    def stop(self, name: str) -> None:
        """Begins to stop it."""

    def condition(self, name: str) -> Condition:
        """How it is."""

    def config(self, name: str) -> Config:
        """How it is set up."""


AUTO_START, DEMAND_START = 2, 3
_START_TYPES = {0: "boot", 1: "system", AUTO_START: "automatic", DEMAND_START: "manual", 4: "disabled"}

_SERVICE_SPECIFIC, _NEVER_STARTED = 1066, 1077

ACCESS_DENIED = 5
INVALID_LEVEL, NOT_IMPLEMENTED = 124, 120
ALREADY_RUNNING, NOT_FOUND, NOT_ACCEPTED, NOT_ACTIVE, MARKED_FOR_DELETE = 1056, 1060, 1061, 1062, 1072

# The codes that can be expected, in winerror.h's order: the exit status, and what is the matter with {name}.
_MEANINGS: dict[int, tuple[Status, str]] = {
    2: (Status.NOT_FOUND, "the launcher that {name} is to be run by is not there: remove and install it"),
    3: (Status.NOT_FOUND, "the folder of the launcher that {name} is to be run by is not there"),
    ACCESS_DENIED: (Status.REFUSED, "access denied: this needs a prompt of an administrator ('Run as administrator')"),
    123: (Status.USAGE, "{name} can't be the name of a service"),
    1051: (Status.REFUSED, "services that depend on {name} run: stop them first"),
    1053: (Status.TIMED_OUT, "{name} has not answered the start in time"),
    1055: (Status.REFUSED, "the database of services is locked: try again"),
    ALREADY_RUNNING: (Status.REFUSED, "{name} runs already"),
    1057: (Status.USAGE, "the account is not there, or its password is wrong"),
    1058: (Status.REFUSED, "{name} is disabled: `sc config {name} start= auto`"),
    NOT_FOUND: (Status.NOT_FOUND, "there is no service {name}: `iocpd service install` makes one"),
    NOT_ACCEPTED: (Status.REFUSED, "{name} takes no control now: it is just starting or stopping"),
    NOT_ACTIVE: (Status.REFUSED, "{name} does not run"),
    1069: (
        Status.REFUSED,
        "the account of {name} can't log on: its password has changed, or it lacks the right to log on as a service",
    ),
    MARKED_FOR_DELETE: (
        Status.REFUSED,
        "{name} is marked for deletion: it goes once every program that holds it ends (Services, Task Manager)",
    ),
    1073: (Status.REFUSED, "there is a service {name} already: `iocpd service remove` first, or give another --name"),
    1078: (Status.REFUSED, "another service is shown as {name} already: give another --name"),
    1115: (Status.REFUSED, "the system is shutting down"),
    1722: (Status.UNREACHABLE, "the service control manager does not answer"),
}


# Of StartServiceW, whose handle has the right to start it already.
_NOT_RUN = (
    "the account of {name} may not run its launcher or its Python, which must be where all users can read them, such as"
    " %ProgramFiles%; or this needs a prompt of an administrator"
)


class ScmError(Stop):
    """The manager has refused something, with this code of winerror.h; `starting`: the start itself."""

    def __init__(self, code: int, name: str, doing: str, system_text: str = "", *, starting: bool = False) -> None:
        status, text = _MEANINGS.get(code, (Status.FAILED, ""))
        if starting and code == ACCESS_DENIED:
            text = _NOT_RUN
        text = text.format(name=name) or system_text.strip().rstrip(".") or "it failed"
        super().__init__(f"cannot {doing}: {text} (error {code})", status)
        self.code = code
