"""The Windows lane: the engine built for Windows, and its tests with the real Windows CPython, on Linux under Wine.

    python -m tests.windows test                      everything below, then the tests
    python -m tests.windows setup                     Debian packages, Windows Python, wheels, Wine's prefix
    python -m tests.windows build                     core/native -> build/windows/iocpd/core/_native.*.pyd
    python -m tests.windows run python -m iocpd.api serve
    python -m tests.windows run PROGRAM.EXE ARGUMENTS...

It is for Debian 12 on x86_64 (Wine 8). What is downloaded, and Wine's prefix, are in ~/.cache/iocpd-windows, or in
$IOCPD_WINDOWS_CACHE (0.9 GB); the network is needed once. Windows' drive Z: is Linux's /, and relative paths work.

Wine is not Windows. Where it is known to differ from what Microsoft documents, a test is marked in wine_limits.py with
the reason; each run prints them.

  machine.py      setup
  build.py        build
  wine.py         run; also a program of its own
  launch.c        the part of `run` that is inside Wine
  heap_checks.py  a pytest plugin: the heaps are looked at after each test
  wine_limits.py  a pytest plugin: the tests that Wine can't hold
"""
