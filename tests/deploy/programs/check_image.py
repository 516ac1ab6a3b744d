"""Runs an image in a Docker engine as an operator would: a key, health, a client, a stop that drains. Linux or Windows.

check_image.py IMAGE [--seccomp FILE]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, words
    return done.stdout.strip()


def until(holds: Any, seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--seccomp")
    options = parser.parse_args()
    config = json.loads(docker("image", "inspect", options.image))[0]
    windows = config["Os"] == "windows"
    assert config["Config"]["User"] in ("10001:10001", "ContainerUser"), config["Config"]["User"]
    assert config["Config"]["Labels"]["io.iocpd.sbom"]
    name = f"iocpd-check-{os.getpid()}"
    volume = f"{name}:{'C:/iocpd/state' if windows else '/var/lib/iocpd'}"
    hard = [] if windows else ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    if options.seccomp:
        hard += ["--security-opt", f"seccomp={options.seccomp}"]
    try:
        if windows:
            rights = ("C:\\iocpd\\state", "/grant", "ContainerUser:(OI)(CI)M")
            administrator = ("--user", "ContainerAdministrator", "--entrypoint", "icacls")
            docker("run", "--rm", *administrator, "-v", volume, options.image, *rights)
        key = docker("run", "--rm", "-v", volume, options.image, "keys", "add", "check", "--role", "admin")
        docker("run", "-d", "--name", name, "-v", volume, "-P", "--stop-timeout", "120", *hard, options.image)
        until(lambda: state(name)["Health"]["Status"] == "healthy", 120, "it does not become healthy")
        host, ports = address(name, windows)
        node = ask(f"http://{host}:{ports[8080]}/v1/node", key)
        print(node["backend"])
        if not windows:
            assert node["backend"]["name"] == ("io_uring" if options.seccomp else "epoll"), node["backend"]
        with socket.create_connection((host, ports[12345]), 20) as client:
            client.settimeout(60)
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            began = time.monotonic()
            stopping = threading.Thread(target=docker, args=("stop", "--time", "120", name))
            stopping.start()
            assert client.recv(1) == b"", "the client was not drained"
        stopping.join()
        print(f"stopped in {time.monotonic() - began:.1f} s")
        assert state(name)["ExitCode"] == 0, state(name)
        logs = subprocess.run(
            ["docker", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ).stdout
        print(logs)
        assert "1 connections drained, 0 cut off" in logs
    except BaseException:
        subprocess.run(["docker", "logs", name])
        raise
    finally:
        subprocess.run(["docker", "rm", "-f", name], stdout=subprocess.DEVNULL)
        subprocess.run(["docker", "volume", "rm", "-f", name], stdout=subprocess.DEVNULL)
    print("ok")


def state(name: str) -> Any:
    return json.loads(docker("inspect", name))[0]["State"]


def address(name: str, windows: bool) -> tuple[str, dict[int, int]]:
    """Windows' own address translation does not lead back to the machine itself, so there the container's address."""
    network = json.loads(docker("inspect", name))[0]["NetworkSettings"]
    if windows:
        return next(iter(network["Networks"].values()))["IPAddress"], {8080: 8080, 12345: 12345}
    published = {int(port.split("/")[0]): int(where[0]["HostPort"]) for port, where in network["Ports"].items()}
    return "127.0.0.1", published


def ask(url: str, key: str) -> Any:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
