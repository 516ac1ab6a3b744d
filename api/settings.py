"""Settings: defaults, then a TOML file, then IOCPD_* variables, then flags; what comes later wins.

A setting has one name everywhere: `idle_timeout` in the file, IOCPD_IDLE_TIMEOUT in the environment, --idle-timeout as
a flag. Those of the engine are named as in `iocpd.core.EngineConfig`, which also checks their ranges.
"""

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from iocpd.api.durations import Duration
from iocpd.core import ConfigurationError, EngineConfig, ListenerConfig

_DEFAULTS = EngineConfig()

# IOCPD_* that others read: load_settings, the client and the command, the launcher, the container's drain, the build.
_OTHER_VARIABLES = frozenset(
    {"config", "url", "key", "key_file", "context", "ready_event", "stop_event", "drain_key_file", "cflags"}
)
# What somebody may take for a setting's name.
_OTHER_NAMES = {"keys": "keys_file", "port": "tcp", "listen": "tcp", "state": "state_dir"}
_KUBERNETES = re.compile(
    r"([a-z0-9_]+_)?(service_(host|port(_[a-z0-9_]+)?)=.*|port(_[0-9]+_(tcp|udp|sctp))?=(tcp|udp|sctp)://.*"
    r"|port_[0-9]+_(tcp|udp|sctp)_(proto|port|addr)=.*)"
)


class SettingsError(Exception):
    """Wrong settings; `lines` has one clear line for each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class HttpAddress(NamedTuple):
    """Where the API listens. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_http(value: object) -> HttpAddress:
    if isinstance(value, HttpAddress):
        return value
    match = (
        re.fullmatch(r"(?:\[([0-9a-fA-F:.%]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", value)
        if isinstance(value, str)
        else None
    )
    if match is None or int(match[3]) > 65535:
        raise ValueError("write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080; port 0 lets the system choose")
    return HttpAddress(match[1] or match[2], int(match[3]))


def _split_list(value: object) -> object:
    """A list in one variable: JSON, or items with commas between them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass  # an IPv6 address starts with a bracket too
    return [item.strip() for item in value.split(",") if item.strip()]


def _check_listener(text: str) -> str:
    ListenerConfig.parse(text)
    return text


def _default_state_dir() -> Path:
    if given := os.environ.get("STATE_DIRECTORY"):  # systemd's StateDirectory=
        return Path(given.split(":")[0])
    if os.name == "nt":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "iocpd"
    if os.geteuid() == 0:
        return Path("/var/lib/iocpd")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "iocpd"


class Settings(BaseSettings):
    """All settings of `iocpd serve`. Durations are in seconds here and `90s` or `5m` outside; sizes are in bytes."""

    # Variables that are no setting are left alone: Kubernetes puts IOCPD_PORT and others beside a service of that name.
    model_config = SettingsConfigDict(env_prefix="IOCPD_", env_ignore_empty=True, extra="forbid", frozen=True)

    tcp: Annotated[
        tuple[Annotated[str, AfterValidator(_check_listener)], ...],
        NoDecode,
        BeforeValidator(_split_list),
        Field(min_length=1),
    ] = ("127.0.0.1:12345/echo",)
    http: Annotated[HttpAddress, NoDecode, BeforeValidator(_parse_http)] = HttpAddress("127.0.0.1", 8080)

    backend: str = _DEFAULTS.backend
    workers: int = _DEFAULTS.workers
    busy_poll_us: int = _DEFAULTS.busy_poll_us
    max_connections: int = _DEFAULTS.max_connections
    first_byte_timeout: Duration = _DEFAULTS.first_byte_timeout
    idle_timeout: Duration = _DEFAULTS.idle_timeout
    send_soft_bytes: int = _DEFAULTS.send_soft_bytes
    send_soft_seconds: Duration = _DEFAULTS.send_soft_seconds
    send_hard_bytes: int = _DEFAULTS.send_hard_bytes
    receive_buffer_bytes: int = _DEFAULTS.receive_buffer_bytes
    receive_buffers: int = _DEFAULTS.receive_buffers
    closed_capacity: int = _DEFAULTS.closed_capacity
    inbox_capacity: int = _DEFAULTS.inbox_capacity
    relay_capacity: int = _DEFAULTS.relay_capacity

    event_capacity: int = _DEFAULTS.event_capacity
    max_bans: int = _DEFAULTS.max_bans
    max_connections_per_address: int = _DEFAULTS.max_connections_per_address
    accepts_per_s: int = _DEFAULTS.accepts_per_s
    accepts_per_s_per_address: int = _DEFAULTS.accepts_per_s_per_address

    # Messages that the API takes for one connection; 0: no limit.
    messages_per_s_per_connection: Annotated[int, Field(ge=0, le=1_000_000)] = 0

    # The drain that a signal starts, and what the API takes for a drain's options that a request leaves out.
    drain_lb_delay: Annotated[Duration, Field(le=86400)] = 0.0
    drain_grace: Annotated[Duration, Field(le=86400)] = 0.0
    drain_rate_per_s: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    drain_deadline: Annotated[Duration, Field(le=86400)] = 30.0

    http_connections: Annotated[int, Field(ge=1, le=400 if os.name == "nt" else 10_000)] = 256
    http_keep_alive: Annotated[Duration, Field(ge=1, le=3600)] = 60.0
    max_message_bytes: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024

    state_dir: Path = Field(default_factory=_default_state_dir)
    keys_file: Path | None = None

    # The record of who did what: at most audit_files files of about audit_max_bytes each.
    audit_max_bytes: Annotated[int, Field(ge=4096, le=1024**3)] = 16 * 1024 * 1024
    audit_files: Annotated[int, Field(ge=2, le=100)] = 8

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    access_log: bool = False

    _sources: tuple[Mapping[str, Any], Path | None] | None = PrivateAttr(None)
    """Flags and file that load_settings has read these from."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_message_bytes > self.send_hard_bytes:
            raise ValueError(
                f"max_message_bytes ({self.max_message_bytes}) is more than send_hard_bytes ({self.send_hard_bytes}),"
                " so that the largest message could never be queued: lower the first or raise the second"
            )
        if self.drain_lb_delay + self.drain_grace > self.drain_deadline:
            raise ValueError(
                f"drain_deadline ({self.drain_deadline:g}s) comes before drain_lb_delay and drain_grace"
                f" ({self.drain_lb_delay + self.drain_grace:g}s together) are over: raise it"
            )
        return self

    @property
    def keys_path(self) -> Path:
        """The key file: the one that was named, or the one in the state directory, which need not exist."""
        return self.keys_file or self.state_dir / "keys.json"

    @property
    def max_body_bytes(self) -> int:
        """The largest HTTP body that is read: the largest message in base64 or JSON, with what stands around it."""
        return 2 * self.max_message_bytes + 64 * 1024

    def engine_config(self) -> EngineConfig:
        """What the engine is started with; iocpd.core.ConfigurationError names a value that it refuses."""
        return EngineConfig(
            listeners=tuple(ListenerConfig.parse(text) for text in self.tcp),
            backend=self.backend,
            workers=self.workers,
            busy_poll_us=self.busy_poll_us,
            max_connections=self.max_connections,
            first_byte_timeout=self.first_byte_timeout,
            idle_timeout=self.idle_timeout,
            send_soft_bytes=self.send_soft_bytes,
            send_soft_seconds=self.send_soft_seconds,
            send_hard_bytes=self.send_hard_bytes,
            receive_buffer_bytes=self.receive_buffer_bytes,
            receive_buffers=self.receive_buffers,
            closed_capacity=self.closed_capacity,
            inbox_capacity=self.inbox_capacity,
            relay_capacity=self.relay_capacity,
            event_capacity=self.event_capacity,
            max_bans=self.max_bans,
            max_connections_per_address=self.max_connections_per_address,
            accepts_per_s=self.accepts_per_s,
            accepts_per_s_per_address=self.accepts_per_s_per_address,
        )


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Settings from all four places. `flags` has the names of settings; SettingsError says what is wrong, and where."""
    flags = dict(flags or {})
    if config is None and (named := os.environ.get("IOCPD_CONFIG")):
        config = Path(named)

    class WithFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config)

    text = _read_config(config) if config else ""
    try:
        settings = WithFile(**flags)
        settings.engine_config()
    except ValidationError as error:
        lines = [_describe(item, flags, config, text) for item in error.errors(include_url=False)]
        raise SettingsError(list(dict.fromkeys(lines))) from None
    except ConfigurationError as error:
        raise SettingsError([str(error)]) from None
    settings._sources = flags, config
    return settings


def read_again(settings: Settings) -> Settings:
    """What the same flags, variables and file say now. SettingsError."""
    if settings._sources is None:
        raise SettingsError(["the settings of this service were not read from anywhere, so they can't be read again"])
    return load_settings(*settings._sources)


def unknown_variables() -> list[str]:
    """A line for each variable that looks like a setting and is none, since a slip in its name would go unnoticed.

    What Kubernetes puts beside a service named iocpd, or iocpd-something, is no slip.
    """
    known = set(Settings.model_fields) | _OTHER_VARIABLES
    meant = {name: name for name in Settings.model_fields} | _OTHER_NAMES
    lines = []
    for variable, value in sorted(os.environ.items()):
        name = variable.lower().removeprefix("iocpd_")
        if not variable.upper().startswith("IOCPD_") or name in known or _KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        close = difflib.get_close_matches(name, meant, n=1)
        hint = f"; did you mean IOCPD_{meant[close[0]].upper()}?" if close else ""
        lines.append(f"{variable} is not a setting and changes nothing{hint}")
    return lines


def is_loopback(address: str) -> bool:
    """Whether a numeric address can be reached from this machine alone."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return ip.is_loopback


def _read_config(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
        tomllib.loads(text)
    except OSError as error:
        raise SettingsError([f"cannot read the settings file {path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"the settings file {path} is not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"the settings file {path} is not TOML: {error}"]) from None
    except RecursionError:
        raise SettingsError([f"the settings file {path} is nested too deeply"]) from None
    return text


def _describe(error: Any, flags: Mapping[str, Any], config: Path | None, text: str) -> str:
    """One of pydantic's errors as a line: where the value came from, the value, the rule."""
    rule = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return rule
    name = str(error["loc"][0])
    if name in flags:
        origin = "--keys" if name == "keys_file" else "--" + name.replace("_", "-")
    elif os.environ.get(f"IOCPD_{name.upper()}"):
        origin = f"IOCPD_{name.upper()}"
    else:
        line = next(
            (n for n, row in enumerate(text.splitlines(), 1) if re.match(rf'\s*"?{re.escape(name)}"?\s*[=.\]]', row)),
            None,
        )
        line = line or next(
            (n for n, row in enumerate(text.splitlines(), 1) if re.match(rf"\s*\[+\s*{re.escape(name)}", row)), 0
        )
        origin = f"{config}, line {line}: {name}"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return f"{origin} is not a setting" + (f"; did you mean {close[0]}?" if close else "")
    value = error["input"]
    shown = f" is {value!r}" if isinstance(value, (str, int, float)) else ""
    return f"{origin}{shown}: {rule}"
