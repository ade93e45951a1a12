"""``config.json``: arguments, models, code and machine of a run, and the check that a continued run has the same arguments."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.output.code_state import package_versions
from benchmarks.output.files import write_atomically

RUN_CONFIG_FILE = "config.json"
log = structlog.get_logger(__name__)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GitState(_Part):
    """The state of the source tree."""

    revision: str
    """Hash of the commit."""
    dirty: bool
    """Whether the tree has changes that are not committed."""


class Machine(_Part):
    """The machine that a run's times were measured on."""

    cpu: str
    """Model name of the CPU."""
    cores: int
    """Number of logical cores."""
    memory_bytes: int
    """Main memory in bytes."""
    gpus: list[str]
    """Model names of the NVIDIA GPUs."""
    system: str
    """Operating system and its version."""


class RunConfig(_Part):
    """The content of ``config.json``."""

    command: str
    """Subcommand of ``erecap``."""
    arguments: dict[str, Any]
    """All settings that affect the result, by name."""
    seeds: list[int]
    """Seeds of the episodes, rising."""
    models: dict[str, dict[str, str]]
    """By spec string of each backend that runs a model in this process: name, dtype, device and file checksums of the model."""
    packages: dict[str, str]
    """Versions of the installed distributions, by name."""
    python: str
    """Version of Python."""
    git: GitState | None
    """State of the source tree; ``None`` for an installed package."""
    machine: Machine
    """The machine that the run was started on."""
    started: str
    """When the run was first started: UTC, ISO 8601, to the second."""


def describe_run(
    command: str, arguments: Mapping[str, Any], seeds: Collection[int], models: Mapping[str, dict[str, str]]
) -> RunConfig:
    """Describe a run that starts now on this machine.

    Parameters
    ----------
    command : str
        Subcommand of ``erecap``.
    arguments : mapping of str to Any
        All settings that affect the result, as JSON values.
    seeds : collection of int
        Seeds of the episodes.
    models : mapping of str to dict
        Facts about the model of each backend, by spec string.

    Returns
    -------
    RunConfig
        The content of ``config.json``.
    """
    return RunConfig(
        command=command,
        arguments=json.loads(json.dumps(arguments)),  # turns tuples into lists, as in the file
        seeds=sorted(seeds),
        models=dict(models),
        packages=package_versions(),
        python=platform.python_version(),
        git=git_state(),
        machine=machine(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def open_run(out: Path, config: RunConfig, may_differ: Collection[str]) -> None:
    """Start a run in a directory, or continue the one that is there: check that it is the same run, and write ``config.json``.

    If the code's revision, the packages or the machine have changed, this logs a warning.

    Parameters
    ----------
    out : Path
        The run directory.
    config : RunConfig
        Description of the run that starts now.
    may_differ : collection of str
        Arguments that may change when a run is continued.

    Raises
    ------
    ValueError
        Where ``out`` holds a run with other arguments, or with another model behind the same backend.
    """
    path = out / RUN_CONFIG_FILE
    if path.exists():
        old = read_config(path)
        _check_same_run(out, old, config, may_differ)
        config = config.model_copy(update={"models": {**old.models, **config.models}, "started": old.started})
    write_atomically(path, config.model_dump_json(indent=2) + "\n")


def read_config(path: Path) -> RunConfig:
    """Read a ``config.json``. Raise ``ValueError`` for one that is not a run's."""
    try:
        return RunConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is no configuration of a run ({error.errors()[0]['msg']}). Nothing was changed. Choose another directory, "
            "or put back a copy of the file: without it nobody knows what its records were made with"
        ) from error


def _check_same_run(out: Path, old: RunConfig, new: RunConfig, may_differ: Collection[str]) -> None:
    differences = _differences(
        {"command": old.command, **old.arguments}, {"command": new.command, **new.arguments}, may_differ
    ) + _differences(old.models, new.models, set(old.models) ^ set(new.models))
    if differences:
        raise ValueError(f"{out} holds another run: {'; '.join(differences)}. Choose another --out, or remove that directory")
    for name in ("git", "packages", "python", "machine"):
        began, now = getattr(old, name), getattr(new, name)
        if began != now:
            log.warning("this run was started under other conditions", what=name, began=str(began), now=str(now))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str]) -> list[str]:
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in ignored and old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in keys]


def git_state() -> GitState | None:
    """Return the state of the source tree; ``None`` for an installed package and for a tree without commits."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    revision = _output("git", "-C", str(root), "rev-parse", "--verify", "HEAD")
    if not revision:
        return None
    return GitState(revision=revision, dirty=bool(_output("git", "-C", str(root), "status", "--porcelain")))


def machine() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
        system=platform.platform(),
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _output(*command: str) -> str:
    """Run a command and return what it prints; empty where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
