"""What the tests of deploy/ share. They install nothing: where a tool is absent, they are skipped and say so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 60.0

Tool = Callable[[str], str]


def find_tool(name: str) -> str | None:
    """A program beside this Python, in build/ci/tools (unpacked Debian packages), or on the path."""
    places = [Path(sys.executable).parent, TOP / "build" / "ci" / "tools" / "usr" / "bin"]
    return next((found for place in places if (found := shutil.which(name, path=str(place)))), None) or shutil.which(
        name
    )


@pytest.fixture(scope="session")
def tool() -> Tool:
    """`tool("hadolint")`: its path."""

    def look(name: str) -> str:
        found = find_tool(name)
        if found is None:
            pytest.skip(f"there is no {name} here")
        return found

    return look


def run(*command: str | Path, **options: str) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(
        command, cwd=TOP, env=os.environ | options, timeout=600, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}"
    return done.stdout


class Running:
    """A Windows program under Wine; what it prints can be waited for."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command, cwd=TOP, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, bufsize=1,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def saw(self, text: str) -> str:
        """Waits for a line that begins so."""

        def found() -> str | None:
            return next((line for line in self.lines if line.startswith(text)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() or self._ended, PATIENCE), (text, self.lines)
            line = found()
        assert line is not None, (text, self.lines)
        return line

    def tell(self, line: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def status(self) -> int:
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


class Windows:
    """Wine with the real Windows Python, and the launcher and the programs of these tests, built for it."""

    def __init__(self, programs: Path) -> None:
        from tests.windows import wine

        self.folder = programs
        self.path = wine.windows_path
        self.python = wine.windows_path(wine.PYTHON / "python.exe")
        self._wine = str(Path(wine.__file__))
        self._running: list[Running] = []

    def program(self, name: str) -> str:
        return self.path(self.folder / name)

    def start(self, *command: str, **variables: str) -> Running:
        """`python`, or a program by its path here."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("IOCPD_", "PIP_", "PYTHON"))
        }
        kept = {name: value for name, value in os.environ.items() if name == "IOCPD_WINDOWS_CACHE"}
        running = Running([sys.executable, "-IS", self._wine, *command], environment | kept | variables)
        self._running.append(running)
        return running

    def end(self) -> None:
        while self._running:
            self._running.pop().end()


@pytest.fixture(scope="session")
def windows_programs(tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> Path:
    """The launcher and the programs that tests start."""
    if sys.platform != "linux":
        pytest.skip("Windows programs are built and run under Wine on Linux")
    compiler = tool("x86_64-w64-mingw32-gcc")
    from tests.windows import wine

    if not wine.LAUNCHER.exists():
        pytest.skip("no Wine with a Windows Python: `python -m tests.windows setup`")
    folder = tmp_path_factory.mktemp("windows")
    run(sys.executable, DEPLOY / "windows" / "launcher" / "build.py", folder / "iocpd-launcher.exe")
    for source in PROGRAMS.glob("*.c"):
        entry = ["-municode"] if "wmain" in source.read_text() else []
        flags = ["-std=c11", "-O2", "-s", "-static", "-Wall", "-Wextra", "-Werror", *entry]
        run(compiler, *flags, source, "-ladvapi32", "-o", folder / f"{source.stem}.exe")
    return folder


@pytest.fixture
def windows(windows_programs: Path) -> Iterator[Windows]:
    machine = Windows(windows_programs)
    yield machine
    machine.end()
