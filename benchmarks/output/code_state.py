"""The code that a process runs: the project's sources as a checksum, and versions of what results depend on."""

import hashlib
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "erecap",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "gymnasium",
    "minigrid",
    "numpy",
    "pydantic",
)
"""Distributions that results depend on."""
_ROOT = Path(__file__).resolve().parents[2]
_OWN = ("planner", "envs", "erecap", "agents", "benchmarks")


def package_versions() -> dict[str, str]:
    """Return the versions of the distributions that results depend on."""
    return {name: _version(name) for name in PACKAGES}


def code_state() -> dict[str, str]:
    """Describe the code of this process, to be compared with that of another one.

    Returns
    -------
    dict of str to str
        ``sources``: checksum over the project's files, the bundled planner included; ``python``: version of Python; versions of the
        other distributions, without the part that names a build (``2.11.0+cu130``), which may differ between machines.
    """
    others = {name: version.partition("+")[0] for name, version in package_versions().items() if name != "erecap"}
    return {"sources": _sources(), "python": platform.python_version(), **others}


def _sources() -> str:
    digest = hashlib.sha256()
    for package in _OWN:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(_ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # the source tree is used without an installation
        return "not installed"
