"""Quiet and overloaded in turn, against one server."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.server import Server
from tests.overload.load import Paced, Probe, handles, resident_bytes
from tests.overload.scenarios import Scenario, Size, samples
from tests.support import PATIENCE, eventually

CONNECTIONS = 50
RATE = 2000
MEMORY_KEPT, MEMORY_SPREAD = 24 << 20, 8 << 20
"""What Python's allocator keeps for later after the first overload, and by how much that differs from one round to the
next."""
LIVE_SECONDS = 1.0


@dataclass
class Outcome:
    """What was seen. Times are in microseconds."""

    quiet_p99_us: list[float] = field(default_factory=list)
    loaded_p99_us: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    """Before, and after each round."""
    memory: list[int] = field(default_factory=list)
    """Before, and after each round; bytes."""
    livez_asked: int = 0
    livez_slowest: float = 0.0
    """Seconds."""
    livez_failures: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What became of the paced load that must not."""

    @property
    def quiet_us(self) -> float:
        return statistics.median(self.quiet_p99_us)

    @property
    def loaded_us(self) -> float:
        return statistics.median(self.loaded_p99_us)

    def faults(self, live_seconds: float = LIVE_SECONDS) -> list[str]:
        """What did not hold, but for the times of the paced load."""
        faults = list(self.broken)
        if self.livez_failures:
            faults.append(
                f"/livez answered {self.livez_failures[0]} ({len(self.livez_failures)} of {self.livez_asked})"
            )
        if self.livez_slowest > live_seconds:
            faults.append(f"/livez took {self.livez_slowest:.2f} s")
        if self.handles[-1] > self.handles[0]:
            faults.append(f"handles: {self.handles[0]} became {self.handles[-1]}")
        before, first, *later = self.memory
        if first > before + MEMORY_KEPT or max(later, default=0) > first + MEMORY_SPREAD:
            faults.append(f"memory: {[bytes >> 20 for bytes in self.memory]} MiB")
        return faults


def compare(
    scenario: Scenario, size: Size, backend: str, *, rounds: int, seconds: float, realtime: bool = False
) -> Outcome:
    """The server on one processor, what loads it on the other, if there are two."""
    cores = sorted(os.sched_getaffinity(0))
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory() as state,
        on(cores[-1]),
        _server(Path(state), backend, cores[0], scenario, size) as server,
        awake(cores) if realtime else nullcontext(),
    ):
        before = ("chrt", "--fifo", "5") if realtime else ()
        if realtime:
            _hurry(server.process.pid)
        with Paced(server.port, CONNECTIONS, RATE, before=before) as paced:
            eventually(lambda: server.count() == CONNECTIONS)
            paced.measure(seconds)  # what is there from the first time on
            outcome.handles.append(_at_rest(server))
            outcome.memory.append(resident_bytes(server.process.pid))
            for _ in range(rounds):
                _note(outcome, outcome.quiet_p99_us, paced.measure(seconds))
                with Probe(server.http_port) as probe, scenario.overload(server, size):
                    _note(outcome, outcome.loaded_p99_us, paced.measure(seconds))
                outcome.livez_asked += probe.asked
                outcome.livez_slowest = max(outcome.livez_slowest, probe.slowest)
                outcome.livez_failures += probe.failures
                outcome.handles.append(_at_rest(server))
                outcome.memory.append(resident_bytes(server.process.pid))
    return outcome


def _note(outcome: Outcome, p99s: list[float], found: dict[str, Any]) -> None:
    p99s.append(found["p99_us"])
    outcome.broken += [
        f"paced load: {found[name]} {name}" for name in ("unanswered", "mismatches", "errors") if found[name]
    ]


@contextmanager
def on(core: int) -> Iterator[None]:
    """This process and what it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def awake(cores: Sequence[int]) -> Iterator[None]:
    """Each of these processors has something to do, after everything else: one of a virtual machine that has nothing
    sleeps in its host, which may give it back milliseconds late."""
    with ExitStack() as stack:
        for core in cores:
            command = [
                "taskset",
                "--cpu-list",
                str(core),
                "chrt",
                "--idle",
                "0",
                sys.executable,
                "-c",
                "while True: pass",
            ]
            stack.callback(stack.enter_context(subprocess.Popen(command)).kill)
        yield


def _server(state: Path, backend: str, core: int, scenario: Scenario, size: Size) -> Server:
    before = ["taskset", "--cpu-list", str(core)]
    if size.files is not None:
        before += ["prlimit", f"--nofile={size.files}"]
    return Server(state, backend, tcp=("127.0.0.1:0/echo", "127.0.0.1:0/echo"), before=before, **scenario.settings)


def _hurry(process: int) -> None:
    """The server's threads before everything else on this machine, whose other work would show; the engine's first."""
    for task in Path(f"/proc/{process}/task").iterdir():
        if (task / "comm").read_text().startswith("iocpd-"):
            subprocess.run(["chrt", "--fifo", "--pid", "5", task.name], check=True)
        else:
            os.setpriority(os.PRIO_PROCESS, int(task.name), -20)


def _at_rest(server: Server) -> int:
    """How many handles it has, once only the paced load is there and nothing of the overload is left."""
    eventually(lambda: server.count() == CONNECTIONS, 3 * PATIENCE)
    eventually(lambda: _sum(server, "iocpd_send_queue_bytes") == 0)
    least = handles(server.process.pid)

    def settled() -> bool:
        nonlocal least
        before, least = least, min(least, handles(server.process.pid))
        return before == least

    eventually(settled)
    return least


def _sum(server: Server, name: str) -> float:
    return sum(value for (each, *_), value in samples(server).items() if each == name)


def table(rows: Sequence[tuple[str, str, Outcome]]) -> str:
    """One line for each scenario and backend."""
    lines = [
        f"{'':20} {'':9} {'quiet p99':>10} {'overloaded':>10} {'ratio':>6} {'/livez':>8} {'handles':>13} {'memory':>17}"
    ]
    for name, backend, outcome in rows:
        lines.append(
            f"{name:20} {backend:9} {outcome.quiet_us:7.0f} us {outcome.loaded_us:7.0f} us"
            f" {outcome.loaded_us / outcome.quiet_us:6.2f} {outcome.livez_slowest * 1000:5.0f} ms"
            f" {outcome.handles[0]:5} → {outcome.handles[-1]:5}"
            f" {outcome.memory[0] / (1 << 20):5.1f} → {outcome.memory[-1] / (1 << 20):5.1f} MiB"
        )
    return "\n".join(lines)
