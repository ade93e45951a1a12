"""The package versions that E-RECAP supports, and whether a version is among them. Needs no package for that."""

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

_PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)\)?\s*(?:;(.*))?$")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": lambda have, bound: have >= bound,
    "<=": lambda have, bound: have <= bound,
    "==": lambda have, bound: have == bound,
    "!=": lambda have, bound: have != bound,
    ">": lambda have, bound: have > bound,
    "<": lambda have, bound: have < bound,
}


@dataclass(frozen=True)
class Requirement:
    """A package and its supported versions.

    Attributes
    ----------
    name
        The package.
    bounds
        Bounds such as ``>=2.8,<3``; empty for any version.
    extra
        The extra of E-RECAP that asks for it; empty for all installations.
    """

    name: str
    bounds: str
    extra: str = ""

    @classmethod
    def parse(cls, text: str, extra: str = "") -> "Requirement":
        """Read a requirement as metadata and pyproject.toml write it. Raise ``ValueError`` for other text."""
        found = _REQUIREMENT.match(text)
        if found is None:
            raise ValueError(f"requirement {text!r} is not of the form NAME>=VERSION")
        marked = _EXTRA.search(found[3] or "")
        return cls(found[1], found[2].replace(" ", ""), marked[1] if marked else extra)

    def allows(self, version: str) -> bool:
        """Return whether ``version`` is within the bounds. Only its leading numbers count: 2.13.0+cpu is 2.13.0."""
        return all(_holds(bound, release(version)) for bound in self.bounds.split(",") if bound)


def release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, without trailing zeros: (2, 8) for ``2.8.0rc1+cpu``."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _holds(bound: str, have: tuple[int, ...]) -> bool:
    found = re.match(r"(>=|<=|==|!=|>|<)(.+)", bound)
    if found is None:
        raise ValueError(f"bound {bound!r} is not one of {', '.join(_COMPARE)} and a version")
    return _COMPARE[found[1]](have, release(found[2]))


def supported_ranges() -> tuple[str, Sequence[Requirement]]:
    """Return the supported Python versions and packages, from pyproject.toml in a checkout, else from the installed metadata.

    Both are empty where there is neither, as in a bare copy of the package.
    """
    if _PYPROJECT.is_file():
        project = tomllib.loads(_PYPROJECT.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        named = [("", project["dependencies"]), *extras.items()]
        return project["requires-python"], [Requirement.parse(text, extra) for extra, texts in named for text in texts]
    try:
        return metadata("erecap")["Requires-Python"] or "", [Requirement.parse(text) for text in requires("erecap") or ()]
    except PackageNotFoundError:
        return "", ()
