"""Secrets of spec strings. Runs, records and messages know a backend by its public spec, in which secrets are hidden.

The spec with its secrets stays in the memory of this process and goes to the workers that make the backend (``BackendFactory``).
"""

from planner import BackendSpec

_whole: dict[str, str] = {}
"""Specs with their secrets, by public spec."""


def keep_secrets(spec: str) -> str:
    """Return the public form of a spec string, and remember what it hides.

    Raises
    ------
    ValueError
        For a malformed spec.
    """
    public = str(BackendSpec.parse(spec))
    if public != spec.strip():
        _whole[public] = spec.strip()
    return public


def with_secrets(public: str) -> str:
    """Return the spec with its secrets; the same spec where it has none."""
    return _whole.get(public, public)


def specs_with_secrets() -> dict[str, str]:
    """Return the specs that hide secrets, by public spec, for a worker process."""
    return dict(_whole)
