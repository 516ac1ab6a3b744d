"""The `iocpd` command: `serve` runs the service, everything else steers one that runs, through iocpd.api.client alone.

    statuses.py     exit statuses, and how an error becomes one
    options.py      options that several verbs share
    contexts.py     servers by name
    listing.py      tables for people, JSON Lines and columns for programs
    winservice/     the service of Windows
    verbs/          a module for each group of verbs
    top/            the live table

Neither FastAPI nor the engine is imported before a verb needs it: `iocpd --help` and `iocpd ls` answer at once.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments, or the process's; the exit status."""
    from iocpd.api.process_one import take_over

    take_over()
    from iocpd.api.cli.app import run

    return run(argv)
