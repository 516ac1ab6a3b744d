"""Engines that live and end one after another in one process, under everything that the chaos of tests/conformance does
to them: handles, threads and memory must not grow.

    python -m tests.soak --seconds 60 [--backend NAME]

Ends with 0 when all of them were flat.
"""
