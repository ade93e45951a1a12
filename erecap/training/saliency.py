"""Saliency: which tokens of an episode mattered to the plans that came after them, from the unpruned, frozen model.

For a stage after layer l and a replan t, with L_t the mean cross entropy of plan t's tokens and h_i the residual stream that leaves
layer l at token i:

    s_i = mean over sampled replans t later than token i's turn of | sum_d (dL_t / dh_i)_d * h_i,d |

This is the gradient x hidden state of the seed and of SDTP (arXiv 2504.04514), |x . dT/dx|, taken per replan: in replan t the
engine prunes what is older than the latest observation, so only those tokens are credited, and a plan's own tokens are not credited
for predicting themselves. Tokens that no sampled replan follows have no saliency (NaN), as have protected tokens and padding.

After the last layer but one it is 0 but for rounding: a token then goes on through one norm only, which sees no difference between
x and 2x, so that the gradient stands at right angles to the hidden state. After the last layer nothing goes on at all.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceABC
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import frozen
from erecap.models.device import dtype_name
from erecap.models.identity import ModelIdentity, identify
from erecap.training.credits import make_credit
from erecap.training.data import NO_REPLAN, Batch, SequenceSet, collate, digest, later_plans
from erecap.training.saliency_file import (
    FORMAT,
    SaliencySet,
    SalientSample,
    check_metadata,
    merge,
    parts_dir,
    remove_parts,
    write_samples,
)

__all__ = ["HORIZONS", "LOSS", "SaliencySet", "SalientSample", "collect_saliency", "saliency"]

LOSS = "cross entropy of plan tokens, mean per replan"
HORIZONS = ("all", "next")
"""Which later plans credit a token: all sampled ones, as a verdict is made once, or the one after its turn alone."""


def saliency(
    model: PreTrainedModel,
    batch: Batch,
    stages: SequenceABC[int],
    replans: int = 4,
    seed: int = 0,
    credit: str = "gradient",
    horizon: str = "all",
) -> Tensor:
    """Saliency of every token of ``batch`` at each stage: float32 [stages, rows, length] on the CPU, NaN where there is none.

    ``replans`` replans are sampled per row (the last one always among them), seeded by the row's index in its set. Rows are
    independent of one another and of padding. Products and sums are float32 whatever the model's dtype. ``credit`` names another
    sense of what a plan needed than the gradient's (``credits.CREDITS``). With the ``horizon`` "next" a token is credited by the
    plan that follows its turn only, and has saliency where that one is sampled. Raises ``ValueError`` for an unknown horizon or
    credit, for no replans, for stages that are no layers of the model in rising order, and for gradients beyond the model's dtype.
    """
    if horizon not in HORIZONS:
        raise ValueError(f"horizon {horizon!r} is not known: choose from {', '.join(HORIZONS)}")
    if replans < 1:
        raise ValueError(f"replans={replans} must be at least 1: saliency is taken from sampled replans")
    total = torch.zeros(len(stages), *batch.input_ids.shape)
    count = torch.zeros(batch.input_ids.shape)
    with frozen(model), torch.enable_grad():
        needed = make_credit(credit, model, batch, stages)
        for chosen in _sample_replans(batch, replans, seed):
            first = chosen - 1 if horizon == "next" else torch.zeros_like(chosen)
            scored = ((batch.turns >= first.clamp_min(0)[:, None]) & (batch.turns < chosen[:, None])).cpu()
            total += needed.of(chosen).cpu() * scored
            count += scored
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def _sample_replans(batch: Batch, replans: int, seed: int) -> list[Tensor]:
    """Per pass one replan per row, int64 [rows], from turn 1 on and with plan targets; ``NO_REPLAN`` where a row has no more."""
    picks = []
    for turns, targets, index in zip(batch.turns, later_plans(batch), batch.indices, strict=True):
        later = torch.unique(turns[targets]).cpu().numpy()
        rng = np.random.default_rng([seed, index])
        earlier = rng.permutation(later[:-1])[: replans - 1]
        picks.append([*later[-1:].tolist(), *earlier.tolist()])
    passes = max(len(row) for row in picks)
    padded = [[*row, *[NO_REPLAN] * (passes - len(row))] for row in picks]
    return [torch.tensor([row[k] for row in padded], device=batch.turns.device) for k in range(passes)]


def collect_saliency(
    model: PreTrainedModel,
    sequences: SequenceSet,
    stages: SequenceABC[int],
    out: Path,
    replans: int = 4,
    seed: int = 0,
    part_size: int = 64,
    on_part: Callable[[int, int], None] | None = None,
    model_name: str | None = None,
    credit: str = "gradient",
    horizon: str = "all",
) -> SaliencySet:
    """Compute the saliency of ``sequences``, one by one, into the safetensors file ``out`` (see ``saliency_file``).

    Until all are done, parts of ``part_size`` sequences lie in the directory ``out.parts``; a killed run goes on from them, and a
    complete file is not made again. ``on_part(done, of)`` counts sequences. Raises ``ValueError`` for a file or parts of another
    model, dtype, data, stages or setting, and where no sequence has a replan after its first, so that nothing has saliency.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a directory: name a file to write, such as {out.name}.safetensors")
    identity = identify(model, model_name)
    drawn: dict[str, int | str] = {"replans": replans, "seed": seed, "credit": credit, "horizon": horizon}
    settings = {**drawn, "dtype": dtype_name(model.dtype)}
    metadata = _metadata(identity, stages, settings, sequences)
    if out.is_file():
        check_metadata(out, metadata)
        remove_parts(out)  # a kill may have come before they were
        if on_part is not None:
            on_part(len(sequences), len(sequences))
    else:
        merge(out, _collect_parts(model, sequences, out, metadata, part_size, on_part), metadata)
    return SaliencySet(out, identity)


def _collect_parts(
    model: PreTrainedModel,
    sequences: SequenceSet,
    out: Path,
    metadata: dict[str, Any],
    part_size: int,
    on_part: Callable[[int, int], None] | None,
) -> list[Path]:
    """The parts, in order; those that are there are not made again."""
    parts = []
    for first in range(0, len(sequences), part_size):
        ids = range(first, min(first + part_size, len(sequences)))
        parts.append(parts_dir(out) / f"part-{ids.start:06d}-{ids.stop:06d}.safetensors")
        if parts[-1].is_file():
            check_metadata(parts[-1], metadata)
        else:
            write_samples(parts[-1], [_one(model, sequences, i, metadata) for i in ids], metadata)
        if on_part is not None:
            on_part(ids.stop, len(sequences))
    return parts


def _one(model: PreTrainedModel, sequences: SequenceSet, index: int, metadata: dict[str, Any]) -> SalientSample:
    batch, settings = collate([sequences[index]], [index]), metadata["settings"]
    moved, drawn = batch.to(model.device), [settings[name] for name in ("replans", "seed", "credit", "horizon")]
    values = saliency(model, moved, metadata["stages"], *drawn)[:, 0].numpy()
    return SalientSample(index, sequences[index].input_ids, sequences[index].turns, later_plans(batch)[0].numpy(), values)


def _metadata(
    identity: ModelIdentity, stages: SequenceABC[int], settings: dict[str, int | str], sequences: SequenceSet
) -> dict[str, Any]:
    model, data = asdict(identity) | {"name": ""}, {"data": digest(sequences), "samples": len(sequences)}
    described = {"format": FORMAT, "name": identity.name, "model": model, "stages": list(stages), "loss": LOSS}
    return {**described, **data, "settings": settings}
