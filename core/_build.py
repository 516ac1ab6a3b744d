"""Builds iocpd.core._native, the binding of the C engine, with cffi in API mode.

Run by setuptools through cffi_modules, or by anything else that takes `ffibuilder` from here. Paths are relative to the
top of the checkout, which must be the current directory. IOCPD_CFLAGS is added to the flags of the compiler and of the
linker: it is for sanitizers and for warnings.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from cffi import FFI

NATIVE = Path("core/native")


def _declarations() -> str:
    """What Python sees: the part of engine.h between the two marks."""
    header = (NATIVE / "engine.h").read_text(encoding="utf-8")
    return header.split("/* cffi: from here */")[1].split("/* cffi: to here */")[0]


def _options() -> dict[str, Any]:
    extra = shlex.split(os.environ.get("IOCPD_CFLAGS", ""))
    options: dict[str, Any] = {
        "sources": sorted(path.as_posix() for path in NATIVE.glob("*.c")),
        "depends": sorted(path.as_posix() for path in NATIVE.glob("*.h")),
        "include_dirs": [NATIVE.as_posix()],
        "extra_link_args": extra,
    }
    if sys.platform == "win32":
        options["libraries"] = ["ws2_32", "mswsock"]
        options["extra_compile_args"] = ["/std:c11", "/W3", *extra]
    else:
        # Hidden: the engine's names must not meet those of another library in the process.
        options["extra_compile_args"] = ["-std=c11", "-O2", "-fvisibility=hidden", *extra]
    if sys.platform == "linux":
        options["define_macros"] = [("_GNU_SOURCE", None)]
    return options


ffibuilder = FFI()
ffibuilder.cdef(_declarations())
ffibuilder.set_source("iocpd.core._native", '#include "engine.h"', **_options())
