"""One service for a state directory: two would write over each other's bans and audit.

The system gives the lock back when the process ends, however it ends. What stands in the file is only for people.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = "service.lock"

# Of the lock, not of the file: what is locked on Windows can't be read by others, and they are to read who has it.
_LOCKED_BYTE = 1 << 30


class StateInUse(Exception):
    """Another service has the state directory; the text says which, and what to do."""


@contextlib.contextmanager
def sole_user(state: Path) -> Iterator[None]:
    """Keeps other services out of a state directory, which is made if need be.

    StateInUse if there is one; OSError if the directory can't be made or the lock's file can't be opened.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state / NAME
    descriptor = _open(path)
    try:
        if not _try_lock(descriptor):
            raise StateInUse(
                f"{_holder(descriptor)} uses the state directory {state}, and two services would write over each"
                " other's bans and audit: end it, or give this one a directory of its own with --state-dir"
            )
        with contextlib.suppress(OSError):  # the disk may be full or read-only: the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | flags)  # on a file system that is read-only


def _holder(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return f"process {int(os.read(descriptor, 20))}"
    except (OSError, ValueError):  # it may be about to write it
        return "another process"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:  # EACCES; under Wine without a number
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
