"""Does the management API disturb a service in Python? Lines in upper case while HTTP clients list connections.

As `isolation`, with a handler call for each line in place of the echo. iocpd runs the handlers and the API in two
threads of one process, which share Python's lock; the peer runs both on one uvloop.
"""

import argparse

from . import isolation
from .contestants import fastapi_echo, iocpd_lines
from .options import Setup
from .report import Report

PEER = fastapi_echo(with_model=False, service="lines")
CONTESTANTS = (
    PEER,
    fastapi_echo(with_model=True, service="lines"),
    iocpd_lines("io_uring", "Upper"),
    iocpd_lines("epoll", "Upper"),
)
EXAMPLES = """examples:
  python -m tests.bench lines-isolation
  python -m tests.bench lines-isolation --connections 1000 --depth 16"""

add_arguments = isolation.add_arguments


def run(options: argparse.Namespace, setup: Setup) -> Report:
    return isolation.disturb(options, setup, CONTESTANTS, PEER, "lines", "-l")
