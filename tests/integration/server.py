"""Runs the real `iocpd serve` in a process of its own, on Linux one that the template has become (template.py).

IOCPD_SERVE_COMMAND says how, if not with this Python: for example `winpy -m iocpd.api serve` runs the same tests
against a Windows build under Wine. IOCPD_SERVE_BACKENDS then names the backends, separated by commas (default: iocp).
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.integration.leaks import Leaks
from tests.integration.template import Forked
from tests.support import PATIENCE, Client, eventually

OVERRIDE = shlex.split(os.environ.get("IOCPD_SERVE_COMMAND", ""))
SERVE = OVERRIDE or [sys.executable, "-m", "iocpd.api", "serve"]
BACKENDS: tuple[str, ...]
if OVERRIDE:
    BACKENDS = tuple(os.environ.get("IOCPD_SERVE_BACKENDS", "iocp").split(","))
else:
    BACKENDS = ("iocp",) if sys.platform == "win32" else ("io_uring", "epoll")

# A Windows process under Wine needs seconds to begin.
START_SECONDS = 60.0


def environment(state: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without settings of iocpd that somebody left in it. Bytecode is kept: each process would compile
    all of our modules again, which takes longer than its start."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("IOCPD_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return kept | {"IOCPD_STATE_DIR": str(state), "PYTHONUNBUFFERED": "1"} | dict(extra or {})


def run(
    arguments: Sequence[str], state: Path, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `iocpd serve ARGUMENTS` to its end, which must come by itself."""
    done = subprocess.run(
        [*SERVE, *arguments],
        env=environment(state, extra),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    Leaks().check("what it wrote", (done.stdout + done.stderr).encode())
    return done


class Server:
    """An `iocpd serve` that is ready. Settings are given by their names: `Server(state, idle_timeout="1s")`.

    before: a command that runs another one, such as `prlimit --nofile=100`. anew: it is a process from its beginning,
    as for a user, and does not come from the template.
    """

    def __init__(
        self,
        state: Path,
        backend: str = "auto",
        *,
        tcp: Sequence[str] = ("127.0.0.1:0/echo",),
        arguments: Sequence[str] = (),
        key: str | None = None,
        before: Sequence[str] = (),
        anew: bool = False,
        **settings: object,
    ) -> None:
        self.leaks = Leaks()
        self._places = {state, Path(str(settings.get("state_dir", state)))}
        flags = ["--http", "127.0.0.1:0", "--backend", backend, *arguments]
        for listener in tcp:
            flags += ["--tcp", listener]
        extra = {f"IOCPD_{name.upper()}": str(value) for name, value in settings.items()}
        self._log = (state / "stderr.txt").open("w+", encoding="utf-8")
        env = environment(state, extra)
        self.process: subprocess.Popen[str] | Forked
        if anew or before or OVERRIDE or sys.platform == "win32":
            self.process = subprocess.Popen(
                [*before, *SERVE, *flags], env=env, stdout=subprocess.PIPE, stderr=self._log, text=True
            )
        else:
            self.process = Forked(["serve", *flags], env, self._log)
        self._arriving: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.lines: list[str] = []
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise
        self.ports = [int(line.split()[1].rpartition(":")[2]) for line in self.lines if line.startswith("tcp ")]
        self.url = next(re.findall(r"http://[^ ]+", line)[0] for line in self.lines if line.startswith("http "))
        self.http_port = int(self.url.rpartition(":")[2])
        Client.watchers |= dict.fromkeys(self.ports, self.leaks.note_tcp)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=PATIENCE,
            trust_env=False,
            event_hooks={"request": [self.leaks.note_request], "response": [self.leaks.check_answer]},
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arriving.put(line.rstrip("\r\n"))
        self._arriving.put(None)

    def _await_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.lines or self.lines[-1] != "ready":
            line = self._arriving.get(timeout=max(until - time.monotonic(), 0.001))
            assert line is not None, f"the server ended: {self.log()}"
            self.lines.append(line)

    @property
    def port(self) -> int:
        return self.ports[0]

    def log(self) -> str:
        """What it has written to stderr."""
        self._log.flush()
        return Path(self._log.name).read_text(encoding="utf-8")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(timeout=seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._log.close()

    def end(self) -> None:
        """Kills it if it still runs, and looks through all that it has written."""
        self.http.close()
        self.kill()
        for port in self.ports:
            Client.watchers.pop(port, None)
        self.leaks.check("stdout", "\n".join(self.lines).encode())
        self.leaks.check("the arguments", " ".join(map(str, self.process.args)).encode())  # type: ignore[arg-type]
        self.leaks.check_outputs()
        for place in self._places:
            self.leaks.check_files(place.rglob("*"))
        self.leaks.check_names(Path.cwd().iterdir())  # a core file's may have arguments in it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # --- the API ------------------------------------------------------------------------------------------------------

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET that works."""
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def everything(self, **query: Any) -> list[dict[str, Any]]:
        """All connections, page by page."""
        page = self.get("/v1/connections", **query)
        items: list[dict[str, Any]] = page["items"]
        while page["next_cursor"]:
            page = self.get("/v1/connections", cursor=page["next_cursor"], **query)
            items += page["items"]
        return items

    def count(self) -> int:
        total: int = self.get("/v1/connections", limit=1, count="exact")["total"]
        return total

    def connect(self, count: int = 1, listener: int = 0) -> list[Client]:
        """So many clients, once the service has taken all of them over."""
        before = self.count()
        clients = [Client(self.ports[listener]) for _ in range(count)]
        eventually(lambda: self.count() == before + count)
        return clients

    def id_of(self, client: Client) -> str:
        """The id of a client's connection."""

        def find() -> str | None:
            return next(
                (row["id"] for row in self.everything(limit=1000) if row["peer"]["port"] == client.address[1]), None
            )

        return eventually(find) or ""

    def closed(self, id: str) -> dict[str, Any]:
        """The record of a connection that has ended."""

        def find() -> dict[str, Any] | None:
            answer = self.http.get(f"/v1/connections/{id}")
            return answer.json()["closed"] if answer.status_code == 410 else None

        found = eventually(find)
        assert found is not None
        return found

    def broadcast(self, **body: Any) -> Any:
        """The final report of a broadcast, also of one to so many that it is a job."""
        answer = self.http.post("/v1/broadcasts", json=body)
        if answer.status_code == 200:
            return answer.json()
        assert answer.status_code == 202, answer.text

        def ended() -> Any:
            report = self.get(answer.headers["location"])
            return report if report["ended_at"] else None

        return eventually(ended, 3 * PATIENCE)

    def drain(self) -> Any:
        return self.get("/v1/node/drain")
