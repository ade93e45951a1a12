"""Checks of Python, packages and Java."""

import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version

import torch

from erecap.profiling.doctor.finding import Check
from erecap.profiling.doctor.ranges import Requirement, supported_ranges

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""Packages that everything needs, measurements on a bare machine too."""

_JAVA_REMEDY = "needed by ScienceWorld and TextWorld-Express only: install a Java runtime (Debian, Ubuntu: default-jre-headless)"


def check_python(device: torch.device) -> list[Check]:
    """Check Python against the supported range."""
    bounds, _ = supported_ranges()
    found = f"{platform.python_version()} ({sys.executable})"
    if Requirement("python", bounds).allows(platform.python_version()):
        return [Check("python", "ok", found)]
    return [Check("python", "error", found, f"use Python {bounds}: make setup PYTHON=/path/to/python3.11")]


def check_packages(device: torch.device) -> list[Check]:
    """Check the packages of every installation one by one, and those of each extra together."""
    _, requirements = supported_ranges()
    if not requirements:
        known = [Requirement(name, "") for name in NEEDED]
        unknown = Check("package ranges", "warning", "neither pyproject.toml nor metadata of erecap", "pip install erecap")
        return [unknown, *(_package(requirement) for requirement in known)]
    extras = defaultdict[str, list[Requirement]](list)
    for requirement in requirements:
        if requirement.extra and requirement.name != "erecap":
            extras[requirement.extra].append(requirement)
    return [
        *(_package(requirement) for requirement in requirements if not requirement.extra),
        *(_extra(name, members) for name, members in sorted(extras.items()) if name != "dev"),
    ]


def _package(requirement: Requirement) -> Check:
    """Check one package. One that is missing is an error only where nothing works without it."""
    name, install = f"package {requirement.name}", f"pip install '{requirement.name}{requirement.bounds}'"
    have = _version(requirement.name)
    if have is None:
        serious = requirement.name in NEEDED
        return Check(
            name, "error" if serious else "warning", "not installed", install if serious else f"{install}: episodes need it"
        )
    if not requirement.allows(have):
        return Check(name, "error", f"{have}, supported is {requirement.bounds}", install)
    return Check(name, "ok", f"{have} ({requirement.bounds})" if requirement.bounds else have)


def _extra(extra: str, members: list[Requirement]) -> Check:
    have = {requirement.name: _version(requirement.name) for requirement in members}
    found = ", ".join(f"{name} {installed or 'not installed'}" for name, installed in have.items())
    wrong = [requirement for requirement in members if (own := have[requirement.name]) and not requirement.allows(own)]
    if wrong:
        return Check(f"extra {extra}", "warning", found, f"pip install 'erecap[{extra}]'")
    return Check(f"extra {extra}", "ok", f"{found} (optional)")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_java(device: torch.device) -> list[Check]:
    """Check that there is a Java runtime that starts."""
    java = shutil.which("java")
    if java is None:
        return [Check("java", "warning", "not found", _JAVA_REMEDY)]
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return [Check("java", "warning", f"{java} does not start: {error}", _JAVA_REMEDY)]
    return [Check("java", "ok", (done.stderr or done.stdout).splitlines()[0])]
