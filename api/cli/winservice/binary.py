"""The command line of the service, as the service control manager keeps it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from iocpd.api.cli.statuses import Status, Stop

# QueryServiceConfigW gives at most 8 KiB in all, in UTF-16.
_LONGEST = 3000
# The manager keeps the line as REG_EXPAND_SZ, in which nothing can be escaped.
_EXPANDED = re.compile(r"%[^%]+%")


def quoted(word: str, *, always: bool = False) -> str:
    """The word as CommandLineToArgvW and Python's own start read it back."""
    if word and not always and not re.search(r'[\s"]', word):
        return word
    # Backslashes count only before a quote, the closing one too.
    doubled = re.sub(r'(\\*)"', r'\1\1\\"', word)
    doubled = re.sub(r"(\\+)$", r"\1\1", doubled)
    return f'"{doubled}"'


def command_line(launcher: str, python: str, name: str, grace: int, log: str, arguments: Sequence[str]) -> str:
    """The launcher, its options, and behind `--` the program that it starts. Stop if that can't be said in one."""
    for path in (launcher, python, log):
        if '"' in path:
            raise Stop(f"{path}: there is no way to write a quote in a path", Status.USAGE)
    # In the launcher's options quotes only group, and nothing is escaped.
    options = [f"--service={name}", f"--grace={grace}", f'"--log={log}"' if re.search(r"\s", log) else f"--log={log}"]
    program = [quoted(python, always=True), "-m", "iocpd.api", "serve", *map(quoted, arguments)]
    line = " ".join([quoted(launcher, always=True), *options, "--", *program])
    if found := _EXPANDED.search(line):
        raise Stop(f"{found[0]}: Windows would put a variable in its place, and nothing prevents that", Status.USAGE)
    if re.search(r"[\x00-\x1f\x7f]", line):
        raise Stop("the arguments have a control character among them", Status.USAGE)
    if len(line) > _LONGEST:
        text = f"the command line has {len(line):,} characters and at most {_LONGEST:,} have room: use --config"
        raise Stop(text, Status.USAGE)
    return line


def words_of(line: str) -> list[str]:
    """The options of a service's command line, without what the launcher starts."""
    words = re.findall(r'(?:"[^"]*"|[^\s"])+', line)
    end = words.index("--") if "--" in words else len(words)
    return [word.replace('"', "") for word in words[:end]]


def is_ours(line: str, name: str) -> bool:
    """Whether the launcher hosts it."""
    return f"--service={name}".lower() in map(str.lower, words_of(line)[1:])


def option_of(line: str, option: str) -> str | None:
    """What the launcher is given as --log or --grace."""
    prefix = f"--{option}="
    return next((word.removeprefix(prefix) for word in words_of(line)[1:] if word.startswith(prefix)), None)
