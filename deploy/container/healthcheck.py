"""The container's HEALTHCHECK: status 0 while the API says that the process is live, else 1. No key is needed.

Live and not ready: a drain that an operator has begun must not have the container restarted.
"""

import http.client
import os
import sys


def main() -> int:
    host, _, port = (os.environ.get("IOCPD_HTTP") or "127.0.0.1:8080").rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=2.5)
        connection.request("GET", os.environ.get("IOCPD_HEALTH_PATH", "/livez"))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"no answer from {host}:{port}: {error}")
        return 1
    print(f"{host}:{port} answers {status}")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
