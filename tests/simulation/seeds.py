"""Runs seeds, and makes the story of one that fails as short as it can."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

# In the order of enum sim_fault.
FAULTS = (
    *("delay", "short", "errors", "submit", "cancel", "starve", "handles", "memory"),
    *("spurious", "clock", "preempt", "late_wake", "system", "start", "proxy"),
)
CHUNK = 250  # seeds of one process
SEED_TIMEOUT_S = 60.0  # of one seed alone; it takes a millisecond


@dataclass(frozen=True)
class Options:
    """What narrows a seed down. None: the seed decides."""

    faults: frozenset[str] = frozenset(FAULTS)
    clients: int | None = None
    commands: int | None = None
    steps: int | None = None
    workers: int | None = None
    listeners: int | None = None

    def arguments(self) -> list[str]:
        """For the program."""
        out = ["--faults", str(sum(1 << FAULTS.index(name) for name in self.faults))]
        for name in ("clients", "commands", "steps", "workers", "listeners"):
            value = getattr(self, name)
            if value is not None:
                out += [f"--{name}", str(value)]
        return out

    def words(self) -> str:
        """For the command line of `python -m tests.simulation`."""
        out = []
        if self.faults != frozenset(FAULTS):
            out.append("--faults " + (",".join(name for name in FAULTS if name in self.faults) or "none"))
        for name in ("clients", "commands", "steps", "workers", "listeners"):
            value = getattr(self, name)
            if value is not None:
                out.append(f"--{name} {value}")
        return " ".join(out)


@dataclass(frozen=True)
class Failure:
    seed: int
    message: str
    setting: Options = field(default_factory=Options)

    @property
    def kind(self) -> str:
        """The message without what differs from one story to the next."""
        said = re.sub(r"^.*? thread [^:]*: ", "", self.message)
        return re.sub(r"\b[0-9a-f]*[0-9][0-9a-f]*\b", "#", said)


def _failure(seed: int, output: str) -> Failure:
    message, options = f"FAILED seed {seed}: it ended without a word", Options()
    for line in output.splitlines():
        if match := re.match(r"FAILED seed (\d+)", line):
            seed, message = int(match[1]), line
        if line.startswith("SETTING"):
            values = dict(zip(line.split()[1::2], map(int, line.split()[2::2]), strict=True))
            bits = values.pop("faults")
            options = Options(frozenset(name for bit, name in enumerate(FAULTS) if bits >> bit & 1), **values)
    return Failure(seed, message, options)


def run(program: Path, first: int, count: int, options: Options) -> tuple[Failure | None, dict[str, int]]:
    """The first failure among these seeds, and the sums that the program prints at its end."""
    command = [str(program), "--seed", str(first), "--seeds", str(count), *options.arguments()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=SEED_TIMEOUT_S + count)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            seeds = [int(line.split()[1]) for line in output.splitlines() if line.startswith("SEED")]
            last = max(seeds, default=first)
            return Failure(last, f"FAILED seed {last} or one soon after it: it does not come to an end"), {}
    if process.returncode:
        return _failure(first, output), {}
    words = output.split("DONE", 1)[1].split()
    return None, {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True) if value.isdigit()}


def chunks(first: int, count: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + count, CHUNK):
        yield start, min(CHUNK, first + count - start)


def run_many(
    program: Path, first: int, count: int, options: Options, jobs: int, progress: bool = True
) -> tuple[list[Failure], dict[str, int]]:
    """On several processors; after a failure no further seeds are begun."""
    failures: list[Failure] = []
    sums: dict[str, int] = {}
    began = told = time.monotonic()
    todo = chunks(first, count)
    with ThreadPoolExecutor(jobs) as pool:
        running: set[Future[tuple[Failure | None, dict[str, int]]]] = set()
        while True:
            while len(running) < jobs and not failures and (chunk := next(todo, None)):
                running.add(pool.submit(run, program, *chunk, options))
            if not running:
                return sorted(failures, key=lambda failure: failure.seed), sums
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                failure, more = future.result()
                if failure:
                    failures.append(failure)
                for name, value in more.items():
                    sums[name] = sums.get(name, 0) + value
            if progress and time.monotonic() - told > (1 if sys.stderr.isatty() else 20):
                told = time.monotonic()
                through = sums.get("seeds", 0)
                rate = through / (told - began)
                print(f"{through:,} of {count:,} seeds, {rate:,.0f} a second", file=sys.stderr, flush=True)


def _smaller(options: Options) -> Iterator[Options]:
    """What might do with less, the largest steps first."""
    for name, least in (("steps", 1), ("commands", 0), ("clients", 1), ("workers", 1), ("listeners", 1)):
        value = getattr(options, name)
        for share in (8, 4, 2):
            if value - value // share * (share - 1) < value and (less := max(least, value // share)) < value:
                yield replace(options, **{name: less})
        if value > least:
            yield replace(options, **{name: max(least, value * 9 // 10) if value > 10 else value - 1})
    for fault in FAULTS:
        if fault in options.faults:
            yield replace(options, faults=options.faults - {fault})


def shrink(program: Path, failure: Failure, within_s: float = 60.0) -> Failure:
    """The same kind of failure with fewer clients, commands, steps and faults."""
    until = time.monotonic() + within_s
    # With everything spelled out, as the seed has chosen it, the story must be the same.
    found, _ = run(program, failure.seed, 1, failure.setting)
    if not found or found.kind != failure.kind:
        return failure
    best = found
    again = True
    while again and time.monotonic() < until:
        again = False
        for options in _smaller(best.setting):
            if time.monotonic() > until:
                break
            found, _ = run(program, failure.seed, 1, options)
            if found and found.kind == failure.kind:
                best, again = Failure(found.seed, found.message, options), True
                break
    return best
