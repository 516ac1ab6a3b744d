"""The packages: what `python -m build` makes, and the wheel for Windows, installed with pip under Wine."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.deploy.conftest import TOP, Tool, Windows, run

WHEEL_TAG = "cp311-abi3-win_amd64"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and this system's wheel, made of a copy of the sources."""
    if sys.platform != "linux":
        pytest.skip("the workflow builds on other systems")
    for module in ("build.__main__", "setuptools", "cffi"):  # our own build/ looks like a package
        pytest.importorskip(module)
    source = tmp_path_factory.mktemp("source")
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.o")
    for name in ("core", "api"):
        shutil.copytree(TOP / name, source / name, ignore=built)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    out = tmp_path_factory.mktemp("dist")
    # First the sdist, then the wheel from the sdist: what is missing in the one would be missing in the other.
    run(sys.executable, "-m", "build", "--no-isolation", "-o", out, source)
    return out


@pytest.fixture(scope="module")
def linux_wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def windows_wheel(linux_wheel: Path, windows_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("windows-wheel")
    run(sys.executable, "deploy/windows/build_wheel.py", "--wheel", linux_wheel, "--out", out)
    (wheel,) = out.iterdir()
    return wheel


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_sdist_has_what_a_build_needs_and_no_more(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    native = {path.relative_to(TOP).as_posix() for path in (TOP / "core" / "native").glob("*.[ch]")}
    missing = (native | {"pyproject.toml", "README.md", "LICENSE", "core/_build.py", "core/_backend.py"}) - files
    assert not missing
    assert not [name for name in files if name.endswith((".so", ".pyd", ".o", ".pyc"))]


def test_this_system_s_wheel_serves_every_python(linux_wheel: Path) -> None:
    assert re.fullmatch(r"iocpd-[0-9.]+-cp311-abi3-linux_\w+\.whl", linux_wheel.name)
    assert "iocpd/core/_native.abi3.so" in names(linux_wheel)


def test_no_wheel_has_sources_of_the_engine(linux_wheel: Path) -> None:
    assert not [name for name in names(linux_wheel) if name.endswith((".c", ".h"))]


def test_the_windows_wheel_differs_in_the_engine_and_the_launcher_alone(linux_wheel: Path, windows_wheel: Path) -> None:
    assert windows_wheel.name.endswith(f"-{WHEEL_TAG}.whl")
    ours, theirs = names(linux_wheel), names(windows_wheel)
    assert ours - theirs == {"iocpd/core/_native.abi3.so"}
    added = theirs - ours
    assert {name.rpartition("/")[2] for name in added} == {"_native.pyd", "iocpd-launcher.exe"}
    with zipfile.ZipFile(windows_wheel) as archive:
        (described,) = (name for name in theirs if name.endswith(".dist-info/WHEEL"))
        assert re.findall(r"(?m)^Tag: (.*)$", archive.read(described).decode()) == [WHEEL_TAG]
        (record,) = (name for name in theirs if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert {row[0] for row in rows} == theirs
        for name, digest, size in rows:
            if name != record:
                data = archive.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                assert (digest, size) == (f"sha256={expected}", str(len(data)))


def test_the_windows_engine_needs_the_stable_abi_alone(windows_wheel: Path, tmp_path: Path, tool: Tool) -> None:
    with zipfile.ZipFile(windows_wheel) as archive:
        module = archive.extract("iocpd/core/_native.pyd", tmp_path)
    text = run(tool("x86_64-w64-mingw32-objdump"), "-p", module)
    libraries = {line.split()[-1].lower() for line in text.splitlines() if "DLL Name" in line}
    assert "python3.dll" in libraries  # and not python311.dll
    assert libraries <= {
        "python3.dll",
        "kernel32.dll",
        "msvcrt.dll",
        "ws2_32.dll",
        "mswsock.dll",
        "ntdll.dll",
        "advapi32.dll",
    }


def test_abi3audit_finds_nothing(windows_wheel: Path, linux_wheel: Path, tool: Tool) -> None:
    run(tool("abi3audit"), "--strict", windows_wheel, linux_wheel)


def test_the_same_sources_give_the_same_windows_wheel(windows_wheel: Path, linux_wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "deploy/windows/build_wheel.py", "--wheel", linux_wheel, "--out", tmp_path)
    assert (tmp_path / windows_wheel.name).read_bytes() == windows_wheel.read_bytes()


def test_pip_installs_this_system_s_wheel(linux_wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", tmp_path, linux_wheel)
    done = subprocess.run(
        [sys.executable, "-c", "from iocpd.core import probe, _native; print(probe('epoll'), _native.__file__)"],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, cwd=tmp_path, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_pip_installs_the_windows_wheel_under_wine_and_it_runs(
    windows: Windows, windows_wheel: Path, tmp_path: Path
) -> None:
    wheel, target = windows.path(windows_wheel), tmp_path / "installed"
    install = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", windows.path(target), wheel]
    installed = windows.start("python", *install, PIP_CONFIG_FILE="nul")
    assert installed.status() == 0, installed.lines
    # Its own copy of the packages, and none that was built in another way.
    here = {"PYTHONPATH": windows.path(target)}
    launcher = target / "bin" / "iocpd-launcher.exe"
    assert launcher.exists()
    probed = windows.start(
        "python", "-c", "from iocpd.core import _native, probe; print(probe('iocp'), _native.__file__)", **here
    )
    assert probed.status() == 0, probed.lines
    assert windows.path(target / "iocpd" / "core" / "_native.pyd").lower() in probed.lines[-1].lower()

    served = windows.start(
        str(windows.folder / "raise.exe"), windows.path(launcher), "--grace=60", windows.python,
        "-m", "iocpd.api", "serve", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", **here,
    )  # fmt: skip
    served.saw("ready")
    assert "iocp" in served.saw("backend")
    served.tell(6)  # what `docker stop` sends
    assert served.status() == 0, served.lines
