"""Measurements of a model on several devices: by the ranks of a launch by ``torchrun``, or with a device map in one process.

Under ``torchrun`` every rank runs the same measurement. Rank 0 writes and prints. What time or free memory decides, rank 0 decides
for all (``erecap.distributed.ranks.agreed``), so that all ranks run the same prompts.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from transformers import PreTrainedModel

from erecap.distributed.launch import Launch, LaunchError
from erecap.distributed.ranks import current, end_alike, joined
from erecap.models.device import OutOfMemoryError
from erecap.models.out_of_memory import out_of_memory
from erecap.models.placement import Placement

ON_RANKS = ("prefill", "generate")
"""Measurements of a model that is divided among ranks."""
OWN_GROUP = ("comm",)
"""Measurements that several processes run in a group of their own."""


@contextmanager
def taking_part(command: str) -> Iterator[None]:
    """Join the ranks of the launch, where there is one, for the measurement called ``command``.

    Raises
    ------
    LaunchError
        For a measurement that one process runs, and for fewer GPUs than ranks.
    """
    launch = Launch.read()
    if launch is None or command in OWN_GROUP:
        yield
        return
    if command not in ON_RANKS:
        both = ", ".join((*ON_RANKS, *OWN_GROUP))
        end_alike(launch, LaunchError(f"{command!r} runs in one process: start it without torchrun, which is for {both}"))
    with joined(launch):
        yield


def in_step() -> AbstractContextManager[None]:
    """Mark what all ranks run together; Ctrl-C in it leaves the others waiting, so they have to be told."""
    ranks = current()
    return nullcontext() if ranks is None else ranks.step()


def end_if_others_wait(error: RuntimeError) -> None:
    """Raise where this process is one of several, which wait for it after ``error``. A process that runs alone may go on.

    Raises
    ------
    OutOfMemoryError
        Where ``error`` means that memory ran out. Any other error is raised as it is.
    """
    if current() is None:
        return
    status = out_of_memory(error)
    if status is None:
        raise error
    raise OutOfMemoryError(
        f"{status}: all ranks end, and the points until then are in the result file. Leave the longer lengths out, use more ranks "
        "or dtype=bfloat16"
    ) from error


def spread_facts(placement: Placement, model: PreTrainedModel) -> dict[str, Any]:
    """Say how a model is spread, for result files.

    Returns
    -------
    dict
        ``parallel``, which is ``single``, ``pipeline`` (a device map) or ``tensor`` (ranks); ``devices``, their number; and
        ``tp_size`` or ``device_map`` (``Placement.facts``).
    """
    if placement.ranks > 1:
        return {"parallel": "tensor", "devices": placement.ranks, "tp_size": placement.ranks}
    devices = placement.devices(model)
    return {"parallel": "pipeline" if len(devices) > 1 else "single", "devices": len(devices), **placement.facts(model)}
