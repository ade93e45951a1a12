"""Saliency: how much each token of an episode mattered to later plans, measured with the unpruned, frozen model.

For a stage after layer l and a replan t, with L_t the mean cross entropy of plan t's tokens and h_i the residual stream that leaves
layer l at token i:

    s_i = mean over sampled replans t later than token i's turn of | sum_d (dL_t / dh_i)_d * h_i,d |

This is gradient x hidden state as in SDTP (arXiv 2504.04514), |x . dT/dx|, taken per replan. In replan t the engine prunes only
tokens older than the latest observation, so only those get saliency; a plan's own tokens get none for predicting themselves. The
plan that was carried out last gets some too: the engine keeps it then, and may drop it later. Tokens after the last sampled replan,
protected tokens and padding have no saliency (NaN).

After the last layer but one, saliency is 0 up to rounding. Keys and values of the last layer see a token through a norm only, which
maps x and 2x to the same value, so the gradient is orthogonal to the hidden state. After the last layer, no token reads another.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import frozen
from erecap.models.device import dtype_name
from erecap.models.identity import ModelIdentity, identify
from erecap.training.batches import Batch, collate, later_plans
from erecap.training.credits import make_credit
from erecap.training.saliency_file import (
    SALIENCY_FORMAT,
    SaliencySet,
    SalientSample,
    check_metadata,
    merge,
    parts_dir,
    remove_parts,
    write_samples,
)
from erecap.training.sequences import NO_REPLAN, SequenceSet, digest

LOSS = "cross entropy of plan tokens, mean per replan"
"""The differentiated loss, in words, for the file's metadata."""
HORIZONS = ("all", "next")
"""Which later plans give a token saliency: "all" sampled ones, or only the "next"."""

OnPart = Callable[[int, int], None]
"""A callback that gets (sequences done, sequences in all)."""


@dataclass(frozen=True)
class SaliencySettings:
    """The settings for computing saliency.

    Attributes
    ----------
    stages
        Layers after which saliency is computed, in rising order.
    replans
        Replans sampled per episode. The last one is always among them.
    seed
        Seed of the sampled replans, combined with each episode's number in the set.
    credit
        How need is measured: a name in ``CREDITS``.
    horizon
        Which later plans give a token saliency, one of ``HORIZONS``. With "next", a token has saliency if its next plan is sampled.

    Raises
    ------
    ValueError
        For an unknown horizon, and for no replans.
    """

    stages: tuple[int, ...]
    replans: int = 4
    seed: int = 0
    credit: str = "gradient"
    horizon: str = "all"

    def __post_init__(self) -> None:
        if self.horizon not in HORIZONS:
            raise ValueError(f"horizon {self.horizon!r} is not known: choose from {', '.join(HORIZONS)}")
        if self.replans < 1:
            raise ValueError(f"replans={self.replans} must be at least 1: saliency is taken from sampled replans")


def compute_saliency(model: PreTrainedModel, batch: Batch, settings: SaliencySettings) -> Tensor:
    """Compute the saliency of every token of ``batch`` at each stage.

    A row's values do not depend on other rows or on padding. Products and sums are float32 for any dtype of the model.

    Returns
    -------
    Tensor
        float32 ``(stages, rows, length)`` on the CPU, NaN where there is none.

    Raises
    ------
    ValueError
        For an unknown credit, for stages that are not layers of the model in rising order, and for gradients that overflow the
        model's dtype.
    """
    total = torch.zeros(len(settings.stages), *batch.input_ids.shape)
    count = torch.zeros(batch.input_ids.shape)
    with frozen(model), torch.enable_grad():
        needed = make_credit(settings.credit, model, batch, settings.stages)
        for chosen in _sample_replans(batch, settings):
            first = chosen - 1 if settings.horizon == "next" else torch.zeros_like(chosen)
            scored = ((batch.turns >= first.clamp_min(0)[:, None]) & (batch.turns < chosen[:, None])).cpu()
            total += needed.of(chosen).cpu() * scored
            count += scored
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def _sample_replans(batch: Batch, settings: SaliencySettings) -> list[Tensor]:
    """Draw the turns of the replans: one int64 ``(rows,)`` per pass, ``NO_REPLAN`` for rows that have no further replan."""
    picks = []
    for turns, targets, index in zip(batch.turns, later_plans(batch), batch.indices, strict=True):
        later = torch.unique(turns[targets]).cpu().numpy()
        rng = np.random.default_rng([settings.seed, index])
        earlier = rng.permutation(later[:-1])[: settings.replans - 1]
        picks.append([*later[-1:].tolist(), *earlier.tolist()])
    passes = max(len(row) for row in picks)
    padded = [[*row, *[NO_REPLAN] * (passes - len(row))] for row in picks]
    return [torch.tensor([row[k] for row in padded], device=batch.turns.device) for k in range(passes)]


def collect_saliency(
    model: PreTrainedModel,
    sequences: SequenceSet,
    settings: SaliencySettings,
    out: Path,
    part_size: int = 64,
    on_part: OnPart | None = None,
    on_sample: OnPart | None = None,
) -> SaliencySet:
    """Compute the saliency of ``sequences``, one by one, and write it to the safetensors file ``out``.

    Until all are done, parts are kept in the directory ``out.parts``. A killed run continues from them. A complete file is reused.

    Parameters
    ----------
    model
        The unpruned model.
    sequences
        The episodes.
    settings
        How saliency is computed.
    out
        Path of the file.
    part_size
        Number of sequences in a part.
    on_part
        Called after each part.
    on_sample
        Called after each sequence that is computed, before its part is complete.

    Raises
    ------
    ValueError
        For a file or parts with another model, dtype, data or setting, and where no token has saliency because no sequence has a
        second replan.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a directory: name a file to write, such as {out.name}.safetensors")
    identity = identify(model)
    job = _Job(model, sequences, settings, _metadata(identity, settings, dtype_name(model.dtype), sequences), on_sample)
    if out.is_file():
        check_metadata(out, job.metadata)
        remove_parts(out)  # a run may have been killed before it removed them
        if on_part is not None:
            on_part(len(sequences), len(sequences))
    else:
        merge(out, _collect_parts(job, out, part_size, on_part), job.metadata)
    return SaliencySet(out, identity)


@dataclass(frozen=True)
class _Job:
    """One collection of saliency: model, sequences and settings, with the ``metadata`` that describe them in the file."""

    model: PreTrainedModel
    sequences: SequenceSet
    settings: SaliencySettings
    metadata: dict[str, Any]
    on_sample: OnPart | None

    def sample(self, index: int) -> SalientSample:
        """Compute the saliency of one sequence."""
        sequence = self.sequences[index]
        batch = collate([sequence], [index])
        values = compute_saliency(self.model, batch.to(self.model.device), self.settings)[:, 0].numpy()
        if self.on_sample is not None:
            self.on_sample(index + 1, len(self.sequences))
        return SalientSample(index, sequence.input_ids, sequence.turns, later_plans(batch)[0].numpy(), values)


def _collect_parts(job: _Job, out: Path, part_size: int, on_part: OnPart | None) -> list[Path]:
    """Write the missing parts; return the paths of all parts, in order."""
    parts, count = [], len(job.sequences)
    for first in range(0, count, part_size):
        ids = range(first, min(first + part_size, count))
        parts.append(parts_dir(out) / f"part-{ids.start:06d}-{ids.stop:06d}.safetensors")
        if parts[-1].is_file():
            check_metadata(parts[-1], job.metadata)
        else:
            write_samples(parts[-1], [job.sample(i) for i in ids], job.metadata)
        if on_part is not None:
            on_part(ids.stop, count)
    return parts


def _metadata(identity: ModelIdentity, settings: SaliencySettings, dtype: str, sequences: SequenceSet) -> dict[str, Any]:
    drawn = {name: value for name, value in asdict(settings).items() if name != "stages"}
    model, data = asdict(identity) | {"name": ""}, {"data": digest(sequences), "samples": len(sequences)}
    described = {"format": SALIENCY_FORMAT, "name": identity.name, "model": model, "stages": list(settings.stages), "loss": LOSS}
    return {**described, **data, "settings": {**drawn, "dtype": dtype}}
