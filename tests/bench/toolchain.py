"""Compiles the C programs, and runs the load programs."""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .errors import BenchError, ContestantFailed, NotMeasured

HERE = Path(__file__).parent
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
_LOAD_SECONDS_MAX = 600


def compile_c(source: str, *, header: str = "", package: str = "", library: str = "") -> Path:
    """Compile one C file of this package, unless the cache holds it; returns the program.

    Args:
        source: path inside the package, such as ``peers/echo_epoll.c``.
        header: what must be there to compile it, and otherwise makes it NotMeasured.
        package: the Debian package of that header, for the message.
        library: what to link.
    """
    compiler = os.environ.get("CC", "cc")
    if header and _cc(compiler, "-E", "-include", header, "-x", "c", "/dev/null", "-o", "/dev/null") is not None:
        raise NotMeasured(f"{header} is missing (apt-get install {package})")
    file = HERE / source
    program = _cache() / f"{file.stem}-{_fingerprint(compiler, file, library)}"
    if program.exists():
        return program
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        fresh = Path(scratch) / program.name
        complaint = _cc(compiler, *_FLAGS, str(file), "-o", str(fresh), *([f"-l{library}"] if library else []))
        if complaint is not None:
            reason = f"{source} does not compile: {complaint}"
            raise NotMeasured(reason) if header else BenchError(reason)
        fresh.replace(program)
    return program


class LoadProgram:
    """One of the programs in native/: it prints one JSON object."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = str(compile_c(f"native/{name}.c"))

    def start(self, *arguments: str | int | float) -> "subprocess.Popen[str]":
        """Start it; end it with `collect`."""
        command = [self._path, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def collect(self, process: "subprocess.Popen[str]") -> dict[str, Any]:
        """Wait for the end of a started program; returns what it printed, parsed.

        Raises:
            ContestantFailed: the program could not do its work, or took longer than it ever should.
        """
        try:
            out, err = process.communicate(timeout=_LOAD_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise ContestantFailed(f"{self.name} did not end within {_LOAD_SECONDS_MAX} s") from None
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            raise ContestantFailed(last_line(err) or f"{self.name} ended with status {process.returncode}")
        parsed: dict[str, Any] = json.loads(out)
        return parsed

    def run(self, *arguments: str | int | float) -> dict[str, Any]:
        """Start it and wait for its end."""
        return self.collect(self.start(*arguments))


def last_line(text: str) -> str:
    """The last line that is not empty: what a program that failed had to say."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _cc(compiler: str, *arguments: str) -> str | None:
    """Run the compiler; returns its first error, or None if it was content."""
    try:
        result = subprocess.run([compiler, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"cannot run the C compiler {compiler!r}: {error.strerror} (apt-get install gcc)") from error
    if result.returncode == 0:
        return None
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    return errors[0] if errors else last_line(result.stderr) or f"{compiler} ended with status {result.returncode}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(base) / "iocpd-bench"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot make {cache}: {error.strerror} (set XDG_CACHE_HOME)") from error
    return cache


def _fingerprint(compiler: str, file: Path, library: str) -> str:
    parts = [compiler, *_FLAGS, library, file.read_text(), (HERE / "native" / "common.h").read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
