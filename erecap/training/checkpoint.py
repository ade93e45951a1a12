"""Files of a training run: atomic checkpoints and a log of one JSON object per line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from erecap.models.files import fill_atomically, reading

CHECKPOINT_FILE, LOG_FILE = "checkpoint.pt", "log.jsonl"


def save_checkpoint(out_dir: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) to ``out_dir``, atomically."""
    fill_atomically(out_dir / CHECKPOINT_FILE, lambda partial: torch.save(dict(state), partial))


def load_checkpoint(out_dir: Path) -> dict[str, Any] | None:
    """Read the checkpoint in ``out_dir``, with tensors on the CPU; ``None`` where there is none.

    Raises
    ------
    ValueError
        For a damaged file.
    """
    path = out_dir / CHECKPOINT_FILE
    if not path.is_file():
        return None
    with reading(path, "it is damaged or not a checkpoint; remove it to start the run again"):
        _check_sums(path)
        state: dict[str, Any] = {**torch.load(path, map_location="cpu", weights_only=True)}
    return state


def _check_sums(path: Path) -> None:
    """Raise ``ValueError`` where a part of the checkpoint does not have its checksum, which torch writes and never checks."""
    with ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} has another checksum")


def describe_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describe the differences between the settings in a file (``there``) and those of this run (``here``); empty if none."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in keys)


class StepLog:
    """The log of a run. On resume, records that are newer than the checkpoint are dropped.

    Parameters
    ----------
    out_dir
        Directory of the run.
    resume_step
        Step of the checkpoint from which the run continues; 0 for a new run.
    """

    def __init__(self, out_dir: Path, resume_step: int) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        self.path = out_dir / LOG_FILE
        self.records: list[dict[str, Any]] = [r for r in read_log(out_dir) if r["step"] <= resume_step] if resume_step else []
        text = "".join(json.dumps(record) + "\n" for record in self.records)
        fill_atomically(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and flush it to disk."""
        self.records.append(dict(record))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def read_log(out_dir: Path) -> list[dict[str, Any]]:
    """Read the records of a run's log; empty where there is none. A last line that is incomplete after a kill is left out."""
    path = out_dir / LOG_FILE
    if not path.is_file():
        return []
    with reading(path, "it is damaged or no log of a training; remove it and the checkpoint to start the run again"):
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        return [{**record, "step": record["step"]} for record in records]
