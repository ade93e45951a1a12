"""How a run was made, as text for a document: command, machine, versions, weights."""

import shlex
from collections.abc import Mapping
from typing import Any

from benchmarks.runs.provenance import Machine, RunConfig
from benchmarks.runs.suites import SUITES

_DERIVED = ("suite", "backends", "executor", "verbosity", "step_limit_factor", "agent")
"""Arguments in ``config.json`` that are no options of their own, or are written apart."""
_DEFAULTS: Mapping[str, Any] = {"seed": 0, "replay_tokens": 16}
"""Options that are left out where they have these values."""
_REPLAY_PROMPTS = {"run": 0, "ablate": 24}
"""Prompts in the replay by default, of commands where they are not 60."""
_PACKAGES = ("erecap", "torch", "transformers", "minigrid")


def command_line(config: RunConfig) -> str:
    """Write the command that makes the run, without the place of its directory."""
    words = ["erecap", config.command, *_what(config.command, config.arguments), *_executor(config.arguments.get("executor"))]
    defaults = {**_DEFAULTS, "replay_prompts": _REPLAY_PROMPTS.get(config.command, 60)}
    for name, value in config.arguments.items():
        given = value is not None and value is not False and value != defaults.get(name)
        if name not in _DERIVED and given:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [_word(value)])]
    return shlex.join(words)


def _what(command: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the options for suite and backends."""
    suite, several = arguments["suite"], command == "ablate"
    option = "--suites" if several else "--suite" if suite in SUITES else "--env"
    return [option, suite, "--backend" if command == "run" else "--backends", ",".join(arguments["backends"])]


def _executor(settings: Mapping[str, Any] | None) -> list[str]:
    """Return the options for the executor: none where this process alone plays. Addresses of clusters are left out."""
    if settings is None:
        return []
    workers, where = settings.get("workers"), settings.get("name", "local")
    return [*(["--executor", where] if where != "local" else []), *(["--workers", str(workers)] if (workers or 1) != 1 else [])]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def facts(config: RunConfig) -> list[str]:
    """Write what the run was made with: one line each for machine, software, and the weights of each model."""
    packages = ", ".join(f"{name} {config.packages[name]}" for name in _PACKAGES if name in config.packages)
    state = f"revision {config.git.revision[:12]}{' with changes' if config.git.dirty else ''}" if config.git else "no revision"
    return [
        _machine(config.machine),
        f"Python {config.python}, {packages}; {state}; started {config.started[:10]}",
        *_weights(config),
    ]


def _machine(machine: Machine) -> str:
    gpus = f", {' + '.join(machine.gpus)}" if machine.gpus else ""
    return f"{machine.cores} cores of {machine.cpu}, {machine.memory_bytes / 2**30:.0f} GiB{gpus}"


def _weights(config: RunConfig) -> list[str]:
    """Write the facts about each model once, with the backends that run it."""
    users: dict[str, list[str]] = {}
    for spec, told in config.models.items():
        users.setdefault(", ".join(f"{name} {fact}" for name, fact in told.items()), []).append(f"`{spec}`")
    return [f"{', '.join(specs)}: {text}" for text, specs in users.items()]
