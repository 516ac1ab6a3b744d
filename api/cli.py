"""The `iocpd` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from iocpd.api.version import version

# What argparse gives its own errors too.
WRONG_USAGE = 2
FAILED = 1

_DESCRIPTION = "A TCP service on a completion port, and an HTTP API to steer it while it runs."

_EXAMPLES = """examples:
  iocpd serve                                        an echo service on 127.0.0.1:12345, the API on 127.0.0.1:8080
  iocpd serve --tcp 0.0.0.0:7000/echo --tcp [::1]:7001/relay --workers 2
  iocpd serve --config iocpd.toml --idle-timeout 5m
  iocpd keys add alice --role operator               prints the new key, once
  curl http://127.0.0.1:8080/v1/connections
  curl -X DELETE 'http://127.0.0.1:8080/v1/connections/ID?reason=maintenance&farewell=bye'
  curl -X POST http://127.0.0.1:8080/v1/node/shutdown
"""

_SERVE_EXAMPLES = """\
Every setting has one name: --idle-timeout here, IOCPD_IDLE_TIMEOUT in the environment, idle_timeout in the file.
Flags win over the environment, the environment wins over the file. Durations are 250ms, 90s, 5m, 2h, 1d or plain
seconds.

examples:
  iocpd serve --tcp 127.0.0.1:7000/echo --http 127.0.0.1:0
  IOCPD_TCP=0.0.0.0:7000/echo,0.0.0.0:7001/discard iocpd serve --backend epoll
  iocpd serve --config /etc/iocpd.toml
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage in front of it."""
        self.exit(WRONG_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments, or the process's; the exit status."""
    arguments = vars(_parser().parse_args(argv))
    run = arguments.pop("run")
    try:
        status: int = run(arguments)
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="iocpd", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"iocpd {version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_serve(commands)
    _add_keys(commands)
    return parser


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="run the service and its API",
        description="Runs the TCP service and its management API in one process.",
        epilog=_SERVE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=_serve)
    parser.add_argument(
        "--tcp", action="append", metavar="HOST:PORT[/SERVICE]", help="listen here; echo, discard or relay; repeatable"
    )
    parser.add_argument("--http", metavar="HOST:PORT", help="where the API listens (127.0.0.1:8080)")
    parser.add_argument("--backend", metavar="NAME", help="auto, iocp, io_uring or epoll (auto)")
    parser.add_argument(
        "--workers", metavar="N", help="threads with a completion port each (0: one for each processor)"
    )
    parser.add_argument("--max-connections", metavar="N", help="TCP connections in all")
    parser.add_argument("--first-byte-timeout", metavar="TIME", help="end who has not sent anything by then (0: never)")
    parser.add_argument("--idle-timeout", metavar="TIME", help="end who is silent for so long (0: never)")
    parser.add_argument("--drain-deadline", metavar="TIME", help="after a signal, cut off who is left by then (30s)")
    parser.add_argument("--keys", dest="keys_file", metavar="FILE", help="the key file; it must exist")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (info)")
    _add_config(parser)


def _add_keys(commands: Any) -> None:
    parser = commands.add_parser("keys", help="make, list and revoke keys for the API")
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    add = actions.add_parser(
        "add",
        help="make a key and print it, once",
        description="Makes a key and prints it; only its hash is stored. A running service must be started again.",
        argument_default=argparse.SUPPRESS,
    )
    add.set_defaults(run=_add_key)
    add.add_argument("name", metavar="NAME", help="who or what will use it; stands in the log")
    what = add.add_mutually_exclusive_group(required=True)
    what.add_argument("--role", choices=("viewer", "operator", "admin"), help="a bundle of scopes")
    what.add_argument(
        "--scope", action="append", metavar="SCOPE", help="one scope, such as connections:read; repeatable"
    )

    listing = actions.add_parser("list", help="list names, roles and scopes", argument_default=argparse.SUPPRESS)
    listing.set_defaults(run=_list_keys)

    revoke = actions.add_parser("revoke", help="remove a key", argument_default=argparse.SUPPRESS)
    revoke.set_defaults(run=_revoke_key)
    revoke.add_argument("name", metavar="NAME")

    for action in (add, listing, revoke):
        action.add_argument(
            "--keys", dest="keys_file", metavar="FILE", help="the key file (keys.json in the state directory)"
        )
        _add_config(action)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE.toml", help="read settings from this file")


def _serve(arguments: dict[str, Any]) -> int:
    # Imported late, so that --help and --version answer at once.
    from iocpd.api.server import StartFailure, serve

    settings = _settings(arguments)
    if settings is None:
        return WRONG_USAGE
    try:
        return serve(settings)
    except StartFailure as error:
        return _complain(str(error))


def _add_key(arguments: dict[str, Any]) -> int:
    from iocpd.api.keys import KeyFileError, add_key

    name, role, scopes = arguments.pop("name"), arguments.pop("role", None), arguments.pop("scope", ())
    settings = _settings(arguments)
    if settings is None:
        return WRONG_USAGE
    try:
        key = add_key(settings.keys_path, name, role=role, scopes=tuple(scopes))
    except KeyFileError as error:
        return _complain(str(error))
    print(key)
    print(f"iocpd: the hash of {name!r} is in {settings.keys_path}; the key itself is shown only now", file=sys.stderr)
    return 0


def _list_keys(arguments: dict[str, Any]) -> int:
    from iocpd.api.keys import KeyFileError, KeyFileMissing, read_keys

    settings = _settings(arguments)
    if settings is None:
        return WRONG_USAGE
    try:
        records = read_keys(settings.keys_path)
    except KeyFileMissing:
        records = []
    except KeyFileError as error:
        return _complain(str(error))
    for record in records:
        print(record.name, record.role or ",".join(record.scopes), record.created_at.isoformat(), sep="\t")
    return 0


def _revoke_key(arguments: dict[str, Any]) -> int:
    from iocpd.api.keys import KeyFileError, revoke_key

    name = arguments.pop("name")
    settings = _settings(arguments)
    if settings is None:
        return WRONG_USAGE
    try:
        revoke_key(settings.keys_path, name)
    except KeyFileError as error:
        return _complain(str(error))
    print(f"iocpd: {name!r} is revoked; a running service forgets it when it is started again", file=sys.stderr)
    return 0


def _settings(arguments: dict[str, Any]) -> Any:
    """The settings, or None once what is wrong with them has been said."""
    from iocpd.api.settings import SettingsError, load_settings

    config = arguments.pop("config", None)
    try:
        return load_settings(arguments, Path(config) if config else None)
    except SettingsError as error:
        for line in error.lines:
            _complain(line)
        return None


def _complain(line: str) -> int:
    print(f"iocpd: {line}", file=sys.stderr)
    return FAILED
