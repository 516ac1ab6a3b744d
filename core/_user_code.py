"""Where in the code of whoever wrote a service something has gone wrong."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

_OURS = str(Path(__file__).parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def describe(error: BaseException, module: str) -> str:
    """An exception, and behind it the place in the user's code: the last one that is not in a library's.

    Args:
        error: What was caught.
        module: The name of the service's module. What belongs to its package is the user's wherever it is installed.
    """
    package = module.partition(".")[0]
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename, "", package):
        return f"{type(error).__name__}: {error.msg} (in {error.filename}, line {error.lineno})"
    place = _place(error.__traceback__, package)
    return f"{text} (in {place})" if place else text


def _place(trace: TracebackType | None, package: str) -> str:
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(trace)
        if _is_users(frame.f_code.co_filename, str(frame.f_globals.get("__name__")), package)
    ]
    return places[-1] if places else ""


def _is_users(file: str, module: str, package: str) -> bool:
    if file.startswith(("<", _OURS)):  # the import system, or what has no file
        return False
    in_library = file.startswith(_LIBRARIES) or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
    return not in_library or module.partition(".")[0] == package
