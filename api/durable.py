"""Files that are there as a whole, whatever happens while they are written.

It waits for the disk: on an event loop, call it in a thread.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

WAIT_SECONDS = 2.0 if os.name == "nt" else 0.0
"""For so long a file may be in somebody's hands before it can't be replaced."""
_PAUSE_SECONDS = 0.01


def replace_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Puts a file with this content in the place of the one that is there, if any; its folder is made if need be.

    Who reads it, at whatever moment, and also after a loss of power, has all of the former content or all of the new
    one; when this returns, it is the new one. Only the owner may read it: that of the former file, or of the folder,
    where root writes for a service that has an account of its own. OSError: the former file is as it was.

    One writer at a time: callers see to that. So there is one name for what is not whole yet, and what a process that
    was killed has left is gone with the next write.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _flushed_after(path.parent):
        _replace_in_folder(path, pieces)


def _replace_in_folder(path: Path, pieces: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            _keep_owner(file.fileno(), path)
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what counts
            os.unlink(temporary)
        raise


def _replace(temporary: Path, path: Path) -> None:
    """On Windows no file is replaced that somebody has open: who reads it, or looks it through for viruses, is soon
    done."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return _move(temporary, path)
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(_PAUSE_SECONDS)


if sys.platform == "win32":
    import ctypes

    _move_file = ctypes.WinDLL("kernel32", use_last_error=True).MoveFileExW
    _move_file.argtypes = (ctypes.c_wchar_p, ctypes.c_wchar_p, ctypes.c_uint32)
    _REPLACE_EXISTING, _WRITE_THROUGH = 0x1, 0x8

    def _move(temporary: Path, path: Path) -> None:
        # os.replace() does not wait until the disk has it.
        if not _move_file(str(temporary), str(path), _REPLACE_EXISTING | _WRITE_THROUGH):
            raise ctypes.WinError(ctypes.get_last_error())

else:
    _move = os.replace


def _keep_owner(descriptor: int, path: Path) -> None:
    if sys.platform == "win32" or os.geteuid() != 0:
        return
    former = os.stat(path if path.exists() else path.parent)
    os.fchown(descriptor, former.st_uid, former.st_gid)


@contextlib.contextmanager
def _flushed_after(folder: Path) -> Iterator[None]:
    """The new name lives in the folder, which is opened first: without a handle for it nothing must be replaced.
    Windows has no handle on a folder that could be flushed; the move itself waits for the disk there."""
    if os.name == "nt":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
