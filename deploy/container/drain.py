"""Kubernetes' preStop: begins a drain and returns when it is over, or after a time.

The status is 0 in any case but a wrong call: what stops a pod must not fail.

    drain.py [--key-file FILE] [--timeout SECONDS]

The key needs node:drain and node:read (an operator's). IOCPD_DRAIN_KEY_FILE and IOCPD_DRAIN_TIMEOUT say the same. How
long the drain's phases last is the service's own setting (drain_lb_delay, drain_grace, drain_deadline).
"""

import argparse
import http.client
import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--key-file", default=os.environ.get("IOCPD_DRAIN_KEY_FILE"))
    parser.add_argument("--timeout", type=float, default=os.environ.get("IOCPD_DRAIN_TIMEOUT", "120"))
    options = parser.parse_args()
    until = time.monotonic() + options.timeout
    try:
        phase = ask("PUT", options.key_file, "{}")
        print(f"drain: {phase}", flush=True)
        while phase != "drained" and time.monotonic() < until:
            time.sleep(0.5)
            phase = ask("GET", options.key_file)
        print(f"drain: {phase}")
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        print(f"drain: {error}; the signal that follows begins one", file=sys.stderr)
    return 0


def ask(method: str, key_file: str | None, body: str | None = None) -> str:
    """The drain's phase."""
    headers = {"content-type": "application/json"}
    if key_file:
        headers["authorization"] = f"Bearer {Path(key_file).read_text().strip()}"
    host, _, port = (os.environ.get("IOCPD_HTTP") or "127.0.0.1:8080").rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request(method, "/v1/node/drain", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status >= 300:
        raise ValueError(f"{response.status} {answer.get('title')}: {answer.get('detail')}")
    return str(answer["phase"])


if __name__ == "__main__":
    sys.exit(main())
