"""Makes the wheel for Windows on Linux, with mingw-w64: cp311-abi3-win_amd64, for every Python from 3.11 on.

    python deploy/windows/build_wheel.py [--out dist] [--python FOLDER] [--wheel FILE]
    python deploy/windows/build_wheel.py --add-launcher WHEEL --launcher EXE [--out FOLDER]

It takes this system's own wheel (--wheel, or `pip wheel` makes one), so that metadata and Python files are the same on
all systems, and puts into it the engine compiled for Windows instead of the engine for this system, and the launcher,
which pip installs as Scripts/iocpd-launcher.exe. FOLDER is a Windows Python with include/ and libs/python3.lib; by
default the one that `python -m tests.windows setup` has unpacked. The engine needs no library that Windows or CPython
doesn't bring.

With --add-launcher nothing is compiled: a wheel that was made on Windows gets the launcher too.

SOURCE_DATE_EPOCH is honoured: the same sources and compilers give the same bytes.
"""

import argparse
import base64
import csv
import hashlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
COMPILER = "x86_64-w64-mingw32-gcc"
TAG = "cp311-abi3-win_amd64"
MODULE = "iocpd/core/_native.pyd"  # Windows has no suffix of its own for the stable ABI
FLAGS = ["-std=c11", "-O2", "-DNDEBUG", "-ffunction-sections", f"-ffile-prefix-map={TOP}=."]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
# What Windows itself has, and python3.dll, which every CPython from 3.11 on brings along.
SYSTEM = {
    "kernel32.dll",
    "msvcrt.dll",
    "ntdll.dll",
    "ws2_32.dll",
    "mswsock.dll",
    "advapi32.dll",
    "bcrypt.dll",
    "python3.dll",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TOP / "dist")
    parser.add_argument("--python", type=Path, metavar="FOLDER")
    parser.add_argument("--wheel", type=Path, metavar="FILE")
    parser.add_argument("--add-launcher", type=Path, metavar="WHEEL")
    parser.add_argument("--launcher", type=Path, metavar="EXE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.add_launcher:
        if not options.launcher:
            parser.error("--add-launcher needs --launcher EXE")
        print(repack(options.add_launcher, options.out, {"iocpd-launcher.exe": options.launcher.read_bytes()}))
        return
    python = options.python or default_python()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel = options.wheel or own_wheel(work)
        engine = compile_engine(python, work)
        launcher = options.launcher or launcher_builder().build(work / "iocpd-launcher.exe")
        scripts = {"iocpd-launcher.exe": launcher.read_bytes()}
        print(repack(wheel, options.out, scripts, engine=engine.read_bytes(), tag=TAG))


def default_python() -> Path:
    """The Windows Python of the Windows lane."""
    sys.path.insert(0, str(TOP))
    from tests.windows.wine import PYTHON

    if not (PYTHON / "libs" / "python3.lib").exists():
        sys.exit(f"there is no Windows Python in {PYTHON}: run `python -m tests.windows setup`, or give --python")
    return PYTHON


def launcher_builder() -> Any:
    spec = importlib.util.spec_from_file_location("launcher_build", HERE / "launcher" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_wheel(work: Path) -> Path:
    """This system's wheel, of a copy of the sources: setuptools would leave its objects among them."""
    copy = work / "source"
    built = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.o")
    for name in ("core", "api"):
        shutil.copytree(TOP / name, copy / name, ignore=built)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", work / "own", copy]
    subprocess.run(command, check=True)
    (wheel,) = (work / "own").glob("iocpd-*.whl")
    return wheel


def compile_engine(python: Path, work: Path) -> Path:
    """The engine's module, from what core/_build.py says to a Windows Python."""
    os.chdir(TOP)  # its paths are relative
    import cffi  # before the system is given another name

    assert cffi
    with mock.patch.object(sys, "platform", "win32"):
        ffi = runpy.run_path("core/_build.py")["ffibuilder"]
    generated = work / "_native.c"
    ffi.emit_c_code(str(generated))
    source_options = ffi._assigned_source[3]
    defines = [f"-D{name}={value}" if value else f"-D{name}" for name, value in source_options.get("define_macros", [])]
    common = [
        *FLAGS,
        *defines,
        "-isystem",
        python / "include",
        *(f"-I{folder}" for folder in source_options["include_dirs"]),
    ]
    extra = shlex.split(os.environ.get("IOCPD_CFLAGS", ""))

    def compile_one(source: Path) -> Path:
        target = work / f"{source.stem}-{len(source.parts)}.o"
        warnings = WARNINGS if source != generated else []  # cffi's C is not held to ours
        subprocess.run([COMPILER, "-c", *common, *warnings, *extra, source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [generated, *map(Path, source_options["sources"])]))
    target = work / "_native.pyd"
    libraries = [f"-l{name}" for name in source_options["libraries"]]
    hardening = "--dynamicbase,--nxcompat,--high-entropy-va"
    # Without an address of its own, the module's would depend on the name of the folder.
    stable = "--gc-sections,--no-insert-timestamp,--disable-auto-image-base"
    linking = ["-shared", "-static", "-s", f"-Wl,{stable},{hardening}"]
    subprocess.run(
        [COMPILER, *linking, *objects, *libraries, python / "libs" / "python3.lib", "-lwinpthread", "-o", target],
        check=True,
    )
    if unknown := set(launcher_builder().imports(target)) - SYSTEM:
        sys.exit(f"{MODULE} needs {', '.join(sorted(unknown))}, which a Windows machine need not have")
    return target


def repack(
    wheel: Path, out: Path, scripts: dict[str, bytes], *, engine: bytes | None = None, tag: str | None = None
) -> Path:
    """The wheel with these scripts; with another engine and tag, if they are given."""
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    metadata = record.rpartition("/")[0]
    del files[record]
    if engine is not None:
        files = {
            name: data
            for name, data in files.items()
            if not re.fullmatch(r"iocpd/core/_native\..*", name) or name.endswith(".pyi")
        }
        files[MODULE] = engine
    old_tag = "-".join(wheel.stem.split("-")[-3:])
    if tag is not None:
        described = files[f"{metadata}/WHEEL"].decode()
        files[f"{metadata}/WHEEL"] = (
            re.sub(r"(?m)^(Tag: ).*\n", "", described).rstrip("\n").encode() + f"\nTag: {tag}\n".encode()
        )
    data = metadata.removesuffix(".dist-info") + ".data"
    files |= {f"{data}/scripts/{name}": content for name, content in scripts.items()}
    target = out / f"{metadata.removesuffix('.dist-info')}-{tag or old_tag}.whl"
    _write(target, files, record)
    return target


def _write(target: Path, files: dict[str, bytes], record: str) -> None:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(data)])
    writer.writerow([record, "", ""])
    at = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", 0)), 315532800))[:6]  # zip begins in 1980
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        # The metadata last, as the format advises.
        for name, data in sorted(
            (files | {record: rows.getvalue().encode()}).items(), key=lambda item: (".dist-info/" in item[0], item[0])
        ):
            info = zipfile.ZipInfo(name, at)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)


if __name__ == "__main__":
    main()
