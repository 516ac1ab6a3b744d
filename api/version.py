"""The version of the installed distribution."""

from functools import cache
from importlib import metadata


@cache  # it is in a file, which a process that may open none can't read
def version() -> str:
    """The version of the distribution `iocpd`, or "unknown" when the packages run without having been installed."""
    try:
        return metadata.version("iocpd")
    except metadata.PackageNotFoundError:
        return "unknown"
