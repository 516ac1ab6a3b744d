"""More of everything than the service can take, against a real `iocpd serve`, while a paced echo load measures what
becomes of its other clients.

    python -m tests.overload [SCENARIO…] [--backend NAME] [--rounds N] [--seconds S] [--small]

Each round measures once quiet and once overloaded, at the same offered load. In each: /livez answers 200 within a
second, who is refused is counted by reason, and afterwards handles and memory are where they were. Ends with 0 when all
of that held and the median p99 overloaded was at most twice the median p99 quiet. test_overload.py runs it small.
"""
