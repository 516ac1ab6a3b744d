"""`iocpd context`: several servers by name; and `iocpd completion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iocpd.api.cli import contexts
from iocpd.api.cli.command import HERE, group, verb
from iocpd.api.cli.console import console, for_people
from iocpd.api.cli.listing import grid
from iocpd.api.cli.options import Output
from iocpd.api.cli.safe import safe, safe_json
from iocpd.api.cli.statuses import Status, Stop

context = group(
    "context",
    panel=HERE,
    help="Servers by name, so that no address and no key has to be typed.\n\n"
    "A verb asks the first that is given of --url, --context, IOCPD_URL, IOCPD_CONTEXT and the context in use; else "
    "http://127.0.0.1:8080.",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


@verb(
    "add",
    of=context,
    panel=HERE,
    examples=[
        "iocpd context add prod --url https://10.0.0.5:8443 --key-file ~/prod.key",
        "iocpd context add staging --url http://10.0.1.5:8080 --key-env STAGING_KEY",
        "iocpd context add lab --url http://10.0.2.5:8080 --ask-key     keeps it in a file of its own",
    ],
    notes="The first one is in use at once. A name that there is already is replaced.",
)
def add(
    name: NameArgument,
    url: Annotated[str, typer.Option("--url", metavar="URL", help="where its API is")],
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="its first line is the key")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", metavar="VARIABLE", help="of the environment, that has the key")
    ] = None,
    ask_key: Annotated[bool, typer.Option("--ask-key", help="ask for the key on the terminal, and keep it")] = False,
) -> None:
    """Add a server, or change it."""
    from iocpd.api.client import Client

    if sum((key_file is not None, key_env is not None, ask_key)) > 1:
        raise Stop("give one of --key-file, --key-env and --ask-key", Status.USAGE)
    key = contexts.ask_key() if ask_key else None
    Client(url, key=key or "").close()  # SetupError for what is none
    path = None if key_file is None else str(key_file.expanduser().absolute())
    made = contexts.add(name, contexts.Server(url, key_file=path, key_env=key_env), key=key)
    print(f"{name} is {safe(url)}{', and in use' if made.current == name else ''}")


@verb("use", of=context, panel=HERE, examples=["iocpd context use prod"])
def use(name: NameArgument) -> None:
    """Ask this server from now on where none is named."""
    contexts.use(name)
    print(f"{name} is in use")


@verb("list", of=context, panel=HERE, examples=["iocpd context list", "iocpd context list --json"])
def list_contexts(output: Output) -> None:
    """List the servers, and which one is in use."""
    known = contexts.load()
    if output.json:
        for name, server in known.servers.items():
            print(safe_json({"name": name, "url": server.url, "key": _key(server), "in_use": name == known.current}))
    elif not for_people():
        for name, server in known.servers.items():
            print("\t".join(map(safe, (name, server.url, _key(server), "in use" if name == known.current else ""))))
    elif not known.servers:
        console(no_color=output.no_color).print("no contexts; `iocpd context add` makes one", style="dim")
    else:
        table = grid(["", "NAME", "URL", "KEY"], [False] * 4)
        for name, server in known.servers.items():
            mark = "*" if name == known.current else ""
            table.add_row(mark, safe(name), safe(server.url), safe(_key(server)), style="bold" if mark else "")
        console(no_color=output.no_color).print(table)


@verb("remove", of=context, panel=HERE, examples=["iocpd context remove staging"])
def remove(name: NameArgument) -> None:
    """Forget a server, and the key that was kept for it."""
    contexts.remove(name)
    print(f"{name} is forgotten")


def _key(server: contexts.Server) -> str:
    if server.key_env:
        return f"${server.key_env}"
    return server.key_file or "none"


@verb(
    "completion",
    panel=HERE,
    examples=[
        "iocpd completion bash > ~/.local/share/bash-completion/completions/iocpd",
        "iocpd completion zsh > ~/.zfunc/_iocpd",
        "iocpd completion fish > ~/.config/fish/completions/iocpd.fish",
        "iocpd completion powershell >> $PROFILE",
    ],
)
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish|powershell", help="the shell that it is for")],
) -> None:
    """Print the script by which a shell completes verbs and options."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in ("bash", "zsh", "fish", "powershell", "pwsh"):
        raise Stop(f"there is no completion for {safe(shell)!r}: write bash, zsh, fish or powershell", Status.USAGE)
    print(get_completion_script(prog_name="iocpd", complete_var="_IOCPD_COMPLETE", shell=shell))
