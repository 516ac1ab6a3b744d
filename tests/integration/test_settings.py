"""Settings: the forms that a value may have, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from iocpd.api.durations import format_duration, parse_duration
from iocpd.api.settings import HttpAddress, Settings, SettingsError, is_loopback, load_settings, unknown_variables
from iocpd.core import EngineConfig


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"IOCPD_{name.upper()}", raising=False)
    monkeypatch.delenv("IOCPD_CONFIG", raising=False)
    monkeypatch.setenv("IOCPD_STATE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("30", 30),
        (30, 30),
        (0, 0),
    ],
)
def test_durations_are_read_as_people_write_them(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5 m", "-1s", "1h30m", "soon", "1e9", "nan", True, None, float("inf"), -1, "9999d"]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_a_duration_that_is_written_can_be_read() -> None:
    assert parse_duration(format_duration(5403.4)) == 5403


def test_without_settings_the_engine_has_its_own_defaults() -> None:
    settings = load_settings()
    assert settings.engine_config() == EngineConfig(listeners=settings.engine_config().listeners)
    assert settings.tcp == ("127.0.0.1:12345/echo",)
    assert settings.http == HttpAddress("127.0.0.1", 8080)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:1/echo,[::1]:2/relay", "127.0.0.1:1/echo , [::1]:2/relay", '["127.0.0.1:1/echo", "[::1]:2/relay"]'],
)
def test_several_listeners_fit_in_one_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("IOCPD_TCP", text)
    listeners = load_settings().engine_config().listeners
    assert [(each.host, each.port, each.service) for each in listeners] == [
        ("127.0.0.1", 1, "echo"),
        ("::1", 2, "relay"),
    ]


def test_an_ipv6_listener_alone_in_a_variable_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOCPD_TCP", "[::1]:2/relay")
    assert load_settings().tcp == ("[::1]:2/relay",)


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1:80"),
        ("[::1]:0", "::1", 0, "[::1]:0"),
        ("localhost:8080", "localhost", 8080, "localhost:8080"),
    ],
)
def test_the_address_of_the_api_is_host_and_port(text: str, host: str, port: int, shown: str) -> None:
    address = load_settings({"http": text}).http
    assert (address.host, address.port, str(address)) == (host, port, shown)


def test_variables_that_belong_to_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kubernetes sets these beside a service that is named iocpd.
    monkeypatch.setenv("IOCPD_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("IOCPD_SERVICE_HOST", "10.0.0.1")
    assert load_settings().http.port == 8080


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOCPD_WORKERS", "")
    assert load_settings().workers == 0


def test_the_file_may_be_named_by_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text('tcp = ["127.0.0.1:7/discard"]\nworkers = 3\n')
    monkeypatch.setenv("IOCPD_CONFIG", str(file))
    settings = load_settings()
    assert (settings.tcp, settings.workers) == (("127.0.0.1:7/discard",), 3)


def test_each_wrong_setting_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text('workers = "x"\n\n[engine]\nbackend = "epoll"\n')
    with pytest.raises(SettingsError) as caught:
        load_settings({"http": "nowhere"}, file)
    lines = sorted(caught.value.lines)
    assert len(lines) == 3
    assert lines[0].startswith("--http is 'nowhere': write HOST:PORT")
    assert "line 1: workers is 'x'" in lines[1]
    assert "line 3: engine is not a setting" in lines[2]


def test_what_is_nested_too_deeply_is_a_wrong_setting(tmp_path: Path) -> None:
    file = tmp_path / "iocpd.toml"
    file.write_text("tcp = " + "[" * 100_000)
    with pytest.raises(SettingsError, match="nested too deeply"):
        load_settings({}, file)
    with pytest.raises(SettingsError, match="--tcp"):
        load_settings({"tcp": "[" * 100_000})


def test_a_deadline_before_the_end_of_the_grace_is_refused() -> None:
    with pytest.raises(SettingsError, match="drain_deadline"):
        load_settings({"drain_grace": "1m", "drain_deadline": "30s"})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("IOCPD_KEYS", "IOCPD_KEYS_FILE"),
        ("IOCPD_PROT", "IOCPD_TCP"),
        ("IOCPD_PORT", "IOCPD_TCP"),
        ("IOCPD_IDLE_TIMOUT", "IOCPD_IDLE_TIMEOUT"),
        ("IOCPD_STATE", "IOCPD_STATE_DIR"),
        ("IOCPD_QQ", None),
    ],
)
def test_a_variable_that_is_no_setting_is_told_with_what_may_be_meant(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str | None
) -> None:
    before = unknown_variables()
    monkeypatch.setenv(variable, "7000")
    (line,) = set(unknown_variables()) - set(before)
    assert line.startswith(f"{variable} is not a setting")
    assert line.endswith(f"did you mean {meant}?") if meant else "did you mean" not in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IOCPD_IDLE_TIMEOUT", "5m"),
        ("IOCPD_CONFIG", "iocpd.toml"),
        ("IOCPD_URL", "http://127.0.0.1:8080"),
        ("IOCPD_STOP_EVENT", "iocpd-stop-1"),
        # As Kubernetes sets them for services named iocpd and iocpd-metrics.
        ("IOCPD_SERVICE_HOST", "10.0.0.1"),
        ("IOCPD_SERVICE_PORT", "7000"),
        ("IOCPD_SERVICE_PORT_HTTP", "8080"),
        ("IOCPD_PORT", "tcp://10.0.0.1:7000"),
        ("IOCPD_PORT_7000_TCP", "tcp://10.0.0.1:7000"),
        ("IOCPD_PORT_7000_TCP_PROTO", "tcp"),
        ("IOCPD_PORT_7000_TCP_PORT", "7000"),
        ("IOCPD_PORT_7000_TCP_ADDR", "10.0.0.1"),
        ("IOCPD_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("IOCPD_METRICS_PORT", "tcp://10.0.0.1:9090"),
    ],
)
def test_a_variable_that_somebody_reads_is_no_slip(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.delenv(variable, raising=False)
    before = unknown_variables()
    monkeypatch.setenv(variable, value)
    assert unknown_variables() == before
