"""python -m tests.overload: see the package's text."""

from __future__ import annotations

import argparse
import sys

from tests import overload
from tests.integration.server import BACKENDS
from tests.overload.compare import compare, table
from tests.overload.scenarios import FULL, SCENARIOS, SMALL

RATIO_MAX = 2.0


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.overload",
        description=overload.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(SCENARIOS)}")
    parser.add_argument("--backend", choices=BACKENDS, help="default: each")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each measurement (default: 3)")
    parser.add_argument("--small", action="store_true", help="as test_overload.py has it")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="what is measured comes before everything else on this machine, whose other work would show, and no "
        "processor sleeps; needs root",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.scenarios if name not in SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    rows, faults = [], []
    for name in options.scenarios or SCENARIOS:
        for backend in [options.backend] if options.backend else BACKENDS:
            outcome = compare(
                SCENARIOS[name],
                SMALL if options.small else FULL,
                backend,
                rounds=options.rounds,
                seconds=options.seconds,
                realtime=options.realtime,
            )
            rows.append((name, backend, outcome))
            found = outcome.faults()
            if outcome.loaded_us > RATIO_MAX * outcome.quiet_us:
                found.append(f"p99 {outcome.quiet_us:.0f} us became {outcome.loaded_us:.0f} us")
            faults += [f"{name}, {backend}: {fault}" for fault in found]
            print(table(rows[-1:]), *faults[-len(found) :] if found else (), sep="\n", flush=True)
    print("", table(rows), *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
