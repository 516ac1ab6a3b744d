"""The version of the installed distribution."""

from importlib import metadata


def version() -> str:
    """The version of the distribution `iocpd`, or "unknown" when the packages run without having been installed."""
    try:
        return metadata.version("iocpd")
    except metadata.PackageNotFoundError:
        return "unknown"
