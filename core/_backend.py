"""The build backend: setuptools', told of the C engine and of the packages.

pyproject.toml has no place for cffi's builder, and can't say that every package below core/ and api/ is installed below
`iocpd`. Without a setup.py, setuptools' own backend calls setuptools.setup() with no arguments, so they are given here.
This folder is on sys.path during a build: no module in it may be named like one of the standard library.
"""

import functools
import sysconfig
from pathlib import Path

import setuptools
from setuptools.build_meta import *  # noqa: F403


def _packages() -> list[str]:
    folders = (marker.parent for root in ("core", "api") for marker in sorted(Path(root).rglob("__init__.py")))
    return [".".join(("iocpd", *folder.parts)) for folder in folders]


setuptools.setup = functools.partial(
    setuptools.setup,
    packages=_packages(),
    package_dir={"iocpd.core": "core", "iocpd.api": "api"},
    cffi_modules=["core/_build.py:ffibuilder"],
    # cffi builds for the stable ABI, so one wheel serves every Python from 3.11 on. Free-threaded Pythons have none.
    options={} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
