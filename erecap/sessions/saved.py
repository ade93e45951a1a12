"""A session in a file: its tensors, and which model, schedule and selector made them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.selector_protocol import Selector
from erecap.models.files import FileError, fill_atomically, reading
from erecap.models.identity import identify, raw_bytes
from erecap.schedule import PruneSchedule

FORMAT_VERSION = "1"
_FORMAT, _CHECKSUM = "erecap session format", "checksum"
_REMEDY = "copy it again, or begin a new session"
_COMPUTATION = ("rope_parameters", "rms_norm_eps", "hidden_act", "head_dim")
"""Entries of a model's config that change its keys and values and are no part of ``ModelIdentity``."""


class SessionMismatchError(FileError):
    """An error for the file of a session with another model, schedule or selector, or of another format."""


def session_identity(model: PreTrainedModel, ranks: int, schedule: PruneSchedule, selector: Selector | None) -> dict[str, str]:
    """Describe what keys, values and verdicts of a session depend on, besides its prompts.

    Parameters
    ----------
    model
        The model.
    ranks
        Number of processes that hold a part of it.
    schedule, selector
        The stages and the scores.

    Returns
    -------
    dict of str
        Descriptions by what they describe. Sessions go on from each other's tensors where all are the same.

    Raises
    ------
    ValueError
        For a selector without an ``identity``, a model with adapters, and one that is divided among processes.
    """
    if ranks > 1:
        raise ValueError(f"the model is divided among {ranks} processes, each with its own heads: save sessions of a whole model")
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("the model has LoRA adapters, which its identity leaves out: merge them first (merge_and_unload)")
    found = identify(model)
    config = {name: getattr(model.config, name, None) for name in _COMPUTATION}
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "model": f"{found.num_layers} layers of width {found.hidden_size}, checksum {found.exact}",
        "config": json.dumps(config, sort_keys=True, default=str),
        "schedule": repr(schedule),
        "selector": _scores(schedule, selector),
    }


def _scores(schedule: PruneSchedule, selector: Selector | None) -> str:
    if not schedule.stages:
        return "none"
    identity = getattr(selector, "identity", None)
    if not isinstance(identity, str):
        raise ValueError(
            f"the {type(selector).__name__} does not say which scores it gives, so that it could be told from others later: give "
            "it an attribute identity, a str that is another one for other scores"
        )
    return identity


def write_session(path: Path, identity: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    """Write a session's tensors with its identity and a checksum, atomically. Raise ``FileError`` where that fails."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    written = {_FORMAT: FORMAT_VERSION, **identity}
    written[_CHECKSUM] = _digest(written, tensors)
    fill_atomically(path, lambda partial: save_file(tensors, partial, written))


def read_session(path: Path, identity: Mapping[str, str]) -> dict[str, Tensor]:
    """Read what ``write_session`` wrote.

    Parameters
    ----------
    path
        The file.
    identity
        That of the session that is to go on.

    Returns
    -------
    dict of Tensor
        Tensors by name, on the host, in memory of their own.

    Raises
    ------
    SessionMismatchError
        For the file of a session of another identity, or of another format.
    FileError
        For a file that is missing, damaged, or no session.
    """
    with reading(path, _REMEDY), safe_open(path, framework="pt") as file:
        written = dict(file.metadata() or {})
        _check(path, written, identity)
        state: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
        said = written.pop(_CHECKSUM, "")
        here = _digest(written, state)
    if said != here:
        raise FileError(f"{path} is damaged, or was changed after it was written (checksum {here}, not {said}): {_REMEDY}")
    return state


def _check(path: Path, written: Mapping[str, str], identity: Mapping[str, str]) -> None:
    version = written.get(_FORMAT)
    if version is None:
        raise FileError(f"{path} holds no session, but other tensors: name a file that ReplanSession.save wrote")
    if version != FORMAT_VERSION:
        raise SessionMismatchError(
            f"{path} has session format {version}, and this version of erecap reads {FORMAT_VERSION}: begin a new session"
        )
    for what, own in identity.items():
        if written.get(what) != own:
            raise SessionMismatchError(
                f"{path} was saved with the {what} {written.get(what)}, and this session has {own}: load it with the {what} of "
                "then, or begin a new session"
            )


def _digest(written: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Compute a checksum of identity and tensors, 16 hex digits."""
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # torch has no bytes of an empty tensor
            digest.update(raw_bytes(tensor))
    return digest.hexdigest()[:16]
