"""Some seeds and some mutants; .ci/run runs many of the one and all of the other."""

import re
import shutil

import pytest

from tests.simulation.build import NATIVE, BuildFailure, build
from tests.simulation.mutants import PatchFailure, apply, build_mutant, mutants
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
    assert shorter.setting.steps <= failure.setting.steps
    again, _ = run(mutated, shorter.seed, 1, shorter.setting)
    assert again == shorter


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
