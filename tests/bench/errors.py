"""What can go wrong in a measurement, each with a message for the user."""


class BenchError(Exception):
    """Nothing can be measured: a wrong option, no compiler, too few file descriptors."""


class NotMeasured(Exception):
    """This machine lacks what one contestant needs; the others go on."""


class ContestantFailed(Exception):
    """A contestant did not start, broke or sent wrong bytes; the others go on, and the exit status is 1."""
