"""One writer at a time, among all processes of a machine, for a file that is replaced as a whole.

It waits: call it in a thread.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

WAIT_SECONDS = 5.0

_PAUSE_SECONDS = 0.02


class FileBusy(Exception):
    """Somebody else has been writing the file for too long."""


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Keeps others that call this for the same file out. FileBusy if one holds it for WAIT_SECONDS; OSError, at once
    where the folder may not be written to.
    """
    until = time.monotonic() + WAIT_SECONDS
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() > until:
            raise FileBusy(f"another process has been changing {path} for {WAIT_SECONDS:g} s; try again")
        time.sleep(_PAUSE_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _try_lock(path: Path) -> int | None:
        # The system removes it with its last handle, also when the process dies.
        try:
            return os.open(f"{path}.lock", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_TEMPORARY)
        except FileExistsError:
            return None
        except PermissionError:  # while it is being removed; or nothing may be made here, and waiting won't help
            _try_folder(path)
            return None

    def _try_folder(path: Path) -> None:
        """PermissionError if no file may be made beside this one."""
        probe = f"{path}.{os.getpid()}-{threading.get_ident()}.probe"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_TEMPORARY))

else:
    import fcntl

    def _try_lock(path: Path) -> int | None:
        # The folder, because the file itself is replaced; and so that no lock file is left behind.
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
