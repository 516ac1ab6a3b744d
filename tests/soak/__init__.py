"""Engines that live and end one after another in one process, under everything that the chaos of tests/conformance does
to them: handles, threads and memory must not grow.

    python -m tests.soak --seconds 60 [--backend NAME]

Without a name the backends that there are here share the time. Ends with 0 when all of them were flat.
"""
