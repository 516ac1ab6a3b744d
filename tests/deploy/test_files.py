"""What in deploy/ and .github/ can be checked without an engine, a cluster or a runner."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iocpd.api.settings import Settings, load_settings
from tests.deploy.conftest import DEPLOY, TOP, Tool, run
from tests.support import Client, eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the files are the same on every system")

WORKFLOWS = sorted((TOP / ".github" / "workflows").glob("*.yml"))
COMPOSE = sorted(DEPLOY.glob("compose.*.yml"))
JOIN = 15  # seconds that the service gives its threads after the drain's deadline


def load(path: Path) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML, which yamllint brings along")
    return yaml.safe_load(path.read_text())


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s|m|h)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


# ---- linters ---------------------------------------------------------------------------------------------------------


def test_hadolint(tool: Tool) -> None:
    run(tool("hadolint"), "-c", "deploy/hadolint.yaml", *DEPLOY.glob("*/Dockerfile"))


def test_yamllint(tool: Tool) -> None:
    run(tool("yamllint"), "--strict", "-c", "deploy/yamllint.yaml", "deploy", ".github")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("compose-spec", COMPOSE),
        ("github-workflows", WORKFLOWS),
        ("dependabot", [TOP / ".github" / "dependabot.yml"]),
    ],
)
def test_schema(tool: Tool, schema: str, files: list[Path]) -> None:
    assert files
    run(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_config(tool: Tool, path: Path) -> None:
    text = run(tool("docker-compose"), "-f", path, "--profile", "*", "config")
    assert "stop_grace_period" in text


def test_actionlint(tool: Tool) -> None:
    run(tool("actionlint"), *WORKFLOWS)


def test_zizmor(tool: Tool) -> None:
    run(tool("zizmor"), "--offline", "--no-progress", "--min-severity", "medium", ".github")


def test_the_launcher_is_formatted(tool: Tool) -> None:
    run(
        tool("clang-format"),
        "--dry-run",
        "-Werror",
        *DEPLOY.glob("*/launcher/*.c"),
        *(TOP / "tests" / "deploy").glob("*/*.c"),
    )


# ---- workflows -------------------------------------------------------------------------------------------------------


def test_actions_are_pinned_by_commit() -> None:
    uses = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text())]
    assert uses
    for line in uses:
        assert re.fullmatch(r"\./\S+|[\w./-]+@[0-9a-f]{40} # v[0-9.]+", line), line


def test_the_matrix_has_every_system_and_python() -> None:
    matrix = load(TOP / ".github" / "workflows" / "test.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert set(matrix["os"]) >= {"windows-2022", "windows-2025", "ubuntu-24.04"}
    assert set(matrix["python"]) >= {"3.11", "3.12", "3.13", "3.14"}


# ---- images ----------------------------------------------------------------------------------------------------------


def test_every_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    wanted = {
        re.split(r"[\[<>=~! ;]", text)[0].lower().replace("_", "-") for text in project["project"]["dependencies"]
    }
    locked = dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (DEPLOY / "container" / "requirements.txt").read_text()))
    assert wanted <= set(locked), wanted - set(locked)
    builders = dict(
        re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (DEPLOY / "container" / "build-requirements.txt").read_text())
    )
    assert builders["cffi"] == locked["cffi"]  # what is compiled against what runs


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*/Dockerfile")), ids=lambda path: path.parent.name)
def test_no_shell_at_run_time(path: Path) -> None:
    text = path.read_text().replace("`\n", "").replace("\\\n", "")
    for instruction in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        (line,) = re.findall(rf"(?m)^{instruction} (.*)$", text)
        words = json.loads(line[line.index("[") :])
        assert not {"sh", "bash", "cmd", "powershell", "pwsh"} & {Path(word.lower()).stem for word in words}
    assert "powershell" not in text.lower().replace("no powershell", "")
    assert "io.iocpd.sbom=" in text
    assert re.search(r"(?m)^USER (10001:10001|ContainerUser)$", text)
    assert re.findall(r"(?m)^USER (.*)$", text)[-1] in ("10001:10001", "ContainerUser")


def test_the_stop_of_a_windows_container_is_bounded_from_the_inside_to_the_outside() -> None:
    text = (DEPLOY / "windows" / "Dockerfile").read_text()
    (patience,) = re.findall(r'"ProcessShutdownTimeoutSeconds", "/t", "REG_DWORD", "/d", "(\d+)"', text)
    (grace,) = re.findall(r'"--grace=(\d+)"', text)
    service = load(DEPLOY / "compose.windows.yml")["services"]["iocpd"]
    deadline = seconds(service["environment"]["IOCPD_DRAIN_DEADLINE"])
    assert deadline + JOIN < int(grace) < int(patience) <= seconds(service["stop_grace_period"])


def test_the_user_of_a_windows_container_is_given_its_volume_before_it_needs_it() -> None:
    """Docker makes volumes for administrators and the system alone, and copies nothing of the image's folder there."""
    readme = (DEPLOY / "README.md").read_text()
    section = readme[readme.index("## Windows containers") : readme.index("## Windows service")]
    for text in (
        *re.findall(r"```bat\n(.*?)```", section, re.DOTALL),
        (DEPLOY / "compose.windows.yml").read_text(),
        next(text for text in (TOP / ".github/workflows/packages.yml").read_text().split("- name:") if "MSYS" in text),
    ):
        commands = [line.strip("# ") for line in re.sub(r"[\\^]\n#?", "", text).splitlines()]
        runs = [line for line in commands if line.startswith("docker") and re.search(r" run | up ", line)]
        as_user = [at for at, line in enumerate(runs) if "ContainerAdministrator" not in line]
        given = [at for at, line in enumerate(runs) if "ContainerUser:(OI)(CI)M" in line]
        assert given, text
        assert given[0] < as_user[0], text


def test_a_linux_container_is_given_time_to_drain() -> None:
    services = load(DEPLOY / "compose.linux.yml")["services"]
    for name in ("iocpd", "iocpd-io-uring"):
        service = services[name]
        assert seconds(service["environment"]["IOCPD_DRAIN_DEADLINE"]) + JOIN < seconds(service["stop_grace_period"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    seccomp = [option.partition(":")[2] for option in services["iocpd-io-uring"]["security_opt"] if "seccomp" in option]
    assert [(DEPLOY / path).exists() for path in seccomp] == [True]


def test_compose_sets_settings_that_exist() -> None:
    for path in COMPOSE:
        for service in load(path)["services"].values():
            for name in service.get("environment", {}):
                if name.startswith("IOCPD_"):
                    assert name.removeprefix("IOCPD_").lower() in Settings.model_fields, (path.name, name)


def test_the_seccomp_file_allows_io_uring_and_nothing_that_leads_out() -> None:
    profile = json.loads((DEPLOY / "linux" / "seccomp-io-uring.json").read_text())
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    allowed = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert allowed >= {"io_uring_setup", "io_uring_enter", "io_uring_register"}
    assert not allowed & {
        *(
            "mount",
            "umount2",
            "pivot_root",
            "setns",
            "unshare",
            "ptrace",
            "bpf",
            "perf_event_open",
            "keyctl",
            "add_key",
        ),
        *(
            "init_module",
            "finit_module",
            "kexec_load",
            "reboot",
            "userfaultfd",
            "process_vm_writev",
            "open_by_handle_at",
        ),
        *("chroot", "clone3", "personality", "mknod", "mknodat", "settimeofday", "swapon", "syslog", "quotactl"),
    }
    assert all(rule["action"] == "SCMP_ACT_ALLOW" for rule in profile["syscalls"])
    (clone,) = (rule for rule in profile["syscalls"] if "clone" in rule["names"])
    assert clone["args"] == [
        {"index": 0, "value": 0x7E020080, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    ]  # no namespace


def test_the_sbom_is_one(tmp_path: Path) -> None:
    text = run(sys.executable, "deploy/container/sbom.py", SOURCE_DATE_EPOCH="1700000000")
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "iocpd"
    assert {"fastapi", "pydantic-core", "python"} <= {each["name"] for each in document["components"]}
    assert run(sys.executable, "deploy/container/sbom.py", SOURCE_DATE_EPOCH="1700000000") == text
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib[json-validation]")
    schema = pytest.importorskip("cyclonedx.schema")
    try:
        found = validation.JsonStrictValidator(schema.SchemaVersion.V1_5).validate_str(text)
    except Exception as error:
        if type(error).__name__ == "MissingOptionalDependencyException":
            pytest.skip(str(error))
        raise
    assert found is None, found


# ---- monitoring ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[dict[str, Any]]:
    """A real `iocpd serve`: where it listens, and what GET /metrics says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IOCPD_")}
    command = [sys.executable, "-m", "iocpd.api", "serve", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    said = ""
    while "ready" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    (url,) = re.findall(r"(?m)^http (\S+)", said)
    (port,) = re.findall(r"(?m)^tcp 127\.0\.0\.1:(\d+)", said)
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        yield {"url": url, "port": int(port), "metrics": answer.read().decode(), "http": url.removeprefix("http://")}
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()


def expressions() -> list[str]:
    rules = load(DEPLOY / "monitoring" / "alerts.yml")["groups"]
    found = [rule["expr"] for group in rules for rule in group["rules"]]
    dashboard = json.loads((DEPLOY / "monitoring" / "grafana" / "dashboards" / "iocpd.json").read_text())
    for panel in dashboard["panels"]:
        found += [target["expr"] for target in panel.get("targets", ())]
    found += [each["expr"] for each in dashboard["annotations"]["list"]]
    return found


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(service: dict[str, Any]) -> None:
    there = set()
    for name, kind in re.findall(r"(?m)^# TYPE (\S+) (\w+)$", service["metrics"]):
        there |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    for expression in expressions():
        for name in re.findall(r"\biocpd_\w+", expression):
            assert name in there, (name, expression)


def test_their_label_values_are_those_of_the_service(service: dict[str, Any]) -> None:
    for expression in expressions():
        for name, label, value in re.findall(r'(\w+)\{[^}]*?(reason|phase)!?="(\w+)"', expression):
            assert re.search(rf'(?m)^{name}\{{.*\b{label}="{value}"', service["metrics"]), (name, label, value)


def test_the_dashboard_s_panels_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "monitoring" / "grafana" / "dashboards" / "iocpd.json").read_text())
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_promtool(tool: Tool) -> None:
    promtool, monitoring = tool("promtool"), DEPLOY / "monitoring"
    run(promtool, "check", "rules", monitoring / "alerts.yml")
    run(promtool, "test", "rules", monitoring / "alerts.test.yml")
    run(promtool, "check", "config", "--syntax-only", monitoring / "prometheus.yml")


def test_healthcheck(service: dict[str, Any]) -> None:
    check = [sys.executable, "-IS", str(DEPLOY / "container" / "healthcheck.py")]
    for address, status in (
        (service["http"], 0),
        ("0.0.0.0:" + service["http"].rpartition(":")[2], 0),
        ("127.0.0.1:1", 1),
    ):
        done = subprocess.run(check, env={"IOCPD_HTTP": address}, stdout=subprocess.PIPE, text=True)
        assert done.returncode == status, done.stdout


def test_drain_hook(service: dict[str, Any]) -> None:
    """It returns once the last client has gone; the service is live and not ready then."""
    hook = [sys.executable, "-IS", str(DEPLOY / "container" / "drain.py"), "--timeout", "20"]
    with Client(service["port"]) as client:
        assert client.echoes(b"here")
        draining = subprocess.Popen(hook, env={"IOCPD_HTTP": service["http"]}, stdout=subprocess.PIPE, text=True)
        assert client.read_to_end() == b""
    said, _ = draining.communicate(timeout=30)
    assert (draining.returncode, said.split()[-1]) == (0, "drained")
    with pytest.raises(urllib.error.HTTPError, match="503") as refused:
        urllib.request.urlopen(f"{service['url']}/readyz", timeout=20)
    refused.value.close()
    again = urllib.request.Request(f"{service['url']}/v1/node/drain", method="DELETE")
    urllib.request.urlopen(again, timeout=20).close()
    eventually(lambda: urllib.request.urlopen(f"{service['url']}/readyz", timeout=20).status == 200)
    # Where there is no service, a pod must still be able to end.
    assert subprocess.run(hook, env={"IOCPD_HTTP": "127.0.0.1:1"}, stderr=subprocess.PIPE).returncode == 0


# ---- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("IOCPD_"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("without_variables")
def test_systemd_unit(tool: Tool, tmp_path: Path) -> None:
    unit = DEPLOY / "systemd" / "iocpd.service"
    text = unit.read_text()
    analyze = tool("systemd-analyze")
    run(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", unit)  # an exposure of 2.0
    # It looks for the program too, which is not here.
    (tmp_path / "iocpd.service").write_text(text.replace("/opt/iocpd/bin/iocpd", "/bin/true"))
    assert run(analyze, "verify", tmp_path / "iocpd.service") == ""
    settings = load_settings({}, DEPLOY / "systemd" / "iocpd.toml")
    (patience,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", text)
    assert settings.drain_deadline + JOIN < int(patience)
    assert {"Type=notify", "WatchdogSec=30", "StateDirectory=iocpd", "RuntimeDirectory=iocpd"} <= set(text.splitlines())


def test_the_service_runs_without_writable_and_executable_memory() -> None:
    """MemoryDenyWriteExecute=yes, as the kernel has it."""
    deny = (
        "import ctypes, os, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'from iocpd.core import *\\n"
        "with Engine(EngineConfig(listeners=[ListenerConfig(port=0)])) as e: print(e.info().backend)'])"
    )
    done = subprocess.run([sys.executable, "-c", deny], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr


# ---- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[str, list[Any]]:
    """All objects of the base, by kind."""
    yaml = pytest.importorskip("yaml", reason="PyYAML, which yamllint brings along")
    base = DEPLOY / "kubernetes"
    listed = load(base / "kustomization.yaml")["resources"]
    assert sorted(listed) == sorted(path.name for path in base.iterdir() if path.name != "kustomization.yaml")
    found: dict[str, list[Any]] = {}
    for name in listed:
        for each in yaml.safe_load_all((base / name).read_text()):
            found.setdefault(each["kind"], []).append(each)
    return found


def test_kustomize(tool: Tool) -> None:
    text = run(tool("kubectl"), "kustomize", "deploy/kubernetes")
    assert "image: iocpd:0.1.0" in text


def test_kubernetes_schemas(objects: dict[str, list[Any]]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for kind, each in ((kind, each) for kind, many in objects.items() for each in many):
        if kind == "ServiceMonitor":  # the Prometheus operator's, whose schema is not there
            assert each["apiVersion"] == "monitoring.coreos.com/v1"
            assert set(each["spec"]) == {"selector", "endpoints"}
            continue
        validate.validate(each, "1.33", strict=True)


@pytest.mark.usefixtures("without_variables")
def test_a_pod_is_given_time_to_drain(objects: dict[str, list[Any]], tmp_path: Path) -> None:
    (tmp_path / "iocpd.toml").write_text(objects["ConfigMap"][0]["data"]["iocpd.toml"])
    settings = load_settings({}, tmp_path / "iocpd.toml")
    pod = objects["Deployment"][0]["spec"]["template"]["spec"]
    variables = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    hook = int(variables["IOCPD_DRAIN_TIMEOUT"])
    assert settings.drain_deadline < hook
    assert hook + JOIN < pod["terminationGracePeriodSeconds"]
    probe = pod["containers"][0]["readinessProbe"]
    assert settings.drain_lb_delay >= 2 * probe["periodSeconds"] * probe["failureThreshold"]


def test_probes_are_the_service_s_own(objects: dict[str, list[Any]], service: dict[str, Any]) -> None:
    container = objects["Deployment"][0]["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"tcp": 12345, "http": 8080}
    for name, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[name]["httpGet"] == {"path": path, "port": "http"}
        with urllib.request.urlopen(service["url"] + path, timeout=20) as answer:
            assert answer.status == 200


def test_a_pod_has_no_rights(objects: dict[str, list[Any]]) -> None:
    pod = objects["Deployment"][0]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "privileged": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_selectors_meet_labels(objects: dict[str, list[Any]]) -> None:
    labels = objects["Deployment"][0]["spec"]["template"]["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in objects["Service"]]
    selectors += [objects["PodDisruptionBudget"][0]["spec"]["selector"]["matchLabels"]]
    selectors += [objects["NetworkPolicy"][0]["spec"]["podSelector"]["matchLabels"]]
    assert all(selector.items() <= labels.items() for selector in selectors)
    monitored = objects["ServiceMonitor"][0]["spec"]["selector"]["matchLabels"]
    assert [
        each["metadata"]["name"]
        for each in objects["Service"]
        if monitored.items() <= each["metadata"]["labels"].items()
    ] == ["iocpd-api"]
