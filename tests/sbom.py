"""A CycloneDX list of the Python packages that are installed: `python -m tests.sbom requirements-run.lock > list.json`.

Packages that the lock file does not name are there for developers: they get the scope "excluded".
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def normalised(name: str) -> str:
    """A package's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: Path) -> set[str]:
    """The names in a lock file."""
    return {normalised(name) for name in re.findall(r"^([\w.-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)}


def bom(installed: Iterable[Distribution], needed: set[str]) -> Bom:
    """The list; `needed` are the names of what the program runs with."""
    listed = Bom()
    listed.metadata.component = Component(name="dokocos", bom_ref="dokocos", type=ComponentType.APPLICATION)
    packages = {normalised(package.metadata["Name"]): package for package in installed}
    for name, package in sorted(packages.items()):
        purl = PackageURL(type="pypi", name=name, version=package.version)
        licences = package.metadata.get_all("License-Expression") or []
        component = Component(
            type=ComponentType.LIBRARY,
            bom_ref=str(purl),
            name=name,
            version=package.version,
            purl=purl,
            scope=ComponentScope.REQUIRED if name in needed else ComponentScope.EXCLUDED,
            licenses=[LicenseExpression(licence) for licence in licences],
        )
        listed.components.add(component)
        listed.register_dependency(listed.metadata.component, [component])
    return listed


if __name__ == "__main__":
    print(JsonV1Dot6(bom(distributions(), locked(Path(sys.argv[1])))).output_as_string(indent=2))
