"""What is different for process 1, which a container's command is: it has no default signal handlers, and it gets the
orphans of all others. Imports nothing large, since until `take_over` a SIGTERM is lost."""

import os
import signal
import sys
from types import FrameType


def take_over() -> None:
    """To be called first; does nothing in any other process."""
    if sys.platform == "win32" or os.getpid() != 1:
        return

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)  # until the service has a handler of its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
