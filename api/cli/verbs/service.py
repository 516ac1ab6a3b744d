"""The service of Windows: service install, start, stop, remove, status."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iocpd.api.cli.command import HERE, app, group, verb
from iocpd.api.cli.console import ask, console, for_people
from iocpd.api.cli.options import Output, YesOption, time_option
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, Stop, complain
from iocpd.api.cli.verbs.serve import settings_of

if TYPE_CHECKING:
    from iocpd.api.cli.winservice.machine import Machine
    from iocpd.api.cli.winservice.scm import Condition, Manager
    from iocpd.api.settings import Settings

service = group(
    "service",
    panel=HERE,
    help="Install, run and remove the Windows service.\n\n"
    "iocpd-launcher.exe hosts it: Running once its listeners are up, and a stop drains. All but status need a prompt of"
    " an administrator. On Linux systemd does this: see deploy/systemd.",
)

NameOption = Annotated[str, typer.Option("--name", metavar="NAME", help="of the service")]
PatienceOption = Annotated[
    float | None, time_option("--patience", least=1, most=86400, help="wait no longer; else while it goes on")
]

_NO_WINDOWS = (
    "there are no Windows services on this system: let systemd run `iocpd serve`, with deploy/systemd/iocpd.service"
)


@verb(
    "install",
    of=service,
    panel=HERE,
    examples=[
        "iocpd service install -- --tcp 0.0.0.0:12345/echo --http 127.0.0.1:8080",
        r"iocpd service install --firewall -- --config C:\ProgramData\iocpd\iocpd.toml",
        r"iocpd service install --name relay --delayed -- --tcp [::]:7000/relay --state-dir D:\relay",
    ],
    notes="What follows -- is for `iocpd serve`, and is checked now. The service starts with Windows and runs as"
    " NT SERVICE\\NAME: an account that Windows makes for it alone, and that gets rights on the state folder. After a"
    " failure it is restarted after 5 s, 30 s, and then each 2 minutes. `iocpd service start` starts it now.",
)
def install(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGS]...", help="of `iocpd serve`, paths as whole ones")
    ] = None,
    name: NameOption = "iocpd",
    launcher: Annotated[
        Path | None, typer.Option("--launcher", metavar="FILE", help="iocpd-launcher.exe (the one beside iocpd.exe)")
    ] = None,
    grace: Annotated[
        int | None,
        typer.Option("--grace", metavar="SECONDS", help="kill it when a stop takes longer (drain_deadline and 30)"),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="its output (service.log in the state folder)")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option("--account", metavar="ACCOUNT", help=r"to run as (NT SERVICE\NAME); a password is asked for"),
    ] = None,
    delayed: Annotated[bool, typer.Option("--delayed", help="start it some minutes after Windows")] = False,
    firewall: Annotated[
        bool, typer.Option("--firewall", help="let others reach its TCP ports; the API's stays closed")
    ] = False,
) -> int:
    """Make the service; it starts with Windows from then on."""
    manager, machine = here()
    from iocpd.api.cli.winservice import plan, steps

    plan.check_name(name)
    settings = _settings(arguments or [])
    if settings is None:
        return Status.USAGE
    made = plan.make_plan(
        name,
        settings,
        arguments or [],
        launcher=launcher,
        grace=grace,
        log=log and log.absolute(),
        account=account,
        delayed=delayed,
        firewall=firewall,
    )
    for missing in _not_installed(settings):
        complain(missing)
    if plan.needs_password(made.account):
        made = replace(made, password=_password(made.account))
    was_there = made.state_dir.exists()
    unknown = steps.install(manager, machine, made)
    _say(f"the service {name} is installed; it runs as {made.account} and writes {made.log}")
    if was_there:
        _say(f"{made.state_dir} was there: only the system, administrators and the service have rights on it now")
    for what in unknown:
        complain(f"this system does not know {what}: left out")
    for warning in _warnings(made):
        complain(warning)
    return Status.DONE


@verb(
    "start",
    of=service,
    panel=HERE,
    examples=["iocpd service start", "iocpd service start --name relay --patience 60"],
    notes="It waits until the listeners are up. One that runs already is left as it is.",
)
def start(name: NameOption = "iocpd", patience: PatienceOption = None) -> int:
    """Start it, and wait until it runs."""
    manager, _ = here()
    from iocpd.api.cli.winservice import steps

    with _telling(name) as tell:
        last = steps.start(manager, name, tell, patience or _NO_END)
    _say(f"the service {name} runs, process {last.pid}")
    return Status.DONE


@verb(
    "stop",
    of=service,
    panel=HERE,
    examples=["iocpd service stop", "iocpd service stop --patience 30"],
    notes="It drains, which drain_deadline bounds. One that does not run is left as it is.",
)
def stop(name: NameOption = "iocpd", patience: PatienceOption = None) -> int:
    """Stop it, and wait until it has drained."""
    manager, _ = here()
    from iocpd.api.cli.winservice import steps

    with _telling(name) as tell:
        last = steps.stop(manager, name, tell, patience or _NO_END)
    _say(f"the service {name} is stopped; it ended {last.ending}")
    return Status.DONE


@verb(
    "remove",
    of=service,
    panel=HERE,
    examples=["iocpd service remove", "iocpd service remove --name relay --yes"],
    notes="With its firewall rule and its source in the event log. The state folder stays: keys, bans, audit, log.",
)
def remove(name: NameOption = "iocpd", patience: PatienceOption = None, yes: YesOption = False) -> int:
    """Stop it and take it away. It asks before."""
    manager, machine = here()
    from iocpd.api.cli.winservice import steps
    from iocpd.api.cli.winservice.scm import State

    steps.ours(manager, name)
    found = manager.condition(name)
    running = found.state is not State.STOPPED
    ask(f"Stop the service {name}, process {found.pid}, and remove it?" if running else f"Remove {name}?", yes=yes)
    with _telling(name) as tell:
        left = steps.remove(manager, machine, name, tell, patience or _NO_END)
    _say(f"the service {name} is removed; its state folder is still there")
    for what in left:
        complain(what)
    return Status.PARTIAL if left else Status.DONE


@verb("status", of=service, panel=HERE, examples=["iocpd service status", "iocpd service status --json | jq .state"])
def status(output: Output, name: NameOption = "iocpd") -> int:
    """Show its state, and how it is set up."""
    manager, _ = here()
    found, config = manager.condition(name), manager.config(name)
    shown: dict[str, Any] = {
        "name": name,
        "state": found.state.text,
        "pid": found.pid or None,
        "win32_exit_code": found.error,
        "service_exit_code": found.status,
        "checkpoint": found.checkpoint,
        "wait_hint_ms": found.wait_hint_ms,
        "start_type": config.start_type,
        "account": config.account,
        "bin_path": config.command,
    }
    if output.json or not for_people():
        print(safe_json(shown))
        return Status.DONE
    from rich.text import Text

    from iocpd.api.cli.listing import grid

    table = grid(["", ""], [False, False])
    table.show_header = False
    for member, value in shown.items():
        table.add_row(Text(member.replace("_", " "), style="dim"), Text("-" if value is None else safe(str(value))))
    console(no_color=output.no_color).print(table)
    return Status.DONE


_NO_END = float("inf")


def here() -> tuple[Manager, Machine]:
    """This system's. Stop where there is none."""
    if sys.platform != "win32":
        raise Stop(_NO_WINDOWS, Status.REFUSED)
    from iocpd.api.cli.winservice.machine import NativeMachine
    from iocpd.api.cli.winservice.native import NativeManager

    return NativeManager(), NativeMachine()


def _settings(arguments: list[str]) -> Settings | None:
    """What `iocpd serve` would make of these arguments as a service, which has no variables of this session."""
    from iocpd.api.settings import Settings

    serve: Any = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    given: dict[str, Any] = serve.make_context("iocpd serve", list(arguments)).params
    config = given.pop("config")
    if config is not None and not Path(config).is_absolute():
        raise Stop(
            f"--config is {config}: a service starts in the system's folder, so write the whole path", Status.USAGE
        )
    names = ("IOCPD_CONFIG", *(f"IOCPD_{name.upper()}" for name in Settings.model_fields))
    variables = {name: os.environ.pop(name) for name in names if name in os.environ}
    for name in variables:
        complain(f"{name} is set here and not for the service: write it behind --, or set it for the whole machine")
    try:
        flags = {name: value for name, value in given.items() if value not in (None, [], ())}
        return settings_of(flags, config and Path(config))
    finally:
        os.environ.update(variables)


def _not_installed(settings: Settings) -> Iterator[str]:
    """Modules of services in Python that are found from here and would not be by the service."""
    for listener in settings.engine_config().listeners:
        if not listener.in_python:
            continue
        module = listener.service_name.split(":")[1].partition(".")[0]
        look = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
        # Isolated: without the current folder, PYTHONPATH and packages of this user, which the service's account lacks.
        if subprocess.run([sys.executable, "-I", "-c", look, module], check=False).returncode:
            yield (
                f"{listener.service_name}: {module} is not installed beside iocpd, and the service sees neither this"
                f" folder nor a PYTHONPATH of yours: `pip install` it with {sys.executable}"
            )


def _say(line: str) -> None:
    console(stderr=True).print(safe(line), soft_wrap=True)


def _password(account: str) -> str:
    import getpass

    if not sys.stdin.isatty():
        raise Stop(f"the password of {account} can be asked for on a terminal alone", Status.USAGE)
    return getpass.getpass(f"Password of {account}: ")


def _warnings(plan: Any) -> Iterator[str]:
    from iocpd.api.cli.winservice.binary import quoted
    from iocpd.api.cli.winservice.plan import needs_password, virtual_account

    if needs_password(plan.account):
        yield f"{plan.account} needs the right to log on as a service: Local Security Policy, User Rights Assignment"
    home = os.environ.get("USERPROFILE", "")
    if inside := [str(path) for path in plan.programs if home and path.is_relative_to(home)]:
        text = "which other accounts can't read: install Python and iocpd for all users"
        yield f"{' and '.join(inside)} {'is' if len(inside) == 1 else 'are'} in your profile, {text}"
    if not plan.keys.is_relative_to(plan.state_dir):
        # Whatever account it runs as, a service is this one as well.
        way_out = f'`icacls {quoted(str(plan.keys.parent))} /grant "{virtual_account(plan.name)}:(OI)(CI)M"` gives both'
        needs = f"needs the right to read {plan.keys}, and for keys over the API to change its folder"
        yield f"the service {needs}: {way_out}"
    if plan.log.parent != plan.state_dir:
        yield f"{plan.account} needs the right to write in {plan.log.parent}, where the log is"


@contextlib.contextmanager
def _telling(name: str) -> Iterator[Callable[[Condition], None]]:
    """Shows each state and checkpoint: in one place on a terminal, else on lines of their own."""
    screen = console(stderr=True)

    def line(found: Condition) -> str:
        checkpoint = f", checkpoint {found.checkpoint}" if found.checkpoint else ""
        return f"{name}: {found.state.text}{checkpoint}"

    try:
        if not screen.is_terminal:
            yield lambda found: _say(line(found))
            return
        with screen.status(name) as shown:
            yield lambda found: shown.update(line(found))
    except KeyboardInterrupt:
        complain(f"what {name} does goes on; `iocpd service status --name {name}` shows how far it is")
        raise
