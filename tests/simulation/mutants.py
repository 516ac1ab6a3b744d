"""Proof that the simulation can fail: deliberate bugs, each a small patch, each found within a stated number of seeds.

A mutant is a file in mutants/: what is wrong and what it would mean, a line `Seeds: N, such as S`, then a unified diff
of core/native. Its hunks are found by their text, not by line numbers, so they hold while the sources change elsewhere.
Seed S is tried first, since it has found the bug before; when the simulation has changed since, all of the first N are.
What finds the bug must find nothing without it, or it is not this bug that was found.

Those named found_* were no deliberate bugs: the simulation found them in the engine, and they are put back to see that
it still does.
"""

from __future__ import annotations

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.simulation.build import NATIVE, OUT, SIMULATION, BuildFailure, build
from tests.simulation.seeds import Failure, Options, run


class PatchFailure(Exception):
    """A hunk that does not fit."""


@dataclass(frozen=True)
class Mutant:
    name: str
    text: str
    seeds: int  # within so many it must be found
    such_as: int
    diff: str


def read(path: Path) -> Mutant:
    head, mark, rest = path.read_text(encoding="utf-8").partition("\n--- ")
    within = re.search(r"^Seeds: (\d+), such as (\d+)$", head, re.MULTILINE)
    if not mark or not within or int(within[2]) >= int(within[1]):
        raise PatchFailure(f"{path.name}: needs a line `Seeds: N, such as S`, with S below N, and a diff")
    return Mutant(path.stem, head[: within.start()].strip(), int(within[1]), int(within[2]), "--- " + rest)


def mutants(names: list[str]) -> list[Mutant]:
    """Those of these names, or all."""
    every = [read(path) for path in sorted((SIMULATION / "mutants").glob("*.patch"))]
    if unknown := set(names) - {mutant.name for mutant in every}:
        raise PatchFailure(f"no such mutant: {', '.join(sorted(unknown))}")
    return [mutant for mutant in every if not names or mutant.name in names]


def apply(diff: str, native: Path) -> None:
    """Changes the files in `native` as the diff says."""
    for part in re.split(r"^--- .*\n(?=\+\+\+ )", diff, flags=re.MULTILINE)[1:]:
        target, _, hunks = part.partition("\n")
        path = native / Path(target.split()[1]).name
        source = path.read_text(encoding="utf-8")
        for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines()
            before = "".join(line[1:] + "\n" for line in lines if line[:1] in (" ", "-", ""))
            after = "".join(line[1:] + "\n" for line in lines if line[:1] in (" ", "+", ""))
            if source.count(before) != 1:
                raise PatchFailure(f"{path.name}: a hunk fits {source.count(before)} places, not one:\n{hunk}")
            source = source.replace(before, after)
        path.write_text(source, encoding="utf-8")


def build_mutant(mutant: Mutant) -> Path:
    """A copy of the sources with the bug, compiled; only what it touches is compiled anew."""
    native = OUT / "mutants" / mutant.name / "native"
    shutil.rmtree(native.parent, ignore_errors=True)
    shutil.copytree(NATIVE, native)
    apply(mutant.diff, native)
    return build(f"mutants/{mutant.name}/simulate", native, jobs=1, strict=False)


@dataclass(frozen=True)
class Hunted:
    mutant: Mutant
    failure: Failure | None  # what found it
    without: Failure | None  # what the same seed finds in the engine as it is
    took_s: float

    @property
    def passed(self) -> bool:
        return self.failure is not None and self.without is None

    def __str__(self) -> str:
        if self.failure is None:
            return f"SURVIVES {self.mutant.seeds} seeds: {self.mutant.text}"
        if self.without is not None:
            return f"NOT PROVEN, its seed fails without it too: {self.without.message}"
        return f"found in {self.took_s:4.1f} s  {self.failure.message.removeprefix('FAILED ')}"


def hunt(mutant: Mutant, engine: Path) -> Hunted:
    """engine: the program of the sources as they are."""
    began = time.monotonic()
    try:
        program = build_mutant(mutant)
    except (PatchFailure, BuildFailure) as error:
        raise PatchFailure(f"{mutant.name}: {error}") from None
    failure, _ = run(program, mutant.such_as, 1, Options())
    if not failure:
        failure, _ = run(program, 0, mutant.seeds, Options())
    without, _ = run(engine, failure.seed, 1, Options()) if failure else (None, {})
    return Hunted(mutant, failure, without, time.monotonic() - began)


def hunt_all(names: list[str], jobs: int) -> int:
    """Prints what found each of them. The exit status: 1 when one survives, or its seed fails without it too."""
    every = mutants(names)
    engine = build(jobs=jobs)
    found = 0
    with ThreadPoolExecutor(jobs) as pool:
        for hunted in pool.map(partial(hunt, engine=engine), every):
            print(f"{hunted.mutant.name:34} {hunted}", flush=True)
            found += hunted.passed
    print(f"{found} of {len(every)} mutants found")
    return 0 if found == len(every) else 1
