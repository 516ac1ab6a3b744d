"""python -m tests.simulation: see --help."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation.build import BuildFailure, build
from tests.simulation.mutants import PatchFailure, hunt_all
from tests.simulation.seeds import FAULTS, Failure, Options, run_many, shrink

EXAMPLES = """\
examples:
  python -m tests.simulation --seeds 20000          seeds 0 to 19,999, on all processors
  python -m tests.simulation --seeds 5000 --first 1000000
  python -m tests.simulation --seed 4711 --trace    one story, told
  python -m tests.simulation --seed 4711 --trace --faults short,delay --clients 2
  python -m tests.simulation mutants                deliberate bugs: each must be found
  python -m tests.simulation mutants lost_wake
"""


def faults(text: str) -> frozenset[str]:
    names = frozenset(name for name in text.split(",") if name and name != "none")
    if unknown := names - set(FAULTS):
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    return names


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Runs the engine against a simulated kernel and clock, everything decided by a seed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("what", nargs="*", metavar="mutants [NAME...]", help="hunt deliberate bugs instead")
    out.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    out.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them (default: 0)")
    out.add_argument("--seed", type=int, metavar="SEED", help="this one alone")
    out.add_argument("--trace", action="store_true", help="with --seed: tell what happens")
    out.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes at a time")
    narrow = out.add_argument_group("to narrow a story down", "what is not given is left to the seed")
    narrow.add_argument("--faults", type=faults, default=frozenset(FAULTS), metavar="NAME,...",
                        help=f"what may go wrong: {', '.join(FAULTS)}; or none")  # fmt: skip
    narrow.add_argument("--clients", type=int, metavar="N")
    narrow.add_argument("--commands", type=int, metavar="N", help="of operators")
    narrow.add_argument("--steps", type=int, metavar="N", help="after so many, the engine is stopped")
    narrow.add_argument("--workers", type=int, choices=(1, 2, 3), metavar="N", help="1 to 3")
    narrow.add_argument("--listeners", type=int, choices=(1, 2, 3, 4), metavar="N", help="1 to 4")
    return out


def explain(failure: Failure) -> None:
    print(failure.message)
    print(f"to follow it:  python -m tests.simulation --seed {failure.seed} --trace {failure.setting.words()}".rstrip())


def main() -> int:
    """The exit status."""
    given = parser().parse_args()
    options = Options(given.faults, given.clients, given.commands, given.steps, given.workers, given.listeners)
    try:
        if given.what and given.what[0] == "mutants":
            return hunt_all(given.what[1:], given.jobs)
        if given.what:
            parser().error(f"no such thing to do: {given.what[0]}; there is mutants")
        program = build(jobs=given.jobs)
    except (BuildFailure, PatchFailure) as error:
        print(error)
        return 1
    if given.seed is not None and given.trace:
        os.execv(program, [str(program), "--seed", str(given.seed), "--trace", *options.arguments()])
    first, count = (given.first, given.seeds) if given.seed is None else (given.seed, 1)
    began = time.monotonic()
    failures, sums = run_many(program, first, count, options, given.jobs)
    took = time.monotonic() - began
    if failures:
        explain(failures[0])
        print("making it shorter ...", flush=True)
        explain(shrink(program, failures[0]))
        return 1
    print(
        f"{sums['seeds']:,} seeds in {took:.0f} s, nothing found: {sums['steps']:,} steps, "
        f"{sums['connections']:,} connections, {sums['bytes']:,} bytes, "
        f"{sums['time_ms'] / 1000:,.0f} s of simulated time"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
