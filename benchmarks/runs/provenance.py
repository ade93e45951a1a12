"""Where a run comes from: arguments, packages, revision, machine, models, in ``config.json``; and whether it may go on."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.output.files import write_atomically

CONFIG_FILE = "config.json"
_PACKAGES = (
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
log = structlog.get_logger(__name__)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GitState(_Part):
    """The revision of the source tree; ``dirty`` where files differ from it."""

    revision: str
    dirty: bool


class Machine(_Part):
    """What the times belong to."""

    cpu: str
    cores: int
    memory_bytes: int
    gpus: list[str]
    system: str


class RunConfig(_Part):
    """``config.json``. ``models`` has, per backend that runs one here, checksums of model, pruner, cost model, dtype, device."""

    command: str
    arguments: dict[str, Any]
    seeds: list[int]
    models: dict[str, dict[str, str]]
    packages: dict[str, str]
    python: str
    git: GitState | None
    machine: Machine
    started: str


def describe_run(
    command: str, arguments: Mapping[str, Any], seeds: Collection[int], models: Mapping[str, dict[str, str]]
) -> RunConfig:
    """The configuration of a run that starts now on this machine."""
    return RunConfig(
        command=command,
        arguments=json.loads(json.dumps(arguments)),  # as it will be read back
        seeds=sorted(seeds),
        models=dict(models),
        packages=package_versions(),
        python=platform.python_version(),
        git=git_state(),
        machine=machine(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def open_run(out: Path, config: RunConfig, may_differ: Collection[str]) -> None:
    """Write ``config.json`` into ``out``, where it may go on from an earlier run.

    Raises ``ValueError`` where ``out`` holds a run with other arguments (but for those in ``may_differ``) or another model behind
    the same backend; another revision of the code, other packages or another machine are only warned of.
    """
    path = out / CONFIG_FILE
    if path.exists():
        old = _read(path)
        _check_same_run(out, old, config, may_differ)
        config = config.model_copy(update={"models": {**old.models, **config.models}, "started": old.started})
    write_atomically(path, config.model_dump_json(indent=2) + "\n")


def _read(path: Path) -> RunConfig:
    try:
        return RunConfig.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ValueError(f"{path} is no configuration of a run ({error.errors()[0]['msg']}): choose another directory") from error


def _check_same_run(out: Path, old: RunConfig, new: RunConfig, may_differ: Collection[str]) -> None:
    differences = _differences(
        {"command": old.command, **old.arguments}, {"command": new.command, **new.arguments}, may_differ
    ) + _differences(old.models, new.models, set(old.models) ^ set(new.models))
    if differences:
        raise ValueError(f"{out} holds another run: {'; '.join(differences)}. Choose another --out, or remove that directory")
    for name in ("git", "packages", "python", "machine"):
        began, now = getattr(old, name), getattr(new, name)
        if began != now:
            log.warning("going on with a run that began otherwise", what=name, began=str(began), now=str(now))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str]) -> list[str]:
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in ignored and old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in keys]


def package_versions() -> dict[str, str]:
    """Versions of the distributions that results depend on."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "not installed"


def git_state() -> GitState | None:
    """Revision of the source tree that this package runs from; ``None`` for an installed package or a tree without commits."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    revision = _output("git", "-C", str(root), "rev-parse", "--verify", "HEAD")
    if not revision:
        return None
    return GitState(revision=revision, dirty=bool(_output("git", "-C", str(root), "status", "--porcelain")))


def machine() -> Machine:
    """This machine."""
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
    """What the command prints; empty where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
