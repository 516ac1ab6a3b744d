"""Some seeds and some mutants; .ci/run runs many of the one and all of the other."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.simulation.build import NATIVE, TOP, BuildFailure, build
from tests.simulation.mutants import PatchFailure, apply, build_mutant, hunt, mutants
from tests.simulation.seeds import FAULTS, Options, run, shrink

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("gcc", "clang"))), reason="needs a C compiler")


@pytest.fixture(scope="module")
def program():
    return build()


def test_seeds_find_nothing(program):
    failure, sums = run(program, 0, 300, Options())
    assert failure is None, failure
    assert sums["seeds"] == 300
    assert sums["connections"] > 300


def test_a_seed_tells_the_same_story_each_time(program):
    first = run(program, 11, 30, Options())
    assert first == run(program, 11, 30, Options())
    assert first[1]["steps"] != run(program, 12, 30, Options())[1]["steps"]


def test_faults_have_the_bits_that_the_kernel_gives_them():
    values = re.findall(r"^    FAULT_(\w+) = (\d+),", (NATIVE / "port_sim.h").read_text(), re.MULTILINE)
    assert dict(values) == {name.upper(): str(1 << bit) for bit, name in enumerate(FAULTS)} | {
        "ALL": str((1 << len(FAULTS)) - 1)
    }


def test_a_seed_without_faults_has_none(program):
    failure, sums = run(program, 0, 50, Options(faults=frozenset()))
    assert failure is None, failure
    assert sums["bytes"] > 0


def test_a_mutant_is_found_and_its_story_made_shorter():
    (mutant,) = mutants(["lost_wake"])
    mutated = build_mutant(mutant)
    failure, _ = run(mutated, 0, mutant.seeds, Options())
    assert failure is not None
    assert "sleeps over its inbox" in failure.message
    shorter = shrink(mutated, failure, within_s=5)
    assert shorter.kind == failure.kind
    assert shorter.setting.steps < failure.setting.steps
    assert shorter.setting.clients < failure.setting.clients
    again, _ = run(mutated, shorter.seed, 1, shorter.setting)
    assert again == shorter


# The command line, over the program that is named first.
OVER = """
import sys
from pathlib import Path
import tests.simulation.__main__ as command
program = Path(sys.argv.pop(1))
command.build = lambda jobs: program
sys.exit(command.main())
"""


def command_line(program, words):
    return subprocess.run(
        [sys.executable, "-c", OVER, str(program), *shlex.split(words)],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_line_shortens_a_story_and_tells_it():
    (mutant,) = mutants(["lost_wake"])
    mutated = build_mutant(mutant)
    done = command_line(mutated, f"--seed {mutant.such_as}")
    assert done.returncode == 1, done
    first, follow, _, shorter, again = done.stdout.splitlines()
    assert "sleeps over its inbox" in first
    assert "sleeps over its inbox" in shorter
    words = [line.removeprefix("to follow it:  python -m tests.simulation ") for line in (follow, again)]
    assert all(each.startswith(f"--seed {mutant.such_as} --trace --faults ") for each in words), done.stdout
    for each, message in zip(words, (first, shorter), strict=True):
        told = command_line(mutated, each)
        assert told.returncode == 1, told
        lines = told.stdout.splitlines()
        assert re.search(rf" world +seed {mutant.such_as}: \d+ workers, \d+ clients", lines[0]), lines[0]
        assert any(re.search(r" world +client \d+ connects to listener \d+ as connection 0", line) for line in lines)
        assert any(re.search(r" iocpd-0 +connection 0: accepted", line) for line in lines)
        assert message in lines
    whole = command_line(build(), f"--seed {mutant.such_as} --trace")
    assert whole.returncode == 0, whole
    assert re.search(r" main +the engine has stopped\n", whole.stdout)
    assert whole.stdout.splitlines()[-1].startswith("DONE seeds 1 ")


def test_a_seed_that_fails_in_any_case_proves_nothing_of_a_mutant(program):
    (mutant,) = mutants(["lost_wake"])
    mutated = build_mutant(mutant)
    assert hunt(mutant, program).passed
    hunted = hunt(mutant, mutated)
    assert not hunted.passed
    assert str(hunted).startswith(f"NOT PROVEN, its seed fails without it too: FAILED seed {mutant.such_as} ")


def test_every_mutant_fits_the_sources_and_compiles():
    every = mutants([])
    assert len(every) >= 20
    for mutant in every:
        build_mutant(mutant)


def test_a_patch_that_fits_nowhere_is_refused(tmp_path):
    (tmp_path / "worker.c").write_text("one\ntwo\n")
    with pytest.raises(PatchFailure, match="fits 0 places"):
        apply("--- a/worker.c\n+++ b/worker.c\n@@ -1 +1 @@\n-three\n+four\n", tmp_path)
    apply("--- a/worker.c\n+++ b/worker.c\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n", tmp_path)
    assert (tmp_path / "worker.c").read_text() == "one\nthree\n"


def test_a_compiler_that_fails_is_quoted(tmp_path):
    (tmp_path / "broken.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(BuildFailure, match="nothing"):
        build("broken", tmp_path)
