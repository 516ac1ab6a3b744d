"""libFuzzer targets for what the engine's C code parses and writes, under the address and undefined sanitizers.

    python -m tests.fuzz [--seconds N] [TARGET...]

builds the targets with clang and runs each of them for N seconds (10), beginning with its corpus in tests/fuzz/corpus;
without TARGET all of them. Each compares the engine's code with one that anybody can check. What a run finds beyond the
corpus is kept in build/fuzz, for the next run; an input that fails is named, and belongs into the corpus once it is
mended.
"""
