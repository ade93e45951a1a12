"""Planner backends from a user's own package: ``my_package.module:factory?key=value``.

The factory is any callable, such as a class, that takes the ``BackendSpec`` and returns a ``PlannerBackend``.
"""

import importlib
from collections.abc import Callable
from typing import Any

from planner import BackendSpec, PlannerBackend
from planner.redaction import redact

_FORM = "write my_package.module:factory?key=value"


def is_import_path(name: str) -> bool:
    """Tell whether a backend's name is an import path, ``module:attribute``."""
    return ":" in name


def find_factory(name: str) -> Callable[[BackendSpec], Any]:
    """Import the factory of a user's backend.

    Parameters
    ----------
    name : str
        Import path, ``my_package.module:factory``.

    Returns
    -------
    callable
        The attribute of the module.

    Raises
    ------
    ValueError
        Where ``name`` is malformed, and where the module or its attribute does not exist or cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ValueError(f"backend {redact(name)!r} is no import path: {_FORM}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, and imports one that does not
        raise ValueError(
            f"backend {name!r}: there is no module {error.name!r}: install its package, or put its folder on PYTHONPATH"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        problem = "has no attribute" if factory is None else "cannot call its attribute"
        raise ValueError(f"backend {name!r}: module {module_name!r} {problem} {attribute!r}: {_FORM}, where factory is a function")
    return factory  # type: ignore[no-any-return]


def make_user_backend(spec: BackendSpec) -> PlannerBackend:
    """Make a user's backend.

    Parameters
    ----------
    spec : BackendSpec
        Its ``name`` is an import path; the factory reads the parameters.

    Returns
    -------
    PlannerBackend
        The backend that the factory returns.

    Raises
    ------
    ValueError
        Where the factory does not exist, and where its result has no ``generate``. Errors of the factory are passed on.
    """
    backend = find_factory(spec.name)(spec)
    if not isinstance(backend, PlannerBackend):
        raise ValueError(
            f"backend {str(spec)!r}: the factory returned {backend!r}, which has no method generate(prompt, sampling, on_line): "
            "return a planner.PlannerBackend"
        )
    return backend
