"""deploy/linux/Dockerfile, built by buildah without a Docker engine, and run by crun as an engine would run it.

The base is a Debian root and not python:3.14-slim, which no package index has:

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm build/ci/debian
    IOCPD_IMAGE_BASE=build/ci/debian pytest tests/deploy/test_linux_image.py

So what differs from the real image is Python (Debian's 3.11) and one more package for the build, python3-dev.
Containers run with a read-only root, without capabilities, as the image's user, with their own processes and mounts,
and with the machine's network, so that ports can be the system's choice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.conftest import DEPLOY, TOP, find_tool, run
from tests.support import Client

PYTHON = "/opt/iocpd/bin/python3"
USER = 10001
SECCOMP = DEPLOY / "linux" / "seccomp-io-uring.json"
HYBRID = Path("/sys/fs/cgroup/unified")


class Image:
    """The built image: its configuration, and its files."""

    def __init__(self, config: dict[str, Any], root: Path, work: Path) -> None:
        self.config = config
        self.root = root
        self.work = work
        self.variables = dict(item.split("=", 1) for item in config["Env"])


class Container:
    """`crun run`: its output line by line."""

    def __init__(
        self, image: Image, name: str, arguments: list[str], variables: dict[str, str], seccomp: Any, state: Path | None
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        (image.work / name).mkdir()
        self.state = state or image.work / name / "state"
        if state is None:
            self.state.mkdir()
            os.chown(self.state, USER, USER)
        self._crun = [find_tool("crun") or "crun", "--cgroup-manager=disabled", "--root", str(image.work / "crun")]
        environment = image.variables | variables
        (image.work / name / "config.json").write_text(
            json.dumps(_specification(image, self.state, arguments, environment, seccomp))
        )
        # crun runs where there is one hierarchy of control groups or the other, and not with both.
        prepare = f"umount {HYBRID}; " if HYBRID.is_mount() else ""
        command = " ".join([*self._crun, "run", "-b", str(image.work / name), name])
        self._process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{prepare}exec {command}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        self.lines.extend(line.rstrip() for line in self._process.stdout)

    def saw(self, text: str) -> str:
        until = time.monotonic() + 30
        while not (found := next((line for line in self.lines if line.startswith(text)), None)):
            assert time.monotonic() < until, self.lines
            assert self._process.poll() is None or self._reader.is_alive(), self.lines
            time.sleep(0.02)
        return found

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self._crun, "exec", "--user", f"{USER}:{USER}", self.name, *words]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)

    def signal(self, name: str) -> None:
        subprocess.run([*self._crun, "kill", self.name, name], check=True, timeout=30)

    def status(self) -> int:
        status = self._process.wait(60)
        self._reader.join(10)
        return status

    def end(self) -> None:
        if self._process.poll() is None:
            self.signal("KILL")
        self.status()
        assert self._process.stdout
        self._process.stdout.close()


def _specification(
    image: Image, state: Path, arguments: list[str], environment: dict[str, str], seccomp: Any
) -> dict[str, Any]:
    """What an engine makes of the image and of compose.linux.yml, for the runtime."""
    nothing: dict[str, list[str]] = {
        kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    }
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": USER, "gid": USER},
            "args": [*image.config["Entrypoint"], *arguments],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": image.config["WorkingDir"],
            "capabilities": nothing,
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}],
        },
        "root": {"path": str(image.root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/var/lib/iocpd", "type": "bind", "source": str(state), "options": ["bind", "rw"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "readonlyPaths": ["/proc/sys"],
            **({"seccomp": seccomp} if seccomp else {}),
        },
    }


def profile(*, io_uring: bool) -> dict[str, Any]:
    """deploy/linux/seccomp-io-uring.json as a runtime takes it; or without io_uring, as Docker's own profile is."""
    text = json.loads(SECCOMP.read_text())
    rules = [{key: value for key, value in rule.items() if key != "comment"} for rule in text["syscalls"]]
    kept = [rule for rule in rules if io_uring or "io_uring_setup" not in rule["names"]]
    architectures = [each["architecture"] for each in text["archMap"]]
    return {"defaultAction": text["defaultAction"], "defaultErrnoRet": text["defaultErrnoRet"],
            "architectures": architectures, "syscalls": kept}  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("an image is built by root on Linux")
    for tool in ("buildah", "crun", "unshare"):
        if not find_tool(tool):
            pytest.skip(f"there is no {tool} here")
    base = Path(os.environ.get("IOCPD_IMAGE_BASE") or "nowhere")
    if not (base / "usr" / "bin" / "python3").exists():
        pytest.skip("IOCPD_IMAGE_BASE names no Debian root with Python: see this file's text")
    work = tmp_path_factory.mktemp("image")
    buildah = [find_tool("buildah") or "", "--root", str(work / "storage"), "--runroot", str(work / "run")]
    options = {"BUILDAH_ISOLATION": "chroot"}
    names: list[str] = []
    try:
        names.append(run(*buildah, "from", "scratch", **options).strip())
        run(*buildah, "add", "-q", names[0], f"{base.resolve()}/", "/", **options)
        # The authorities that this machine trusts; and pip's one, should it be another.
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        if certificates.exists():
            run(*buildah, "add", "-q", names[0], certificates, str(certificates), **options)
            run(*buildah, "config", "--env", f"PIP_CERT={certificates}", names[0], **options)
        if index := os.environ.get("PIP_INDEX_URL"):
            run(*buildah, "config", "--env", f"PIP_INDEX_URL={index}", names[0], **options)
        run(*buildah, "commit", "-q", names[0], "localhost/base", **options)
        run(
            *buildah, "bud", "-f", "deploy/linux/Dockerfile", "--ignorefile", "deploy/linux/Dockerfile.dockerignore",
            "--format", "docker", "--build-arg", "PYTHON_IMAGE=localhost/base",
            "--build-arg", "BUILD_PACKAGES=gcc libc6-dev python3-dev", "-t", "localhost/iocpd", str(TOP), **options,
        )  # fmt: skip
        described = json.loads(run(*buildah, "inspect", "--type", "image", "localhost/iocpd", **options))
        names.append(run(*buildah, "from", "localhost/iocpd", **options).strip())
        root = Path(run(*buildah, "mount", names[1], **options).strip())
        yield Image(described["Docker"]["config"], root, work)
    finally:
        for name in names:
            run(*buildah, "umount", name, **options)
            run(*buildah, "rm", name, **options)
        shutil.rmtree(work / "storage", ignore_errors=True)


@pytest.fixture
def start(image: Image, request: pytest.FixtureRequest) -> Iterator[Any]:
    """start("serve", "--tcp", ...): a container of the image."""
    containers: list[Container] = []

    def begin(*arguments: str, seccomp: Any = None, state: Path | None = None, **variables: str) -> Container:
        name = re.sub(r"\W", "-", f"{request.node.name}-{len(containers)}-{os.getpid()}")
        containers.append(Container(image, name, list(arguments), variables, seccomp, state))
        return containers[-1]

    yield begin
    while containers:
        containers.pop().end()


SERVE = ("serve", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0")


def test_its_configuration(image: Image) -> None:
    config = image.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/opt/iocpd/bin/iocpd"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", PYTHON]
    assert set(config["ExposedPorts"]) == {"12345/tcp", "8080/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/iocpd"}
    sbom = json.loads((image.root / config["Labels"]["io.iocpd.sbom"].lstrip("/")).read_text())
    assert {"iocpd", "fastapi", "libc6"} <= {
        each["name"] for each in [*sbom["components"], sbom["metadata"]["component"]]
    }


def test_no_builder_is_left_in_it(image: Image) -> None:
    assert not (image.root / "opt/build").exists()
    assert not (image.root / "src").exists()
    assert not list((image.root / "opt/iocpd").rglob("pip"))
    assert not (image.root / "usr/bin/gcc").exists()


def test_nothing_in_it_belongs_to_its_user_but_the_state(image: Image) -> None:
    owned = subprocess.run(
        ["find", image.root, "-xdev", "-uid", str(USER)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    assert owned == [str(image.root / "var/lib/iocpd")]


def test_as_process_1_it_drains_on_sigterm(start: Any) -> None:
    container = start(*SERVE)
    container.saw("ready")
    assert container.saw("iocpd").endswith("process 1")
    port = int(container.saw("tcp 127.0.0.1:").split(":")[1].split()[0])
    with Client(port) as client:
        assert client.echoes(b"hello")
        container.signal("TERM")
        assert client.read_to_end() == b""
    assert container.status() == 0
    assert any("1 connections drained, 0 cut off" in line for line in container.lines)


def test_as_process_1_it_leaves_no_zombies(start: Any) -> None:
    """What a command in the container leaves behind becomes its child."""
    container = start(*SERVE)
    container.saw("ready")
    orphan = "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(0.3)\n    os._exit(0)\nos.wait()"
    assert container.execute(PYTHON, "-c", orphan).returncode == 0
    time.sleep(1)
    look = "import pathlib; print([p.read_text().split()[2] for p in pathlib.Path('/proc').glob('[0-9]*/stat')])"
    assert "Z" not in container.execute(PYTHON, "-c", look).stdout


def test_its_root_can_not_be_written_and_it_has_no_rights(start: Any) -> None:
    container = start(*SERVE)
    container.saw("ready")
    asked = (
        "import os, pathlib; print(os.getuid(), os.getgid()); status = pathlib.Path('/proc/1/status').read_text();"
        "print([line for line in status.splitlines() if line.startswith(('CapEff', 'CapBnd', 'NoNewPrivs'))]);"
        "open('/opt/iocpd/x', 'w')"
    )
    done = container.execute(PYTHON, "-c", asked)
    lines = done.stdout.splitlines()
    assert lines[0] == "10001 10001"
    assert re.findall(r"(\w+):\\t(\w+)", lines[1]) == [("CapEff", "0" * 16), ("CapBnd", "0" * 16), ("NoNewPrivs", "1")]
    assert "Read-only file system" in lines[-1]


def test_its_health_check(start: Any, image: Image) -> None:
    container = start(*SERVE)
    container.saw("ready")
    address = container.saw("http ").split()[1].removeprefix("http://")
    words = image.config["Healthcheck"]["Test"][1:]
    assert container.execute("/usr/bin/env", f"IOCPD_HTTP={address}", *words).returncode == 0
    assert container.execute("/usr/bin/env", "IOCPD_HTTP=127.0.0.1:1", *words).returncode == 1


def test_it_listens_for_others_only_with_keys(start: Any) -> None:
    refused = start("serve", "--tcp", "127.0.0.1:0", "--http", "0.0.0.0:0")
    assert refused.status() != 0
    assert "iocpd keys add" in "".join(refused.lines)


def test_keys_are_made_in_its_state(start: Any) -> None:
    made = start("keys", "add", "ops", "--role", "admin")
    assert made.status() == 0
    key = next(line for line in made.lines if line.startswith("iocpd_"))
    stored = json.loads((made.state / "keys.json").read_text())
    assert key not in json.dumps(stored)
    served = start("serve", "--tcp", "127.0.0.1:0", "--http", "0.0.0.0:0", state=made.state)
    served.saw("ready")
    url = served.saw("http ").split()[1].replace("0.0.0.0", "127.0.0.1")
    request = urllib.request.Request(f"{url}/v1/node", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert json.load(answer)["pid"] == 1


def test_with_the_seccomp_file_it_runs_on_io_uring(start: Any) -> None:
    from iocpd.core import BackendUnavailable, probe

    try:
        probe("io_uring")
    except BackendUnavailable as error:
        pytest.skip(error.reason)
    container = start(*SERVE, seccomp=profile(io_uring=True))
    container.saw("ready")
    assert container.saw("backend").startswith("backend io_uring")
    container.signal("TERM")
    assert container.status() == 0


def test_without_it_it_runs_on_epoll_and_says_so(start: Any) -> None:
    container = start(*SERVE, seccomp=profile(io_uring=False))
    container.saw("ready")
    assert re.match(r"backend epoll, .*io_uring does not work here", container.saw("backend"))
    container.signal("TERM")
    assert container.status() == 0
