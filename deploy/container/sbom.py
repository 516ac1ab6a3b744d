"""Prints what an installation consists of, as a CycloneDX document: the Python packages that this Python sees, Python
itself, and the packages of a Debian base.

    python sbom.py [--debian STATUS_FILE] > sbom.cdx.json

Run it with the Python of the installation. SOURCE_DATE_EPOCH is honoured; the serial number comes from the content.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Component = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--debian", type=Path, default=Path("/var/lib/dpkg/status"))
    options = parser.parse_args()
    packages = {component["purl"]: component for component in _python_packages()}
    (service,) = (each for each in packages.values() if each["name"] == "iocpd")
    others = [each for each in packages.values() if each is not service]
    components = [*others, _python(), *_debian_packages(options.debian)]
    components.sort(key=lambda component: str(component["purl"]))
    content = json.dumps([service, components], sort_keys=True)
    now = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.now(UTC).timestamp()), UTC)
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(hashlib.sha256(content.encode()).hexdigest()[:32])}",
        "version": 1,
        "metadata": {"timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": service | {"type": "application"}},
        "components": components,
    }
    json.dump(document, sys.stdout, indent=1)
    print()


def _python_packages() -> list[Component]:
    found = []
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        purl = f"pkg:pypi/{name}@{distribution.version}"
        component: Component = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": distribution.version,
            "purl": purl,
        }
        if license := distribution.metadata.get("License-Expression"):
            component["licenses"] = [{"expression": license}]
        found.append(component)
    return found


def _python() -> Component:
    purl = f"pkg:generic/python@{platform.python_version()}"
    return {"type": "framework", "bom-ref": purl, "name": "python", "version": platform.python_version(), "purl": purl}


def _debian_packages(status: Path) -> list[Component]:
    if not status.exists():
        return []
    found = []
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Version|Architecture|Status): (.*)$", paragraph))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        purl = f"pkg:deb/debian/{fields['Package']}@{fields['Version']}?arch={fields['Architecture']}".replace(
            "+", "%2B"
        )
        found.append(
            {"type": "library", "bom-ref": purl, "name": fields["Package"], "version": fields["Version"], "purl": purl}
        )
    return found


if __name__ == "__main__":
    main()
