"""Runs an installed iocpd: the engine on its best port, `iocpd serve` and its answer. For wheels, on machines of CI."""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request

from iocpd.core import BackendUnavailable, Engine, EngineConfig, ListenerConfig, _native, probe


def main() -> None:
    print(sys.version, _native.__file__)
    if sys.platform == "linux":
        try:
            probe("io_uring")
        except BackendUnavailable as error:
            if "built without" in str(error):
                raise
            print(error)
    with Engine(EngineConfig(listeners=[ListenerConfig(port=0)])) as engine:
        print(engine.info().backend, engine.info().backend_reason)
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "iocpd.api", "serve", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        process = subprocess.Popen([*command], stdout=subprocess.PIPE, text=True, cwd=state)
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready"):
                break
        (url,) = re.findall(r"(?m)^http (\S+)", "".join(said))
        with urllib.request.urlopen(f"{url}/v1/node", timeout=20) as answer:
            print(json.load(answer)["backend"])
        request = urllib.request.Request(f"{url}/v1/node/shutdown", b"{}", {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=20).close()
        assert process.wait(60) == 0
    print("ok")


if __name__ == "__main__":
    main()
