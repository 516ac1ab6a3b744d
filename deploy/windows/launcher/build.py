"""Compiles the launcher with mingw-w64 and checks that it needs kernel32 alone.

    python deploy/windows/launcher/build.py [FILE]        default: dist/iocpd-launcher.exe

The same sources and compiler give the same bytes. CC names another compiler of the kind.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
COMPILER = "x86_64-w64-mingw32-gcc"

FLAGS = [
    *("-std=c11", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wframe-larger-than=3500"),
    # No C runtime: none of its files, none of its functions, and nothing in the code that calls one unseen.
    *("-nostdlib", "-ffreestanding", "-fno-stack-protector", "-mno-stack-arg-probe"),
    *("-fno-ident", "-fno-asynchronous-unwind-tables"),
    "-Wl,--entry=entry,--subsystem=console,--dynamicbase,--nxcompat,--high-entropy-va,--no-insert-timestamp",
]


def build(target: Path) -> Path:
    """The program; RuntimeError if it imports more than kernel32."""
    compiler = os.environ.get("CC", COMPILER)
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, *FLAGS, HERE / "launcher.c", "-lkernel32", "-o", target], check=True)
    if (found := imports(target)) != ["kernel32.dll"]:
        raise RuntimeError(f"{target} imports {', '.join(found)}, and not kernel32.dll alone")
    return target


def imports(program: Path) -> list[str]:
    """The libraries in a program's import table, in lower case."""
    objdump = next(filter(shutil.which, ("x86_64-w64-mingw32-objdump", "objdump")), None)
    if objdump is None:
        raise RuntimeError("objdump is needed, which belongs to the compiler's binutils")
    text = subprocess.run([objdump, "-p", program], check=True, capture_output=True, text=True).stdout
    return sorted(name.lower() for name in re.findall(r"DLL Name: (\S+)", text))


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if sys.argv[1:] else TOP / "dist" / "iocpd-launcher.exe"))
