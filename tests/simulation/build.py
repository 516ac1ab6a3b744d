"""Compiles the engine's own sources for the simulation, with a C compiler alone, into build/simulation.

The sources are taken as they are. What differs is said in three places: seam.h, which is included before the first line
of each; IOCPD_SIM, which gives core/native/port_sim.c a content; and the linker, which finds platform.h's functions in
threads.c and sockets.c instead of platform.c.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
NATIVE = TOP / "core" / "native"
SIMULATION = TOP / "tests" / "simulation"
OUT = TOP / "build" / "simulation"
REPLACED = {"platform", "port_iocp", "port_uring", "port_epoll"}  # by port_sim.c, threads.c and sockets.c
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-DIOCPD_SIM", "-O2", "-g", "-Wall", "-Wextra"]


class BuildFailure(Exception):
    """What the compiler said."""


def _compiler() -> list[str]:
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    for name in ("gcc", "clang", "cc"):
        if shutil.which(name):
            return [name]
    raise BuildFailure("no C compiler: install gcc or clang, or name one in CC")


def _run(command: list[str], out: Path, strict: bool = True) -> None:
    """Writes `out`, at once and as a whole. With `strict` a warning is a failure too."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f"{out.name}.{os.getpid()}.{threading.get_ident()}")
    result = subprocess.run([*command, "-o", str(scratch)], cwd=TOP, capture_output=True, text=True)
    if result.returncode or (strict and result.stderr):
        raise BuildFailure(f"{shlex.join(command)}\n{result.stderr}")
    scratch.rename(out)


def _object(source: Path, native: Path, headers: bytes, strict: bool) -> Path:
    """Compiles it, unless just this was compiled before: the object's name is a digest of all that goes into it."""
    command = [*_compiler(), *FLAGS, *shlex.split(os.environ.get("IOCPD_CFLAGS", ""))]
    if source.parent == native and source.stem != "port_sim":
        command += ["-include", str(SIMULATION / "seam.h")]
    digest = hashlib.sha256(headers + source.read_bytes() + "\0".join(command).encode()).hexdigest()[:16]
    out = OUT / "objects" / f"{source.stem}-{digest}.o"
    if not out.exists():
        _run([*command, f"-I{native}", f"-I{SIMULATION}", "-c", str(source)], out, strict)
    return out


def build(name: str = "simulate", native: Path = NATIVE, jobs: int = 2, strict: bool = True) -> Path:
    """The program of the sources in `native`. Raises BuildFailure with the compiler's words."""
    sources = [path for path in sorted(native.glob("*.c")) if path.stem not in REPLACED]
    headers = b"".join(path.read_bytes() for path in (*sorted(native.glob("*.h")), *sorted(SIMULATION.glob("*.h"))))
    with ThreadPoolExecutor(jobs) as pool:
        every = [*sources, *sorted(SIMULATION.glob("*.c"))]
        objects = list(pool.map(lambda source: _object(source, native, headers, strict), every))
    out = OUT / name
    _run([*_compiler(), *shlex.split(os.environ.get("IOCPD_CFLAGS", "")), *map(str, objects)], out)
    return out
