"""python -m tests.soak: see the package's text."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import sys
import threading
import time
from array import array
from typing import NamedTuple

from iocpd.core import (
    BackendUnavailable,
    Engine,
    EngineConfig,
    Lines,
    ListenerConfig,
    Service,
    ServiceConnection,
    probe,
)
from iocpd.core._native import lib
from tests.conformance.test_chaos import crowd
from tests.support import BACKENDS, eventually

LIFE_SECONDS = 3.0
WARM_LIVES = 3
"""After so many, what Python keeps for later is there."""
MEMORY_SPREAD = 1 << 20
BLOCKS_SPREAD = 500
"""Python's own, of some 130,000: what it keeps of a name, a type or a thread that it meets for the first time."""


class Use(NamedTuple):
    """What the process has, between two lives."""

    handles: int
    threads: int
    memory: int
    blocks: int = 0

    def __str__(self) -> str:
        return (
            f"{self.handles} handles, {self.threads} threads, {self.memory / (1 << 20):.1f} MiB, {self.blocks} blocks"
        )


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _Counters(ctypes.Structure):
        _fields_ = (
            ("bytes", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            *((f"size_{number}", ctypes.c_size_t) for number in range(7)),
            ("private", ctypes.c_size_t),
        )

    _ALL_HANDLES = 64  # SystemExtendedHandleInformation: of every process

    class _Handle(ctypes.Structure):
        _fields_ = (
            ("object", ctypes.c_void_p),
            ("process", ctypes.c_size_t),
            ("value", ctypes.c_size_t),
            ("rest", ctypes.c_uint32 * 4),
        )

    def _handles() -> int:
        """This process's, as the kernel knows them, or wineserver: GetProcessHandleCount is always 0 there."""
        room = 1 << 20
        while True:
            memory = ctypes.create_string_buffer(room)
            status = ctypes.WinDLL("ntdll").NtQuerySystemInformation(_ALL_HANDLES, memory, room, None)
            if status == 0:
                break
            assert room < 1 << 28, f"NtQuerySystemInformation: {status & 0xFFFFFFFF:#x}"
            room *= 2
        count = ctypes.c_size_t.from_buffer(memory).value
        rows = (_Handle * count).from_buffer(memory, 2 * ctypes.sizeof(ctypes.c_size_t))
        return sum(row.process == os.getpid() for row in rows)

    def use() -> Use:
        """On Windows, and under Wine."""
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetCurrentProcess.restype = wintypes.HANDLE
        process, counters = wintypes.HANDLE(kernel32.GetCurrentProcess()), _Counters()
        kernel32.K32GetProcessMemoryInfo(process, ctypes.byref(counters), ctypes.sizeof(counters))
        return Use(_handles(), threading.active_count(), counters.private)

else:
    import ctypes

    class _Heaps(ctypes.Structure):
        """struct mallinfo2 of glibc."""

        _fields_ = (
            *((f"size_{number}", ctypes.c_size_t) for number in range(4)),
            ("hblkhd", ctypes.c_size_t),  # in mappings of their own
            *((f"size_{number}", ctypes.c_size_t) for number in range(5, 7)),
            ("uordblks", ctypes.c_size_t),  # in use, in all heaps
            *((f"size_{number}", ctypes.c_size_t) for number in range(8, 10)),
        )

    _libc = ctypes.CDLL(None)
    _libc.mallinfo2.restype = _Heaps

    def use() -> Use:
        """On Linux. The memory that is in use: what the process has grows for long, as heaps keep what is free."""
        heaps = _libc.mallinfo2()
        handles, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
        return Use(handles, threads, heaps.uordblks + heaps.hblkhd)


class Upper(Service):
    """A service in Python whose thread calls the handlers."""

    framing = Lines()

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        connection.send(message.upper())


class UpperLater(Upper):
    """One whose thread has a loop."""

    async def on_message(self, connection: ServiceConnection, message: bytes) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_message(connection, message)


def live(source: random.Random, backend: str) -> int:
    """One engine from its start to its end; how many connections it had."""
    services: tuple[str | type[Service], ...] = ("echo", "relay", "discard", Upper, UpperLater)
    listeners = [ListenerConfig(port=0, service=service) for service in services]
    listeners.append(ListenerConfig(port=0, service="echo", framing=Lines()))
    engine = Engine(EngineConfig(listeners=listeners, backend=backend, workers=2, idle_timeout=0.5))
    engine.start()
    crowd(engine, source, LIFE_SECONDS, source.choice([0, 0.1]))
    assert all(stats.messages_in and not stats.errors for stats in engine.service_stats())
    return sum(stats.adopted for stats in engine.worker_stats())


def soak(seconds: float, backend: str, seed: int) -> list[str]:
    """What has grown; nothing, if all is well."""
    print(f"{backend}: for {seconds:g} s", flush=True)
    source, until = random.Random(seed), time.monotonic() + seconds
    warm, last, lives = None, None, 0
    memory = array("q")  # of each warm life; as objects they would be counted among the blocks
    while time.monotonic() < until or lives < 2 * WARM_LIVES:
        connections = live(source, backend)
        eventually(lambda: gc.collect() >= 0 and lib.iocpd_allocations() == 0)
        # One that has been joined may be listed for a moment yet.
        eventually(lambda: use().threads <= threading.active_count())
        last = use()._replace(blocks=sys.getallocatedblocks())
        lives += 1
        if lives == WARM_LIVES:
            warm = last
        if lives >= WARM_LIVES:
            memory.append(last.memory)
        print(f"life {lives}: {connections} connections; afterwards {last}", flush=True)
    assert warm is not None
    assert last is not None
    grown = [
        f"{backend}: {name}: {getattr(warm, name)} became {getattr(last, name)}"
        for name, spread in (("handles", 0), ("threads", 0), ("blocks", BLOCKS_SPREAD))
        if getattr(last, name) > getattr(warm, name) + spread
    ]
    half = len(memory) // 2
    before, after = statistics.median(memory[:half]), statistics.median(memory[half:])
    if after > before + MEMORY_SPREAD:
        grown.append(f"{backend}: memory: {before / (1 << 20):.1f} MiB became {after / (1 << 20):.1f} MiB")
    return grown


def is_there(backend: str) -> bool:
    """Whether this machine has it; told, if not."""
    try:
        probe(backend)
    except BackendUnavailable as error:
        print(f"SKIPPED: {error}")
        return False
    return True


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Handles, threads and memory stay flat.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--backend", help="without: each that there is here")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    backends = [options.backend] if options.backend else list(filter(is_there, BACKENDS))
    grown = [line for backend in backends for line in soak(options.seconds / len(backends), backend, options.seed)]
    for line in grown:
        print(f"grown: {line}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
