"""Compiles the engine for Windows and puts the packages together, as an installation would, in build/windows/.

core/_build.py runs in the Windows Python, so it decides as it does there; the compiler is mingw-w64's, with warnings as
errors. -gdwarf-4 is what Wine reads for the lines of a backtrace after a crash. IOCPD_CFLAGS is added to the flags.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.windows.machine import COMPILER, run
from tests.windows.wine import PACKAGES, PYTHON, TOP

MODULE = PACKAGES / "iocpd" / "core" / "_native.cp311-win_amd64.pyd"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]

# Runs in the Windows Python: writes the C file that cffi generates, and prints what to compile with it.
EMIT = """
import json, runpy, sys
ffi = runpy.run_path("core/_build.py")["ffibuilder"]
ffi.emit_c_code(sys.argv[1])
print(json.dumps(ffi._assigned_source[3]))
"""


def build() -> Path:
    """The compiled module."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    objects = PACKAGES / "objects"
    objects.mkdir(parents=True)
    generated, options = _emit(objects)
    sources = [TOP / source for source in options["sources"]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(lambda source: _compile(source, options, objects), [generated, *sources]))
    _packages()
    command = [COMPILER, "-shared", "-static", *compiled, *(f"-l{name}" for name in options["libraries"])]
    run([*command, PYTHON / "libs" / "python311.lib", "-lwinpthread", "-o", MODULE])
    return MODULE


def _emit(objects: Path) -> tuple[Path, dict[str, list[str]]]:
    generated = objects / "_native.c"
    command = [sys.executable, "-IS", str(Path(__file__).with_name("wine.py")), "python", "-c", EMIT, str(generated)]
    printed = subprocess.run(command, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout
    options: dict[str, list[str]] = json.loads(printed.splitlines()[-1])
    return generated, options


def _compile(source: Path, options: dict[str, list[str]], objects: Path) -> Path:
    target = objects / f"{source.stem}.o" if source.parent != objects else objects / "generated.o"
    ours = source.parent != objects  # cffi's C is not held to our warnings
    flags = ["-std=c11", "-O2", "-gdwarf-4", *(WARNINGS if ours else []), "-isystem", str(PYTHON / "include")]
    flags += [f"-I{TOP / folder}" for folder in [*options["include_dirs"], "tests/windows/include"]]
    flags += shlex.split(os.environ.get("IOCPD_CFLAGS", ""))
    run([COMPILER, "-c", *flags, source, "-o", target])
    return target


def _packages() -> None:
    """iocpd.core and iocpd.api as links to the sources, and what importlib.metadata reads."""
    core = MODULE.parent
    core.mkdir(parents=True)
    for source in (TOP / "core").glob("*.py"):
        (core / source.name).symlink_to(source)
    (PACKAGES / "iocpd" / "api").symlink_to(TOP / "api")
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    metadata = PACKAGES / f"iocpd-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: iocpd\nVersion: {version}\n")
