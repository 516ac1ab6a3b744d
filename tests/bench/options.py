"""What all measurements take: the machine as it was set up, and the kinds of numbers on the command line."""

import argparse
from dataclasses import dataclass

from .machine import Cores

_SECONDS_MAX = 300


@dataclass(frozen=True)
class Setup:
    """The machine, ready to measure on."""

    cores: Cores
    file_limit: int


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return value


def seconds(text: str) -> float:
    """An argparse type: a length of time."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0 and up to {_SECONDS_MAX}")
    return value
