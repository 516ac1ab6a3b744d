"""python -m tests.fuzz: see the package's text."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parents[1]
NATIVE = TOP / "core" / "native"
BUILD = TOP / "build" / "fuzz"
TARGETS = sorted(file.stem for file in HERE.glob("*.c"))
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", f"-I{HERE}"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
INPUT_SECONDS = 60  # one input takes less than a millisecond, but a busy machine may stand still for a while
SLOWEST_START = 120  # beyond the time of the run, on a busy machine


def compile_all(targets: list[str]) -> None:
    """The engine as an archive, of which a target takes what it does not define itself; then the targets."""
    BUILD.mkdir(parents=True, exist_ok=True)
    archive = BUILD / "engine.a"
    archive.unlink(missing_ok=True)
    objects = []
    for source in sorted(NATIVE.glob("*.c")):
        objects.append(str(BUILD / f"{source.stem}.o"))
        run(["clang", *FLAGS, *SANITIZE, "-fsanitize=fuzzer-no-link", "-c", str(source), "-o", objects[-1]])
    run(["ar", "rcs", str(archive), *objects])
    for target in targets:
        source, program = str(HERE / f"{target}.c"), str(BUILD / target)
        run(["clang", *FLAGS, *SANITIZE, "-fsanitize=fuzzer", source, str(archive), "-pthread", "-o", program])


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=TOP)


def fuzz(target: str, seconds: int) -> bool:
    """Runs one target, and says in a line what came of it. False: it found something."""
    found, seeds = BUILD / "corpus" / target, HERE / "corpus" / target
    found.mkdir(parents=True, exist_ok=True)
    log = BUILD / f"{target}.log"
    command = [
        str(BUILD / target),
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS}",
        f"-artifact_prefix={BUILD / target}-",
        "-print_final_stats=1",
        str(found),
        str(seeds),
    ]
    with log.open("w") as out:
        status = subprocess.run(command, cwd=TOP, stdout=out, stderr=out, timeout=seconds + SLOWEST_START).returncode
    text = log.read_text(errors="replace")
    if status:
        print(f"{target}: FAILED; {log} has the report, and where the input is", flush=True)
        print("\n".join(text.splitlines()[-60:]))
        return False
    runs = re.findall(r"number_of_executed_units: *(\d+)", text)[-1]
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)[-1]
    print(f"{target}: ok, {int(runs):,} inputs, {covered[0]} edges, {covered[2]} inputs kept", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Runs the libFuzzer targets.")
    parser.add_argument("--seconds", type=int, default=10, metavar="N", help="for each target (default: 10)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="of " + ", ".join(TARGETS))
    arguments = parser.parse_args()
    targets = arguments.targets or TARGETS
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}: these are {', '.join(TARGETS)}")
    if arguments.seconds < 1:
        parser.error(f"--seconds {arguments.seconds}: give 1 or more")
    compile_all(targets)
    failed = [target for target in targets if not fuzz(target, arguments.seconds)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
